"""Unfamiliarity: how unlike the training tiles an image is, whatever class it is given.

A confidence says which of the classes an image is most like. It says nothing about images that are
like none of them: a classifier is sure of many photographs and flat colors.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np
from keras import layers as keras_layers
from keras import ops

from eurosat_helpers.augmentation import RandomAppearance
from eurosat_helpers.data import Tiles, sample

LAYERS = ("stem-relu", "stage1_block1-relu")  # of `models.build_cnn`
SAMPLE = 6000  # training tiles are enough for the covariance of 67 features
SHARED = 64  # tiles of its own at which half of a covariance is that of all classes


def fit(
    model: keras.Model, train: Tiles, *, layers: Sequence[str] = LAYERS, seed: int = 0
) -> keras.Model:
    """Measure how early features are distributed over the training tiles of each class.

    The features are the mean activation of each channel, as a square root, and the darkest value of
    each band (of means of 4x4 pixels), as a square. A Gaussian is fitted to those of each class, of
    all tiles as they are and every third one as `RandomAppearance` changes it. The unfamiliarity is
    the Mahalanobis distance from the nearest one (Lee et al., arXiv 1807.03888). Each covariance is
    shrunk towards that of all classes (Friedman 1989, "Regularized Discriminant Analysis"). Early
    layers see color and texture, by which images that are not tiles differ most; the last layer
    sees only what tells the classes apart. The darkest values show what is added everywhere, such
    as an offset of the digital numbers.

    Args:
        model: A functional model, raw pixels `(N, 64, 64, 3)` in 0-255 -> logits.
        train: The training tiles, of which at most 6,000 are used.
        layers: Names of layers with outputs `(N, height, width, channels)`, 0 or above.
        seed: Seed of what is drawn.

    Returns:
        A model that shares these layers: raw pixels -> unfamiliarity, float32 `(N,)`, 0 or above.
    """
    if missing := set(layers) - {layer.name for layer in model.layers}:
        wanted = "`layers` must be layers of `model` (those of `models.build_cnn`, if not given)"
        raise ValueError(f"{wanted}; of another network, pass its first ones. Missing: {missing}")
    outputs = [model.get_layer(name).output for name in layers]
    means = [keras_layers.GlobalAveragePooling2D()(output) for output in outputs]
    darkest = ops.min(keras_layers.AveragePooling2D(4)(model.input), axis=(1, 2)) / 255
    features = ops.concatenate([*map(ops.sqrt, means), ops.square(darkest)], axis=-1)
    tiles = sample(train, min(SAMPLE, len(train)), seed=seed)
    known = keras.Model(model.input, features)
    parts = tiles.images, _changed(tiles[::3], seed)
    rows = np.concatenate([known.predict(x, verbose=0) for x in parts]).astype("float64")
    labels = np.concatenate([tiles.labels, tiles.labels[::3]])
    deviation, size = rows.std(axis=0), rows.shape[1]
    deviation[deviation < 1e-4] = 1  # a channel that is the same for all tiles decides nothing
    groups = [rows[labels == label] / deviation for label in np.unique(labels)]
    inside = np.concatenate([group - group.mean(axis=0) for group in groups])
    kernel, bias = np.zeros((size, len(groups), size)), np.zeros((len(groups), size))
    for number, group in enumerate(groups):
        # Divided by their number, so that a class of a single tile has one too: none.
        own, shared = (np.cov(x, rowvar=False, bias=True) for x in (group, inside))
        covariance = (len(group) * own + SHARED * shared) / (len(group) + SHARED)
        # A little of the identity keeps a direction that hardly varies from deciding alone.
        factor = np.linalg.cholesky(covariance + 1e-2 * np.eye(size))
        kernel[:, number] = np.linalg.inv(factor).T
        bias[number] = -group.mean(axis=0) @ kernel[:, number]
    whitened = keras_layers.Dense(bias.size, name="unfamiliarity-whitening")
    by_class = ops.reshape(whitened(features), (-1, *bias.shape))
    distance = ops.min(ops.norm(by_class, axis=-1), axis=-1)
    kernel /= deviation[:, None, None]
    whitened.set_weights([kernel.reshape(size, -1), bias.ravel()])
    return keras.Model(model.input, distance, name="unfamiliarity")


def threshold(detector: keras.Model, validation: Tiles, *, seed: int = 0) -> dict[str, float]:
    """Find the unfamiliarity above which an answer should not be used.

    Returns:
        `threshold`, the lowest one that refuses at most 3 % of the validation tiles as they are and
        5 % of them as `RandomAppearance` changes them; and what it refuses, `clean` and `changed`.
    """
    clean = detector.predict(validation.images, verbose=0)
    other = detector.predict(_changed(validation, seed), verbose=0)
    lowest = [np.quantile(x, q, method="inverted_cdf") for x, q in ((clean, 0.97), (other, 0.95))]
    limit = max(lowest)
    refused = {"clean": np.mean(clean > limit), "changed": np.mean(other > limit)}
    return {"threshold": float(limit), **{name: float(share) for name, share in refused.items()}}


def _changed(tiles: Tiles, seed: int = 0) -> np.ndarray:
    """Change every tile as in training; return float32 pixels `(N, 64, 64, 3)` in 1-255."""
    layer = RandomAppearance(1.0, seed=seed)
    batches = np.array_split(tiles.images, max(1, len(tiles) // 500))
    drawn = [layer(batch.astype("float32"), training=True) for batch in batches]
    return np.round(np.concatenate(drawn))
