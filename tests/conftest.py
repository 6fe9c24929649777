"""Tiles that several test files share."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import socket
import struct
import sys
import zipfile
import zlib
from multiprocessing import forkserver
from multiprocessing.context import BaseContext
from pathlib import Path

import hypothesis
import pytest
from PIL import Image

from eurosat_helpers import data
from eurosat_helpers.data import demo, finding

os.environ.setdefault("MPLBACKEND", "Agg")

SLOW = [hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.function_scoped_fixture]
QUIET = {"deadline": None, "suppress_health_check": SLOW}  # a shared machine is slow at times
hypothesis.settings.register_profile("few", max_examples=60, derandomize=True, **QUIET)
hypothesis.settings.register_profile("many", max_examples=2500, **QUIET)
hypothesis.settings.load_profile("few")

PROJECT = Path(__file__).resolve().parent.parent
CACHE = ".tiles-cache"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest, so that no process is left with one at the end."""
    longest = ["test_notebooks", "test_survival", "test_training", "test_improvements_notebook"]
    longest += ["test_browser", "test_workers", "test_transfer"]
    stems = [*longest, *(item.path.stem for item in items)]
    items.sort(key=lambda item: min(stems.index(item.path.stem), len(longest)))


def zip_folder(folder: Path, archive: Path, root: str = "2750") -> Path:
    """Pack the tiles of `folder/2750` under another root, "" for bare class folders."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(archive, "w") as packed:
        for path in sorted(folder.glob("2750/*/*")):
            packed.write(path, Path(root) / path.relative_to(folder / "2750"))
    return archive


def write_demo(folder: Path, tiles_per_class: int, *, seed: int = 0) -> Path:
    """Write demo tiles to `folder/2750/<Class>/<Class>_<N>.jpg`, and return the folder."""
    for image, name in zip(*demo.draw(tiles_per_class, seed=seed), strict=True):
        file = folder / "2750" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(file, quality=95)
    return folder


def claiming(encoded: bytes, side: int) -> bytes:
    """Change the size that the header of an image claims."""
    if encoded.startswith(b"\x89PNG"):
        header = encoded[12:16] + struct.pack(">II", side, side) + encoded[24:29]
        return encoded[:12] + header + struct.pack(">I", zlib.crc32(header)) + encoded[33:]
    place = encoded.index(b"\xff\xc0") + 5
    return encoded[:place] + struct.pack(">HH", side, side) + encoded[place + 4 :]


def deep_png() -> bytes:
    """A PNG of 16-bit RGB, which Pillow reads but cannot write."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)

    rows = (b"\0" + bytes(64 * 6)) * 64
    header = struct.pack(">IIBBBBB", 64, 64, 16, 2, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + content


@pytest.fixture(scope="session")
def processes() -> BaseContext:
    """Processes are forks of a server that imported what they need, and begin at once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["test_survival", "eurosat_helpers.improvements.runs"])
    with pytest.MonkeyPatch.context() as patch:  # the server knows no other path
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
        forkserver.ensure_running()
    with context.Pool(1) as pool:  # it says nothing if an import failed
        assert pool.apply(eval, ("'test_survival' in __import__('sys').modules",))
    return context


@pytest.fixture(scope="session")
def demo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six demo tiles per class in the layout of EuroSAT. Copy them before you change them."""
    return write_demo(tmp_path_factory.mktemp("demo"), tiles_per_class=6)


@pytest.fixture(scope="session")
def demo_tiles(tmp_path_factory: pytest.TempPathFactory) -> data.Tiles:
    """Forty demo tiles per class, read back from JPEG files."""
    return data.load(write_demo(tmp_path_factory.mktemp("forty"), tiles_per_class=40))


@pytest.fixture(scope="session")
def real_tiles() -> data.Tiles:
    """The 27,000 real tiles, or a skip that says how to provide them."""
    folder = PROJECT / "EuroSAT"
    present = any(any(folder.glob(name)) for name in ("*.zip", "AnnualCrop", "*/AnnualCrop"))
    if not present and not os.environ.get("EUROSAT_ARCHIVE"):
        pytest.skip("needs the real tiles: set EUROSAT_ARCHIVE to EuroSAT.zip or fill EuroSAT/")
    return data.load(folder)


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
    monkeypatch.setattr(finding, "MIRRORS", {nowhere: "0" * 64})
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("EUROSAT_ARCHIVE", raising=False)
    return tmp_path / "EuroSAT"
