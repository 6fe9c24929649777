"""The network: raw pixels in, logits out, with everything between as layers of one Keras model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from keras import layers

from eurosat_helpers.augmentation import RandomSymmetry

# Each export would tell of a folder, and many models in one process of their tracing.
tf.get_logger().setLevel("ERROR")


IMAGE_SIZE = 64  # pixels


@keras.saving.register_keras_serializable(package="eurosat_helpers")
class BatchNormalization(layers.BatchNormalization):
    """Keras' batch normalization (Ioffe and Szegedy, arXiv 1502.03167) in one fused kernel.

    Keras composes it of a dozen operations that each read and write every activation, and under
    mixed precision it converts all of them to float32 and back. TensorFlow's kernel does it at
    once and takes half-precision activations beside float32 statistics.

    Input and output: `(batch, height, width, channels)`, float32, float16 or bfloat16.

    Args:
        momentum: Share that the moving mean and variance keep of themselves each batch.
        fixed_statistics: Whether to normalize by the moving mean and variance in training too, and
            leave them as they are; scale and shift are trained all the same.
    """

    def __init__(
        self, momentum: float = 0.98, *, fixed_statistics: bool = False, **kwargs: object
    ) -> None:
        super().__init__(momentum=momentum, **kwargs)
        self.fixed_statistics = fixed_statistics
        self.autocast = False  # scale, shift and statistics stay float32

    def get_config(self) -> dict:
        return {**super().get_config(), "fixed_statistics": self.fixed_statistics}

    def call(
        self,
        x: tf.Tensor,
        training: bool = False,
        mask: tf.Tensor | None = None,  # noqa: ARG002
    ) -> tf.Tensor:
        # A frozen layer keeps its statistics, as in Keras.
        training = training and self.trainable and not self.fixed_statistics
        mean = tf.convert_to_tensor(self.moving_mean)
        variance = tf.convert_to_tensor(self.moving_variance)
        scale = tf.convert_to_tensor(self.gamma) if self.scale else tf.ones_like(mean)
        shift = tf.convert_to_tensor(self.beta) if self.center else tf.zeros_like(mean)
        nothing = tf.zeros((0,))  # in training the kernel takes the statistics of the batch
        normalized, batch_mean, batch_variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=x,
            scale=scale,
            offset=shift,
            mean=nothing if training else mean,
            variance=nothing if training else variance,
            epsilon=self.epsilon,
            is_training=training,
        )
        if training:
            keep = self.momentum
            self.moving_mean.assign(mean * keep + batch_mean * (1 - keep))
            self.moving_variance.assign(variance * keep + batch_variance * (1 - keep))
        return normalized


def build_cnn(
    *,
    mean: Sequence[float],
    variance: Sequence[float],
    num_classes: int = 10,
    stem_width: int = 32,
    widths: Sequence[int] = (32, 64, 128, 256),
    blocks: Sequence[int] = (1, 1, 1, 1),
    l2: float = 1e-5,
    dropout: float = 0.1,
    hidden: Sequence[int] = (),
) -> keras.Model:
    """Build a residual network (He et al., arXiv 1512.03385) that leaves 64x64 pixels early.

    A strided stem leaves 64x64, where most of the cost would lie, at once; each stage but the
    first halves the side again. A block is two 3x3 convolutions with batch normalization and a
    shortcut.

    Args:
        mean: Mean of each color channel of the training tiles, 0-255.
        variance: Variance of each color channel, 0-255 squared.
        num_classes: Number of classes, at least 2.
        stem_width: Channels after the stem.
        widths: Channels of each stage.
        blocks: Residual blocks of each stage.
        l2: L2 regularization of every kernel of a convolution or a hidden dense layer.
        dropout: Share of the features before the logits that is dropped in training.
        hidden: Units of each dense layer between the pooled features and the dropout.

    Returns:
        A model from raw pixels, float32 `(N, 64, 64, 3)` in 0-255, to logits float32
        `(N, num_classes)`. Normalization and augmentation are layers inside it; the augmentation
        only acts in training.

    Raises:
        ValueError: If `mean` or `variance` is not three numbers, `num_classes` is below 2, or
            `widths` and `blocks` differ in length.
    """
    if len(mean) != 3 or len(variance) != 3:
        raise ValueError(
            "`mean` and `variance` must be three numbers, one a color channel. "
            f"Received: mean={mean}, variance={variance}."
        )
    if num_classes < 2:
        raise ValueError(f"`num_classes` must be at least 2. Received: {num_classes}.")
    if len(widths) != len(blocks):
        raise ValueError(
            "`widths` and `blocks` must have one entry a stage. "
            f"Received: widths={tuple(widths)}, blocks={tuple(blocks)}."
        )
    regularizer = keras.regularizers.L2(l2)

    def convolve(
        x: keras.KerasTensor,
        filters: int,
        kernel_size: int,
        name: str,
        *,
        strides: int = 1,
        activate: bool = True,
    ) -> keras.KerasTensor:
        x = layers.Conv2D(
            filters,
            kernel_size,
            strides,
            padding="same",
            use_bias=False,
            kernel_initializer="he_normal",
            kernel_regularizer=regularizer,
            name=f"{name}-convolution",
        )(x)
        x = BatchNormalization(name=f"{name}-normalization")(x)
        return layers.ReLU(name=f"{name}-relu")(x) if activate else x

    images = keras.Input((IMAGE_SIZE, IMAGE_SIZE, 3), name="images")
    x = layers.Normalization(mean=list(mean), variance=list(variance), name="normalization")(images)
    x = RandomSymmetry(name="augmentation")(x)
    x = convolve(x, stem_width, 4, "stem", strides=2)
    for stage, (width, depth) in enumerate(zip(widths, blocks, strict=True), start=1):
        for block in range(1, depth + 1):
            name = f"stage{stage}_block{block}"
            if stage > 1 and block == 1:
                x = layers.AveragePooling2D(2, name=f"{name}-pool")(x)
            shortcut = x
            if shortcut.shape[-1] != width:
                shortcut = convolve(x, width, 1, f"{name}-shortcut", activate=False)
            x = convolve(x, width, 3, f"{name}-first")
            x = convolve(x, width, 3, f"{name}-second", activate=False)
            x = layers.Add(name=f"{name}-add")([x, shortcut])
            x = layers.ReLU(name=f"{name}-relu")(x)
    x = layers.GlobalAveragePooling2D(name="head-pool")(x)
    for number, units in enumerate(hidden, start=1):
        x = layers.Dense(
            units,
            activation="relu",
            kernel_initializer="he_normal",
            kernel_regularizer=regularizer,
            name=f"head-hidden{number}",
        )(x)
    x = layers.Dropout(dropout, name="head-dropout")(x)
    logits = layers.Dense(num_classes, name="head-logits")(x)
    return keras.Model(images, logits, name="eurosat_cnn")


def sublayers(layer: keras.Layer) -> Iterator[keras.Layer]:
    """Yield a layer or model and everything inside it, models within models too."""
    yield layer
    for inner in getattr(layer, "layers", ()):
        yield from sublayers(inner)


def summary(model: keras.Model) -> pd.DataFrame:
    """Sum up a model, one row for all layers whose names begin alike, up to the first `-`.

    Args:
        model: A functional model with named layers, such as `build_cnn` builds; a model inside it
            is one row.

    Returns:
        `output` (height x width x channels), `parameters`, and `multiply-adds` of the convolutions
        and dense layers for one tile.
    """

    def multiply_adds(layer: keras.Layer) -> int:
        if isinstance(layer, keras.Model):
            return sum(map(multiply_adds, layer.layers))
        positions = int(np.prod(layer.output.shape[1:-1]))
        kernels = [weight for weight in layer.weights if weight.name.endswith("kernel")]
        return positions * sum(int(np.prod(kernel.shape)) for kernel in kernels)

    rows = {}
    for layer in model.layers[1:]:
        name = layer.name.partition("-")[0]
        row = rows.setdefault(name, {"output": "", "parameters": 0, "multiply-adds": 0})
        row["output"] = " x ".join(map(str, layer.output.shape[1:]))
        row["parameters"] += layer.count_params()
        row["multiply-adds"] += multiply_adds(layer)
    return pd.DataFrame.from_dict(rows, orient="index")
