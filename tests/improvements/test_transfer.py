"""Tests of eurosat_helpers.transfer."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
from keras import applications, layers

from eurosat_helpers import artifact, data, models, training, transfer

IMAGES = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3)).astype(np.float32)
SMALL = "MobileNet_0.75"
MODULES = {
    "MobileNet_0.75": applications.mobilenet,
    "MobileNet": applications.mobilenet,
    "MobileNetV2": applications.mobilenet_v2,
    "EfficientNetV2B0": applications.efficientnet_v2,
    "ResNet50": applications.resnet50,
    "DenseNet121": applications.densenet,
    "VGG16": applications.vgg16,
    "InceptionV3": applications.inception_v3,
    "Xception": applications.xception,
    "ConvNeXtTiny": applications.convnext,
}
IMAGENET_MEAN, IMAGENET_DEVIATION = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
METADATA = {
    "class_names": list(data.CLASS_NAMES),
    "data_source": "demo tiles",
    "split": {"seed": 0, "validation_fraction": 0.08, "test_fraction": 0.2},
    "scores": {
        "validation": {"tiles": 1, "accuracy": 1.0},
        "test": {
            "tiles": 1,
            "accuracy": 1.0,
            "accuracy_low": 0.2,
            "accuracy_high": 1.0,
            "calibration_error": 0.0,
        },
    },
    "epochs": 1,
    "seconds": 1.0,
    "hardware": "CPU",
}


def preprocess(model: keras.Model, images: np.ndarray) -> np.ndarray:
    """What the layers before the augmentation make of the pixels."""
    for layer in model.layers:
        if layer.name.startswith("preprocessing"):
            images = layer(images)
    return np.asarray(images)


def flattened(layer: keras.Layer) -> list[keras.Layer]:
    return [layer, *(part for inner in getattr(layer, "layers", ()) for part in flattened(inner))]


def normalizations(model: keras.Model) -> list[layers.BatchNormalization]:
    return [layer for layer in flattened(model) if isinstance(layer, layers.BatchNormalization)]


def take_statistics(model: keras.Model) -> None:
    """Give batch normalization the statistics of a batch: else a random network answers 0."""
    for layer in normalizations(model):
        layer.momentum = 0.0
    model(IMAGES, training=True)


@pytest.fixture(scope="module")
def parts(demo_tiles) -> tuple[data.Tiles, data.Tiles]:
    train, validation, _ = data.split(demo_tiles)
    return train[::4], validation


@pytest.fixture(scope="module")
def weights_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of the small base, with the statistics of a batch."""
    keras.utils.set_random_seed(0)
    model = transfer.build_transfer(SMALL, weights=None)
    take_statistics(model)
    path = tmp_path_factory.mktemp("weights") / "random.weights.h5"
    model.get_layer("base").save_weights(path)
    return path


@pytest.fixture
def frozen(weights_file: Path) -> keras.Model:
    """A small model on a frozen base, the same each time."""
    keras.utils.set_random_seed(0)
    return transfer.build_transfer(SMALL, weights=weights_file, hidden=[16])


def fit_head(model: keras.Model, parts: tuple, **options: object) -> pd.DataFrame:
    settings = {"epochs": 3, "batch_size": 16, "learning_rate": 1e-2, "seed": 0, **options}
    return transfer.fit_head(model, *parts, **settings)


# --- every base ---


@pytest.mark.parametrize("base", transfer.BASES)
def test_base_takes_raw_pixels_in_its_own_preprocessing_and_gives_logits(base):
    model = transfer.build_transfer(base, num_classes=4, weights=None)
    assert model.input_shape == (None, 64, 64, 3)
    logits = model(IMAGES, training=False)
    assert logits.shape == (2, 4)
    assert logits.dtype == "float32"
    assert np.isfinite(logits).all()
    side = transfer.BASES[base].side
    assert model.get_layer("base").input_shape == (None, side, side, 3)
    assert model.get_layer("base").output_shape[1] >= 2, "the tiles are too small for this base"
    assert model.get_layer("base").trainable
    if base in MODULES:
        wanted = MODULES[base].preprocess_input(IMAGES.copy())
        np.testing.assert_allclose(preprocess(model, IMAGES), wanted, atol=1e-4)


def test_efficient_net_with_the_statistics_of_its_file_normalizes_as_it_was_trained():
    model = transfer.build_transfer("EfficientNetB0", weights=None)
    base = model.get_layer("base")
    (inner,) = [layer for layer in base.layers if isinstance(layer, layers.Normalization)]
    # The file holds the deviation where the layer wants the variance.
    inner.set_weights([np.array(IMAGENET_MEAN), np.array(IMAGENET_DEVIATION), np.array(0)])
    inner.finalize_state()
    pixels = preprocess(model, IMAGES)
    for layer in base.layers[1 : base.layers.index(inner) + 1]:
        pixels = layer(pixels)
    wanted = (IMAGES / 255 - IMAGENET_MEAN) / IMAGENET_DEVIATION
    np.testing.assert_allclose(pixels, wanted, atol=1e-4)


def test_saved_model_and_export_give_the_same_answers(weights_file, tmp_path):
    model = transfer.build_transfer(SMALL, weights=weights_file)
    logits = np.asarray(model(IMAGES, training=False), np.float64)
    assert np.ptp(logits) > 0.1
    artifact.save(
        model,
        tmp_path / "model",
        metadata=METADATA,
        history=pd.DataFrame({"epoch": [1]}),
        test_names=["Forest/Forest_1.jpg"],
    )
    wanted = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    probabilities = artifact.load(tmp_path / "model").predict(IMAGES.astype("uint8"))
    np.testing.assert_allclose(probabilities, wanted, atol=1e-5)
    again = keras.saving.load_model(tmp_path / "model/model.keras")
    np.testing.assert_array_equal(again(IMAGES, training=False), model(IMAGES, training=False))


@pytest.mark.parametrize("base", ["ResNet50", "ConvNeXtTiny"])
def test_base_is_folded_and_survives_a_file(base, tmp_path):
    keras.utils.set_random_seed(0)
    model = transfer.build_transfer(base, weights=None)
    take_statistics(model)
    folded = models.fold_batch_normalization(model)
    assert not normalizations(folded)
    logits = model(IMAGES, training=False)
    assert np.ptp(logits) > 0.01
    np.testing.assert_allclose(folded(IMAGES, training=False), logits, atol=1e-3)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again(IMAGES, training=False), logits)


# --- what is frozen, and when ---


def test_frozen_base_keeps_its_weights_and_statistics_in_training(frozen):
    assert [weight.path.split("/")[0] for weight in frozen.trainable_weights] == [
        "head-dense1",
        "head-dense1",
        "head-logits",
        "head-logits",
    ]
    before = frozen.get_layer("base").get_weights()
    frozen(IMAGES, training=True)
    for old, new in zip(before, frozen.get_layer("base").get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_unfrozen_layers_learn_in_half_precision_and_batch_normalization_keeps_all_it_has(
    frozen, parts
):
    base = frozen.get_layer("base")
    transfer.unfreeze(frozen, last=6)
    before = {layer.name: layer.get_weights() for layer in base.layers}
    training.fit(
        frozen,
        *parts,
        epochs=1,
        batch_size=32,
        learning_rate=1e-3,
        seed=0,
        policy="mixed_bfloat16",
    )
    changed = [
        layer.name
        for layer in base.layers
        if any(
            not np.array_equal(old, new)
            for old, new in zip(before[layer.name], layer.get_weights(), strict=True)
        )
    ]
    assert changed == ["conv_dw_13", "conv_dw_13_bn", "conv_pw_13", "conv_pw_13_bn"]
    for layer in normalizations(frozen):  # scale and shift learn, mean and variance stay
        for old, new in zip(before[layer.name][2:], layer.get_weights()[2:], strict=True):
            np.testing.assert_array_equal(old, new)
    assert {layer.compute_dtype for layer in flattened(frozen)} == {"float32"}
    assert {weight.dtype for weight in frozen.weights} == {"float32"}


def test_whole_base_unfreezes_and_stays_so_through_a_file(frozen, tmp_path):
    transfer.unfreeze(frozen)
    frozen.save(tmp_path / "model.keras")
    for model in (frozen, keras.saving.load_model(tmp_path / "model.keras")):
        base = model.get_layer("base")
        assert all(layer.trainable for layer in base.layers)
        before = [layer.moving_mean.numpy() for layer in normalizations(model)]
        model(IMAGES, training=True)
        for layer, mean in zip(normalizations(model), before, strict=True):
            np.testing.assert_array_equal(layer.moving_mean, mean)


def test_statistics_follow_the_tiles_where_they_are_not_fixed(frozen):
    transfer.unfreeze(frozen, fixed_statistics=False)
    before = [layer.moving_mean.numpy() for layer in normalizations(frozen)]
    frozen(IMAGES[:1], training=True)
    for layer, mean in zip(normalizations(frozen), before, strict=True):
        assert not np.array_equal(layer.moving_mean, mean)


def test_adapted_base_has_the_statistics_of_the_tiles_and_stays_frozen(frozen, parts):
    tiles = parts[0][::2]
    transfer.adapt(frozen, tiles, seed=0, batch_size=len(tiles))
    assert not frozen.get_layer("base").trainable_weights
    base = frozen.get_layer("base")
    images = tiles.images.astype("float32")
    for layer in frozen.layers[1 : frozen.layers.index(base)]:
        images = layer(images)
    first = base.get_layer("conv1")(images).numpy().reshape(-1, 24)
    layer = base.get_layer("conv1_bn")
    np.testing.assert_allclose(layer.moving_mean, first.mean(axis=0), atol=1e-2)
    np.testing.assert_allclose(layer.moving_variance, first.var(axis=0), rtol=1e-2)
    assert layer.momentum == 0.98


def test_model_from_scratch_trains_its_batch_normalization_and_only_in_training():
    model = transfer.build_transfer(SMALL, weights=None)
    (first, *_) = normalizations(model)
    before = first.moving_mean.numpy()
    model(IMAGES)
    np.testing.assert_array_equal(first.moving_mean, before)
    model(IMAGES, training=True)
    assert not np.array_equal(first.moving_mean, before)
    assert any("gamma" in weight.path for weight in model.trainable_weights)


# --- the head alone ---


def test_head_learns_on_features_and_the_model_has_its_best_weights(frozen, parts, capsys):
    before = frozen.get_layer("base").get_weights()
    history = fit_head(frozen, parts, epochs=8)
    assert list(history.epoch) == list(range(1, 9))
    assert history.loss.iloc[-1] < history.loss[0]
    assert history.seconds[0] > history.seconds[1:].max()
    logits = frozen.predict(parts[1].images.astype("float32"), verbose=0)
    accuracy = (logits.argmax(axis=1) == parts[1].labels).mean()
    assert accuracy == pytest.approx(history.val_accuracy.max())
    for old, new in zip(before, frozen.get_layer("base").get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    tiles = sum(map(len, parts))
    assert f"768 features of {tiles} tiles" in capsys.readouterr().out
    assert models.summary(frozen).loc["head", "parameters"] == 769 * 16 + 17 * 10


def test_same_seed_gives_the_same_head_and_another_seed_another(weights_file, parts):
    def train(seed):
        keras.utils.set_random_seed(7)
        model = transfer.build_transfer(SMALL, weights=weights_file, dropout=0.5)
        keras.utils.set_random_seed(seed + 100)  # the state of Keras has no say
        return fit_head(model, parts, seed=seed).drop(columns="seconds")

    one, same, other = train(1), train(1), train(2)
    pd.testing.assert_frame_equal(one, same)
    assert not one.equals(other)


def test_head_alone_refuses_a_trainable_base(frozen, parts):
    transfer.unfreeze(frozen, last=3)
    with pytest.raises(ValueError, match="`model` must have a frozen base"):
        fit_head(frozen, parts)


def test_comparison_ranks_the_bases_of_the_keras_cache_by_validation(parts, tmp_path, monkeypatch):
    names = ["MobileNet", SMALL]
    (tmp_path / "models").mkdir()
    for name in names:
        base = transfer.build_transfer(name, weights=None).get_layer("base")
        base.save(tmp_path / "models" / transfer.BASES[name].address.rpartition("/")[2])
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    settings = {"epochs": 1, "batch_size": 50, "learning_rate": 1e-3, "seed": 0}
    table, winner = transfer.compare_bases(names, *parts, **settings)
    assert table.index.name == "base"
    assert list(table.columns) == ["validation accuracy", "parameters", "seconds"]
    assert sorted(table.index) == sorted(names)
    assert table["validation accuracy"].is_monotonic_decreasing
    assert winner.name == table.index[0]
    answers = winner.predict(parts[1].images.astype("float32"), verbose=0).argmax(axis=1)
    accuracy = (answers == parts[1].labels).mean()
    assert accuracy == pytest.approx(table["validation accuracy"].iloc[0])
    assert table.loc[SMALL, "parameters"] < table.loc["MobileNet", "parameters"]


def test_imagenet_weights_separate_the_demo_tiles(parts):
    home = Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser()
    name = transfer.BASES[SMALL].address.rpartition("/")[2]
    if not (home / "models" / name).is_file():
        pytest.skip(f"needs {name} in the Keras cache, {home / 'models'}")
    settings = {"epochs": 10, "batch_size": 16, "learning_rate": 1e-2, "seed": 0}
    table, winner = transfer.compare_bases([SMALL], *parts, **settings)
    assert winner.name == SMALL
    assert table.loc[SMALL, "validation accuracy"] > 0.8


# --- what does not fit ---


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"base": "ResNet"},
            ValueError,
            r"`base` must be one of MobileNet_0\.75, .*, ConvNeXtTiny\. Received: 'ResNet'",
        ),
        ({"num_classes": 1}, ValueError, "`num_classes` must be at least 2. Received: 1"),
        (
            {"weights": "nowhere.h5"},
            FileNotFoundError,
            r"such as mobilenet_7_5_224_tf_no_top\.h5\. No such file: nowhere\.h5",
        ),
    ],
)
def test_bad_settings_are_named(options, error, message):
    with pytest.raises(error, match=message):
        transfer.build_transfer(**{"base": SMALL, "weights": None, **options})


@pytest.mark.parametrize("last", [0, -1, 1000])
def test_bad_number_of_layers_is_named(frozen, last):
    with pytest.raises(ValueError, match=rf"from 1 to the \d+ layers .* Received: {last}"):
        transfer.unfreeze(frozen, last=last)
    assert not frozen.get_layer("base").trainable


@pytest.mark.parametrize("kept", [0, 0.5])
def test_damaged_weights_are_named(weights_file, tmp_path, kept):
    whole = weights_file.read_bytes()
    damaged = tmp_path / "cut.weights.h5"
    damaged.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(ValueError, match=r"cut\.weights\.h5` does not hold .* or is damaged: rem"):
        transfer.build_transfer(SMALL, weights=damaged)


def test_weights_of_another_base_are_refused(weights_file, tmp_path):
    other = shutil.copy(weights_file, tmp_path / "other.weights.h5")
    with pytest.raises(ValueError, match="does not hold the weights of VGG16 without its head"):
        transfer.build_transfer("VGG16", weights=other)


@pytest.mark.parametrize("names", [[], [SMALL, "ResNet"]])
def test_comparison_refuses_names_before_it_trains(parts, names):
    settings = {"epochs": 1, "batch_size": 50, "learning_rate": 1e-3, "seed": 0}
    with pytest.raises(ValueError, match=r"`names` must be one or more of MobileNet_0\.75"):
        transfer.compare_bases(names, *parts, weights=None, **settings)


def test_missing_imagenet_weights_without_a_network_are_one_clear_error(tmp_path):
    with socket.socket() as probe:  # nobody listens on the port once this is closed
        probe.bind(("127.0.0.1", 0))
        nowhere = f"http://127.0.0.1:{probe.getsockname()[1]}"
    code = """
import json
from eurosat_helpers import transfer
try:
    transfer.build_transfer("VGG16")
except FileNotFoundError as error:
    print(json.dumps(str(error)))
"""
    proxies = {"https_proxy": nowhere, "HTTPS_PROXY": nowhere, "no_proxy": "", "NO_PROXY": ""}
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **proxies, "KERAS_HOME": str(tmp_path)},
    )
    message = json.loads(run.stdout.splitlines()[-1])
    file = tmp_path / "models/vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"
    assert str(file) in message
    assert transfer.BASES["VGG16"].address in message
    assert "Put the file there ($KERAS_HOME/models" in message
    assert "`weights=None` trains from scratch" in message
    assert not file.exists()
