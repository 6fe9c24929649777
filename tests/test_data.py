"""Finding, reading, caching and splitting tiles, and every bad input that is told apart."""

from __future__ import annotations

import functools
import hashlib
import http.server
import io
import os
import shutil
import socket
import tempfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eurosat_helpers import data, download, reading, sources

PROJECT = Path(__file__).resolve().parent.parent
CACHE = ".tiles-cache.npz"


@pytest.fixture
def folder(demo_folder: Path, tmp_path: Path) -> Path:
    """A copy of sixty demo tiles that a test may spoil."""
    return Path(shutil.copytree(demo_folder, tmp_path / "tiles", ignore=lambda *_: [CACHE]))


@pytest.fixture
def eurosat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder named EuroSAT that does not exist yet, on a machine without archive or network."""
    with socket.socket() as probe:  # nobody listens on the port once this is closed
        probe.bind(("127.0.0.1", 0))
        nowhere = f"http://127.0.0.1:{probe.getsockname()[1]}/EuroSAT.zip"
    monkeypatch.setattr(download, "MIRRORS", (download.Mirror(nowhere, "0" * 64),))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("EUROSAT_ARCHIVE", raising=False)
    return tmp_path / "EuroSAT"


def zip_folder(folder: Path, archive: Path, root: str = "2750") -> Path:
    """Pack the tiles of `folder/2750` under another root, "" for bare class folders."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(archive, "w") as packed:
        for path in sorted(folder.glob("2750/*/*")):
            packed.write(path, Path(root) / path.relative_to(folder / "2750"))
    return archive


def encode(image: Image.Image, kind: str = "JPEG") -> bytes:
    """The image as a file in memory."""
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def made_up(tiles_per_class: int, class_names: tuple[str, ...] = ("Lake", "Wood")) -> data.Tiles:
    """Black tiles, for what only looks at names."""
    names = [f"{name}/{name}_{k}.jpg" for name in class_names for k in range(tiles_per_class)]
    labels = np.repeat(np.arange(len(class_names)), tiles_per_class)
    images = np.zeros((len(names), 64, 64, 3), np.uint8)
    return data.Tiles(images, labels, np.array(names), class_names, "black tiles")


# Finding and reading


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


def test_tiles_come_by_class_and_number(demo_tiles):
    expected = [f"{name}/{name}_{k}.jpg" for name in data.CLASS_NAMES for k in range(1, 41)]
    assert demo_tiles.names.tolist() == expected
    assert [name.split("/")[0] for name in expected] == demo_tiles.truth.tolist()


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
        archive = tmp_path / "zip" / "tiles.zip"
        archive.parent.mkdir()
        shutil.make_archive(str(archive.with_suffix("")), "zip", folder)
        folder = archive.parent
    assert len(data.load(folder)) == 60


def test_path_with_spaces_and_accents(folder, tmp_path):
    mine = tmp_path / "données d'été" / "mes tuiles"
    shutil.copytree(folder / "2750" / "Forest", mine / "Forêt dense")
    shutil.copytree(folder / "2750" / "River", mine / "Rivière")
    tiles = data.load(mine, class_names=("Rivière", "Forêt dense"))
    assert tiles.class_names == ("Rivière", "Forêt dense")
    assert tiles.names[[0, 6]].tolist() == ["Rivière/River_1.jpg", "Forêt dense/Forest_1.jpg"]
    np.testing.assert_array_equal(tiles.labels, np.repeat([0, 1], 6))


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
        np.testing.assert_array_equal(reading.decode(encoded), expected, err_msg=path.name)


def test_real_tiles_are_all_there_with_their_pixels(real_tiles):
    tf = pytest.importorskip("tensorflow")
    assert len(real_tiles) == 27_000
    assert real_tiles.counts().to_dict() == data.CLASS_COUNTS
    assert real_tiles.source == "EuroSAT RGB"
    drawn = data.sample(real_tiles, 200, seed=0)
    with sources.opened(sources.find(PROJECT / "EuroSAT", data.CLASS_NAMES)) as (_, read_file):
        for image, name in zip(drawn.images, drawn.names, strict=True):
            encoded = read_file(name)
            expected = tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_ACCURATE")
            np.testing.assert_array_equal(image, expected, err_msg=name)
    means = real_tiles.images[::10].mean(axis=(0, 1, 2))
    np.testing.assert_allclose(means, [86.7, 97.0, 102.7], atol=2)


# Bad tiles


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-300])


def save(kind: str, mode: str, size: tuple[int, int] = (64, 64)) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(encode(Image.new(mode, size), kind))


BAD_TILES = {
    "truncated": (truncate, "damaged, .*truncated"),
    "text": (lambda path: path.write_text("not a picture"), "no JPEG or PNG image"),
    "empty": (lambda path: path.write_bytes(b""), "no JPEG or PNG image"),
    "GIF": (save("GIF", "RGB"), "no JPEG or PNG image"),
    "small": (save("JPEG", "RGB", (32, 64)), "32x64 pixels, not 64x64"),
    "gray": (save("JPEG", "L"), "color mode L, not RGB"),
    "CMYK": (save("JPEG", "CMYK"), "color mode CMYK, not RGB"),
    "RGBA": (save("PNG", "RGBA"), "color mode RGBA, not RGB"),
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


# Bad folders and archives


def test_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no folder `.*nowhere`. Correct `data_dir`"):
        data.load(tmp_path / "nowhere")


def test_empty_folder_is_told_what_belongs_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no tiles. Put class folders, `2750`"):
        data.load(tmp_path)


@pytest.mark.parametrize("remains", [True, False], ids=["empty folder", "no folder"])
def test_class_without_a_tile_is_named(folder, remains):
    shutil.rmtree(folder / "2750" / "Highway")
    if remains:
        (folder / "2750" / "Highway").mkdir()
    with pytest.raises(ValueError, match="holds no tile of the class Highway"):
        data.load(folder)


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "zip"])
def test_unknown_class_folder_is_told_the_known_ones(folder, tmp_path, packed):
    shutil.copytree(folder / "2750" / "Forest", folder / "2750" / "Glacier")
    if packed:
        folder = zip_folder(folder, tmp_path / "zip" / "tiles.zip").parent
    with pytest.raises(ValueError, match=r"unknown class folders: Glacier. Known are AnnualCrop, "):
        data.load(folder)
    with pytest.raises(ValueError, match="pass their list as `class_names`"):
        data.load(folder)


def test_only_unknown_class_folders_are_no_empty_folder(tmp_path, eurosat):
    for folder in (tmp_path / "mine", eurosat):
        (folder / "Glacier").mkdir(parents=True)
        with pytest.raises(ValueError, match="unknown class folders: Glacier"):
            data.load(folder)


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "zip"])
def test_tile_below_its_class_folder_is_an_error(folder, tmp_path, packed):
    (folder / "2750" / "Forest" / "more").mkdir()
    shutil.copy(folder / "2750/Forest/Forest_1.jpg", folder / "2750/Forest/more/Forest_9.jpg")
    if packed:
        archive = tmp_path / "zip" / "tiles"
        folder = Path(shutil.make_archive(str(archive), "zip", folder)).parent
    with pytest.raises(ValueError, match=r"`Forest/more/.* must lie directly in its class"):
        data.load(folder)


@pytest.mark.parametrize("class_names", [(), ("Forest",), ("Forest", "Forest")])
def test_fewer_than_two_classes_are_an_error(folder, class_names):
    with pytest.raises(ValueError, match="`class_names` must be at least two different classes"):
        data.load(folder, class_names=class_names)


def test_unknown_on_error_is_an_error(folder):
    with pytest.raises(ValueError, match=r"`on_error` must be .* Received: 'ignore'"):
        data.load(folder, on_error="ignore")


def test_cut_zip_is_an_error(folder, tmp_path):
    archive = zip_folder(folder, tmp_path / "cut" / "EuroSAT.zip")
    archive.write_bytes(archive.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=r"EuroSAT.zip` is no whole zip file: .*download it again"):
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


def test_one_of_several_zips_must_be_clear(folder, tmp_path):
    mine = tmp_path / "mine"
    zip_folder(folder, mine / "old.zip")
    zip_folder(folder, mine / "new.zip")
    with pytest.raises(ValueError, match=r"several zip files: new.zip, old.zip. Leave only one"):
        data.load(mine)
    zip_folder(folder, mine / "EuroSAT_RGB.zip", "EuroSAT_RGB")
    assert data.load(mine).source == "tiles in EuroSAT_RGB.zip"


# What only a folder named EuroSAT does


def test_environment_variable_names_a_zip(folder, eurosat, tmp_path, monkeypatch):
    monkeypatch.setenv("EUROSAT_ARCHIVE", str(zip_folder(folder, tmp_path / "far" / "mine.zip")))
    assert data.load(eurosat).source == "tiles in mine.zip"
    assert [path.name for path in eurosat.iterdir()] == [CACHE]
    assert [path.name for path in (tmp_path / "far").iterdir()] == ["mine.zip"]


def test_environment_variable_is_for_eurosat_alone(folder, eurosat, tmp_path, monkeypatch):
    monkeypatch.setenv("EUROSAT_ARCHIVE", str(zip_folder(folder, tmp_path / "mine.zip")))
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        data.load(eurosat.with_name("my tiles"))


@pytest.mark.parametrize("content", [None, b"no zip"], ids=["missing", "no zip"])
def test_bad_environment_variable_is_named(eurosat, tmp_path, monkeypatch, content):
    archive = tmp_path / "archive.zip"
    if content:
        archive.write_bytes(content)
    monkeypatch.setenv("EUROSAT_ARCHIVE", str(archive))
    with pytest.raises(ValueError, match=r"`EUROSAT_ARCHIVE` must be .*Received: .*archive\.zip"):
        data.load(eurosat)


@pytest.fixture
def served(folder: Path, tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """An archive of the sixty tiles and its address on a server on this machine."""
    archive = zip_folder(folder, tmp_path / "served" / "EuroSAT.zip")
    handler = functools.partial(QuietHandler, directory=archive.parent)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,)).start()
        yield archive, f"http://127.0.0.1:{server.server_port}/EuroSAT.zip"
        server.shutdown()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder and writes no log."""

    def log_message(self, *arguments: object) -> None:
        """Keep quiet."""


def test_archive_is_downloaded_once(served, eurosat, monkeypatch, folder):
    archive, url = served
    sha256 = hashlib.sha256(archive.read_bytes()).hexdigest()
    monkeypatch.setattr(download, "MIRRORS", (*download.MIRRORS, download.Mirror(url, sha256)))
    tiles = data.load(eurosat)
    assert (eurosat / "EuroSAT.zip").read_bytes() == archive.read_bytes()
    np.testing.assert_array_equal(tiles.images, data.load(folder).images)
    monkeypatch.setattr(download, "MIRRORS", ())
    assert len(data.load(eurosat)) == 60


def test_bad_download_is_an_error_and_no_reason_for_demo_tiles(served, eurosat, monkeypatch):
    wrong = download.Mirror(served[1], "0" * 64)
    monkeypatch.setattr(download, "MIRRORS", (*download.MIRRORS, wrong))
    with pytest.raises(OSError, match=r"No mirror gave the EuroSAT archive:\n(.*\n)*.*known hash"):
        data.load(eurosat)
    assert list(eurosat.iterdir()) == []


def test_demo_tiles_without_network_come_with_a_notice_and_leave_no_file(eurosat, capsys):
    tiles = data.load(eurosat)
    assert tiles.demo
    assert tiles.source == "demo tiles"
    assert tiles.counts().to_dict() == dict.fromkeys(data.CLASS_NAMES, 200)
    assert list(eurosat.iterdir()) == []
    notice = capsys.readouterr().out
    assert "DEMO TILES, NOT EuroSAT" in notice
    assert "No connection to 127.0.0.1" in notice
    assert "EUROSAT_ARCHIVE" in notice


def test_demo_tiles_are_no_stand_in_for_other_classes(eurosat):
    with pytest.raises(download.NoNetworkError, match="No connection"):
        data.load(eurosat, class_names=("Ice", "Sand"))


# The cache


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


@pytest.mark.parametrize("edit", [change, remove])
def test_stale_cache_is_made_anew(folder, capsys, edit):
    data.load(folder)
    edit(folder)
    capsys.readouterr()
    tiles = data.load(folder)
    assert "is of other files: decoding anew" in capsys.readouterr().out
    (folder / CACHE).unlink()
    np.testing.assert_array_equal(tiles.images, data.load(folder).images)
    data.load(folder)
    assert "is of other files" not in capsys.readouterr().out


def test_cache_of_other_class_names_is_not_believed(folder):
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
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damaged_cache_is_made_anew(folder, capsys, damage):
    expected = data.load(folder)
    cache = folder / CACHE
    cache.write_bytes(damage(cache.read_bytes()))
    np.testing.assert_array_equal(data.load(folder).images, expected.images)
    assert "is damaged (" in capsys.readouterr().out
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
    notice = "Working without a cache: tiles/ takes no file (Permission denied).\n"
    assert capsys.readouterr().out.startswith(notice)
    assert [path.name for path in read_only.iterdir()] == ["2750"]


# Tiles, split, select and sample


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
