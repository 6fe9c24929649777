"""Other training tiles: repeated, drawn or added."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
from sklearn.utils import resample

from eurosat_helpers.data import Tiles


def oversample(tiles: Tiles, *, seed: int) -> Tiles:
    """Repeat tiles at random until each class counts as many as the largest.

    Random oversampling to full balance (Buda et al., arXiv 1710.05381). For training tiles only:
    after the split, never before it, and never for tiles that judge. The images are copied.

    Args:
        tiles: The training tiles.
        seed: Seed of the draw.

    Returns:
        Every tile at least once, in the order of `tiles` with the copies of a tile next to it. In
        a class no tile comes more than once oftener than another.

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

    Load them with `load("more_tiles", class_names=train.class_names)`, or with those of the classes
    that the folder holds. Tiles are told apart by their pixels: a tile of `against` that was turned
    or compressed anew is not found.

    Args:
        train: The training tiles.
        extra: What to add.
        against: The tiles that judge, `(validation, test)`: none of them may be in `extra`.

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
    if len({part.demo for part in (train, extra, *against)}) > 1:
        raise ValueError(
            "Demo tiles and real tiles must not be mixed: a score of both says nothing. Received: "
            + ", ".join(part.source for part in (train, extra, *against))
        )
    judging = {
        _digest(image): name
        for part in against
        for image, name in zip(part.images, part.names, strict=True)
    }
    leaks = [
        f"{name} is {judging[digest]}"
        for image, name in zip(extra.images, extra.names, strict=True)
        if (digest := _digest(image)) in judging
    ]
    if leaks:
        raise ValueError(
            f"`extra` must hold no tile of `against`, which would be no judge of what it taught. "
            f"Remove {len(leaks)} from {extra.source}: {', '.join(leaks[:5])}"
            f"{', ...' if len(leaks) > 5 else ''}"
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


def bootstrap(tiles: Tiles, *, seed: int, fraction: float = 1.0) -> Tiles:
    """Draw the training tiles of one member of a bagging ensemble (Breiman 1996).

    With replacement, so that about a third of the tiles is missing from each draw of full size,
    and class by class, so that each class keeps its share.

    Args:
        tiles: The training tiles.
        seed: Seed of the draw; give each member another.
        fraction: Size of the draw as a share of `tiles`, above 0 and at most 1.

    Returns:
        The drawn tiles in random order; some come several times. A copy of 12 kB each.

    Raises:
        ValueError: If `fraction` is out of range, or too small for one tile a class.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"`fraction` must be above 0 and at most 1. Received: {fraction}")
    count, classes = round(fraction * len(tiles)), len(np.unique(tiles.labels))
    if count < classes:
        raise ValueError(
            f"`fraction` must leave at least {classes} tiles, one a class. "
            f"Received: {fraction}, {count} of {len(tiles)} tiles"
        )
    return tiles[
        resample(np.arange(len(tiles)), n_samples=count, stratify=tiles.labels, random_state=seed)
    ]
