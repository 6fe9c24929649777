"""Tiles in memory become batches for Keras."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Mapping

import numpy as np
import tensorflow as tf
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image

from eurosat_helpers.data import Tiles


def dataset(
    tiles: Tiles,
    *,
    batch_size: int,
    shuffle_seed: int | None = None,
    epochs: range = range(1),
    mixup: float = 0.0,
    compressed: float = 0.0,
    side: int | None = None,
    hints: np.ndarray | None = None,
    class_weight: Mapping[int, float] | None = None,
    replicas: int = 1,
    worker: tuple[int, int] = (0, 1),
) -> tf.data.Dataset:
    """Batch the tiles in their order, or in a new order each epoch.

    Every tile comes once per epoch; the last batch may be smaller. Normalization and augmentation
    are layers of the model: only what changes the labels or the loss happens here.

    Args:
        tiles: The tiles; their images stay uint8 in memory and are converted batch by batch.
        batch_size: Tiles per batch, at least 1.
        shuffle_seed: Seed of all that is drawn; `None` keeps the order (validation, test).
        epochs: Numbers of the epochs. The batches of each depend on the seed and its number alone,
            so that training can resume at any epoch.
        mixup: Parameter alpha of the beta distribution by which each tile and its label are blended
            with another of the batch (Zhang et al., arXiv 1710.09412); 0 disables it.
        compressed: Share of the tiles that are saved once more, as JPEG with full or halved color
            resolution or as WebP, with a quality of 30 to 96. No layer does that.
        side: Pixels of a random square of each tile that takes its place; `None` takes the tile.
        hints: Features of each tile, float32 `(N, F)`, to be predicted beside the labels and
            blended as they are.
        class_weight: Label to weight in the loss, 1 where missing. The weight of a blended tile is
            the mean of those of its classes, in the proportions of its label.
        replicas: Devices that share each batch. Repeated tiles of weight 0 fill up a batch that
            they cannot share evenly, so that none of them has no tile.
        worker: Number of this worker, from 0, and how many share each batch (`workers`); it gets
            its share of each batch alone.

    Returns:
        A dataset of images float32 `(batch, 64, 64, 3)`, or of `side`, in 0-255 and one-hot labels
        `(batch, classes)`; with `hints` a pair of labels and hints in place of these; with
        `class_weight` or several `replicas` also weights `(batch,)`, for each of the two.
    """
    if len(tiles) == 0:
        raise ValueError("`tiles` must hold at least one tile. Received: none.")
    if not isinstance(batch_size, (int, np.integer)) or batch_size < 1:
        raise ValueError(f"`batch_size` must be a positive integer. Received: {batch_size!r}.")
    if (mixup or compressed or side) and shuffle_seed is None:
        raise ValueError("`mixup`, `compressed` and `side` need a `shuffle_seed`. Received: None.")
    classes, steps = len(tiles.class_names), math.ceil(len(tiles) / batch_size)
    truth, known = tf.constant(tiles.labels), class_weight or {}
    weight_of_class = np.array([known.get(label, 1) for label in range(classes)], np.float32)

    def order(epoch: tf.Tensor) -> tf.data.Dataset:
        # Shuffling indices moves 8 bytes per tile; shuffling images would move 12 kB.
        index = tf.range(len(tiles), dtype=tf.int64)
        if shuffle_seed is not None:
            index = tf.random.experimental.stateless_shuffle(index, (shuffle_seed, epoch))
        return tf.data.Dataset.from_tensor_slices(index).batch(batch_size)

    def read(step: np.ndarray, index: np.ndarray) -> np.ndarray:
        if side is None:
            return tiles.images[index]
        squares = sliding_window_view(tiles.images, (side, side), axis=(1, 2))
        rng = np.random.default_rng([shuffle_seed, int(step), 1])
        corner = rng.integers(squares.shape[1], size=(2, len(index)))
        return squares[(index, *corner)].transpose(0, 2, 3, 1)  # the last two axes were added

    def save_again(step: np.ndarray, images: np.ndarray) -> np.ndarray:
        rng, images = np.random.default_rng([shuffle_seed, int(step)]), images.copy()
        for position in np.flatnonzero(rng.random(len(images)) < compressed):
            images[position] = _compressed(images[position], rng)
        return images

    def batch(step: tf.Tensor, index: tf.Tensor) -> tuple[tf.Tensor, ...]:
        size, step = tf.size(index), step * worker[1] + worker[0]  # other draws for each worker
        padded = size + -size % (replicas * worker[1])
        position = tf.range(padded)[worker[0] :: worker[1]]
        index = tf.gather(index, position % size)
        # NumPy reads the tiles in place; as a constant of the graph they would be copied.
        images = tf.numpy_function(read, [step, index], tiles.images.dtype)
        images.set_shape((None, *[side or tiles.images.shape[1]] * 2, 3))
        images, labels = tf.cast(images, tf.float32), tf.one_hot(tf.gather(truth, index), classes)
        if hints is not None:
            labels = tf.concat([labels, tf.gather(tf.cast(hints, tf.float32), index)], axis=1)
        if mixup:
            images, labels = _blend(images, labels, mixup, (shuffle_seed, step))
        if compressed:
            shape = images.shape
            images = tf.numpy_function(save_again, [step, images], tf.float32)
            images.set_shape(shape)
        labels, rest = labels[:, :classes], labels[:, classes:]
        answers = labels if hints is None else (labels, rest)
        if class_weight is None and replicas * worker[1] == 1:
            return images, answers
        weights = tf.linalg.matvec(labels, weight_of_class)
        # Keras divides by the number of tiles with the padding.
        weights *= tf.cast(padded / size, tf.float32)
        weights = tf.where(position < size, weights, 0)
        return images, answers, weights if hints is None else (weights, weights)

    options = tf.data.Options()
    options.autotune.enabled = False  # its thread is waited for at the end, for up to a minute
    return (
        tf.data.Dataset.range(epochs.start, epochs.stop)
        .flat_map(order)
        .apply(tf.data.experimental.assert_cardinality(len(epochs) * steps))
        .enumerate(epochs.start * steps)
        .map(batch, num_parallel_calls=min(4, os.cpu_count() or 1), deterministic=True)
        .prefetch(2)
        .with_options(options)
    )


def _compressed(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    encoded, quality = io.BytesIO(), int(rng.integers(30, 97))
    form, color = (("JPEG", "4:4:4"), ("JPEG", "4:2:0"), ("WEBP", None))[rng.integers(3)]
    pixels = np.rint(image).astype(np.uint8)
    Image.fromarray(pixels).save(encoded, form, quality=quality, subsampling=color)
    return np.asarray(Image.open(encoded).convert("RGB"))


def _blend(
    images: tf.Tensor, labels: tf.Tensor, alpha: float, seed: tuple[int, tf.Tensor]
) -> tuple[tf.Tensor, tf.Tensor]:
    """Blend each tile with another; Keras' layer cannot take its seed as an argument."""
    count = tf.shape(images)[0]
    # In double precision: for a small alpha, both draws could underflow to zero.
    draws = tf.random.stateless_gamma((2, count), seed, alpha, dtype=tf.float64)
    share = tf.cast(draws[0] / (draws[0] + draws[1]), tf.float32)  # of a beta distribution
    partner = tf.random.experimental.stateless_shuffle(tf.range(count), seed)

    def mix(x: tf.Tensor) -> tf.Tensor:
        shares = tf.reshape(share, (-1, *[1] * (x.shape.rank - 1)))
        return shares * x + (1 - shares) * tf.gather(x, partner)

    return mix(images), mix(labels)


def channel_statistics(tiles: Tiles) -> tuple[list[float], list[float]]:
    """Compute mean (0-255) and variance (0-255 squared) of red, green and blue.

    Pass the training tiles only: statistics of validation or test tiles would leak.
    """
    if len(tiles) == 0:
        raise ValueError("`tiles` must hold at least one tile. Received: none.")
    # Counting the 256 values is exact and needs no float copy of the images (eight times as big).
    pixels = np.zeros((3, 256), np.int64)
    for chunk in np.array_split(tiles.images, max(1, len(tiles) // 1000)):
        for channel in range(3):
            pixels[channel] += np.bincount(chunk[..., channel].ravel(), minlength=256)
    values, count = np.arange(256), pixels[0].sum()
    mean = pixels @ values / count
    variance = (pixels * (values - mean[:, None]) ** 2).sum(axis=1) / count
    return mean.tolist(), variance.tolist()
