"""Attribution: which pixels of a tile speak for a class."""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

_BATCH = 64  # tiles at once; the gradients need their activations


def grad_cam(
    model: keras.Model, images: np.ndarray, labels: np.ndarray, *, layer: str | None = None
) -> np.ndarray:
    """Compute Grad-CAM maps (Selvaraju et al., arXiv 1610.02391): where a layer sees the class.

    The channels of a layer are summed with the weights by which they raise the logit of the class;
    what lowers it is cut off at 0. The map has the resolution of the layer and is enlarged with
    linear interpolation.

    Args:
        model: A functional Keras model, raw pixels in 0-255 -> logits, such as the `model.keras` of
            a saved model.
        images: Pixels in 0-255, shape `(N, height, width, 3)`.
        labels: For each tile the number of the class to explain, int `(N,)`.
        layer: Name of a layer with outputs `(N, height, width, channels)`; None takes the last one.

    Returns:
        float32 maps of shape `(N, height, width)`, 0 or above, in units of the logit: comparable
        between tiles.

    Raises:
        ValueError: If `labels` does not fit `images` or the classes, or the layer has no such
            output.
    """
    labels = _checked(model, images, labels)
    # What has the channels of the image is no feature: the input, augmentation, normalization.
    channels = model.input_shape[-1]
    # A network inside, such as a base: its `output` is that of its own graph, not of this one.
    outputs = {one.name: one._inbound_nodes[-1].output_tensors[0] for one in model.layers}
    shapes = {name: getattr(output, "shape", ()) for name, output in outputs.items()}
    layers = [n for n, shape in shapes.items() if len(shape) == 4 and shape[-1] != channels]
    if layer is not None:
        layers = [name for name in layers if name == layer]
    if not layers:
        raise ValueError(
            "`layer` must name a layer with outputs (N, height, width, channels), such as "
            f"stage3_block1-relu. Received: {layer!r}"
        )
    network = keras.Model(model.input, [outputs[layers[-1]], model.output])

    @tf.function(reduce_retracing=True)
    def explain(batch: tf.Tensor, chosen: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch(batch)
            features, logits = network(batch, training=False)
            logit = tf.gather(logits, chosen, batch_dims=1)
        weights = tf.reduce_mean(tape.gradient(logit, features), axis=(1, 2), keepdims=True)
        maps = tf.nn.relu(tf.reduce_sum(weights * features, axis=-1, keepdims=True))
        return tf.image.resize(maps, batch.shape[1:3])[..., 0]

    return _in_batches(explain, images, labels)


def occlusion(
    model: keras.Model,
    images: np.ndarray,
    labels: np.ndarray,
    *,
    side: int = 16,
    stride: int = 8,
) -> np.ndarray:
    """Hide one square after another and measure what it costs (Zeiler and Fergus, arXiv 1311.2901).

    A hidden square has the mean color of its tile. It needs no gradient and asks the complete
    network, so it checks Grad-CAM; it costs one prediction per square.

    Args:
        model: A Keras model, raw pixels in 0-255 -> logits.
        images: Pixels in 0-255, shape `(N, height, width, 3)`.
        labels: For each tile the number of the class to explain, int `(N,)`.
        side: Side of the square in pixels.
        stride: Pixels between squares.

    Returns:
        float32 maps of shape `(N, height, width)`: by how much the log-odds of the class fall (the
        logarithm of its probability over that of all others), on average over the squares that
        hide a pixel; below 0 where they rise.

    Raises:
        ValueError: If `labels` does not fit `images` or the classes, or a square does not fit.
    """
    labels = _checked(model, images, labels)
    sides = np.shape(images)[1:3]
    if not 1 <= stride <= side <= min(sides):
        raise ValueError(
            f"`stride` and `side` must fit: 1 <= stride <= side <= {min(sides)}. "
            f"Received: stride={stride}, side={side}"
        )
    rows, columns = ([*range(0, n - side, stride), n - side] for n in sides)
    masks = np.zeros((len(rows) * len(columns), *sides, 1), np.float32)
    for number, (top, left) in enumerate((top, left) for top in rows for left in columns):
        masks[number, top : top + side, left : left + side] = 1

    @tf.function(reduce_retracing=True)
    def explain(batch: tf.Tensor, chosen: tf.Tensor) -> tf.Tensor:
        def evidence(pixels: tf.Tensor) -> tf.Tensor:
            logits = model(pixels, training=False)
            others = logits - 1e9 * tf.one_hot(chosen, logits.shape[-1])
            return tf.gather(logits, chosen, batch_dims=1) - tf.reduce_logsumexp(others, axis=1)

        before, color = evidence(batch), tf.reduce_mean(batch, axis=(1, 2), keepdims=True)
        falls = tf.map_fn(
            lambda mask: before - evidence(batch + mask * (color - batch)), tf.constant(masks)
        )
        hidden = tf.einsum("pn,phw->nhw", falls, masks[..., 0])
        return hidden / masks.sum(axis=0)[..., 0]

    return _in_batches(explain, images, labels)


def _checked(model: keras.Model, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    labels, classes = np.asarray(labels), model.output_shape[-1]
    if (
        labels.shape != np.shape(images)[:1]
        or labels.dtype.kind not in "iu"
        or (labels.size and not 0 <= labels.min() <= labels.max() < classes)
    ):
        raise ValueError(
            f"`labels` must be one number of a class, 0 to {classes - 1}, for each of the "
            f"{len(images)} images. Received: {labels.dtype} of shape {labels.shape}, "
            f"{labels.tolist()!r:.60}"
        )
    return labels.astype("int64")


def _in_batches(
    explain: Callable[[tf.Tensor, tf.Tensor], tf.Tensor], images: np.ndarray, labels: np.ndarray
) -> np.ndarray:
    images = np.asarray(images, np.float32)
    maps = [np.zeros((0, *images.shape[1:3]), np.float32)]
    for start in range(0, len(images), _BATCH):
        part = slice(start, start + _BATCH)
        maps.append(explain(tf.constant(images[part]), tf.constant(labels[part])).numpy())
    return np.concatenate(maps)
