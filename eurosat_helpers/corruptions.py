"""Change tiles in the ways in which users' tiles differ from the archive's, to measure robustness.

The idea and most names are those of Hendrycks and Dietterich, "Benchmarking Neural Network
Robustness to Common Corruptions and Perturbations" (arXiv 1903.12261); strengths and physics are
those of Sentinel-2 tiles, whose gray level 255 stands for a reflectance of 0.275. These changes
measure. Training draws its own, in `augmentation`.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageFilter
from scipy import ndimage

# What a clear atmosphere adds to dark ground, on balance, in gray levels: Rayleigh scattering falls
# with the fourth power of the wavelength (665, 560 and 490 nm for red, green and blue), and
# top-of-atmosphere red is about 12 gray levels brighter than surface red.
_AIR = 12 * (665 / np.array([665.0, 560.0, 490.0])) ** 4


def _each(images: np.ndarray, change: Callable[[Image.Image], Image.Image]) -> np.ndarray:
    return np.stack([np.asarray(change(Image.fromarray(image))) for image in images])


def _saved_as(images: np.ndarray, **settings: object) -> np.ndarray:
    def save(image: Image.Image) -> Image.Image:
        encoded = io.BytesIO()
        image.save(encoded, **settings)
        return Image.open(encoded).convert("RGB")

    return _each(images, save)


def _resampled(images: np.ndarray, metres: float) -> np.ndarray:
    """Average to larger pixels on the ground and back to 10 m, as a coarser product has it."""
    height, width = images.shape[1:3]
    small = round(width * 10 / metres), round(height * 10 / metres)
    return _each(
        images,
        lambda image: image.resize(small, Image.Resampling.BOX).resize(
            (width, height), Image.Resampling.BICUBIC
        ),
    )


def _field(rng: Generator, images: np.ndarray) -> np.ndarray:
    """Smooth random field per tile, 0-1, shape `(N, height, width, 1)`: where a cloud is."""
    noise = rng.normal(size=images.shape[:3])
    smooth = ndimage.gaussian_filter(noise, (0, 12, 12), mode="wrap")
    low, high = smooth.min((1, 2), keepdims=True), smooth.max((1, 2), keepdims=True)
    return ((smooth - low) / (high - low))[..., None]


def _signs(rng: Generator, images: np.ndarray, channels: int = 1) -> np.ndarray:
    return rng.choice([-1.0, 1.0], size=(len(images), 1, 1, channels))


def _move(images: np.ndarray, rng: Generator, pixels: float) -> np.ndarray:
    angles = rng.uniform(0, 2 * np.pi, len(images))
    return np.stack(
        [
            ndimage.shift(
                image, (pixels * np.sin(angle), pixels * np.cos(angle), 0), order=1, mode="reflect"
            )
            for image, angle in zip(images.astype(float), angles, strict=True)
        ]
    )


def _rotate(images: np.ndarray, rng: Generator, degrees: float) -> np.ndarray:
    turns = degrees * rng.choice([-1, 1], len(images))
    return np.stack(
        [
            ndimage.rotate(image, turn, reshape=False, order=1, mode="reflect")
            for image, turn in zip(images.astype(float), turns, strict=True)
        ]
    )


def _gamma(images: np.ndarray, rng: Generator, exponent: float) -> np.ndarray:
    return 255 * (images / 255) ** (exponent ** _signs(rng, images))


def _contrast(images: np.ndarray, factor: float) -> np.ndarray:
    mean = images.mean((1, 2), keepdims=True)
    return mean + factor * (images - mean)


def _saturation(images: np.ndarray, factor: float) -> np.ndarray:
    gray = images @ np.array([0.299, 0.587, 0.114])
    return gray[..., None] + factor * (images - gray[..., None])


def _thin_cloud(images: np.ndarray, rng: Generator, opacity: float) -> np.ndarray:
    veil = opacity * _field(rng, images)
    return images * (1 - veil) + 255 * veil


def _shadow(images: np.ndarray, rng: Generator, depth: float) -> np.ndarray:
    """Without the sun, diffuse skylight is left, which is blue."""
    dark = _field(rng, images) > 0.5
    soft = ndimage.gaussian_filter(dark.astype(float), (0, 2, 2, 0))
    return images * (1 - depth * soft * np.array([1.0, 0.92, 0.8]))


# Other decoders are no change of pixels: `tests/benchmarks/robustness.py` decodes the files again.
# Name of a change -> (function of images, generator and strength, its three strengths: mild,
# medium, strong). The unit of a strength stands in the comment.
CORRUPTIONS: dict[str, tuple[Callable[[np.ndarray, Generator, float], np.ndarray], tuple]] = {
    # saved again: quality
    "jpeg": (lambda x, _, q: _saved_as(x, format="JPEG", quality=q), (90, 75, 50)),
    "webp": (lambda x, _, q: _saved_as(x, format="WEBP", quality=q), (90, 75, 50)),
    # optics and sensor: pixels, percent, gray levels, share of the square root
    "gaussian blur": (
        lambda x, _, s: ndimage.gaussian_filter(x, (0, s, s, 0), output=float),
        (0.5, 0.75, 1.0),
    ),
    "sharpening": (
        lambda x, _, p: _each(x, lambda i: i.filter(ImageFilter.UnsharpMask(1, p, 0))),
        (50, 100, 150),
    ),
    "gaussian noise": (lambda x, r, s: x + s * r.normal(size=x.shape), (2, 5, 10)),
    "shot noise": (lambda x, r, s: x + s * np.sqrt(x) * r.normal(size=x.shape), (0.2, 0.5, 1.0)),
    # grid: metres, pixels, degrees
    "pixel size": (lambda x, _, m: _resampled(x, m), (12.5, 15, 20)),
    "sub-pixel shift": (_move, (0.25, 0.5, 1.5)),
    "rotation": (_rotate, (3, 8, 15)),
    # light and processing: factors
    "darker": (lambda x, _, f: x * f, (0.9, 0.8, 0.7)),
    "brighter": (lambda x, _, f: x * f, (1.1, 1.25, 1.4)),
    "contrast": (lambda x, _, f: _contrast(x, f), (0.85, 0.7, 0.5)),
    "gamma": (_gamma, (1.1, 1.25, 1.5)),
    "saturation": (lambda x, _, f: _saturation(x, f), (0.8, 0.6, 0.3)),
    "color cast": (lambda x, r, s: x * (1 + s * _signs(r, x, 3)), (0.03, 0.06, 0.1)),
    # air: share of a clear atmosphere's path reflectance, opacity, depth
    "haze added": (lambda x, _, s: x + s * _AIR, (0.2, 0.4, 0.6)),
    "haze removed": (lambda x, _, s: x - s * _AIR, (0.33, 0.67, 1.0)),
    "thin cloud": (_thin_cloud, (0.1, 0.2, 0.35)),
    "shadow": (_shadow, (0.2, 0.35, 0.5)),
}


def corrupt(images: np.ndarray, name: str, *, strength: int = 2, seed: int = 0) -> np.ndarray:
    """Change tiles in one way.

    Args:
        images: uint8 pixels in 0-255, shape `(N, 64, 64, 3)`.
        name: A key of `CORRUPTIONS`.
        strength: 1 (mild), 2 (medium) or 3 (strong).
        seed: Seed of what is random in the change.

    Returns:
        uint8 pixels of the same shape.

    Raises:
        ValueError: If `name` or `strength` is unknown, or `images` is not as described.
    """
    if name not in CORRUPTIONS:
        raise ValueError(f"`name` must be one of {', '.join(CORRUPTIONS)}. Received: {name!r}")
    if strength not in (1, 2, 3):
        raise ValueError(f"`strength` must be 1, 2 or 3. Received: {strength!r}")
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
        raise ValueError(
            "`images` must be uint8 pixels of shape (N, height, width, 3). "
            f"Received: {images.dtype} of shape {images.shape}"
        )
    change, strengths = CORRUPTIONS[name]
    changed = change(images, np.random.default_rng(seed), strengths[strength - 1])
    # 0 means "no data" in such tiles, so the darkest pixel is 1 (the makers' own scaling).
    return np.clip(np.rint(changed), 1, 255).astype(np.uint8)
