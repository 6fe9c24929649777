"""Load EuroSAT, or tiles of your own in the same layout, into memory."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from eurosat_helpers.data import demo, download, finding, reading
from eurosat_helpers.data.tiles import CLASS_COUNTS, CLASS_NAMES, DEMO_SOURCE, Tiles

_FOLDER_SOURCE = "tiles in "


_DEMO_NOTICE = """\
{line}
DEMO TILES, NOT EuroSAT. `{data_dir}` holds no tiles and there is no network:
{error}
So {tiles:,} made-up tiles were drawn. No score or figure made from them says
anything about land cover. For the real tiles run this again with a network,
put EuroSAT_RGB.zip into `{data_dir}`, or set EUROSAT_ARCHIVE to its path.
{line}"""


def load(
    data_dir: str | os.PathLike[str] = "EuroSAT",
    *,
    class_names: Sequence[str] = CLASS_NAMES,
    on_error: str = "raise",
) -> Tiles:
    """Load all tiles into memory, and print a line that says what came from where.

    The first of these that is there is read: class folders in `data_dir`, bare or in `2750` or
    `EuroSAT_RGB`; the zip file of such folders that the environment variable EUROSAT_ARCHIVE
    names; one that lies in `data_dir`; a published archive, downloaded into `data_dir`; and,
    without any network, made-up tiles with a notice. The archive of EUROSAT_ARCHIVE, the download
    and the made-up tiles are for a `data_dir` named "EuroSAT" alone: any other is your own.

    The decoded tiles are kept in a hidden file in `data_dir`, for a quick load the next time.

    Args:
        data_dir: Folder of the tiles. One named "EuroSAT" may be empty or missing.
        class_names: The classes, each the name of a folder, in the order of the labels.
        on_error: What to do at a bad tile: "raise" an error that names it, or "skip" it and list
            it in `skipped`.

    Returns:
        The tiles, class by class and by number within a class, whatever the file system.

    Raises:
        FileNotFoundError: If `data_dir` does not exist or holds no tiles.
        ValueError: If an argument, a class folder, a zip file or (with "raise") a tile is not as
            it should be.
        OSError: If the download fails although there is a network.
    """
    class_names = tuple(class_names)
    if len(class_names) < 2 or len(set(class_names)) < len(class_names):
        raise ValueError(
            f"`class_names` must be at least two different classes. Received: {class_names}"
        )
    if on_error not in ("raise", "skip"):
        raise ValueError(f'`on_error` must be "raise" or "skip". Received: {on_error!r}')
    data_dir = Path(data_dir).expanduser()
    started = time.perf_counter()
    try:
        source = finding.find(data_dir, class_names)
    except download.NoNetworkError as error:
        if class_names != CLASS_NAMES:
            raise
        images, names = demo.draw(tiles_per_class=200)
        line = "*" * 78
        print(_DEMO_NOTICE.format(line=line, data_dir=data_dir, error=error, tiles=len(images)))
        return _labeled(images, names, class_names, DEMO_SOURCE)
    images, names, problems, cached = reading.read(
        source, class_names, on_error=on_error, cache=data_dir / ".tiles-cache.npy"
    )
    for name, problem in list(problems.items())[:10]:
        print(f"Left out a bad tile: {name}, {problem}.")
    if len(problems) > 10:
        print(f"Left out {len(problems) - 10} more: see `skipped`.")
    tiles = _labeled(images, names, class_names, f"{_FOLDER_SOURCE}{source.resolve().name}")
    if tiles.counts().to_dict() == CLASS_COUNTS:
        tiles = replace(tiles, source="EuroSAT RGB")
    print(
        f"{len(tiles):,} tiles of {len(class_names)} classes from {source.resolve().name} in "
        f"{time.perf_counter() - started:.1f} s, {'cached' if cached else 'decoded'}."
    )
    return replace(tiles, skipped=tuple(problems))


def _labeled(
    images: np.ndarray, names: Sequence[str], class_names: tuple[str, ...], source: str
) -> Tiles:
    """Tiles with the labels that their names say."""
    label = {class_name: index for index, class_name in enumerate(class_names)}
    labels = np.array([label[name.split("/")[0]] for name in names], np.int64)
    return Tiles(images, labels, np.asarray(names), class_names, source)
