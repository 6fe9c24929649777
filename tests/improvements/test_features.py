"""Tests of eurosat_helpers.improvements.features."""

import keras
import numpy as np
import pytest

from eurosat_helpers import data, export, models
from eurosat_helpers.improvements import features

RNG = np.random.default_rng(0)
LABELS = np.repeat(np.arange(3), 40)
CENTERS = np.array([[0, 0, 500], [3, 0, 0], [0, 3, -500]])  # one feature on another scale
POINTS = (CENTERS[LABELS] + RNG.normal(size=(120, 3)) * [1, 1, 5000]).astype("float32")


@pytest.fixture(scope="module")
def cnn():
    return models.build_cnn(
        mean=[90] * 3, variance=[2000] * 3, stem_width=8, widths=(8, 16), blocks=(1, 1), seed=0
    )


def test_features_are_the_pooled_activations_and_the_model_stays_ready_for_export(cnn, demo_tiles):
    tiles = demo_tiles[::20]
    extracted = features.extract(cnn, tiles)
    assert (extracted.shape, extracted.dtype) == ((20, 16), np.float32)
    head = cnn.get_layer("head-logits")
    np.testing.assert_allclose(head(extracted), cnn(tiles.images.astype("float32")), atol=1e-4)
    folded = export._folded(cnn)
    assert folded.count_params() < cnn.count_params()


def test_features_come_from_another_layer_or_another_model(demo_tiles):
    inputs = keras.Input((64, 64, 3))
    pooled = keras.layers.GlobalMaxPooling2D(name="highest")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(2)(pooled))
    extracted = features.extract(model, demo_tiles[:3], layer="highest")
    np.testing.assert_array_equal(extracted, demo_tiles.images[:3].max(axis=(1, 2)))


def test_bad_layer_is_named(cnn, demo_tiles):
    with pytest.raises(ValueError, match=r"'stem-relu', whose output has shape \(None, 32, 32, 8"):
        features.extract(cnn, demo_tiles[:2], layer="stem-relu")
    with pytest.raises(ValueError, match="No such layer: pool"):
        features.extract(cnn, demo_tiles[:2], layer="pool")
    with pytest.raises(ValueError, match="`tiles` must hold at least one"):
        features.extract(cnn, demo_tiles[:0])


@pytest.mark.parametrize("name", features.CLASSIFIERS)
def test_classifiers_learn_and_give_repeatable_probabilities(name):
    train, held_out = slice(0, None, 2), slice(1, None, 2)
    fitted, again = (
        features.CLASSIFIERS[name](1).fit(POINTS[train], LABELS[train]) for _ in range(2)
    )
    probabilities = fitted.predict_proba(POINTS[held_out])
    assert probabilities.shape == (60, 3)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    assert (probabilities.argmax(axis=1) == LABELS[held_out]).mean() > 0.75
    np.testing.assert_array_equal(again.predict_proba(POINTS[held_out]), probabilities)
    if "SVM" in name:  # they must not depend on the scale of a feature
        scaled = POINTS * [1, 1000, 1e-3]
        other = features.CLASSIFIERS[name](1).fit(scaled[train], LABELS[train])
        np.testing.assert_allclose(other.predict_proba(scaled[held_out]), probabilities, atol=1e-3)


def test_classifiers_learn_the_demo_tiles_from_features(cnn, demo_tiles):
    train, _, test = data.split(demo_tiles)
    # The network is untrained, but even random convolutions tell colors apart.
    fitted = features.CLASSIFIERS["linear SVM"](0).fit(features.extract(cnn, train), train.labels)
    predicted = fitted.predict(features.extract(cnn, test))
    assert (predicted == test.labels).mean() > 0.3
