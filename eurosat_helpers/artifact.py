"""Save a trained model as one folder, load it with TensorFlow alone, predict, save predictions.

The folder holds a SavedModel and what it takes to trust and repeat it:

* `saved_model.pb`, `variables/`: the endpoints `serve` (also `serving_default`), float32 `images`
  `(N, 64, 64, 3)` in 0-255 -> `probabilities` `(N, C)`; and `serve_jpeg`, string `(N,)` of encoded
  JPEG or PNG images -> `label`, `confidence` and `probabilities`.
* `metadata.json`: classes, data, split, scores, cost, versions.
* `test_files.txt`: the names of the test tiles, one a line. `history.csv`: one row an epoch.
* `model.keras`: the Keras model, pixels -> logits, to go on training.
"""

from __future__ import annotations

import datetime
import json
import platform
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from matplotlib.figure import Figure

from eurosat_helpers import export, files
from eurosat_helpers.classifier import IMAGE_SHAPE, Classifier

FILES = (
    "saved_model.pb",
    "variables/variables.index",
    "variables/variables.data-00000-of-00001",
    "metadata.json",
    "test_files.txt",
    "history.csv",
    "model.keras",
)

# What `metadata` must hold, and of which type; a dot leads into a nested table.
METADATA = {
    "class_names": (list, tuple),
    "data_source": str,
    "split.seed": object,
    "split.validation_fraction": object,
    "split.test_fraction": object,
    "scores.validation.tiles": int,
    "scores.validation.accuracy": Real,
    "scores.test.tiles": int,
    "scores.test.accuracy": Real,
    "scores.test.accuracy_low": Real,
    "scores.test.accuracy_high": Real,
    "scores.test.calibration_error": Real,
    "epochs": int,
    "seconds": Real,
    "hardware": str,
}

ADDED_METADATA = {
    "image_size": int,
    "input_range": list,
    "parameters": int,
    "temperature": Real,
    "versions.tensorflow": str,
    "date": str,
}


def save(
    model: keras.Model,
    directory: str | Path,
    *,
    metadata: Mapping[str, object],
    history: pd.DataFrame,
    test_names: Iterable[str],
    temperature: float = 1.0,
) -> Path:
    """Write the model and its record as one folder, whole or not at all.

    Everything is written beside `directory` first and renamed when complete. A saved model that
    was there is replaced; any other folder is an error.

    Args:
        model: Keras model, raw pixels `(N, 64, 64, 3)` in 0-255 -> logits `(N, C)`.
        directory: Folder to write.
        metadata: The entries of `METADATA`, and any more that JSON can hold. What the model and
            the machine can tell is added (`ADDED_METADATA`).
        history: One row an epoch.
        test_names: Names of the test tiles, `Class/Class_N.jpg`.
        temperature: Divides the logits before the softmax (see `evaluation.fit_temperature`).

    Returns:
        The folder.

    Raises:
        ValueError: If `metadata` lacks an entry, or does not fit the model or `test_names`.
        FileExistsError: If `directory` holds something else than a saved model.
    """
    directory, test_names = Path(directory), tuple(test_names)
    if not 0 < temperature < np.inf:
        raise ValueError(f"`temperature` must be a positive number. Received: {temperature}")
    metadata = {
        **metadata,
        "image_size": IMAGE_SHAPE[0],
        "input_range": [0, 255],
        "parameters": model.count_params(),
        "temperature": float(temperature),
        "versions": {
            "python": platform.python_version(),
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
            "numpy": np.__version__,
        },
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }
    _check_metadata("`metadata`", metadata, test_names)
    text = json.dumps(metadata, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    expected = (None, *IMAGE_SHAPE), (None, len(metadata["class_names"]))
    if (model.input_shape, model.output_shape) != expected:
        raise ValueError(
            f"`model` must map images {expected[0]} to one logit a class {expected[1]}. "
            f"Received: {model.input_shape} to {model.output_shape}"
        )
    ours = not directory.exists() or any((directory / name).is_file() for name in FILES)
    if not ours and not (directory.is_dir() and not any(directory.iterdir())):
        raise FileExistsError(
            f"`{directory}` exists and is no saved model: choose another name or remove it."
        )

    directory.parent.mkdir(parents=True, exist_ok=True)
    with files.locked(_beside(directory, "lock")):
        _recover(directory)
        new = _beside(directory, "new")
        shutil.rmtree(new, ignore_errors=True)  # left by a process that was killed
        try:
            with files.named(directory):
                export._export(model, new, metadata["class_names"], temperature)
                # A model that was never compiled: the optimizer's state would triple the file.
                keras.Model(model.input, model.output, name=model.name).save(new / "model.keras")
                (new / "metadata.json").write_text(text, encoding="utf-8")
                lines = "".join(f"{name}\n" for name in test_names)
                (new / "test_files.txt").write_text(lines, encoding="utf-8")
                history.to_csv(new / "history.csv", index=False)
                _replace(directory, new)
        finally:
            shutil.rmtree(new, ignore_errors=True)
    return directory


def load(directory: str | Path) -> Classifier:
    """Load a saved model, with TensorFlow alone.

    Args:
        directory: A folder written by `save`.

    Returns:
        The classifier.

    Raises:
        FileNotFoundError: If the folder or one of its files is missing.
        ValueError: If a file is damaged, or the files do not fit together.
    """
    directory = Path(directory)
    if not directory.is_dir() and _beside(directory, "old").is_dir():
        with files.locked(_beside(directory, "lock")):  # may be replacing it
            _recover(directory)
    if not directory.is_dir():
        beside = sorted(path.parent.name for path in directory.parent.glob("*/saved_model.pb"))
        raise FileNotFoundError(
            f"No saved model in `{directory}`. In `{directory.parent}` there are: "
            f"{', '.join(beside) or 'none'}. Run training.ipynb to save one."
        )
    missing = [name for name in FILES if not (directory / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"The saved model `{directory}` is not complete: {', '.join(missing)} is missing. "
            "Run training.ipynb to save it again."
        )
    try:
        test_names = (directory / "test_files.txt").read_text(encoding="utf-8").splitlines()
    except ValueError as error:
        raise ValueError(f"`{directory / 'test_files.txt'}` is damaged: {error}") from error
    try:
        metadata = json.loads((directory / "metadata.json").read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"`{directory / 'metadata.json'}` is damaged: {error}") from error
    _check_metadata(f"`{directory / 'metadata.json'}`", metadata, test_names)
    try:
        served = tf.saved_model.load(str(directory))
        outputs = served.signatures["serving_default"].structured_outputs["probabilities"].shape[1]
    except Exception as error:  # a damaged file fails anywhere in TensorFlow's reader
        raise ValueError(
            f"The SavedModel in `{directory}` is damaged (saved_model.pb or variables/): copy it "
            f"again or run training.ipynb to save it again. TensorFlow says: {error}"
        ) from error
    if outputs != len(metadata["class_names"]):
        raise ValueError(
            f"`{directory / 'metadata.json'}` names {len(metadata['class_names'])} classes, but "
            f"the SavedModel has {outputs} outputs: they come from different models."
        )
    return Classifier(directory, metadata, tuple(test_names), served)


def default_directory(*, demo: bool, root: str | Path = "saved_model") -> Path:
    """Choose the saved model: one trained here before the shipped one.

    Args:
        demo: Whether the tiles are demo tiles, which have a model of their own.
        root: Folder that holds the saved models.

    Returns:
        Under `root`, `demo` for demo tiles; else `my_model`, or `eurosat_cnn` where there is none.

    Raises:
        FileNotFoundError: If there is no such model.
    """
    names = ("demo",) if demo else ("my_model", "eurosat_cnn")
    for name in names:
        directory = Path(root) / name
        if directory.is_dir() or _beside(directory, "old").is_dir():
            return directory
    raise FileNotFoundError(
        f"No saved model {' or '.join(names)} in `{root}`. Run training.ipynb first."
    )


def save_results(
    table: pd.DataFrame, figure: Figure, directory: str | Path = "results"
) -> tuple[Path, Path]:
    """Write predictions as a table and as a picture.

    Both are written under temporary names first, and renamed when both are complete.

    Args:
        table: See `predictions_table`.
        figure: See `plots.prediction_grid`.
        directory: Folder for `predictions.csv` and `predictions.png`; made when missing.

    Returns:
        The paths of the two files.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    with (
        files.named(directory),
        tempfile.TemporaryDirectory(prefix=".results-", dir=directory) as scratch,
    ):
        csv, png = Path(scratch) / "predictions.csv", Path(scratch) / "predictions.png"
        table.to_csv(csv, index=False, float_format="%.6f")
        figure.savefig(png, dpi=150)
        return csv.replace(directory / csv.name), png.replace(directory / png.name)


def _beside(directory: Path, kind: str) -> Path:
    return directory.with_name(f".{directory.name}.{kind}")


def _replace(directory: Path, new: Path) -> None:
    """Rename `new` to `directory`; what was there comes back if that fails or is cut off."""
    if directory.exists():
        directory.rename(_beside(directory, "old"))
    try:
        new.rename(directory)
    finally:
        _recover(directory)


def _recover(directory: Path) -> None:
    """Put back what a process moved away that could not put the new in its place."""
    old = _beside(directory, "old")
    if old.exists() and not directory.exists():
        old.rename(directory)
    shutil.rmtree(old, ignore_errors=True)


def _check_metadata(name: str, metadata: object, test_names: Sequence[str]) -> None:
    for key, kind in {**METADATA, **ADDED_METADATA}.items():
        value = metadata
        for part in key.split("."):
            if not isinstance(value, Mapping) or part not in value:
                raise ValueError(f"{name} lacks `{key}`.")
            value = value[part]
        if not isinstance(value, kind):
            raise ValueError(f"{name} has a `{key}` of the wrong type. Received: {value!r}")
    class_names = metadata["class_names"]
    if not class_names or not all(isinstance(entry, str) for entry in class_names):
        raise ValueError(f"{name} needs names in `class_names`. Received: {class_names!r}")
    tiles = metadata["scores"]["test"]["tiles"]
    if tiles != len(test_names):
        raise ValueError(
            f"{name} has scores of {tiles} test tiles, but there are {len(test_names)} test names."
        )
