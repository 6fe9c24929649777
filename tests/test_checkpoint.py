"""Tests of eurosat_helpers.checkpoint. How `fit` goes on is in test_training.py."""

import dataclasses

import keras
import numpy as np
import pytest

from eurosat_helpers import checkpoint, models

STATISTICS = {"mean": [90] * 3, "variance": [2000] * 3}
SMALL = {"stem_width": 4, "widths": (8,), "blocks": (1,)}


def build(**changed):
    keras.utils.set_random_seed(0)
    return models.build_cnn(**{**STATISTICS, **SMALL, **changed})


def test_arrays_come_back_as_they_were(tmp_path):
    numbers = [np.arange(number, dtype="float32") for number in range(12)]
    state = {"model": numbers, "best": [np.float64(0.5)], "none": []}
    file = tmp_path / "new" / "state.npz"
    checkpoint.write(file, **state)
    read = checkpoint.read(file)
    assert read.keys() == {"model", "best"}
    for one, other in zip(numbers, read["model"], strict=True):
        np.testing.assert_array_equal(one, other)
    assert read["best"][0].dtype == "float64"
    assert [path.name for path in file.parent.iterdir()] == ["state.npz"]


def test_same_training_finds_its_file_and_any_other_does_not(demo_tiles):
    train, validation, settings = demo_tiles[:6], demo_tiles[6:9], {"epochs": 2}

    def find(model=None, train=train, validation=validation, settings=settings):
        return checkpoint.find("kept", model or build(), train, validation, settings)

    found = find()
    assert found.parent.name == "kept"
    assert find() == found  # the layers of a second model have other names
    other_weights = build()
    other_weights.get_layer("head-logits").bias.assign([1.0] * 10)
    darker = dataclasses.replace(train, images=train.images // 2)
    others = [
        find(build(dropout=0.2)),
        find(other_weights),
        find(train=train[:5]),
        find(train=darker),
        find(validation=validation[:2]),
        find(settings={"epochs": 3}),
    ]
    assert len({found, *others}) == 7


@pytest.mark.parametrize("kept", [0, 10, 200])
def test_damaged_file_is_named(tmp_path, kept):
    file = tmp_path / "state.npz"
    checkpoint.write(file, model=[np.zeros(1000)])
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"state.npz` is damaged: .*Remove it"):
        checkpoint.read(file)


def test_values_of_other_variables_are_refused(tmp_path):
    file = tmp_path / "state.npz"
    variable = keras.Variable(np.zeros((2, 3), "float32"))
    with pytest.raises(ValueError, match=r"state.npz` must hold 1 arrays"):
        checkpoint.restore(file, [variable], [np.ones((3, 2), "float32")])
    checkpoint.restore(file, [variable], [np.ones((2, 3), "float32")])
    assert variable.numpy().sum() == 6
