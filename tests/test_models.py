"""Tests of eurosat_helpers.models."""

import json
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import PROJECT

from eurosat_helpers import augmentation, models, normalization

STATISTICS = {"mean": [90.0, 100.0, 110.0], "variance": [2500.0, 1600.0, 900.0]}
SMALL = {"stem_width": 8, "widths": (8, 16), "blocks": (1, 1)}


@pytest.fixture(scope="module")
def cnn():
    return models.build_cnn(**STATISTICS)


def test_cnn_maps_raw_pixels_to_logits(cnn):
    assert cnn.input_shape == (None, 64, 64, 3)
    assert cnn.output_shape == (None, 10)
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3)).astype(np.float32)
    logits = cnn(images).numpy()
    assert np.isfinite(logits).all()
    assert not np.allclose(logits.sum(axis=1), 1), "probabilities instead of logits"


def test_cnn_has_at_most_two_and_a_half_million_parameters(cnn):
    assert cnn.count_params() <= 2_500_000


def test_cnn_normalizes_with_the_given_statistics(cnn):
    layer = cnn.get_layer("normalization")
    pixels = np.full((1, 64, 64, 3), STATISTICS["mean"], np.float32) + np.array([50, 40, 30])
    np.testing.assert_allclose(layer(pixels), 1, rtol=1e-5)


def test_every_convolution_has_l2_and_is_followed_by_batch_normalization(cnn):
    convolutions = [layer for layer in cnn.layers if isinstance(layer, keras.layers.Conv2D)]
    assert len(convolutions) > 5
    for layer in convolutions:
        assert isinstance(layer.kernel_regularizer, keras.regularizers.L2)
        (consumer,) = [node.operation for node in layer._outbound_nodes]
        assert isinstance(consumer, keras.layers.BatchNormalization)


@pytest.mark.parametrize("num_classes", [2, 10])
@pytest.mark.parametrize("shape", [{}, SMALL, {"widths": (8,), "blocks": (3,)}])
def test_settings_shape_the_network(num_classes, shape):
    model = models.build_cnn(**STATISTICS, num_classes=num_classes, **shape)
    assert model.output_shape == (None, num_classes)
    ends = [x for x in model.layers if re.fullmatch(r"stage\d_block\d-relu", x.name)]
    widths, blocks = shape.get("widths", (32, 64, 128, 256)), shape.get("blocks", (1, 1, 1, 1))
    assert [x.output.shape[-1] for x in ends] == [*np.repeat(widths, blocks)]


def test_hidden_layers_lie_between_pooling_and_dropout_and_carry_l2():
    model = models.build_cnn(**STATISTICS, **SMALL, hidden=(12, 6), l2=0.25)
    head = [layer for layer in model.layers if layer.name.startswith("head")]
    assert [layer.name for layer in head] == [
        "head-pool",
        "head-hidden1",
        "head-hidden2",
        "head-dropout",
        "head-logits",
    ]
    for layer, units in zip(head[1:3], (12, 6), strict=True):
        assert layer.output.shape == (None, units)
        assert layer.activation is keras.activations.relu
        assert layer.kernel_regularizer.l2 == 0.25
    assert models.summary(model).loc["head", "multiply-adds"] == 16 * 12 + 12 * 6 + 6 * 10


def test_cnn_has_no_hidden_layer_unless_asked_for(cnn):
    assert [layer.name for layer in cnn.layers if isinstance(layer, keras.layers.Dense)] == [
        "head-logits"
    ]


@pytest.mark.parametrize("hidden", [(), (12,)])
def test_cnn_survives_saving_and_loading(tmp_path, hidden):
    model = models.build_cnn(**STATISTICS, **SMALL, hidden=hidden)
    model.save(tmp_path / "model.keras")
    images = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3)).astype(np.float32)
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again(images), model(images))


def test_sublayers_are_found_however_deep(cnn):
    inputs = keras.Input((64, 64, 3))
    middle = keras.Model(inputs, cnn(inputs))
    outer = keras.Model(inputs, keras.layers.ReLU()(middle(inputs)))
    found = list(models.sublayers(outer))
    assert found[0] is outer
    assert all(any(layer is one for one in found) for layer in [middle, cnn, *cnn.layers])


def test_summary_counts_parameters_and_multiply_adds():
    table = models.summary(models.build_cnn(**STATISTICS, **SMALL))
    assert table.loc["stem", "parameters"] == 4 * 4 * 3 * 8 + 4 * 8
    assert table.loc["stem", "multiply-adds"] == 32 * 32 * 4 * 4 * 3 * 8
    assert table.loc["stem", "output"] == "32 x 32 x 8"
    assert table.loc["head", "multiply-adds"] == 16 * 10


def test_summary_looks_into_models_inside():
    inner_input = keras.Input((8, 8, 3))
    x = keras.layers.SeparableConv2D(5, 3, padding="same")(inner_input)
    x = keras.layers.DepthwiseConv2D(3, strides=2, padding="same")(x)
    inner = keras.Model(inner_input, x, name="base")
    inputs = keras.Input((8, 8, 3))
    row = models.summary(keras.Model(inputs, inner(inputs))).loc["base"]
    assert row["multiply-adds"] == 8 * 8 * (3 * 3 * 3 + 3 * 5) + 4 * 4 * 3 * 3 * 5
    assert row["output"] == "4 x 4 x 5"
    assert row["parameters"] == inner.count_params()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"widths": (8, 16), "blocks": (1,)},
            "`widths` and `blocks` must have one entry per stage",
        ),
        ({"widths": (8,) * 6}, r"one entry per stage, at most five. Received: .* blocks=\(1, 1, 1"),
        ({"widths": ()}, r"one entry per stage, at most five. Received: widths=\(\)"),
        ({"damaged": 5.0}, "`damaged` must be"),
        ({"num_classes": 1}, "`num_classes` must be at least 2. Received: 1"),
        ({"mean": [1.0]}, "`mean` and `variance` need one number per color channel"),
    ],
)
def test_bad_settings_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        models.build_cnn(**{**STATISTICS, **options})


def test_seed_gives_the_same_network_each_time():
    one, same, other, free = (
        models.build_cnn(**STATISTICS, **SMALL, hidden=(8,), seed=seed) for seed in (1, 1, 2, None)
    )
    images = np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3)).astype(np.float32)
    logits = one(images, training=True)  # with augmentation and dropout
    np.testing.assert_array_equal(logits, same(images, training=True))
    for model in (other, free):
        assert not np.allclose(logits, model(images, training=True))
    # Layers of the same shape have other weights.
    kernels = [weight for weight in one.get_weights() if weight.shape == (3, 3, 8, 8)]
    assert len(kernels) == 2
    assert not np.array_equal(*kernels)


def test_shipped_keras_model_gives_the_answers_of_the_saved_model():
    directory = PROJECT / "saved_model" / "eurosat_cnn"
    model = keras.saving.load_model(directory / "model.keras")
    kinds = {type(layer) for layer in model.layers}
    assert {normalization.FusedBatchNormalization, augmentation.RandomSymmetry} < kinds
    served = tf.saved_model.load(str(directory))
    images = np.random.default_rng(0).integers(0, 256, (16, 64, 64, 3)).astype(np.float32)
    temperature = json.loads((directory / "metadata.json").read_text("utf-8"))["temperature"]
    wanted = tf.nn.softmax(model.predict(images, verbose=0) / temperature)
    np.testing.assert_allclose(served.serve(images)["probabilities"], wanted, atol=1e-5)
