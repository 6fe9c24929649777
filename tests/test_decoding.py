"""Decoding every kind of image file, and fitting it to tiles."""

from __future__ import annotations

import io
import warnings

import numpy as np
import pytest
from conftest import claiming, deep_png
from PIL import Image

from eurosat_helpers import data, decoding

COLORS = np.random.default_rng(0).integers(1, 255, (64, 64, 3), "uint8")
TILE = Image.fromarray(COLORS)
RGBA = np.dstack([COLORS, np.full((64, 64), 255, "uint8")])


def encode(image: Image.Image, form: str, **settings: object) -> bytes:
    image.save(file := io.BytesIO(), form, **settings)
    return file.getvalue()


def geotiff(tmp_path, pixels: np.ndarray, **settings: object) -> bytes:
    """A TIFF as remote-sensing software writes it."""
    rasterio = pytest.importorskip("rasterio")
    path = tmp_path / "image.tif"
    bands, height, width = pixels.shape
    shape = {"count": bands, "height": height, "width": width, "dtype": pixels.dtype}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no georeference
        with rasterio.open(path, "w", driver="GTiff", **shape, **settings) as file:
            file.write(pixels)
    return path.read_bytes()


EXACT = {
    "PNG": encode(TILE, "PNG"),
    "TIFF": encode(TILE, "TIFF"),
    "TIFF, LZW": encode(TILE, "TIFF", compression="tiff_lzw"),
    "TIFF, deflate": encode(TILE, "TIFF", compression="tiff_adobe_deflate"),
    "WebP": encode(TILE, "WEBP", lossless=True),
    "opaque PNG": encode(Image.fromarray(RGBA), "PNG"),
    "opaque TIFF": encode(Image.fromarray(RGBA), "TIFF"),
    "opaque WebP": encode(Image.fromarray(RGBA), "WEBP", lossless=True),
}


@pytest.mark.parametrize("encoded", EXACT.values(), ids=EXACT)
def test_lossless_kinds_are_read_exactly(encoded):
    image = decoding.decode(encoded)
    assert image.mode == "RGB"
    np.testing.assert_array_equal(image, COLORS)


@pytest.mark.parametrize("interleave", ["pixel", "band"])
def test_geotiff_of_three_bands_is_read_exactly(tmp_path, interleave):
    encoded = geotiff(tmp_path, COLORS.transpose(2, 0, 1), interleave=interleave)
    np.testing.assert_array_equal(decoding.decode(encoded), COLORS)


@pytest.mark.parametrize("kind", ["COG", "overviews", "mask", "BigTIFF"])
def test_overviews_and_mask_of_a_geotiff_are_no_further_images(tmp_path, kind):
    rasterio = pytest.importorskip("rasterio")
    path, values = tmp_path / "image.tif", noise((3, 1024, 1024), "uint8")
    shape = {"count": 3, "height": 1024, "width": 1024, "dtype": "uint8"}
    more = {"driver": "COG"} if kind == "COG" else {"driver": "GTiff", "photometric": "RGB"}
    more |= {"BIGTIFF": "YES"} if kind == "BigTIFF" else {}
    with warnings.catch_warnings(), rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        warnings.simplefilter("ignore")  # no georeference
        with rasterio.open(path, "w", **shape, **more) as file:
            file.write(values)
            if kind == "mask":
                file.write_mask(np.full((1024, 1024), 255, "uint8"))
        if kind == "overviews":
            with rasterio.open(path, "r+") as file:
                file.build_overviews([2, 4])
    np.testing.assert_array_equal(decoding.decode(path.read_bytes()), values.transpose(1, 2, 0))


def test_jpeg_has_the_pixels_that_tiles_are_loaded_with():
    encoded = encode(TILE, "JPEG", quality=95)
    np.testing.assert_array_equal(decoding.decode(encoded), data.reading._decode(encoded))


def test_palette_is_resolved():
    image = TILE.quantize(200)
    np.testing.assert_array_equal(decoding.decode(encode(image, "PNG")), image.convert("RGB"))
    see_through = encode(image, "PNG", transparency=int(np.asarray(image)[0, 0]))
    with pytest.raises(ValueError, match="fourth band is not 255 everywhere"):
        decoding.decode(see_through)


def test_transparent_color_is_refused():
    with pytest.raises(ValueError, match="fourth band is not 255 everywhere"):
        decoding.decode(encode(TILE, "PNG", transparency=tuple(map(int, COLORS[3, 5]))))


def noise(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 200, shape).astype(dtype)


def animated() -> bytes:
    return encode(TILE, "TIFF", save_all=True, append_images=[TILE])


REFUSED = {
    "transparent": (
        encode(Image.fromarray(np.dstack([COLORS, COLORS[..., 0]])), "PNG"),
        "fourth band is not 255 everywhere .*near infrared.*: fill the gaps, and save red",
    ),
    "gray": (encode(TILE.convert("L"), "JPEG"), "grayscale: red, green and blue are needed"),
    "gray with alpha": (encode(TILE.convert("LA"), "PNG"), "grayscale"),
    "black and white": (encode(TILE.convert("1"), "PNG"), "grayscale"),
    "CMYK": (encode(TILE.convert("CMYK"), "JPEG"), "colors are CMYK, not RGB: convert it"),
    "CMYK TIFF": (encode(TILE.convert("CMYK"), "TIFF"), "colors are CMYK"),
    "Lab": (encode(Image.new("LAB", (64, 64)), "TIFF"), "colors are LAB"),
    "16-bit PNG": (deep_png(), "16 bits per value, not 8: .*gdal_translate -ot Byte -scale 0 2750"),
    "16-bit gray": (encode(Image.fromarray(noise((64, 64), "uint16")), "PNG"), "16 bits per"),
    "16-bit TIFF": (encode(Image.fromarray(noise((64, 64), "uint16")), "TIFF"), "16 bits per"),
    "float TIFF": (encode(Image.fromarray(noise((64, 64), "float32")), "TIFF"), "32 bits per"),
    "two pages": (animated(), "holds 2 images: save each as a file of its own"),
    "GIF": (encode(TILE, "GIF"), "not a JPEG, PNG, TIFF or WebP image"),
    "text": (b"not an image", "not a JPEG, PNG, TIFF or WebP image"),
    "empty": (b"", "not a JPEG, PNG, TIFF or WebP image"),
    "damaged TIFF": (b"II*\0" + b"\xff" * 40, "a damaged TIFF image"),
    "large": (encode(Image.new("RGB", (8192, 2049)), "PNG"), "8192x2049 pixels, more than 16,777"),
}


@pytest.mark.filterwarnings("ignore:Corrupt EXIF:UserWarning")  # of the damaged TIFF
@pytest.mark.parametrize(("encoded", "message"), REFUSED.values(), ids=REFUSED)
def test_other_kinds_are_refused_with_a_remedy(encoded, message):
    with pytest.raises(ValueError, match=message):
        decoding.decode(encoded)


@pytest.mark.parametrize("size", [10_000, 20_000])
def test_decompression_bomb_is_refused_by_its_header(size):
    header = claiming(encode(TILE, "PNG"), size)
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with pytest.raises(ValueError, match=r"too large, cut it into smaller files\. Image size"):
            decoding.decode(header)


GEOTIFFS = {
    "uint16": (noise((3, 64, 64), "uint16"), "16 bits per value", {}),
    "float32": (noise((3, 64, 64), "float32"), "32 bits per value", {}),
    "13 bands": (noise((13, 64, 64), "uint16"), "16 bits per value", {}),
    "near infrared": (noise((4, 64, 64), "uint8"), "fourth band is not 255 everywhere", {}),
    "five bands": (noise((5, 64, 64), "uint8"), "TIFF of 5 bands, not RGB: save red", {}),
    "13 bands, BigTIFF": (noise((13, 64, 64), "uint16"), "16 bits per value", {"BIGTIFF": "YES"}),
    "int8": (noise((3, 64, 64), "int8"), "TIFF of a kind that is not read: gdal_translate -co", {}),
    "band after band": (
        noise((3, 64, 64), "uint8"),
        "TIFF of a kind that is not read: gdal_translate -co PHOTOMETRIC=RGB",
        {"INTERLEAVE": "BAND", "PHOTOMETRIC": "MINISBLACK"},
    ),
    "without its empty blocks": (
        np.zeros((3, 64, 64), "uint8"),
        "TIFF without its empty blocks: gdal_translate -co SPARSE_OK=FALSE",
        {"SPARSE_OK": "TRUE", "photometric": "RGB"},
    ),
    "two bands": (noise((2, 64, 64), "uint8"), "grayscale|TIFF of 2 bands|fourth", {}),
}


@pytest.mark.parametrize(("values", "message", "more"), GEOTIFFS.values(), ids=GEOTIFFS)
def test_other_geotiffs_are_refused_with_a_remedy(tmp_path, values, message, more):
    with pytest.raises(ValueError, match=message):
        decoding.decode(geotiff(tmp_path, values, **more))


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("kept", [0.3, 0.7, 0.95])
def test_file_that_is_cut_off_is_an_error(form, kept):
    encoded = encode(TILE, form)
    with pytest.raises(Exception) as caught:  # noqa: PT011 as Pillow raises it
        decoding.decode(encoded[: int(len(encoded) * kept)])
    assert str(caught.value)


def test_tile_fits_whatever_the_parameter_says():
    for size in (None, "cut", "scale"):
        tiles, corners = decoding.fit(TILE, size)
        np.testing.assert_array_equal(tiles, COLORS[None])
        assert corners.tolist() == [[0, 0]]


def test_scaling_keeps_colors_and_averages_detail():
    stripes = np.zeros((640, 640, 3), "uint8")
    stripes[::2], stripes[..., 2] = 200, 50
    tiles, _ = decoding.fit(Image.fromarray(stripes), "scale")
    assert tiles.shape == (1, 64, 64, 3)
    assert np.abs(tiles[0].astype(int) - (100, 100, 50)).max() <= 8
