"""Decoding every kind of image file, fitting it to tiles, and doubting values."""

from __future__ import annotations

import io
import warnings

import numpy as np
import pytest
from conftest import deep_png
from PIL import Image

from eurosat_helpers import corruptions, data, pixels

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
    image = pixels.decode(encoded)
    assert image.mode == "RGB"
    np.testing.assert_array_equal(image, COLORS)


@pytest.mark.parametrize("interleave", ["pixel", "band"])
def test_geotiff_of_three_bands_is_read_exactly(tmp_path, interleave):
    encoded = geotiff(tmp_path, COLORS.transpose(2, 0, 1), interleave=interleave)
    np.testing.assert_array_equal(pixels.decode(encoded), COLORS)


def test_jpeg_has_the_pixels_that_tiles_are_loaded_with():
    encoded = encode(TILE, "JPEG", quality=95)
    np.testing.assert_array_equal(pixels.decode(encoded), data.reading._decode(encoded))


def test_palette_is_resolved():
    image = TILE.quantize(200)
    np.testing.assert_array_equal(pixels.decode(encode(image, "PNG")), image.convert("RGB"))
    see_through = encode(image, "PNG", transparency=int(np.asarray(image)[0, 0]))
    with pytest.raises(ValueError, match="fourth band is not 255 everywhere"):
        pixels.decode(see_through)


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
        pixels.decode(encoded)


@pytest.mark.parametrize("size", [(10_000, 10_000), (20_000, 20_000)])
def test_decompression_bomb_is_refused_by_its_header(size):
    header = encode(Image.new("1", size), "PNG")
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with pytest.raises(ValueError, match=r"too large, cut it into smaller files\. Image size"):
            pixels.decode(header)


GEOTIFFS = {
    "uint16": (noise((3, 64, 64), "uint16"), "16 bits per value"),
    "float32": (noise((3, 64, 64), "float32"), "32 bits per value"),
    "13 bands": (noise((13, 64, 64), "uint16"), "16 bits per value"),
    "near infrared": (noise((4, 64, 64), "uint8"), "fourth band is not 255 everywhere"),
    "five bands": (noise((5, 64, 64), "uint8"), "TIFF of 5 bands, not RGB: save red"),
    "two bands": (noise((2, 64, 64), "uint8"), "grayscale|TIFF of 2 bands|fourth"),
}


@pytest.mark.parametrize(("values", "message"), GEOTIFFS.values(), ids=GEOTIFFS)
def test_other_geotiffs_are_refused_with_a_remedy(tmp_path, values, message):
    with pytest.raises(ValueError, match=message):
        pixels.decode(geotiff(tmp_path, values))


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("kept", [0.3, 0.7, 0.95])
def test_file_that_is_cut_off_is_an_error(form, kept):
    encoded = encode(TILE, form)
    with pytest.raises(Exception) as caught:  # noqa: PT011 as Pillow raises it
        pixels.decode(encoded[: int(len(encoded) * kept)])
    assert str(caught.value)


def test_tile_fits_whatever_the_parameter_says():
    for size in (None, "cut", "scale"):
        tiles, corners = pixels.fit(TILE, size)
        np.testing.assert_array_equal(tiles, COLORS[None])
        assert corners.tolist() == [[0, 0]]


def test_scaling_keeps_colors_and_averages_detail():
    stripes = np.zeros((640, 640, 3), "uint8")
    stripes[::2], stripes[..., 2] = 200, 50
    tiles, _ = pixels.fit(Image.fromarray(stripes), "scale")
    assert tiles.shape == (1, 64, 64, 3)
    assert np.abs(tiles[0].astype(int) - (100, 100, 50)).max() <= 8


@pytest.fixture(scope="module")
def some(real_tiles):
    return data.sample(real_tiles, 500, seed=0).images


def doubts(images: np.ndarray) -> list[str]:
    return pixels.suspicions(pixels.measure(images))


@pytest.mark.parametrize("change", [None, *corruptions.CORRUPTIONS])
def test_real_tiles_are_above_suspicion_also_when_changed(some, change):
    assert doubts(some if change is None else corruptions.corrupt(some, change)) == []


def test_no_class_alone_is_suspicious(real_tiles):
    for label in range(10):
        assert doubts(real_tiles[real_tiles.labels == label][:300].images) == []


def test_each_cause_is_found_by_its_name(some):
    (said,) = doubts(some[..., ::-1])
    assert "Blue varies more than red in 9" in said
    assert "may be swapped" in said
    black = np.concatenate([some[:40], np.zeros((3, 64, 64, 3), "uint8")])
    assert doubts(black) == ["3 of 43 images are all black: data are missing."]
    for top, shown in ((1, "1"), (10, "10")):
        said = doubts(np.round(some / 255 * top).astype("uint8"))
        assert any(one.startswith(f"The largest value of all images is {shown}. ") for one in said)
    (said,) = doubts((some / 255).astype("float32"))
    assert "multiply by 255" in said
    offset = np.minimum(some.astype(int) + 92, 255).astype("uint8")  # 1000 / 2750 * 254
    (said,) = doubts(offset)
    assert "In 100% of the images no pixel is dark" in said
    assert "offset of 1000" in said
    clear = np.maximum(some - np.array(pixels.HAZE), 1).astype("uint8")
    (said,) = doubts(clear)
    assert "of the images the darkest blue is below that of EuroSAT's tiles" in said
    assert pixels.suspicions(pixels.measure(clear), "L2A") == []
    cut = some.copy()
    cut[:, :5, :5] = 0  # no data, which is not dark
    assert doubts(cut) == []
    assert doubts(some[:5, ..., ::-1]) == doubts(offset[:5]) == []  # too few to tell


def test_atmosphere_is_that_of_rayleigh_scattering_and_ozone():
    micrometres, sun = np.array([0.665, 0.560, 0.490]), np.cos(np.radians(40))
    depth = 0.008569 * micrometres**-4 * (1 + 0.0113 * micrometres**-2 + 0.00013 * micrometres**-4)
    phase = 0.75 * (1 + np.cos(np.radians(180 - 40)) ** 2)
    np.testing.assert_allclose(depth * phase / (4 * sun) * 254 / 0.275, pixels.HAZE, atol=0.1)
    path = 1 / sun + 1  # down and up, in thicknesses of the atmosphere
    ozone = 0.3 * np.array([0.055, 0.102, 0.020])  # absorption per atm-cm
    through = np.exp(-0.52 * depth * path) * np.exp(-ozone * path)
    np.testing.assert_allclose(through, pixels.LET_THROUGH, atol=1e-3)


def test_darkest_pixels_of_eurosat_are_as_bright_as_the_haze(real_tiles):
    dark = np.percentile(real_tiles.images[::5].reshape(-1, 64 * 64, 3), 0.5, axis=1)
    assert np.abs(dark.min(axis=0) - pixels.HAZE).max() < 10


def test_no_data_stays_without_an_atmosphere():
    images = np.array([[[[0, 0, 0], [1, 1, 1], [0, 90, 255]]]], np.uint8)
    expected = [[[[0, 0, 0], [17, 33, 57], [16, 108, 255]]]]
    np.testing.assert_array_equal(pixels.as_level_1c(images), expected)
