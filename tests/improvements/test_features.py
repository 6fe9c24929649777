"""Tests of eurosat_helpers.features."""

import keras
import numpy as np
import pytest

from eurosat_helpers import data, features, models

RNG = np.random.default_rng(0)
LABELS = np.repeat(np.arange(3), 40)
CENTERS = np.array([[0, 0, 500], [3, 0, 0], [0, 3, -500]])  # one feature on another scale
POINTS = (CENTERS[LABELS] + RNG.normal(size=(120, 3)) * [1, 1, 5000]).astype("float32")


@pytest.fixture(scope="module")
def cnn():
    return models.build_cnn(
        mean=[90] * 3, variance=[2000] * 3, stem_width=8, widths=(8, 16), blocks=(1, 1)
    )


def test_features_are_the_pooled_activations_in_any_batch_size(cnn, demo_tiles):
    images = demo_tiles.images[::20]
    extracted = features.extract(cnn, images, batch_size=8)
    assert extracted.shape == (20, 16)
    assert extracted.dtype == np.float32
    head = cnn.get_layer("head-logits")
    np.testing.assert_allclose(head(extracted), cnn(images.astype("float32")), atol=1e-4)
    np.testing.assert_allclose(extracted, features.extract(cnn, images), atol=1e-5)


def test_features_come_from_another_layer_or_another_model(demo_tiles):
    images = demo_tiles.images[:3]
    inputs = keras.Input((64, 64, 3))
    pooled = keras.layers.GlobalMaxPooling2D(name="highest")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(2)(pooled))
    extracted = features.extract(model, images, layer="highest")
    np.testing.assert_array_equal(extracted, images.max(axis=(1, 2)))


def test_extracting_leaves_the_model_ready_for_export(cnn, demo_tiles):
    features.extract(cnn, demo_tiles.images[:2])
    folded = models.fold_batch_normalization(cnn)
    kinds = {type(layer) for layer in folded.layers}
    assert models.BatchNormalization not in kinds


def test_bad_layer_is_named(cnn, demo_tiles):
    with pytest.raises(ValueError, match=r"'stem-relu', whose output has shape \(None, 32, 32, 8"):
        features.extract(cnn, demo_tiles.images[:2], layer="stem-relu")
    with pytest.raises(ValueError, match="No such layer: pool"):
        features.extract(cnn, demo_tiles.images[:2], layer="pool")
    with pytest.raises(ValueError, match="`images` holds no tile"):
        features.extract(cnn, demo_tiles.images[:0])


@pytest.mark.parametrize("name", features.CLASSIFIERS)
def test_classifiers_learn_and_give_repeatable_probabilities(name):
    train, held_out = slice(0, None, 2), slice(1, None, 2)
    fitted = features.fit_classifier(name, POINTS[train], LABELS[train], seed=1)
    probabilities = fitted.predict_proba(POINTS[held_out])
    assert probabilities.shape == (60, 3)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    assert (probabilities.argmax(axis=1) == LABELS[held_out]).mean() > 0.75
    again = features.fit_classifier(name, POINTS[train], LABELS[train], seed=1)
    np.testing.assert_array_equal(again.predict_proba(POINTS[held_out]), probabilities)


@pytest.mark.parametrize("name", ["linear SVM", "RBF SVM"])
def test_machines_do_not_depend_on_the_scale_of_a_feature(name):
    one, other = (
        features.fit_classifier(name, POINTS * scale, LABELS, seed=0).predict_proba(POINTS * scale)
        for scale in (1, np.array([1, 1000, 1e-3]))
    )
    np.testing.assert_allclose(one, other, atol=1e-3)


def test_classifiers_learn_the_demo_tiles_from_features(cnn, demo_tiles):
    train, _, test = data.split(demo_tiles)
    # The network is untrained, but even random convolutions tell colors apart.
    fitted = features.fit_classifier(
        "linear SVM", features.extract(cnn, train.images), train.labels, seed=0
    )
    predicted = fitted.predict_proba(features.extract(cnn, test.images)).argmax(axis=1)
    assert (predicted == test.labels).mean() > 0.5


def test_unknown_classifier_lists_the_names():
    with pytest.raises(ValueError, match=r"one of linear SVM, RBF SVM, .*Received: 'boosting'"):
        features.fit_classifier("boosting", POINTS, LABELS, seed=0)


@pytest.mark.parametrize("labels", [LABELS[1:], LABELS + 1, LABELS * 2, LABELS / 2])
def test_labels_that_do_not_fit_are_refused(labels):
    with pytest.raises(ValueError, match="`labels` must be 120 integers"):
        features.fit_classifier("linear SVM", POINTS, labels, seed=0)
