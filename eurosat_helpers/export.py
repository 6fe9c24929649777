"""Turn a Keras model into the graph that is served."""

from __future__ import annotations

import os
from collections.abc import Sequence

import keras
import tensorflow as tf
from keras import layers, ops

from eurosat_helpers.classifier import IMAGE_SHAPE
from eurosat_helpers.normalization import FusedBatchNormalization


def write(
    model: keras.Model,
    directory: str | os.PathLike[str],
    detector: keras.Model,
    class_names: Sequence[str],
    temperature: float,
) -> None:
    """Write a SavedModel with the endpoints `serve` and `serve_jpeg`.

    `serve` turns float32 `images` `(N, 64, 64, 3)` in 0-255 into `probabilities` `(N, C)` and
    `unfamiliarity` `(N,)`, infinite where NaN reaches it. `serve_jpeg` turns the bytes of N JPEG or
    8-bit PNG images of 64 x 64 pixels into these, `label` and `confidence`, or raises
    InvalidArgumentError.

    The arguments are those of `artifact.save`; layers that `detector` shares with `model` are
    computed once.
    """
    shared = detector.inputs[0] is model.inputs[0]
    unfamiliarity = detector.outputs[0] if shared else detector(model.inputs[0])
    network = keras.Model(model.inputs[0], [model.outputs[0], unfamiliarity])
    network = _folded(network)

    def serve(images: tf.Tensor) -> dict[str, tf.Tensor]:
        logits, unfamiliarity = network(images, training=False)
        unfamiliarity = tf.where(tf.math.is_nan(unfamiliarity), float("inf"), unfamiliarity)
        probabilities = tf.nn.softmax(logits / temperature)
        return {"probabilities": probabilities, "unfamiliarity": unfamiliarity}

    def serve_jpeg(encoded: tf.Tensor) -> dict[str, tf.Tensor]:
        outputs = serve(tf.cast(_decode_all(encoded), tf.float32))
        rows = outputs["probabilities"]
        label = tf.gather(tf.constant(list(class_names)), tf.argmax(rows, axis=1))
        return {"label": label, "confidence": tf.reduce_max(rows, axis=1), **outputs}

    # No `track(model)`: with it Keras stores every weight twice (keras-team/keras#23553).
    archive = keras.export.ExportArchive()
    images = tf.TensorSpec((None, *IMAGE_SHAPE), tf.float32, name="images")
    archive.add_endpoint("serve", serve, input_signature=[images])
    encoded = tf.TensorSpec((None,), tf.string, name="encoded")
    archive.add_endpoint("serve_jpeg", serve_jpeg, input_signature=[encoded])
    archive.write_out(str(directory), verbose=False)


def _folded(model: keras.Model) -> keras.Model:
    """Copy a network for inference, with batch normalization folded into the convolution before it.

    At inference it only scales and shifts each channel, which the convolution can do by itself:
    the same logits up to rounding with fewer passes over the activations, in nested models too.
    The copy has its own weights and computes in float32.
    """
    if isinstance(model, keras.Sequential):  # of which Keras cannot leave out a layer
        model = keras.Model(model.inputs[0], model.outputs[0], name=model.name)
    found = ((layer, _normalization_after(layer, model)) for layer in model.layers)
    folds = {after.name: convolution for convolution, after in found if after is not None}

    def clone(layer: keras.Layer) -> keras.Layer:
        if isinstance(layer, keras.Model):
            return _folded(layer)
        config = layer.get_config()
        if isinstance(layer, keras.Layer):  # and not a bare operation, such as a sum
            config["dtype"] = "float32"
        if layer in folds.values():
            config["use_bias"] = True
        return type(layer).from_config(config)

    def call(
        layer: keras.Layer, *inputs: keras.KerasTensor, **arguments: object
    ) -> keras.KerasTensor:
        return inputs[0] if layer.name in folds else layer(*inputs, **arguments)

    copy = keras.models.clone_model(model, clone_function=clone, call_function=call)
    for layer in model.layers:
        if (convolution := folds.get(layer.name)) is not None:
            scale = (layer.gamma if layer.scale else 1) / ops.sqrt(
                layer.moving_variance + layer.epsilon
            )
            shift = (convolution.bias if convolution.use_bias else 0) - layer.moving_mean
            shift = shift * scale + (layer.beta if layer.center else 0)
            # Channels are the last axis of a kernel, of a depthwise one the last two.
            depthwise = isinstance(convolution, layers.DepthwiseConv2D)
            channels = convolution.kernel.shape[2 if depthwise else 3 :]
            kernel = convolution.kernel * ops.reshape(scale, channels)
            copy.get_layer(convolution.name).set_weights([kernel, shift])
        elif layer.weights and not isinstance(layer, keras.Model) and layer not in folds.values():
            (copied := copy.get_layer(layer.name)).set_weights(layer.get_weights())
            if isinstance(copied, layers.Normalization):
                copied.finalize_state()  # what it computes with is made of these weights
    return copy


def _normalization_after(layer: keras.Layer, model: keras.Model) -> keras.Layer | None:
    """Return the batch normalization that can be folded into this layer, if it is a convolution."""
    if (
        type(layer) not in (layers.Conv2D, layers.DepthwiseConv2D)
        or layer.activation is not keras.activations.linear
        or layer.data_format != "channels_last"
        or len(layer._inbound_nodes) != 1  # called more than once
        or len(layer._outbound_nodes) != 1  # other layers need what is not normalized
        or any(layer.output is output for output in model.outputs)  # as does the caller
    ):
        return None
    after = layer._outbound_nodes[0].operation
    folds = (
        type(after) in (layers.BatchNormalization, FusedBatchNormalization)
        and after.axis in (-1, 3)
        and len(after._inbound_nodes) == 1  # not shared with another convolution
        and any(after is one for one in model.layers)  # and not part of another model
    )
    return after if folds else None


def _decode_all(encoded: tf.Tensor) -> tf.Tensor:
    """Decode images `(N,)`, or raise an error with the positions of all that cannot be decoded."""
    count = tf.size(encoded, tf.int64)
    images = tf.data.Dataset.from_tensor_slices(encoded).enumerate()
    images = images.map(_decode, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    images = images.ignore_errors()  # these are missing then
    # A batch must not be empty, so a blank image comes first.
    blank = (tf.constant(-1, tf.int64), tf.zeros(IMAGE_SHAPE, "uint8"))
    batch = tf.data.Dataset.from_tensors(blank).concatenate(images).batch(count + 1)
    positions, images = batch.get_single_element()
    bad = tf.sparse.to_dense(tf.sets.difference(tf.range(count)[None], positions[None, 1:]))[0]
    message = "expected 8-bit JPEG or PNG images of 64x64 pixels; these positions hold none:"
    checked = tf.debugging.Assert(tf.size(bad) == 0, [message, bad], summarize=20)
    with tf.control_dependencies([checked]):
        return tf.ensure_shape(images[1:], (None, *IMAGE_SHAPE))


def _decode(position: tf.Tensor, encoded: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    # The header first: a small file may claim gigabytes of pixels.
    padded = tf.strings.join([encoded, bytes(26)])
    png = tf.strings.substr(padded, 0, 8) == b"\x89PNG\r\n\x1a\n"
    # Width and height of a PNG image: two big-endian integers.
    size = tf.io.decode_raw(tf.strings.substr(padded, 16, 8), tf.int32, little_endian=False)
    shape = tf.cond(png, lambda: size[::-1], lambda: tf.image.extract_jpeg_shape(encoded)[:2])
    deep = png & (tf.strings.substr(padded, 24, 1) == b"\x10")  # 16 bits would be cut to 8
    header = tf.concat([shape, [tf.cast(deep, tf.int32)]], axis=0)
    with tf.control_dependencies([tf.debugging.assert_equal(header, (*IMAGE_SHAPE[:2], 0))]):
        encoded = tf.identity(encoded)
    # What is transparent has colors that nobody sees.
    alpha = tf.cond(
        png,
        lambda: tf.io.decode_png(encoded, channels=4)[..., 3],
        lambda: tf.constant(255, tf.uint8, (1, 1)),
    )
    with tf.control_dependencies([tf.debugging.assert_equal(alpha, tf.constant(255, tf.uint8))]):
        # Reads PNG too. The accurate transform gives the pixels that other decoders give.
        image = tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_ACCURATE")
    return position, tf.ensure_shape(image, IMAGE_SHAPE)
