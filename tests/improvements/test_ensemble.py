"""Tests of eurosat_helpers.ensemble."""

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from eurosat_helpers import artifact, data, ensemble, evaluation, models, training

# A color a tile and blocks of 16x16 pixels: the probabilities differ between tiles and symmetries.
IMAGES = np.random.default_rng(0).integers(0, 64, (6, 4, 4, 3)).astype("float32")
IMAGES += np.random.default_rng(1).integers(0, 192, (6, 1, 1, 3))
IMAGES = IMAGES.repeat(16, axis=1).repeat(16, axis=2)
SCORES = {
    "tiles": 1,
    "accuracy": 1.0,
    "accuracy_low": 0.2,
    "accuracy_high": 1.0,
    "calibration_error": 0.1,
}
METADATA = {
    "class_names": list(data.CLASS_NAMES),
    "data_source": "demo tiles",
    "split": {"seed": 0, "validation_fraction": 0.08, "test_fraction": 0.2},
    "scores": {"validation": SCORES, "test": SCORES},
    "epochs": 1,
    "seconds": 1.0,
    "hardware": "CPU",
}


def test_each_of_the_eight_symmetries_is_predicted_once_and_averaged():
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype="uint8")
    seen = []

    def predict(views):
        assert views.shape == images.shape
        seen.append(views)
        return np.full((3, 2), [len(seen), 1.0])

    averaged = ensemble.average_over_symmetries(predict, images)
    np.testing.assert_allclose(averaged, np.full((3, 2), [4.5, 1.0]))
    assert len({view.tobytes() for view in seen}) == 8
    for view in seen:  # the same tiles in the same order, with the same pixels in other places
        np.testing.assert_array_equal(
            np.sort(view.reshape(3, -1, 3), axis=1), np.sort(images.reshape(3, -1, 3), axis=1)
        )


def test_average_does_not_change_when_the_tile_is_turned():
    images = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3)).astype("float32")
    weights = np.random.default_rng(1).normal(size=(64 * 64 * 3, 5)).astype("float32")

    def predict(views):
        return views.reshape(len(views), -1) @ weights

    for other in (np.rot90(images, axes=(1, 2)), images[:, ::-1], np.swapaxes(images, 1, 2)):
        np.testing.assert_allclose(
            ensemble.average_over_symmetries(predict, other),
            ensemble.average_over_symmetries(predict, images),
            rtol=1e-3,
            atol=1,
        )


def test_bootstrap_repeats_tiles_and_keeps_the_share_of_each_class(demo_tiles):
    tiles = demo_tiles[20:]  # 20 of one class, 40 of the others
    drawn = ensemble.bootstrap(tiles, seed=1)
    assert drawn.counts().to_dict() == tiles.counts().to_dict()
    assert drawn.class_names == tiles.class_names
    distinct = len(set(drawn.names)) / len(tiles)
    assert 0.55 < distinct < 0.72  # 1 - 1/e = 0.632
    pixels = dict(zip(tiles.names, tiles.images, strict=True))
    for name, image, truth in zip(drawn.names, drawn.images, drawn.truth, strict=True):
        assert name.startswith(f"{truth}/")
        np.testing.assert_array_equal(image, pixels[name])


def test_bootstrap_is_seeded_and_takes_a_fraction(demo_tiles):
    one, same, other = (ensemble.bootstrap(demo_tiles, seed=seed).names for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)
    half = ensemble.bootstrap(demo_tiles, seed=1, fraction=0.5)
    assert set(half.counts()) == {20}


@pytest.mark.parametrize(
    ("fraction", "message"),
    [
        (0, "above 0 and at most 1. Received: 0"),
        (1.5, "above 0 and at most 1. Received: 1.5"),
        (0.01, "at least 10 tiles, one a class. Received: 0.01, 4 of 400 tiles"),
    ],
)
def test_bootstrap_refuses_a_bad_fraction(demo_tiles, fraction, message):
    with pytest.raises(ValueError, match=message):
        ensemble.bootstrap(demo_tiles, seed=0, fraction=fraction)


ONE = np.array([[0.9, 0.1], [0.4, 0.6]])
OTHER = np.array([[0.5, 0.5], [0.0, 1.0]])


def test_soft_vote_is_the_weighted_mean():
    np.testing.assert_allclose(ensemble.soft_vote([ONE, OTHER]), [[0.7, 0.3], [0.2, 0.8]])
    np.testing.assert_allclose(
        ensemble.soft_vote([ONE, OTHER], weights=[3, 1]), [[0.8, 0.2], [0.3, 0.7]]
    )
    np.testing.assert_allclose(ensemble.soft_vote([ONE, OTHER], weights=[0, 1]), OTHER)


@pytest.mark.parametrize(
    ("members", "weights", "message"),
    [
        ([], None, r"one array \(N, C\) a model, all of one shape. Received: shapes \[\]"),
        ([ONE, OTHER[:1]], None, r"Received: shapes \[\(2, 2\), \(1, 2\)\]"),
        ([ONE[0]], None, r"Received: shapes \[\(2,\)\]"),
        ([ONE, 3 * ONE], None, "for logits call `evaluation.softmax` first"),
        ([ONE, OTHER - 0.5], None, "Received: minimum -0.5"),
        ([ONE, OTHER * np.nan], None, "Received: minimum nan"),
        ([ONE, OTHER], [1], "`weights` must be 2 numbers"),
        ([ONE, OTHER], [2, -1], "at least 0 and not all 0"),
        ([ONE, OTHER], [0, 0], "at least 0 and not all 0"),
        ([ONE, OTHER], [1, np.nan], "at least 0 and not all 0"),
    ],
)
def test_soft_vote_refuses_what_does_not_fit(members, weights, message):
    with pytest.raises(ValueError, match=message):
        ensemble.soft_vote(members, weights)


def members_of_a_crowd(tiles=400, classes=5):
    """Three calibrated models: a good one, one that errs elsewhere, and one that guesses."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes, tiles)
    right = np.eye(classes)[labels]
    logits = [one * (one * right + rng.normal(size=right.shape)) for one in (2.0, 1.8, 0.0)]
    return labels, [evaluation.softmax(one) for one in logits]


def test_vote_weights_minimize_the_log_loss():
    labels, crowd = members_of_a_crowd()
    weights = ensemble.vote_weights(labels, crowd)
    assert weights.sum() == pytest.approx(1)
    assert weights[2] == 0  # the guesser
    assert weights[0] > weights[1] > 0.05

    def loss(weights):
        return evaluation.scores(labels, ensemble.soft_vote(crowd, weights))["log_loss"]

    grid = [(a, b, 1 - a - b) for a in np.linspace(0, 1, 41) for b in np.linspace(0, 1 - a, 41)]
    assert loss(weights) <= min(loss(np.clip(one, 0, 1)) for one in grid) + 1e-6


def test_equal_models_share_their_weight_alike():
    labels, (good, other, _) = members_of_a_crowd()
    np.testing.assert_allclose(ensemble.vote_weights(labels, [good] * 4), 0.25)
    np.testing.assert_allclose(ensemble.vote_weights(labels, [good]), 1)
    pair = ensemble.vote_weights(labels, [good, other])
    twice = ensemble.vote_weights(labels, [good, other, good])
    np.testing.assert_allclose(twice, [pair[0] / 2, pair[1], pair[0] / 2], atol=1e-3)


def test_vote_weights_survive_models_that_rule_out_the_truth():
    labels = np.array([0, 1, 0, 1])
    sure = np.eye(2)[labels]
    np.testing.assert_allclose(ensemble.vote_weights(labels, [1 - sure, sure]), [0, 1])
    np.testing.assert_allclose(ensemble.vote_weights(labels, [1 - sure, 1 - sure]), 0.5)


@pytest.mark.parametrize("labels", [[0], [0, 2], [0, -1], [0.5, 0], [[0, 1]]])
def test_vote_weights_refuse_labels_that_do_not_fit(labels):
    with pytest.raises(ValueError, match=r"`labels` must be 2 integers in \[0, 2\)"):
        ensemble.vote_weights(labels, [ONE, OTHER])


# --- several models as one ---


@pytest.fixture(scope="module")
def members():
    """Two models with equal names of layers, and statistics of their own."""
    built = []
    for seed, widths in ((1, (8, 16)), (2, (8, 12))):
        keras.utils.set_random_seed(seed)
        model = models.build_cnn(
            mean=[90] * 3, variance=[2000] * 3, stem_width=8, widths=widths, blocks=(1, 1)
        )
        for _ in range(5):
            model(IMAGES, training=True)
        kernel, bias = model.get_layer("head-logits").get_weights()
        model.get_layer("head-logits").set_weights([5 * kernel, bias])  # far from equal chances
        built.append(model)
    return built


def vote(members, images, temperatures=(1.0, 1.0), weights=None):
    return ensemble.soft_vote(
        [
            evaluation.softmax(np.asarray(member(images)), temperature)
            for member, temperature in zip(members, temperatures, strict=True)
        ],
        weights,
    )


def test_averaged_models_vote_softly(members):
    model = ensemble.average_models(members, temperatures=[1.5, 0.7], weights=[3, 1])
    assert model.input_shape == (None, 64, 64, 3)
    assert model.output_shape == (None, 10)
    wanted = vote(members, IMAGES, (1.5, 0.7), (3, 1))
    assert len(set(wanted.argmax(axis=1))) > 1
    np.testing.assert_allclose(np.exp(model(IMAGES)), wanted, atol=1e-5)
    np.testing.assert_allclose(np.exp(model.predict(IMAGES, verbose=0)), wanted, atol=1e-5)
    plain = ensemble.average_models(members)
    np.testing.assert_allclose(np.exp(plain(IMAGES)), vote(members, IMAGES), atol=1e-5)


def test_averaged_models_vote_over_the_symmetries(members):
    model = ensemble.average_models(members, temperatures=[1.5, 0.7], symmetries=True)
    assert model.output_shape == (None, 10)
    wanted = ensemble.average_over_symmetries(
        lambda views: vote(members, np.ascontiguousarray(views), (1.5, 0.7)), IMAGES
    )
    assert np.abs(wanted - vote(members, IMAGES, (1.5, 0.7))).max() > 1e-3
    np.testing.assert_allclose(np.exp(model(IMAGES)), wanted, atol=1e-5)
    turned = np.rot90(IMAGES, axes=(1, 2)).copy()
    np.testing.assert_allclose(model(turned), model(IMAGES), atol=1e-4)


def test_member_of_weight_zero_is_left_out(members):
    model = ensemble.average_models(members, temperatures=[1.0, 2.0], weights=[0, 1])
    assert model.count_params() == members[1].count_params()
    wanted = evaluation.softmax(np.asarray(members[1](IMAGES)), 2.0)
    np.testing.assert_allclose(np.exp(model(IMAGES)), wanted, atol=1e-5)


def test_small_probabilities_survive_the_vote():
    layer = ensemble.SoftVote(temperatures=[1.0, 1.0], member_weights=[0.5, 0.5])
    logits = np.array([[0.0, -300.0]], "float32")
    np.testing.assert_allclose(layer([logits, logits]), logits, atol=1e-4)


@pytest.mark.parametrize("symmetries", [False, True])
def test_ensemble_is_saved_reloaded_and_served_like_any_model(members, symmetries, tmp_path):
    model = ensemble.average_models(
        members, temperatures=[1.5, 0.7], weights=[3, 1], symmetries=symmetries
    )
    saved = artifact.save(
        model,
        tmp_path / "ensemble",
        metadata=METADATA,
        history=pd.DataFrame({"epoch": [1], "loss": [1.0]}),
        test_names=["Forest/Forest_1.jpg"],
        temperature=1.3,
    )
    wanted = evaluation.softmax(np.asarray(model(IMAGES)), 1.3)
    np.testing.assert_allclose(artifact.load(saved).predict(IMAGES), wanted, atol=1e-5)
    reloaded = keras.saving.load_model(saved / "model.keras")
    np.testing.assert_allclose(reloaded(IMAGES), model(IMAGES), atol=1e-5)
    stored = tf.train.list_variables(saved / "variables" / "variables")
    folded = sum(
        layer.count_params()
        for layer in models.sublayers(model)
        if isinstance(layer, keras.layers.BatchNormalization)
    )
    biases = folded // 4
    assert sum(np.prod(shape, dtype=int) for _, shape in stored if shape) == (
        model.count_params() - folded + biases
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"members": []}, "`members` must be at least one model"),
        ({"temperatures": [1.0]}, "`temperatures` must be 2 positive numbers"),
        ({"temperatures": [1.0, 0.0]}, "`temperatures` must be 2 positive numbers"),
        ({"temperatures": [1.0, np.inf]}, "`temperatures` must be 2 positive numbers"),
        ({"weights": [1.0]}, "`weights` must be 2 numbers, one a model"),
    ],
)
def test_average_models_refuses_what_does_not_fit(members, changes, message):
    with pytest.raises(ValueError, match=message):
        ensemble.average_models(**{"members": members, **changes})


def test_average_models_refuses_members_of_other_classes(members):
    other = models.build_cnn(
        mean=[90] * 3, variance=[2000] * 3, num_classes=3, widths=(8,), blocks=(1,)
    )
    with pytest.raises(ValueError, match="all of the same shapes"):
        ensemble.average_models([*members, other])


# --- several sets of weights as one ---


def test_snapshots_are_the_weights_of_the_epochs_asked_for(demo_tiles):
    train, validation, _ = data.split(demo_tiles[::2])
    keras.utils.set_random_seed(0)
    model = small()
    snapshots, every = ensemble.Snapshots([2, 3]), ensemble.Snapshots(range(1, 4))
    training.fit(
        model,
        train,
        validation,
        epochs=3,
        batch_size=32,
        learning_rate=3e-3,
        seed=0,
        callbacks=[snapshots, every],
    )
    assert len(every.weight_sets) == 3
    for kept, one in zip(snapshots.weight_sets, every.weight_sets[1:], strict=True):
        for weight, same in zip(kept, one, strict=True):
            np.testing.assert_array_equal(weight, same)
    assert not np.array_equal(every.weight_sets[0][0], every.weight_sets[1][0])
    ensemble.average_weights(model, snapshots.weight_sets, train, seed=0)
    np.testing.assert_allclose(
        model.get_weights()[0], np.mean([kept[0] for kept in snapshots.weight_sets], axis=0)
    )
    assert evaluation.softmax(model.predict(validation.images, verbose=0)).shape == (20, 10)


def small(normalization=models.BatchNormalization, nested=False):
    inputs = keras.Input((64, 64, 3))
    x = keras.layers.Conv2D(4, 3, strides=4, name="convolution")(inputs)
    x = normalization(name="normalization")(x)
    if nested:
        x = keras.Model(inputs, x)(inputs)
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.ReLU()(x))
    return keras.Model(inputs, keras.layers.Dense(10)(x))


def part(model, name):
    return next(layer for layer in models.sublayers(model) if layer.name == name)


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize(
    "normalization", [models.BatchNormalization, keras.layers.BatchNormalization]
)
def test_averaged_weights_get_the_statistics_of_the_tiles(normalization, nested, demo_tiles):
    tiles = demo_tiles[::2]
    model = small(normalization, nested)
    rng = np.random.default_rng(0)
    weight_sets = [
        [rng.random(weight.shape).astype("float32") for weight in model.get_weights()]
        for _ in range(3)
    ]
    ensemble.average_weights(model, weight_sets, tiles, seed=0, batch_size=150)
    layer = part(model, "normalization")
    assert layer.momentum == normalization().momentum
    statistics = {id(layer.moving_mean), id(layer.moving_variance)}
    for variable, *values in zip(model.weights, *weight_sets, strict=True):
        if id(variable) not in statistics:
            np.testing.assert_allclose(variable, np.mean(values, axis=0), rtol=1e-6)
    activations = part(model, "convolution")(tiles.images.astype("float32")).numpy()
    activations = activations.reshape(-1, 4)
    np.testing.assert_allclose(layer.moving_mean, activations.mean(axis=0), rtol=1e-4)
    # Two batches: only the variance between their means is missing.
    np.testing.assert_allclose(layer.moving_variance, activations.var(axis=0), rtol=0.05)


def test_averaged_weights_are_seeded(demo_tiles):
    keras.utils.set_random_seed(0)
    model = models.build_cnn(
        mean=[90] * 3, variance=[2000] * 3, stem_width=8, widths=(8,), blocks=(1,), dropout=0.1
    )
    weight_sets = [model.get_weights()]
    results = []
    for seed in (1, 1, 2):
        ensemble.average_weights(model, weight_sets, demo_tiles[::8], seed=seed, batch_size=20)
        results.append(model.get_layer("stage1_block1-first-normalization").get_weights()[2])
    np.testing.assert_array_equal(results[0], results[1])
    assert not np.array_equal(results[0], results[2])


def test_frozen_normalization_keeps_its_statistics(demo_tiles):
    model = small()
    layer = part(model, "normalization")
    layer.trainable = False
    ensemble.average_weights(model, [model.get_weights()], demo_tiles[::8], seed=0)
    np.testing.assert_array_equal(layer.moving_mean, 0)


def test_average_weights_refuses_what_does_not_fit_and_changes_nothing(demo_tiles):
    model = small()
    before = model.get_weights()
    others = [weight + 1 for weight in before]
    for weight_sets in ([], [others, before[:-1]], [others, [*before[:-1], before[-1][:3]]]):
        with pytest.raises(ValueError, match="`weight_sets` must be at least one list of the 8"):
            ensemble.average_weights(model, weight_sets, demo_tiles, seed=0)
    with pytest.raises(ValueError, match="`tiles` holds no tile"):
        ensemble.average_weights(model, [others], demo_tiles[:0], seed=0)
    for weight, same in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, same)
