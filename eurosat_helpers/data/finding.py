"""Find the folder or zip file that holds the tiles."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Sequence
from pathlib import Path

from eurosat_helpers.data import download

ROOTS = ("2750", "EuroSAT_RGB")  # what the published archives call the folder of class folders


_PUBLISHED = tuple(Path(mirror.url).name for mirror in download.MIRRORS)


def find(data_dir: Path, class_names: Sequence[str]) -> Path:
    """Find what to read, or download it.

    Args:
        data_dir: Folder to look into. Only one named "EuroSAT" heeds the environment variable
            EUROSAT_ARCHIVE and is filled by a download.
        class_names: Names of the class folders.

    Returns:
        The folder itself, or a zip file.

    Raises:
        FileNotFoundError: If the folder does not exist or holds neither class folders nor a zip.
        ValueError: If EUROSAT_ARCHIVE names no zip file, or if it is unclear which zip to read.
        download.NoNetworkError: If there is no way to download.
        OSError: If no mirror gives the right file.
    """
    folders = _visible_folders(data_dir) if data_dir.is_dir() else []
    if not {*ROOTS, *class_names}.isdisjoint(folders):
        return data_dir
    is_eurosat = data_dir.name == "EuroSAT"
    if is_eurosat and (named := os.environ.get("EUROSAT_ARCHIVE")):
        archive = Path(named).expanduser()
        if not zipfile.is_zipfile(archive):
            raise ValueError(
                "`EUROSAT_ARCHIVE` must be the path of a whole zip file, or not be set. "
                f"Received: {named}"
            )
        return archive
    zips = sorted(data_dir.glob("[!.]*.zip"))
    published = [path for path in zips if path.name in _PUBLISHED]
    if len(zips) > 1 and not published:
        found = ", ".join(path.name for path in zips)
        raise ValueError(f"`{data_dir}` holds several zip files: {found}. Leave only one there.")
    if zips:
        return (published or zips)[0]
    if folders:
        return data_dir  # of unknown classes: the reader says so and names them
    if is_eurosat:
        data_dir.mkdir(parents=True, exist_ok=True)
        return download.fetch(data_dir)
    if not data_dir.is_dir():
        raise FileNotFoundError(f"There is no folder `{data_dir}`. Correct `data_dir`.")
    raise FileNotFoundError(
        f"`{data_dir}` holds no tiles. Put class folders, `2750`, `EuroSAT_RGB` or a zip of them "
        'there. (Only a `data_dir` named "EuroSAT" is filled by a download.)'
    )


def _is_visible(name: str) -> bool:
    return not name.startswith(".") and name not in ("Thumbs.db", "desktop.ini", "__MACOSX")


def _visible_folders(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return [entry.name for entry in entries if entry.is_dir() and _is_visible(entry.name)]
