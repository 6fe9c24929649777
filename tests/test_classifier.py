"""The classifier, on the shipped model: what it computes, and what it says to bad input."""

from __future__ import annotations

import io

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import PROJECT, claiming, deep_png
from PIL import Image
from scipy.special import softmax

from eurosat_helpers import artifact, augmentation
from eurosat_helpers import models as _layers_of_the_keras_file  # noqa: F401
from eurosat_helpers.data import CLASS_NAMES

SHIPPED = PROJECT / "saved_model" / "eurosat_cnn"
# Blocks of 16x16 pixels: JPEG keeps them, and the probabilities differ from tile to tile.
IMAGES = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 3), dtype="uint8")
IMAGES = IMAGES.repeat(16, axis=1).repeat(16, axis=2)
IMAGES[0, 0, 0] = 0, 7, 255


def encode(image: np.ndarray, form: str = "PNG", **settings: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, form, **settings)
    return file.getvalue()


@pytest.fixture(scope="module")
def classifier() -> artifact.Classifier:
    return artifact.load(SHIPPED)


def test_predictions_are_those_of_the_keras_model_at_its_temperature(classifier):
    model = keras.saving.load_model(SHIPPED / "model.keras")
    assert isinstance(model.get_layer("augmentation-symmetry"), augmentation.RandomSymmetry)
    logits = model(IMAGES.astype("float32"), training=False)
    wanted = softmax(np.asarray(logits) / classifier.metadata["temperature"], axis=1)
    np.testing.assert_allclose(classifier.predict(IMAGES), wanted, atol=1e-5)


def test_predict_does_not_depend_on_the_batches_and_keeps_the_last_one(classifier):
    whole = classifier.predict(IMAGES)
    assert whole.shape == (5, 10)
    assert whole.dtype == np.float32
    np.testing.assert_allclose(classifier.predict(IMAGES, batch_size=2), whole, atol=1e-6)


def test_predict_takes_pixels_as_floats(classifier):
    wanted = classifier.predict(IMAGES)
    for dtype in ("float16", "float32", "float64"):
        np.testing.assert_allclose(classifier.predict(IMAGES.astype(dtype)), wanted, atol=1e-6)


def test_predict_takes_dark_tiles_of_integers_and_floats_from_30_on(classifier):
    assert classifier.predict(np.zeros_like(IMAGES)).shape == (5, 10)
    dark = IMAGES // 8
    np.testing.assert_array_equal(classifier.predict(dark), classifier.predict(dark * 1.0))


def test_predict_says_what_images_must_be_and_what_they_are(classifier):
    for images, received in (
        (IMAGES[0], r"uint8, shape \(64, 64, 3\)"),
        (IMAGES[:0], r"uint8, shape \(0, 64, 64, 3\)"),
        (IMAGES[:0] / 1.0, r"float64, shape \(0, 64, 64, 3\)"),
        (IMAGES[:, :32, :32], r"uint8, shape \(5, 32, 32, 3\)"),
        (IMAGES[..., :1], r"uint8, shape \(5, 64, 64, 1\)"),
        (IMAGES.transpose(0, 3, 1, 2), r"uint8, shape \(5, 3, 64, 64\)"),
        (5, r"int64, shape \(\)"),
        (IMAGES.astype("int64"), "int64, shape .*"),
        (IMAGES > 9, "bool, shape .*"),
        (IMAGES.astype(object), "object, shape .*"),
        (IMAGES.astype(str), "<U.*"),
        (IMAGES.astype("complex64"), "complex64, shape .*"),
        (np.where(IMAGES == 7, np.nan, IMAGES), "float64, .* nan to nan"),
        (np.where(IMAGES == 7, np.inf, IMAGES), "float64, .* 0 to inf"),
        (IMAGES / 255, "float64, .* 0 to 1"),
        (IMAGES / 127.5 - 1, "float64, .* -1 to 1"),
        (IMAGES * 0.0, "float64, .* 0 to 0"),
        (IMAGES / 255 * 1.4, "float64, .* 0 to 1.4"),  # reflectance: clouds and snow exceed 1
        (IMAGES / 255 * 29.9, "float64, .* 0 to 29.9"),
        (IMAGES * 257.0, "float64, .* 0 to 6.5.*"),
    ):
        expected = r"`images` must be uint8, or .* in 0-255 that reach 30 .*images\[None\]"
        with pytest.raises(ValueError, match=rf"{expected}\). Received: {received}$"):
            classifier.predict(images)


@pytest.mark.parametrize(
    ("form", "settings"),
    [("JPEG", {"quality": 90}), ("JPEG", {"progressive": True}), ("PNG", {})],
)
def test_serve_jpeg_equals_serve_on_the_decoded_pixels(classifier, form, settings):
    encoded = [encode(image, form, **settings) for image in IMAGES]
    decoded = np.stack([np.asarray(Image.open(io.BytesIO(item))) for item in encoded])
    wanted = classifier.predict(decoded)
    table = classifier.predict_jpeg(encoded, batch_size=2)
    assert table.columns.tolist() == ["label", "confidence", "unfamiliarity", *CLASS_NAMES]
    np.testing.assert_allclose(table[list(CLASS_NAMES)], wanted, atol=1e-6)
    np.testing.assert_allclose(table["confidence"], wanted.max(axis=1), atol=1e-6)
    unfamiliarity = classifier.serve(decoded)["unfamiliarity"]
    np.testing.assert_allclose(table["unfamiliarity"], unfamiliarity, rtol=1e-5)
    assert table["label"].tolist() == [CLASS_NAMES[index] for index in wanted.argmax(axis=1)]


def test_opaque_png_with_a_fourth_band_is_its_colors(classifier):
    opaque = np.concatenate([IMAGES[0], np.full((64, 64, 1), 255, np.uint8)], axis=-1)
    table = classifier.predict_jpeg([encode(opaque), encode(IMAGES[0])])
    assert table.iloc[0].equals(table.iloc[1])


def test_batches_of_no_tile_are_named(classifier):
    for ask in (classifier.serve, classifier.predict, classifier.predict_jpeg):
        images = [encode(IMAGES[0])] if ask == classifier.predict_jpeg else IMAGES
        with pytest.raises(ValueError, match=r"`batch_size` must be at least 1\. Received: 0"):
            ask(images, batch_size=0)


def shallow_png() -> bytes:
    Image.fromarray(IMAGES[0]).quantize(16).save(file := io.BytesIO(), "PNG", bits=4)
    return file.getvalue()


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (b"", "64x64 pixels. Received: 0 bytes"),
        (b"no image at all", "64x64 pixels. Received: 15 bytes that are no image or a damaged one"),
        (encode(IMAGES[0], "JPEG")[:600], "64x64 pixels. Received: 600 bytes"),
        (encode(IMAGES[0])[:90], "64x64 pixels. Received: 90 bytes"),
        (deep_png(), "64x64 pixels. Received: PNG of 16 bits per value, not 8"),
        (shallow_png(), "64x64 pixels. Received: PNG of 4 bits per value, not 8"),
        (encode(np.zeros((64, 64, 4), np.uint8)), "Received: PNG with transparent pixels"),
        (encode(np.zeros((64, 64, 2), np.uint8)), "Received: PNG with transparent pixels"),
        (encode(np.zeros((32, 64, 4), np.uint8)), "Received: PNG, 64x32 pixels"),
        (encode(IMAGES[0], "TIFF"), "64x64 pixels. Received: TIFF, 64x64 pixels"),
        (encode(IMAGES[0], "GIF"), "64x64 pixels. Received: GIF, 64x64 pixels"),
        (encode(IMAGES[0][:32], "JPEG"), "64x64 pixels. Received: JPEG, 64x32 pixels"),
        (encode(np.tile(IMAGES[0], (2, 2, 1))), "64x64 pixels. Received: PNG, 128x128 pixels"),
        (claiming(encode(IMAGES[0]), 9000), "64x64 pixels. Received: PNG, 9000x9000 pixels"),
        (
            claiming(encode(IMAGES[0], "JPEG"), 9000),
            "64x64 pixels. Received: JPEG, 9000x9000 pixels",
        ),
    ],
)
def test_predict_jpeg_names_the_bad_image_by_position(classifier, bad, message):
    good = encode(IMAGES[0])
    with pytest.raises(ValueError, match=rf"`encoded\[3\]` must be .*{message}"):
        classifier.predict_jpeg([good, good, good, bad, good], batch_size=2)


@pytest.mark.parametrize(
    ("encoded", "received"),
    [
        ([], "list of nothing"),
        (encode(IMAGES[0]), "bytes of int"),
        ("tile.jpg", "str of str"),
        ([encode(IMAGES[0]), "tile.jpg", IMAGES[0]], "list of bytes, ndarray, str"),
    ],
)
def test_predict_jpeg_wants_a_list_of_images(classifier, encoded, received):
    with pytest.raises(ValueError, match=f"`encoded` must be a list .* Received: {received}$"):
        classifier.predict_jpeg(encoded)


def test_graph_itself_tells_the_positions_of_bad_images(classifier):
    good, small = encode(IMAGES[0]), encode(IMAGES[0][:32])
    huge = claiming(encode(IMAGES[0], "JPEG"), 65000)  # 12.7 GB of pixels
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"64x64 pixels; .*\[1 3 4\]"):
        classifier.served.serve_jpeg(tf.constant([good, small, good, b"", huge]))
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"64x64 pixels; .*\[0\]"):
        classifier.served.serve_jpeg(tf.constant([small]))
