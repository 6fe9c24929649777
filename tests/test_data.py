"""Tiles: subsets, split, select and sample."""

from __future__ import annotations

import numpy as np
import pytest

from eurosat_helpers import data


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
