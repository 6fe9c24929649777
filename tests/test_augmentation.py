"""Tests of eurosat_helpers.augmentation."""

import numpy as np
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


def test_random_symmetry_does_nothing_outside_training():
    images = np.random.default_rng(0).random((4, 6, 6, 3), np.float32)
    np.testing.assert_array_equal(augmentation.RandomSymmetry()(images, training=False), images)


def test_random_symmetry_is_seeded():
    images = np.random.default_rng(0).random((64, 6, 6, 3), np.float32)
    one, same, other = (
        augmentation.RandomSymmetry(seed=seed)(images, training=True).numpy() for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


def test_random_symmetry_has_no_while_loop():
    layer = augmentation.RandomSymmetry()
    graph = tf.function(lambda x: layer(x, training=True)).get_concrete_function(
        tf.TensorSpec((None, 64, 64, 3))
    )
    assert not [op.type for op in graph.graph.get_operations() if "While" in op.type]
