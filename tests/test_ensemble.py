"""Tests of eurosat_helpers.ensemble."""

import numpy as np

from eurosat_helpers import ensemble


def test_each_of_the_eight_symmetries_is_predicted_once_and_averaged():
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype="uint8")
    seen = []

    def predict(views):
        assert views.shape == images.shape
        seen.append(views)
        return np.full((3, 2), [len(seen), 1.0])

    averaged = ensemble.average_over_symmetries(predict, images)
    np.testing.assert_allclose(averaged, np.full((3, 2), [4.5, 1.0]))
    assert len({view.tobytes() for view in seen}) == 8
    for view in seen:  # the same tiles in the same order, with the same pixels in other places
        np.testing.assert_array_equal(
            np.sort(view.reshape(3, -1, 3), axis=1), np.sort(images.reshape(3, -1, 3), axis=1)
        )


def test_average_does_not_change_when_the_tile_is_turned():
    images = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3)).astype("float32")
    weights = np.random.default_rng(1).normal(size=(64 * 64 * 3, 5)).astype("float32")

    def predict(views):
        return views.reshape(len(views), -1) @ weights

    for other in (np.rot90(images, axes=(1, 2)), images[:, ::-1], np.swapaxes(images, 1, 2)):
        np.testing.assert_allclose(
            ensemble.average_over_symmetries(predict, other),
            ensemble.average_over_symmetries(predict, images),
            rtol=1e-3,
            atol=1,
        )
