"""Listing folders and zip files: every layout, stray files, and what is unsafe or damaged."""

from __future__ import annotations

import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import zip_folder
from PIL import Image

from eurosat_helpers import data


def pack(folder: Path, archive: Path) -> Path:
    """Pack all that the folder holds, stray files too, and return the folder of the zip."""
    archive.parent.mkdir()
    shutil.make_archive(str(archive.with_suffix("")), "zip", folder)
    return archive.parent


@pytest.mark.parametrize("root", ["2750", "EuroSAT_RGB", ""])
@pytest.mark.parametrize("packed", [False, True], ids=["folder", "zip"])
def test_every_layout_gives_the_same_tiles(folder, tmp_path, capsys, root, packed):
    expected = data.load(folder)
    mine = tmp_path / "mine"
    if packed:
        zip_folder(folder, mine / "any name.zip", root)
    else:
        shutil.copytree(folder / "2750", mine / root)
    capsys.readouterr()
    tiles = data.load(mine)
    assert tiles.images.shape == (60, 64, 64, 3)
    assert tiles.images.dtype == np.uint8
    assert tiles.labels.dtype == np.int64
    np.testing.assert_array_equal(tiles.images, expected.images)
    np.testing.assert_array_equal(tiles.labels, np.repeat(np.arange(10), 6))
    assert tiles.names.tolist() == expected.names.tolist()
    assert tiles.class_names == data.CLASS_NAMES
    source = "any name.zip" if packed else "mine"
    assert tiles.source == f"tiles in {source}"
    assert not tiles.demo
    assert capsys.readouterr().out.startswith(f"60 tiles of 10 classes from {source} in ")


def test_zip_file_of_a_packed_folder_may_hold_stray_files(folder, tmp_path):
    zip_folder(folder, tmp_path / "mine.zip", "my tiles")
    with zipfile.ZipFile(tmp_path / "mine.zip", "a") as packed:
        packed.writestr("my tiles/README.txt", "about them")
        packed.writestr("my tiles/overview.png", "a picture beside the class folders")
    np.testing.assert_array_equal(data.load(tmp_path).images, data.load(folder).images)


def test_names_in_a_zip_file_may_begin_with_a_dot_and_a_slash(folder, tmp_path):
    with zipfile.ZipFile(tmp_path / "tar.zip", "w") as packed:
        # As the `tar` of macOS and Windows does.
        for path in folder.glob("2750/*/*"):
            packed.writestr(f"./{path.relative_to(folder).as_posix()}", path.read_bytes())
    assert all(name.startswith("./2750/") for name in packed.namelist())
    np.testing.assert_array_equal(data.load(tmp_path).images, data.load(folder).images)


def test_files_that_change_places_are_read_again(folder, tmp_path):
    one, other = (folder / "2750" / "Forest" / f"Forest_{number}.png" for number in (901, 902))
    pixels = np.zeros((64, 64, 3), np.uint8)
    for file, value in ((one, 10), (other, 20)):
        Image.fromarray(pixels + np.uint8(value)).save(file)
    times = 1_600_000_000, 1_600_000_000
    assert one.stat().st_size == other.stat().st_size
    [os.utime(file, times) for file in (one, other)]
    assert data.select(data.load(folder), ["Forest_901.png"]).images.max() == 10
    one.rename(tmp_path / "kept")
    other.rename(one)
    (tmp_path / "kept").rename(other)
    [os.utime(file, times) for file in (one, other)]
    assert data.select(data.load(folder), ["Forest_901.png"]).images.max() == 20


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "zip"])
def test_stray_files_are_ignored(folder, tmp_path, packed):
    root = folder / "2750"
    for stray in [
        "README.md",
        "labels.csv",
        "Forest/.DS_Store",
        "Forest/._Forest_1.jpg",
        "Forest/Thumbs.db",
        "Forest/desktop.ini",
        "__MACOSX/._2750",
        ".ipynb_checkpoints/River_1.jpg",
    ]:
        (root / stray).parent.mkdir(exist_ok=True)
        (root / stray).write_bytes(b"stray")
    if packed:
        folder = pack(folder, tmp_path / "zip" / "tiles.zip")
    assert len(data.load(folder)) == 60


@pytest.mark.parametrize(
    "stray", [None, "__MACOSX/mes tuiles/Urban/._1.png", "mes tuiles/.DS_Store"]
)
def test_zip_of_a_packed_folder_has_the_tiles_of_the_folder(tmp_path, stray):
    rng = np.random.default_rng(0)
    for name in ("Urban", "Water"):
        (tmp_path / "mes tuiles" / name).mkdir(parents=True)
        for number in range(3):
            tile = Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8))
            tile.save(tmp_path / "mes tuiles" / name / f"{number}.png")
    (tmp_path / "zip").mkdir()
    archive = tmp_path / "zip" / "tiles"
    shutil.make_archive(str(archive), "zip", tmp_path, "mes tuiles")
    archive.with_suffix(".zip").rename(archive.with_suffix(".ZIP"))
    if stray:
        with zipfile.ZipFile(archive.with_suffix(".ZIP"), "a") as packed:
            packed.writestr(stray, b"stray")
    tiles = data.load(tmp_path / "zip", class_names=["Urban", "Water"])
    expected = data.load(tmp_path / "mes tuiles", class_names=["Urban", "Water"])
    assert tiles.names.tolist() == expected.names.tolist()
    np.testing.assert_array_equal(tiles.images, expected.images)


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "zip"])
def test_tile_below_its_class_folder_is_an_error(folder, tmp_path, packed):
    (folder / "2750" / "Forest" / "more").mkdir()
    shutil.copy(folder / "2750/Forest/Forest_1.jpg", folder / "2750/Forest/more/Forest_9.jpg")
    message = r"`Forest/more` in .* is a bad tile: a folder, not a tile"
    if packed:
        folder = pack(folder, tmp_path / "zip" / "tiles.zip")
        message = "unknown class folders: Forest/more"
    with pytest.raises(ValueError, match=message):
        data.load(folder)


def test_cut_zip_is_an_error(folder, tmp_path):
    archive = zip_folder(folder, tmp_path / "cut" / "EuroSAT.zip")
    archive.write_bytes(archive.read_bytes()[:-1000])
    message = r"EuroSAT.zip` is not a complete zip file: .*download it again"
    with pytest.raises(ValueError, match=message):
        data.load(archive.parent)


def test_zip_with_a_damaged_member_names_the_tile(folder, tmp_path):
    archive = zip_folder(folder, tmp_path / "bad" / "EuroSAT.zip")
    encoded = (folder / "2750/Forest/Forest_2.jpg").read_bytes()
    content = archive.read_bytes()
    start = content.index(encoded) + 500
    archive.write_bytes(content[:start] + b"damage" + content[start + 6 :])
    with pytest.raises(ValueError, match=r"`Forest/Forest_2.jpg` in .* is a bad tile: Bad CRC"):
        data.load(archive.parent)


@pytest.mark.parametrize(
    "member", ["../evil.jpg", "2750/Forest/../../../evil.jpg", "/evil.jpg", "C:/evil.jpg"]
)
def test_zip_that_writes_outside_its_folder_is_an_error(folder, tmp_path, member):
    archive = zip_folder(folder, tmp_path / "zip" / "EuroSAT.zip")
    with zipfile.ZipFile(archive, "a") as packed:
        packed.writestr(member, b"evil")
    with pytest.raises(ValueError, match=f"not safe: `{member}` writes outside its folder"):
        data.load(archive.parent)


def test_folder_in_place_of_a_tile_is_an_error(folder):
    (folder / "2750" / "Forest" / "Forest_1.jpg").unlink()
    (folder / "2750" / "Forest" / "Forest_1.jpg").mkdir()
    with pytest.raises(ValueError, match=r"`Forest/Forest_1.jpg` in .*: a folder, not a tile"):
        data.load(folder)
