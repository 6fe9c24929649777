"""Finding the tiles: layouts, zip files, what a folder named EuroSAT does, and bad folders."""

from __future__ import annotations

import functools
import hashlib
import http.server
import shutil
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import CACHE, zip_folder

from eurosat_helpers import data
from eurosat_helpers.data import download


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
