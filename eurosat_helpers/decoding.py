"""Decode an image file that users bring, and fit it to a tile."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from eurosat_helpers.data import IMAGE_SIZE

_FORMATS = ("JPEG", "PNG", "TIFF", "WEBP")
_MAX_PIXELS = 4096 * 4096  # 50 MB decoded
_KIND, _WIDTH, _BITS, _BANDS = 254, 256, 258, 277  # tags of TIFF
_PLACES = 273, 324  # of strips, and of blocks; 0: left out
_REDUCED, _MASK = 1, 4  # bits of the first, of what belongs to another image
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two: with 64-bit offsets


def decode(encoded: bytes) -> Image.Image:
    """Decode a JPEG, PNG, TIFF or WebP file of 8-bit red, green and blue.

    A palette is resolved, and a fourth band left out if it is 255 everywhere; so are the overviews
    and the mask of a GeoTIFF.

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
    # The further ones of an MPO are previews; of a TIFF Pillow cannot count overviews and masks.
    pages = 1 if image.format in ("MPO", "TIFF") else getattr(image, "n_frames", 1)
    if image.format == "TIFF":
        pages = sum(not tags.get(_KIND, 0) & (_REDUCED | _MASK) for tags in _directories(encoded))
    if pages > 1:
        raise ValueError(f"holds {pages} images: save each as a file of its own")
    bits = {8}
    if image.format == "TIFF":
        bits, bands = set(image.tag_v2.get(_BITS, (1,))), image.tag_v2.get(_BANDS, 1)
        if image.mode == "L" and bands > 1 and max(bits) == 8:  # Pillow sees the first band alone
            raise ValueError(_other_bands(bands))
        if any(0 in image.tag_v2.get(places, ()) for places in _PLACES):  # Pillow reads the header
            raise ValueError("TIFF without its empty blocks: gdal_translate -co SPARSE_OK=FALSE")
    elif image.format == "PNG":
        bits = {16} if encoded[24] == 16 else bits  # Pillow would keep the upper 8 bits
    if max(bits) > 8:
        raise ValueError(_deep(max(bits)))
    if image.mode in ("P", "RGB"):  # of both, PNG can make a color transparent
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


def _directories(encoded: bytes) -> Iterator[TiffImagePlugin.ImageFileDirectory_v2]:
    """Yield the tags of each image in a TIFF file, its overviews and masks among them."""
    tags = TiffImagePlugin.ImageFileDirectory_v2(encoded[: 16 if encoded[:4] in _TIFF[2:] else 8])
    file, seen = io.BytesIO(encoded), set()
    while tags.next and tags.next not in seen:  # a damaged one may form a circle
        seen.add(tags.next)
        file.seek(tags.next)
        tags.load(file)
        yield tags


def _unknown(encoded: bytes) -> str:
    """Say why Pillow cannot open a file: of TIFF it knows few numbers of bits and bands."""
    if encoded[:4] not in _TIFF:
        return "not a JPEG, PNG, TIFF or WebP image, or a damaged one"
    try:
        tags = next(_directories(encoded))
        tags[_WIDTH]  # each TIFF has it
        bits, bands = max(tags.get(_BITS, (1,))), tags.get(_BANDS, 1)
    except Exception:  # damaged bytes fail as they may
        return "a damaged TIFF image"
    if bits > 8:
        return _deep(bits)
    return _other_bands(bands)


def _other_bands(bands: int) -> str:
    if bands == 3:
        return "TIFF of a kind that is not read: gdal_translate -co PHOTOMETRIC=RGB -ot Byte"
    return f"TIFF of {bands} bands, not RGB: save red, green and blue alone"


def _deep(bits: int) -> str:
    return (
        f"{bits} bits per value, not 8: scale its values to 0-255 (Sentinel-2 L1C values as "
        "EuroSAT's makers did: gdal_translate -ot Byte -scale 0 2750 1 255, or -scale 1000 3750 1 "
        "255 for products since January 2022)"
    )
