"""Batch normalization at half the cost of Keras' own."""

from __future__ import annotations

import keras
import tensorflow as tf
from keras import layers


@keras.saving.register_keras_serializable(package="eurosat_helpers")
class FusedBatchNormalization(layers.BatchNormalization):
    """Keras' batch normalization (Ioffe and Szegedy, arXiv 1502.03167) in one fused kernel.

    Keras composes it of a dozen operations that each read and write every activation, in float32.
    The kernel does it at once and takes half-precision activations beside float32 statistics. The
    variance that the moving variance follows is the kernel's: divided by `n - 1` where Keras
    divides by `n`, the number of values per channel (batch x height x width).

    Input and output: `(batch, height, width, channels)`, float32, float16 or bfloat16.

    Args:
        momentum: Share that the moving mean and variance keep of themselves with each batch.
        fixed_statistics: Whether to normalize by the moving mean and variance in training too, and
            not update them; scale and shift are still trained.
    """

    def __init__(
        self, momentum: float = 0.98, *, fixed_statistics: bool = False, **options: object
    ) -> None:
        super().__init__(momentum=momentum, **options)
        if self.axis not in (-1, 3) or self.synchronized:
            received = f"Received: axis={self.axis}, synchronized={self.synchronized}"
            raise ValueError(f"`axis` must be the last one, and `synchronized` False. {received}")
        self.fixed_statistics = fixed_statistics
        self.autocast = False  # scale, shift and statistics stay float32

    def get_config(self) -> dict:
        return {**super().get_config(), "fixed_statistics": self.fixed_statistics}

    def call(self, x: tf.Tensor, training: bool = False, mask: None = None) -> tf.Tensor:  # noqa: ARG002
        # A frozen layer keeps its statistics, as in Keras.
        training = training and self.trainable and not self.fixed_statistics
        mean = tf.convert_to_tensor(self.moving_mean)
        variance = tf.convert_to_tensor(self.moving_variance)
        nothing = tf.zeros((0,))  # in training the kernel takes the statistics of the batch
        normalized, batch_mean, batch_variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=x,
            scale=tf.convert_to_tensor(self.gamma) if self.scale else tf.ones_like(mean),
            offset=tf.convert_to_tensor(self.beta) if self.center else tf.zeros_like(mean),
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
