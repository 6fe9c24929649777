"""Pixels of images that users bring: decode a file, fit it to a tile, doubt its values."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from eurosat_helpers.data import IMAGE_SIZE

# What a clear atmosphere does to red, green and blue light from the ground (level 2A) on its way to
# the satellite (level 1C, as EuroSAT): it lets a share through and adds haze, in grey levels. From
# Rayleigh scattering (optical depth: Hansen and Travis 1974; path reflectance: single scattering;
# transmittance: Tanré et al. 1979) and 300 DU of ozone, the sun 40 degrees from the zenith.
LET_THROUGH = (0.912, 0.836, 0.818)
HAZE = (16.1, 32.4, 56.0)
# Grey level: percentile 0.5 of blue is at least 51 in each tile of EuroSAT. In images without haze
# it is below this one, unless all in them is bright.
HAZELESS = 45

_FORMATS = ("JPEG", "PNG", "TIFF", "WEBP")
_MAX_PIXELS = 4096 * 4096  # 50 MB decoded
_WIDTH, _BITS, _BANDS = 256, 258, 277  # tags of TIFF


def decode(encoded: bytes) -> Image.Image:
    """Decode a JPEG, PNG, TIFF or WebP file of 8-bit red, green and blue.

    A palette is resolved, and a fourth band left out if it is 255 everywhere.

    Returns:
        An image of mode "RGB", its pixels decoded, of at most 16,777,216 pixels.

    Raises:
        ValueError: If the file is of another kind, has other bands or values, or is too large; the
            message says what to do.
        OSError: If it is damaged; Pillow may raise other errors then.
    """
    try:
        image = Image.open(io.BytesIO(encoded), formats=_FORMATS)
    except UnidentifiedImageError:
        raise ValueError(_unknown(encoded)) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(f"too large, cut it into smaller files. {error}") from None
    if image.width * image.height > _MAX_PIXELS:
        raise ValueError(
            f"{image.width}x{image.height} pixels, more than {_MAX_PIXELS:,}: cut it into smaller "
            "files"
        )
    if image.format != "MPO" and (pages := getattr(image, "n_frames", 1)) > 1:
        raise ValueError(f"holds {pages} images: save each as a file of its own")
    bits = {8}
    if image.format == "TIFF":
        bits = set(image.tag_v2.get(_BITS, (1,)))
    elif image.format == "PNG":
        bits = {16} if encoded[24] == 16 else bits  # Pillow would keep the upper 8 bits
    if max(bits) > 8:
        raise ValueError(_deep(max(bits)))
    if image.mode == "P":
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
    if image.mode in ("RGBA", "RGBa", "RGBX"):
        if image.getextrema()[3][0] < 255:
            raise ValueError(
                "its fourth band is not 255 everywhere (transparent pixels, or near infrared): "
                "fill the gaps, and save red, green and blue alone"
            )
        return Image.merge("RGB", image.split()[:3])
    if image.mode in ("1", "L", "LA"):
        raise ValueError("grayscale: red, green and blue are needed")
    if image.mode not in ("RGB", "YCbCr"):
        raise ValueError(f"its colors are {image.mode}, not RGB: convert it to RGB")
    image.load()
    return image.convert("RGB")


def fit(image: Image.Image, size: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Make tiles of an image: of one with 64x64 pixels itself.

    Args:
        image: Of mode "RGB".
        size: What to do with another size: None refuses it, "cut" makes windows, the last ones
            moved inwards so that the edges are covered, "scale" resizes.

    Returns:
        uint8 pixels in 0-255, shape `(N, 64, 64, 3)`, and the left and top edges, int `(N, 2)`.

    Raises:
        ValueError: If the size is refused, or too small to cut.
    """
    found = f"{image.width}x{image.height} pixels, not {IMAGE_SIZE}x{IMAGE_SIZE}"
    if size == "scale" and image.size != (IMAGE_SIZE, IMAGE_SIZE):
        image = image.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC)
    elif size is None and image.size != (IMAGE_SIZE, IMAGE_SIZE):
        raise ValueError(f'{found}: "cut" it into windows or "scale" it')
    elif min(image.size) < IMAGE_SIZE:
        raise ValueError(f'{found}, too small to cut: "scale" it')
    edges = [[*range(0, n - IMAGE_SIZE, IMAGE_SIZE), n - IMAGE_SIZE] for n in image.size]
    corners = np.array([(left, top) for top in edges[1] for left in edges[0]])
    whole = np.asarray(image)
    tiles = [whole[top : top + IMAGE_SIZE, left : left + IMAGE_SIZE] for left, top in corners]
    return np.stack(tiles), corners


def measure(images: np.ndarray) -> np.ndarray:
    """Measure images for `suspicions`, a batch at a time.

    Args:
        images: Pixels as the classifier gets them, shape `(N, height, width, 3)`.

    Returns:
        Per image its least and its largest value, percentile 0.5 of blue where there is data, and
        the standard deviations of red and blue, float `(N, 5)`.
    """
    some = images[:, ::2, ::2]  # a quarter will do
    deviations = some[..., ::2].astype(np.float32).std(axis=(1, 2))
    blue = np.where(some.any(axis=-1), some[..., 2], 255).reshape(len(images), -1)
    dark = np.partition(blue, place := blue.shape[1] // 200, axis=1)[:, place]
    ends = images.min(axis=(1, 2, 3)), images.max(axis=(1, 2, 3))
    return np.column_stack([*ends, dark, deviations])


def as_level_1c(images: np.ndarray) -> np.ndarray:
    """Add a clear atmosphere to level 2A, which the training tiles have.

    Grey levels uint8 `(N, height, width, 3)`: 1 is a reflectance of 0, 0 in all bands no data.
    """
    ground = (images - np.float32(1)) * np.float32(LET_THROUGH)
    hazy = np.clip(np.rint(1 + ground + np.float32(HAZE)), 1, 255).astype("uint8")
    return hazy * images.any(axis=-1, keepdims=True)


def suspicions(measures: np.ndarray, level: str = "L1C") -> list[str]:
    """Say what may be wrong with images as a whole, by their values alone.

    Looked for: images that are all black; values scaled to 0-1 or 0-10; and from 20 images on an
    offset of 1000 left in, which is 92 grey levels that no pixel is below (in EuroSAT's tiles of
    any class, fewer than one in ten has no such pixel), red and blue swapped, told by blue that
    varies more than red within most images (which of the two is brighter depends on haze and class:
    air brightens blue but adds no contrast), or else no haze, told by the darkest blue.

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
    seen, more, bright = np.sum(largest > 0), np.sum(blue > red), np.sum(least > 85)
    clear = np.sum(dark_blue < HAZELESS)
    if seen >= 20 and bright > 0.8 * seen:
        found.append(
            f"In {bright / seen:.0%} of the images no pixel is dark, unlike in EuroSAT: the offset "
            "of 1000 of newer Sentinel-2 products may be left in. Subtract it before you scale."
        )
    if seen >= 20 and more > 0.6 * seen:
        found.append(
            f"Blue varies more than red in {more / seen:.0%} of the images, unlike in EuroSAT: "
            "the two may be swapped."
        )
    elif seen >= 20 and highest >= 30 and clear > 0.6 * seen and level == "L1C":
        found.append(
            f"In {clear / seen:.0%} of the images the darkest blue is below that of EuroSAT's "
            'tiles: they may be of level 2A, without haze (`level = "L2A"` adds it), or darkened.'
        )
    return found


def _unknown(encoded: bytes) -> str:
    """Say why Pillow cannot open a file: of TIFF it knows few numbers of bits and bands."""
    if encoded[:4] in (b"II*\0", b"MM\0*"):
        try:
            tags = TiffImagePlugin.ImageFileDirectory_v2(encoded[:8])
            (file := io.BytesIO(encoded)).seek(tags.next)
            tags.load(file)
            tags[_WIDTH]  # each TIFF has it
            bits, bands = max(tags.get(_BITS, (1,))), tags.get(_BANDS, 1)
        except Exception:  # damaged bytes fail as they may
            return "a damaged TIFF image"
        return (
            _deep(bits)
            if bits > 8
            else f"TIFF of {bands} bands, not RGB: save red, green and blue alone"
        )
    return "not a JPEG, PNG, TIFF or WebP image, or a damaged one"


def _deep(bits: int) -> str:
    return (
        f"{bits} bits per value, not 8: scale its values to 0-255 (Sentinel-2 L1C values as "
        "EuroSAT's makers did: gdal_translate -ot Byte -scale 0 2750 1 255)"
    )
