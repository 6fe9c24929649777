"""Attribution maps: what they are by definition, and that they follow the network and the tile."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from conftest import PROJECT
from keras import layers

from eurosat_helpers import artifact, attribution, data, models

SHIPPED = PROJECT / "saved_model" / "eurosat_cnn"


@pytest.fixture(scope="module")
def red_or_blue():
    """A network that knows two classes, by how much red and how much blue a tile has."""
    images = keras.Input((64, 64, 3))
    colors = layers.Conv2D(2, 1, use_bias=False, activation="relu", name="colors")(images)
    logits = layers.Dense(2, name="logits")(layers.GlobalAveragePooling2D()(colors))
    model = keras.Model(images, logits)
    model.get_layer("colors").set_weights([np.array([[[[1, 0], [0, 0], [0, 1]]]]) / 255])
    model.get_layer("logits").set_weights([np.array([[4, -1], [-1, 4]]), np.zeros(2)])
    return model


@pytest.fixture(scope="module")
def halves():
    """Two tiles: the left half red and the right half blue, and the other way round."""
    images = np.full((2, 64, 64, 3), 20, np.uint8)
    images[0, :, :32, 0] = images[1, :, 32:, 0] = 200
    images[0, :, 32:, 2] = images[1, :, :32, 2] = 200
    return images


def test_grad_cam_is_the_share_of_each_pixel_in_the_logit(red_or_blue, halves):
    maps = attribution.grad_cam(red_or_blue, halves, np.array([0, 0]))
    red, blue = halves[..., 0] / 255, halves[..., 2] / 255
    np.testing.assert_allclose(maps, np.maximum(0, 4 * red - blue) / 64**2, rtol=1e-4)
    assert maps.dtype == np.float32


def test_grad_cam_sees_what_a_network_inside_sees(red_or_blue, halves):
    inside = keras.Model(red_or_blue.input, red_or_blue.get_layer("colors").output, name="base")
    images = keras.Input((64, 64, 3))
    pooled = layers.GlobalAveragePooling2D()(inside(images * 1.0))
    nested = keras.Model(images, red_or_blue.get_layer("logits")(pooled))
    expected = attribution.grad_cam(red_or_blue, halves, np.array([0, 1]))
    for layer in (None, "base"):
        maps = attribution.grad_cam(nested, halves, np.array([0, 1]), layer=layer)
        np.testing.assert_allclose(maps, expected, rtol=1e-5)


def test_grad_cam_explains_the_class_that_is_asked_for(red_or_blue, halves):
    red, blue = attribution.grad_cam(red_or_blue, halves[[0, 0]], np.array([0, 1]))
    assert red[:, :32].min() > 0 == red[:, 32:].max()
    assert blue[:, 32:].min() > 0 == blue[:, :32].max()


def test_occlusion_falls_where_the_class_is_and_rises_where_another_is(red_or_blue, halves):
    maps = attribution.occlusion(red_or_blue, halves, np.array([0, 0]), side=16, stride=16)
    assert maps[0, :, :32].min() > 0 > maps[0, :, 32:].max()
    np.testing.assert_allclose(maps[0], maps[1, :, ::-1], atol=1e-5)
    covered = halves[:1].astype(np.float32)
    covered[0, :16, :16] = covered.mean(axis=(0, 1, 2))
    before, after = (np.diff(red_or_blue(x)[0])[0] for x in (halves[:1], covered))
    np.testing.assert_allclose(maps[0, :16, :16], after - before, atol=1e-4)


def test_every_pixel_is_hidden_even_if_squares_do_not_divide_the_side(red_or_blue, halves):
    maps = attribution.occlusion(red_or_blue, halves, np.array([0, 0]), side=20, stride=15)
    assert np.isfinite(maps).all()
    assert maps.shape == (2, 64, 64)


def test_maps_do_not_depend_on_the_batches(red_or_blue, halves):
    many = np.repeat(halves, 40, axis=0)
    maps = attribution.grad_cam(red_or_blue, many, np.zeros(80, int))
    np.testing.assert_allclose(maps[[0, 79]], maps[[39, 40]])
    assert attribution.grad_cam(red_or_blue, many[:0], np.zeros(0, int)).shape == (0, 64, 64)


@pytest.mark.parametrize("explain", [attribution.grad_cam, attribution.occlusion])
@pytest.mark.parametrize("kind", ["uint8", "int16", "uint64"])
def test_labels_may_be_integers_of_any_kind(red_or_blue, halves, explain, kind):
    expected = explain(red_or_blue, halves, np.array([0, 1]))
    np.testing.assert_array_equal(explain(red_or_blue, halves, np.array([0, 1], kind)), expected)


@pytest.mark.parametrize("explain", [attribution.grad_cam, attribution.occlusion])
@pytest.mark.parametrize("labels", [[0], [0, 2], [0, -1], [0.0, 1.0]])
def test_labels_that_do_not_fit_are_named(red_or_blue, halves, explain, labels):
    with pytest.raises(ValueError, match=r"`labels` must be one number of a class, 0 to 1, for"):
        explain(red_or_blue, halves, np.array(labels))


@pytest.mark.parametrize("layer", ["logits", "none"])
def test_layer_without_a_map_is_named(red_or_blue, halves, layer):
    with pytest.raises(ValueError, match=rf"`layer` must name a layer .* Received: '{layer}'"):
        attribution.grad_cam(red_or_blue, halves, np.array([0, 0]), layer=layer)


@pytest.mark.parametrize(("side", "stride"), [(65, 8), (8, 9), (8, 0)])
def test_square_that_does_not_fit_is_named(red_or_blue, halves, side, stride):
    with pytest.raises(ValueError, match=rf"Received: stride={stride}, side={side}"):
        attribution.occlusion(red_or_blue, halves, np.array([0, 0]), side=side, stride=stride)


def test_maps_of_the_shipped_model_move_with_the_object_and_depend_on_its_weights(real_tiles):
    """A tile made of two halves, and the sanity check of Adebayo et al. (arXiv 1810.03292)."""
    classifier = artifact.load(SHIPPED)
    model = keras.saving.load_model(SHIPPED / "model.keras", compile=False)
    test = data.select(real_tiles, classifier.test_names)
    works, sea = (
        test[np.flatnonzero(test.truth == name)[:20]].images for name in ("Industrial", "SeaLake")
    )
    images = sea.copy()
    images[:10, :, :32], images[10:, :, 32:] = works[:10, :, :32], works[10:, :, 32:]
    labels = np.full(20, classifier.class_names.index("Industrial"))
    random = models.build_cnn(mean=[87, 97, 103], variance=[2700, 1225, 876], seed=1)
    for explain in (attribution.grad_cam, attribution.occlusion):
        maps = np.maximum(explain(model, images, labels), 0)
        first, second = (part[:, :, :32].sum() / part.sum() for part in (maps[:10], maps[10:]))
        assert second < 0.25 < 0.7 < first
        others = np.maximum(explain(random, images, labels), 0)
        assert abs(np.corrcoef(maps.ravel(), others.ravel())[0, 1]) < 0.4
