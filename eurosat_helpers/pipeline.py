"""Tiles in memory become batches for Keras."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

from eurosat_helpers.data import Tiles


def dataset(
    tiles: Tiles, *, batch_size: int, shuffle_seed: int | None = None, mixup: float = 0.0
) -> tf.data.Dataset:
    """Batch the tiles in their order, or in a new order each epoch.

    Every tile comes once an epoch and the last batch may be smaller: nothing is dropped.
    Normalization and the symmetries are layers of the model. Only mix-up, which changes the labels
    too, happens here.

    Args:
        tiles: The tiles; their images stay uint8 in memory and are converted batch by batch.
        batch_size: Tiles in a batch, at least 1.
        shuffle_seed: Seed of shuffling and mix-up; `None` keeps the order (validation, test).
        mixup: Parameter alpha of the beta distribution by which each tile and its label are blended
            with another of the batch (Zhang et al., arXiv 1710.09412); 0 blends none.

    Returns:
        A dataset of pairs: images float32 `(batch, 64, 64, 3)` in 0-255, and one-hot labels
        float32 `(batch, classes)`, the form that label smoothing needs.

    Raises:
        ValueError: If `tiles` is empty or `batch_size` is not a positive integer.
    """
    if len(tiles) == 0:
        raise ValueError("`tiles` holds no tile: expected at least one.")
    if not isinstance(batch_size, (int, np.integer)) or batch_size < 1:
        raise ValueError(f"`batch_size` must be a positive integer. Received: {batch_size!r}.")
    classes = len(tiles.class_names)

    def take(index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return tiles.images[index], tiles.labels[index]

    def batch(index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        # NumPy picks the tiles where they lie; as a constant of the graph they would be copied.
        images, labels = tf.numpy_function(take, [index], (tiles.images.dtype, tiles.labels.dtype))
        images.set_shape((None, *tiles.images.shape[1:]))
        labels.set_shape((None,))
        return tf.cast(images, tf.float32), tf.one_hot(labels, classes)

    # Shuffling indices moves 8 bytes a tile; shuffling images would move 12 kB.
    indices = tf.data.Dataset.range(len(tiles))
    if shuffle_seed is not None:
        indices = indices.shuffle(len(tiles), seed=shuffle_seed)
    batches = indices.batch(batch_size).map(
        batch, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
    )
    if mixup:
        blend = keras.layers.MixUp(mixup, seed=shuffle_seed, dtype="float32")
        names = "images", "labels"

        def blended(*batch: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            outputs = blend(dict(zip(names, batch, strict=True)))
            return tuple(outputs[name] for name in names)

        batches = batches.map(blended)  # one after the other: the draws are repeatable
    return batches.prefetch(2)


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
