"""Decoding and caching the tiles, and every kind of bad tile."""

from __future__ import annotations

import io
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import CACHE, deep_png, zip_folder
from PIL import Image

from eurosat_helpers import data
from eurosat_helpers.data import reading


def encode(image: Image.Image, kind: str = "JPEG") -> bytes:
    """The image as a file in memory."""
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def test_png_tiles_are_read_too(folder):
    path = folder / "2750" / "River" / "River_6.jpg"
    with Image.open(path) as image:
        pixels = np.asarray(image)
        image.save(path.with_suffix(".png"))
    path.unlink()
    tiles = data.select(data.load(folder), ["River/River_6.png"])
    np.testing.assert_array_equal(tiles.images[0], pixels)


def test_pixels_are_those_of_tensorflow(demo_folder):
    tf = pytest.importorskip("tensorflow")
    for path in sorted((demo_folder / "2750").rglob("*.jpg")):
        encoded = path.read_bytes()
        expected = tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_ACCURATE")
        np.testing.assert_array_equal(reading._decode(encoded), expected, err_msg=path.name)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-300])


def save(kind: str, mode: str, size: tuple[int, int] = (64, 64)) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(encode(Image.new(mode, size), kind))


BAD_TILES = {
    "truncated": (truncate, "image file is truncated"),
    "text": (lambda path: path.write_text("not a picture"), "not a JPEG or PNG image"),
    "empty": (lambda path: path.write_bytes(b""), "not a JPEG or PNG image"),
    "GIF": (save("GIF", "RGB"), "not a JPEG or PNG image"),
    "small": (save("JPEG", "RGB", (32, 64)), "32x64 RGB, not 64x64 RGB"),
    "gray": (save("JPEG", "L"), "64x64 L, not 64x64 RGB"),
    "CMYK": (save("JPEG", "CMYK"), "64x64 CMYK, not 64x64 RGB"),
    "16-bit": (lambda path: path.write_bytes(deep_png()), "16 bits per value, not 8"),
    "RGBA": (save("PNG", "RGBA"), "64x64 RGBA, not 64x64 RGB"),
}


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "zip"])
@pytest.mark.parametrize(("spoil", "message"), BAD_TILES.values(), ids=BAD_TILES)
def test_bad_tile_is_named_or_skipped(folder, tmp_path, capsys, spoil, message, packed):
    spoil(folder / "2750" / "Pasture" / "Pasture_3.jpg")
    if packed:
        folder = zip_folder(folder, tmp_path / "zip" / "tiles.zip").parent
    with pytest.raises(
        ValueError, match=f"`Pasture/Pasture_3.jpg` in .* is a bad tile: {message}.*skip"
    ):
        data.load(folder)
    for _ in range(2):  # the second time as well: no cache hides what was left out
        tiles = data.load(folder, on_error="skip")
        assert tiles.skipped == ("Pasture/Pasture_3.jpg",)
        assert len(tiles) == 59
        assert "Pasture/Pasture_3.jpg" not in tiles.names
        assert [name.split("/")[0] for name in tiles.names] == tiles.truth.tolist()
        assert "Left out a bad tile: Pasture/Pasture_3.jpg, " in capsys.readouterr().out
    with pytest.raises(ValueError, match=message):
        data.load(folder)


def test_skipping_keeps_images_and_names_together(folder):
    whole = data.load(folder)
    for name in ["AnnualCrop/AnnualCrop_1.jpg", "River/River_6.jpg", "SeaLake/SeaLake_6.jpg"]:
        truncate(folder / "2750" / name)
    tiles = data.load(folder, on_error="skip")
    assert len(tiles.skipped) == 3
    expected = data.select(whole, tiles.names)
    np.testing.assert_array_equal(tiles.images, expected.images)
    np.testing.assert_array_equal(tiles.labels, expected.labels)


def test_long_list_of_skipped_tiles_is_cut_short_in_print_alone(folder, capsys):
    for path in (folder / "2750").glob("*/*_[12].jpg"):
        path.write_bytes(b"")
    tiles = data.load(folder, on_error="skip")
    assert len(tiles.skipped) == 20
    output = capsys.readouterr().out
    assert output.count("Left out a bad tile: ") == 10
    assert "Left out 10 more: see `skipped`." in output


def test_class_that_loses_every_tile_is_an_error_even_when_skipping(folder):
    for path in (folder / "2750" / "Pasture").iterdir():
        path.write_bytes(b"")
    with pytest.raises(ValueError, match="holds no tile of the class Pasture"):
        data.load(folder, on_error="skip")


def test_second_load_comes_from_the_cache(folder, capsys):
    first = data.load(folder)
    assert "decoded" in capsys.readouterr().out
    second = data.load(folder)
    assert "cached" in capsys.readouterr().out
    np.testing.assert_array_equal(second.images, first.images)
    assert second.names.tolist() == first.names.tolist()
    assert [path.name for path in folder.iterdir() if path.is_file()] == [CACHE]


def change(folder: Path) -> None:
    shutil.copy(folder / "2750/River/River_1.jpg", folder / "2750/River/River_2.jpg")


def remove(folder: Path) -> None:
    (folder / "2750/River/River_2.jpg").unlink()


def test_new_link_to_nothing_is_not_hidden_by_the_cache(folder):
    data.load(folder)
    (folder / "2750/River/River_7.jpg").symlink_to(folder / "nothing")
    with pytest.raises(ValueError, match=r"`River/River_7.jpg` .* is a bad tile: .*No such file"):
        data.load(folder)


def test_other_zip_under_the_same_name_is_read(folder, tmp_path, capsys):
    archive = zip_folder(folder, tmp_path / "zip" / "tiles.zip")
    data.load(archive.parent)
    data.load(archive.parent)
    assert ", cached." in capsys.readouterr().out
    remove(folder)
    zip_folder(folder, archive)
    assert len(data.load(archive.parent)) == 59


@pytest.mark.parametrize("edit", [change, remove])
def test_stale_cache_is_made_again(folder, capsys, edit):
    data.load(folder)
    edit(folder)
    capsys.readouterr()
    tiles = data.load(folder)
    assert (
        "(files, their times or the classes have changed): decoding again"
        in capsys.readouterr().out
    )
    (folder / CACHE).unlink()
    np.testing.assert_array_equal(tiles.images, data.load(folder).images)
    data.load(folder)
    assert "other files" not in capsys.readouterr().out


def test_cache_of_other_class_names_is_not_used(folder):
    data.load(folder)
    tiles = data.load(folder, class_names=data.CLASS_NAMES[::-1])
    assert tiles.names[0] == "SeaLake/SeaLake_1.jpg"
    assert tiles.labels[0] == 0


def flip_byte(content: bytes) -> bytes:
    """Change one pixel of the stored images."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


DAMAGES = {
    "one bit": flip_byte,
    "cut": lambda content: content[:-1000],
    "empty": lambda _: b"",
    "other file": lambda _: b"something else",
    "cut zip": lambda _: b"PK\x03\x04 and no more",
    "other name": lambda content: content.replace(b'"River/River_6.jpg"', b'"River/River_7.jpg"'),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damaged_cache_is_made_again(folder, capsys, damage):
    expected = data.load(folder)
    cache = folder / CACHE
    cache.write_bytes(damage(cache.read_bytes()))
    np.testing.assert_array_equal(data.load(folder).images, expected.images)
    assert "is not used (" in capsys.readouterr().out
    data.load(folder)
    assert ", cached." in capsys.readouterr().out


@pytest.fixture
def read_only(demo_folder: Path) -> Iterator[Path]:
    """A folder of tiles that this process may not write to, not even as root."""
    if not hasattr(os, "geteuid"):
        pytest.skip("needs the file rights of a POSIX system")
    folder = Path(tempfile.mkdtemp()) / "tiles"  # pytest's own folders are closed to other users
    shutil.copytree(demo_folder, folder, ignore=lambda *_: [CACHE])
    folder.parent.chmod(0o755)
    folder.chmod(0o555)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    yield folder
    if root:
        os.seteuid(0)
    folder.chmod(0o755)
    shutil.rmtree(folder.parent)


def test_read_only_folder_works_without_the_cache_and_says_so(read_only, capsys):
    assert len(data.load(read_only)) == 60
    notice = "No cache: cannot write to tiles/ (Permission denied).\n"
    assert capsys.readouterr().out.startswith(notice)
    assert [path.name for path in read_only.iterdir()] == ["2750"]


def test_what_a_killed_process_left_beside_the_cache_is_removed(folder):
    old, new = (folder / f"{CACHE}-{name}" for name in ("old", "new"))
    for left in (old, new):
        left.mkdir()
        (left / CACHE).touch()
    os.utime(old, (0, 0))
    data.load(folder)
    assert new.exists()  # it may still be written
    assert not old.exists()
