"""Made-up tiles that look roughly like EuroSAT, for tests and for a machine without the data.

Each class is painted with NumPy from a few ingredients (smooth noise, a patchwork of fields,
curved bands, rows of dots, rectangles) in random colors, scales and directions. A score on these
tiles says that the code works, and nothing about land cover.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.random import Generator
from PIL import Image

Palette = Sequence[tuple[int, int, int]]

SIZE = 64  # pixels
_ROW, _COLUMN = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2

# Colors as the satellite sees them: dark, and bluish from the haze.
_SOIL = ((196, 154, 138), (168, 142, 122), (150, 122, 118), (128, 110, 112), (214, 178, 150))
_GREEN = ((34, 62, 58), (44, 84, 66), (40, 72, 78), (62, 100, 76))
_GRASS = ((46, 84, 74), (56, 98, 74), (66, 100, 84), (58, 84, 92), (84, 108, 84))
_HEATH = ((74, 72, 74), (110, 92, 84), (92, 96, 88), (150, 118, 108), (64, 74, 94), (84, 92, 70))
_WATER = ((36, 58, 84), (40, 66, 88), (54, 92, 104), (74, 116, 112), (32, 48, 72), (46, 74, 80))
_ROOFS = ((196, 190, 192), (170, 126, 112), (150, 140, 144), (122, 112, 118), (206, 160, 140))
_HALLS = ((236, 236, 238), (190, 194, 202), (150, 154, 166), (222, 206, 190), (112, 116, 130))
_ASPHALT = ((112, 110, 118), (134, 130, 134), (150, 142, 140), (96, 98, 108))


def draw(tiles_per_class: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Draw tiles of all ten classes in memory.

    Tile k of a class depends on the seed and on k alone, not on how many tiles are drawn.

    Args:
        tiles_per_class: Number of tiles of each class.
        seed: Any non-negative integer; another seed gives other tiles.

    Returns:
        Images, uint8 of shape (10 * tiles_per_class, 64, 64, 3), and their names, str of shape
        (10 * tiles_per_class,), such as "Forest/Forest_1.jpg", class by class.

    Raises:
        ValueError: If `tiles_per_class` is less than 1.
    """
    if tiles_per_class < 1:
        raise ValueError(f"`tiles_per_class` must be at least 1. Received: {tiles_per_class}")
    images, names = [], []
    for label, (class_name, paint) in enumerate(_PAINTERS.items()):
        for number in range(1, tiles_per_class + 1):
            rng = np.random.default_rng([seed, label, number])
            images.append(_photograph(rng, paint(rng)))
            names.append(f"{class_name}/{class_name}_{number}.jpg")
    return np.stack(images), np.array(names)


def write(folder: str | os.PathLike[str], tiles_per_class: int, *, seed: int = 0) -> Path:
    """Write drawn tiles as JPEG files in the layout of EuroSAT.

    Args:
        folder: Folder that gets `2750/<Class>/<Class>_<N>.jpg`; made if it is missing.
        tiles_per_class: Number of tiles of each class.
        seed: As for `draw`.

    Returns:
        The folder, ready for `data.load`.

    Raises:
        FileExistsError: If the folder already holds a `2750`, which might be the real tiles.
    """
    folder = Path(folder)
    if (folder / "2750").exists():
        raise FileExistsError(f"`{folder / '2750'}` already exists: choose an empty `folder`.")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".demo-") as temporary:
        root = Path(temporary) / "2750"
        for image, name in zip(*draw(tiles_per_class, seed=seed), strict=True):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(root / name, quality=95)
        root.rename(folder / "2750")
    return folder


# Ingredients. Images in the making are float arrays of shape (64, 64, 3), values 0 to 255.


def _pick(rng: Generator, palette: Palette) -> np.ndarray:
    """A color near one of the palette, shape (3,)."""
    light = 1 + 0.08 * rng.normal() + 0.02 * rng.normal(size=3)
    return np.asarray(palette[rng.integers(len(palette))], float) * light


def _axes(rng: Generator, bend: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates in pixels along and across a random direction, bent by smooth noise."""
    angle = 2 * np.pi * rng.random()
    along = np.cos(angle) * _COLUMN + np.sin(angle) * _ROW
    across = np.cos(angle) * _ROW - np.sin(angle) * _COLUMN
    if bend:
        along = along + bend * _noise(rng, 2)
        across = across + bend * _noise(rng, 2)
    return along, across


def _noise(rng: Generator, cells: int) -> np.ndarray:
    """Smooth noise of about unit variance with `cells` bumps across the tile, shape (64, 64)."""
    position = np.linspace(0, cells, SIZE)
    weights = np.clip(1 - np.abs(position[:, None] - np.arange(cells + 1)), 0, 1)
    weights = weights**2 * (3 - 2 * weights)
    return 1.4 * weights @ rng.normal(size=(cells + 1, cells + 1)) @ weights.T


def _texture(rng: Generator, coarse: float, fine: float) -> np.ndarray:
    """Noise of several scales, shape (64, 64, 1), with the given strength at either end."""
    scales = zip((3, 7, 15, 31), np.linspace(coarse, fine, 4), strict=True)
    return sum(strength * _noise(rng, cells) for cells, strength in scales)[..., None]


def _patchwork(
    rng: Generator, size: float, bend: float = 0.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fields of about `size` pixels: their numbers 0 to 255 and the coordinates they lie along."""
    along, across = _axes(rng, bend)
    fences = np.cumsum(size * (0.5 + rng.random(24))) - 64
    column = np.searchsorted(fences, along)
    length = size * (0.5 + 1.5 * rng.random(25))
    row = np.floor((across + 200 * (1 + rng.random(25)[column])) / length[column])
    return (column * 41 + row.astype(int)) % 256, along, across


def _edges(fields: np.ndarray) -> np.ndarray:
    """Boundaries between fields, bool of shape (64, 64, 1)."""
    down = np.diff(fields, axis=0, prepend=fields[:1]) != 0
    right = np.diff(fields, axis=1, prepend=fields[:, :1]) != 0
    return (down | right)[..., None]


def _colors(rng: Generator, palette: Palette | list[np.ndarray], spread: float) -> np.ndarray:
    """256 colors near those of the palette, one for each number of a field, shape (256, 3)."""
    chosen = np.asarray(palette, float)[rng.integers(len(palette), size=256)]
    return chosen + spread * rng.normal(size=(256, 1)) + 0.2 * spread * rng.normal(size=(256, 3))


def _band(distance: np.ndarray, width: float) -> np.ndarray:
    """Weight 1 within `width` pixels of a line and 0 outside, soft at the rim, (64, 64, 1)."""
    return np.clip(width / 2 + 0.5 - np.abs(distance), 0, 1)[..., None]


def _blend(image: np.ndarray, color: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Lay a color over the image where the weight is 1."""
    return image + (color - image) * weight


def _photograph(rng: Generator, image: np.ndarray) -> np.ndarray:
    """Blur, light, haze and sensor noise: the painting as a uint8 tile."""
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)), mode="edge")
    blurred = (padded[:-2] + 2 * padded[1:-1] + padded[2:]) / 4
    blurred = (blurred[:, :-2] + 2 * blurred[:, 1:-1] + blurred[:, 2:]) / 4
    image = 0.25 * image + 0.75 * blurred
    light, haze = 1 + 0.15 * rng.normal(), rng.random() * np.array([4, 8, 16])
    image = image * np.clip(light, 0.7, 1.4) + haze + 1.5 * rng.normal(size=image.shape)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


# One painter a class.


def _annual_crop(rng: Generator) -> np.ndarray:
    fields, along, _ = _patchwork(rng, 18 + 22 * rng.random(), bend=1.0)
    image = _colors(rng, _SOIL + _GREEN[: rng.integers(5)], 9)[fields]
    furrows = np.sin(along * (0.9 + rng.random()) + fields)
    image = image + (1 + 3 * rng.random()) * furrows[..., None] + _texture(rng, 3, 1)
    return _blend(image, _pick(rng, _SOIL), 0.3 * _edges(fields))


def _forest(rng: Generator) -> np.ndarray:
    image = _pick(rng, ((34, 60, 62), (38, 66, 70), (40, 64, 84), (34, 72, 62)))
    return image + _texture(rng, 1 + 2 * rng.random(), 2 + 3 * rng.random())


def _herbaceous_vegetation(rng: Generator) -> np.ndarray:
    along, across = _axes(rng, bend=10.0)
    cover = np.clip(0.5 + _texture(rng, 0.5, 0.3), 0, 1)
    image = _pick(rng, _HEATH)
    image = _blend(image, 0.6 * image + 0.4 * _pick(rng, _HEATH), cover)
    for line in (along, across)[: rng.integers(3)]:
        image = _blend(image, _pick(rng, _SOIL), 0.4 * _band(line, 1))
    ridges = 1 - np.abs(_noise(rng, 9) + _noise(rng, 17))[..., None]
    return image + 8 * rng.random() * ridges + _texture(rng, 3, 4 + 5 * rng.random())


def _highway(rng: Generator) -> np.ndarray:
    image = _countryside(rng)
    asphalt, width = _pick(rng, _ASPHALT), 3 + 2 * rng.random()
    for _ in range(rng.integers(1, 4)):
        along, across = _axes(rng)
        bend = 0.012 * rng.normal() * along**2 + 36 * (rng.random() - 0.5)
        image = _blend(image, 0.8 * asphalt, _band(across - bend, width + 2))
        image = _blend(image, asphalt, _band(across - bend, width))
        if width > 3.5:
            image = _blend(image, 0.6 * asphalt, _band(across - bend, 0.8))
        width = 1.5 + 1.5 * rng.random()
    return image


def _industrial(rng: Generator) -> np.ndarray:
    lots, along, across = _patchwork(rng, 14 + 10 * rng.random())
    image = _colors(rng, (*_ASPHALT, *_ASPHALT, *_GRASS), 6)[lots] * 0.85 + _texture(rng, 4, 7)
    image = _blend(image, _pick(rng, _ASPHALT), 0.8 * _edges(lots))
    for _ in range(rng.integers(8, 20)):
        x, y = 76 * (rng.random(2) - 0.5)
        width, length = 4 + 14 * rng.random() ** 2, 6 + 20 * rng.random() ** 2
        shadow = _band(along - x - 1.5, width) * _band(across - y - 1.5, length)
        hall = _band(along - x, width) * _band(across - y, length)
        image = _blend(image, np.array([44.0, 50, 64]), 0.8 * shadow)
        ridges = 6 * np.sin(along * (1 + rng.random()))[..., None]
        image = _blend(image, _pick(rng, _HALLS) + ridges, hall)
    return image


def _pasture(rng: Generator) -> np.ndarray:
    fields, _, _ = _patchwork(rng, 14 + 16 * rng.random(), bend=5.0)
    image = _colors(rng, [_pick(rng, _GRASS)], 6)[fields] + _texture(rng, 3, 1)
    hedge = _edges(fields) & (_noise(rng, 8)[..., None] > -0.6)
    image = _blend(image, _pick(rng, _GREEN[:1]), 0.7 * hedge)
    trees = _noise(rng, 24)[..., None] > 2.6
    return _blend(image, _pick(rng, _GREEN[:1]), 0.8 * trees)


def _permanent_crop(rng: Generator) -> np.ndarray:
    fields, along, across = _patchwork(rng, 12 + 12 * rng.random(), bend=2.0)
    image = _colors(rng, _SOIL + _GRASS[:1], 8)[fields] + _texture(rng, 3, 2)
    step = 2 * np.pi / (3 + 1.5 * rng.random())
    rows = np.cos(step * along) + np.cos(step * across) * (rng.random() < 0.7)
    planted = (rng.random(256) < 0.75)[fields]
    crowns = np.clip(rows - 0.2, 0, 1)[..., None] * planted[..., None]
    return _blend(image, _pick(rng, _GREEN), 0.55 * crowns)


def _residential(rng: Generator) -> np.ndarray:
    along, across = _axes(rng, bend=4 * rng.random())
    image = _pick(rng, _GREEN) + _texture(rng, 8, 10)
    plot = 3 + 2 * rng.random()
    x, y = along / plot + 100, across / (plot * (0.8 + 0.4 * rng.random())) + 100
    house = (np.floor(x) * 57 + np.floor(y) * 131).astype(int) % 256
    built = (rng.random(256) < 0.5 + 0.4 * rng.random())[house]
    size = 0.3 + 0.15 * rng.random(256)
    inside = np.maximum(np.abs(x % 1 - 0.5), np.abs(y % 1 - 0.5)) < size[house]
    palette = [_pick(rng, _ROOFS) for _ in range(2)]
    image = _blend(image, _colors(rng, palette, 18)[house], 0.85 * (inside & built)[..., None])
    street = _pick(rng, _ASPHALT)
    for line in (x, y):
        period = rng.integers(3, 7)
        image = _blend(image, street, 0.8 * _band(plot * (line % period - period / 2), 1.2))
    return image


def _river(rng: Generator) -> np.ndarray:
    image = _countryside(rng)
    along, across = _axes(rng)
    meander = 9 * np.sin(along * (0.03 + 0.06 * rng.random()) + 6 * rng.random()) * rng.random()
    distance = across - meander - 8 * rng.normal() + _noise(rng, 6)
    width = 10 + 16 * rng.random()
    image = _blend(image, _pick(rng, _SOIL + _GREEN), 0.6 * _band(distance, width + 4))
    return _blend(image, _pick(rng, _WATER), _band(distance, width))


def _sea_lake(rng: Generator) -> np.ndarray:
    along, _ = _axes(rng, bend=3.0)
    waves = np.sin(along * (0.3 + rng.random()))[..., None] * rng.random()
    return _pick(rng, _WATER) + waves + _texture(rng, 2.5 * rng.random(), 0.3)


def _countryside(rng: Generator) -> np.ndarray:
    """What roads and rivers run through."""
    surroundings = (_annual_crop, _forest, _pasture, _pasture, _herbaceous_vegetation, _residential)
    return surroundings[rng.integers(len(surroundings))](rng)


_PAINTERS = {
    "AnnualCrop": _annual_crop,
    "Forest": _forest,
    "HerbaceousVegetation": _herbaceous_vegetation,
    "Highway": _highway,
    "Industrial": _industrial,
    "Pasture": _pasture,
    "PermanentCrop": _permanent_crop,
    "Residential": _residential,
    "River": _river,
    "SeaLake": _sea_lake,
}
