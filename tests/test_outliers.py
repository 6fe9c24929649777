"""Tests of eurosat_helpers.outliers."""

import keras
import numpy as np
import pytest

from eurosat_helpers import export, models, outliers, pipeline


@pytest.fixture(scope="module")
def model(demo_tiles):
    mean, variance = pipeline.channel_statistics(demo_tiles)
    return models.build_cnn(mean=mean, variance=variance, widths=(16, 16), blocks=(1, 1), seed=0)


@pytest.fixture(scope="module")
def detector(model, demo_tiles):
    return outliers.fit(model, demo_tiles[::2], seed=0)


def test_other_tiles_are_familiar_and_images_that_are_no_tiles_are_not(detector, demo_tiles):
    for tiles in (demo_tiles[:8], demo_tiles[3:214], demo_tiles[1::2]):
        limits = outliers.threshold(detector, tiles, seed=0)
        assert limits["clean"] <= 0.03
        assert limits["changed"] <= 0.05
        assert limits["clean"] + 1 / len(tiles) > 0.03 or limits["changed"] + 1 / len(tiles) > 0.05
    rng = np.random.default_rng(0)
    checkers = np.indices((64, 64)).sum(axis=0)[None, ..., None] // 4 % 2 * np.full(3, 255.0)
    for images in (rng.integers(0, 256, (50, 64, 64, 3)), checkers):
        distances = detector.predict(images.astype("float32"), verbose=0)
        assert distances.shape == (len(images),)
        assert np.mean(distances > limits["threshold"]) > 0.9


def test_distance_is_that_of_mahalanobis_from_the_nearest_class(model, detector, demo_tiles):
    tiles = demo_tiles[::2]
    layers = [model.get_layer(name).output for name in outliers.LAYERS]
    pooled = [keras.ops.sqrt(keras.ops.mean(layer, axis=(1, 2))) for layer in layers]
    squares = keras.ops.average_pool(model.input, 4)
    pooled.append(keras.ops.square(keras.ops.min(squares, axis=(1, 2))))
    known = keras.Model(model.input, keras.ops.concatenate(pooled, axis=-1))
    shuffled = outliers.sample(tiles, len(tiles), seed=0)
    parts = shuffled.images, outliers._changed(shuffled[::3], 0)
    rows = np.concatenate([known.predict(x, verbose=0) for x in parts]).astype("float64")
    labels = np.concatenate([shuffled.labels, shuffled.labels[::3]])
    scaled = rows / rows.std(axis=0)
    classes = [scaled[labels == label] for label in range(10)]
    centered = np.concatenate([own - own.mean(axis=0) for own in classes])
    shared, distances = centered.T @ centered / len(centered), []
    for own in classes:
        scatter = (own - own.mean(axis=0)).T @ (own - own.mean(axis=0))
        covariance = (scatter + 64 * shared) / (len(own) + 64) + 1e-2 * np.eye(len(shared))
        x = scaled[: len(tiles)] - own.mean(axis=0)
        distances.append(np.einsum("ni,ij,nj->n", x, np.linalg.inv(covariance), x))
    found = detector.predict(shuffled.images, verbose=0)
    np.testing.assert_allclose(found, np.sqrt(np.min(distances, axis=0)), rtol=1e-2)


def test_channel_that_is_zero_on_all_tiles_does_not_decide_alone(demo_tiles):
    bright = np.zeros((1, 1, 3, 4), "float32")
    bright[0, 0, :, :3], bright[0, 0, 0, 3] = np.eye(3), 1  # the last one sees red
    pixels = keras.Input((64, 64, 3))
    layer = keras.layers.Conv2D(4, 1, name="features", activation="relu")
    model = keras.Model(pixels, layer(pixels))
    layer.set_weights([bright, np.float32([0, 0, 0, -255])])  # … above all that a tile may have
    tiles = demo_tiles[::4]
    detector = outliers.fit(model, tiles, layers=["features"], seed=0)
    pure = tiles.images[:1].astype("float32")
    touched = pure.copy()
    touched[0, 5, 5, 0] = 255.5
    (before, after) = (detector.predict(x, verbose=0)[0] for x in (pure, touched))
    assert after == pytest.approx(before, rel=0.2)


def test_network_without_these_layers_is_told_what_to_pass(demo_tiles):
    images = keras.Input((64, 64, 3))
    other = keras.Model(images, keras.layers.GlobalAveragePooling2D()(images))
    with pytest.raises(
        ValueError, match=r"`layers` must be layers of `model` .*Missing: .*stem-relu"
    ):
        outliers.fit(other, demo_tiles)


def test_class_of_a_single_tile_has_a_distance_too(model, demo_tiles):
    few = demo_tiles[np.unique(demo_tiles.labels, return_index=True)[1]]
    distances = outliers.fit(model, few, seed=0).predict(demo_tiles.images[:50], verbose=0)
    assert np.isfinite(distances).all()


def test_detector_shares_the_layers_of_the_model_in_the_graph_that_is_served(model, detector):
    joint = keras.Model(model.inputs[0], [model.outputs[0], detector.outputs[0]])
    folded = export._folded(joint)
    convolutions = [layer for layer in folded.layers if isinstance(layer, keras.layers.Conv2D)]
    own = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    assert len(convolutions) == len(own)


def test_changed_tiles_are_whole_gray_levels_and_seeded(demo_tiles):
    first, same = (outliers._changed(demo_tiles[:20], seed=3) for _ in range(2))
    np.testing.assert_array_equal(first, same)
    np.testing.assert_array_equal(first, np.round(first))
    assert first.min() >= 1
    assert first.max() <= 255
