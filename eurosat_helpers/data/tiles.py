"""Tiles in memory, and subsets of them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

DEMO_SOURCE = "demo tiles"
IMAGE_SIZE = 64  # pixels
CLASS_COUNTS = {
    "AnnualCrop": 3000,
    "Forest": 3000,
    "HerbaceousVegetation": 3000,
    "Highway": 2500,
    "Industrial": 2500,
    "Pasture": 2000,
    "PermanentCrop": 2500,
    "Residential": 3000,
    "River": 2500,
    "SeaLake": 3000,
}


CLASS_NAMES = tuple(CLASS_COUNTS)


@dataclass(frozen=True, eq=False)
class Tiles:
    """Tiles in memory.

    Attributes:
        images: uint8 of shape (N, 64, 64, 3), RGB, 0 to 255.
        labels: int64 of shape (N,), positions in `class_names`.
        names: str of shape (N,), "Class/Class_12.jpg", with a forward slash on every system.
        class_names: The classes.
        source: What the tiles are, for titles and metadata.
        skipped: Names of the bad tiles that `load(on_error="skip")` left out.
    """

    images: np.ndarray
    labels: np.ndarray
    names: np.ndarray
    class_names: tuple[str, ...]
    source: str
    skipped: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int | slice | Sequence[int] | np.ndarray) -> Tiles:
        """Return a subset: by positions, a boolean mask, a slice, or one position."""
        index = [index] if isinstance(index, (int, np.integer)) else index
        subset = self.images[index], self.labels[index], self.names[index]
        return Tiles(*subset, self.class_names, self.source, self.skipped)

    @property
    def demo(self) -> bool:
        """Whether these are made-up tiles."""
        return self.source == DEMO_SOURCE

    @property
    def truth(self) -> np.ndarray:
        """The class name of each tile, str of shape (N,)."""
        return np.array(self.class_names)[self.labels]

    def counts(self) -> pd.Series:
        """Return the number of tiles of each class, int64 indexed by class name."""
        tiles = np.bincount(self.labels, minlength=len(self.class_names))
        return pd.Series(tiles, index=pd.Index(self.class_names, name="class"), name="tiles")


def select(tiles: Tiles, names: Iterable[str] | str | os.PathLike[str]) -> Tiles:
    """Select tiles by name.

    Args:
        tiles: What to select from.
        names: "Class/Class_12.jpg" or "Class_12.jpg" each, or the path of a text file with one a
            line. Blank lines are passed over; a name that comes again counts once.

    Returns:
        The named tiles, in the order of the names.

    Raises:
        FileNotFoundError: If the text file does not exist.
        ValueError: If a name is not in `tiles`, or if there is no name.
    """
    return tiles[_positions(tiles, names, "names")]


def sample(tiles: Tiles, count: int = 20, *, seed: int | None = None) -> Tiles:
    """Draw tiles at random, as evenly over the classes as can be, in random order.

    Args:
        tiles: What to draw from, each tile at most once.
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
    unknown = [name for name in names if name not in position]
    if unknown:
        raise ValueError(
            f"`{argument}` must be names of the tiles, such as {tiles.names[0]}. Received "
            f"{len(unknown)} that are not: {', '.join(unknown[:3])}"
        )
    return [position[name] for name in dict.fromkeys(names)]
