"""Tests of eurosat_helpers.export. What a saved folder promises is in test_artifact.py."""

import io

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from PIL import Image
from scipy.special import softmax

from eurosat_helpers import export, models, normalization

STATISTICS = {"mean": [90.0, 100.0, 110.0], "variance": [2500.0, 1600.0, 900.0]}
SMALL = {"stem_width": 8, "widths": (8, 16), "blocks": (1, 1)}


def randomized(model):
    """Give the model weights, scales and statistics that are far from the initial ones."""
    rng = np.random.default_rng(1)
    model.set_weights([rng.uniform(0.5, 1.5, weight.shape) for weight in model.get_weights()])
    return model


def assert_same_answers(model, *, normalizations):
    """Fold the model, compare the answers, and count what was not folded."""
    images = np.random.default_rng(0).normal(2, 3, (4, *model.input_shape[1:])).astype("float32")
    folded = export._folded(randomized(model))
    for one, other in zip(*map(tf.nest.flatten, (folded(images), model(images))), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5 * np.abs(other).max())
    kept = [x for x in models.sublayers(folded) if isinstance(x, layers.BatchNormalization)]
    assert len(kept) == normalizations
    return folded


def test_served_graph_answers_as_the_model_and_decodes_images(tmp_path):
    model = models.build_cnn(**STATISTICS, **SMALL, num_classes=3, seed=0)
    detector = keras.Model(
        model.input, keras.ops.mean(model.get_layer("stem-relu").output, (1, 2, 3))
    )
    export.write(model, tmp_path, detector, ("a", "b", "c"), 1.7)
    served = tf.saved_model.load(str(tmp_path))
    images = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), np.uint8)
    wanted = softmax(model.predict(images.astype("float32"), verbose=0) / 1.7, axis=1)
    rows = served.serve(tf.cast(images, tf.float32))["probabilities"]
    np.testing.assert_allclose(rows, wanted, atol=1e-5)
    unfamiliarity = served.serve(tf.cast(images, tf.float32))["unfamiliarity"]
    np.testing.assert_allclose(unfamiliarity, detector.predict(images, verbose=0), rtol=1e-4)
    encoded = []
    for image in images:
        Image.fromarray(image).save(file := io.BytesIO(), "PNG")
        encoded.append(file.getvalue())
    outputs = served.serve_jpeg(tf.constant(encoded))
    np.testing.assert_array_equal(outputs["probabilities"], rows)
    np.testing.assert_array_equal(outputs["confidence"], rows.numpy().max(axis=1))
    labels = [b"abc"[place : place + 1] for place in wanted.argmax(axis=1)]
    assert outputs["label"].numpy().tolist() == labels
    encoded[1:3] = [b"", encoded[2][:60]]
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"64x64 pixels.*\[1 2\]"):
        served.serve_jpeg(tf.constant(encoded))


def test_pixels_that_are_no_numbers_are_never_familiar(tmp_path):
    model = models.build_cnn(**STATISTICS, **SMALL, num_classes=3, seed=0)
    detector = keras.Model(model.input, keras.ops.mean(model.input, (1, 2, 3)))
    export.write(model, tmp_path, detector, ("a", "b", "c"), 1.7)
    images = np.full((2, 64, 64, 3), 60, np.float32)
    images[1, :3] = np.nan
    served = tf.saved_model.load(str(tmp_path))
    unfamiliarity = served.serve(tf.constant(images))["unfamiliarity"]
    np.testing.assert_allclose(unfamiliarity, [60, np.inf], rtol=1e-6)


def test_every_normalization_of_our_network_is_folded_inside_of_another_model_too():
    inner, inputs = models.build_cnn(**STATISTICS, **SMALL, hidden=(12,)), keras.Input((64, 64, 3))
    assert_same_answers(keras.Model(inputs, layers.Dense(3)(inner(inputs))), normalizations=0)


def test_folding_adds_to_the_bias_and_leaves_what_does_not_follow_a_convolution():
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.BatchNormalization(name="first")(inputs)
    x = keras.layers.Conv2D(4, 3, bias_initializer="normal", name="convolution")(x)
    x = keras.layers.BatchNormalization(name="second")(x)
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x))
    images = np.random.default_rng(0).normal(2, 3, (32, 8, 8, 3)).astype(np.float32)
    before = randomized(model)(images)
    folded = export._folded(model)
    assert [layer.name for layer in folded.layers[1:3]] == ["first", "convolution"]
    np.testing.assert_allclose(folded(images), before, rtol=1e-4)
    model.set_weights([0 * weight for weight in model.get_weights()])
    np.testing.assert_allclose(folded(images), before, rtol=1e-4)  # it has its own weights


def test_folding_reaches_models_inside_and_leaves_what_no_convolution_can_take_in():
    inner_input = keras.Input((8, 8, 4))
    x = keras.layers.Conv2D(4, 3, padding="same", name="folded")(inner_input)
    x = keras.layers.BatchNormalization(scale=False, name="unscaled")(x)
    x = keras.ops.add(x, inner_input)  # an operation that is no layer
    x = keras.layers.Conv2D(4, 3, name="centered")(x)
    x = keras.layers.BatchNormalization(center=False, name="uncentered")(x)
    x = keras.layers.Conv2D(4, 3, activation="relu", name="bent")(x)
    x = keras.layers.BatchNormalization(name="kept")(x)
    inner = keras.Model(inner_input, x, name="inner")
    listed = keras.Sequential([keras.layers.Conv2D(4, 1), keras.layers.BatchNormalization()])
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, inner(listed(inputs), training=False))
    folded = assert_same_answers(model, normalizations=1)
    names = [layer.name for layer in folded.get_layer("inner").layers if layer.weights]
    assert names == ["folded", "centered", "bent", "kept"]


def test_statistics_of_an_adapted_normalization_are_kept():
    images = np.random.default_rng(0).normal(9, 4, (20, 8, 8, 3)).astype("float32")
    adapted = layers.Normalization()
    adapted.adapt(images)
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, layers.Conv2D(4, 3)(adapted(inputs)))
    np.testing.assert_allclose(export._folded(model)(images), model(images), atol=1e-5)


@pytest.mark.parametrize("mode", ["RGB", "P"])
def test_png_with_a_transparent_color_is_refused(tmp_path, mode):
    model = models.build_cnn(**STATISTICS, **SMALL, num_classes=2, seed=0)
    detector = keras.Model(model.input, keras.ops.mean(model.input, (1, 2, 3)))
    export.write(model, tmp_path, detector, ("a", "b"), 1.0)
    picture = Image.fromarray(np.full((64, 64, 3), 90, np.uint8)).convert(mode)
    seen = {"RGB": (90, 90, 90), "P": picture.getpixel((0, 0))}[mode]
    hidden, plain = io.BytesIO(), io.BytesIO()
    picture.save(hidden, "PNG", transparency=seen)
    picture.save(plain, "PNG")
    served = tf.saved_model.load(str(tmp_path))
    assert served.serve_jpeg(tf.constant([plain.getvalue()]))["label"].shape == (1,)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"64x64 pixels.*\[0\]"):
        served.serve_jpeg(tf.constant([hidden.getvalue()]))


def test_depthwise_convolutions_are_folded_with_their_multiplier():
    inputs = keras.Input((8, 8, 3))
    x = layers.DepthwiseConv2D(3, depth_multiplier=2)(inputs)
    x = normalization.FusedBatchNormalization()(x)
    x = layers.BatchNormalization()(layers.DepthwiseConv2D(3, use_bias=False)(x))
    assert_same_answers(keras.Model(inputs, x), normalizations=0)


def test_every_normalization_of_mobile_net_is_folded():
    base = keras.applications.MobileNet(
        (32, 32, 3), alpha=0.25, include_top=False, weights=None, pooling="avg"
    )
    inputs = keras.Input((32, 32, 3))
    assert_same_answers(keras.Model(inputs, base(inputs)), normalizations=0)


def test_normalization_shared_by_two_convolutions_is_not_folded():
    inputs, shared = keras.Input((8, 8, 3)), layers.BatchNormalization()
    x = layers.Add()([shared(layers.Conv2D(4, 3)(inputs)), shared(layers.Conv2D(4, 3)(inputs))])
    assert_same_answers(keras.Model(inputs, x), normalizations=1)


def test_convolution_called_twice_is_not_folded():
    inputs, shared = keras.Input((8, 8, 3)), layers.Conv2D(3, 3, padding="same")
    x = layers.BatchNormalization()(shared(shared(inputs)))
    assert_same_answers(keras.Model(inputs, x), normalizations=1)


def test_convolution_that_is_an_output_itself_is_not_folded():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3)(inputs)
    model = keras.Model(inputs, [x, layers.BatchNormalization()(x)])
    assert_same_answers(model, normalizations=1)


def test_normalization_over_another_axis_is_not_folded():
    inputs = keras.Input((8, 8, 3))
    x = layers.BatchNormalization(axis=1)(layers.Conv2D(6, 3)(inputs))
    assert_same_answers(keras.Model(inputs, x), normalizations=1)


def test_normalization_of_an_outer_model_is_not_folded_into_an_inner_one():
    inner_input, inputs = keras.Input((8, 8, 3)), keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3)(inner_input)
    inner = keras.Model(inner_input, x)
    keras.Model(inner_input, layers.BatchNormalization()(x))  # another model with its convolution
    assert_same_answers(
        keras.Model(inputs, layers.BatchNormalization()(inner(inputs))), normalizations=1
    )
