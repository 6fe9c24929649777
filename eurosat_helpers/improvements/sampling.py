"""Other training tiles: repeated or added."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np

from eurosat_helpers.data import Tiles


def oversample(tiles: Tiles, *, seed: int) -> Tiles:
    """Repeat tiles at random until each class has as many as the largest.

    Random oversampling to full balance (Buda et al., arXiv 1710.05381): after the split, never
    before it. The images are copied.

    Args:
        tiles: The training tiles.
        seed: Seed of the draw.

    Returns:
        Every tile at least once, in the order of `tiles` with the copies of a tile next to it.
        Within a class the numbers of copies differ by at most one.

    Raises:
        ValueError: If a class has no tile.
    """
    counts = tiles.counts()
    if empty := counts.index[counts == 0].tolist():
        raise ValueError(f"`tiles` must hold a tile of each class. Without: {', '.join(empty)}")
    rng = np.random.default_rng(seed)
    positions = [
        np.resize(rng.permutation(np.flatnonzero(tiles.labels == label)), counts.max())
        for label in range(len(counts))
    ]
    return tiles[np.sort(np.concatenate(positions))]


def add(train: Tiles, extra: Tiles, *, against: Iterable[Tiles]) -> Tiles:
    """Add labelled tiles from elsewhere to the training tiles, and to no other part.

    Load them with `load("more_tiles", class_names=["Pasture"])`, the classes that they have. Tiles
    are compared by their pixels: a tile of `against` that was turned or compressed again is not
    found.

    Args:
        train: The training tiles.
        extra: What to add.
        against: The evaluation tiles, `(validation, test)`: none of them may be in `extra`.

    Returns:
        `train`, then `extra` with its names prefixed by its source: "more_tiles/Class/Class_1.jpg".

    Raises:
        ValueError: If a class of `extra` is unknown, if a tile of it is also in `against`, if a
            name would be there twice, or if demo tiles and real ones would be mixed.
    """
    if unknown := [name for name in extra.class_names if name not in train.class_names]:
        raise ValueError(
            f"`extra` must have the classes of `train`, {', '.join(train.class_names)}. "
            f"Received others: {', '.join(unknown)}"
        )
    against = tuple(against)
    parts = (train, extra, *against)
    if len({part.demo for part in parts}) > 1:
        sources = ", ".join(part.source for part in parts)
        raise ValueError(f"Demo tiles and real tiles must not be mixed. Received: {sources}")
    known = {}
    for part in against:
        known |= zip(map(_digest, part.images), part.names, strict=True)
    digests = zip(map(_digest, extra.images), extra.names, strict=True)
    if leaks := [f"{name} is {known[digest]}" for digest, name in digests if digest in known]:
        raise ValueError(
            "`extra` must hold no tile of `against`, on which the model is evaluated. Remove these "
            f"{len(leaks)} from {extra.source}: {', '.join(leaks)}"
        )
    prefix = extra.source.removeprefix("tiles in ")
    names = np.array([f"{prefix}/{name}" for name in extra.names])
    if repeated := sorted({*train.names} & {*names}):
        raise ValueError(
            f"`extra` was added before, or another folder of its name was: {repeated[0]} is in "
            "`train`. Rename one of the folders."
        )
    labels = np.array([train.class_names.index(name) for name in extra.class_names])
    return Tiles(
        images=np.concatenate([train.images, extra.images]),
        labels=np.concatenate([train.labels, labels[extra.labels]]),
        names=np.concatenate([train.names, names]),
        class_names=train.class_names,
        source=train.source if train.demo else f"{train.source} and {extra.source}",
        skipped=(*train.skipped, *(f"{prefix}/{name}" for name in extra.skipped)),
    )


def _digest(image: np.ndarray) -> bytes:
    return hashlib.sha256(image.tobytes()).digest()
