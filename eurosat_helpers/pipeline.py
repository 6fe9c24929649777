"""Tiles in memory become batches for Keras."""

from __future__ import annotations

import math

import numpy as np
import tensorflow as tf

from eurosat_helpers.data import Tiles


def dataset(
    tiles: Tiles,
    *,
    batch_size: int,
    shuffle_seed: int | None = None,
    epochs: range = range(1),
    mixup: float = 0.0,
) -> tf.data.Dataset:
    """Batch the tiles in their order, or in a new order each epoch.

    Every tile comes once an epoch and the last batch may be smaller: nothing is dropped.
    Normalization and the symmetries are layers of the model. Only mix-up, which changes the labels
    too, happens here.

    Args:
        tiles: The tiles; their images stay uint8 in memory and are converted batch by batch.
        batch_size: Tiles in a batch, at least 1.
        shuffle_seed: Seed of shuffling and mix-up; `None` keeps the order (validation, test).
        epochs: Numbers of the epochs, which come one after the other. What an epoch holds depends
            on the seed and its number alone, so a training can go on in the middle.
        mixup: Parameter alpha of the beta distribution by which each tile and its label are blended
            with another of the batch (Zhang et al., arXiv 1710.09412); 0 blends none.

    Returns:
        A dataset of pairs: images float32 `(batch, 64, 64, 3)` in 0-255, and one-hot labels
        float32 `(batch, classes)`, the form that label smoothing needs.

    Raises:
        ValueError: If `tiles` is empty, `batch_size` is not a positive integer, or tiles are to be
            blended in no random order.
    """
    if len(tiles) == 0:
        raise ValueError("`tiles` holds no tile: expected at least one.")
    if not isinstance(batch_size, (int, np.integer)) or batch_size < 1:
        raise ValueError(f"`batch_size` must be a positive integer. Received: {batch_size!r}.")
    if mixup and shuffle_seed is None:
        raise ValueError("`shuffle_seed` must be a number where `mixup` is not 0. Received: None.")
    classes, steps = len(tiles.class_names), math.ceil(len(tiles) / batch_size)

    def order(epoch: tf.Tensor) -> tf.data.Dataset:
        # Shuffling indices moves 8 bytes a tile; shuffling images would move 12 kB.
        index = tf.range(len(tiles), dtype=tf.int64)
        if shuffle_seed is not None:
            index = tf.random.experimental.stateless_shuffle(index, (shuffle_seed, epoch))
        return tf.data.Dataset.from_tensor_slices(index).batch(batch_size)

    def take(index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return tiles.images[index], tiles.labels[index]

    def batch(step: tf.Tensor, index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        # NumPy picks the tiles where they lie; as a constant of the graph they would be copied.
        images, labels = tf.numpy_function(take, [index], (tiles.images.dtype, tiles.labels.dtype))
        images.set_shape((None, *tiles.images.shape[1:]))
        labels.set_shape((None,))
        images, labels = tf.cast(images, tf.float32), tf.one_hot(labels, classes)
        return _blend(images, labels, mixup, (shuffle_seed, step)) if mixup else (images, labels)

    return (
        tf.data.Dataset.range(epochs.start, epochs.stop)
        .flat_map(order)
        .apply(tf.data.experimental.assert_cardinality(len(epochs) * steps))
        .enumerate(epochs.start * steps)
        .map(batch, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        .prefetch(2)
    )


def _blend(
    images: tf.Tensor, labels: tf.Tensor, alpha: float, seed: tuple[int, tf.Tensor]
) -> tuple[tf.Tensor, tf.Tensor]:
    """Blend each tile with another; unlike Keras' layer, by a seed that is an argument."""
    count = tf.shape(images)[0]
    # In double precision: where alpha is small, both draws could underflow to zero.
    draws = tf.random.stateless_gamma((2, count), seed, alpha, dtype=tf.float64)
    share = tf.cast(draws[0] / (draws[0] + draws[1]), tf.float32)  # of a beta distribution
    partner = tf.random.experimental.stateless_shuffle(tf.range(count), seed)

    def mix(x: tf.Tensor) -> tf.Tensor:
        shares = tf.reshape(share, (-1, *[1] * (x.shape.rank - 1)))
        return shares * x + (1 - shares) * tf.gather(x, partner)

    return mix(images), mix(labels)


def channel_statistics(tiles: Tiles) -> tuple[list[float], list[float]]:
    """Mean and variance of each color channel, for the model's normalization layer.

    Args:
        tiles: The training tiles (only those: statistics of other tiles would leak).

    Returns:
        Mean (0-255) and variance (0-255 squared) of red, green and blue.

    Raises:
        ValueError: If `tiles` is empty.
    """
    if len(tiles) == 0:
        raise ValueError("`tiles` holds no tile: expected at least one.")
    # Counting the 256 values is exact and needs no float copy of the images (eight times as big).
    values = np.arange(256)
    mean, variance = [], []
    for channel in range(3):
        pixels = np.zeros(256, np.int64)
        for chunk in np.array_split(tiles.images[..., channel], max(1, len(tiles) // 1000)):
            pixels += np.bincount(chunk.ravel(), minlength=256)
        mean.append(float(pixels @ values / pixels.sum()))
        variance.append(float(pixels @ (values - mean[-1]) ** 2 / pixels.sum()))
    return mean, variance
