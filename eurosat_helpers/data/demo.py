"""Made-up tiles that look roughly like EuroSAT, for tests and for a machine without the data.

Each class is a patchwork of fields, on some with lines or rows of dots. A score on these tiles
says that the code works, and nothing about land cover.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.random import Generator
from PIL import Image

from eurosat_helpers.data.tiles import CLASS_NAMES, IMAGE_SIZE

_ROW, _COLUMN = np.mgrid[:IMAGE_SIZE, :IMAGE_SIZE] - (IMAGE_SIZE - 1) / 2
# Colors as the satellite sees them: dark, and bluish from the haze.
_SOIL = ((196, 154, 138), (168, 142, 122), (150, 122, 118), (128, 110, 112), (214, 178, 150))
_GREEN = ((34, 62, 58), (44, 84, 66), (40, 72, 78), (62, 100, 76))
_GRASS = ((46, 84, 74), (56, 98, 74), (66, 100, 84), (58, 84, 92), (84, 108, 84))
_HEATH = ((74, 72, 74), (110, 92, 84), (92, 96, 88), (150, 118, 108), (64, 74, 94), (84, 92, 70))
_WATER = ((36, 58, 84), (40, 66, 88), (54, 92, 104), (74, 116, 112), (32, 48, 72), (46, 74, 80))
_ROOFS = ((196, 190, 192), (170, 126, 112), (150, 140, 144), (122, 112, 118), (206, 160, 140))
_HALLS = ((236, 236, 238), (150, 154, 166), (222, 206, 190), (112, 116, 130), (112, 110, 118))

_GROUNDS = {  # colors, how many of them, pixels of a field, bend, hedges, texture
    "AnnualCrop": (_SOIL + _GREEN, 6, 24, 1, 0.2, 2),
    "Forest": (_GREEN[:3], 1, 999, 0, 0, 4),
    "HerbaceousVegetation": (_HEATH, 2, 24, 12, 0, 10),
    "Industrial": (_HALLS + _GREEN[:1], 6, 9, 0, 0.4, 5),
    "Pasture": (_GRASS, 1, 18, 5, 0.7, 2),
    "PermanentCrop": (_SOIL + _GRASS[:1], 3, 18, 2, 0, 3),
    "Residential": (_ROOFS + _GREEN, 6, 4, 3, 0.2, 4),
    "SeaLake": (_WATER, 1, 999, 0, 0, 0.8),
}
_LINES = {  # colors, least and most pixels across, bend, most lines
    "Highway": (_HALLS[1:3], 3, 5, 3, 3),
    "River": (_WATER, 12, 26, 7, 1),
}


def draw(tiles_per_class: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Draw tiles of all ten classes in memory.

    Args:
        tiles_per_class: Number of tiles of each class.
        seed: Seed of the drawing. Tile k of a class depends on it and on k alone.

    Returns:
        Images, uint8 of shape (N, 64, 64, 3), and names, str of shape (N,), such as
        "Forest/Forest_1.jpg", by class; N is 10 times `tiles_per_class`.

    Raises:
        ValueError: If `tiles_per_class` is less than 1.
    """
    if tiles_per_class < 1:
        raise ValueError(f"`tiles_per_class` must be at least 1. Received: {tiles_per_class}")
    tiles = [(label, number) for label in range(10) for number in range(1, tiles_per_class + 1)]
    images = [_paint(np.random.default_rng([seed, *tile]), CLASS_NAMES[tile[0]]) for tile in tiles]
    names = [f"{CLASS_NAMES[label]}/{CLASS_NAMES[label]}_{number}.jpg" for label, number in tiles]
    return np.stack(images), np.array(names)


def write(folder: str | os.PathLike[str], tiles_per_class: int, *, seed: int = 0) -> Path:
    """Write drawn tiles as JPEG files to `folder/2750/<Class>/<Class>_<N>.jpg`.

    Returns:
        The folder, made if it was missing and ready for `data.load`.

    Raises:
        FileExistsError: If the folder already holds a `2750`, which might be the real tiles.
    """
    root = Path(folder) / "2750"
    if root.exists():
        raise FileExistsError(f"`{root}` already exists: choose an empty `folder`.")
    for image, name in zip(*draw(tiles_per_class, seed=seed), strict=True):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(root / name, quality=95)
    return root.parent


def _paint(rng: Generator, class_name: str) -> np.ndarray:
    """One tile, uint8 of shape (64, 64, 3)."""
    around = ("AnnualCrop", "HerbaceousVegetation", "Pasture", "Pasture")
    ground = rng.choice(around) if class_name in _LINES else class_name
    colors, count, size, bend, hedges, texture = _GROUNDS[ground]
    colors = np.array(colors, float)[rng.integers(len(colors), size=count)]
    colors = colors * (1 + 0.08 * rng.normal(size=(count, 1)))
    along, across = _axes(rng, bend)
    size = size * (0.7 + 0.6 * rng.random())
    column = np.floor(along / size + rng.random()).astype(int)
    row = np.floor(across / size + rng.random(256)[column]).astype(int)
    field = rng.integers(256, size=(256, 256))[column, row]
    image = (colors[rng.integers(count, size=256)] + 4 * rng.normal(size=(256, 1)))[field]
    border = np.any(np.gradient(field.astype(float)), axis=0)
    image = _blend(image, 0.6 * colors[0], hedges * border)
    for cells in (7, 15, 31):
        image = image + texture * rng.random() * _noise(rng, cells)[..., None]
    if class_name == "PermanentCrop":
        dots = np.cos(1.6 * along) + np.cos(1.6 * across) * (rng.random() < 0.7)
        image = _blend(image, _GREEN[1], np.clip(dots, 0, 0.8))
    elif class_name in _LINES:
        palette, least, most, bend, lines = _LINES[class_name]
        color, width = palette[rng.integers(len(palette))], rng.uniform(least, most)
        for _ in range(rng.integers(lines) + 1):
            distance = np.abs(_axes(rng, bend)[1] + 10 * rng.normal())
            image = _blend(image, color, np.clip(width / 2 + 0.5 - distance, 0, 1))
    light, haze = rng.uniform(0.75, 1.3), rng.random() * np.array([4, 8, 16])
    image = image * light + haze + 1.5 * rng.normal(size=image.shape)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def _axes(rng: Generator, bend: float) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates in pixels along and across a random direction, bent by smooth noise."""
    angle = 2 * np.pi * rng.random()
    along = np.cos(angle) * _COLUMN + np.sin(angle) * _ROW + bend * _noise(rng, 2)
    return along, np.cos(angle) * _ROW - np.sin(angle) * _COLUMN + bend * _noise(rng, 2)


def _noise(rng: Generator, cells: int) -> np.ndarray:
    """Smooth noise of about unit variance with `cells` bumps across the tile, shape (64, 64)."""
    weights = np.abs(np.linspace(0, cells, IMAGE_SIZE)[:, None] - np.arange(cells + 1))
    weights = np.cos(np.pi / 2 * np.clip(weights, 0, 1)) ** 2
    return 1.4 * weights @ rng.normal(size=(cells + 1, cells + 1)) @ weights.T


def _blend(image: np.ndarray, color: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Lay a color over the image, shape (64, 64, 3), where the weight, (64, 64), is 1."""
    return image + (color - image) * weight[..., None]
