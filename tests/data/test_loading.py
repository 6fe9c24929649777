"""Loading: the order of the tiles, classes of your own, and bad arguments."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from conftest import PROJECT, zip_folder

from eurosat_helpers import data
from eurosat_helpers.data import finding, listing
from eurosat_helpers.data.tiles import CLASS_COUNTS


def test_tiles_come_by_class_and_number(demo_tiles):
    expected = [f"{name}/{name}_{k}.jpg" for name in data.CLASS_NAMES for k in range(1, 41)]
    assert demo_tiles.names.tolist() == expected
    assert [name.split("/")[0] for name in expected] == demo_tiles.truth.tolist()


def test_path_with_spaces_and_accents(folder, tmp_path):
    mine = tmp_path / "données d'été" / "mes tuiles"
    shutil.copytree(folder / "2750" / "Forest", mine / "Forêt dense")
    shutil.copytree(folder / "2750" / "River", mine / "Rivière")
    tiles = data.load(mine, class_names=("Rivière", "Forêt dense"))
    assert tiles.class_names == ("Rivière", "Forêt dense")
    assert tiles.names[[0, 6]].tolist() == ["Rivière/River_1.jpg", "Forêt dense/Forest_1.jpg"]
    np.testing.assert_array_equal(tiles.labels, np.repeat([0, 1], 6))
    assert tiles.source == "tiles in mes tuiles"


def test_class_without_a_tile_is_named(folder):
    shutil.rmtree(folder / "2750" / "Highway")
    message = "holds no tile of the class Highway. Add some, or leave the class out"
    with pytest.raises(ValueError, match=message):
        data.load(folder)
    (folder / "2750" / "Highway").mkdir()
    with pytest.raises(ValueError, match=message):
        data.load(folder)


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "zip"])
def test_unknown_class_folder_is_told_the_known_ones(folder, tmp_path, packed):
    shutil.copytree(folder / "2750" / "Forest", folder / "2750" / "Glacier")
    if packed:
        folder = zip_folder(folder, tmp_path / "zip" / "tiles.zip").parent
    message = r"unknown class folders: Glacier. Known are AnnualCrop, .* list as `class_names`"
    with pytest.raises(ValueError, match=message):
        data.load(folder)


def test_names_of_classes_may_be_numbers_and_of_one_class(folder):
    (folder / "2750").rename(folder / "mine")
    (folder / "mine" / "Forest").rename(folder / "mine" / "1")
    (folder / "mine" / "River").rename(folder / "mine" / "2")
    for name in set(data.CLASS_NAMES) - {"Forest", "River"}:
        shutil.rmtree(folder / "mine" / name)
    assert data.load(folder / "mine", class_names=[1, 2]).class_names == ("1", "2")
    shutil.rmtree(folder / "mine" / "2")
    assert len(data.load(folder / "mine", class_names=["1"])) == 6


def test_bad_argument_is_named(folder):
    for class_names in ((), ("Forest", "Forest")):
        with pytest.raises(ValueError, match="`class_names` must be one or more, different"):
            data.load(folder, class_names=class_names)
    with pytest.raises(ValueError, match=r"`on_error` must be .* Received: 'ignore'"):
        data.load(folder, on_error="ignore")


def test_real_tiles_are_all_there_with_their_pixels(real_tiles):
    tf = pytest.importorskip("tensorflow")
    assert len(real_tiles) == 27_000
    assert real_tiles.counts().to_dict() == CLASS_COUNTS
    assert real_tiles.source == "EuroSAT RGB"
    drawn = data.sample(real_tiles, 200, seed=0)
    source = finding.find(PROJECT / "EuroSAT", data.CLASS_NAMES)
    with listing.opened(source) as (_, read_file):
        for image, name in zip(drawn.images, drawn.names, strict=True):
            encoded = read_file(name)
            expected = tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_ACCURATE")
            np.testing.assert_array_equal(image, expected, err_msg=name)
    means = real_tiles.images[::10].mean(axis=(0, 1, 2))
    np.testing.assert_allclose(means, [86.7, 97.0, 102.7], atol=2)
