"""The network: raw pixels in, logits out, with everything between as layers of one Keras model."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence

import keras
import pandas as pd
import tensorflow as tf
from keras import layers

from eurosat_helpers.augmentation import RandomAppearance, RandomSymmetry
from eurosat_helpers.normalization import FusedBatchNormalization

tf.get_logger().setLevel("ERROR")  # else a notebook shows notes on retracing and on exports

IMAGE_SIZE = 64  # pixels


def build_cnn(
    *,
    mean: Sequence[float],
    variance: Sequence[float],
    num_classes: int = 10,
    stem_width: int = 32,
    widths: Sequence[int] = (32, 64, 128, 256),
    blocks: Sequence[int] | None = None,
    l2: float = 1e-5,
    dropout: float = 0.1,
    hidden: Sequence[int] = (),
    changed: float = 0.0,
    damaged: float = 0.0,
    seed: int | None = None,
) -> keras.Model:
    """Build a residual network (He et al., arXiv 1512.03385) that leaves 64x64 pixels early.

    Most of the cost of a convolution at 64x64 pixels is saved by a strided stem; each stage but the
    first halves the side again. A block is two 3x3 convolutions with batch normalization and a
    shortcut.

    Args:
        mean: Mean of each color channel of the training tiles, 0-255.
        variance: Variance of each color channel, 0-255 squared.
        num_classes: Number of classes, at least 2.
        stem_width: Channels after the stem.
        widths: Channels of each stage, one to five of them.
        blocks: Residual blocks of each stage; `None` means one.
        l2: L2 regularization of the kernels of convolutions and hidden dense layers.
        dropout: Share of the features before the logits that is dropped in training.
        hidden: Units of each dense layer between the pooled features and the dropout.
        changed: Share of the tiles that `RandomAppearance` changes in training.
        damaged: See `RandomAppearance`.
        seed: Seed of the initial weights, augmentation and dropout: the same seed gives the same
            network each time. `None` takes seeds from Keras' global one, other ones each time.

    Returns:
        A model from raw pixels, float32 `(N, 64, 64, 3)` in 0-255, to logits float32
        `(N, num_classes)`. Normalization and augmentation are layers of it; augmentation is only
        active in training.

    Raises:
        ValueError: If `mean` or `variance` is not three numbers, `num_classes` is below 2, or
            `widths` and `blocks` differ in length.
    """
    if len(mean) != 3 or len(variance) != 3:
        received = f"Received: mean={mean}, variance={variance}."
        raise ValueError(f"`mean` and `variance` need one number per color channel. {received}")
    if num_classes < 2:
        raise ValueError(f"`num_classes` must be at least 2. Received: {num_classes}.")
    blocks = [1] * len(widths) if blocks is None else blocks
    if not 1 <= len(widths) == len(blocks) <= 5:  # squares of 48 pixels have no sixth
        received = f"at most five. Received: widths={tuple(widths)}, blocks={tuple(blocks)}."
        raise ValueError(f"`widths` and `blocks` must have one entry per stage, {received}")
    draw = random.Random(seed)

    def next_seed() -> int | None:
        return None if seed is None else draw.randrange(2**31)

    def kernel() -> dict[str, object]:
        return {
            "kernel_initializer": keras.initializers.HeNormal(seed=next_seed()),
            "kernel_regularizer": keras.regularizers.L2(l2),
        }

    def convolve(
        x: keras.KerasTensor, filters: int, size: int, name: str, strides: int = 1
    ) -> keras.KerasTensor:
        options = {"strides": strides, "padding": "same", "use_bias": False, **kernel()}
        x = layers.Conv2D(filters, size, name=f"{name}-convolution", **options)(x)
        return FusedBatchNormalization(name=f"{name}-normalization")(x)

    images = keras.Input((IMAGE_SIZE, IMAGE_SIZE, 3), name="images")
    x = RandomSymmetry(seed=next_seed(), name="augmentation-symmetry")(images)
    if changed or damaged:  # the layer checks both
        options = {"damaged": damaged, "seed": next_seed(), "name": "augmentation-appearance"}
        x = RandomAppearance(changed, **options)(x)
    x = layers.Normalization(mean=list(mean), variance=list(variance), name="normalization")(x)
    x = layers.ReLU(name="stem-relu")(convolve(x, stem_width, 4, "stem", strides=2))
    for stage, (width, depth) in enumerate(zip(widths, blocks, strict=True), start=1):
        for block in range(1, depth + 1):
            name = f"stage{stage}_block{block}"
            if stage > 1 and block == 1:
                x = layers.AveragePooling2D(2, name=f"{name}-pool")(x)
            shortcut = x
            if shortcut.shape[-1] != width:
                shortcut = convolve(x, width, 1, f"{name}-shortcut")
            x = layers.ReLU(name=f"{name}-first-relu")(convolve(x, width, 3, f"{name}-first"))
            x = layers.Add(name=f"{name}-add")([convolve(x, width, 3, f"{name}-second"), shortcut])
            x = layers.ReLU(name=f"{name}-relu")(x)
    x = layers.GlobalAveragePooling2D(name="head-pool")(x)
    for number, units in enumerate(hidden, start=1):
        x = layers.Dense(units, activation="relu", name=f"head-hidden{number}", **kernel())(x)
    x = layers.Dropout(dropout, seed=next_seed(), name="head-dropout")(x)
    initializer = keras.initializers.GlorotUniform(next_seed())
    logits = layers.Dense(num_classes, kernel_initializer=initializer, name="head-logits")(x)
    return keras.Model(images, logits, name="eurosat_cnn")


def sublayers(layer: keras.Layer) -> Iterator[keras.Layer]:
    """Yield a layer or model and everything inside it, nested models too."""
    yield layer
    for inner in getattr(layer, "layers", ()):
        yield from sublayers(inner)


def summary(model: keras.Model) -> pd.DataFrame:
    """Summarize a model, one row for all layers with the same name up to the first `-`.

    Args:
        model: A functional model with named layers, such as `build_cnn` builds; a nested model is
            one row.

    Returns:
        `output` (height x width x channels), `parameters`, and `multiply-adds` of the convolutions
        and dense layers for one tile (one view, in an ensemble over several).
    """

    def multiply_adds(layer: keras.Layer) -> int:
        if isinstance(layer, keras.Model):
            return sum(map(multiply_adds, layer.layers))
        kernels = [weight.shape for weight in layer.weights if weight.name.endswith("kernel")]
        return math.prod(layer.output.shape[1:-1]) * sum(map(math.prod, kernels))

    rows = {}
    for layer in model.layers[1:]:
        name = layer.name.partition("-")[0]
        row = rows.setdefault(name, {"output": "", "parameters": 0, "multiply-adds": 0})
        row["output"] = " x ".join(map(str, layer.output.shape[1:]))
        row["parameters"] += layer.count_params()
        row["multiply-adds"] += multiply_adds(layer)
    return pd.DataFrame.from_dict(rows, orient="index")
