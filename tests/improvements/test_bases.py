"""Tests of eurosat_helpers.improvements.bases."""

import keras
import numpy as np
import pytest
from keras import applications

from eurosat_helpers import export, hints, models
from eurosat_helpers.improvements import bases

SMALL = "MobileNet_0.75"
MODULES = {
    SMALL: applications.mobilenet,
    "MobileNetV2": applications.mobilenet_v2,
    "EfficientNetV2B0": applications.efficientnet_v2,
    "ResNet50": applications.resnet50,
    "VGG16": applications.vgg16,
}
LARGE = ("MobileNetV2", "EfficientNetV2B0", "ResNet50")  # they take long to build


def images(side=64):
    return np.random.default_rng(0).integers(0, 256, (2, side, side, 3)).astype("float32")


def take_statistics(model, pixels):
    """Give batch normalization the statistics of a batch: else a random network answers 0."""
    for layer in models.sublayers(model):
        layer.momentum = 0.0
    model(pixels, training=True)


@pytest.fixture(scope="session")
def random_weights(tmp_path_factory):
    """A file as that of ImageNet, with random weights of the small base."""
    keras.utils.set_random_seed(0)
    network = applications.MobileNet(
        alpha=0.75, weights=None, include_top=False, input_shape=(128, 128, 3)
    )
    file = tmp_path_factory.mktemp("weights") / "mobilenet_7_5_224_tf_no_top.h5"
    network.save(file)
    return file.read_bytes()


@pytest.fixture
def keras_home(random_weights, tmp_path, monkeypatch):
    """A Keras cache that holds weights of MobileNet_0.75 alone."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "mobilenet_7_5_224_tf_no_top.h5").write_bytes(random_weights)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setattr("keras.src.backend.config._KERAS_DIR", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name in LARGE)) for name in bases.BASES],
)
def test_base_computes_what_the_network_of_keras_does(name):
    keras.utils.set_random_seed(0)
    base = bases.BASES[name]
    original = hints._published(name, base.build, base.side, None)
    pixels = images(base.side)
    preprocessed = MODULES[name].preprocess_input(pixels.copy())
    take_statistics(original, preprocessed)
    copy = bases._fused(original, reads_bgr=base.reads_bgr)
    wanted = original(preprocessed, training=False)
    assert np.ptp(wanted) > 0
    normalized = (pixels - np.array(base.mean, "float32")) / base.deviation
    # Rounding adds up to 2e-4 in the fifty layers of a random ResNet. Preprocessing that is off by
    # half a gray level would give 3e-3 in VGG16 and more than 0.05 in the others.
    distance = np.linalg.norm(copy(normalized, training=False) - wanted)
    assert distance < 1e-3 * np.linalg.norm(wanted - np.mean(wanted))
    model = bases.build_transfer(name, num_classes=4, weights=None)
    assert (model.input_shape, model.output_shape) == ((None, 64, 64, 3), (None, 4))
    assert model.get_layer("base").output_shape[1] >= 2, "the tiles are too small for this base"
    assert model.get_layer("base").trainable


def test_same_base_built_twice_has_the_same_names_and_with_a_seed_the_same_weights():
    one, two, other = (
        bases.build_transfer(SMALL, weights=None, seed=seed).get_layer("base") for seed in (1, 1, 2)
    )
    assert [layer.name for layer in one.layers] == [layer.name for layer in two.layers]
    assert one.layers[0].name == "enlarged"
    weights = zip(one.get_weights(), two.get_weights(), strict=True)
    assert all(np.array_equal(first, second) for first, second in weights)
    assert not np.array_equal(one.get_weights()[0], other.get_weights()[0])


def test_model_survives_a_file_and_its_batch_normalization_is_folded(tmp_path):
    model = bases.build_transfer(SMALL, weights=None, seed=0)
    take_statistics(model, images())
    logits = np.asarray(model(images()))
    assert np.ptp(logits) > 0.1
    np.testing.assert_array_equal(model(images(), training=False), logits)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again(images()), logits)
    folded = export._folded(model)
    np.testing.assert_allclose(folded(images()), logits, atol=1e-3)
    assert folded.count_params() < model.count_params()


def test_imagenet_weights_are_those_of_the_keras_cache_and_frozen(keras_home):
    (file,) = (keras_home / "models").iterdir()
    original = keras.saving.load_model(file)
    base = bases.build_transfer(SMALL).get_layer("base")
    for ours, theirs in zip(base.get_weights(), original.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert not base.trainable_weights


def test_damaged_weights_are_an_error_that_names_the_folder(keras_home):
    (file,) = (keras_home / "models").iterdir()
    file.write_bytes(file.read_bytes()[:100_000])
    with pytest.raises(FileNotFoundError, match="missing or damaged") as raised:
        bases.build_transfer(SMALL)
    assert f"Copy its file in `{keras_home / 'models'}` again" in str(raised.value)


def test_missing_weights_without_a_network_are_an_error_that_says_what_to_put_where(
    keras_home, monkeypatch
):
    for name in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody listens there
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "")
    monkeypatch.setattr("urllib.request._opener", None)  # it keeps the proxies
    with pytest.raises(FileNotFoundError) as raised:
        bases.build_transfer("VGG16")
    message = str(raised.value)
    assert "/vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5 to `" in message
    assert f"`{keras_home / 'models'}` ($KERAS_HOME/models" in message
    assert "`weights=None`" in message
    monkeypatch.setattr("urllib.request._opener", None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"base": "ResNet"}, r"`base` must be one of MobileNet_0\.75, .*VGG16\. Received: 'ResNet"),
        ({"num_classes": 1}, "`num_classes` must be at least 2. Received: 1"),
        ({"weights": "noisy"}, "`weights` must be \"imagenet\" or None. Received: 'noisy'"),
    ],
)
def test_bad_settings_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        bases.build_transfer(**{"base": SMALL, "weights": None, **options})


@pytest.mark.slow
def test_large_base_is_folded_and_survives_a_file(tmp_path):
    model = bases.build_transfer("ResNet50", weights=None, seed=0)
    take_statistics(model, images())
    logits = model(images())
    np.testing.assert_allclose(export._folded(model)(images()), logits, atol=1e-3)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again(images()), logits)
