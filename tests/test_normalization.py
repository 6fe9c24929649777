"""Tests of eurosat_helpers.normalization."""

import keras
import numpy as np
import pytest
from keras import layers

from eurosat_helpers.normalization import FusedBatchNormalization


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("side", [5, 1])
def test_fused_batch_normalization_is_that_of_keras_but_for_the_moving_variance(dtype, side):
    values = np.random.default_rng(0).normal(3, 2, (6, side, side, 4)).astype(np.float32)
    x = keras.ops.cast(values, dtype)
    ours, theirs = FusedBatchNormalization(), layers.BatchNormalization(momentum=0.98)
    for layer in (ours, theirs):
        layer.build(x.shape)
        layer.set_weights(np.array([[1, 2, 3, 4], [4, 3, 2, 1], [0, 1, 2, 3], [1, 2, 1, 2]]))
    accuracy = {"float32": 1e-3, "float16": 1e-2, "bfloat16": 1e-1}[dtype]
    for training in (False, True):
        normalized = ours(x, training=training)
        assert normalized.dtype.name == dtype
        wanted = theirs(x, training=training)
        np.testing.assert_allclose(
            keras.ops.cast(normalized, "float32"), keras.ops.cast(wanted, "float32"), atol=accuracy
        )
    np.testing.assert_allclose(ours.moving_mean, theirs.moving_mean, rtol=1e-3)
    # The kernel divides by n - 1 where Keras divides by n. It shows where a batch has few values
    # per channel: 20 % at 6 tiles of 1x1, less than 1 % at 6 tiles of 5x5.
    count, before = 6 * side * side, 0.98 * np.array([1, 2, 1, 2])
    wanted = (theirs.moving_variance.numpy() - before) * count / (count - 1)
    difference = ours.moving_variance.numpy() - before
    np.testing.assert_allclose(difference, wanted, rtol=1e-2 if dtype == "bfloat16" else 1e-3)


def test_frozen_batch_normalization_keeps_its_statistics():
    layer = FusedBatchNormalization()
    images = np.random.default_rng(0).normal(3, 2, (16, 5, 5, 4)).astype(np.float32)
    layer.build(images.shape)
    layer.trainable = False
    np.testing.assert_array_equal(layer(images, training=True), layer(images, training=False))
    np.testing.assert_array_equal(layer.moving_mean, 0)


@pytest.mark.parametrize("options", [{"axis": 1}, {"synchronized": True}])
def test_what_the_kernel_cannot_do_is_named(options):
    with pytest.raises(ValueError, match=r"`axis` must be the last one, and `synchronized` False"):
        FusedBatchNormalization(**options)
