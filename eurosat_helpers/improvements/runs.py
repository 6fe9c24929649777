"""Keep a record of every training run: one table of all, and the validation predictions of each.

* `runs.csv`: one row a run (`COLUMNS`), all scores on the validation tiles.
* `runs/<run>.npz`: the run's validation predictions: `names` str `(N,)`, `labels` int64 `(N,)` and
  `probabilities` `(N, C)`, so that any two runs can be compared tile by tile.

Runs are chosen by these. The test tiles are for the one that was chosen.
"""

from __future__ import annotations

import csv
import datetime
import io
import itertools
import re
from numbers import Integral, Real
from pathlib import Path

import keras
import numpy as np
import pandas as pd

from eurosat_helpers import calibration, evaluation, files, pipeline
from eurosat_helpers.data import Tiles
from eurosat_helpers.improvements import comparison

COLUMNS = {
    "run": str,
    "name": str,
    "seed": "int64",
    "parameters": "int64",
    "epochs": "int64",
    "seconds": "float64",
    "tiles": "int64",
    "tiles_per_second": "float64",
    "validation_tiles": "int64",
    "accuracy": "float64",
    "macro_f1": "float64",
    "calibration_error": "float64",
    "source": str,
    "date": str,
}


def record(
    name: str,
    probabilities: np.ndarray,
    *,
    train: Tiles,
    validation: Tiles,
    seed: int,
    parameters: int,
    epochs: int,
    seconds: float,
    directory: str | Path = "results",
) -> pd.DataFrame:
    """Score a run on the validation tiles and add it to the table, its predictions beside it.

    Any number of processes may record at once. Nothing that is there is overwritten.

    Args:
        name: Of the model or method: letters, digits and `_ . -`.
        probabilities: Of the validation tiles: shape `(N, C)`, rows that sum to one.
        train: The training tiles, of which the number is recorded.
        validation: The N validation tiles, each once.
        seed: Seed of the training.
        parameters: Number of the model's parameters.
        epochs: Passes over the training tiles.
        seconds: Wall-clock seconds of the training.
        directory: Folder of the record; made when missing.

    Returns:
        A table of the row. `run` names the run: its name, the day (UTC) and a number;
        `tiles_per_second` are training tiles, counted anew in each epoch; `source` is that of the
        validation tiles; `date` is the time (UTC) in ISO 8601.

    Raises:
        ValueError: If an argument is not as it should be, or `runs.csv` is damaged or has other
            columns.
    """
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
        raise ValueError(
            "`name` must be letters, digits and `_ . -`, for it becomes part of a file name. "
            f"Received: {name!r}"
        )
    numbers = {"seed": seed, "parameters": parameters, "epochs": epochs}
    for argument, value in numbers.items():
        least = 1 if argument == "epochs" else 0
        if not isinstance(value, Integral) or value < least:
            raise ValueError(f"`{argument}` must be an integer from {least}. Received: {value!r}")
    if not isinstance(seconds, Real) or not 0 < seconds < np.inf:
        raise ValueError(f"`seconds` must be a positive number. Received: {seconds!r}")
    if len(set(validation.names)) < len(validation):
        raise ValueError("`validation` must hold each tile once.")
    scores = evaluation.scores(validation.labels, probabilities)
    now = datetime.datetime.now(datetime.timezone.utc)
    row = {
        "name": name,
        **{argument: int(value) for argument, value in numbers.items()},
        "seconds": float(seconds),
        "tiles": len(train),
        "tiles_per_second": len(train) * int(epochs) / float(seconds),
        "validation_tiles": scores["tiles"],
        **{score: scores[score] for score in ("accuracy", "macro_f1", "calibration_error")},
        "source": validation.source,
        "date": now.isoformat(timespec="seconds"),
    }
    file, predictions = Path(directory) / "runs.csv", Path(directory) / "runs"
    predictions.mkdir(parents=True, exist_ok=True)
    with files.locked(file.with_name(".runs.lock")):
        text, rows = _read(file)
        taken = set(rows["run"])
        candidates = (f"{name}-{now:%Y-%m-%d}-{number}" for number in itertools.count(1))
        # A file without a row is left by a row that was deleted, or by a process that was killed.
        row["run"] = next(
            run
            for run in candidates
            if run not in taken and not (predictions / f"{run}.npz").exists()
        )
        packed = io.BytesIO()
        np.savez_compressed(
            packed,
            names=validation.names,
            labels=validation.labels,
            probabilities=np.asarray(probabilities),
        )
        files.write(predictions / f"{row['run']}.npz", packed.getvalue())
        line = io.StringIO()
        # `str` of a float is read back as the same float.
        csv.writer(line, lineterminator="\n").writerow(row[column] for column in COLUMNS)
        files.write(file, (text + line.getvalue()).encode())
    return pd.DataFrame([row], columns=list(COLUMNS))


def record_model(
    name: str,
    model: keras.Model,
    history: pd.DataFrame,
    *,
    train: Tiles,
    validation: Tiles,
    seed: int,
    directory: str | Path = "results",
) -> pd.DataFrame:
    """Record a trained Keras model, its confidence calibrated as in its export.

    Args:
        name: See `record`.
        model: A model from raw pixels to logits.
        history: One row an epoch with its `seconds`, such as `training.fit` returns; where there
            were several stages, all their rows.
        train: See `record`.
        validation: See `record`; the temperature is fitted on these tiles too.
        seed: See `record`.
        directory: See `record`.

    Returns:
        See `record`.

    Raises:
        ValueError: See `record`.
    """
    logits = model.predict(pipeline.dataset(validation, batch_size=500), verbose=0)
    temperature = calibration.fit_temperature(validation.labels, logits)
    return record(
        name,
        calibration.softmax(logits, temperature),
        train=train,
        validation=validation,
        seed=seed,
        parameters=model.count_params(),
        epochs=len(history),
        seconds=history["seconds"].sum(),
        directory=directory,
    )


def table(directory: str | Path = "results") -> pd.DataFrame:
    """Read the record.

    Args:
        directory: Folder of the record.

    Returns:
        One row a run with `COLUMNS`, the highest validation accuracy first and of equal ones the
        quickest training.

    Raises:
        FileNotFoundError: If there is no `runs.csv`.
        ValueError: If it is damaged or has other columns.
    """
    file = Path(directory) / "runs.csv"
    if not file.is_file():
        raise FileNotFoundError(f"There is no `{file}`. Record a run first.")
    _, rows = _read(file)
    return rows.sort_values(
        ["accuracy", "seconds"], ascending=[False, True], kind="stable", ignore_index=True
    )


def compare(
    one: str,
    other: str,
    *,
    directory: str | Path = "results",
    seed: int = 0,
    resamples: int = 10_000,
) -> pd.Series:
    """Tell whether one run is better than another on the same validation tiles.

    Args:
        one: A `run` of the table.
        other: The `run` to compare it with.
        directory: Folder of the record.
        seed: Seed of the bootstrap.
        resamples: Number of bootstrap samples.

    Returns:
        What `comparison.compare` returns; `difference` is positive where `one` is better.

    Raises:
        FileNotFoundError: If there are no predictions of a run.
        ValueError: If a file is damaged, or the runs were not judged on the same tiles.
    """
    names, labels, probabilities = _read_predictions(one, Path(directory) / "runs")
    other_names, other_labels, other_probabilities = _read_predictions(
        other, Path(directory) / "runs"
    )
    if difference := _difference(names, other_names, labels, other_labels):
        raise ValueError(
            f"The runs {one} and {other} were not judged on the same validation tiles: "
            f"{difference}. Compare runs with the same tiles and the same split."
        )
    return pd.Series(
        comparison.compare(
            labels, probabilities, other_probabilities, seed=seed, resamples=resamples
        ),
        name=f"{one} - {other}",
    )


def _read(file: Path) -> tuple[str, pd.DataFrame]:
    """Read the text and its rows, of which a missing file has none; a damaged one is an error."""
    remedy = "Repair it, or move it away and a new one is begun."
    try:
        text = file.read_text("utf-8-sig") if file.exists() else ",".join(COLUMNS) + "\n"
        header, *rows = csv.reader(text.splitlines(), strict=True)
    except (csv.Error, ValueError) as error:
        raise ValueError(f"`{file}` is damaged: {error}. {remedy}") from error
    if header != list(COLUMNS):
        raise ValueError(
            f"`{file}` must have the columns {', '.join(COLUMNS)}. "
            f"Received: {', '.join(header)}. {remedy}"
        )
    if not text.endswith("\n") or any(len(row) != len(COLUMNS) for row in rows):
        raise ValueError(f"`{file}` is damaged: a line is not whole. {remedy}")
    try:
        parsed = pd.DataFrame(rows, columns=list(COLUMNS), dtype=object).astype(COLUMNS)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"`{file}` is damaged: {error}. {remedy}") from error
    if not np.isfinite(parsed.select_dtypes("number")).all(axis=None):
        raise ValueError(f"`{file}` is damaged: a number is not finite. {remedy}")
    if repeated := parsed.loc[parsed["run"].duplicated(), "run"].tolist():
        raise ValueError(f"`{file}` is damaged: {repeated[0]} is there twice. {remedy}")
    return text, parsed


def _read_predictions(run: str, directory: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Names, labels and probabilities of a run, in the order of the names."""
    file = directory / f"{run}.npz"
    if not file.is_file():
        known = ", ".join(sorted(path.stem for path in directory.glob("*.npz")))
        raise FileNotFoundError(
            f"There are no predictions of a run {run} in `{directory}`. There are: "
            f"{known or 'none'}."
        )
    try:
        # NumPy leaves a damaged file open that it opened itself.
        with np.load(io.BytesIO(file.read_bytes()), allow_pickle=False) as packed:
            names, labels, probabilities = (
                packed[key] for key in ("names", "labels", "probabilities")
            )
        order = np.argsort(names)
        return names[order], labels[order], probabilities[order]
    except Exception as error:  # NumPy reads a header as Python's source, and fails as that may
        raise ValueError(f"`{file}` is damaged: {error}. Record the run again.") from error


def _difference(
    names: np.ndarray, other_names: np.ndarray, labels: np.ndarray, other_labels: np.ndarray
) -> str:
    """Say how the tiles of two runs differ, or nothing."""
    one, other = np.setdiff1d(names, other_names), np.setdiff1d(other_names, names)
    if one.size or other.size:
        examples = ", ".join([*one[:2], *other[:2]])
        return (
            f"{one.size} of the {names.size} tiles of the first are not among the "
            f"{other_names.size} of the second and {other.size} the other way round, such as "
            f"{examples}"
        )
    changed = names[labels != other_labels]
    return f"{changed.size} have another label, such as {changed[0]}" if changed.size else ""
