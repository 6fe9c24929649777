"""The trials of a search: each is trained once and has a file of its own."""

from __future__ import annotations

import hashlib
import json
import time
import warnings
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from IPython.utils.capture import capture_output
from keras_tuner.engine.base_tuner import BaseTuner
from keras_tuner.engine.trial import Trial
from keras_tuner.oracles import BayesianOptimizationOracle
from sklearn.exceptions import ConvergenceWarning

from eurosat_helpers import files, models, training
from eurosat_helpers.data import Tiles

_FIT = ("learning_rate", "batch_size")
_NETWORK = ("dropout", "l2", "stages", "blocks", "width", "hidden_layers", "hidden_width")
_SCORES = ("epochs", "parameters", "val_accuracy", "seconds")


def _keywords(values: dict[str, object]) -> tuple[dict[str, object], dict[str, object]]:
    """Turn the settings of a trial into keywords of `build_cnn` and of `fit`."""
    width, stages = values.get("width", 32), values.get("stages", 4)
    network = {
        "stem_width": width,
        "widths": tuple(width * 2**stage for stage in range(stages)),
        "blocks": (values.get("blocks", 1),) * stages,
        "hidden": (values.get("hidden_width", 128),) * values.get("hidden_layers", 0),
    }
    network |= {name: values[name] for name in ("dropout", "l2") if name in values}
    return network, {name: values[name] for name in _FIT if name in values}


class _Tuner(BaseTuner):
    """Trains a trial by `training.fit`. Which trial is the oracle's choice."""

    def run_trial(
        self,
        trial: Trial,
        train: Tiles,
        validation: Tiles,
        *,
        folder: Path,
        trials: int,
        network: dict,
        fit: dict,
    ) -> dict[str, float]:
        values = trial.hyperparameters.get_config()["values"]
        chosen_network, chosen_fit = _keywords(values)
        fit = {**fit, **chosen_fit, "epochs": values.get("tuner/epochs", fit["epochs"])}
        settings = {name: values[name] for name in _FIT + _NETWORK if name in values}
        # Six digits: another machine may compute another last one.
        key = json.dumps({name: f"{value:.6g}" for name, value in settings.items()})
        digest = hashlib.sha256(f"{key} {fit['epochs']}".encode()).hexdigest()
        file = folder / f"trial-{digest[:16]}.json"
        if file.exists():
            row = json.loads(file.read_text())
        else:
            number = int(trial.trial_id) + 1
            model = models.build_cnn(**network, **chosen_network, seed=fit["seed"])
            with capture_output():  # `fit` reports every epoch
                history = training.fit(model, train, validation, **fit)
            accuracy, seconds = float(history.val_accuracy.max()), float(history.seconds.sum())
            scores = (len(history), model.count_params(), accuracy, seconds)
            row = {"trial": number, **settings, **dict(zip(_SCORES, scores, strict=True))}
            files.write(file, json.dumps(row).encode())
            print(f"trial {number}/{trials}: validation accuracy {accuracy:.2%}")
        return {name: row[name] for name in _SCORES}

    def pre_create_trial(self) -> None:
        time.sleep(0.1)  # a worker that is told to wait asks again at once


class _Bayesian(BayesianOptimizationOracle):
    """KerasTuner's, without a warning wherever few trials do not tell the kernel's length."""

    finished: Mapping[int, dict] = {}  # by number: to choose their settings again takes seconds

    def populate_space(self, trial_id: str) -> dict[str, object]:
        number = int(trial_id) + 1
        if number > self.num_initial_points and (row := self.finished.get(number)):
            values = {name: row[name] for name in _FIT + _NETWORK if name in row}
            return {"status": "RUNNING", "values": values}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            return super().populate_space(trial_id)


def _rows(folder: Path) -> list[dict[str, float]]:
    """Read the finished trials, and remove damaged files."""
    rows = []
    for file in sorted(folder.glob("trial-*.json")):
        try:
            rows.append(json.loads(file.read_text()))
        except ValueError:
            print(f"`{file.name}` is damaged: its settings are trained again.")
            file.unlink()
    return rows


def _table(folder: Path, trials: int) -> pd.DataFrame:
    """Read the finished ones of so many trials, the best first."""
    rows = [row for row in _rows(folder) if row["trial"] <= trials]
    table = pd.DataFrame(rows, columns=["trial", *_FIT, *_NETWORK, *_SCORES])
    table = table.astype({"hidden_width": "Int64"}).sort_values(
        ["val_accuracy", "parameters", "trial"], ascending=[False, True, True], ignore_index=True
    )
    return table.dropna(axis="columns", how="all")  # what was not searched
