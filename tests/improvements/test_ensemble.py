"""Tests of eurosat_helpers.improvements.ensemble."""

import keras
import numpy as np
import pytest
from scipy.special import softmax

from eurosat_helpers import export, models
from eurosat_helpers.improvements import ensemble

# A color per tile and blocks of 16x16 pixels: probabilities differ between tiles and symmetries.
IMAGES = np.random.default_rng(0).integers(0, 64, (6, 4, 4, 3)).astype("float32")
IMAGES += np.random.default_rng(1).integers(0, 192, (6, 1, 1, 3))
IMAGES = IMAGES.repeat(16, axis=1).repeat(16, axis=2)
ONE = np.array([[0.9, 0.1], [0.4, 0.6]])
OTHER = np.array([[0.5, 0.5], [0.0, 1.0]])


def three_models(tiles=400, classes=5):
    """Three calibrated models: a good one, one that errs elsewhere, and one that guesses."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes, tiles)
    right = np.eye(classes)[labels]
    logits = [one * (one * right + rng.normal(size=right.shape)) for one in (2.0, 1.8, 0.0)]
    return labels, [softmax(one, axis=1) for one in logits]


def test_vote_weights_minimize_the_log_loss():
    labels, members = three_models()
    weights = ensemble.vote_weights(labels, members)
    assert weights.sum() == pytest.approx(1)
    assert weights[2] == 0  # the guesser
    assert weights[0] > weights[1] > 0.05

    def loss(weights):
        mixed = np.tensordot(weights, members, 1)
        return -np.log(mixed[range(len(labels)), labels]).mean()

    grid = [(a, b, 1 - a - b) for a in np.linspace(0, 1, 21) for b in np.linspace(0, 1 - a, 21)]
    assert loss(weights) <= min(loss(np.clip(one, 0, 1)) for one in grid) + 1e-6


def test_equal_models_share_their_weight_equally():
    labels, (good, other, _) = three_models()
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


@pytest.mark.parametrize(
    ("labels", "members", "message"),
    [
        ([0], [ONE], "`labels` must be 2 integers"),
        ([0, 2], [ONE], r"`labels` must be 2 integers in \[0, 2\)"),
        ([0, 1], [ONE, OTHER[:1]], "`labels` must be 1 integers"),
        ([0, 1], [ONE, 3 * OTHER], "for logits use `softmax`"),
        ([0, 1], [ONE, OTHER * np.nan], "Received: minimum nan"),
        ([0, 1], [], "at least one model. Received: none"),
    ],
)
def test_vote_weights_refuse_what_does_not_fit(labels, members, message):
    with pytest.raises(ValueError, match=message):
        ensemble.vote_weights(labels, members)


# --- several models as one ---


@pytest.fixture(scope="module")
def members():
    """Two models with the same names of layers, and statistics of their own."""
    built = []
    for seed, widths in ((1, (8, 16)), (2, (8, 12))):
        model = models.build_cnn(
            mean=[90] * 3,
            variance=[2000] * 3,
            stem_width=8,
            widths=widths,
            blocks=(1, 1),
            seed=seed,
        )
        for _ in range(5):
            model(IMAGES, training=True)
        kernel, bias = model.get_layer("head-logits").get_weights()
        model.get_layer("head-logits").set_weights([5 * kernel, bias])  # far from equal chances
        built.append(model)
    return built


def vote(members, images, temperatures=(1.0, 1.0), weights=None):
    probabilities = [
        softmax(np.asarray(member(images)) / temperature, axis=1)
        for member, temperature in zip(members, temperatures, strict=True)
    ]
    return np.average(probabilities, axis=0, weights=weights)


def test_averaged_models_give_the_mean_of_their_probabilities(members):
    model = ensemble.average_models(members, temperatures=[1.5, 0.7], weights=[3, 1])
    assert (model.input_shape, model.output_shape) == ((None, 64, 64, 3), (None, 10))
    wanted = vote(members, IMAGES, (1.5, 0.7), (3, 1))
    assert len(set(wanted.argmax(axis=1))) > 1
    np.testing.assert_allclose(np.exp(model(IMAGES)), wanted, atol=1e-5)
    np.testing.assert_allclose(np.exp(model.predict(IMAGES, verbose=0)), wanted, atol=1e-5)
    plain = ensemble.average_models(members)
    np.testing.assert_allclose(np.exp(plain(IMAGES)), vote(members, IMAGES), atol=1e-5)


def test_symmetries_are_the_eight_of_the_square(members):
    model = ensemble.average_models(members, temperatures=[1.5, 0.7], symmetries=True)
    views = [np.rot90(IMAGES, turns, axes=(1, 2)) for turns in range(4)]
    views += [np.swapaxes(view, 1, 2) for view in views]
    wanted = np.mean(
        [vote(members, np.ascontiguousarray(view), (1.5, 0.7)) for view in views], axis=0
    )
    assert np.abs(wanted - vote(members, IMAGES, (1.5, 0.7))).max() > 1e-3
    np.testing.assert_allclose(np.exp(model(IMAGES)), wanted, atol=1e-5)
    np.testing.assert_allclose(model(views[1].copy()), model(IMAGES), atol=1e-4)


def test_member_of_weight_zero_is_left_out(members):
    model = ensemble.average_models(members, temperatures=[1.0, 2.0], weights=[0, 1])
    assert model.count_params() == members[1].count_params()
    wanted = softmax(np.asarray(members[1](IMAGES)) / 2, axis=1)
    np.testing.assert_allclose(np.exp(model(IMAGES)), wanted, atol=1e-5)


def test_small_probabilities_survive():
    inputs = keras.Input((64, 64, 3))
    pooled = keras.layers.GlobalAveragePooling2D()(inputs)
    model = keras.Model(inputs, keras.layers.Dense(2)(pooled))
    model.layers[-1].set_weights([np.zeros((3, 2)), np.array([0.0, -300.0])])
    np.testing.assert_allclose(
        ensemble.average_models([model, model], symmetries=True)(IMAGES)[0], [0, -300], atol=1e-3
    )


@pytest.mark.parametrize("symmetries", [False, True])
def test_ensemble_is_folded_saved_and_reloaded_like_any_model(members, symmetries, tmp_path):
    model = ensemble.average_models(
        members, temperatures=[1.5, 0.7], weights=[3, 1], symmetries=symmetries
    )
    folded = export._folded(model)
    assert folded.count_params() < model.count_params()
    np.testing.assert_allclose(folded(IMAGES), model(IMAGES), atol=1e-4)
    model.save(tmp_path / "model.keras")
    reloaded = keras.saving.load_model(tmp_path / "model.keras")  # no class of this project
    np.testing.assert_allclose(reloaded(IMAGES), model(IMAGES), atol=1e-5)
    assert models.summary(model).index.tolist() == ["member1", "member2", "head"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"members": []}, "`members` must be at least one model"),
        ({"temperatures": [1.0]}, "`temperatures` must be 2 positive numbers"),
        ({"temperatures": [1.0, 0.0]}, "`temperatures` must be 2 positive numbers"),
        ({"temperatures": [1.0, np.inf]}, "`temperatures` must be 2 positive numbers"),
        ({"weights": [1.0]}, "`weights` must be 2 positive numbers, one per member"),
        ({"weights": [2, -1]}, "not all of them"),
        ({"weights": [0, 0]}, "not all of them"),
        ({"weights": [1, np.nan]}, "not all of them"),
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
