"""Tests of eurosat_helpers.checkpoint. How `fit` resumes is in test_training.py."""

import dataclasses

import keras
import numpy as np
import pytest
from keras import layers

from eurosat_helpers import checkpoint, models

STATISTICS = {"mean": [90] * 3, "variance": [2000] * 3}
SMALL = {"stem_width": 4, "widths": (8,), "blocks": (1,)}


def build(**changed):
    return models.build_cnn(**{**STATISTICS, **SMALL, **changed})


def nested(units=4):
    """A network whose layers, outside and inside of its base, have names that Keras counts."""
    pixels = keras.Input((32, 32, 3))
    base = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(4, 3)(pixels)))
    base = keras.Model(pixels, base)
    listed = keras.Sequential([layers.Conv2D(4, 1), layers.ReLU(), layers.Conv2D(3, 1)])
    inputs = keras.Input((32, 32, 3))
    x = layers.GlobalAveragePooling2D()(base(listed(inputs), training=False))
    return keras.Model(inputs, layers.Dense(units)(x))


@pytest.fixture(scope="module")
def compiled():
    inputs = keras.Input((3,))
    model = keras.Model(inputs, layers.Dense(2)(inputs))
    model.compile("adam", "mse")
    model.optimizer.build(model.trainable_variables)
    return model


@pytest.fixture
def run(compiled, demo_tiles, tmp_path):
    compiled._trained_by_run = False
    return checkpoint.Run(tmp_path / "new", compiled, demo_tiles[:2], demo_tiles[2:4], {})


def test_state_comes_back_as_it_was(run):
    rows, best = np.ones((3, 7)), [np.array(0.5), np.arange(12.0)]
    run.write(rows=rows, best=best)
    variables = [*run.model.variables, *run.model.optimizer.variables]
    before = [variable.numpy() for variable in variables]
    for variable in variables:
        variable.assign(np.ones(variable.shape))
    same_rows, same_best = run.read()
    np.testing.assert_array_equal(same_rows, rows)
    for one, same in zip(best, same_best, strict=True):
        np.testing.assert_array_equal(one, same)
    for one, same in zip(before, variables, strict=True):
        np.testing.assert_array_equal(one, same)
    assert {path.name for path in run.file.parent.iterdir()} == {".lock", run.file.name}


def test_same_run_finds_its_file_and_any_other_does_not(demo_tiles):
    train, validation, settings = demo_tiles[:6], demo_tiles[6:9], {"epochs": 2}

    def find(model=None, train=train, validation=validation, settings=settings):
        return checkpoint.Run("kept", model or build(), train, validation, settings).file

    found = find()
    assert found.parent.name == "kept"
    trained = build()
    trained.compile("adam", "mse")
    trained.get_layer("head-logits").bias.assign([1.0] * 10)
    assert find() == find(trained) == found  # weights and `compile` make no other run
    darker = dataclasses.replace(train, images=train.images // 2)
    others = [
        find(build(dropout=0.2)),
        find(build(seed=1)),
        find(train=train[:5]),
        find(train=darker),
        find(validation=validation[:2]),
        find(settings={"epochs": 3}),
    ]
    assert len({found, *others}) == 7


def test_settings_that_are_also_names_of_layers_tell_networks_apart(demo_tiles):
    def find(activation):
        images = keras.Input((64, 64, 3))
        x = keras.layers.Activation(activation, name=activation)(images)
        model = keras.Model(images, keras.layers.GlobalAveragePooling2D()(x))
        return checkpoint.Run("kept", model, demo_tiles[:1], demo_tiles[1:2], {}).file

    assert find("relu") == find("relu") != find("tanh")


def test_same_network_built_again_is_the_same_run_with_a_base_inside_too(demo_tiles):
    def find(model):
        return checkpoint.Run("kept", model, demo_tiles[:1], demo_tiles[1:2], {}).file

    first, second = nested(), nested()
    assert [layer.name for layer in first.layers] != [layer.name for layer in second.layers]
    frozen = nested()
    frozen.layers[2].trainable = False
    assert find(first) == find(second)
    assert len({find(first), find(nested(units=5)), find(frozen)}) == 3


def test_new_run_refuses_a_model_that_a_run_has_trained(run, demo_tiles):
    run.write(rows=np.ones((1, 7)), best=[np.array(1.0)])
    run.model._trained_by_run = True  # as `training.fit` says before the first batch
    arguments = run.model, demo_tiles[:2], demo_tiles[2:4]
    checkpoint.Run(run.file.parent, *arguments, {})  # this run resumes
    with pytest.raises(ValueError, match=r"^`model` .*build the model again first \(run its cell"):
        checkpoint.Run(run.file.parent, *arguments, {"epochs": 3})


def test_state_of_another_model_is_refused(run):
    run.write(rows=np.ones((1, 7)), best=[np.array(1.0)])
    inputs = keras.Input((3,))
    run.model = keras.Model(inputs, layers.Dense(5)(inputs))
    run.model.compile("adam", "mse")
    run.model.optimizer.build(run.model.trainable_variables)
    with pytest.raises(ValueError, match=r"is damaged: .* other shapes than the model.* Delete it"):
        run.read()


def test_file_that_is_cut_off_is_named_and_kept(run):
    run.write(rows=np.ones((3, 7)), best=[np.array(0.5), np.arange(12.0)])
    content = run.file.read_bytes()
    for kept in (0, 10, 600):
        run.file.write_bytes(content[:kept])
        with pytest.raises(ValueError, match=r"npz` is damaged: .* Delete it to train from scra"):
            run.read()
        assert run.file.read_bytes() == content[:kept]
