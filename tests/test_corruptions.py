"""Changed tiles: each change is its own, seeded, and leaves a tile a tile."""

import numpy as np
import pytest

from eurosat_helpers import corruptions
from eurosat_helpers.data import demo

IMAGES = demo.draw(1, seed=0)[0]


@pytest.mark.parametrize("name", corruptions.CORRUPTIONS)
def test_change_grows_with_its_strength_and_repeats_with_its_seed(name):
    before = IMAGES.copy()
    changed = [corruptions.corrupt(IMAGES, name, strength=strength) for strength in (1, 2, 3)]
    for images in changed:
        assert images.dtype == np.uint8
        assert images.shape == IMAGES.shape
        assert images.min() >= 1  # 0 means no data
    distances = [np.abs(images - IMAGES.astype(float)).mean() for images in changed]
    assert 0 < distances[0] < distances[1] < distances[2] < 80
    np.testing.assert_array_equal(corruptions.corrupt(IMAGES, name), changed[1])
    np.testing.assert_array_equal(IMAGES, before)


def test_each_change_differs_from_the_others():
    changed = {corruptions.corrupt(IMAGES, name).tobytes() for name in corruptions.CORRUPTIONS}
    assert len(changed) == len(corruptions.CORRUPTIONS)


def test_haze_takes_away_more_blue_than_red_as_surface_reflectance_does():
    gray = np.full((1, 64, 64, 3), 120, np.uint8)
    removed = 120 - corruptions.corrupt(gray, "haze removed", strength=3)[0, 0, 0].astype(int)
    assert removed.tolist() == [12, 24, 41]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "rain"}, r"`name` must be one of jpeg, .*Received: 'rain'"),
        ({"strength": 4}, "`strength` must be 1, 2 or 3. Received: 4"),
        ({"images": IMAGES / 255}, r"`images` must be uint8 pixels .*Received: float64"),
    ],
)
def test_bad_argument_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        corruptions.corrupt(**{"images": IMAGES, "name": "jpeg", **arguments})
