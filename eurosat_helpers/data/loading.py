"""Load EuroSAT, or tiles of your own in the same layout, into memory."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from eurosat_helpers.data import demo, finding, reading
from eurosat_helpers.data.tiles import CLASS_COUNTS, CLASS_NAMES, DEMO_SOURCE, Tiles


def load(
    data_dir: str | os.PathLike[str] = "EuroSAT",
    *,
    class_names: Sequence[str] = CLASS_NAMES,
    on_error: str = "raise",
) -> Tiles:
    """Load all tiles into memory, and print how many came from where.

    The first of these that exists is read: class folders in `data_dir`, bare or in `2750` or
    `EuroSAT_RGB`; the zip file of such folders that the environment variable EUROSAT_ARCHIVE
    names; one that lies in `data_dir`; a published archive, downloaded into `data_dir`; and,
    without any network, made-up tiles with a notice. EUROSAT_ARCHIVE, the download and the made-up
    tiles apply only to a `data_dir` named "EuroSAT". A hidden file in `data_dir` keeps the decoded
    tiles, for a quick load the next time.

    Args:
        data_dir: Folder of the tiles. One named "EuroSAT" may be empty or missing.
        class_names: The classes, each the name of a folder, in the order of the labels.
        on_error: What to do at a bad tile: "raise" an error that names it, or "skip" it and list
            it in `skipped`.

    Returns:
        The tiles, by class and by number within a class, on every file system.

    Raises:
        FileNotFoundError: If `data_dir` does not exist or holds no tiles.
        ValueError: If an argument, a class folder, a zip file or (with "raise") a tile is bad.
        OSError: If the download fails although there is a network.
    """
    class_names = tuple(map(str, class_names))  # YAML reads the name of a folder "1" as a number
    if not 0 < len(set(class_names)) == len(class_names):
        raise ValueError(f"`class_names` must be one or more, different. Received: {class_names}")
    if on_error not in ("raise", "skip"):
        raise ValueError(f'`on_error` must be "raise" or "skip". Received: {on_error!r}')
    data_dir, started = Path(data_dir).expanduser(), time.perf_counter()
    try:
        source = finding.find(data_dir, class_names)
    except ConnectionError as error:
        if class_names != CLASS_NAMES:
            raise
        (images, names), problems, title = demo.draw(tiles_per_class=100), {}, DEMO_SOURCE
        print(
            f"{'*' * 78}\nDEMO TILES, NOT EuroSAT. `{data_dir}` holds no tiles. {error}\n"
            f"{len(images):,} made-up tiles take their place. No score or figure made from them "
            f"says\nanything about land cover.\n{'*' * 78}"
        )
    else:
        cache, found = data_dir / ".tiles-cache", source.resolve().name
        images, names, problems, cached = reading.read(source, class_names, on_error, cache)
        for name, problem in list(problems.items())[:10]:
            print(f"Left out a bad tile: {name}, {problem}.")
        if len(problems) > 10:
            print(f"Left out {len(problems) - 10} more: see `skipped`.")
        title = f"tiles in {found}"
        print(
            f"{len(images):,} tiles of {len(class_names)} classes from {found} in "
            f"{time.perf_counter() - started:.1f} s, {'cached' if cached else 'decoded'}."
        )
    labels = np.array([class_names.index(name.split("/")[0]) for name in names], np.int64)
    tiles = Tiles(images, labels, np.asarray(names), class_names, title, tuple(problems))
    counts = tiles.counts()
    if not counts.all():
        raise ValueError(
            f"`{data_dir}` holds no tile of the class {', '.join(counts.index[counts == 0])}. Add "
            "some, or leave the class out of `class_names`."
        )
    return replace(tiles, source="EuroSAT RGB") if counts.to_dict() == CLASS_COUNTS else tiles
