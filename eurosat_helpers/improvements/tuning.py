"""Search for good settings of the network and of its training, with KerasTuner."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import tempfile
from pathlib import Path

import keras_tuner
import numpy as np
import pandas as pd
from keras_tuner import oracles

from eurosat_helpers import checkpoint, files, models, pipeline, training
from eurosat_helpers.data import Tiles
from eurosat_helpers.improvements import trials as trial_files

METHODS = ("random", "grid", "bayesian", "hyperband")
_SETTINGS = trial_files._FIT + trial_files._NETWORK


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
    """Train `models.build_cnn` by `training.fit` with different settings.

    The same call resumes an interrupted search, and with more `trials` extends a finished one: each
    finished trial is kept in a file, and settings that have one are not trained again. All trials
    use the same seed: they differ by their settings alone. With several GPUs call it within
    `strategy.scope()`.

    Several processes or machines share a search through KerasTuner's environment variables
    KERASTUNER_TUNER_ID ("chief", or any other name for a worker), KERASTUNER_ORACLE_IP and
    KERASTUNER_ORACLE_PORT, and a `directory` that all see. The chief hands out the trials and
    trains none; it waits for a worker that dies until one of the same name is started. "bayesian"
    and "hyperband" then depend on which trial ends first.

    Args:
        train: The training tiles.
        validation: The tiles whose accuracy is compared; not the test tiles.
        method: How to choose the next settings. "random" draws them (Bergstra and Bengio, JMLR 13,
            2012). "grid" goes through all combinations, of a continuous range ten values and its
            default: pass a small `space`. "bayesian" draws four, then follows the upper confidence
            bound of a Gaussian process (Snoek et al., arXiv 1206.2944). "hyperband" trains many
            settings for few epochs and the best again, from scratch, for more (Li et al., arXiv
            1603.06560). These two need a continuous range: a small `space` ends them early.
        trials: Maximum number of settings; a longer training in "hyperband" is another trial.
        epochs: Passes over `train` in each trial; the maximum of a trial in "hyperband".
        directory: Folder of searches. Each has its own folder there, named by the method and a
            digest of all settings, tiles and the network.
        seed: Seed of the settings and of each training, at least 0.
        space: The settings to search: `learning_rate`, `batch_size`, `dropout`, `l2`, `stages`,
            `blocks` of each, `width` of stem and first stage (each further one doubles it),
            `hidden_layers`, `hidden_width`; `None` means all. What it leaves out has the default
            of `build_cnn`, or is in `fixed`.
        **fixed: Keywords of `training.fit` that all trials share, such as `weight_decay=0.05`.

    Returns:
        One row per finished trial, the best first: `trial` (from 1), its settings, `epochs`,
        `parameters`, `val_accuracy` (of the best epoch, 0-1) and `seconds` of training.

    Raises:
        ValueError: If an argument is out of range.
        TypeError: If `fixed` and `space` do not make up the keywords of `training.fit`.
        RuntimeError: If three trials in succession fail.
    """
    if method not in METHODS:
        raise ValueError(f"`method` must be one of {', '.join(METHODS)}. Received: {method!r}")
    for name, value, least in (("trials", trials, 1), ("epochs", epochs, 1), ("seed", seed, 0)):
        if not isinstance(value, (int, np.integer)) or value < least:
            raise ValueError(f"`{name}` must be an integer from {least}. Received: {value!r}")
    trials, epochs, seed = int(trials), int(epochs), int(seed)
    space = space or _default_space()
    names = [setting.name for setting in space.space]
    if unknown := sorted(set(names) - {*_SETTINGS}):
        raise ValueError(f"`space` must be made of {', '.join(_SETTINGS)}. Received: {unknown}")
    # A wrong keyword is found here and not in each trial, where it would count as a failure.
    searched = dict.fromkeys(name for name in names if name in trial_files._FIT)
    bind = inspect.signature(training.fit).bind
    bind(None, train, validation, epochs=epochs, seed=seed, **searched, **fixed)
    known = {name: value for name, value in fixed.items() if name not in training.NO_SETTINGS}
    if isinstance(weights := known.get("class_weight"), dict):
        known["class_weight"] = sorted((str(label), float(x)) for label, x in weights.items())
    mean, variance = pipeline.channel_statistics(train)
    if known.get("hints") is not None:
        known["hints"] = hashlib.sha256(np.ascontiguousarray(known["hints"])).hexdigest()
    settings = {"method": method, "epochs": epochs, "seed": seed, "fixed": known}
    settings |= {"space": space.get_config()["space"]}
    settings |= {"train": _digest(train), "validation": _digest(validation)}
    network = {"mean": mean, "variance": variance, "num_classes": len(train.class_names)}
    settings |= {"network": checkpoint._architecture(models.build_cnn(**network, seed=seed))}
    text = json.dumps(settings, indent=1, default=str)
    name = f"{method}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    folder = Path(directory).expanduser().resolve() / name
    files.write(folder / "search.json", text.encode())

    fit = {"epochs": epochs, "seed": seed, **fixed}
    rows = trial_files._rows(folder)  # which deletes those that are damaged
    oracle = _oracle(method, space, trials=trials, epochs=epochs, seed=seed)
    if method == "bayesian":
        oracle.finished = {row["trial"]: row for row in rows}
    # A kill may leave KerasTuner's own state half written: a new oracle chooses the same settings.
    with tempfile.TemporaryDirectory() as scratch:
        tuner = trial_files._Tuner(oracle, directory=scratch)
        tuner.search(train, validation, folder=folder, trials=trials, network=network, fit=fit)
    for trial in oracle.trials.values():
        if trial.status == "FAILED":
            reason = (trial.message or "see its worker").strip().splitlines()[-1]
            print(f"Trial {int(trial.trial_id) + 1} failed: {reason}")
    if len(table := trial_files._table(folder, trials)) < trials:
        print(f"{len(table)} of {trials} trials: the others run elsewhere, failed or would repeat.")
    return table


def best_settings(trials: pd.DataFrame) -> tuple[dict[str, object], dict[str, object]]:
    """Return the settings of the best trial, to train a network with them.

    Args:
        trials: What `search` returned.

    Returns:
        The keywords that the search chose for `models.build_cnn` and those for `training.fit`.

    Raises:
        ValueError: If no trial was finished.
    """
    if trials.empty:
        raise ValueError("`trials` must hold a finished trial. Received: none")
    best = trials.loc[trials["val_accuracy"].idxmax()]
    real = ("learning_rate", "dropout", "l2")
    names = [name for name in _SETTINGS if pd.notna(best.get(name))]
    values = {name: (float if name in real else int)(best[name]) for name in names}
    return trial_files._keywords(values)


def _default_space() -> keras_tuner.HyperParameters:
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


def _oracle(
    method: str, space: keras_tuner.HyperParameters, *, trials: int, epochs: int, seed: int
) -> keras_tuner.Oracle:
    rounds = {"max_epochs": epochs, "hyperband_iterations": None}  # as many as the trials allow
    kind, options = {
        "random": (oracles.RandomSearchOracle, {}),
        "grid": (oracles.GridSearchOracle, {}),
        "bayesian": (trial_files._Bayesian, {"num_initial_points": 4}),
        "hyperband": (oracles.HyperbandOracle, rounds),
    }[method]
    oracle = kind(
        objective=keras_tuner.Objective("val_accuracy", "max"),
        hyperparameters=space.copy(),
        seed=seed + 1,  # KerasTuner takes 0 for no seed
        **options,
    )
    oracle.max_trials = trials  # which Hyperband does not take as an argument
    oracle.verbose = 0
    return oracle


def _digest(tiles: Tiles) -> str:
    digest = hashlib.sha256("\n".join(tiles.names).encode(errors="surrogateescape"))
    for array in (tiles.labels, tiles.images):
        digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()
