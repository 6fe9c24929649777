"""Tests of eurosat_helpers.improvements.sampling."""

import dataclasses
import shutil

import numpy as np
import pytest
from conftest import write_demo

from eurosat_helpers import data
from eurosat_helpers.improvements import sampling


@pytest.fixture(scope="module")
def uneven(demo_tiles):
    """15 tiles of the second class and 40 of each other."""
    return demo_tiles[[*range(55), *range(80, 400)]]


@pytest.fixture(scope="module")
def extra(tmp_path_factory):
    """Ten other demo tiles, one of each class, read from a folder `more`."""
    return data.load(write_demo(tmp_path_factory.mktemp("x") / "more", tiles_per_class=1, seed=7))


def test_oversampled_classes_have_the_same_number_of_tiles(uneven):
    repeated = sampling.oversample(uneven, seed=0)
    assert repeated.counts().tolist() == [40] * 10
    assert set(repeated.names) == set(uneven.names)
    _, times = np.unique(repeated.names[repeated.labels == 1], return_counts=True)
    assert sorted(times) == [2] * 5 + [3] * 10  # 15 tiles for 40 places
    for name, label, image in zip(repeated.names, repeated.labels, repeated.images, strict=True):
        assert name.startswith(f"{data.CLASS_NAMES[label]}/")
        np.testing.assert_array_equal(image, uneven.images[uneven.names == name][0])


def test_oversampling_is_repeated_by_its_seed_alone(uneven, demo_tiles):
    first, again, other = (
        sampling.oversample(uneven, seed=seed).names.tolist() for seed in (3, 3, 4)
    )
    assert first == again != other
    even = sampling.oversample(demo_tiles, seed=0)
    assert even.names.tolist() == demo_tiles.names.tolist()
    with pytest.raises(
        ValueError, match=r"`tiles` must hold a tile of each class. Without: Forest"
    ):
        sampling.oversample(demo_tiles[demo_tiles.labels != 1], seed=0)


def test_added_tiles_come_after_the_training_tiles_with_their_folder_in_the_name(demo_tiles, extra):
    train, validation, test = data.split(demo_tiles)
    more = sampling.add(train, extra, against=(validation, test))
    assert more.counts().tolist() == [30] * 10
    assert more.names[: len(train)].tolist() == train.names.tolist()
    assert more.names[len(train) :].tolist() == [f"more/{name}" for name in extra.names]
    np.testing.assert_array_equal(more.images[len(train) :], extra.images)
    assert more.source == f"{train.source} and tiles in more"
    assert more.labels.dtype == np.int64
    # And from another folder, with the same file names.
    other = dataclasses.replace(extra, source="tiles in others")
    twice = sampling.add(more, other, against=(test,))
    assert len(set(twice.names)) == len(twice) == len(train) + 20


def test_tiles_of_some_classes_get_the_labels_of_the_training_tiles(demo_tiles, extra, tmp_path):
    write_demo(tmp_path / "more", tiles_per_class=1, seed=7)
    classes = ("River", "Forest")
    for name in classes:
        shutil.copytree(tmp_path / "more" / "2750" / name, tmp_path / "some" / name)
    some = data.load(tmp_path / "some", class_names=classes)
    more = sampling.add(demo_tiles, some, against=())
    assert more.truth[-2:].tolist() == ["River", "Forest"]
    assert more.names[-1].startswith("some/Forest/")
    np.testing.assert_array_equal(more.images[-1], extra.images[1])


def test_tile_of_the_evaluation_is_not_added(demo_tiles, extra):
    train, validation, test = data.split(demo_tiles)
    images = extra.images.copy()
    images[4], images[6] = validation.images[0], test.images[1]
    leaking = dataclasses.replace(extra, images=images)
    message = (
        rf"`extra` must hold no tile of `against`.*Remove these 2 from tiles in more: "
        rf"{extra.names[4]} is {validation.names[0]}, {extra.names[6]} is {test.names[1]}$"
    )
    with pytest.raises(ValueError, match=message):
        sampling.add(train, leaking, against=(validation, test))
    images[4, 0, 0, 0] ^= 1  # one pixel makes another tile
    images[6, 63, 63, 2] ^= 1
    assert len(sampling.add(train, leaking, against=(validation, test))) == len(train) + 10


def test_bad_extra_tiles_are_named(demo_tiles, extra):
    other = dataclasses.replace(extra, class_names=("Beach", *extra.class_names[1:]))
    with pytest.raises(ValueError, match=r"must have the classes of `train`.* others: Beach"):
        sampling.add(demo_tiles, other, against=())
    made = dataclasses.replace(extra, source="demo tiles")
    for train, added, against in (
        (demo_tiles, made, ()),
        (made, extra, ()),
        (demo_tiles, extra, (made,)),
    ):
        with pytest.raises(ValueError, match=r"must not be mixed.* Received: .*demo tiles"):
            sampling.add(train, added, against=against)
    more = sampling.add(demo_tiles, extra, against=())
    with pytest.raises(ValueError, match=f"added before.*: more/{extra.names[0]} is in `train`"):
        sampling.add(more, extra, against=())
    assert sampling.add(dataclasses.replace(demo_tiles, source="demo tiles"), made, against=()).demo
