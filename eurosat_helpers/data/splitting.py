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

    The n tiles of a class are ordered by the SHA-256 of "seed/name". The first
    round(test_fraction * n) are for the test, the next round(validation_fraction * n) for
    validation, the rest for training.

    Args:
        tiles: What to split.
        seed: Another seed gives another split.
        validation_fraction: Fraction of each class for validation, between 0 and 1.
        test_fraction: Fraction of each class for the test, between 0 and 1.
        test_names: The test tiles, in place of `test_fraction`, as the names of `select`.

    Returns:
        Training, validation and test tiles, each in the order of `tiles`.

    Raises:
        ValueError: If a fraction is out of range, a name is not in `tiles` or there twice, or a
            class would be missing from a part.
    """
    if not 0 < validation_fraction < 1:
        raise ValueError(
            f"`validation_fraction` must lie between 0 and 1. Received: {validation_fraction}"
        )
    if test_names is None and not 0 < test_fraction < 1 - validation_fraction:
        raise ValueError(
            "`test_fraction` must lie between 0 and what `validation_fraction` leaves, "
            f"{1 - validation_fraction:g}. Received: {test_fraction}"
        )
    if len(set(tiles.names)) < len(tiles):
        raise ValueError(
            "`tiles` must hold each name once. Split first, then repeat training tiles."
        )
    digests = [hashlib.sha256(f"{seed}/{name}".encode()).digest() for name in tiles.names]
    order = np.array(sorted(range(len(tiles)), key=digests.__getitem__))
    part = np.zeros(len(tiles), np.int64)  # 0 training, 1 validation, 2 test
    if test_names is not None:
        part[_positions(tiles, test_names, "test_names")] = 2
    for label, class_name in enumerate(tiles.class_names):
        members = order[tiles.labels[order] == label]
        if test_names is None:
            part[members[: round(test_fraction * len(members))]] = 2
        others = members[part[members] != 2]
        part[others[: round(validation_fraction * len(members))]] = 1
        training, validation, test = np.bincount(part[members], minlength=3)
        if not (training and validation and test):
            raise ValueError(
                f"Each part needs a tile of each class, but the {len(members)} of {class_name} "
                f"give {training} for training, {validation} for validation and {test} for the "
                "test. Use more tiles or other fractions."
            )
    return tiles[part == 0], tiles[part == 1], tiles[part == 2]


def select(tiles: Tiles, names: Iterable[str] | str | os.PathLike[str]) -> Tiles:
    """Select tiles by name.

    Args:
        tiles: What to select from.
        names: "Class/Class_12.jpg" or "Class_12.jpg" each, or the path of a text file with one
            name per line. Blank lines and repeated names are ignored.

    Returns:
        The named tiles, in the order of the names.

    Raises:
        FileNotFoundError: If the text file does not exist.
        ValueError: If a name is not in `tiles`, or if there is no name.
    """
    return tiles[_positions(tiles, names, "names")]


def sample(tiles: Tiles, count: int = 20, *, seed: int | None = None) -> Tiles:
    """Draw tiles at random, spread over the classes as evenly as possible, in random order.

    Args:
        tiles: What to draw from, without replacement.
        count: How many to draw.
        seed: The same seed draws the same tiles; None draws others every time.

    Returns:
        `count` tiles.

    Raises:
        ValueError: If `count` is less than 1 or more than there are tiles.
    """
    if not 1 <= count <= len(tiles):
        raise ValueError(f"`count` must be from 1 to {len(tiles)}. Received: {count}")
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(tiles))
    turns = pd.Series(order).groupby(tiles.labels[order]).cumcount()  # 0 is a class's first tile
    chosen = order[np.argsort(turns.to_numpy(), kind="stable")[:count]]
    return tiles[rng.permutation(chosen)]


def _positions(
    tiles: Tiles, names: Iterable[str] | str | os.PathLike[str], argument: str
) -> list[int]:
    """Positions of the named tiles, in the order of the names and each once."""
    if isinstance(names, (str, os.PathLike)):
        if not Path(names).is_file():
            raise FileNotFoundError(
                f"`{argument}` must be names or the path of a text file. No such file: {names}"
            )
        names = Path(names).read_text(encoding="utf-8-sig").splitlines()
    names = [name.strip() for name in names if name.strip()]
    if not names:
        raise ValueError(f"`{argument}` must name at least one tile. Received: none")
    names = [name if "/" in name else f"{name.rpartition('_')[0]}/{name}" for name in names]
    position = {name: index for index, name in enumerate(tiles.names)}
    if unknown := [name for name in names if name not in position]:
        raise ValueError(
            f"`{argument}` must be names of the tiles, such as {tiles.names[0]}. Received "
            f"{len(unknown)} that are not: {', '.join(unknown[:3])}"
        )
    return [position[name] for name in dict.fromkeys(names)]
