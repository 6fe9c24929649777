"""Tiles in memory, and what EuroSAT consists of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

IMAGE_SIZE = 64  # pixels
CLASS_COUNTS = {"AnnualCrop": 3000, "Forest": 3000, "HerbaceousVegetation": 3000}
CLASS_COUNTS |= {"Highway": 2500, "Industrial": 2500, "Pasture": 2000, "PermanentCrop": 2500}
CLASS_COUNTS |= {"Residential": 3000, "River": 2500, "SeaLake": 3000}
CLASS_NAMES = tuple(CLASS_COUNTS)
ROOTS = ("2750", "EuroSAT_RGB")  # the folder of class folders in the published archives
DEMO_SOURCE = "demo tiles"


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

    def __getitem__(self, index: int | slice | list[int] | np.ndarray) -> Tiles:
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
