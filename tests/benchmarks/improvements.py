"""Measure what each improvement gives on all tiles: a row of `results/runs.csv` a run.

Run `python -m tests.benchmarks.improvements frozen balance ...` from the project's folder,
where the environment variable EUROSAT_ARCHIVE names EuroSAT.zip, or the zip lies in `EuroSAT/`.
Without a name it lists the experiments. Each says in its docstring what it answers and what it
costs on 2 cores. All is judged on the 2,160 validation tiles of split seed 0; `vote` alone looks at
the test tiles, once it has chosen. Trained models are kept in `results/models/`, where `vote` finds
those of the others.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import pandas as pd
import sklearn.metrics

from eurosat_helpers import (
    artifact,
    data,
    ensemble,
    evaluation,
    features,
    models,
    pipeline,
    runs,
    training,
    transfer,
    tuning,
)

SEED = 1
MODELS = Path("results/models")
SHIPPED = Path("saved_model/eurosat_cnn/model.keras")
VOTERS = (
    "mobilenet-fine-tuned",
    "mobilenet-fine-tuned-longer",
    "mobilenet-averaged-weights",
    "mobilenet-fixed-statistics",
)
# As in training.ipynb.
RECIPE = {"batch_size": 128, "learning_rate": 0.003, "weight_decay": 0.05, "label_smoothing": 0.1}
KEPT = {"checkpoint_dir": "checkpoints"}  # a killed experiment goes on
BASE = "MobileNet_0.75"  # the base whose ImageNet weights were at hand
HEAD = {"batch_size": 128, "learning_rate": 1e-3, "weight_decay": 0.05, "label_smoothing": 0.1}
FINE_TUNING = {"batch_size": 64, "learning_rate": 5e-4, "weight_decay": 0.05}
FINE_TUNING |= {"label_smoothing": 0.1}


class Parts(NamedTuple):
    """The split that everything is measured on."""

    train: data.Tiles
    validation: data.Tiles
    test: data.Tiles


def cnn(train: data.Tiles, *, seed: int = SEED, **settings: object) -> keras.Model:
    """Build the network of training.ipynb for these training tiles."""
    keras.utils.set_random_seed(seed)
    mean, variance = pipeline.channel_statistics(train)
    return models.build_cnn(mean=mean, variance=variance, **settings)


def latest() -> pd.DataFrame:
    """Read the newest row of each name."""
    rows = runs.table().sort_values("date")
    return rows.drop_duplicates("name", keep="last").set_index("name")


def record(
    name: str,
    model: keras.Model,
    history: pd.DataFrame,
    train: data.Tiles,
    parts: Parts,
    *,
    seed: int = SEED,
) -> None:
    """Keep a trained model, and its row."""
    MODELS.mkdir(parents=True, exist_ok=True)
    model.save(MODELS / f"{name}.keras")
    row = runs.record_model(
        name, model, history, train=train, validation=parts.validation, seed=seed
    )
    print(row.round(4).to_string(index=False), flush=True)


def seconds_an_epoch(
    build: Callable[[], keras.Model], train: data.Tiles, parts: Parts, **settings: object
) -> float:
    """Time a short training, for how many epochs a budget pays."""
    share = max(1, len(train) // 2000)
    probe, validation = train[::share], parts.validation[::share]
    history = training.fit(build(), probe, validation, epochs=2, seed=SEED, **settings)
    return history.seconds.iloc[1] * share


def train_head(
    train: data.Tiles, parts: Parts, *, epochs: int, adapted: bool
) -> tuple[keras.Model, pd.DataFrame]:
    """Train a head on the frozen base, with its own statistics or those of the tiles."""
    keras.utils.set_random_seed(SEED)
    model = transfer.build_transfer(BASE)
    begin = time.perf_counter()
    if adapted:
        transfer.adapt(model, train, seed=SEED)
    adapting = time.perf_counter() - begin
    history = transfer.fit_head(model, train, parts.validation, seed=SEED, epochs=epochs, **HEAD)
    history.loc[0, "seconds"] += adapting
    return model, history


def fine_tune(
    name: str,
    train: data.Tiles,
    parts: Parts,
    *,
    head: int,
    epochs: int,
    fixed_statistics: bool,
    mixup: float = 0.0,
) -> None:
    """Train the head on features of the frozen base, then everything at a low rate."""
    model, first = train_head(train, parts, epochs=head, adapted=True)
    transfer.unfreeze(model, fixed_statistics=fixed_statistics)
    second = training.fit(
        model,
        train,
        parts.validation,
        epochs=epochs,
        seed=SEED,
        mixup=mixup,
        **FINE_TUNING,
        **KEPT,
    )
    record(name, model, pd.concat([first, second]), train, parts)


def same_time(train: data.Tiles, parts: Parts, *, suffix: str, **settings: object) -> None:
    """Train the same network from scratch, and ours, as long as the fine-tuned one took."""
    settings = {**RECIPE, **settings}
    budget = latest().loc[f"mobilenet-fine-tuned{suffix}", "seconds"]

    def scratch() -> keras.Model:
        keras.utils.set_random_seed(SEED)
        return transfer.build_transfer(BASE, weights=None)

    for name, build in (("mobilenet-scratch", scratch), ("cnn-same-time", lambda: cnn(train))):
        count = max(1, round(budget / seconds_an_epoch(build, train, parts, **settings)))
        model = build()
        history = training.fit(
            model, train, parts.validation, epochs=count, seed=SEED, **settings, **KEPT
        )
        record(f"{name}{suffix}", model, history, train, parts)


def average(
    model: keras.Model, kept: ensemble.Snapshots, history: pd.DataFrame, train: data.Tiles
) -> None:
    """Give the model the mean of the weights, and the history the time that this takes."""
    begin = time.perf_counter()
    ensemble.average_weights(model, kept.weight_sets, train, seed=SEED)
    history.loc[history.index[-1], "seconds"] += time.perf_counter() - begin


def frozen(parts: Parts) -> None:
    """Does a head on the frozen base suffice, and do adapted statistics help it? 3 minutes."""
    for name, adapted in (("mobilenet-frozen", False), ("mobilenet-frozen-adapted", True)):
        model, history = train_head(parts.train, parts, epochs=10, adapted=adapted)
        record(name, model, history, parts.train, parts)


def fine_tuned(parts: Parts) -> None:
    """Does fine-tuning a pretrained network beat our own? 16 minutes."""
    settings = {"head": 10, "epochs": 10, "fixed_statistics": False}
    fine_tune("mobilenet-fine-tuned", parts.train, parts, **settings)


def fine_tuned_longer(parts: Parts) -> None:
    """Does it help to fine-tune twice as long, with mix-up from the start? 33 minutes."""
    settings = {"head": 10, "epochs": 20, "fixed_statistics": False, "mixup": 0.2}
    fine_tune("mobilenet-fine-tuned-longer", parts.train, parts, **settings)


def fine_tuned_again(parts: Parts) -> None:
    """Do ten more epochs with mix-up help it, and averaged weights? 17 minutes."""
    model = keras.saving.load_model(MODELS / "mobilenet-fine-tuned.keras")
    row = latest().loc["mobilenet-fine-tuned"]
    before = pd.DataFrame({"seconds": [row["seconds"] / row["epochs"]] * row["epochs"]})
    kept = ensemble.Snapshots(range(7, 11))
    history = training.fit(
        model,
        parts.train,
        parts.validation,
        epochs=10,
        seed=SEED + 1,
        mixup=0.2,
        callbacks=[kept],
        **FINE_TUNING,
    )
    history = pd.concat([before, history], ignore_index=True)
    record("mobilenet-fine-tuned-again", model, history, parts.train, parts)
    average(model, kept, history, parts.train)
    record("mobilenet-averaged-weights", model, history, parts.train, parts)


def fixed_statistics(parts: Parts) -> None:
    """Is it better to keep batch normalization in inference mode? 16 minutes."""
    settings = {"head": 10, "epochs": 10, "fixed_statistics": True}
    fine_tune("mobilenet-fixed-statistics", parts.train, parts, **settings)


def negative_transfer(parts: Parts) -> None:
    """Does pretraining help where there are many tiles? Twice 16 minutes, after `fine_tuned`."""
    same_time(parts.train, parts, suffix="")


def few_fine_tuned(parts: Parts) -> None:
    """What should batch normalization do in fine-tuning with 100 tiles a class? Twice 3 minutes."""
    few = data.sample(parts.train, 1000, seed=SEED)
    for name, fixed in (("mobilenet-fine-tuned", False), ("mobilenet-fixed-statistics", True)):
        settings = {"head": 30, "epochs": 15, "fixed_statistics": fixed}
        fine_tune(f"{name}-100-a-class", few, parts, **settings)


def few_negative_transfer(parts: Parts) -> None:
    """Does pretraining help with 100 tiles a class? Twice 3 minutes, after `few_fine_tuned`."""
    few = data.sample(parts.train, 1000, seed=SEED)
    # With so few tiles, batches of 128 would leave too few updates.
    same_time(few, parts, suffix="-100-a-class", batch_size=32)


def ten_epochs(
    train: data.Tiles, parts: Parts, *, seed: int = SEED, **settings: object
) -> tuple[keras.Model, pd.DataFrame]:
    """Train the network of training.ipynb by half of its recipe."""
    model = cnn(train, seed=seed)
    history = training.fit(
        model, train, parts.validation, epochs=10, seed=seed, **RECIPE, **settings
    )
    return model, history


def balance(parts: Parts) -> None:
    """Do class weights or oversampling help the small classes? Three times 7 minutes.

    The weights of the last epochs of the first of them are also averaged.
    """
    kept = ensemble.Snapshots(range(8, 11))
    model, history = ten_epochs(parts.train, parts, callbacks=[kept])
    record("cnn-10-epochs", model, history, parts.train, parts)
    pasture(model, parts)
    average(model, kept, history, parts.train)
    record("cnn-averaged-weights", model, history, parts.train, parts)

    weights = training.class_weights(parts.train.labels)
    model, history = ten_epochs(parts.train, parts, class_weight=weights, **KEPT)
    record("cnn-class-weights", model, history, parts.train, parts)
    pasture(model, parts)

    repeated = data.oversample(parts.train, seed=SEED)
    model, history = ten_epochs(repeated, parts, **KEPT)
    record("cnn-oversampled", model, history, repeated, parts)
    pasture(model, parts)


def pasture(model: keras.Model, parts: Parts) -> None:
    """Print what becomes of the class with the fewest tiles."""
    answers = evaluation.softmax(
        model.predict(pipeline.dataset(parts.validation, batch_size=500), verbose=0)
    )
    table = evaluation.per_class(parts.validation.labels, answers, parts.validation.class_names)
    print(table.loc[["Pasture"]].round(4), flush=True)


def bagging(parts: Parts) -> None:
    """Do two networks vote better, of other seeds or of other draws of the tiles?

    Three times 7 minutes, after `balance`.
    """
    judges = pipeline.dataset(parts.validation, batch_size=500)
    first = keras.saving.load_model(MODELS / "cnn-10-epochs.keras")
    second, log = ten_epochs(parts.train, parts, seed=2, **KEPT)
    record("cnn-seed-2", second, log, parts.train, parts, seed=2)
    bagged, logs = [], []
    for seed in (1, 2):
        drawn = ensemble.bootstrap(parts.train, seed=seed)
        model, history = ten_epochs(drawn, parts, seed=seed, **KEPT)
        record(f"cnn-bagged-{seed}", model, history, drawn, parts, seed=seed)
        bagged.append(model)
        logs.append(history)
    seconds = {
        "cnn-two-seeds": latest().loc["cnn-10-epochs", "seconds"] + log.seconds.sum(),
        "cnn-two-bagged": pd.concat(logs).seconds.sum(),
    }
    for name, members in (("cnn-two-seeds", [first, second]), ("cnn-two-bagged", bagged)):
        answers = [evaluation.softmax(member.predict(judges, verbose=0)) for member in members]
        row = runs.record(
            name,
            ensemble.soft_vote(answers),
            train=parts.train,
            validation=parts.validation,
            seed=SEED,
            parameters=sum(member.count_params() for member in members),
            epochs=20,
            seconds=seconds[name],
        )
        print(row.round(4).to_string(index=False), flush=True)


def classifiers(parts: Parts) -> None:
    """Do support vector machines or trees read deep features better than a softmax? 15 minutes."""
    shipped = keras.saving.load_model(SHIPPED)
    history = pd.read_csv(SHIPPED.parent / "history.csv")
    runs.record_model(
        "cnn-90-epochs", shipped, history, train=parts.train, validation=parts.validation, seed=SEED
    )
    for network, model in (("cnn", shipped), ("imagenet", transfer.build_transfer(BASE))):
        begin = time.perf_counter()
        train, validation = (
            features.extract(model, part.images) for part in (parts.train, parts.validation)
        )
        extraction = time.perf_counter() - begin
        for name in features.CLASSIFIERS:
            begin = time.perf_counter()
            fitted = features.fit_classifier(name, train, parts.train.labels, seed=SEED)
            seconds = extraction + time.perf_counter() - begin
            row = runs.record(
                f"{network}-features-{name.replace(' ', '-')}",
                fitted.predict_proba(validation),
                train=parts.train,
                validation=parts.validation,
                seed=SEED,
                parameters=model.count_params(),
                epochs=1,
                seconds=seconds,
            )
            print(row.round(4).to_string(index=False), flush=True)


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
    )
    print(trials.round(5).to_string(index=False))
    network, fit = tuning.best_settings(trials)
    model = cnn(parts.train, **network)
    history = training.fit(
        model, parts.train, parts.validation, epochs=10, seed=SEED, **{**RECIPE, **KEPT, **fit}
    )
    record("cnn-best-of-search", model, history, parts.train, parts)


def bases(parts: Parts) -> None:
    """Which base learns fastest from scratch? 5 epochs on 200 tiles a class; 7 minutes.

    Small batches: their normalization follows the tiles within a hundred of them.
    """
    few = data.sample(parts.train, 2000, seed=SEED)
    names = ["MobileNet_0.75", "MobileNet", "MobileNetV2"]
    table, _ = transfer.compare_bases(
        names,
        few,
        parts.validation,
        epochs=5,
        batch_size=16,
        learning_rate=1e-3,
        seed=SEED,
        weights=None,
    )
    print(table.round(4).to_string())


def costs(names: list[str]) -> dict[str, int]:
    """Sum up what the members cost."""
    shipped = json.loads((SHIPPED.parent / "metadata.json").read_text())
    rows = latest()
    trained = [rows.loc[name] for name in names if name != "cnn-90-epochs"]
    trained += [shipped] * ("cnn-90-epochs" in names)
    return {
        "epochs": int(sum(row["epochs"] for row in trained)),
        "seconds": round(sum(row["seconds"] for row in trained)),
    }


def vote(parts: Parts) -> None:
    """Does a vote of our network and four fine-tuned ones beat its best member? 10 minutes."""
    paths = {"cnn-90-epochs": SHIPPED, **{name: MODELS / f"{name}.keras" for name in VOTERS}}
    members = [keras.saving.load_model(path) for path in paths.values()]
    labels, images = parts.validation.labels, parts.validation.images
    logits = [member.predict(images.astype("float32"), verbose=0) for member in members]
    temperatures = [evaluation.fit_temperature(labels, rows) for rows in logits]

    def answers(number: int, images: np.ndarray) -> np.ndarray:
        rows = members[number].predict(images.astype("float32"), verbose=0)
        return evaluation.softmax(rows, temperatures[number])

    alone = [
        evaluation.softmax(rows, temperature)
        for rows, temperature in zip(logits, temperatures, strict=True)
    ]
    turned = [
        ensemble.average_over_symmetries(partial(answers, number), images)
        for number in range(len(members))
    ]
    for name, rows in zip(paths, alone, strict=True):
        print(f"{name:28}{evaluation.scores(labels, rows)['accuracy']:.4f}")
    chosen = None
    for symmetries, rows in ((False, alone), (True, turned)):
        weights = ensemble.vote_weights(labels, rows)
        mixed = ensemble.soft_vote(rows, weights)
        loss = sklearn.metrics.log_loss(labels, mixed)
        accuracy = evaluation.scores(labels, mixed)["accuracy"]
        print(f"{symmetries=}: {accuracy:.4f}, log loss {loss:.4f}, {weights.round(3)}")
        if chosen is None or loss < chosen[0]:
            chosen = loss, symmetries, weights
    _, symmetries, weights = chosen
    model = ensemble.average_models(
        members, temperatures=temperatures, weights=weights, symmetries=symmetries
    )
    logits = model.predict(images.astype("float32"), batch_size=50, verbose=0)
    temperature = evaluation.fit_temperature(labels, logits)
    validation = evaluation.softmax(logits, temperature)

    best = int(np.argmax([evaluation.scores(labels, rows)["accuracy"] for rows in alone]))
    judged = parts.test
    logits = model.predict(judged.images.astype("float32"), batch_size=50, verbose=0)
    probabilities = evaluation.softmax(logits, temperature)
    alone = [answers(number, judged.images) for number in range(len(members))]
    compared = evaluation.compare(judged.labels, probabilities, alone[best])
    print(f"on test, against {list(paths)[best]}:\n{pd.Series(compared)}")
    for name, rows in zip(paths, alone, strict=True):
        scores = evaluation.scores(judged.labels, rows)
        print(f"{name:28}{scores['accuracy']:.4f} on test")
    scores = {
        "validation": evaluation.scores(labels, validation),
        "test": evaluation.scores(judged.labels, probabilities),
    }
    print(pd.DataFrame(scores).T)
    cost = costs([name for name, weight in zip(paths, weights, strict=True) if weight])
    row = runs.record(
        "vote",
        validation,
        train=parts.train,
        validation=parts.validation,
        seed=SEED,
        parameters=model.count_params(),
        **cost,
    )
    print(row.round(4).to_string(index=False))
    artifact.save(
        model,
        "saved_model/ensemble",
        metadata={
            "class_names": judged.class_names,
            "data_source": judged.source,
            "split": {"seed": 0, "validation_fraction": 0.08, "test_fraction": 0.2},
            "scores": scores,
            "confidence_threshold": evaluation.confidence_threshold(labels, validation),
            **cost,
            "hardware": training.hardware(),
        },
        history=pd.DataFrame({"member": list(paths), "weight": weights}),
        test_names=judged.names,
        temperature=temperature,
    )


# What is compared with what, by the names of their rows.
PAIRS = (
    ("mobilenet-frozen-adapted", "mobilenet-frozen"),
    ("mobilenet-fixed-statistics", "mobilenet-frozen-adapted"),
    ("mobilenet-fine-tuned", "mobilenet-fixed-statistics"),
    ("mobilenet-fine-tuned-longer", "mobilenet-fine-tuned"),
    ("mobilenet-fine-tuned-again", "mobilenet-fine-tuned"),
    ("mobilenet-averaged-weights", "mobilenet-fine-tuned-again"),
    ("cnn-same-time", "mobilenet-fine-tuned"),
    ("mobilenet-scratch", "cnn-same-time"),
    ("mobilenet-fine-tuned-100-a-class", "mobilenet-fixed-statistics-100-a-class"),
    ("cnn-same-time-100-a-class", "mobilenet-fixed-statistics-100-a-class"),
    ("mobilenet-scratch-100-a-class", "cnn-same-time-100-a-class"),
    ("cnn-averaged-weights", "cnn-10-epochs"),
    ("cnn-class-weights", "cnn-10-epochs"),
    ("cnn-oversampled", "cnn-10-epochs"),
    ("cnn-best-of-search", "cnn-10-epochs"),
    ("cnn-two-seeds", "cnn-10-epochs"),
    ("cnn-two-bagged", "cnn-10-epochs"),
    ("cnn-two-bagged", "cnn-two-seeds"),
    ("vote", "cnn-90-epochs"),
    *((f"cnn-features-{name.replace(' ', '-')}", "cnn-90-epochs") for name in features.CLASSIFIERS),
    *(
        (f"imagenet-features-{name.replace(' ', '-')}", "mobilenet-frozen")
        for name in features.CLASSIFIERS
    ),
)


def differences(parts: Parts) -> None:  # noqa: ARG001
    """What is better than what? Of the rows that are there; seconds."""
    table = latest()
    for one, other in PAIRS:
        if {one, other} <= set(table.index):
            pair = runs.compare(table.run[one], table.run[other])
            low, high = pair.difference_low, pair.difference_high
            print(
                f"{one:40}{pair.accuracy:7.2%} against {pair.other_accuracy:.2%} of {other:40}"
                f"{pair.difference:+.2%} ({low:+.2%} to {high:+.2%}), p = {pair.p_value:.2g}"
            )


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
    bases,
    vote,
    differences,
)


def main() -> None:
    """Run the experiments that are named, in that order."""
    known = {experiment.__name__: experiment for experiment in EXPERIMENTS}
    names = sys.argv[1:]
    if not names or set(names) - set(known):
        for name, experiment in known.items():
            print(f"{name:24}{experiment.__doc__}")
        sys.exit(f"Name one or more of these. Received: {' '.join(names) or 'nothing'}.")
    training.set_up_devices(seed=SEED)
    parts = Parts(*data.split(data.load("EuroSAT")))
    if parts.train.demo:
        sys.exit("Set EUROSAT_ARCHIVE to EuroSAT.zip, or put the zip into EuroSAT/.")
    for name in names:
        print(f"== {name}", flush=True)
        known[name](parts)


if __name__ == "__main__":
    main()
