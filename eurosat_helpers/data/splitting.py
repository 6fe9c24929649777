"""Split tiles into training, validation and test by a hash of their names."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable

import numpy as np

from eurosat_helpers.data.tiles import Tiles, _positions


def split(
    tiles: Tiles,
    *,
    seed: int = 0,
    validation_fraction: float = 0.08,
    test_fraction: float = 0.20,
    test_names: Iterable[str] | str | os.PathLike[str] | None = None,
) -> tuple[Tiles, Tiles, Tiles]:
    """Split each class by a hash of the tiles' names: alike on every machine and version.

    The n tiles of a class are ordered by the SHA-256 of "seed/name". The first
    round(test_fraction * n) are for the test, the next round(validation_fraction * n) for
    validation, the rest for training.

    Args:
        tiles: What to split.
        seed: Another seed gives another split.
        validation_fraction: Fraction of each class for validation, between 0 and 1.
        test_fraction: Fraction of each class for the test, between 0 and 1.
        test_names: The test tiles, in place of `test_fraction`: names as `select` takes them, such
            as a published list. Validation is drawn from the others.

    Returns:
        Training, validation and test tiles, each in the order of `tiles`.

    Raises:
        ValueError: If a fraction is out of range, if a name is not in `tiles` or is there twice,
            or if a class would be missing from a part.
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
            "`tiles` must hold each name once, else a tile could fall into two parts. Split first, "
            "then repeat training tiles with `oversample`."
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
