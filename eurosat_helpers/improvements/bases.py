"""Networks of `keras.applications`, with a new head for the tiles."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import keras
import numpy as np
from keras import applications, layers, ops

from eurosat_helpers import augmentation, hints, models
from eurosat_helpers.normalization import FusedBatchNormalization


class _Base(NamedTuple):
    build: Callable[..., keras.Model]
    side: int  # pixels to which the tiles are enlarged
    mean: Sequence[float]  # it was trained on (pixel - mean) / deviation, each of red, green, blue
    deviation: float
    reads_bgr: bool = False


_CAFFE = {"mean": (123.68, 116.779, 103.939), "deviation": 1, "reads_bgr": True}
_TO_ONE = {"mean": (127.5,) * 3, "deviation": 127.5}  # -1 to 1
BASES = {
    "MobileNet_0.75": _Base(hints.MOBILENET, hints.SIDE, **_TO_ONE),
    "MobileNetV2": _Base(applications.MobileNetV2, 96, **_TO_ONE),
    # Its own first layers normalize.
    "EfficientNetV2B0": _Base(applications.EfficientNetV2B0, 128, (0,) * 3, 1),
    "ResNet50": _Base(applications.ResNet50, 96, **_CAFFE),
    "VGG16": _Base(applications.VGG16, 64, **_CAFFE),
}


def build_transfer(
    base: str,
    *,
    num_classes: int = 10,
    weights: str | None = "imagenet",
    dropout: float = 0.2,
    changed: float = 0.0,
    seed: int | None = None,
) -> keras.Model:
    """Build a model on a frozen base, or the same model to be trained from scratch.

    Args:
        base: A name in `BASES`.
        num_classes: Number of classes, at least 2.
        weights: `"imagenet"` takes the published weights from the Keras cache, or downloads them;
            `None` draws random weights and leaves the base trainable.
        dropout: Fraction of the pooled features that is dropped in training.
        changed: See `models.build_cnn`.
        seed: Seed of all random generators, set first: building twice gives the same network.
            `None` leaves them as they are.

    Returns:
        A model from raw pixels, float32 `(N, 64, 64, 3)` in 0-255, to logits float32
        `(N, num_classes)`. Preprocessing, augmentation and enlargement are layers inside it; the
        augmentation is only active in training.

    Raises:
        ValueError: If `base` or `weights` is unknown, or `num_classes` is below 2.
        FileNotFoundError: If the weights are not in the cache and cannot be downloaded, or are
            damaged.
    """
    if base not in BASES:
        raise ValueError(f"`base` must be one of {', '.join(BASES)}. Received: {base!r}.")
    if weights not in ("imagenet", None):
        raise ValueError(f'`weights` must be "imagenet" or None. Received: {weights!r}.')
    if num_classes < 2:
        raise ValueError(f"`num_classes` must be at least 2. Received: {num_classes}.")
    if seed is not None:
        keras.utils.set_random_seed(seed)
    build, side, mean, deviation, reads_bgr = BASES[base]
    published = hints._published(base, build, side, weights)
    network = _fused(published, reads_bgr=reads_bgr)
    network.trainable = weights is None

    images = keras.Input((models.IMAGE_SIZE, models.IMAGE_SIZE, 3), name="images")
    x = augmentation.RandomSymmetry(name="augmentation")(images)
    if changed:
        x = augmentation.RandomAppearance(changed, name="augmentation-appearance")(x)
    x = layers.Normalization(
        mean=[float(value) for value in mean], variance=[deviation**2] * 3, name="normalization"
    )(x)
    # Not Keras' layer: called without `training`, it sets all after it into training mode.
    x = ops.image.resize(x, (side, side), interpolation="bilinear")
    x = network(x)
    x = layers.GlobalAveragePooling2D(name="head-pool")(x)
    x = layers.Dropout(dropout, name="head-dropout")(x)
    logits = layers.Dense(num_classes, name="head-logits")(x)
    model = keras.Model(images, logits, name=base)
    model._began_with = f"{weights}, seed {seed}"  # see `checkpoint.Run`
    return model


def _fused(network: keras.Model, *, reads_bgr: bool) -> keras.Model:
    """Copy a base with its weights, for RGB and with the fused batch normalization of `models`.

    Its moving statistics follow within a hundred batches. Some bases let them take thousands,
    which a short training does not have.
    """

    def clone(layer: keras.Layer) -> keras.Layer:
        config, kind = layer.get_config(), type(layer)
        if re.fullmatch(rf"{kind.__name__.lower()}(_\d+)?", layer.name):
            # Keras counted: without the number the same base has the same names every time.
            config["name"] = kind.__name__.lower()
        if kind is layers.BatchNormalization:
            return FusedBatchNormalization.from_config({**config, "momentum": 0.98})
        return kind.from_config(config)

    pixels = keras.Input(network.input_shape[1:], name="enlarged")
    copy = keras.models.clone_model(network, input_tensors=pixels, clone_function=clone)
    copy.name = "base"
    copy.set_weights(network.get_weights())
    if reads_bgr:  # the same as to reverse the channels of the pixels
        first = next(layer for layer in copy.layers if isinstance(layer, layers.Conv2D))
        kernel, *rest = first.get_weights()
        first.set_weights([np.flip(kernel, axis=2), *rest])
    return copy
