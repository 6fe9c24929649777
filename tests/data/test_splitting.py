"""Tiles: subsets, split, select and sample."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from conftest import PROJECT

from eurosat_helpers import data
from eurosat_helpers.data.tiles import CLASS_COUNTS


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


def test_counts_have_one_row_per_class(demo_tiles):
    counts = demo_tiles[:50].counts()
    assert counts.index.tolist() == list(data.CLASS_NAMES)
    assert counts.tolist() == [40, 10, 0, 0, 0, 0, 0, 0, 0, 0]


def test_split_has_the_stated_fractions_of_every_class(demo_tiles):
    train, validation, test = data.split(demo_tiles)
    assert test.counts().tolist() == [8] * 10
    assert validation.counts().tolist() == [3] * 10
    assert train.counts().tolist() == [29] * 10
    assert {*train.names, *validation.names, *test.names} == {*demo_tiles.names}
    for part in (train, validation, test):  # in the order of the tiles
        expected = demo_tiles[np.isin(demo_tiles.names, part.names)]
        assert part.names.tolist() == expected.names.tolist()
        np.testing.assert_array_equal(part.images, expected.images)


def test_split_depends_on_the_seed_and_not_on_the_order_of_the_tiles():
    tiles = made_up(50)
    shuffled = tiles[np.random.default_rng(0).permutation(len(tiles))]
    for part, again in zip(data.split(tiles), data.split(shuffled), strict=True):
        assert set(part.names) == set(again.names)
    assert set(data.split(tiles, seed=1)[2].names) != set(data.split(tiles, seed=0)[2].names)


def test_split_of_eurosat_never_drifts():
    names = [f"{name}/{name}_{k + 1}.jpg" for name, n in CLASS_COUNTS.items() for k in range(n)]
    labels = np.repeat(np.arange(10), list(CLASS_COUNTS.values()))
    no_pixels = np.empty((27_000, 0), np.uint8)
    tiles = data.Tiles(no_pixels, labels, np.array(names), data.CLASS_NAMES, "names alone")
    parts = data.split(tiles)
    assert [len(part) for part in parts] == [19_440, 2_160, 5_400]
    digests = [hashlib.sha256("\n".join(part.names).encode()).hexdigest()[:16] for part in parts]
    assert digests == ["b033b933c4f2a26f", "2ac358f2d0e5b5ac", "88a8bf75230bd7c2"]
    shipped = PROJECT / "saved_model" / "eurosat_cnn" / "test_files.txt"
    assert parts[2].names.tolist() == shipped.read_text(encoding="utf-8").split()


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
        r"`names` must be .*, such as Lake/Lake_0.jpg. Received 5 names, 4 of them unknown: "
        r"Lake/Lake_77.jpg, Sand/Sand_1.jpg, /x.jpg"
    )
    with pytest.raises(ValueError, match=message):
        data.split(made_up(50), test_names=names)


def test_tiles_that_were_repeated_are_not_split():
    with pytest.raises(ValueError, match=r"`tiles` must hold each name once.* Split first"):
        data.split(made_up(50)[[*range(100), 7]])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"validation_fraction": 0}, r"must be above 0, and .* below 1. Received: 0 and 0.2"),
        ({"validation_fraction": -0.1}, r"`validation_fraction` and .* Received: -0.1 and 0.2"),
        ({"test_fraction": 0.95}, r"`test_fraction` must be .* Received: 0.08 and 0.95"),
        ({"test_fraction": -0.1}, r"Received: 0.08 and -0.1"),
        ({"test_fraction": float("nan")}, r"Received: 0.08 and nan"),
        ({"test_fraction": 0}, r"get \[46, 4, 0\] of the 50 of Lake"),
        ({"validation_fraction": 0.001}, r"get \[40, 0, 10\] of the 50 of Lake. Use more tiles"),
        ({"test_fraction": 0.001}, r"get \[46, 4, 0\] of the 50 of Lake"),
        ({"test_names": ["Lake_1.jpg"]}, r"get \[46, 4, 0\] of the 50 of Wood"),
        ({"test_names": []}, r"`names` must be at least one .* Received 0 names"),
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
    file = tmp_path / "none.txt"
    match = rf"`names` \(`test_names`\) must be names or a text file. No such file: {file}"
    with pytest.raises(FileNotFoundError, match=match):
        data.split(demo_tiles, test_names=file)


def test_names_are_read_from_a_file_below_home(demo_tiles, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "names.txt").write_text("River_7.jpg\n")
    assert data.select(demo_tiles, "~/names.txt").names.tolist() == ["River/River_7.jpg"]


def test_sample_is_even_over_the_classes_and_shuffled(demo_tiles):
    for count, least, most in [(20, 2, 2), (7, 0, 1), (23, 2, 3)]:
        drawn = data.sample(demo_tiles, count, seed=0)
        assert len(set(drawn.names)) == count
        assert set(drawn.counts()) <= {least, most}
        assert (np.diff(drawn.labels) < 0).any()
    few = data.sample(demo_tiles[:42], 20, seed=0)  # two tiles of the second class
    assert few.counts().tolist()[:2] == [18, 2]


def test_sample_is_repeated_by_its_seed_alone(demo_tiles):
    first, second, other = (data.sample(demo_tiles, seed=k).names.tolist() for k in (3, 3, 4))
    assert first == second != other
    assert data.sample(demo_tiles).names.tolist() != data.sample(demo_tiles).names.tolist()


def test_sample_of_an_impossible_size_is_an_error(demo_tiles):
    for count in (0, 401):
        with pytest.raises(ValueError, match=rf"`count` must be from 1 to 400. Received: {count}"):
            data.sample(demo_tiles, count)
