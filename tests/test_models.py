"""Tests of eurosat_helpers.models."""

import keras
import numpy as np
import pytest

from eurosat_helpers import models

STATISTICS = {"mean": [90.0, 100.0, 110.0], "variance": [2500.0, 1600.0, 900.0]}
SMALL = {"stem_width": 8, "widths": (8, 16), "blocks": (1, 1)}


def eight_symmetries(image):
    turned = [np.rot90(image, quarter) for quarter in range(4)]
    return [*turned, *(image.transpose(1, 0, 2) for image in turned)]


@pytest.fixture(scope="module")
def cnn():
    return models.build_cnn(**STATISTICS)


def test_random_symmetry_draws_all_eight_symmetries_exactly_and_evenly():
    image = np.random.default_rng(0).integers(0, 256, (5, 5, 3)).astype(np.float32)
    layer = models.RandomSymmetry(seed=1)
    drawn = layer(np.repeat(image[None], 4000, axis=0), training=True).numpy()
    matches = np.array([(drawn == one).all(axis=(1, 2, 3)) for one in eight_symmetries(image)])
    np.testing.assert_array_equal(matches.sum(axis=0), 1)
    assert matches.sum(axis=1).min() > 400


def test_random_symmetry_does_nothing_outside_training():
    images = np.random.default_rng(0).random((4, 6, 6, 3), np.float32)
    np.testing.assert_array_equal(models.RandomSymmetry()(images, training=False), images)


def test_random_symmetry_is_seeded():
    images = np.random.default_rng(0).random((64, 6, 6, 3), np.float32)
    one, same, other = (
        models.RandomSymmetry(seed=seed)(images, training=True).numpy() for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


def test_random_symmetry_has_no_while_loop():
    import tensorflow as tf

    layer = models.RandomSymmetry()
    graph = tf.function(lambda x: layer(x, training=True)).get_concrete_function(
        tf.TensorSpec((None, 64, 64, 3))
    )
    assert not [op.type for op in graph.graph.get_operations() if "While" in op.type]


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


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_batch_normalization_is_that_of_keras(dtype):
    values = np.random.default_rng(0).normal(3, 2, (64, 5, 5, 4)).astype(np.float32)
    x = keras.ops.cast(values, dtype)
    ours, theirs = models.BatchNormalization(), keras.layers.BatchNormalization(momentum=0.98)
    for layer in (ours, theirs):
        layer.build(x.shape)
        layer.set_weights(np.array([[1, 2, 3, 4], [4, 3, 2, 1], [0, 1, 2, 3], [1, 2, 1, 2]]))
    accuracy = {"float32": 1e-3, "float16": 1e-2, "bfloat16": 1e-1}[dtype]
    for training in (True, False):
        normalized = ours(x, training=training)
        assert normalized.dtype.name == dtype
        wanted = theirs(x, training=training)
        np.testing.assert_allclose(
            keras.ops.cast(normalized, "float32"), keras.ops.cast(wanted, "float32"), atol=accuracy
        )
    for one, other in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3)


def test_frozen_batch_normalization_keeps_its_statistics():
    layer = models.BatchNormalization()
    images = np.random.default_rng(0).normal(3, 2, (16, 5, 5, 4)).astype(np.float32)
    layer.build(images.shape)
    layer.trainable = False
    np.testing.assert_array_equal(layer(images, training=True), layer(images, training=False))
    np.testing.assert_array_equal(layer.moving_mean, 0)


@pytest.mark.parametrize("hidden", [(), (12,)])
def test_folded_network_gives_the_same_logits(hidden):
    images = np.random.default_rng(0).integers(0, 256, (16, 64, 64, 3)).astype(np.float32)
    model = models.build_cnn(**STATISTICS, **SMALL, hidden=hidden)
    for _ in range(20):  # statistics of its own
        model(images, training=True)
    folded = models.fold_batch_normalization(model)
    assert not [x for x in folded.layers if isinstance(x, keras.layers.BatchNormalization)]
    np.testing.assert_allclose(folded(images), model(images), atol=1e-4)


def test_folding_adds_to_the_bias_and_leaves_what_does_not_follow_a_convolution():
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.BatchNormalization(name="first")(inputs)
    x = keras.layers.Conv2D(4, 3, bias_initializer="normal", name="convolution")(x)
    x = keras.layers.BatchNormalization(name="second")(x)
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x))
    images = np.random.default_rng(0).normal(2, 3, (32, 8, 8, 3)).astype(np.float32)
    for _ in range(5):
        model(images, training=True)
    before = model(images)
    folded = models.fold_batch_normalization(model)
    assert [layer.name for layer in folded.layers[1:3]] == ["first", "convolution"]
    np.testing.assert_allclose(folded(images), before, atol=1e-5)
    model.set_weights([0 * weight for weight in model.get_weights()])
    np.testing.assert_allclose(folded(images), before, atol=1e-5)


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
    images = np.random.default_rng(0).normal(2, 3, (32, 8, 8, 3)).astype(np.float32)
    rng = np.random.default_rng(1)
    model.set_weights([rng.uniform(0.5, 1.5, weight.shape) for weight in model.get_weights()])
    folded = models.fold_batch_normalization(model)
    np.testing.assert_allclose(folded(images), model(images), rtol=1e-4)
    names = [layer.name for layer in folded.get_layer("inner").layers if layer.weights]
    assert names == ["folded", "centered", "bent", "kept"]


@pytest.mark.parametrize("kind", ["functional", "sequential"])
def test_folding_reaches_models_within_models(kind):
    images = np.random.default_rng(0).integers(0, 256, (16, 64, 64, 3)).astype(np.float32)
    inner = models.build_cnn(**STATISTICS, **SMALL)
    if kind == "sequential":
        convolution = keras.layers.Conv2D(4, 3, name="convolution")
        inner = keras.Sequential(
            [
                keras.Input((64, 64, 3)),
                convolution,
                keras.layers.BatchNormalization(name="normalization"),
                keras.layers.GlobalAveragePooling2D(),
            ],
            name="inner",
        )
    inputs = keras.Input((64, 64, 3))
    model = keras.Model(inputs, keras.layers.Dense(3)(inner(inputs)))
    for _ in range(20):
        model(images, training=True)
    before = model(images)
    folded = models.fold_batch_normalization(model)
    kinds = [type(layer) for layer in models.sublayers(folded)]
    assert keras.layers.Conv2D in kinds
    assert not [kind for kind in kinds if issubclass(kind, keras.layers.BatchNormalization)]
    np.testing.assert_allclose(folded(images), before, atol=1e-4 * np.abs(before).max())
    model.set_weights([0 * weight for weight in model.get_weights()])
    np.testing.assert_allclose(folded(images), before, atol=1e-4 * np.abs(before).max())


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
        ({"widths": (8, 16), "blocks": (1,)}, "`widths` and `blocks` must have one entry a stage"),
        ({"num_classes": 1}, "`num_classes` must be at least 2. Received: 1"),
        ({"mean": [1.0]}, "`mean` and `variance` must be three numbers"),
    ],
)
def test_bad_settings_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        models.build_cnn(**{**STATISTICS, **options})
