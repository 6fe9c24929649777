"""Tests of eurosat_helpers.improvements.transfer."""

import dataclasses
import os
from functools import partial
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
from keras import layers
from test_bases import take_statistics

from eurosat_helpers import data, models, pipeline
from eurosat_helpers.checkpoint import Run
from eurosat_helpers.improvements import bases, transfer

SMALL = "MobileNet_0.75"
HEAD = {"epochs": 4, "batch_size": 16, "learning_rate": 1e-2}


def build_tiny(filters, *, include_top, weights, input_shape):
    """A base of two layers, in place of the networks of Keras, which take long to trace."""
    assert not include_top
    assert weights in ("imagenet", None)
    inputs = keras.Input(input_shape)
    x = layers.Conv2D(filters, 5, strides=4, name="conv1")(inputs)
    x = layers.BatchNormalization(name="conv1_bn")(x)
    return keras.Model(inputs, layers.ReLU(name="conv1_relu")(x))


@pytest.fixture(autouse=True)
def tiny_bases(monkeypatch):
    for name, filters in (("tiny", 8), ("small", 16)):
        base = bases._Base(partial(build_tiny, filters), 96, (127.5,) * 3, 127.5)
        monkeypatch.setitem(bases.BASES, name, base)


@pytest.fixture(scope="module")
def parts(demo_tiles):
    train, validation, _ = data.split(demo_tiles)
    return train[::4], validation[::2]


@pytest.fixture
def frozen(parts):
    """A small model on a frozen base with random weights, the same each time."""
    model = bases.build_transfer("small", dropout=0.5, seed=0)
    model.get_layer("base").trainable = True
    take_statistics(model, parts[0].images[:8].astype("float32"))
    model.get_layer("base").trainable = False
    return model


def normalizations(model):
    return [
        layer for layer in models.sublayers(model) if isinstance(layer, layers.BatchNormalization)
    ]


def test_head_learns_on_features_and_the_model_has_its_best_weights(frozen, parts):
    before = frozen.get_layer("base").get_weights()
    copy = keras.models.clone_model(frozen)
    copy.set_weights(frozen.get_weights())
    copy.get_layer("base").trainable = False
    history = transfer.fit_head(frozen, *parts, seed=1, adapt=False, **HEAD)
    assert history.epoch.tolist() == [1, 2, 3, 4]
    assert history.loss.iloc[-1] < history.loss[0]
    assert history.seconds[0] > history.seconds[1]
    logits = frozen.predict(parts[1].images.astype("float32"), verbose=0)
    accuracy = (logits.argmax(axis=1) == parts[1].labels).mean()
    assert accuracy == pytest.approx(history.val_accuracy.max())
    for old, new in zip(before, frozen.get_layer("base").get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert models.summary(frozen).loc["head", "parameters"] == 17 * 10

    keras.utils.set_random_seed(7)  # the state of Keras does not matter
    again = transfer.fit_head(copy, *parts, seed=1, adapt=False, **HEAD)
    columns = ["loss", "val_loss", "val_accuracy"]
    pd.testing.assert_frame_equal(again[columns], history[columns])


def test_adapted_base_has_the_statistics_of_the_tiles_and_stays_frozen(frozen, parts):
    tiles = parts[0][::2]
    frozen.get_layer("base").get_layer("conv1_bn").momentum = 0.7
    transfer._adapt(frozen, tiles, seed=0, batch_size=len(tiles) // 2)
    base = frozen.get_layer("base")
    assert not base.trainable_weights
    pixels = frozen.get_layer("normalization")(tiles.images.astype("float32"))
    first = base.get_layer("conv1")(keras.ops.image.resize(pixels, (96, 96))).numpy()
    layer = base.get_layer("conv1_bn")
    np.testing.assert_allclose(layer.moving_mean, first.mean(axis=(0, 1, 2)), atol=1e-2)
    np.testing.assert_allclose(layer.moving_variance, first.var(axis=(0, 1, 2)), rtol=0.1)
    assert layer.momentum == 0.7  # as it was before


def test_interrupted_adaptation_leaves_the_base_as_it_was(frozen, parts, monkeypatch):
    layer, batches = frozen.get_layer("base").get_layer("conv1_bn"), pipeline.dataset
    layer.momentum = 0.7

    def interrupted(*arguments, **settings):
        yield next(iter(batches(*arguments, **settings)))
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "dataset", interrupted)
    with pytest.raises(KeyboardInterrupt):
        transfer._adapt(frozen, parts[0], seed=0, batch_size=16)
    assert not frozen.get_layer("base").trainable_weights
    assert layer.momentum == 0.7


def test_head_alone_refuses_validation_tiles_of_other_classes(frozen, parts):
    train, validation = parts
    other = dataclasses.replace(validation, class_names=validation.class_names[::-1])
    with pytest.raises(ValueError, match=r"`validation` must have the classes of `train`"):
        transfer.fit_head(frozen, train, other, seed=0, **HEAD)


def test_dropout_of_the_base_does_not_change_its_statistics(parts):
    inputs = keras.Input((96, 96, 3))
    dropout = layers.Dropout(0.9, seed=0, name="dropout")
    x = layers.BatchNormalization(name="statistics", momentum=0.5)(dropout(inputs))
    base, pixels = keras.Model(inputs, x, name="base"), keras.Input((64, 64, 3))
    normalization = layers.Normalization(mean=[0] * 3, variance=[1] * 3, name="normalization")
    enlarged = keras.ops.image.resize(normalization(pixels), (96, 96))
    model, tiles = keras.Model(pixels, base(enlarged)), parts[0][:20]
    transfer._adapt(model, tiles, seed=0)
    found = base.get_layer("statistics").moving_variance
    large = keras.ops.image.resize(tiles.images.astype("float32"), (96, 96)).numpy()
    np.testing.assert_allclose(found, large.var(axis=(0, 1, 2)), rtol=1e-3)
    assert dropout.rate == 0.9


@pytest.mark.parametrize("fixed", [True, False])
def test_unfrozen_base_learns_with_its_own_statistics_or_those_of_the_tiles(
    frozen, parts, tmp_path, fixed
):
    transfer.unfreeze(frozen, fixed_statistics=fixed)
    assert all(layer.trainable for layer in frozen.get_layer("base").layers)
    assert any("gamma" in weight.path for weight in frozen.trainable_weights)
    frozen.save(tmp_path / "model.keras")
    images = parts[0].images[:1].astype("float32")
    for model in (frozen, keras.saving.load_model(tmp_path / "model.keras")):
        before = [layer.moving_mean.numpy() for layer in normalizations(model)]
        model(images, training=True)
        for layer, mean in zip(normalizations(model), before, strict=True):
            assert np.array_equal(layer.moving_mean, mean) == fixed


def test_frozen_base_keeps_its_weights_and_statistics_in_training(frozen, parts):
    assert {weight.path.split("/")[0] for weight in frozen.trainable_weights} == {"head-logits"}
    before = frozen.get_layer("base").get_weights()
    frozen(parts[0].images[:4].astype("float32"), training=True)
    for old, new in zip(before, frozen.get_layer("base").get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize(
    "wrong", [{"epochs": 0}, {"batch_size": 0}, {"learning_rate": -1.0}, {"label_smoothing": 1}]
)
def test_head_alone_refuses_what_is_out_of_range(frozen, parts, wrong):
    with pytest.raises(ValueError, match=r"`epochs`, `batch_size` >= 1, .* Received: \("):
        transfer.fit_head(frozen, *parts, seed=0, **{**HEAD, **wrong})


def test_head_alone_refuses_a_trainable_base(frozen, parts):
    transfer.unfreeze(frozen)
    with pytest.raises(ValueError, match="`model` must have a frozen base"):
        transfer.fit_head(frozen, *parts, seed=0, **HEAD)


def test_comparison_ranks_the_bases_and_returns_the_best_with_its_history(parts):
    names = ["small", "tiny"]
    table, winner, history = transfer.compare_bases(names, *parts, seed=0, **HEAD)
    assert table.index.name == "base"
    assert list(table.columns) == ["validation accuracy", "parameters", "seconds"]
    assert sorted(table.index) == sorted(names)
    assert table["validation accuracy"].is_monotonic_decreasing
    assert winner.name == table.index[0]
    assert history.val_accuracy.max() == table["validation accuracy"].iloc[0]
    assert history.seconds.sum() == table["seconds"].iloc[0]  # with what features cost
    answers = winner.predict(parts[1].images.astype("float32"), verbose=0).argmax(axis=1)
    assert (answers == parts[1].labels).mean() == pytest.approx(history.val_accuracy.max())


@pytest.mark.parametrize("names", [[], [SMALL, "ResNet"]])
def test_comparison_refuses_names_before_it_trains(parts, names):
    with pytest.raises(ValueError, match=r"must be one (or more )?of MobileNet_0\.75"):
        transfer.compare_bases(names, *parts, weights=None, seed=0, **HEAD)


def test_imagenet_weights_separate_the_demo_tiles(demo_tiles):
    home = Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser() / "models"
    name = "mobilenet_7_5_224_tf_no_top.h5"
    if not (home / name).is_file():
        pytest.skip(f"needs {name} in the Keras cache, {home}")
    parts = data.split(demo_tiles)[:2]  # all of them: an accuracy on 15 tiles is noise
    table, *_ = transfer.compare_bases([SMALL], *parts, seed=0, **{**HEAD, "epochs": 10})
    assert table.loc[SMALL, "validation accuracy"] > 0.8


def test_runs_that_began_otherwise_are_other_runs(parts, tmp_path):
    """Base weights, seed and settings of the head are not seen in the architecture."""

    def file(*, weights="imagenet", seed=0, **head):
        model = bases.build_transfer("tiny", weights=weights, seed=seed)
        if weights:
            transfer.fit_head(model, *parts, **{**HEAD, "epochs": 1, "seed": 0, **head})
            transfer.unfreeze(model)
        return Run(tmp_path, model, *parts, {}).file

    files = [file(), file(weights=None), file(seed=1), file(seed=2), file(epochs=2), file(seed=1)]
    assert files[-1] == files[2]
    assert len(set(files)) == 5
