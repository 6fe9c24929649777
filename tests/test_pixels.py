"""Doubting the values of images, and adding the atmosphere that they lack."""

from __future__ import annotations

import numpy as np
import pytest

from eurosat_helpers import corruptions, data, pixels


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
    assert "Blue varies more than red in 100%" in said
    assert "may be swapped" in said
    flat = np.random.default_rng(0).normal([40, 60, 80], [0.6, 0.8, 1.2], (30, 64, 64, 3))
    assert doubts(flat.round().astype("uint8")) == []  # open water: both are noise
    black = np.concatenate([some[:40], np.zeros((3, 64, 64, 3), "uint8")])
    assert doubts(black) == ["3 of 43 images are all black: data are missing."]
    for top, shown in ((1, "1"), (10, "10")):
        said = doubts(np.round(some / 255 * top).astype("uint8"))
        assert any(one.startswith(f"The largest value of all images is {shown}. ") for one in said)
    (said,) = doubts((some / 255).astype("float32"))
    assert "multiply by 255" in said
    for axes in ((1, 2), (1, 2, 3)):  # each band, or all three alike
        low, high = np.percentile(some, (2, 98), axis=axes, keepdims=True)
        stretched = np.clip((some - low) / np.maximum(high - low, 1) * 255, 0, 255)
        (said,) = doubts(stretched.round().astype("uint8"))
        assert "stretched for display" in said
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


def test_pixels_without_data_are_left_out(some):
    cut, offset = some.copy(), np.minimum(some.astype(int) + 92, 255).astype("uint8")
    cut[:, :, :16] = 0
    found, expected = pixels.measure(cut), pixels.measure(some[:, :, 16:])
    np.testing.assert_allclose(found[:, [0, 1, 3, 4]], expected[:, [0, 1, 3, 4]], rtol=1e-6)
    offset[:, :2] = 0
    assert "offset of 1000" in doubts(offset)[0]
    hazy = np.random.default_rng(0).normal((100, 105, 110), (20, 10, 5), (30, 64, 64, 3))
    hazy = hazy.round().astype("uint8")
    hazy[:, :16] = 0
    assert doubts(hazy) == []


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
