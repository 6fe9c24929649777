"""Subsets of tiles: training, validation and test, by name, or drawn at random."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from eurosat_helpers.data.tiles import Tiles


def split(
    tiles: Tiles,
    *,
    seed: int = 0,
    validation_fraction: float = 0.08,
    test_fraction: float = 0.20,
    test_names: Iterable[str] | str | os.PathLike[str] | None = None,
) -> tuple[Tiles, Tiles, Tiles]:
    """Split each class by a hash of the tiles' names: the same on every machine and version.

    Of a class's n tiles, by the SHA-256 of "seed/name", the first round(test_fraction * n) are for
    the test, the next round(validation_fraction * n) for validation, the rest for training.

    Args:
        tiles: What to split.
        seed: Another seed gives another split.
        validation_fraction: Fraction of each class for validation, above 0.
        test_fraction: Fraction of each class for the test, above 0; both together below 1.
        test_names: The test tiles, in place of `test_fraction`, as the names of `select`.

    Returns:
        Training, validation and test tiles, each in the order of `tiles`.

    Raises:
        ValueError: If a fraction is out of range, a name is not in `tiles` or there twice, or a
            class would be missing from a part.
    """
    if len(set(tiles.names)) < len(tiles):
        raise ValueError("`tiles` must hold each name once. Split first, then repeat tiles.")
    part = np.zeros(len(tiles), np.int64)  # 0 training, 1 validation, 2 test
    if test_names is not None:
        part[np.isin(tiles.names, select(tiles, test_names).names)] = 2
        test_fraction = 0.0
    if not 0 < validation_fraction < 1 - test_fraction <= 1:
        raise ValueError(
            "`validation_fraction` and `test_fraction` must be above 0, and their sum below 1. "
            f"Received: {validation_fraction} and {test_fraction}"
        )
    keys = [f"{seed}/{name}".encode(errors="surrogateescape") for name in tiles.names]
    order = np.argsort([hashlib.sha256(key).hexdigest() for key in keys])
    for label, class_name in enumerate(tiles.class_names):
        members = order[tiles.labels[order] == label]
        part[members[: round(test_fraction * len(members))]] = 2
        others = members[part[members] == 0]
        part[others[: round(validation_fraction * len(members))]] = 1
        counts = np.bincount(part[members], minlength=3).tolist()
        if 0 in counts:
            raise ValueError(
                f"Training, validation and test need a tile of each class, but get {counts} of the "
                f"{len(members)} of {class_name}. Use more tiles or other fractions."
            )
    return tiles[part == 0], tiles[part == 1], tiles[part == 2]


def select(tiles: Tiles, names: Iterable[str] | str | os.PathLike[str]) -> Tiles:
    """Select tiles by name, in the order of the names.

    Args:
        tiles: What to select from.
        names: "Class/Class_12.jpg" or "Class_12.jpg" each, or the path of a text file with one
            name per line. Blank lines and repeated names are ignored.

    Raises:
        FileNotFoundError: If the text file does not exist.
        ValueError: If a name is not in `tiles`, or if there is no name.
    """
    if isinstance(names, (str, os.PathLike)):
        if not (file := Path(names).expanduser()).is_file():
            wanted = "`names` (`test_names`) must be names or a text file. No such file"
            raise FileNotFoundError(f"{wanted}: {file.resolve()}")
        text = file.read_text(encoding="utf-8-sig", errors="surrogateescape")
        names = map(str.strip, text.split("\n"))
    names = [name.rstrip("\r\n") for name in names if name.strip()]
    names = [name if "/" in name else f"{name.rpartition('_')[0]}/{name}" for name in names]
    position = {name: index for index, name in enumerate(tiles.names)}
    unknown = [name for name in names if name not in position]
    if unknown or not names:
        raise ValueError(
            f"`names` must be at least one name of a tile, such as {tiles.names[0]}. Received "
            f"{len(names)} names, {len(unknown)} of them unknown: {', '.join(unknown[:3])}"
        )
    return tiles[[position[name] for name in dict.fromkeys(names)]]


def sample(tiles: Tiles, count: int = 20, *, seed: int | None = None) -> Tiles:
    """Draw tiles at random, spread over the classes as evenly as possible, in random order.

    Args:
        tiles: What to draw from, without replacement.
        count: How many to draw, from 1 to the number of tiles.
        seed: The same seed draws the same tiles; None draws others every time.

    Raises:
        ValueError: If `count` is out of range.
    """
    if not 1 <= count <= len(tiles):
        raise ValueError(f"`count` must be from 1 to {len(tiles)}. Received: {count}")
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(tiles))
    turns = pd.Series(order).groupby(tiles.labels[order]).cumcount()  # 0 is a class's first tile
    chosen = order[np.argsort(turns.to_numpy(), kind="stable")[:count]]
    return tiles[rng.permutation(chosen)]
