"""Tiles: subsets, split, select and sample."""

from __future__ import annotations

import dataclasses
import shutil

import numpy as np
import pytest

from eurosat_helpers import data
from eurosat_helpers.data import demo


def made_up(tiles_per_class: int, class_names: tuple[str, ...] = ("Lake", "Wood")) -> data.Tiles:
    """Black tiles, for what only looks at names."""
    names = [f"{name}/{name}_{k}.jpg" for name in class_names for k in range(tiles_per_class)]
    labels = np.repeat(np.arange(len(class_names)), tiles_per_class)
    images = np.zeros((len(names), 64, 64, 3), np.uint8)
    return data.Tiles(images, labels, np.array(names), class_names, "black tiles")


def test_subset_keeps_images_labels_and_names_together(demo_tiles):
    for index in (np.array([5, 399, 0]), demo_tiles.labels == 3, slice(10, 20), [7]):
        subset = demo_tiles[index]
        np.testing.assert_array_equal(subset.images, demo_tiles.images[index])
        assert subset.names.tolist() == demo_tiles.names[index].tolist()
        assert subset.labels.tolist() == demo_tiles.labels[index].tolist()
        assert subset.class_names == demo_tiles.class_names
    assert demo_tiles[-1].images.shape == (1, 64, 64, 3)


def test_counts_have_a_row_a_class(demo_tiles):
    counts = demo_tiles[:50].counts()
    assert counts.index.tolist() == list(data.CLASS_NAMES)
    assert counts.tolist() == [40, 10, 0, 0, 0, 0, 0, 0, 0, 0]


def test_split_of_made_up_names_never_drifts():
    train, validation, test = data.split(made_up(25), seed=0)
    lake, wood = [2, 4, 13, 15, 16], [7, 10, 21, 22, 23]
    expected = [f"Lake/Lake_{k}.jpg" for k in lake] + [f"Wood/Wood_{k}.jpg" for k in wood]
    assert test.names.tolist() == expected
    expected = ["Lake/Lake_9.jpg", "Lake/Lake_10.jpg", "Wood/Wood_14.jpg", "Wood/Wood_24.jpg"]
    assert validation.names.tolist() == expected
    assert len(train) == 36


def test_split_has_the_stated_fractions_of_every_class(demo_tiles):
    train, validation, test = data.split(demo_tiles)
    assert test.counts().tolist() == [8] * 10
    assert validation.counts().tolist() == [3] * 10
    assert train.counts().tolist() == [29] * 10
    names = {*train.names, *validation.names, *test.names}
    assert names == set(demo_tiles.names)


def test_split_keeps_the_order_of_the_tiles(demo_tiles):
    for part in data.split(demo_tiles):
        expected = demo_tiles[np.isin(demo_tiles.names, part.names)]
        assert part.names.tolist() == expected.names.tolist()
        np.testing.assert_array_equal(part.images, expected.images)


def test_split_does_not_depend_on_the_order_of_the_tiles():
    tiles = made_up(50)
    shuffled = tiles[np.random.default_rng(0).permutation(len(tiles))]
    for part, again in zip(data.split(tiles), data.split(shuffled), strict=True):
        assert set(part.names) == set(again.names)


def test_other_seed_gives_another_split(demo_tiles):
    first, second = data.split(demo_tiles, seed=0)[2], data.split(demo_tiles, seed=1)[2]
    assert set(first.names) != set(second.names)


def test_real_split_has_the_stated_sizes(real_tiles):
    train, validation, test = data.split(real_tiles)
    assert (len(train), len(validation), len(test)) == (19_440, 2_160, 5_400)


@pytest.mark.parametrize("as_file", [False, True], ids=["list", "file"])
def test_published_list_is_the_test_set(tmp_path, as_file):
    tiles = made_up(50)
    names = [f"Lake_{k}.jpg" for k in range(10)] + [f"Wood/Wood_{k}.jpg" for k in range(40)]
    listed = names
    if as_file:
        listed = tmp_path / "test.txt"
        listed.write_text("\ufeff" + "\r\n".join([*names, "", names[0], ""]), encoding="utf-8")
    train, validation, test = data.split(tiles, test_names=listed)
    assert test.counts().tolist() == [10, 40]
    assert set(test.names[:10]) == {f"Lake/Lake_{k}.jpg" for k in range(10)}
    assert validation.counts().tolist() == [4, 4]
    assert train.counts().tolist() == [36, 6]
    assert not {*test.names} & {*validation.names, *train.names}


def test_test_name_that_is_not_in_the_data_is_shown():
    names = ["Lake_1.jpg", "Lake_77.jpg", "Sand/Sand_1.jpg", "x.jpg", "y.jpg"]
    message = (
        r"`test_names` must be names of the tiles, such as Lake/Lake_0.jpg. Received 4 that are "
        r"not: Lake/Lake_77.jpg, Sand/Sand_1.jpg, /x.jpg"
    )
    with pytest.raises(ValueError, match=message):
        data.split(made_up(50), test_names=names)


def test_tiles_that_were_repeated_are_not_split():
    with pytest.raises(ValueError, match=r"`tiles` must hold each name once.* Split first"):
        data.split(data.oversample(made_up(50)[:90], seed=0))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"validation_fraction": 0}, r"`validation_fraction` must lie .* Received: 0"),
        ({"validation_fraction": 1.5}, r"`validation_fraction` must lie .* Received: 1.5"),
        ({"test_fraction": -0.1}, r"`test_fraction` must lie between 0 and .*0.92. Received: -0.1"),
        ({"test_fraction": 0.95}, r"`test_fraction` must lie between 0 and .*0.92. Received: 0.95"),
        ({"validation_fraction": 0.001}, r"the 50 of Lake give 40 for training, 0 for validation"),
        ({"test_fraction": 0.001}, r"4 for validation and 0 for the test. Use more tiles"),
        ({"test_names": ["Lake_1.jpg"]}, r"the 50 of Wood give 46 for training, .* 0 for the test"),
        ({"test_names": []}, r"`test_names` must name at least one tile"),
    ],
)
def test_bad_split_says_what_is_wrong(arguments, message):
    with pytest.raises(ValueError, match=message):
        data.split(made_up(50), **arguments)


def test_select_keeps_the_order_of_the_names(demo_tiles):
    names = ["River/River_7.jpg", "Forest_12.jpg", "River/River_7.jpg"]
    selected = data.select(demo_tiles, names)
    assert selected.names.tolist() == ["River/River_7.jpg", "Forest/Forest_12.jpg"]


def test_select_from_a_missing_file_is_an_error(demo_tiles, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"`names` must be names or .*No such file: .*none"):
        data.select(demo_tiles, tmp_path / "none.txt")


@pytest.mark.parametrize(("count", "least", "most"), [(20, 2, 2), (7, 0, 1), (23, 2, 3)])
def test_sample_is_even_over_the_classes(demo_tiles, count, least, most):
    drawn = data.sample(demo_tiles, count, seed=0)
    assert len(set(drawn.names)) == count
    assert set(drawn.counts()) <= {least, most}


def test_sample_takes_what_a_small_class_has(demo_tiles):
    drawn = data.sample(demo_tiles[:42], 20, seed=0)
    assert drawn.counts().tolist()[:2] == [18, 2]


def test_sample_is_repeated_by_its_seed_alone(demo_tiles):
    first, second = (data.sample(demo_tiles, seed=3).names.tolist() for _ in range(2))
    assert first == second
    assert data.sample(demo_tiles, seed=4).names.tolist() != first
    assert data.sample(demo_tiles).names.tolist() != data.sample(demo_tiles).names.tolist()


def test_sample_is_shuffled(demo_tiles):
    assert (np.diff(data.sample(demo_tiles, seed=0).labels) < 0).any()


@pytest.mark.parametrize("count", [0, 401])
def test_sample_of_an_impossible_size_is_an_error(demo_tiles, count):
    with pytest.raises(ValueError, match=rf"`count` must be from 1 to 400. Received: {count}"):
        data.sample(demo_tiles, count)


def test_oversampled_classes_count_alike(demo_tiles):
    uneven = demo_tiles[[*range(40), *range(40, 55), *range(80, 400)]]
    repeated = data.oversample(uneven, seed=0)
    assert repeated.counts().tolist() == [40] * 10
    assert set(repeated.names) == set(uneven.names)
    _, times = np.unique(repeated.names[repeated.labels == 1], return_counts=True)
    assert sorted(times) == [2] * 5 + [3] * 10  # 15 tiles for 40 places
    for name, label, image in zip(repeated.names, repeated.labels, repeated.images, strict=True):
        assert name.startswith(f"{data.CLASS_NAMES[label]}/")
        np.testing.assert_array_equal(image, uneven.images[uneven.names == name][0])


def test_oversampling_is_repeated_by_its_seed_alone():
    uneven = made_up(50)[:90]
    first, again, other = (data.oversample(uneven, seed=seed).names.tolist() for seed in (3, 3, 4))
    assert first == again != other


def test_oversampling_of_even_classes_changes_nothing(demo_tiles):
    assert data.oversample(demo_tiles, seed=0).names.tolist() == demo_tiles.names.tolist()


def test_class_without_a_tile_cannot_be_repeated():
    with pytest.raises(ValueError, match=r"`tiles` must hold a tile of each class. Without: Wood"):
        data.oversample(made_up(5)[:5], seed=0)


@pytest.fixture
def extra(tmp_path):
    """Ten other demo tiles, one a class, read from a folder `more`."""
    folder = demo.write(tmp_path / "more", tiles_per_class=1, seed=7)
    return data.load(folder)


def test_added_tiles_come_after_the_training_tiles_and_bear_their_folder(demo_tiles, extra):
    train, validation, test = data.split(demo_tiles)
    more = data.add(train, extra, against=(validation, test))
    assert len(more) == len(train) + 10
    assert more.counts().tolist() == [30] * 10
    assert more.names[: len(train)].tolist() == train.names.tolist()
    assert more.names[len(train) :].tolist() == [f"more/{name}" for name in extra.names]
    np.testing.assert_array_equal(more.images[len(train) :], extra.images)
    assert more.source == f"{train.source} and tiles in more"
    assert more.labels.dtype == np.int64
    # And from another folder, though the files are named alike.
    twice = data.add(more, dataclasses.replace(extra, source="tiles in others"), against=(test,))
    assert len(set(twice.names)) == len(twice) == len(train) + 20


def test_tiles_of_some_classes_get_the_labels_of_the_training_tiles(demo_tiles, extra, tmp_path):
    classes = ("River", "Forest")
    for name in classes:
        shutil.copytree(tmp_path / "more" / "2750" / name, tmp_path / "some" / name)
    some = data.load(tmp_path / "some", class_names=classes)
    more = data.add(demo_tiles, some, against=())
    assert more.truth[-2:].tolist() == ["River", "Forest"]
    assert more.names[-1].startswith("some/Forest/")
    np.testing.assert_array_equal(more.images[-1], extra.images[1])


def test_tile_that_judges_is_not_added(demo_tiles, extra):
    train, validation, test = data.split(demo_tiles)
    images = extra.images.copy()
    images[4], images[6] = validation.images[0], test.images[1]
    leaking = dataclasses.replace(extra, images=images)
    message = (
        rf"`extra` must hold no tile of `against`.*Remove 2 from tiles in more: "
        rf"{extra.names[4]} is {validation.names[0]}, {extra.names[6]} is {test.names[1]}$"
    )
    with pytest.raises(ValueError, match=message):
        data.add(train, leaking, against=(validation, test))
    images[4, 0, 0, 0] ^= 1  # one pixel makes another tile
    images[6, 63, 63, 2] ^= 1
    assert len(data.add(train, leaking, against=(validation, test))) == len(train) + 10


def test_bad_extra_tiles_are_named(demo_tiles, extra):
    other = dataclasses.replace(extra, class_names=("Beach", *extra.class_names[1:]))
    with pytest.raises(ValueError, match=r"must have the classes of `train`.* others: Beach"):
        data.add(demo_tiles, other, against=())
    made = dataclasses.replace(extra, source="demo tiles")
    for train, added, against in (
        (demo_tiles, made, ()),
        (made, extra, ()),
        (demo_tiles, extra, (made,)),
    ):
        with pytest.raises(ValueError, match=r"must not be mixed.* Received: .*demo tiles"):
            data.add(train, added, against=against)
    more = data.add(demo_tiles, extra, against=())
    with pytest.raises(ValueError, match=f"added before.*: more/{extra.names[0]} is in `train`"):
        data.add(more, extra, against=())


def test_demo_tiles_stay_demo_tiles(demo_tiles, extra):
    train, added = (
        dataclasses.replace(tiles, source="demo tiles") for tiles in (demo_tiles, extra)
    )
    assert data.add(train, added, against=()).demo


def test_real_tiles_of_the_test_are_found_among_extra_ones(real_tiles):
    train, validation, test = data.split(real_tiles)
    leaking = dataclasses.replace(data.sample(test, 10, seed=0), source="tiles in more")
    with pytest.raises(ValueError, match=r"Remove 10 from tiles in more: .*, \.\.\.$"):
        data.add(train[:100], leaking, against=(validation, test))
