"""Tests of eurosat_helpers.augmentation."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from eurosat_helpers import augmentation


def eight_symmetries(image):
    turned = [np.rot90(image, quarter) for quarter in range(4)]
    return [*turned, *(image.transpose(1, 0, 2) for image in turned)]


def test_random_symmetry_draws_all_eight_symmetries_exactly_and_evenly():
    image = np.random.default_rng(0).integers(0, 256, (5, 5, 3)).astype(np.float32)
    layer = augmentation.RandomSymmetry(seed=1)
    drawn = layer(np.repeat(image[None], 4000, axis=0), training=True).numpy()
    matches = np.array([(drawn == one).all(axis=(1, 2, 3)) for one in eight_symmetries(image)])
    np.testing.assert_array_equal(matches.sum(axis=0), 1)
    assert matches.sum(axis=1).min() > 400


LAYERS = [
    augmentation.RandomSymmetry,
    lambda **options: augmentation.RandomAppearance(0.5, damaged=0.5, **options),
]


def pixels(count=64, side=8):
    return np.random.default_rng(0).integers(1, 256, (count, side, side, 3)).astype(np.float32)


@pytest.mark.parametrize("make", LAYERS, ids=["symmetry", "appearance"])
def test_layer_is_seeded_and_does_nothing_outside_training(make):
    images = pixels()
    one, same, other = (make(seed=seed)(images, training=True).numpy() for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)
    np.testing.assert_array_equal(make()(images, training=False), images)


@pytest.mark.parametrize("make", LAYERS, ids=["symmetry", "appearance"])
def test_layer_is_one_graph_without_a_loop_and_survives_saving(make, tmp_path):
    images = keras.Input((8, 8, 3))
    model = keras.Model(images, make(seed=5)(images))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.layers[1].get_config() == model.layers[1].get_config()
    graph = tf.function(lambda x: loaded(x, training=True)).get_concrete_function(
        tf.TensorSpec((None, 8, 8, 3))
    )
    assert not [op.type for op in graph.graph.get_operations() if "While" in op.type]


def test_random_appearance_changes_its_share_and_leaves_the_others_as_they_are():
    images = pixels(2000)
    drawn = augmentation.RandomAppearance(0.5, seed=1)(images, training=True).numpy()
    changed = (drawn != images).any(axis=(1, 2, 3))
    # A changed tile with none of the four changes is rare: 0.2 * 0.2 * 0.5 * 0.5.
    assert 0.45 < changed.mean() <= 0.5
    np.testing.assert_array_equal(drawn[1000:], images[1000:])
    assert drawn.min() >= 1
    assert drawn.max() <= 255
    # Every change is a new draw.
    assert len(np.unique(drawn[changed], axis=0)) == changed.sum()


def test_random_appearance_gives_some_images_gray_noise_and_some_lost_pixels():
    flat = np.full((2000, 16, 16, 3), 120, np.float32)
    drawn = augmentation.RandomAppearance(1, damaged=0.4, seed=1)(flat, training=True).numpy()
    lost = ((drawn == 255) | (drawn == 1)).mean(axis=(1, 2, 3))
    assert 0.25 < (lost > 0).mean() < 0.45  # in some of the 0.4 so few that none is lost
    assert 0.02 < np.quantile(lost, 0.995) <= 0.06
    whole = drawn[lost == 0]
    varies = whole - whole.mean(axis=(1, 2), keepdims=True)
    gray = np.abs(varies - varies.mean(axis=-1, keepdims=True)).max(axis=(1, 2, 3)) < 3
    noisy = whole.std(axis=(1, 2)).max(axis=1) > 4
    assert 0.3 < gray[noisy].mean() < 0.55
    drawn = augmentation.RandomAppearance(1, seed=1)(flat, training=True).numpy()
    assert ((drawn == 255) | (drawn == 1)).mean() < 1e-3


def test_random_appearance_removes_and_adds_haze_in_its_color():
    flat = np.full((4000, 6, 6, 3), 120, np.float32)
    drawn = augmentation.RandomAppearance(1, seed=1)(flat, training=True).numpy()
    mean = drawn.mean(axis=(1, 2))
    spread = np.diff(np.quantile(mean - mean.mean(axis=0), [0.1, 0.9], axis=0), axis=0)[0]
    assert spread[0] < spread[1] < spread[2]  # red, green, blue
    assert mean[:, 2].min() < 60 < 160 < mean[:, 2].max()


def test_random_appearance_varies_the_light_smoothly_over_some_images():
    flat = np.full((1000, 64, 64, 3), 120, np.float32)
    drawn = augmentation.RandomAppearance(1, seed=1)(flat, training=True).numpy()
    quarters = drawn.reshape(1000, 4, 16, 4, 16, 3).mean(axis=(2, 4, 5)).reshape(1000, 16)
    uneven = np.ptp(quarters, axis=1) > 8  # gray levels; noise averages out
    assert 0.2 < uneven.mean() < 0.6
    # Shade darkens by at most a half, and a veil brightens by at most 0.35 of what is left.
    assert np.ptp(quarters, axis=1).max() < 120


@pytest.mark.parametrize(("share", "count"), [(0.0, 4), (0.5, 1)])
def test_random_appearance_leaves_a_batch_alone_of_which_no_tile_is_to_be_changed(share, count):
    images = pixels(count)
    layer = augmentation.RandomAppearance(share, seed=1)
    np.testing.assert_array_equal(layer(images, training=True), images)


def test_share_out_of_range_is_named():
    with pytest.raises(ValueError, match=r"`share` must be in \[0, 1\]. Received: 2"):
        augmentation.RandomAppearance(2)
    with pytest.raises(ValueError, match=r"`damaged` must be in \[0, 1\]. Received: -1"):
        augmentation.RandomAppearance(0.5, damaged=-1)
