"""Search for good settings of the network and of its training, with KerasTuner."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import time
import warnings
from collections.abc import Mapping
from pathlib import Path

import keras
import keras_tuner
import numpy as np
import pandas as pd
from IPython.utils.capture import capture_output
from keras_tuner.engine.base_tuner import BaseTuner
from keras_tuner.engine.trial import Trial
from sklearn.exceptions import ConvergenceWarning

from eurosat_helpers import files, models, pipeline, training
from eurosat_helpers.data import Tiles

METHODS = ("random", "grid", "bayesian", "hyperband")
_NETWORK = ("dropout", "l2", "stages", "blocks", "width", "hidden_layers", "hidden_width")
_FIT = ("learning_rate", "batch_size")


def default_space() -> keras_tuner.HyperParameters:
    """Make the settings to search: each a range or a choice, by the names that `search` knows.

    Returns:
        `learning_rate`, `batch_size`; `dropout`, `l2` (see `models.build_cnn`); `stages`, the
        residual `blocks` of each and the `width` in channels of the stem and the first stage,
        which each further stage doubles; `hidden_layers` and their `hidden_width` in units.
    """
    space = keras_tuner.HyperParameters()
    space.Float("learning_rate", 5e-4, 1e-2, sampling="log")
    space.Choice("batch_size", [64, 128, 256])
    space.Float("dropout", 0.0, 0.5)
    space.Float("l2", 1e-6, 1e-3, sampling="log")
    space.Int("stages", 3, 4)
    space.Int("blocks", 1, 2)
    space.Choice("width", [16, 32, 48])
    space.Int("hidden_layers", 0, 2)
    with space.conditional_scope("hidden_layers", [1, 2]):
        space.Choice("hidden_width", [64, 128, 256])
    return space


def search(
    train: Tiles,
    validation: Tiles,
    *,
    method: str,
    trials: int,
    epochs: int,
    directory: str | os.PathLike[str],
    seed: int,
    space: keras_tuner.HyperParameters | None = None,
    **fixed: object,
) -> pd.DataFrame:
    """Train `models.build_cnn` by `training.fit` with one setting after the other.

    A search that was stopped or killed goes on where it stood when it is called again: finished
    trials are not repeated. With more `trials` a finished search goes on, too. Every trial starts
    from the same seed, so that trials differ by their settings alone.

    Several processes or machines share a search through KerasTuner's environment variables
    KERASTUNER_TUNER_ID ("chief", or any other name for a worker), KERASTUNER_ORACLE_IP and
    KERASTUNER_ORACLE_PORT, and a `directory` that all see. The chief hands out the trials and
    trains none.

    Args:
        train: The training tiles.
        validation: The tiles whose accuracy is compared; keep the test tiles out of it.
        method: How to choose the next setting. "random" draws it (Bergstra and Bengio, JMLR 13,
            2012). "grid" goes through all combinations, of a continuous range the ends and the
            middle, in an order drawn by the seed. "bayesian" draws the first third, then follows
            the upper confidence bound of a Gaussian process (Snoek et al., arXiv 1206.2944).
            "hyperband" trains many settings for few epochs and the best again for more (Li et
            al., arXiv 1603.06560): from scratch, since the learning rate falls over all epochs.
        trials: How many settings to train at most; a longer training in "hyperband" counts anew.
        epochs: Passes over `train` in each trial; the most of a trial in "hyperband".
        directory: Folder of searches; each keeps its trials in a folder of its own there, named by
            the method and a digest of all settings, which its `search.json` spells out.
        seed: Seed of the settings and of each training, at least 0.
        space: The settings to search, named as in `default_space` (`None`). What it leaves out
            keeps the default of `build_cnn`, or is in `fixed`.
        **fixed: Keywords of `training.fit` that all trials share, such as `weight_decay=0.05`.

    Returns:
        See `results`.

    Raises:
        ValueError: If an argument is out of range, or a file of the search is damaged.
        TypeError: If `fixed` and `space` do not make up the keywords of `training.fit`.
        RuntimeError: If three trials in succession fail.
    """
    if method not in METHODS:
        raise ValueError(f"`method` must be one of {', '.join(METHODS)}. Received: {method!r}")
    for name, value, least in (("trials", trials, 1), ("epochs", epochs, 1), ("seed", seed, 0)):
        if not isinstance(value, (int, np.integer)) or value < least:
            raise ValueError(f"`{name}` must be an integer from {least} on. Received: {value!r}")
    space = space or default_space()
    names = [setting.name for setting in space.space]
    if unknown := set(names) - {*_NETWORK, *_FIT}:
        raise ValueError(
            f"`space` must be made of {', '.join(_FIT + _NETWORK)}. "
            f"Received: {', '.join(sorted(unknown))}"
        )
    # A wrong keyword is found here and not in each trial, where it would count as a failure.
    searched = dict.fromkeys(name for name in names if name in _FIT)
    bind = inspect.signature(training.fit).bind
    bind(None, train, validation, epochs=epochs, seed=seed, **searched, **fixed)

    folder = _folder(
        Path(directory),
        {
            "method": method,
            "epochs": epochs,
            "seed": seed,
            "space": space.get_config()["space"],
            "fixed": fixed,
            "train": _digest(train),
            "validation": _digest(validation),
        },
    )
    oracle = _oracle(method, space, trials=trials, epochs=epochs, seed=seed)
    with capture_output():  # it says that it reloads
        tuner = _Tuner(oracle, directory=folder.parent, project_name=folder.name)
    leads = tuner.oracle is oracle  # a worker asks the chief instead
    if leads and (folder / "oracle.json").exists():
        _resume(oracle, folder)
    mean, variance = pipeline.channel_statistics(train)
    tuner.search(
        train,
        validation,
        network={"mean": mean, "variance": variance, "num_classes": len(train.class_names)},
        fit={"epochs": epochs, "seed": seed, **fixed},
        log=_TrialLog(
            trials, best=max((trial.score or 0 for trial in oracle.trials.values()), default=0)
        ),
    )
    if leads:
        tuner.save()
    for trial in oracle.trials.values():
        if trial.status == "FAILED":
            reason = (trial.message or "see its worker").strip().splitlines()[-1]
            print(f"Trial {int(trial.trial_id) + 1} failed: {reason}")
    return results(folder)


def results(directory: str | os.PathLike[str]) -> pd.DataFrame:
    """Read the trials of a search, finished or still going on.

    Args:
        directory: Folder of the search, such as "results/search/random-0123abcd".

    Returns:
        One row a finished trial, the best first: `trial` (from 1), its settings by the names of
        `default_space` (NaN where one does not apply), `epochs`, `parameters`, `val_accuracy`
        (of the best epoch, 0-1) and `seconds` of training. Failed trials come last, with NaN.

    Raises:
        FileNotFoundError: If `directory` does not exist.
        ValueError: If a file of the search is damaged.
    """
    directory = Path(directory).expanduser()
    if not directory.is_dir():
        raise FileNotFoundError(f"`directory` must hold a search. No such folder: {directory}")
    rows = []
    for path in sorted(directory.glob("trial_*/trial.json")):
        trial = _load(path)
        if trial.status not in ("COMPLETED", "FAILED"):
            continue
        values, metrics = trial.hyperparameters.get_config()["values"], trial.metrics
        row = {"trial": int(trial.trial_id) + 1}
        row |= {name: values.get(name, np.nan) for name in _FIT + _NETWORK}
        for name in ("epochs", "parameters", "val_accuracy", "seconds"):
            row[name] = metrics.get_best_value(name) if metrics.exists(name) else np.nan
        rows.append(row)
    columns = ["trial", *_FIT, *_NETWORK, "epochs", "parameters", "val_accuracy", "seconds"]
    table = pd.DataFrame(rows, columns=columns)
    table = table.astype(dict.fromkeys(("hidden_width", "epochs", "parameters"), "Int64"))
    table = table.sort_values(
        ["val_accuracy", "parameters", "trial"], ascending=[False, True, True], ignore_index=True
    )
    return table.dropna(axis="columns", how="all")  # what was not searched


def best_settings(trials: pd.DataFrame) -> tuple[dict[str, object], dict[str, object]]:
    """Take the settings of the best trial, for training it to the end.

    Args:
        trials: What `search` or `results` returned.

    Returns:
        The keywords that the search chose for `models.build_cnn` and those for `training.fit`.

    Raises:
        ValueError: If no trial was finished.
    """
    finished = trials[trials["val_accuracy"].notna()]
    if finished.empty:
        raise ValueError(f"`trials` must hold a finished trial. Received: {len(trials)} rows, none")
    best = finished.loc[finished["val_accuracy"].idxmax()]
    real = ("learning_rate", "dropout", "l2")
    names = [name for name in _FIT + _NETWORK if pd.notna(best.get(name))]
    return _keywords({name: (float if name in real else int)(best[name]) for name in names})


def _keywords(values: Mapping[str, object]) -> tuple[dict[str, object], dict[str, object]]:
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


class _TrialLog:
    """One line of progress over all trials."""

    def __init__(self, trials: int, *, best: float) -> None:
        self.trials, self.best = trials, best
        self.line = training.ProgressLine()

    def begin(self, trial: int) -> None:
        if self.line.in_notebook:
            self._show(f"trial {trial}/{self.trials} is training")

    def end(self, trial: int, accuracy: float) -> None:
        self.best = max(self.best, accuracy)
        self._show(f"trial {trial}/{self.trials}: validation accuracy {accuracy:.2%}")

    def _show(self, text: str) -> None:
        self.line.show(text + (f", best so far {self.best:.2%}" if self.best else ""))


class _Tuner(BaseTuner):
    """Trains a trial by `training.fit`. Which trial is the oracle's choice."""

    def run_trial(
        self,
        trial: Trial,
        train: Tiles,
        validation: Tiles,
        *,
        network: dict,
        fit: dict,
        log: _TrialLog,
    ) -> dict[str, float]:
        number = int(trial.trial_id) + 1
        log.begin(number)
        values = trial.hyperparameters.get_config()["values"]
        chosen_network, chosen_fit = _keywords(values)
        fit = {**fit, **chosen_fit, "epochs": values.get("tuner/epochs", fit["epochs"])}
        keras.utils.clear_session()  # else the graphs of all trials pile up
        keras.utils.set_random_seed(fit["seed"])
        model = models.build_cnn(**network, **chosen_network)
        with capture_output():  # `fit` reports every epoch
            history = training.fit(model, train, validation, **fit)
        accuracy = float(history.val_accuracy.max())
        log.end(number, accuracy)
        return {
            "val_accuracy": accuracy,
            "epochs": len(history),
            "parameters": model.count_params(),
            "seconds": float(history.seconds.sum()),
        }

    def pre_create_trial(self) -> None:
        time.sleep(0.1)  # a worker that is told to wait asks again at once

    def reload(self) -> None:
        """Do nothing: `search` reloads the oracle, and there is no other state."""


class _GridOracle(keras_tuner.Oracle):
    """Every combination once; the number of a trial says which.

    KerasTuner's own grid does not save where it stood, so it cannot go on after a kill.
    """

    def populate_space(self, trial_id: str) -> dict[str, object]:
        combinations = _combinations(self.get_space())
        order = np.random.default_rng(self.seed).permutation(len(combinations))
        number = int(trial_id)
        if number >= len(order):
            return {"status": "STOPPED"}
        return {"status": "RUNNING", "values": combinations[order[number]]}


class _BayesianOracle(keras_tuner.oracles.BayesianOptimizationOracle):
    """KerasTuner's, without a warning wherever few trials do not tell the kernel's length."""

    def populate_space(self, trial_id: str) -> dict[str, object]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            return super().populate_space(trial_id)


def _combinations(space: keras_tuner.HyperParameters) -> list[dict[str, object]]:
    """All values of all settings; those whose condition is not met are left out."""
    combinations = [{}]
    for setting in space.space:
        if getattr(setting, "step", 1) is None:  # a continuous range
            values = [setting.min_value, setting.prob_to_value(0.5), setting.max_value]
        else:
            values = list(setting.values)
        grown = []
        for combination in combinations:
            space.values = combination
            active = space.is_active(setting)
            choices = [{setting.name: value} for value in values] if active else [{}]
            grown += [{**combination, **choice} for choice in choices]
        combinations = grown
    return combinations


def _oracle(
    method: str, space: keras_tuner.HyperParameters, *, trials: int, epochs: int, seed: int
) -> keras_tuner.Oracle:
    shared = {
        "objective": keras_tuner.Objective("val_accuracy", "max"),
        "hyperparameters": space.copy(),
        "seed": seed + 1,  # KerasTuner takes 0 for no seed
    }
    if method == "hyperband":  # as many rounds as the trials allow
        oracle = keras_tuner.oracles.HyperbandOracle(
            max_epochs=epochs, hyperband_iterations=None, **shared
        )
    elif method == "bayesian":
        oracle = _BayesianOracle(num_initial_points=max(2, trials // 3), **shared)
    elif method == "grid":
        oracle = _GridOracle(**shared)
    else:
        oracle = keras_tuner.oracles.RandomSearchOracle(**shared)
    oracle.max_trials = trials
    oracle.verbose = 0
    return oracle


def _resume(oracle: keras_tuner.Oracle, directory: Path) -> None:
    """Load the trials so far; those and only those that did not end will be trained again.

    A kill between two writes can leave a finished trial listed as one that goes on, or a trial
    that began in no list: its own file is what counts.
    """
    for path in directory.glob("trial_*/trial.json"):
        _load(path)
    try:
        oracle.reload()
    except json.JSONDecodeError as error:
        raise _damaged(directory / "oracle.json") from error
    unfinished = [name for name, trial in oracle.trials.items() if trial.status == "RUNNING"]
    oracle.set_state({**oracle.get_state(), "retry_queue": sorted(unfinished, reverse=True)})


def _load(path: Path) -> Trial:
    try:
        return Trial.load(str(path))
    except json.JSONDecodeError:
        time.sleep(1)  # another process may be writing it at this moment
    try:
        return Trial.load(str(path))
    except json.JSONDecodeError as error:
        raise _damaged(path) from error


def _damaged(path: Path) -> ValueError:
    return ValueError(
        f"{path} must be a JSON file of a search. It is cut short or overwritten: restore it, or "
        "remove its folder."
    )


def _folder(directory: Path, settings: dict[str, object]) -> Path:
    """Make the folder of a search. Other settings are another search, with a folder of its own."""
    text = json.dumps(settings, indent=1, default=str)
    name = f"{settings['method']}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    folder = directory.expanduser().resolve() / name
    folder.mkdir(parents=True, exist_ok=True)
    files.write(folder / "search.json", text.encode())  # for readers
    return folder


def _digest(tiles: Tiles) -> str:
    return hashlib.sha256("\n".join(tiles.names).encode()).hexdigest()
