"""Save a trained model with its record as one folder, and load it with TensorFlow alone.

The folder holds a SavedModel (see `export.write`), `metadata.json` (classes, data, scores, cost,
command), `test_files.txt` (names of the test tiles, one per line), `history.csv` (one row per
epoch) and `model.keras` (the Keras model, pixels -> logits, for further training).
"""

from __future__ import annotations

import contextlib
import datetime
import io
import json
import platform
import shlex
from collections.abc import Mapping
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import tensorflow as tf
import yaml
from matplotlib.figure import Figure

from eurosat_helpers import devices, export, files, record
from eurosat_helpers.classifier import IMAGE_SHAPE, Classifier
from eurosat_helpers.data import Tiles


def save(
    model: keras.Model,
    directory: str | Path,
    *,
    test: Tiles,
    parameters: Mapping[str, object],
    scores: Mapping[str, Mapping[str, float]],
    history: pd.DataFrame,
    temperature: float,
    confidence_threshold: Mapping[str, float | None],
    detector: keras.Model,
    unfamiliarity_threshold: Mapping[str, float],
) -> Path:
    """Write the model and its record as one folder, completely or not at all; return the folder.

    A complete saved model of this project is replaced, and nothing else is.

    Args:
        model: Keras model, raw pixels `(N, 64, 64, 3)` in 0-255 -> logits `(N, C)`.
        directory: Such as `saved_model/my_model`.
        test: The test tiles.
        parameters: All parameters of training.ipynb, `split` among them, for `command`.
        scores: `evaluation.scores` of "validation" and "test", and any more.
        history: One row per epoch, with its `seconds`.
        temperature: Divides the logits before the softmax (see `calibration.fit_temperature`).
        confidence_threshold: See `calibration.confidence_threshold`.
        detector: Pixels -> unfamiliarity `(N,)`, see `outliers.fit`.
        unfamiliarity_threshold: See `outliers.threshold`.

    Raises:
        ValueError: If an argument lacks an entry, or the arguments do not fit together.
        FileExistsError: If `directory` is anything else than a complete saved model.
        OSError: If it cannot be written, for example because the disk is full.
    """
    directory, parameters = Path(directory).expanduser(), record._plain(parameters)
    if "seconds" not in history:
        raise ValueError(f"`history` must have the column `seconds`. Received: {list(history)}")
    if not 0 < temperature < np.inf:
        raise ValueError(f"`temperature` must be a positive number. Received: {temperature}")
    shapes = model.input_shape, model.output_shape
    if shapes != (expected := ((None, *IMAGE_SHAPE), (None, len(test.class_names)))):
        raise ValueError(f"`model` must map pixels to logits, {expected}. Received: {shapes}")
    style = {"width": np.inf, "allow_unicode": True, "sort_keys": False}
    settings = yaml.safe_dump(parameters, default_flow_style=True, **style).strip()
    metadata = {
        "class_names": list(test.class_names),
        "data_source": test.source,
        "split": parameters.get("split"),
        "scores": scores,
        "confidence_threshold": confidence_threshold,
        "unfamiliarity_threshold": unfamiliarity_threshold,
        "epochs": len(history),
        "seconds": round(float(history["seconds"].sum()), 1),
        "hardware": f"{devices.hardware()}, {devices.precision()}",
        "command": f"papermill training.ipynb results/training.ipynb -y {shlex.quote(settings)}",
        "image_size": IMAGE_SHAPE[0],
        "input_range": [0, 255],
        "parameters": model.count_params(),
        "temperature": float(temperature),
        "versions": {"python": platform.python_version()}
        | {module.__name__: module.__version__ for module in (tf, keras, np)},
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }
    record.check(metadata, test.names)
    text = json.dumps(metadata, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    directory.parent.mkdir(parents=True, exist_ok=True)
    record.check_replaceable(directory)  # before anything beside it is removed
    with files._held(directory) as (new, old):
        try:
            export.write(model, new, detector, test.class_names, temperature)
            # A model that was never compiled: the optimizer's state would triple the file.
            keras.Model(model.input, model.output, name=model.name).save(new / "model.keras")
            (new / "metadata.json").write_text(text, encoding="utf-8")
            (new / "test_files.txt").write_text("\n".join([*test.names, ""]), **record.TEXT)
            history.to_csv(new / "history.csv", index=False)
            record.check_replaceable(directory)  # again: the export took seconds
            if directory.exists():
                directory.rename(old)
            new.rename(directory)
        except (OSError, tf.errors.OpError) as error:
            raise OSError(f"Could not write `{directory}`; nothing was changed. {error}") from error
    return directory


def load(
    directory: str | Path | None = None,
    *,
    tiles: Tiles | None = None,
    root: str | Path = "saved_model",
) -> Classifier:
    """Load a saved model, with TensorFlow alone.

    Args:
        directory: A folder written by `save`; None chooses in `root` the newest that fits `tiles`
            and was trained here, else the shipped one.
        tiles: Tiles that must have the model's classes and include the tiles of its test.
        root: Folder of the saved models.

    Returns:
        The classifier, all of one save, even if another process replaces the folder meanwhile.

    Raises:
        FileNotFoundError: If the folder or one of its files is missing.
        ValueError: If a file is damaged, the files do not belong together, or no model fits.
    """
    if directory is None:
        if tiles is None:
            raise ValueError("`directory` or `tiles` must be given. Received: None for both")
        for old in Path(root).glob(".*.replaced"):  # left by a process that was killed
            with contextlib.suppress(OSError), files._held(old.with_name(old.stem[1:])):
                pass
        models = sorted(file.parent for file in Path(root).glob("[!.]*/metadata.json"))
        directory = record._choose(models, tiles)
    directory = Path(directory).expanduser()
    directory = directory if directory.name else directory.resolve()  # "." has no name
    with contextlib.ExitStack() as stack:
        place = directory.resolve()  # a link is replaced where it leads to
        left = place.with_name(f".{place.name}.replaced")
        if any((one / "metadata.json").exists() for one in (place, left)):  # else it is no model
            with contextlib.suppress(OSError):  # in a read-only folder
                stack.enter_context(files._held(place))
        metadata, test_names = record.read(directory)
        if tiles is not None:
            record._choose([directory], tiles)
        try:
            served = tf.saved_model.load(str(directory))
            outputs = served.signatures["serving_default"].structured_outputs["probabilities"]
            if outputs.shape[1] != len(metadata["class_names"]):
                raise ValueError(f"It has {outputs.shape[1]} outputs, unlike metadata.json.")
        except Exception as error:  # a damaged file fails anywhere in TensorFlow's reader
            damaged = f"The SavedModel in `{directory}` is damaged (saved_model.pb or variables/)"
            fix = "copy it again or run training.ipynb to save it again"
            raise ValueError(f"{damaged}: {fix}. {error}") from error
        if record.read(directory) != (metadata, test_names):
            raise ValueError(f"`{directory}` was replaced while it was read: load it again")
    return Classifier(directory, metadata, test_names, served)


def save_results(
    table: pd.DataFrame, figure: Figure, directory: str | Path = "results"
) -> tuple[Path, Path]:
    """Write `predictions.csv` and `predictions.png` into `directory`, and return their paths.

    Each is written completely or not at all. `table` is that of `evaluation.predictions_table`, and
    `figure` that of `plots.prediction_grid`.
    """
    csv, png = (Path(directory).expanduser() / f"predictions.{kind}" for kind in ("csv", "png"))
    figure.savefig(picture := io.BytesIO(), dpi=150)
    text = table.to_csv(index=False, float_format="%.6f")
    files.write(csv, text.encode(errors="surrogateescape"))  # names of files may be any bytes
    files.write(png, picture.getbuffer())
    return csv, png
