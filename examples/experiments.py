"""Measure what each improvement gives on all tiles: one row of `results/runs.csv` per run.

Run `python examples/experiments.py frozen balance ...`, where the environment variable
EUROSAT_ARCHIVE names EuroSAT.zip, or the zip lies in `EuroSAT/`. Without a name it lists the
experiments. Each says in its docstring what it answers and what it costs on 2 cores. All are
judged on the 2,160 validation tiles of split seed 0; `vote` alone uses the test tiles, once it has
chosen. Trained models are kept in `results/models/`, where `vote` finds those of the others; it
and `classifiers` need `saved_model/clean`.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import pandas as pd
import sklearn.metrics
import sklearn.utils
import tensorflow as tf
from scipy.special import softmax

from eurosat_helpers import (
    calibration,
    data,
    devices,
    evaluation,
    models,
    pipeline,
    training,
)
from eurosat_helpers.improvements import (
    bases,
    comparison,
    ensemble,
    features,
    runs,
    sampling,
    transfer,
    tuning,
)

SEED = 1
MODELS = Path("results/models")
CLEAN = Path("saved_model/clean/model.keras")  # 90 epochs; docs/results.md has the command
VOTERS = (
    "mobilenet-fine-tuned",
    "mobilenet-fine-tuned-longer",
    "mobilenet-fixed-statistics",
)
# All were measured with AdamW, before training.ipynb took Muon.
RECIPE = {"batch_size": 128, "learning_rate": 0.003, "weight_decay": 0.05, "label_smoothing": 0.1}
RECIPE |= {"muon": False}
CHECKPOINTS = Path("checkpoints")  # an interrupted training resumes from its own folder there
BASE = "MobileNet_0.75"  # a small one
HEAD = {"batch_size": 128, "learning_rate": 1e-3, "weight_decay": 0.05, "label_smoothing": 0.1}
FINE_TUNING = {"batch_size": 64, "learning_rate": 5e-4, "weight_decay": 0.05}
FINE_TUNING |= {"label_smoothing": 0.1, "muon": False}


class Parts(NamedTuple):
    """The split that everything is measured on."""

    train: data.Tiles
    validation: data.Tiles
    test: data.Tiles


def cnn(train: data.Tiles, *, seed: int = SEED, **settings: object) -> keras.Model:
    """Build the network of training.ipynb for these training tiles."""
    mean, variance = pipeline.channel_statistics(train)
    return models.build_cnn(mean=mean, variance=variance, seed=seed, **settings)


def newest() -> pd.DataFrame:
    """Read the newest run of each name."""
    return runs.table(newest=True).set_index("name")


def record(
    name: str,
    model: keras.Model,
    history: pd.DataFrame,
    train: data.Tiles,
    parts: Parts,
    *,
    seed: int = SEED,
    based_on: Sequence[str] = (),
) -> None:
    """Keep a trained model, and its row."""
    MODELS.mkdir(parents=True, exist_ok=True)
    model.save(MODELS / f"{name}.keras")
    options = {"train": train, "validation": parts.validation, "seed": seed}
    show(runs.record_model(name, model, history, based_on=based_on, **options))


def show(table: pd.DataFrame) -> None:
    """Print a table at once."""
    print(table.round(5).to_string(index=False), flush=True)


def seconds_per_epoch(
    build: Callable[[], keras.Model], train: data.Tiles, parts: Parts, **settings: object
) -> float:
    """Time a short training, for how many epochs a budget pays."""
    share = max(1, len(train) // 2000)
    probe, validation = train[::share], parts.validation[::share]
    history = training.fit(build(), probe, validation, epochs=2, seed=SEED, **settings)
    return history.seconds.iloc[1] * share


def train_head(
    name: str, train: data.Tiles, parts: Parts, *, epochs: int, adapt: bool = True
) -> keras.Model:
    """Train a head on the frozen base, and record it."""
    model = bases.build_transfer(BASE, seed=SEED)
    settings = {"epochs": epochs, "adapt": adapt, "seed": SEED, **HEAD}
    history = transfer.fit_head(model, train, parts.validation, **settings)
    record(name, model, history, train, parts)
    return model


def fine_tune(
    name: str,
    train: data.Tiles,
    parts: Parts,
    *,
    head: int,
    epochs: int,
    fixed_statistics: bool,
    **options: object,
) -> None:
    """Train the head on features of the frozen base, then everything at a low rate."""
    model = train_head(f"{name}-head", train, parts, epochs=head)
    transfer.unfreeze(model, fixed_statistics=fixed_statistics)
    settings = {"epochs": epochs, "seed": SEED, **FINE_TUNING, **options}
    settings["checkpoint_dir"] = CHECKPOINTS / name
    history = training.fit(model, train, parts.validation, **settings)
    record(name, model, history, train, parts, based_on=[f"{name}-head"])


def same_time(train: data.Tiles, parts: Parts, *, suffix: str, **settings: object) -> None:
    """Train the same network from scratch, and ours, as long as the fine-tuned one took."""
    settings = {**RECIPE, **settings}
    budget = newest().loc[f"mobilenet-fine-tuned{suffix}", "seconds"]

    def scratch() -> keras.Model:
        return bases.build_transfer(BASE, weights=None, seed=SEED)

    for name, build in (("mobilenet-scratch", scratch), ("cnn-same-time", lambda: cnn(train))):
        name = f"{name}{suffix}"
        folder = CHECKPOINTS / name
        known = folder / "epochs.txt"  # measured once: another number would be another run
        if not known.exists():
            count = max(1, round(budget / seconds_per_epoch(build, train, parts, **settings)))
            folder.mkdir(parents=True, exist_ok=True)
            known.write_text(str(count))
        count, model = int(known.read_text()), build()
        options = {"epochs": count, "seed": SEED, "checkpoint_dir": folder, **settings}
        history = training.fit(model, train, parts.validation, **options)
        record(name, model, history, train, parts)


def frozen(parts: Parts) -> None:
    """Does a head on the frozen base suffice, and do adapted statistics help it? 3 minutes."""
    for name, adapt in (("mobilenet-frozen", False), ("mobilenet-frozen-adapted", True)):
        train_head(name, parts.train, parts, epochs=10, adapt=adapt)


def fine_tuned(parts: Parts) -> None:
    """Does fine-tuning a pretrained network beat our own? 16 minutes."""
    settings = {"head": 10, "epochs": 10, "fixed_statistics": False}
    fine_tune("mobilenet-fine-tuned", parts.train, parts, **settings)


def fine_tuned_longer(parts: Parts) -> None:
    """Does it help to fine-tune twice as long, with mix-up from the start? 33 minutes."""
    settings = {"head": 10, "epochs": 20, "fixed_statistics": False, "mixup": 0.2}
    fine_tune("mobilenet-fine-tuned-longer", parts.train, parts, **settings)


def fine_tuned_again(parts: Parts) -> None:
    """Do ten more epochs with mix-up help it? 17 minutes, after `fine_tuned`."""
    name, before = "mobilenet-fine-tuned-again", "mobilenet-fine-tuned"
    file = MODELS / f"{before}.keras"
    settings = {"epochs": 10, "seed": SEED + 1, "mixup": 0.2, **FINE_TUNING}
    settings["checkpoint_dir"] = (
        CHECKPOINTS / f"{name}-{hashlib.sha256(file.read_bytes()).hexdigest()[:8]}"
    )
    model = keras.saving.load_model(file)
    history = training.fit(model, parts.train, parts.validation, **settings)
    record(name, model, history, parts.train, parts, based_on=[before])


def fixed_statistics(parts: Parts) -> None:
    """Is it better to keep batch normalization in inference mode? 16 minutes."""
    settings = {"head": 10, "epochs": 10, "fixed_statistics": True}
    fine_tune("mobilenet-fixed-statistics", parts.train, parts, **settings)


def negative_transfer(parts: Parts) -> None:
    """Does pretraining help where there are many tiles? Twice 16 minutes, after `fine_tuned`."""
    same_time(parts.train, parts, suffix="")


def few_fine_tuned(parts: Parts) -> None:
    """What should batch normalization do with 100 tiles per class? Twice 3 minutes."""
    few = data.sample(parts.train, 1000, seed=SEED)
    for name, fixed in (("mobilenet-fine-tuned", False), ("mobilenet-fixed-statistics", True)):
        settings = {"head": 30, "epochs": 15, "fixed_statistics": fixed}
        fine_tune(f"{name}-100-a-class", few, parts, **settings)


def few_negative_transfer(parts: Parts) -> None:
    """Does pretraining help with 100 tiles per class? Twice 3 minutes, after `few_fine_tuned`."""
    few = data.sample(parts.train, 1000, seed=SEED)
    # With so few tiles, batches of 128 would leave too few updates.
    same_time(few, parts, suffix="-100-a-class", batch_size=32)


def ten_epochs(
    name: str, train: data.Tiles, parts: Parts, *, seed: int = SEED, **settings: object
) -> keras.Model:
    """Train the network of training.ipynb for ten epochs with `RECIPE`, and record it."""
    model = cnn(train, seed=seed)
    options = {"checkpoint_dir": CHECKPOINTS / name, **RECIPE, **settings}
    history = training.fit(model, train, parts.validation, epochs=10, seed=seed, **options)
    record(name, model, history, train, parts, seed=seed)
    return model


def balance(parts: Parts) -> None:
    """Do class weights or oversampling help the small classes? Three times 6 minutes."""
    repeated = sampling.oversample(parts.train, seed=SEED)
    for name, train, class_weight in (
        ("cnn-10-epochs", parts.train, None),
        ("cnn-class-weights", parts.train, "balanced"),
        ("cnn-oversampled", repeated, None),
    ):
        pasture(ten_epochs(name, train, parts, class_weight=class_weight), parts)


def pasture(model: keras.Model, parts: Parts) -> None:
    """Print the scores of the class with the fewest tiles."""
    tiles = parts.validation
    predictions = np.array(tiles.class_names)[logits(model, tiles).argmax(axis=1)]
    report = sklearn.metrics.classification_report(
        tiles.truth, predictions, output_dict=True, zero_division=0
    )
    print(pd.DataFrame(report)[["Pasture"]].T.round(4), flush=True)


def logits(model: keras.Model, tiles: data.Tiles) -> np.ndarray:
    """Predict tiles in their order."""
    return model.predict(pipeline.dataset(tiles, batch_size=50), verbose=0)


def probabilities(model: keras.Model, tiles: data.Tiles, temperature: float = 1.0) -> np.ndarray:
    """Predict the probabilities of tiles in their order."""
    return softmax(logits(model, tiles) / temperature, axis=1)


def bagging(parts: Parts) -> None:
    """Are two networks better, of other seeds or of other draws of the tiles?

    Three times 6 minutes, after `balance`.
    """
    first = keras.saving.load_model(MODELS / "cnn-10-epochs.keras")
    second = ten_epochs("cnn-seed-2", parts.train, parts, seed=2)
    bagged = []
    for seed in (1, 2):
        # With replacement, and class by class, so that each class keeps its share.
        positions = sklearn.utils.resample(
            np.arange(len(parts.train)), stratify=parts.train.labels, random_state=seed
        )
        bagged.append(ten_epochs(f"cnn-bagged-{seed}", parts.train[positions], parts, seed=seed))
    for name, members, based_on in (
        ("cnn-two-seeds", [first, second], ["cnn-10-epochs", "cnn-seed-2"]),
        ("cnn-two-bagged", bagged, ["cnn-bagged-1", "cnn-bagged-2"]),
    ):
        model, nothing = ensemble.average_models(members), pd.DataFrame({"seconds": []})
        record(name, model, nothing, parts.train, parts, based_on=based_on)


def classifiers(parts: Parts) -> None:
    """Do support vector machines or trees read deep features better than a softmax? 15 minutes."""
    clean = keras.saving.load_model(CLEAN)
    history = pd.read_csv(CLEAN.parent / "history.csv")
    options = {"train": parts.train, "validation": parts.validation, "seed": SEED}
    runs.record_model("cnn-90-epochs", clean, history, **options)
    for network, model, based_on in (
        ("cnn", clean, ["cnn-90-epochs"]),
        ("imagenet", bases.build_transfer(BASE, seed=SEED), []),
    ):
        begin = time.perf_counter()
        train, validation = (
            features.extract(model, part) for part in (parts.train, parts.validation)
        )
        extraction = time.perf_counter() - begin
        for name, make in features.CLASSIFIERS.items():
            begin = time.perf_counter()
            fitted = make(SEED).fit(train, parts.train.labels)
            row = runs.record(
                f"{network}-features-{name.replace(' ', '-')}",
                fitted.predict_proba(validation),
                parameters=model.count_params(),
                epochs=0 if based_on else 1,
                seconds=extraction + time.perf_counter() - begin,
                based_on=based_on,
                **options,
            )
            show(row)


def search(parts: Parts) -> None:
    """Are there better settings than those of training.ipynb? 20 minutes."""
    few = data.sample(parts.train, 3000, seed=SEED)
    trials = tuning.search(
        few,
        parts.validation,
        method="bayesian",
        trials=12,
        epochs=4,
        directory="results/search",
        seed=SEED,
        weight_decay=RECIPE["weight_decay"],
        label_smoothing=RECIPE["label_smoothing"],
        muon=False,
    )
    show(trials)
    network, fit = tuning.best_settings(trials)
    name, model = "cnn-best-of-search", cnn(parts.train, **network)
    options = {"checkpoint_dir": CHECKPOINTS / name, **RECIPE, **fit}
    history = training.fit(model, parts.train, parts.validation, epochs=10, seed=SEED, **options)
    record(name, model, history, parts.train, parts)


def choice(parts: Parts) -> None:
    """Which base learns fastest from scratch? 5 epochs on 200 tiles per class; 4 minutes.

    Small batches: batch normalization follows the tiles within a hundred of them.
    """
    few = data.sample(parts.train, 2000, seed=SEED)
    settings = {"epochs": 5, "batch_size": 16, "learning_rate": 1e-3, "seed": SEED, "muon": False}
    names = ["MobileNet_0.75", "MobileNetV2"]
    table, *_ = transfer.compare_bases(names, few, parts.validation, weights=None, **settings)
    print(table.round(4).to_string())


def vote(parts: Parts) -> None:
    """Does an ensemble of our network and fine-tuned ones beat its best member? 10 minutes.

    After `classifiers` and the three experiments that fine-tune.
    """
    paths = {"cnn-90-epochs": CLEAN, **{name: MODELS / f"{name}.keras" for name in VOTERS}}
    members = [keras.saving.load_model(path) for path in paths.values()]
    judges = parts.validation
    temperatures = [
        calibration.fit_temperature(judges.labels, logits(member, judges)) for member in members
    ]
    candidates = []
    for symmetries in (False, True):
        views = [
            ensemble.average_models([member], temperatures=[temperature], symmetries=symmetries)
            for member, temperature in zip(members, temperatures, strict=True)
        ]
        rows = [probabilities(view, judges) for view in views]
        weights = ensemble.vote_weights(judges.labels, rows)
        mixed = np.average(rows, axis=0, weights=weights)
        loss = sklearn.metrics.log_loss(judges.labels, mixed)
        table = pd.DataFrame({"member": list(paths), "weight": weights})
        table["accuracy"] = [evaluation.scores(judges.labels, one)["accuracy"] for one in rows]
        print(f"{symmetries=}: log loss {loss:.4f}")
        show(table)
        candidates.append((loss, symmetries, weights, table))
    _, symmetries, weights, table = min(candidates, key=lambda candidate: candidate[0])
    model = ensemble.average_models(
        members, temperatures=temperatures, weights=weights, symmetries=symmetries
    )
    chosen = [name for name, weight in zip(paths, weights, strict=True) if weight]
    nothing = pd.DataFrame({"seconds": []})
    record("vote", model, nothing, parts.train, parts, based_on=chosen)

    best = int(table["accuracy"].argmax())
    temperature = calibration.fit_temperature(judges.labels, logits(model, judges))
    validation = probabilities(model, judges, temperature)
    test = probabilities(model, parts.test, temperature)
    other = probabilities(members[best], parts.test)
    compared = comparison.compare(parts.test.labels, test, other)
    print(f"on test, against its best member {list(paths)[best]}:\n{pd.Series(compared)}")
    scores = {
        "validation": evaluation.scores(judges.labels, validation),
        "test": evaluation.scores(parts.test.labels, test),
    }
    print(pd.DataFrame(scores).T)


# What is compared with what, by the names of their rows.
PAIRS = (
    ("mobilenet-frozen-adapted", "mobilenet-frozen"),
    ("mobilenet-fixed-statistics", "mobilenet-frozen-adapted"),
    ("mobilenet-fine-tuned", "mobilenet-fixed-statistics"),
    ("mobilenet-fine-tuned-longer", "mobilenet-fine-tuned"),
    ("mobilenet-fine-tuned-again", "mobilenet-fine-tuned"),
    ("cnn-same-time", "mobilenet-fine-tuned"),
    ("mobilenet-scratch", "cnn-same-time"),
    ("mobilenet-fine-tuned-100-a-class", "mobilenet-fixed-statistics-100-a-class"),
    ("cnn-same-time-100-a-class", "mobilenet-fixed-statistics-100-a-class"),
    ("mobilenet-scratch-100-a-class", "cnn-same-time-100-a-class"),
    ("cnn-class-weights", "cnn-10-epochs"),
    ("cnn-oversampled", "cnn-10-epochs"),
    ("cnn-best-of-search", "cnn-10-epochs"),
    ("cnn-two-seeds", "cnn-10-epochs"),
    ("cnn-two-seeds", "cnn-seed-2"),
    ("cnn-two-bagged", "cnn-10-epochs"),
    ("cnn-two-bagged", "cnn-two-seeds"),
    ("vote", "cnn-90-epochs"),
    ("vote", "mobilenet-fine-tuned-longer"),
    *((f"cnn-features-{name.replace(' ', '-')}", "cnn-90-epochs") for name in features.CLASSIFIERS),
    *(
        (f"imagenet-features-{name.replace(' ', '-')}", "mobilenet-frozen")
        for name in features.CLASSIFIERS
    ),
)


def differences(parts: Parts) -> None:  # noqa: ARG001
    """What is better than what? Of the rows that are there; seconds."""
    known = set(newest().index)
    pairs = [pair for pair in PAIRS if {*pair} <= known]
    if not pairs:
        sys.exit("The record holds no two runs that are compared: run their experiments first.")
    table = pd.concat([comparison.compare_runs(one, other) for one, other in pairs])
    print(table.round(4).to_string())


EXPERIMENTS = (
    frozen,
    fine_tuned,
    fine_tuned_longer,
    fine_tuned_again,
    fixed_statistics,
    negative_transfer,
    few_fine_tuned,
    few_negative_transfer,
    balance,
    bagging,
    classifiers,
    search,
    choice,
    vote,
    differences,
)


def run(
    experiments: Sequence[Callable[[Parts], None]], parts: Parts, strategy: tf.distribute.Strategy
) -> None:
    """Run experiments in their order; each builds its models on all devices of `strategy`."""
    for experiment in experiments:
        print(f"== {experiment.__name__}", flush=True)
        with strategy.scope():
            experiment(parts)


def main() -> None:
    """Run the experiments that are named, in that order."""
    known = {experiment.__name__: experiment for experiment in EXPERIMENTS}
    names = sys.argv[1:]
    if not names or set(names) - set(known):
        for name, experiment in known.items():
            print(f"{name:24}{experiment.__doc__}")
        sys.exit(f"Name one or more of these. Received: {' '.join(names) or 'nothing'}.")
    os.chdir(Path(__file__).resolve().parent.parent)  # the paths are those of the project
    strategy = devices.set_up(seed=SEED)
    parts = Parts(*data.split(data.load("EuroSAT")))
    if parts.train.demo:
        sys.exit("Set EUROSAT_ARCHIVE to EuroSAT.zip, or put the zip into EuroSAT/.")
    run([known[name] for name in names], parts, strategy)


if __name__ == "__main__":
    main()
