"""Pixels of images that users bring: doubt their values, and add the atmosphere that they lack."""

from __future__ import annotations

import numpy as np

# What a clear atmosphere does to red, green and blue light from the ground (level 2A) on its way to
# the satellite (level 1C, as EuroSAT): it lets a share through and adds haze, in gray levels. From
# Rayleigh scattering (optical depth: Hansen and Travis 1974; path reflectance: single scattering;
# transmittance: Tanré et al. 1979) and 300 DU of ozone, the sun 40 degrees from the zenith.
LET_THROUGH = (0.912, 0.836, 0.818)
HAZE = (16.1, 32.4, 56.0)
# Gray level: percentile 0.5 of blue is at least 51 in each tile of EuroSAT. In images without haze
# it is below this one, unless all in them is bright.
HAZELESS = 45


def measure(images: np.ndarray) -> np.ndarray:
    """Measure images for `suspicions`, a batch at a time.

    Args:
        images: Pixels as the classifier gets them, shape `(N, height, width, 3)`.

    Returns:
        Per image, of its pixels with data: the least and the largest value, percentile 0.5 of blue,
        and the standard deviations of red and blue, float `(N, 5)`.
    """
    some = images[:, ::2, ::2]  # a quarter will do
    deviations = some[..., ::2].std(axis=(1, 2), dtype=np.float64)
    blue = np.where(some.any(axis=-1), some[..., 2], 255).reshape(len(images), -1)
    dark = np.partition(blue, place := blue.shape[1] // 200, axis=1)[:, place]
    least, largest = images.min(axis=(1, 2, 3)), images.max(axis=(1, 2, 3))
    # Few images have pixels without data, and to leave them out in all would take twice as long.
    for number in np.flatnonzero((least == 0) & (largest > 0)):
        known, few = (part[part.any(axis=-1)] for part in (images[number], some[number]))
        least[number] = known.min()
        deviations[number] = few[:, ::2].std(axis=0) if len(few) else 0
    return np.column_stack([least, largest, dark, deviations])


def as_level_1c(images: np.ndarray) -> np.ndarray:
    """Add a clear atmosphere to level 2A, which the training tiles have.

    Gray levels uint8 `(N, height, width, 3)`: 1 is a reflectance of 0, 0 in all bands no data.
    """
    ground = (images - np.float32(1)) * np.float32(LET_THROUGH)
    hazy = np.clip(np.rint(1 + ground + np.float32(HAZE)), 1, 255).astype("uint8")
    return hazy * images.any(axis=-1, keepdims=True)


def suspicions(measures: np.ndarray, level: str = "L1C") -> list[str]:
    """Say what may be wrong with images as a whole, by their values alone.

    Looked for: images that are all black; values scaled to 0-1 or 0-10; and from 20 images on an
    offset of 1000 left in, which is 92 gray levels that no pixel is below (in EuroSAT's tiles of
    any class, fewer than one in ten has no such pixel), and the first of: each image stretched for
    display, told by a value up to 5 and one from 250 on in most images (8 of the 27,000 tiles of
    EuroSAT have both); red and blue swapped, told by blue that varies more than red within most
    images that are not flat (which of the two is brighter depends on haze and class: air brightens
    blue but adds no contrast); no haze, told by the darkest blue.

    Args:
        measures: What `measure` returned, of all images.
        level: "L2A" if it is known that they are without haze.

    Returns:
        One sentence each; an empty list if nothing is suspicious.
    """
    found, (least, largest, dark_blue, red, blue) = [], measures.T
    if black := np.sum(largest == 0):
        found.append(f"{black:,} of {len(measures):,} images are all black: data are missing.")
    if 0 < (highest := largest.max(initial=0)) < 30:
        found.append(
            f"The largest value of all images is {highest:.4g}. Values must be in 0-255: multiply "
            "by 255 what is scaled to 0-1, and scale reflectance as EuroSAT's tiles were."
        )
    seen, bright, uneven = np.sum(largest > 0), np.sum(least > 85), np.maximum(red, blue) >= 2
    textured, more = np.sum(uneven), np.sum(uneven & (blue > red))  # of open water, both are noise
    clear, stretched = np.sum(dark_blue < HAZELESS), np.sum((least <= 5) & (largest >= 250))
    if seen >= 20 and bright > 0.8 * seen:
        found.append(
            f"In {bright / seen:.0%} of the images no pixel is dark, unlike in EuroSAT: the offset "
            "of 1000 of newer Sentinel-2 products may be left in. Subtract it before you scale."
        )
    if seen >= 20 and stretched > 0.6 * seen:
        found.append(
            f"{stretched / seen:.0%} of the images hold both black and white, unlike EuroSAT's: "
            "each may have been stretched for display. Scale all of them by the same numbers, with "
            "a reflectance of 0.275 as white."
        )
    elif textured >= 20 and more > 0.6 * textured:
        found.append(
            f"Blue varies more than red in {more / textured:.0%} of the images, unlike in EuroSAT: "
            "the two may be swapped."
        )
    elif seen >= 20 and highest >= 30 and clear > 0.6 * seen and level == "L1C":
        found.append(
            f"In {clear / seen:.0%} of the images the darkest blue is below that of EuroSAT's "
            'tiles: they may be of level 2A, without haze (`level = "L2A"` adds it), or darkened.'
        )
    return found
