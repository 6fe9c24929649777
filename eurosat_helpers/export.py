"""Turn a Keras model into the graph that is served."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import keras
import tensorflow as tf
from keras import layers, ops

from eurosat_helpers.classifier import IMAGE_SHAPE


def fold_batch_normalization(model: keras.Model) -> keras.Model:
    """Copy a trained network for inference, with batch normalization folded into convolutions.

    At inference batch normalization only scales and shifts, which the convolution before it can do
    by itself: the same function of the pixels with fewer passes over the activations.

    Args:
        model: A functional or sequential model; models inside it are folded as well.

    Returns:
        A model of the same outputs at inference, up to rounding. It has weights of its own and
        computes in float32, so that it runs alike on every machine.
    """
    if isinstance(model, keras.Sequential):  # of which Keras cannot leave out a layer
        model = keras.Model(model.inputs[0], model.outputs[0], name=model.name)
    folded = {}  # name of a batch normalization: the convolution that takes it in
    for layer in model.layers:
        after = [node.operation for node in layer._outbound_nodes]
        alone = len(after) == 1 and isinstance(after[0], layers.BatchNormalization)
        linear = getattr(layer, "activation", None) is keras.activations.linear
        if alone and linear and isinstance(layer, layers.Conv2D):
            folded[after[0].name] = layer
    convolutions = [layer.name for layer in folded.values()]

    def clone(layer: keras.Layer) -> keras.Layer:
        if isinstance(layer, keras.Model):
            return fold_batch_normalization(layer)
        config = layer.get_config()
        if isinstance(layer, keras.Layer):  # and not a bare operation, such as a sum
            config["dtype"] = "float32"
        if layer.name in convolutions:
            config["use_bias"] = True
        return type(layer).from_config(config)

    def call(
        layer: keras.Layer, *inputs: keras.KerasTensor, **arguments: object
    ) -> keras.KerasTensor:
        return inputs[0] if layer.name in folded else layer(*inputs, **arguments)

    copy = keras.models.clone_model(model, clone_function=clone, call_function=call)
    for layer in model.layers:
        if layer.name in folded:
            convolution = folded[layer.name]
            scale = 1 / ops.sqrt(layer.moving_variance + layer.epsilon)
            if layer.scale:
                scale = layer.gamma * scale
            shift = -layer.moving_mean * scale
            if convolution.use_bias:
                shift = shift + convolution.bias * scale
            if layer.center:
                shift = shift + layer.beta
            copy.get_layer(convolution.name).set_weights([convolution.kernel * scale, shift])
        elif (
            layer.weights and not isinstance(layer, keras.Model) and layer.name not in convolutions
        ):
            copy.get_layer(layer.name).set_weights(layer.get_weights())
    return copy


def _export(
    model: keras.Model, directory: Path, class_names: Sequence[str], temperature: float
) -> None:
    network = fold_batch_normalization(model)

    def probabilities(images: tf.Tensor) -> tf.Tensor:
        return tf.nn.softmax(network(images, training=False) / temperature)

    def decode(position: tf.Tensor, encoded: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        # The header first: a small file may claim gigabytes of pixels.
        padded = tf.strings.join([encoded, bytes(24)])
        png = tf.strings.substr(padded, 0, 8) == b"\x89PNG\r\n\x1a\n"
        shape = tf.cond(
            png,
            lambda: _png_shape(padded),
            lambda: tf.image.extract_jpeg_shape(encoded)[:2],
        )
        with tf.control_dependencies([tf.debugging.assert_equal(shape, IMAGE_SHAPE[:2])]):
            # Reads PNG too. The accurate transform gives the pixels that other decoders give.
            image = tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_ACCURATE")
        return position, tf.ensure_shape(image, IMAGE_SHAPE)

    def decode_all(encoded: tf.Tensor) -> tf.Tensor:
        """Decode, or tell the positions of all that cannot be decoded."""
        count = tf.size(encoded, tf.int64)
        images = tf.data.Dataset.from_tensor_slices(encoded).enumerate()
        images = images.map(decode, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        images = images.ignore_errors()  # these are missing then
        # A batch must not be empty, so a blank image comes first.
        blank = tf.data.Dataset.from_tensors(
            (tf.constant(-1, tf.int64), tf.zeros(IMAGE_SHAPE, "uint8"))
        )
        batch = blank.concatenate(images).batch(count + 1)
        positions, images = batch.get_single_element()
        bad = tf.sparse.to_dense(tf.sets.difference(tf.range(count)[None], positions[None, 1:]))[0]
        message = "expected JPEG or PNG images of 64x64 pixels; these positions hold none:"
        checked = tf.debugging.Assert(tf.size(bad) == 0, [message, bad], summarize=20)
        with tf.control_dependencies([checked]):
            return tf.ensure_shape(images[1:], (None, *IMAGE_SHAPE))

    def serve(images: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"probabilities": probabilities(images)}

    def serve_jpeg(encoded: tf.Tensor) -> dict[str, tf.Tensor]:
        rows = probabilities(tf.cast(decode_all(encoded), tf.float32))
        return {
            "label": tf.gather(tf.constant(list(class_names)), tf.argmax(rows, axis=1)),
            "confidence": tf.reduce_max(rows, axis=1),
            "probabilities": rows,
        }

    # No `track(model)`: with it Keras stores every weight twice (keras-team/keras#23553).
    archive = keras.export.ExportArchive()
    images = tf.TensorSpec((None, *IMAGE_SHAPE), tf.float32, name="images")
    archive.add_endpoint("serve", serve, input_signature=[images])
    encoded = tf.TensorSpec((None,), tf.string, name="encoded")
    archive.add_endpoint("serve_jpeg", serve_jpeg, input_signature=[encoded])
    archive.write_out(str(directory), verbose=False)


def _png_shape(encoded: tf.Tensor) -> tf.Tensor:
    """Read height and width from the header of a PNG image: two big-endian integers."""
    width, height = tf.unstack(
        tf.io.decode_raw(tf.strings.substr(encoded, 16, 8), tf.int32, little_endian=False), num=2
    )
    return tf.stack([height, width])
