"""Tiles that several test files share."""

from __future__ import annotations

import os

os.environ.setdefault("MPLBACKEND", "Agg")

from pathlib import Path

import pytest

from eurosat_helpers import data, demo

PROJECT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def demo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in the EuroSAT layout with six demo tiles a class. Copy it before you change it."""
    return demo.write(tmp_path_factory.mktemp("demo"), tiles_per_class=6, seed=0)


@pytest.fixture(scope="session")
def demo_tiles(tmp_path_factory: pytest.TempPathFactory) -> data.Tiles:
    """Forty demo tiles a class, read back from JPEG files."""
    return data.load(demo.write(tmp_path_factory.mktemp("forty"), tiles_per_class=40, seed=0))


@pytest.fixture(scope="session")
def real_tiles() -> data.Tiles:
    """The 27,000 real tiles, or a skip that says how to provide them."""
    folder = PROJECT / "EuroSAT"
    present = any(folder.glob("*.zip")) or any(folder.glob("*/AnnualCrop"))
    if not present and not os.environ.get("EUROSAT_ARCHIVE"):
        pytest.skip("needs the real tiles: set EUROSAT_ARCHIVE to EuroSAT.zip or fill EuroSAT/")
    return data.load(folder)
