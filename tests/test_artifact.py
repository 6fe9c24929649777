"""The saved folder: what it promises to plain TensorFlow, and what it says to bad input."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from keras import layers
from matplotlib.figure import Figure
from PIL import Image

from eurosat_helpers import artifact

TEMPERATURE = 1.7
CLASS_NAMES = ["AnnualCrop", "Forest", "HerbaceousVegetation", "Highway", "Industrial"]
CLASS_NAMES += ["Pasture", "PermanentCrop", "Residential", "River", "SeaLake"]
TEST_NAMES = ("Forest/Forest_1.jpg", "River/River_2.jpg", "SeaLake/SeaLake_3.jpg")
SCORES = {
    "tiles": 3,
    "accuracy": 0.985,
    "accuracy_low": 0.98,
    "accuracy_high": 0.99,
    "calibration_error": 0.0042,
}
METADATA = {
    "class_names": CLASS_NAMES,
    "data_source": "demo tiles",
    "split": {"seed": 0, "validation_fraction": 0.08, "test_fraction": 0.2},
    "scores": {"validation": SCORES, "test": SCORES},
    "epochs": 3,
    "seconds": 90.0,
    "hardware": "2 CPU cores",
    "command": "papermill training.ipynb out.ipynb",
}
HISTORY = pd.DataFrame({"epoch": [1, 2, 3], "loss": [1.5, 1.0, 0.75]})
# Blocks of 16x16 pixels: JPEG keeps them, and the probabilities differ from tile to tile.
IMAGES = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 3), dtype="uint8")
IMAGES = IMAGES.repeat(16, axis=1).repeat(16, axis=2)
IMAGES[0, 0, 0] = 0, 7, 255

# Pixels -> probabilities with nothing but TensorFlow, as a stranger would write it.
STRANGER = """
import sys
import numpy as np
import tensorflow as tf
folder, images, png, out = sys.argv[1:]
model = tf.saved_model.load(folder)
images = np.load(images).astype("float32")
encoded = tf.io.read_file(png)[None]
signatures = model.signatures
np.savez(
    out,
    serve=model.serve(images)["probabilities"],
    default=signatures["serving_default"](images=tf.constant(images))["probabilities"],
    jpeg=model.serve_jpeg(encoded)["probabilities"],
    label=model.serve_jpeg(encoded)["label"].numpy().astype("S"),
)
assert "eurosat_helpers" not in sys.modules
"""


def build_model(classes: int = 10, dtype: str = "float32") -> keras.Model:
    """A small network with layers that act otherwise in training."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((64, 64, 3))
    x = layers.Rescaling(1 / 255)(inputs)
    x = layers.RandomFlip()(x)
    x = layers.Conv2D(8, 5, strides=4, dtype=dtype)(x)
    x = layers.BatchNormalization(momentum=0.0, dtype=dtype)(x)
    x = layers.ReLU(dtype=dtype)(x)
    x = layers.GlobalAveragePooling2D(dtype=dtype)(x)
    x = layers.Dropout(0.5, dtype=dtype)(x)
    spread = keras.initializers.RandomNormal(stddev=2)  # far from ten equal probabilities
    return keras.Model(inputs, layers.Dense(classes, kernel_initializer=spread, dtype=dtype)(x))


def expected(model: keras.Model, images: np.ndarray) -> np.ndarray:
    logits = np.asarray(model(images.astype("float32"), training=False), "float64") / TEMPERATURE
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


def encode(image: np.ndarray, form: str = "PNG", **settings: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, form, **settings)
    return file.getvalue()


def save(model: keras.Model, directory: Path, **changes: object) -> Path:
    settings = {"metadata": METADATA, "history": HISTORY, "test_names": TEST_NAMES}
    return artifact.save(model, directory, **{**settings, "temperature": TEMPERATURE, **changes})


def content(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def model() -> keras.Model:
    """The Keras model, with batch statistics of its own."""
    model = build_model()
    model.compile("adam", "mse")
    model(IMAGES, training=True)
    return model


@pytest.fixture(scope="module")
def saved(model: keras.Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(model, tmp_path_factory.mktemp("models") / "my_model")


@pytest.fixture(scope="module")
def classifier(saved: Path) -> artifact.Classifier:
    return artifact.load(saved)


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Path:
    """The saved folder, to be damaged."""
    return Path(shutil.copytree(saved, tmp_path / "my_model"))


# --- what the folder promises ---


def test_plain_tensorflow_in_a_fresh_process_gives_the_keras_probabilities(model, saved, tmp_path):
    np.save(tmp_path / "images.npy", IMAGES)
    (tmp_path / "tile.png").write_bytes(encode(IMAGES[0]))
    files = [saved, tmp_path / "images.npy", tmp_path / "tile.png", tmp_path / "out.npz"]
    subprocess.run([sys.executable, "-c", STRANGER, *map(str, files)], check=True)
    with np.load(tmp_path / "out.npz") as out:
        wanted = expected(model, IMAGES)
        assert len(set(wanted.argmax(axis=1))) > 1
        np.testing.assert_allclose(out["serve"], wanted, atol=1e-5)
        np.testing.assert_allclose(out["default"], wanted, atol=1e-5)
        np.testing.assert_allclose(out["jpeg"], wanted[:1], atol=1e-5)
        assert out["label"].tolist() == [CLASS_NAMES[wanted[0].argmax()].encode()]


def test_saving_prints_nothing(model, tmp_path, capfd):
    save(model, tmp_path / "quiet")
    assert capfd.readouterr() == ("", "")


def test_folder_holds_the_record_of_the_run(saved):
    assert set(artifact.FILES) <= set(content(saved))
    metadata = json.loads((saved / "metadata.json").read_text(encoding="utf-8"))
    assert {key: metadata[key] for key in METADATA} == METADATA
    assert metadata["temperature"] == TEMPERATURE
    assert metadata["versions"]["tensorflow"] == tf.__version__
    assert set(metadata["versions"]) == {"python", "tensorflow", "keras", "numpy"}
    assert (saved / "test_files.txt").read_text(encoding="utf-8").split() == list(TEST_NAMES)
    pd.testing.assert_frame_equal(pd.read_csv(saved / "history.csv"), HISTORY)


def test_saved_model_stores_each_weight_once_and_no_batch_normalization(model, saved):
    stored = tf.train.list_variables(saved / "variables" / "variables")
    normalization = next(x for x in model.layers if isinstance(x, layers.BatchNormalization))
    folded = normalization.count_params()
    assert sum(np.prod(shape, dtype=int) for _, shape in stored if shape) == (
        model.count_params() - folded
    )


def test_keras_file_reloads_to_the_same_logits_without_the_optimizer(model, saved):
    reloaded = keras.models.load_model(saved / "model.keras")
    images = IMAGES.astype("float32")
    np.testing.assert_allclose(
        reloaded(images, training=False), model(images, training=False), atol=1e-6
    )
    assert reloaded.output_shape == (None, 10)
    assert not reloaded.compiled


def test_half_precision_model_is_served_in_float32(tmp_path):
    model = build_model(dtype="mixed_float16")
    assert model.output.dtype == "float16"
    saved = save(model, tmp_path / "half")
    probabilities = artifact.load(saved).predict(IMAGES)
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)
    whole = build_model()  # the same weights
    np.testing.assert_allclose(probabilities, expected(whole, IMAGES), atol=1e-5)
    graph = tf.saved_model.load(saved).signatures["serve"].graph
    assert "float16" not in {
        tensor.dtype.name for op in graph.get_operations() for tensor in op.outputs
    }


def test_saving_again_replaces_the_folder_whole(copy):
    (copy / "left.over").touch()
    save(build_model(2), copy, metadata={**METADATA, "class_names": ["Forest", "River"]})
    assert artifact.load(copy).predict(IMAGES).shape == (5, 2)
    assert not (copy / "left.over").exists()
    assert {path.name for path in copy.parent.iterdir()} == {"my_model", ".my_model.lock"}


def test_save_that_fails_halfway_leaves_the_old_folder(copy, model):
    before = {**content(copy.parent), ".my_model.lock": b""}
    # Half of a surrogate pair cannot be written as UTF-8; by then the export is complete.
    with pytest.raises(UnicodeEncodeError):
        save(model, copy, test_names=("Forest/Forest_1.jpg", "\ud800.jpg", "River/River_2.jpg"))
    assert content(copy.parent) == before


def test_save_that_cannot_be_renamed_puts_the_old_folder_back(copy, model, monkeypatch):
    before = {**content(copy.parent), ".my_model.lock": b""}
    rename = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if self.name == ".my_model.new":
            raise PermissionError("in use")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(OSError, match=r"Could not write `.*my_model`; .* in use"):
        save(model, copy)
    assert content(copy.parent) == before


def without(*path: str) -> dict:
    """METADATA less one entry."""
    metadata = json.loads(json.dumps(METADATA))
    table = metadata
    for key in path[:-1]:
        table = table[key]
    del table[path[-1]]
    return metadata


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"metadata": without("hardware")}, ValueError, "`metadata` lacks `hardware`"),
        ({"metadata": without("split", "seed")}, ValueError, "`metadata` lacks `split.seed`"),
        (
            {"metadata": {**METADATA, "epochs": "3"}},
            ValueError,
            "`metadata` has a `epochs` of the wrong type. Received: '3'",
        ),
        ({"metadata": {**METADATA, "more": object()}}, TypeError, "not JSON serializable"),
        ({"metadata": {**METADATA, "more": np.nan}}, ValueError, "not JSON compliant"),
        (
            {"metadata": {**METADATA, "class_names": CLASS_NAMES[:9]}},
            ValueError,
            r"one logit a class \(None, 9\). Received: .* to \(None, 10\)",
        ),
        ({"test_names": TEST_NAMES[:2]}, ValueError, "scores of 3 test tiles, .* 2 test names"),
        ({"temperature": 0.0}, ValueError, "`temperature` must be a positive number. Received: 0"),
    ],
)
def test_save_refuses_what_does_not_fit_and_writes_nothing(
    model, tmp_path, changes, error, message
):
    with pytest.raises(error, match=message):
        save(model, tmp_path / "models" / "my_model", **changes)
    assert list(tmp_path.iterdir()) == []


def test_save_refuses_a_model_of_another_input_size(tmp_path):
    inputs = keras.Input((32, 32, 3))
    model = keras.Model(inputs, layers.Dense(10)(layers.Flatten()(inputs)))
    with pytest.raises(ValueError, match=r"Received: \(None, 32, 32, 3\) to \(None, 10\)"):
        save(model, tmp_path / "my_model")


def test_save_never_replaces_a_folder_that_is_no_saved_model(model, tmp_path):
    (tmp_path / "thesis.txt").write_text("ten years of work")
    with pytest.raises(FileExistsError, match="exists and is no saved model"):
        save(model, tmp_path)
    assert content(tmp_path) == {"thesis.txt": b"ten years of work"}


# --- loading what is not whole ---


def test_missing_folder_names_the_models_beside_it(saved):
    with pytest.raises(FileNotFoundError, match=r"there are: my_model\. Run training\.ipynb"):
        artifact.load(saved.parent / "other")


@pytest.mark.parametrize("name", artifact.FILES)
def test_missing_file_is_named(copy, name):
    (copy / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"not complete: {name} is missing"):
        artifact.load(copy)


@pytest.mark.parametrize(
    "name",
    ["saved_model.pb", "variables/variables.index", "variables/variables.data-00000-of-00001"],
)
@pytest.mark.parametrize("kept", [0, 0.5])
def test_truncated_saved_model_is_one_clear_error(copy, name, kept):
    whole = (copy / name).read_bytes()
    (copy / name).write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(ValueError, match=r"SavedModel in `.*my_model` is damaged.*copy it again"):
        artifact.load(copy)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"metadata\.json` is damaged"),
        ('{"class_names": ["For', r"metadata\.json` is damaged"),
        (b"\xff\xfe", r"metadata\.json` is damaged"),
        ("[" * 100_000, r"metadata\.json` is damaged"),
        ("[]", r"metadata\.json` lacks `class_names`"),
        (json.dumps(without("scores", "test")), r"metadata\.json` lacks `scores\.test\.tiles`"),
        (json.dumps(METADATA), r"metadata\.json` lacks `image_size`"),
    ],
)
def test_damaged_metadata_names_file_and_key(copy, text, message):
    (copy / "metadata.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=message):
        artifact.load(copy)


@pytest.mark.parametrize(
    ("class_names", "message"),
    [
        (CLASS_NAMES[:9], "names 9 classes, but the SavedModel has 10 outputs"),
        ([], r"needs names in `class_names`. Received: \[\]"),
        ([1, 2], r"needs names in `class_names`. Received: \[1, 2\]"),
        ("Forest", "`class_names` of the wrong type. Received: 'Forest'"),
    ],
)
def test_class_names_that_do_not_fit_the_model_are_refused(copy, class_names, message):
    metadata = json.loads((copy / "metadata.json").read_text(encoding="utf-8"))
    (copy / "metadata.json").write_text(json.dumps({**metadata, "class_names": class_names}))
    with pytest.raises(ValueError, match=message):
        artifact.load(copy)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (b"Forest/Forest_1.jpg\n", r"scores of 3 test tiles, but there are 1 test names"),
        (b"\xff\xfe", r"test_files\.txt` is damaged"),
    ],
)
def test_damaged_test_files_are_named(copy, lines, message):
    (copy / "test_files.txt").write_bytes(lines)
    with pytest.raises(ValueError, match=message):
        artifact.load(copy)


def test_card_tells_data_accuracy_and_cost_in_short_lines(classifier):
    card = classifier.card()
    assert card.columns.tolist() == ["my_model"]
    facts = card["my_model"]
    assert facts["data"] == "demo tiles"
    assert facts["test accuracy"] == "98.50% of 3 tiles"
    assert facts["95% interval"] == "98.00% to 99.00%"
    assert facts["training"] == "3 epochs, 1.5 minutes"
    assert facts.str.len().max() <= 50  # where pandas would cut them


# --- choosing a model, saving predictions ---


@pytest.mark.parametrize(
    ("present", "demo", "chosen"),
    [
        (["demo", "my_model", "eurosat_cnn"], True, "demo"),
        (["demo", "my_model", "eurosat_cnn"], False, "my_model"),
        (["demo", "eurosat_cnn"], False, "eurosat_cnn"),
    ],
)
def test_default_directory_prefers_the_model_trained_here(tmp_path, present, demo, chosen):
    for name in present:
        (tmp_path / name).mkdir()
    assert artifact.default_directory(demo=demo, root=tmp_path) == tmp_path / chosen


@pytest.mark.parametrize(
    ("demo", "message"), [(True, "model demo in"), (False, "my_model or eurosat_cnn in")]
)
def test_default_directory_without_a_model_says_to_train(tmp_path, demo, message):
    (tmp_path / ("my_model" if demo else "demo")).mkdir()
    with pytest.raises(FileNotFoundError, match=rf"{message} .* Run training\.ipynb first"):
        artifact.default_directory(demo=demo, root=tmp_path)


def test_predictions_table_has_one_row_a_tile():
    table = artifact.predictions_table(
        ["a.jpg", "b.jpg"],
        ["River", "River"],
        np.array([[0.9, 0.1], [0.2, 0.8]]),
        ["Forest", "River"],
    )
    assert table.to_dict("list") == {
        "file": ["a.jpg", "b.jpg"],
        "truth": ["River", "River"],
        "prediction": ["Forest", "River"],
        "confidence": [0.9, 0.8],
        "Forest": [0.9, 0.2],
        "River": [0.1, 0.8],
    }


def test_predictions_table_leaves_an_unknown_truth_empty():
    table = artifact.predictions_table(["a.jpg"], None, [[0.9, 0.1]], ["Forest", "River"])
    assert table["truth"].tolist() == [""]


@pytest.mark.parametrize(
    ("names", "truth", "columns"),
    [(["a", "b"], ["River"], 2), (["a"], ["River"] * 2, 2), (["a"], ["River"], 3), ("ab", None, 2)],
)
def test_predictions_table_refuses_lengths_that_differ(names, truth, columns):
    with pytest.raises(ValueError, match=r"`probabilities` must have shape .* and `truth` "):
        artifact.predictions_table(names, truth, np.full((1, columns), 0.5), ["Forest", "River"])


def test_save_results_writes_table_and_picture(tmp_path):
    table = artifact.predictions_table(["é.jpg"], ["Forest"], [[0.75, 0.25]], ["Forest", "River"])
    csv, png = artifact.save_results(table, Figure((2, 1)), tmp_path / "new" / "results")
    pd.testing.assert_frame_equal(pd.read_csv(csv), table)
    with Image.open(png) as picture:
        assert picture.size == (300, 150)
    assert sorted(path.name for path in csv.parent.iterdir()) == [
        "predictions.csv",
        "predictions.png",
    ]


def test_save_results_that_fail_leave_the_old_ones(tmp_path):
    table = artifact.predictions_table(["a.jpg"], ["Forest"], [[0.75, 0.25]], ["Forest", "River"])
    artifact.save_results(table, Figure((2, 1)), tmp_path)
    before = content(tmp_path)
    broken = Figure((2, 1))
    broken.suptitle("$\\unknown$")  # no such symbol: drawing fails after the table is written
    with pytest.raises(ValueError, match="unknown"):
        artifact.save_results(table[:0], broken, tmp_path)
    assert content(tmp_path) == before
