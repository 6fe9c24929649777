"""A record of all training runs: their scores, and the validation predictions of each.

* `runs.csv`: one row per run (`COLUMNS`), all scores on the validation tiles.
* `runs/<run>.npz`: the run's validation predictions: `names` str `(N,)`, `labels` int64 `(N,)` and
  calibrated `probabilities` `(N, C)`, so that any two runs can be compared tile by tile.
"""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

import keras
import numpy as np
import pandas as pd
from filelock import FileLock
from scipy.special import softmax

from eurosat_helpers import calibration, evaluation, files, pipeline
from eurosat_helpers.data import Tiles

COLUMNS = {"run": str, "name": str, "seed": "int64", "parameters": "int64", "epochs": "int64"}
COLUMNS |= {"seconds": "float64", "tiles": "int64", "tiles_per_second": "float64"}
COLUMNS |= {"validation_tiles": "int64", "accuracy": "float64", "macro_f1": "float64"}
COLUMNS |= {"calibration_error": "float64", "source": str, "date": str}


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
    based_on: Sequence[str] = (),
    directory: str | Path = "results",
) -> pd.DataFrame:
    """Calibrate and score a run on the validation tiles, and add it to the table.

    Every run is calibrated in the same way, as in an export: by a temperature, fitted on the
    validation tiles. Several processes may record at once; nothing is overwritten.

    Args:
        name: Of the model or method: letters, digits and `_ . -`.
        probabilities: Of the validation tiles, calibrated or not: `(N, C)`, rows that sum to one.
        train: The training tiles, of which the number is recorded.
        validation: The N validation tiles, each once.
        seed: Seed of the training.
        parameters: Number of the model's parameters.
        epochs: Passes over the training tiles.
        seconds: Wall-clock seconds of the training.
        based_on: Recorded runs that this one needs, such as the members of an ensemble: their
            epochs and seconds are added. Each a `run`, or a `name` for its newest run.
        directory: Folder of the record; made when missing.

    Returns:
        A table of one row. `run` is the name, the day and a number; `tiles_per_second` counts each
        training tile once per epoch; `date` is in UTC.

    Raises:
        ValueError: If an argument is out of range, or `runs.csv` is damaged or has other columns.
    """
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
        raise ValueError(f"`name` must be letters, digits and `_ . -`. Received: {name!r}")
    if len(set(validation.names)) < len(validation):
        raise ValueError("`validation` must hold each tile once.")
    file = Path(directory).expanduser() / "runs.csv"
    needed = [_find(file, run, validation.source) for run in based_on]
    epochs = int(epochs + sum(row["epochs"] for row in needed))
    seconds = float(seconds + sum(row["seconds"] for row in needed))
    if not (epochs >= 1 and 0 < seconds < np.inf):
        raise ValueError(
            "`epochs` must be at least 1 and `seconds` above 0, with those of `based_on`. "
            f"Received: {epochs} and {seconds}"
        )
    labels, probabilities = calibration.check(validation.labels, probabilities)
    logits = np.log(np.maximum(probabilities, 1e-12))
    temperature = calibration.fit_temperature(labels, logits)
    probabilities = softmax(logits / temperature, axis=1)
    scores = evaluation.scores(labels, probabilities)
    now = datetime.now(timezone.utc)
    row = {"name": name, "seed": int(seed), "parameters": int(parameters), "epochs": epochs}
    row |= {"seconds": seconds, "tiles": len(train)}
    row |= {"tiles_per_second": len(train) * epochs / seconds, "validation_tiles": scores["tiles"]}
    row |= {score: scores[score] for score in ("accuracy", "macro_f1", "calibration_error")}
    row |= {"source": validation.source, "date": now.isoformat(timespec="seconds")}
    (folder := file.parent / "runs").mkdir(parents=True, exist_ok=True)
    with FileLock(file.with_name(".runs.lock")):
        taken = set(_read(file)["run"])
        candidates = (f"{name}-{now:%Y-%m-%d}-{number}" for number in itertools.count(1))
        # A process that was killed leaves a file without a row.
        taken |= {path.stem for path in folder.glob("*.npz")}
        row["run"] = next(run for run in candidates if run not in taken)
        npz = io.BytesIO()
        np.savez_compressed(npz, names=validation.names, labels=labels, probabilities=probabilities)
        files.write(folder / f"{row['run']}.npz", npz.getvalue())
        table = pd.DataFrame([row], columns=list(COLUMNS))
        before = file.read_bytes() if file.exists() else (",".join(COLUMNS) + "\n").encode()
        # A float is written so that it is read back as the same float.
        line = table.to_csv(index=False, header=False, lineterminator="\n")
        files.write(file, before + line.encode(errors="surrogateescape"))
    return table


def record_model(
    name: str, model: keras.Model, history: pd.DataFrame, *, validation: Tiles, **options: object
) -> pd.DataFrame:
    """Record a trained Keras model, as `record` does, whose other arguments are the same.

    Args:
        name: Of the model.
        model: A model from raw pixels to logits.
        history: One row per epoch with its `seconds`, such as `training.fit` returns; no row where
            nothing was trained beside the runs of `based_on`.
        validation: The validation tiles.
        **options: `train`, `seed`, `based_on` and `directory`.
    """
    logits = model.predict(pipeline.dataset(validation, batch_size=250), verbose=0)
    return record(
        name,
        softmax(logits, axis=1),
        validation=validation,
        parameters=model.count_params(),
        epochs=len(history),
        seconds=sum(history["seconds"]),
        **options,
    )


def table(directory: str | Path = "results", *, newest: bool = False) -> pd.DataFrame:
    """Read the record.

    Args:
        directory: Folder of the record.
        newest: Whether to leave out all but the newest run of each name (and source of tiles).

    Returns:
        One row per run with `COLUMNS`, the highest validation accuracy first and of equal ones the
        quickest training.

    Raises:
        FileNotFoundError: If there is no `runs.csv`.
        ValueError: If it is damaged or has other columns.
    """
    file = Path(directory).expanduser() / "runs.csv"
    if not file.is_file():
        raise FileNotFoundError(f"There is no `{file}`. Record a run first.")
    rows = _read(file)
    if newest:
        rows = rows.drop_duplicates(["name", "source"], keep="last")
    return rows.sort_values(
        ["accuracy", "seconds"], ascending=[False, True], kind="stable", ignore_index=True
    )


def _read(file: Path) -> pd.DataFrame:
    """Read the rows in the order of their dates; a missing file has none."""
    text = file.read_bytes() if file.exists() else (",".join(COLUMNS) + "\n").encode()
    try:
        # Without `na_filter` a name may be "None"; a parser of floats could round.
        rows = pd.read_csv(
            io.BytesIO(text), dtype=object, na_filter=False, encoding_errors="surrogateescape"
        )
        if list(rows) != list(COLUMNS) or rows.index.dtype != int:  # longer rows become an index
            raise ValueError(f"its columns are {', '.join(rows)}")
        rows = rows.astype(COLUMNS)
        if not text.endswith(b"\n"):
            raise ValueError("its last line is not complete")
        if not np.isfinite(rows.select_dtypes("number")).all(axis=None):
            raise ValueError("a number is not finite")
        if not rows["run"].is_unique:
            raise ValueError("a run is there twice")
    except (ValueError, OverflowError) as error:
        raise ValueError(
            f"`{file}` is damaged: {error}. It must have the columns {', '.join(COLUMNS)}. Repair "
            "it, or move it away to begin a new one."
        ) from error
    return rows.sort_values("date", kind="stable")


def _find(file: Path, run: str, source: str | None) -> pd.Series:
    """Find a row by its `run`, or the newest by its `name`, of these tiles or (None) of any."""
    rows = _read(file)[lambda rows: (rows["source"] == source) | (source is None)]
    found = rows[rows["run"] == run] if run in set(rows["run"]) else rows[rows["name"] == run]
    if found.empty:
        raise ValueError(f"`{file}` has no run or name {run!r}, but {', '.join(set(rows['name']))}")
    return found.iloc[-1]
