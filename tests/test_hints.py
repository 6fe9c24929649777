"""Tests of eurosat_helpers.hints, and of a training with them."""

import os
from pathlib import Path

import numpy as np
import pytest
from test_training import build_small, fit_small, interrupted, parts  # noqa: F401 (a fixture)

from eurosat_helpers import hints, pipeline
from eurosat_helpers.improvements import bases


@pytest.fixture(scope="module")
def some(parts):  # noqa: F811
    """Hints that a network can learn: shares of the classes, and noise."""
    rng, labels = np.random.default_rng(0), parts[0].labels
    return np.column_stack([np.eye(10)[labels], rng.normal(size=(90, 2))]).astype("float32")


def test_imagenet_features_are_alike_for_symmetries_and_tell_classes_apart(demo_tiles):
    home = Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser() / "models"
    if not (home / "mobilenet_7_5_224_tf_no_top.h5").is_file():
        pytest.skip(f"needs mobilenet_7_5_224_tf_no_top.h5 in the Keras cache, {home}")
    tiles, teacher = demo_tiles[::4], bases.build_transfer("MobileNet_0.75", seed=0)
    found, _ = hints.features(tiles, teacher, size=16)
    assert found.dtype == np.float32
    assert found.shape == (len(tiles), 16)
    np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(np.cov(found.T), np.eye(16), atol=1e-3)
    np.testing.assert_array_equal(hints.features(tiles, teacher, size=16)[0], found)
    between = [found[tiles.labels == label].mean(axis=0) for label in range(10)]
    assert np.var(between, axis=0)[:3].min() > 0.3  # of a variance of 1
    few = tiles[:7]
    assert hints.features(few, teacher)[0].shape == (7, 7)
    teacher.get_layer("base").get_layer("conv_pw_1").kernel.assign_add([[np.eye(24, 48)]])
    assert np.abs(hints.features(tiles, teacher, size=16)[0] - found).mean() > 0.01


def test_features_are_kept_for_the_same_teacher_and_tiles(parts, tmp_path):  # noqa: F811
    teacher = bases.build_transfer("MobileNet_0.75", weights=None, seed=0)
    options = {"size": 5, "checkpoint_dir": tmp_path / "teacher"}
    found, seconds = hints.features(parts[0], teacher, **options)
    assert seconds > 0
    (file,) = (tmp_path / "teacher").glob("*.npz")
    np.savez(file, features=found + 1, seconds=seconds + 1)
    again, then = hints.features(parts[0], teacher, **options)
    np.testing.assert_array_equal(again, found + 1)
    assert then == seconds + 1  # those of the first time, not of reading the file
    others = (parts[1], teacher, options), (parts[0], teacher, {**options, "size": 4})
    another = bases.build_transfer("MobileNet_0.75", weights=None, seed=1)
    for tiles, model, other in (*others, (parts[0], another, options)):
        assert not np.array_equal(hints.features(tiles, model, **other)[0], found + 1)
    assert len(list(file.parent.glob("*.npz"))) == 4
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ValueError, match=f"`{file}` is damaged: delete it"):
        hints.features(parts[0], teacher, **options)


def test_missing_weights_are_an_error_that_says_where_they_go(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setattr("keras.src.backend.config._KERAS_DIR", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setattr("urllib.request._opener", None)  # it keeps the proxies
    with pytest.raises(FileNotFoundError, match=r"Copy https://\S+\.h5 to .* or train without"):
        bases.build_transfer("MobileNet_0.75")
    monkeypatch.setattr("urllib.request._opener", None)


def test_hints_are_learned_and_leave_a_model_of_logits_alone(parts, some):  # noqa: F811
    first, second = (build_small(parts) for _ in range(2))
    with_hints = fit_small(first, parts, epochs=8, learning_rate=1e-2, hints=some)
    without = fit_small(second, parts, epochs=8, learning_rate=1e-2)
    assert first.output_shape == (None, 10)
    assert [layer.name for layer in first.layers] == [layer.name for layer in second.layers]
    assert list(with_hints.columns) == list(without.columns)
    kept = with_hints.loc[with_hints.val_accuracy[::-1].idxmax()]
    logits = first.predict(pipeline.dataset(parts[1], batch_size=64), verbose=0)
    assert (logits.argmax(axis=1) == parts[1].labels).mean() == pytest.approx(kept.val_accuracy)
    # The part of the loss that is not that of the labels begins at that of an answer of zero.
    assert with_hints.loss.iloc[0] > without.loss.iloc[0] + 0.1
    assert not np.array_equal(first.get_weights()[-2], second.get_weights()[-2])


def test_interrupted_training_with_hints_ends_as_the_uninterrupted_one(
    parts,  # noqa: F811
    some,
    tmp_path,
    monkeypatch,
):
    options = {"mixup": 0.4, "cropped": 0.7, "hints": some, "class_weight": "balanced"}
    unbroken, broken = (build_small(parts) for _ in range(2))
    expected = fit_small(unbroken, parts, **options)
    folder = {"checkpoint_dir": tmp_path}
    interrupted(monkeypatch, 5, broken, parts, **options, **folder)
    with pytest.raises(ValueError, match="was trained by another run"):
        fit_small(broken, parts, **{**options, "hints": some[::-1]}, **folder)
    history = fit_small(broken, parts, **options, **folder)
    np.testing.assert_array_equal(history.drop(columns="seconds"), expected.drop(columns="seconds"))
    for one, other in zip(unbroken.get_weights(), broken.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_hints_are_blended_as_labels_and_weighed_as_they_are(demo_tiles):
    tiles = demo_tiles[::10]
    one_hot = np.eye(10, dtype="float32")[tiles.labels]
    options = {
        "batch_size": 32,
        "shuffle_seed": 1,
        "mixup": 0.4,
        "hints": 2.0 * one_hot.astype(float),
    }
    for images, (labels, given) in pipeline.dataset(tiles, **options):
        assert len(images) == len(labels)
        np.testing.assert_allclose(given, 2 * labels, atol=1e-6)
    (first, *_) = pipeline.dataset(tiles, **options, class_weight={1: 3.0})
    np.testing.assert_array_equal(*first[2])


def test_hints_of_other_tiles_or_unknown_ones_are_refused(parts, some):  # noqa: F811
    unknown = np.where(some > 1, np.nan, some)
    for wrong in (some[:-1], some[:, 0], unknown):
        with pytest.raises(ValueError, match=r"shape \(90, F\). Received: shape \("):
            fit_small(build_small(parts), parts, hints=wrong)
