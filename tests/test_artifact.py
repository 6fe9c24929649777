"""The saved folder: what it promises to plain TensorFlow, and what it says to bad input."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import nbformat
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from conftest import PROJECT
from keras import layers
from matplotlib.figure import Figure
from PIL import Image

from eurosat_helpers import artifact, data, evaluation, files, record

TEMPERATURE = 1.7
TEST_NAMES = ("Forest/Forest_1.jpg", "River/River_2.jpg", "SeaLake/SeaLake_3.jpg")
SCORES = {"tiles": 3, "accuracy": 0.985, "accuracy_low": 0.98, "accuracy_high": 0.99}
SCORES |= {"calibration_error": 0.0042}
HISTORY = pd.DataFrame({"epoch": [1, 2, 3], "loss": [1.5, 1.0, 0.75], "seconds": [30.0] * 3})
SPLIT = {"seed": 0, "validation_fraction": 0.08, "test_fraction": 0.2}
RECORD = {
    "parameters": {"model_name": "my_model", "split": SPLIT, "seed": 1},
    "scores": {"validation": SCORES, "test": SCORES},
    "history": HISTORY,
    "temperature": TEMPERATURE,
    "confidence_threshold": {"threshold": 0.9, "accuracy": 0.995, "coverage": 0.8},
    "unfamiliarity_threshold": {"threshold": 12.5, "clean": 0.03, "changed": 0.04},
}
PARAMETERS = {
    "data_dir": "my tiles/é",
    "class_names": ["Urban", "it's Water", "2750"],
    "model_name": "1e3",  # a text, not a number
    "note": '--None $HOME `"\\',
    "split": {"seed": 0, "validation_fraction": 1e-05, "test_fraction": 0.2, "places": None},
    "seed": 1,
    "learning_rate": 1e-05,
    "negative": -3,
    "balanced": False,
    "nothing": None,
    "empty": "",
}
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


def some_tiles(names: tuple[str, ...] = TEST_NAMES, classes: int = 10) -> data.Tiles:
    """Test tiles of some names, whose pixels nobody asks for."""
    class_names = data.CLASS_NAMES[:classes]
    labels = np.zeros(len(names), "int64")
    return data.Tiles(
        np.zeros((len(names), 64, 64, 3), "uint8"),
        labels,
        np.array(names),
        class_names,
        "demo tiles",
    )


def save(model: keras.Model, directory: Path, **changes: object) -> Path:
    detector = keras.Model(model.input, keras.ops.mean(model.input, axis=(1, 2, 3)))
    given = {"test": some_tiles(), "detector": detector, **RECORD}
    return artifact.save(model, directory, **{**given, **changes})


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
        assert out["label"].tolist() == [data.CLASS_NAMES[wanted[0].argmax()].encode()]


def test_folder_holds_the_record_of_the_run(model, tmp_path, capfd):
    saved = save(model, tmp_path / "my_model")
    assert capfd.readouterr() == ("", "")
    assert set(record.FILES) <= set(content(saved))
    metadata = json.loads((saved / "metadata.json").read_text(encoding="utf-8"))
    for key in ("scores", "temperature", "confidence_threshold"):
        assert metadata[key] == RECORD[key]
    assert metadata["class_names"] == list(data.CLASS_NAMES)
    assert metadata["data_source"] == "demo tiles"
    assert metadata["split"] == SPLIT
    assert (metadata["epochs"], metadata["seconds"]) == (3, 90)
    assert metadata["parameters"] == model.count_params()
    assert metadata["versions"]["tensorflow"] == tf.__version__
    assert set(metadata["versions"]) == {"python", "tensorflow", "keras", "numpy"}
    command = "papermill training.ipynb results/training.ipynb -y '{model_name: my_model, split: {"
    assert metadata["command"].startswith(command)
    assert metadata.keys() == shipped_metadata().keys()
    assert (saved / "test_files.txt").read_text(encoding="utf-8").split() == list(TEST_NAMES)
    pd.testing.assert_frame_equal(pd.read_csv(saved / "history.csv"), HISTORY)


def shipped_metadata() -> dict:
    return json.loads((PROJECT / "saved_model/eurosat_cnn/metadata.json").read_text("utf-8"))


def test_command_gives_papermill_the_same_parameters(model, tmp_path):
    cell = nbformat.v4.new_code_cell("seed = 0", metadata={"tags": ["parameters"]})
    kernel = {"kernelspec": {"name": "python3", "language": "python", "display_name": "Python"}}
    notebook = nbformat.v4.new_notebook(cells=[cell], metadata=kernel)
    nbformat.write(notebook, tmp_path / "training.ipynb")
    (tmp_path / "results").mkdir()
    saved = save(model, tmp_path / "my_model", parameters=PARAMETERS)
    command = json.loads((saved / "metadata.json").read_text("utf-8"))["command"]
    program, rest = command.split(" ", 1)
    assert program == "papermill"
    # A shell takes the command apart; papermill only prepares the notebook, without a kernel.
    run = subprocess.run(
        f"'{sys.executable}' -m papermill {rest} --prepare-only",
        shell=True,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    cells = nbformat.read(tmp_path / "results" / "training.ipynb", as_version=4).cells
    injected = [cell for cell in cells if "injected-parameters" in cell.metadata.get("tags", [])]
    received = {}
    exec("\n".join(cell.source for cell in injected), received)
    received.pop("__builtins__")
    assert received == PARAMETERS
    assert [type(received[name]) for name in PARAMETERS] == list(map(type, PARAMETERS.values()))


def test_model_is_saved_below_home(model, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert save(model, "~/other/model") == tmp_path / "other" / "model"


def test_parameters_may_be_paths_and_numbers_of_numpy(model, tmp_path):
    given = {"data_dir": Path("tiles"), "seed": np.int64(3), "widths": np.array([8, 8])}
    parameters = {**RECORD["parameters"], **given}
    command = json.loads(
        (save(model, tmp_path / "new", parameters=parameters) / "metadata.json").read_text()
    )["command"]
    assert "data_dir: tiles" in command
    assert "seed: 3" in command
    assert "widths: [8, 8]" in command


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


def test_saving_again_replaces_the_folder_and_leaves_nothing_beside(copy, tmp_path):
    for left in (".my_model.saving", ".my_model.replaced"):  # by processes that were killed
        (tmp_path / left).mkdir()
        (tmp_path / left / "half").touch()
    save(build_model(2), copy, test=some_tiles(classes=2))
    assert artifact.load(copy).predict(IMAGES).shape == (5, 2)
    assert {path.name for path in tmp_path.iterdir()} == {"my_model", ".my_model.lock"}


def test_save_that_fails_halfway_leaves_the_old_folder(copy, model):
    before = {**content(copy.parent), ".my_model.lock": b""}
    # Half of a surrogate pair cannot be written as UTF-8; by then the export is complete.
    names = (*TEST_NAMES[:2], "\ud800.jpg")
    with pytest.raises(UnicodeEncodeError):
        save(model, copy, test=some_tiles(names))
    assert content(copy.parent) == before


def test_names_of_test_tiles_may_be_any_bytes_of_one_line(model, tmp_path):
    names = (TEST_NAMES[0], "Forest/a\u2028b\x85 .jpg", "Forest/For\udceat.jpg")
    tiles = some_tiles(names)
    saved = save(model, tmp_path / "odd", test=tiles)
    assert artifact.load(saved).test_names == names
    for known in (artifact.load(saved).test_names, saved / "test_files.txt"):
        assert tuple(data.select(tiles, known).names) == names
    with pytest.raises(ValueError, match=r"one line each. Received: 'a\\nb.jpg'"):
        save(model, tmp_path / "new", test=some_tiles((*TEST_NAMES[:2], "a\nb.jpg")))


def test_model_is_found_by_link_by_dot_and_below_home(copy, tmp_path, monkeypatch):
    (tmp_path / "latest").symlink_to(copy)
    locked, real = [], files._held
    monkeypatch.setattr(files, "_held", lambda folder: locked.append(folder) or real(folder))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(copy)
    for folder in (tmp_path / "latest", ".", f"~/{copy.name}"):
        assert artifact.load(folder).test_names
    assert locked == [copy] * 3
    before = sorted(tmp_path.iterdir())
    with pytest.raises(FileNotFoundError, match=r"not a complete saved model"):
        artifact.load(tmp_path / "misspelt")
    assert sorted(tmp_path.iterdir()) == before


def test_model_that_is_replaced_meanwhile_is_not_believed(copy, model, monkeypatch):
    def read_only(file: Path) -> None:
        raise PermissionError(f"read-only: {file}")

    real = tf.saved_model.load

    def slow(folder: str) -> object:
        monkeypatch.undo()
        save(model, copy, temperature=1.5)
        return real(folder)

    monkeypatch.setattr(files, "FileLock", read_only)
    monkeypatch.setattr(tf.saved_model, "load", slow)
    with pytest.raises(ValueError, match=r"was replaced while it was read: load it again"):
        artifact.load(copy)


def test_save_that_cannot_be_renamed_puts_the_old_folder_back(copy, model, monkeypatch):
    before = {**content(copy.parent), ".my_model.lock": b""}
    rename = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if self.name == ".my_model.saving":
            raise PermissionError("in use")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(OSError, match=r"Could not write `.*my_model`; .* in use"):
        save(model, copy)
    assert content(copy.parent) == before


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"parameters": {}}, ValueError, "`split` is missing"),
        ({"scores": {"test": SCORES}}, ValueError, r"`scores\.validation\.tiles` is missing"),
        ({"confidence_threshold": {}}, ValueError, r"`confidence_threshold\.threshold` is missing"),
        ({"history": HISTORY[["epoch"]]}, ValueError, "column `seconds`. Received: .'epoch'"),
        ({"temperature": 0.0}, ValueError, "`temperature` must be a positive number. Received: 0"),
        ({"temperature": np.nan}, ValueError, "`temperature` must be a positive number"),
        ({"test": some_tiles(TEST_NAMES[:2])}, ValueError, "of 3 test tiles, but 2 are named"),
        ({"test": some_tiles(classes=9)}, ValueError, r"\(None, 9\)\)\. Received: .*\(None, 10\)"),
        ({"scores": {**RECORD["scores"], "more": object()}}, TypeError, "not JSON serializable"),
        ({"scores": {**RECORD["scores"], "more": np.nan}}, ValueError, "not JSON compliant"),
    ],
)
def test_save_refuses_what_does_not_fit_and_writes_nothing(
    model, tmp_path, changes, error, message
):
    with pytest.raises(error, match=message):
        save(model, tmp_path / "models" / "my_model", **changes)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("threshold", ["confidence_threshold", "unfamiliarity_threshold"])
def test_save_needs_the_thresholds(model, tmp_path, threshold):
    without = {name: value for name, value in RECORD.items() if name != threshold}
    with pytest.raises(TypeError, match=threshold):
        artifact.save(model, tmp_path / "my_model", test=some_tiles(), **without)


def test_save_refuses_a_model_of_another_input_size(tmp_path):
    inputs = keras.Input((32, 32, 3))
    model = keras.Model(inputs, layers.Dense(10)(layers.Flatten()(inputs)))
    with pytest.raises(ValueError, match=r"Received: \(\(None, 32, 32, 3\), \(None, 10\)\)"):
        save(model, tmp_path / "my_model")


def test_save_replaces_no_folder_with_the_work_of_others(model, copy, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "metadata.json").write_text('{"title": "my thesis"}')
    for folder in (tmp_path / "thesis", copy):
        (folder / "thesis.txt").write_text("ten years of work")
        before = content(folder)
        with pytest.raises(FileExistsError, match=r"holds thesis\.txt\. Save under another name"):
            save(model, folder)
        assert content(folder) == before


def test_nothing_beside_a_folder_that_is_no_model_is_removed(tmp_path, model):
    for folder in ("photos", ".photos.replaced", ".photos.saving"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "thesis.txt").write_text("ten years of work")
    with pytest.raises(FileNotFoundError):
        artifact.load(tmp_path / "photos")
    with pytest.raises(FileExistsError):
        save(model, tmp_path / "photos")
    assert len(list(tmp_path.rglob("thesis.txt"))) == 3


def test_folder_that_is_filled_during_the_export_is_not_replaced(model, copy, monkeypatch):
    written = artifact.export.write

    def slowly(*arguments: object, **settings: object) -> None:
        written(*arguments, **settings)
        (copy / "thesis.txt").write_text("ten years of work")

    monkeypatch.setattr(artifact.export, "write", slowly)
    with pytest.raises(OSError, match=r"holds thesis\.txt"):
        save(model, copy)
    assert (copy / "thesis.txt").read_text() == "ten years of work"
    assert artifact.load(copy).predict(IMAGES).shape == (5, 10)


# --- loading what is not complete ---


def test_truncated_saved_model_is_one_clear_error(copy):
    for name in record.FILES[:3]:  # the graph and its weights
        complete = (copy / name).read_bytes()
        for kept in (0, len(complete) // 2):
            (copy / name).write_bytes(complete[:kept])
            with pytest.raises(ValueError, match=r"in `.*my_model` is damaged.*copy it again"):
                artifact.load(copy)
        (copy / name).write_bytes(complete)
    assert artifact.load(copy).class_names == data.CLASS_NAMES


def test_graph_of_other_classes_is_an_error(copy):
    metadata = json.loads((copy / "metadata.json").read_text(encoding="utf-8"))
    metadata["class_names"].pop()
    (copy / "metadata.json").write_text(json.dumps(metadata))
    with pytest.raises(ValueError, match=r"copy it again .* 10 outputs, unlike metadata\.json"):
        artifact.load(copy)


def test_missing_folder_is_an_error_that_says_to_train(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"not a complete .* missing\. Run training\.ipynb"):
        artifact.load(tmp_path / "nowhere" / "my_model")
    with pytest.raises(ValueError, match="`directory` or `tiles` must be given"):
        artifact.load()


def test_model_in_a_folder_that_cannot_be_written_is_loaded(copy, monkeypatch):
    def read_only(file: Path) -> None:
        raise PermissionError(f"read-only: {file}")  # the tests may run as root, who may write

    monkeypatch.setattr(files, "FileLock", read_only)
    assert artifact.load(copy).predict(IMAGES).shape == (5, 10)


def test_model_that_a_killed_process_moved_away_is_found(copy, tmp_path):
    for choice in ({"directory": copy}, {"tiles": some_tiles(), "root": tmp_path}):
        copy.rename(tmp_path / ".my_model.replaced")
        assert artifact.load(**choice).directory == copy


def test_model_that_fits_the_tiles_is_loaded(model, tmp_path, capsys):
    root, tiles = tmp_path / "models", some_tiles()
    shipped, own = save(model, root / "eurosat_cnn"), save(model, root / "own")
    assert artifact.load(tiles=tiles, root=root).directory == own
    assert capsys.readouterr().out == ""
    save(build_model(2), own, test=some_tiles(classes=2))
    assert artifact.load(tiles=tiles, root=root).directory == shipped
    assert capsys.readouterr().out == f"Not used: `{own}` has classes AnnualCrop, Forest.\n"
    with pytest.raises(ValueError, match=r"No saved model fits .*own` has classes AnnualCrop, For"):
        artifact.load(own, tiles=tiles)
    assert artifact.load(own).class_names == ("AnnualCrop", "Forest")


def test_card_tells_data_accuracy_and_cost_in_short_lines(classifier):
    card = classifier.card()
    assert card.columns.tolist() == ["my_model"]
    facts = card["my_model"]
    assert facts["data"] == "demo tiles"
    assert facts["test accuracy"] == "98.50% of 3 tiles"
    assert facts["95% interval"] == "98.00% to 99.00%"
    assert f"{facts['hardware']}, {facts['precision']}" == classifier.metadata["hardware"]
    assert facts["training"] == "3 epochs, 1.5 minutes"
    limits = classifier.metadata
    confidence, distance = limits["confidence_threshold"], limits["unfamiliarity_threshold"]
    assert facts["unsure"] == f"confidence below {confidence['threshold']:.3f}"
    assert facts["unfamiliar"] == f"above {distance['threshold']:.2f}"
    assert facts.str.len().max() <= 50  # where pandas would cut them
    assert "new places, another model" not in facts
    changes = {name: {"accuracy": share} for name, share in (("jpeg", 0.8), ("shadow", 0.9))}
    for tiles, shown in (({}, "85.00%"), ({"tiles": 500}, "85.00% of 500 tiles")):
        scores = classifier.metadata["scores"] | {"new_places": {"accuracy": 0.92, "tiles": 5400}}
        scores["corrupted"] = {"unchanged": {"accuracy": 0.95, **tiles}, **changes}
        metadata = classifier.metadata | {"scores": scores}
        facts = dataclasses.replace(classifier, metadata=metadata).card()["my_model"]
        assert facts["new places, another model"] == "92.00% of 5,400 tiles"
        assert facts["changed tiles"] == f"{shown}, mean of 2 changes"


def test_save_results_finds_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    csv, _ = artifact.save_results(pd.DataFrame({"a": [1]}), Figure((2, 1)), "~/results")
    assert csv == tmp_path / "results" / "predictions.csv"
    assert csv.is_file()


def test_save_results_writes_table_and_picture(tmp_path):
    tables = [
        evaluation.predictions_table([name], ["Forest"], [[0.75, 0.25]], ["Forest", "River"])
        for name in ("a.jpg", "é.jpg")
    ]
    for table in tables:  # the second replaces the first
        csv, png = artifact.save_results(table, Figure((2, 1)), tmp_path / "new" / "results")
        pd.testing.assert_frame_equal(pd.read_csv(csv), table)
    with Image.open(png) as picture:
        assert picture.size == (300, 150)
    assert sorted(path.name for path in csv.parent.iterdir()) == [
        ".lock",
        "predictions.csv",
        "predictions.png",
    ]
    before = content(csv.parent)
    broken = Figure((2, 1))
    broken.suptitle("$\\unknown$")  # no such symbol: drawing fails
    with pytest.raises(ValueError, match="unknown"):
        artifact.save_results(tables[0], broken, csv.parent)
    assert content(csv.parent) == before
