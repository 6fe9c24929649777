"""Augmentation: what a tile may look like when it is seen another way."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops


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
    contrast, as products made for the eye do. Half are then blurred or sharpened, and half get
    noise. Some may lose up to 3 % of their pixels. Amounts are uniform, so most are mild.

    Input and output: `(batch, side, side, 3)`, float32 raw pixels in 0-255. Only active in
    training.

    Args:
        share: Share of each batch that is changed, rounded: its first images, since batches of the
            training are shuffled. The others stay as they are, and cost nothing.
        damaged: Share of changed images whose noise, if any, is gray, and share that lose pixels.
        seed: Seed of the draws; `None` takes one from Keras' global seed.
    """

    AIR = (12.0, 23.9, 40.7)  # gray levels that clear air adds to dark ground, on balance
    SHADE = (1.0, 0.95, 0.85)  # what is left in the shade is skylight, which is blue
    BLUR = (0.0625, 0.25, 0.375, 0.25, 0.0625)  # binomial: a standard deviation of one pixel

    def __init__(
        self, share: float, *, damaged: float = 0.0, seed: int | None = None, **kwargs: object
    ) -> None:
        super().__init__(**kwargs)
        for name, value in (("share", share), ("damaged", damaged)):
            if not 0 <= value <= 1:
                raise ValueError(f"`{name}` must be in [0, 1]. Received: {value}.")
        self.share, self.damaged = share, damaged
        self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        if not training:
            return images
        count = tf.shape(images)[0]
        changed = tf.cast(tf.round(self.share * tf.cast(count, "float32")), "int32")
        images, unchanged = images[:changed], images[changed:]

        def draw(low: float, high: float, channels: int = 1) -> tf.Tensor:
            shape = (ops.shape(images)[0], 1, 1, channels)
            return keras.random.uniform(shape, low, high, seed=self.seed_generator)

        def some(share: float) -> tf.Tensor:
            return ops.cast(draw(0, 1) < share, "float32")

        def field(knots: int = 4) -> tf.Tensor:  # smooth, 0 to 1, some with steep edges
            position = np.linspace(0, knots - 1, images.shape[1])[:, None]
            linear = np.maximum(0, 1 - np.abs(position - np.arange(knots))).astype("float32")
            coarse = ops.reshape(draw(-1, 1, knots**2), (-1, knots, knots))
            surface = ops.einsum("ri,nij,cj->nrc", linear, coarse, linear)[..., None]
            return ops.clip(0.5 + draw(0.5, 2.5) * surface, 0, 1)

        x = images + some(0.8) * (draw(-1.1, 0.7) * ops.array(self.AIR) + draw(-8, 8, 3))
        x *= 1 + some(0.8) * (draw(0.75, 1.3) * draw(0.93, 1.07, 3) - 1)
        shade, veil = some(0.3) * draw(0, 0.5) * field(), some(0.3) * draw(0, 0.35) * field()
        x *= 1 - shade * ops.array(self.SHADE)
        x += veil * (255 - x)
        mean, level = ops.mean(x, axis=-1, keepdims=True), draw(60, 140)
        x += some(0.3) * draw(-0.5, 0.3) * (x - mean)  # saturation
        x += some(0.3) * draw(-0.4, 0.3) * (x - level)  # contrast
        x += some(0.5) * draw(-0.8, 1) * (self._blurred(x) - x)  # below 0 it sharpens
        noise = keras.random.normal(ops.shape(images), seed=self.seed_generator)
        if self.damaged:
            noise += some(self.damaged) * (noise[..., :1] - noise)
        x += some(0.5) * draw(0, 8) * noise
        if self.damaged:
            lost = keras.random.uniform(ops.shape(noise[..., :1]), seed=self.seed_generator)
            lost = lost < some(self.damaged) * draw(0, 0.03)
            x = ops.where(lost, ops.where(noise > 0, 255.0, 0.0), x)
        # In such tiles 0 stands for "no data".
        return ops.concatenate([ops.clip(x, 1, 255), unchanged])

    def _blurred(self, images: tf.Tensor) -> tf.Tensor:
        # Shifted sums take a third of the time of a depthwise convolution, forward only.
        side = images.shape[1]
        # Reflected at the edges; `ops.pad` refuses a batch without tiles.
        x = ops.concatenate([images[:, 2:0:-1], images, images[:, -2:-4:-1]], axis=1)
        x = ops.concatenate([x[:, :, 2:0:-1], x, x[:, :, -2:-4:-1]], axis=2)
        x = sum(weight * x[:, i : i + side] for i, weight in enumerate(self.BLUR))
        return sum(weight * x[:, :, i : i + side] for i, weight in enumerate(self.BLUR))
