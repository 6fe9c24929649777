"""Load EuroSAT, or tiles of your own in the same layout, into memory and split them."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from eurosat_helpers import demo, download, reading, sources
from eurosat_helpers.reading import IMAGE_SIZE as IMAGE_SIZE

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

_DEMO_SOURCE = "demo tiles"
_FOLDER_SOURCE = "tiles in "
_DEMO_NOTICE = """\
{line}
DEMO TILES, NOT EuroSAT. `{data_dir}` holds no tiles and there is no network:
{error}
So {tiles:,} made-up tiles were drawn. No score or figure made from them says
anything about land cover. For the real tiles run this again with a network,
put EuroSAT_RGB.zip into `{data_dir}`, or set EUROSAT_ARCHIVE to its path.
{line}"""


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
        return self.source == _DEMO_SOURCE

    @property
    def truth(self) -> np.ndarray:
        """The class name of each tile, str of shape (N,)."""
        return np.array(self.class_names)[self.labels]

    def counts(self) -> pd.Series:
        """Return the number of tiles of each class, int64 indexed by class name."""
        tiles = np.bincount(self.labels, minlength=len(self.class_names))
        return pd.Series(tiles, index=pd.Index(self.class_names, name="class"), name="tiles")


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
        source = sources.find(data_dir, class_names)
    except download.NoNetworkError as error:
        if class_names != CLASS_NAMES:
            raise
        images, names = demo.draw(tiles_per_class=200)
        line = "*" * 78
        print(_DEMO_NOTICE.format(line=line, data_dir=data_dir, error=error, tiles=len(images)))
        return _labeled(images, names, class_names, _DEMO_SOURCE)
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
    prefix = extra.source.removeprefix(_FOLDER_SOURCE)
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


def _labeled(
    images: np.ndarray, names: Sequence[str], class_names: tuple[str, ...], source: str
) -> Tiles:
    """Tiles with the labels that their names say."""
    label = {class_name: index for index, class_name in enumerate(class_names)}
    labels = np.array([label[name.split("/")[0]] for name in names], np.int64)
    return Tiles(images, labels, np.asarray(names), class_names, source)


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
