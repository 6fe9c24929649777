"""Augmentation: what a tile may look like when it is seen another way."""

from __future__ import annotations

import keras
import tensorflow as tf
from keras import layers, ops


@keras.saving.register_keras_serializable(package="eurosat_helpers")
class RandomSymmetry(layers.Layer):
    """Turn and mirror each image into one of the eight symmetries of the square, at random.

    A satellite tile has no up, so all eight are equally likely views of a place. No pixel value
    changes: there is no interpolation and no border to fill. Three choices by mask (mirror rows,
    mirror columns, transpose) make all eight, for a complete batch at once.

    Input and output: `(batch, side, side, channels)`, any dtype. Only active in training.

    Args:
        seed: Seed of the choices; `None` takes one from Keras' global seed.
    """

    def __init__(self, *, seed: int | None = None, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        if not training:
            return images
        shape = (3, ops.shape(images)[0], 1, 1, 1)
        chosen = keras.random.uniform(shape, seed=self.seed_generator) < 0.5
        images = ops.where(chosen[0], ops.flip(images, axis=1), images)
        images = ops.where(chosen[1], ops.flip(images, axis=2), images)
        return ops.where(chosen[2], ops.transpose(images, (0, 2, 1, 3)), images)

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        return input_shape

    def get_config(self) -> dict:
        return {**super().get_config(), "seed": self.seed}
