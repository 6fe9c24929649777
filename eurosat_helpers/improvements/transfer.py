"""Transfer learning: networks that were trained on ImageNet, with a new head for the tiles.

First `adapt` and `fit_head` on the frozen base, which is cheap; then, if it shall be better still,
`unfreeze` and `training.fit` at a much lower learning rate, so that the base changes only a little.
"""

from __future__ import annotations

import dataclasses
import os
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from keras import applications, layers, ops

from eurosat_helpers import augmentation, models, pipeline, training
from eurosat_helpers.data import Tiles

_IMAGENET_MEAN = np.array([0.485, 0.456, 0.406])  # of red, green and blue, 0-1
_IMAGENET_DEVIATION = np.array([0.229, 0.224, 0.225])


class Preprocessing(NamedTuple):
    """What a base wants done to raw pixels: (pixel - mean) / deviation, of each color channel."""

    mean: Sequence[float]
    deviation: Sequence[float]
    reverse_channels: bool = False


_TO_ONE = Preprocessing([127.5] * 3, [127.5] * 3)  # -1 to 1
_IMAGENET = Preprocessing(255 * _IMAGENET_MEAN, 255 * _IMAGENET_DEVIATION)
_CAFFE = Preprocessing([123.68, 116.779, 103.939], [1] * 3, reverse_channels=True)
_BUILT_IN = Preprocessing([0] * 3, [1] * 3)
# Its first layers map p to (p / 255 - mean) / sqrt(deviation). Keras makes up for the root with a
# layer after them (tensorflow/tensorflow#49930), but only for weights that it fetched itself.
# Stretching the pixels beforehand comes to the same for every file.
_EFFICIENT_NET = Preprocessing(
    255 * _IMAGENET_MEAN * (1 - np.sqrt(_IMAGENET_DEVIATION)), np.sqrt(_IMAGENET_DEVIATION)
)


class Base(NamedTuple):
    """A network of `keras.applications` without its head.

    Attributes:
        build: Function that builds it.
        side: Side in pixels to which the tiles are enlarged for it.
        preprocessing: What is done to the raw pixels first.
        address: Where its ImageNet weights are; the last part is the name of the file.
    """

    build: Callable[..., keras.Model]
    side: int
    preprocessing: Preprocessing
    address: str


_STORE = "https://storage.googleapis.com/tensorflow/keras-applications/"
_KERNELS = "weights_tf_dim_ordering_tf_kernels"
BASES = {
    "MobileNet_0.75": Base(
        partial(applications.MobileNet, alpha=0.75),
        96,
        _TO_ONE,
        f"{_STORE}mobilenet/mobilenet_7_5_224_tf_no_top.h5",
    ),
    "MobileNet": Base(
        applications.MobileNet, 96, _TO_ONE, f"{_STORE}mobilenet/mobilenet_1_0_224_tf_no_top.h5"
    ),
    "MobileNetV2": Base(
        applications.MobileNetV2,
        96,
        _TO_ONE,
        f"{_STORE}mobilenet_v2/mobilenet_v2_{_KERNELS}_1.0_96_no_top.h5",
    ),
    "EfficientNetB0": Base(
        applications.EfficientNetB0,
        128,
        _EFFICIENT_NET,
        "https://storage.googleapis.com/keras-applications/efficientnetb0_notop.h5",
    ),
    "EfficientNetV2B0": Base(
        applications.EfficientNetV2B0,
        128,
        _BUILT_IN,
        f"{_STORE}efficientnet_v2/efficientnetv2-b0_notop.h5",
    ),
    "ResNet50": Base(
        applications.ResNet50, 96, _CAFFE, f"{_STORE}resnet/resnet50_{_KERNELS}_notop.h5"
    ),
    "DenseNet121": Base(
        applications.DenseNet121, 96, _IMAGENET, f"{_STORE}densenet/densenet121_{_KERNELS}_notop.h5"
    ),
    "VGG16": Base(applications.VGG16, 64, _CAFFE, f"{_STORE}vgg16/vgg16_{_KERNELS}_notop.h5"),
    "InceptionV3": Base(
        applications.InceptionV3,
        128,
        _TO_ONE,
        f"{_STORE}inception_v3/inception_v3_{_KERNELS}_notop.h5",
    ),
    "Xception": Base(
        applications.Xception, 96, _TO_ONE, f"{_STORE}xception/xception_{_KERNELS}_notop.h5"
    ),
    "ConvNeXtTiny": Base(
        applications.ConvNeXtTiny, 96, _BUILT_IN, f"{_STORE}convnext/convnext_tiny_notop.h5"
    ),
}


@keras.saving.register_keras_serializable(package="eurosat_helpers")
class ReverseChannels(layers.Layer):
    """Turn RGB into BGR, which networks from Caffe take: `(..., channels)`, any dtype."""

    def call(self, images: tf.Tensor) -> tf.Tensor:
        return ops.flip(images, axis=-1)

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        return input_shape


@keras.saving.register_keras_serializable(package="eurosat_helpers")
class Resize(layers.Layer):
    """Enlarge images by bilinear interpolation: `(batch, height, width, channels)`, any dtype.

    Keras has such a layer, but where a model is called without `training`, that layer sets all that
    come after it into training mode.

    Args:
        side: Height and width of the output in pixels.
    """

    def __init__(self, side: int, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.side = side

    def call(self, images: tf.Tensor) -> tf.Tensor:
        return ops.image.resize(images, (self.side, self.side), interpolation="bilinear")

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        return input_shape[0], self.side, self.side, input_shape[3]

    def get_config(self) -> dict:
        return {**super().get_config(), "side": self.side}


def build_transfer(
    base: str,
    *,
    num_classes: int = 10,
    weights: str | os.PathLike[str] | None = "imagenet",
    hidden: Sequence[int] = (),
    dropout: float = 0.2,
) -> keras.Model:
    """Build a model on a frozen base, or the same model to be trained from scratch.

    A frozen base has fixed weights, and its batch normalization keeps its statistics, later in
    `unfreeze` too: those of small batches would spoil it. `adapt` makes them those of the tiles.

    Args:
        base: A name in `BASES`.
        num_classes: Number of classes, at least 2.
        weights: `"imagenet"` takes the published weights from the Keras cache or fetches them
            into it; a path takes such a file from elsewhere; `None` draws random weights and
            leaves the base trainable.
        hidden: Units of each dense layer between the pooled features and the logits.
        dropout: Share of the last features that is dropped in training.

    Returns:
        A model from raw pixels, float32 `(N, 64, 64, 3)` in 0-255, to logits float32
        `(N, num_classes)`. Preprocessing, augmentation and the enlargement of the tiles are layers
        inside it; the augmentation only acts in training.

    Raises:
        ValueError: If `base` is unknown, `num_classes` is below 2, or the file holds no weights
            of this base.
        FileNotFoundError: If the file is missing, or is not in the cache and cannot be fetched.
    """
    if base not in BASES:
        raise ValueError(f"`base` must be one of {', '.join(BASES)}. Received: {base!r}.")
    if num_classes < 2:
        raise ValueError(f"`num_classes` must be at least 2. Received: {num_classes}.")
    build, side, preprocessing, _ = BASES[base]
    file = None if weights is None else _weights_file(base, weights)
    network = _fused(build(include_top=False, weights=None, input_shape=(side, side, 3)))
    network.name = "base"  # not by the argument: some look their blocks up by it
    if file is not None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", UserWarning)  # of layers for which it has none
                network.load_weights(str(file))
        except (OSError, ValueError, KeyError, UserWarning) as error:
            raise ValueError(
                f"`{file}` does not hold the weights of {base} without its head, or is damaged: "
                f"remove it and get {BASES[base].address} again. Keras says: {error}"
            ) from error
        network.trainable = False

    images = keras.Input((models.IMAGE_SIZE, models.IMAGE_SIZE, 3), name="images")
    x = layers.Normalization(
        mean=[float(value) for value in preprocessing.mean],
        variance=[float(value) ** 2 for value in preprocessing.deviation],
        name="preprocessing-normalization",
    )(images)
    if preprocessing.reverse_channels:
        x = ReverseChannels(name="preprocessing-channels")(x)
    x = augmentation.RandomSymmetry(name="augmentation")(x)
    x = Resize(side, name="resizing")(x)
    x = network(x) if file is None else network(x, training=False)
    x = layers.GlobalAveragePooling2D(name="head-pool")(x)
    for number, units in enumerate(hidden, start=1):
        x = layers.Dense(units, activation="relu", name=f"head-dense{number}")(x)
    x = layers.Dropout(dropout, name="head-dropout")(x)
    logits = layers.Dense(num_classes, name="head-logits")(x)
    return keras.Model(images, logits, name=base)


def adapt(model: keras.Model, tiles: Tiles, *, seed: int, batch_size: int = 256) -> None:
    """Give batch normalization of a frozen base the statistics of the tiles.

    Photographs have others than satellite tiles, and the base sees these as it was trained to see
    those (adaptive batch normalization, Li et al., arXiv 1603.04779). It costs one pass, over 4,000
    of the tiles at most.

    Args:
        model: A model of `build_transfer` with a frozen base.
        tiles: The training tiles.
        seed: Seed of their order.
        batch_size: Tiles in a batch; the statistics are those within batches, so not too few.
    """
    base = model.get_layer("base")
    enlarge = keras.Model(model.input, model.get_layer("resizing").output)
    some = tiles[:: -(-len(tiles) // 4000)]  # of each class: a mean needs no more
    batches = pipeline.dataset(some, batch_size=batch_size, shuffle_seed=seed)
    base.trainable = True
    estimate_statistics(base, (enlarge(images) for images, _ in batches))
    base.trainable = False


def unfreeze(model: keras.Model, *, last: int | None = None, fixed_statistics: bool = True) -> None:
    """Let the last layers of the base be trained too.

    Afterwards call `training.fit` at a very low learning rate: it compiles the model anew, without
    which nothing would change.

    Args:
        model: A model of `build_transfer` with weights from ImageNet.
        last: Number of layers of the base, counted from its end; `None` unfreezes the whole base.
        fixed_statistics: Whether batch normalization stays in inference mode, with the statistics
            that it has, which a few tiles or small batches could not replace; its scales and shifts
            are trained all the same. With many tiles `False` is better.

    Raises:
        ValueError: If `last` is not from 1 to the number of the base's layers.
    """
    base = model.get_layer("base")
    count = len(base.layers)
    if last is not None and not 1 <= last <= count:
        raise ValueError(
            f"`last` must be from 1 to the {count} layers of the base, or None. Received: {last}."
        )
    base.trainable = True
    for layer in models.sublayers(base):
        if isinstance(layer, models.BatchNormalization):
            layer.fixed_statistics = fixed_statistics
    if last is not None:
        for layer in base.layers[:-last]:
            layer.trainable = False


def fit_head(
    model: keras.Model, train: Tiles, validation: Tiles, *, seed: int, **settings: object
) -> pd.DataFrame:
    """Train the head alone, on features of the frozen base that are computed only once.

    An epoch then takes a moment, but each tile is seen in one position only: there is no
    augmentation.

    Args:
        model: A model of `build_transfer` with a frozen base; it is left at its best weights.
        train: The training tiles, shuffled anew each epoch.
        validation: The validation tiles, which choose the best epoch.
        seed: Seed of shuffling and dropout.
        **settings: Further keywords of `training.fit`: `epochs`, `batch_size`, `learning_rate` and
            whichever of the others.

    Returns:
        One row an epoch, as of `training.fit`; the first one's `seconds` hold the computation of
        the features too.

    Raises:
        ValueError: If the base is not frozen, or `epochs` or `batch_size` is not a positive
            integer.
    """
    if model.get_layer("base").trainable_weights:
        raise ValueError(
            "`model` must have a frozen base, but the base of this one is trainable: train it with "
            "`training.fit`, or build it with weights from ImageNet."
        )
    pool = model.get_layer("head-pool")
    trained = model.layers[model.layers.index(pool) + 1 :]
    with model.distribute_strategy.scope():
        extractor = keras.Model(model.input, pool.output)
        # Copies of the layers: one that is called in two models has no single output any more.
        x = inputs = keras.Input(pool.output.shape[1:])
        copies = []
        for layer in trained:
            config = layer.get_config()
            if isinstance(layer, layers.Dropout):
                config["seed"] = seed
            copies.append(type(layer).from_config(config))
            x = copies[-1](x)
            copies[-1].set_weights(layer.get_weights())
        head = keras.Model(inputs, x)

    begin = time.perf_counter()
    known = [
        dataclasses.replace(
            tiles,
            images=extractor.predict(
                pipeline.dataset(tiles, batch_size=training.EVALUATION_BATCH), verbose=0
            ),
        )
        for tiles in (train, validation)
    ]
    seconds = time.perf_counter() - begin
    tiles = len(train) + len(validation)
    print(f"{inputs.shape[-1]:,} features of {tiles:,} tiles in {seconds:.0f} s")
    history = training.fit(head, *known, seed=seed, policy="float32", **settings)
    for copy, layer in zip(copies, trained, strict=True):
        layer.set_weights(copy.get_weights())
    history.loc[0, "seconds"] += seconds
    return history


def compare_bases(
    names: Sequence[str],
    train: Tiles,
    validation: Tiles,
    *,
    seed: int,
    weights: str | None = "imagenet",
    **settings: object,
) -> tuple[pd.DataFrame, keras.Model]:
    """Train a model on each base and choose the best one on validation.

    Args:
        names: Names in `BASES`.
        train: The training tiles.
        validation: The validation tiles, which choose the winner; the test has no say.
        seed: Seed of the random weights and of each training, alike for every base.
        weights: `"imagenet"` trains the head on the frozen base by `adapt` and `fit_head`, `None`
            the whole model from scratch by `training.fit`.
        **settings: Further keywords of `training.fit`, alike for every base.

    Returns:
        The table, best first: `validation accuracy`, `parameters` and `seconds` of the training,
        indexed by `base`; and the trained model of the winner, which bears the name of its base.
        Of equally accurate ones the smaller wins.

    Raises:
        ValueError: If `names` is empty or holds an unknown name.
        FileNotFoundError: See `build_transfer`.
    """
    unknown = [name for name in names if name not in BASES]
    if unknown or not names:
        raise ValueError(
            f"`names` must be one or more of {', '.join(BASES)}. Received: {list(names)}."
        )
    if weights is not None:
        for name in names:  # a missing file shows now, and not after hours
            _weights_file(name, weights)
    rows, winner = [], None
    for name in names:
        keras.utils.set_random_seed(seed)
        model = build_transfer(name, num_classes=len(train.class_names), weights=weights)
        print(f"{name}:")
        begin = time.perf_counter()
        if weights is None:
            history = training.fit(model, train, validation, seed=seed, **settings)
        else:
            adapt(model, train, seed=seed)
            history = fit_head(model, train, validation, seed=seed, **settings)
        seconds = time.perf_counter() - begin
        rows.append(
            {
                "base": name,
                "validation accuracy": history.val_accuracy.max(),
                "parameters": model.count_params(),
                "seconds": seconds,
            }
        )
        table = pd.DataFrame(rows).set_index("base")
        table = table.sort_values(["validation accuracy", "parameters"], ascending=[False, True])
        if table.index[0] == name:
            winner = model
    return table, winner


def _fused(network: keras.Model) -> keras.Model:
    """Copy a base without its weights, with the fused batch normalization of `models`.

    Its moving statistics follow within a hundred batches. Some bases let them take thousands,
    which a short training does not have.
    """

    def clone(layer: keras.Layer) -> keras.Layer:
        if isinstance(layer, layers.BatchNormalization):
            return models.BatchNormalization.from_config({**layer.get_config(), "momentum": 0.98})
        return type(layer).from_config(layer.get_config())

    return keras.models.clone_model(network, clone_function=clone)


def _weights_file(base: str, weights: str | os.PathLike[str]) -> Path:
    """Find the file of weights, or fetch it into the Keras cache."""
    address = BASES[base].address
    name = address.rpartition("/")[2]
    if weights != "imagenet":
        if not Path(weights).is_file():
            raise FileNotFoundError(
                f'`weights` must be "imagenet", None or the path of a file such as {name}. '
                f"No such file: {weights}"
            )
        return Path(weights)
    home = Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser()
    file = home / "models" / name
    if file.is_file():  # Keras looks there too, but not where it may not write
        return file
    try:
        return Path(keras.utils.get_file(name, address, cache_dir=home, cache_subdir="models"))
    except Exception as error:  # Keras raises no narrower one
        raise FileNotFoundError(
            f"The ImageNet weights of {base} are not at `{file}` and could not be fetched from "
            f"{address}. Put the file there ($KERAS_HOME/models, or ~/.keras/models), or pass its "
            f"path as `weights`; `weights=None` trains from scratch. Keras says: {error}"
        ) from error


"""x"""


def estimate_statistics(model: keras.Model, batches: Iterable[tf.Tensor]) -> None:
    """Set the moving mean and variance of batch normalization to their means over batches.

    Needed where the weights or the images are not those that the statistics were taken of: after
    weights were averaged (Izmailov et al., arXiv 1803.05407), or for a network from elsewhere
    (adaptive batch normalization, Li et al., arXiv 1603.04779). Frozen layers keep theirs.

    Args:
        model: The model, called on each batch as in training.
        batches: Its inputs.
    """
    momentum = {
        layer: layer.momentum
        for layer in models.sublayers(model)
        if isinstance(layer, layers.BatchNormalization)
    }
    if not momentum:
        return
    seen = 0
    for images in batches:
        for layer in momentum:  # so that the moving mean is the mean of all batches so far
            layer.momentum = seen / (seen + len(images))
        model(images, training=True)
        seen += len(images)
    for layer, before in momentum.items():
        layer.momentum = before
