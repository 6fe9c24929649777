"""Measure what a saved model makes of changes that its table does not have.

Run `python tests/benchmarks/further_changes.py [FOLDER]` where the environment variable
EUROSAT_ARCHIVE names EuroSAT.zip; FOLDER is that of the saved model, by default the shipped one.
The tiles are 1,000 of its validation tiles, drawn with seed 0, so that the test tiles stay unseen
where recipes are compared. Three of the changes shift colors and light within the ranges of
`RandomAppearance`, and with its `damaged` two more are in the training of the shipped model
(`KNOWN`). No other one here may join it.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageFilter
from scipy import ndimage

from eurosat_helpers import artifact, data
from eurosat_helpers.augmentation import RandomAppearance

PROJECT = Path(__file__).resolve().parents[2]


def stretch(tiles: np.ndarray) -> np.ndarray:
    """Each band of each tile from its percentiles 2 and 98 to 0 and 255, as viewers do."""
    low, high = np.percentile(tiles, (2, 98), axis=(1, 2), keepdims=True)
    return (tiles - low) / np.maximum(high - low, 1) * 255


def disk(tiles: np.ndarray) -> np.ndarray:
    """Blur out of focus, by a disk with a radius of 2 pixels."""
    y, x = np.mgrid[-2:3, -2:3]
    kernel = (x**2 + y**2 <= 4).astype(float)
    return ndimage.convolve(tiles, (kernel / kernel.sum())[None, :, :, None], mode="reflect")


def jpeg_2000(image: Image.Image) -> Image.Image:
    """Compress to a twelfth. The products of Sentinel-2 are compressed more mildly."""
    file = io.BytesIO()
    image.save(file, "JPEG2000", quality_mode="rates", quality_layers=[12], irreversible=True)
    return Image.open(file)


def coarse_color(image: Image.Image) -> Image.Image:
    """Halve the resolution of the color, and repeat its pixels."""
    y, *color = image.convert("YCbCr").split()
    color = [channel.reduce(2).resize((64, 64), Image.Resampling.NEAREST) for channel in color]
    return Image.merge("YCbCr", (y, *color)).convert("RGB")


def hue(image: Image.Image) -> Image.Image:
    """Turn the hue by 14 degrees."""
    h, s, v = image.convert("HSV").split()
    return Image.merge("HSV", (h.point(lambda x: (x + 10) % 256), s, v)).convert("RGB")


def damaged(tiles: np.ndarray) -> np.ndarray:
    """One pixel in a hundred black or white."""
    rng, tiles = np.random.default_rng(0), tiles.copy()
    chosen = rng.random(tiles.shape[:3]) < 0.01
    tiles[chosen] = 255 * rng.integers(0, 2, (chosen.sum(), 1))
    return tiles


def columns(tiles: np.ndarray) -> np.ndarray:
    """Two columns without data."""
    rng, tiles = np.random.default_rng(0), tiles.copy()
    for tile in tiles:
        tile[:, rng.choice(64, 2, replace=False)] = 0
    return tiles


def corner(tiles: np.ndarray) -> np.ndarray:
    """A triangle of 16 pixels without data, as at the edge of an orbit."""
    y, x = np.mgrid[:64, :64]
    return np.where((x + y < 16)[:, :, None], 0, tiles)


def vignette(tiles: np.ndarray) -> np.ndarray:
    """Darker towards the edges, by 40 % in the corners."""
    y, x = np.mgrid[-1:1:64j, -1:1:64j]
    return tiles * (1 - 0.2 * (x**2 + y**2))[:, :, None]


def bands_moved(tiles: np.ndarray) -> np.ndarray:
    """Red a pixel to the left, blue a pixel to the right."""
    moved = [np.roll(tiles[..., band], band - 1, axis=2) for band in range(3)]
    return np.stack(moved, axis=-1)


def rows_moved(tiles: np.ndarray) -> np.ndarray:
    """Each row to the left, to the right, or not at all."""
    rng, tiles = np.random.default_rng(0), tiles.copy()
    for tile in tiles:
        for row in range(64):
            tile[row] = np.roll(tile[row], rng.integers(-1, 2), axis=0)
    return tiles


def speckle(tiles: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Noise of 10 % of each value."""
    return tiles * np.random.default_rng(0).normal(1, 0.1, shape)


def stripes(tiles: np.ndarray) -> np.ndarray:
    """Detectors beside each other that differ by 5 %: one gain per column."""
    return tiles * np.random.default_rng(0).normal(1, 0.05, (len(tiles), 1, 64, 1))


def warped(tiles: np.ndarray) -> np.ndarray:
    """Each pixel from up to about two pixels away, smoothly, as from a coarse terrain model."""
    rng, out = np.random.default_rng(0), np.empty_like(tiles)
    for tile, new in zip(tiles, out, strict=True):
        move = ndimage.zoom(rng.normal(0, 1.5, (2, 5, 5)), (1, 64 / 5, 64 / 5), order=3)
        for band in range(3):
            place = np.mgrid[:64, :64] + move
            image = tile[..., band]
            new[..., band] = ndimage.map_coordinates(image, place, order=1, mode="reflect")
    return out


def avif(image: Image.Image) -> Image.Image:
    """Save once more as AVIF with a quality of 40."""
    file = io.BytesIO()
    image.save(file, "AVIF", quality=40)
    return Image.open(file).convert("RGB")


def each(change: Callable[[Image.Image], Image.Image]) -> Callable[[np.ndarray], np.ndarray]:
    """Make a change of images one of arrays."""
    return lambda tiles: np.stack([change(Image.fromarray(tile)) for tile in tiles.astype("uint8")])


CHANGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "unchanged": lambda tiles: tiles,
    "L2A as a true-color image": lambda tiles: (tiles - RandomAppearance.AIR) * 1.375,
    "L1C as a true-color image": lambda tiles: tiles * 0.77,
    "each band stretched": stretch,
    "motion blur": lambda tiles: ndimage.uniform_filter1d(tiles, 5, axis=2, mode="reflect"),
    "blur by a disk": disk,
    "median": lambda tiles: ndimage.median_filter(tiles, (1, 3, 3, 1), mode="reflect"),
    "JPEG 2000": each(jpeg_2000),
    "coarse color": each(coarse_color),
    "hue": each(hue),
    "16 gray levels": lambda tiles: tiles // 16 * 16 + 8,
    "a palette of 32 colors": each(lambda image: image.quantize(32).convert("RGB")),
    "1 % of the pixels damaged": damaged,
    "two columns without data": columns,
    "a corner without data": corner,
    "darker edges": vignette,
    "red and blue moved": bands_moved,
    "rows moved": rows_moved,
    "bluer": lambda tiles: np.add(tiles, (0, 0, 15)),
    "speckle": lambda tiles: speckle(tiles, tiles.shape),
    "speckle, the same in all bands": lambda tiles: speckle(tiles, (*tiles.shape[:3], 1)),
    "every second pixel": lambda tiles: tiles[:, ::2, ::2].repeat(2, axis=1).repeat(2, axis=2),
    "enlarged": each(
        lambda image: image.resize((64, 64), Image.Resampling.BICUBIC, (6.4, 6.4, 57.6, 57.6))
    ),
    "AVIF": each(avif),
    "dithered, 32 colors": each(
        lambda image: image.quantize(palette=image.quantize(32)).convert("RGB")
    ),
    "local contrast": each(lambda image: image.filter(ImageFilter.UnsharpMask(8, 60, 0))),
    "stripes": stripes,
    "warped": warped,
}
KNOWN = ("L2A as a true-color image", "L1C as a true-color image", "bluer")
KNOWN += ("1 % of the pixels damaged", "speckle, the same in all bands")


def main() -> None:
    """Print a row per change."""
    folder = sys.argv[1] if len(sys.argv) > 1 else PROJECT / "saved_model" / "eurosat_cnn"
    classifier = artifact.load(folder)
    threshold = classifier.metadata["confidence_threshold"]["threshold"]
    unfamiliar = classifier.metadata["unfamiliarity_threshold"]["threshold"]
    _, tiles, _ = data.split(data.load(PROJECT / "EuroSAT"), **classifier.metadata["split"])
    tiles = data.sample(tiles, min(1000, len(tiles)), seed=0)
    rows = {}
    for name, change in CHANGES.items():
        images = np.clip(np.rint(change(tiles.images.astype("float64"))), 0, 255).astype("uint8")
        answers = classifier.serve(images)
        right = answers["probabilities"].argmax(axis=1) == tiles.labels
        sure = (answers["probabilities"].max(axis=1) >= threshold) & (
            answers["unfamiliarity"] <= unfamiliar
        )
        rows[name] = {"correct": right.mean(), "sure": sure.mean()}
        rows[name] |= {"right when sure": right[sure].mean()}
    table = pd.DataFrame(rows).T
    others = table.index.difference(["unchanged", *KNOWN])
    table.loc["mean of those that training has in another form"] = table.loc[[*KNOWN]].mean()
    table.loc["mean of the others"] = table.loc[others].mean()
    print(table.round(3).to_string())


if __name__ == "__main__":
    main()
