"""Made-up tiles that look roughly like EuroSAT, for tests and for a machine without the data.

Each class is a patchwork of fields, on some with a line or rows of dots. A score on these tiles
says that the code works, and nothing about land cover.
"""

from __future__ import annotations

import numpy as np
from numpy.random import Generator
from PIL import Image

from eurosat_helpers.data.tiles import CLASS_NAMES, IMAGE_SIZE

_GREEN = ((34, 62, 58), (44, 84, 66), (62, 100, 76), (58, 84, 92))
_SOIL = ((196, 154, 138), (150, 122, 118), (128, 110, 112))
_HEATH = ((74, 72, 74), (110, 92, 84), (92, 96, 88), (64, 74, 94))
_WATER = ((36, 58, 84), (54, 92, 104), (74, 116, 112), (32, 48, 72))
_ROOFS = ((196, 190, 192), (170, 126, 112), (206, 160, 140), (122, 112, 118))
_HALLS = ((236, 236, 238), (150, 154, 166), (222, 206, 190), (112, 110, 118))

_FIELDS = {  # colors, pixels of a field, bend, texture
    "AnnualCrop": (_SOIL + _GREEN, 24, 1, 3),
    "Forest": (_GREEN, 999, 0, 5),
    "HerbaceousVegetation": (_HEATH, 24, 9, 10),
    "Highway": (_GREEN + _HEATH, 24, 5, 3),
    "Industrial": (_HALLS + _GREEN[:1], 9, 0, 5),
    "Pasture": (_GREEN, 24, 5, 2),
    "PermanentCrop": (_SOIL + _GREEN, 18, 2, 3),
    "Residential": (_ROOFS + _GREEN, 4, 3, 4),
    "River": (_GREEN + _HEATH, 24, 5, 3),
    "SeaLake": (_WATER, 999, 0, 1),
}
_LINES = {"Highway": (_HALLS, 3, 6), "River": (_WATER, 12, 26)}  # colors, least and most pixels


def draw(tiles_per_class: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Draw tiles of all ten classes in memory; tile k of a class depends on k and `seed` alone.

    Returns:
        Images, uint8 of shape (N, 64, 64, 3), and names, str of shape (N,), such as
        "Forest/Forest_1.jpg", by class; N is 10 times `tiles_per_class`.
    """
    tiles = [(label, number) for label in range(10) for number in range(1, tiles_per_class + 1)]
    images = [_paint(np.random.default_rng([seed, *tile]), CLASS_NAMES[tile[0]]) for tile in tiles]
    names = [f"{CLASS_NAMES[label]}/{CLASS_NAMES[label]}_{number}.jpg" for label, number in tiles]
    return np.stack(images), np.array(names)


def _paint(rng: Generator, class_name: str) -> np.ndarray:
    colors, size, bend, texture = _FIELDS[class_name]
    along, across = _axes(rng, bend)
    fields = rng.choice(colors, size=(64, 64)) + 4 * rng.normal(size=(64, 64, 3))
    places = np.stack([along, across]) / (size * rng.uniform(0.7, 1.3)) + rng.random((2, 1, 1))
    image = fields[tuple(np.floor(places).astype(int))]
    for cells in (7, 31):
        image += texture * _noise(rng, cells)[..., None]
    if class_name == "PermanentCrop":
        image[np.cos(1.6 * along) + rng.integers(2) * np.cos(1.6 * across) > 0.3] = _GREEN[1]
    elif class_name in _LINES:
        colors, least, most = _LINES[class_name]
        distance = np.abs(_axes(rng, 5)[1] + 10 * rng.normal())
        image[distance < rng.uniform(least, most) / 2] = rng.choice(colors)
    image = image * rng.uniform(0.75, 1.3) + 1.5 * rng.normal(size=image.shape)
    return np.clip(image, 1, 255).astype(np.uint8)


def _axes(rng: Generator, bend: float) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates in pixels along and across a random direction, bent by smooth noise."""
    angle, axis = 2 * np.pi * rng.random(), np.arange(IMAGE_SIZE) - IMAGE_SIZE / 2
    along = np.cos(angle) * axis + np.sin(angle) * axis[:, None] + bend * _noise(rng, 3)
    return along, np.cos(angle) * axis[:, None] - np.sin(angle) * axis + bend * _noise(rng, 3)


def _noise(rng: Generator, cells: int) -> np.ndarray:
    """Smooth noise with `cells` bumps across the tile, float of shape (64, 64)."""
    bumps = Image.fromarray(rng.normal(size=(cells, cells)).astype(np.float32))
    return np.asarray(bumps.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC))
