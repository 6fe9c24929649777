"""Augmentation: what a tile may look like when it is seen another way."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops
from numpy.lib.stride_tricks import sliding_window_view


@keras.saving.register_keras_serializable(package="eurosat_helpers")
class RandomSymmetry(layers.Layer):
    """Turn and mirror each image into one of the eight symmetries of the square, at random.

    A satellite tile has no up, so all eight are equally likely. Nothing is interpolated.

    Input and output: `(batch, side, side, channels)`, any dtype. Only active in training.

    Args:
        seed: Seed of the choices; `None` takes one from Keras' global seed.
    """

    def __init__(self, *, seed: int | None = None, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        if not training:
            return images
        side = images.shape[1]
        views = [np.arange(side * side).reshape(side, side)]  # where each pixel comes from
        for turn in (np.flipud, np.fliplr, np.transpose):
            views += [turn(view) for view in views]
        shape = (3, ops.shape(images)[0])
        chosen = ops.cast(keras.random.uniform(shape, seed=self.seed_generator) < 0.5, "int32")
        places = tf.gather(np.reshape(views, (8, -1)), tf.tensordot([1, 2, 4], chosen, 1))
        # One pass over the pixels; to flip and choose takes five times as long.
        pixels = ops.reshape(images, (-1, side * side, images.shape[-1]))
        return ops.reshape(tf.gather(pixels, places, batch_dims=1), (-1, *images.shape[1:]))


@keras.saving.register_keras_serializable(package="eurosat_helpers")
class RandomAppearance(layers.Layer):
    """Change some images as another day, product or camera would: air, light, tone, noise.

    A changed image is `gain * (image + haze)`. The haze has the color of Rayleigh scattering and is
    added or, down to surface reflectance (L2A), removed. One gain is common to all channels (sun,
    processing), another small one is per channel (calibration). Some get a shade and a white veil
    that vary over the image, as relief and thin clouds do. Some lose or gain saturation and
    contrast, as products made for the eye do. Half are blurred, sharpened or moved by up to a pixel
    or two, by random kernels along each axis (in some per channel); half get noise (in some grey);
    some lose pixels, and some fine grey levels, as damaged or coarsely stored data do. Amounts are
    uniform, so most are mild.

    Input and output: `(batch, side, side, 3)`, float32 raw pixels in 0-255. Only active in
    training.

    Args:
        share: Share of each batch that is changed, rounded: its first images, since batches of the
            training are shuffled. The others stay as they are, and cost nothing.
        seed: Seed of the draws; `None` takes one from Keras' global seed.
    """

    AIR = (12.0, 23.9, 40.7)  # grey levels that clear air adds to dark ground, on balance
    SHADE = (1.0, 0.95, 0.85)  # what is left in the shade is skylight, which is blue
    STILL = (0.0, 0.0, 1.0, 0.0, 0.0)  # the kernel that changes nothing

    def __init__(self, share: float, *, seed: int | None = None, **kwargs: object) -> None:
        super().__init__(**kwargs)
        if not 0 <= share <= 1:
            raise ValueError(f"`share` must be in [0, 1]. Received: {share}.")
        self.share = share
        self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        if not training:
            return images
        count = tf.shape(images)[0]
        changed = tf.cast(tf.round(self.share * tf.cast(count, "float32")), "int32")
        images, unchanged = images[:changed], images[changed:]

        def draw(low: float, high: float, *axes: int) -> tf.Tensor:
            shape = (ops.shape(images)[0], *(axes or (1, 1, 1)))
            return keras.random.uniform(shape, low, high, seed=self.seed_generator)

        def some(share: float) -> tf.Tensor:
            return ops.cast(draw(0, 1) < share, "float32")

        def field(knots: int = 4) -> tf.Tensor:  # smooth, 0 to 1, some with steep edges
            position = np.linspace(0, knots - 1, images.shape[1])[:, None]
            linear = np.maximum(0, 1 - np.abs(position - np.arange(knots))).astype("float32")
            coarse = draw(-1, 1, knots, knots)
            surface = ops.einsum("ri,nij,cj->nrc", linear, coarse, linear)[..., None]
            return ops.clip(0.5 + draw(0.5, 2.5) * surface, 0, 1)

        x = images + some(0.8) * (draw(-1.1, 0.7) * ops.array(self.AIR) + draw(-8, 8, 1, 1, 3))
        x *= 1 + some(0.8) * (draw(0.75, 1.3) * draw(0.93, 1.07, 1, 1, 3) - 1)
        shade, veil = some(0.3) * draw(0, 0.5) * field(), some(0.3) * draw(0, 0.35) * field()
        x *= 1 - shade * ops.array(self.SHADE)
        x += veil * (255 - x)
        grey, level = ops.mean(x, axis=-1, keepdims=True), draw(60, 140)
        x += some(0.3) * draw(-0.5, 0.3) * (x - grey)  # saturation
        x += some(0.3) * draw(-0.4, 0.3) * (x - level)  # contrast
        kernels = ops.softmax(draw(-2, 2, 2, 1, 5) + some(0.3) * draw(-2, 2, 2, 3, 5))
        amount = some(0.5) * draw(-0.8, 1, 2, 1, 1)  # below 0 it sharpens
        x = self._filtered(x, self.STILL + amount * (kernels - self.STILL))
        noise = keras.random.normal(ops.shape(images), seed=self.seed_generator)
        noise = ops.where(draw(0, 1) < 0.3, noise[..., :1], noise)
        x += some(0.5) * draw(0, 8) * noise
        lost = draw(0, 1, *images.shape[1:3], 1) < some(0.2) * draw(0, 0.03)
        x = ops.where(lost, ops.where(noise > 0, 255.0, 0.0), x)
        step = 1 + some(0.2) * draw(0, 20)  # between grey levels
        # In such tiles 0 stands for "no data".
        return ops.concatenate([ops.clip(ops.round(x / step) * step, 1, 255), unchanged])

    @staticmethod
    def _filtered(images: tf.Tensor, kernels: tf.Tensor) -> tf.Tensor:  # per axis, channel, pixel
        # By matrices: a convolution with kernels of its own per image would take far longer.
        side = images.shape[1]
        rows = sliding_window_view(np.pad(np.arange(side), 2, mode="reflect"), side)
        matrices = ops.einsum("nack,krs->nacrs", kernels, np.eye(side, dtype="float32")[rows])
        return ops.einsum("ncrs,nstc,ncut->nruc", matrices[:, 0], images, matrices[:, 1])
