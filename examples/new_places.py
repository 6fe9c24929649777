"""Measure what other places than those of the training cost.

Run `python examples/new_places.py NAMES saved_model/places fine_tuned` where the environment
variable EUROSAT_ARCHIVE names EuroSAT.zip, or the zip lies in `EuroSAT/`. NAMES is a file with the
names of the test tiles, such as TorchGeo's `eurosat-spatial-test.txt`. After it come folders of
models that training.ipynb has saved with the same list (`split` with `test_names`), and
`fine_tuned`, which is trained here. An interrupted training resumes, and a finished one is not
repeated, except for its new head.

Choices may look at the tiles whose SHA-256 of the name ends in an even digit; the others are for
one report at the end, and all of them for comparison with other projects.
"""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

import keras
import numpy as np
import pandas as pd
from experiments import BASE, FINE_TUNING, HEAD, SEED, Parts, logits
from scipy.special import softmax
from sklearn.metrics import f1_score

from eurosat_helpers import calibration, corruptions, data, devices, evaluation, record, training
from eurosat_helpers.improvements import bases, transfer

SPLIT = {"seed": 0, "validation_fraction": 0.08}
CHANGED, COMPRESSED = 0.5, 0.25  # shares of the tiles, as in training.ipynb


def fine_tuned(train: data.Tiles, validation: data.Tiles) -> tuple[keras.Model, pd.DataFrame]:
    """MobileNet 0.75 with ImageNet weights: its head for 8 epochs, then all of it for 12."""
    model = bases.build_transfer(BASE, changed=CHANGED, seed=SEED)
    head = transfer.fit_head(model, train, validation, epochs=8, seed=SEED, **HEAD)
    transfer.unfreeze(model, fixed_statistics=False)
    settings = {"epochs": 12, "seed": SEED, "compressed": COMPRESSED, **FINE_TUNING}
    settings["learning_rate"] = 3e-4
    settings["checkpoint_dir"] = "checkpoints/places_fine_tuned"
    history = training.fit(model, train, validation, **settings)
    return model, pd.concat([head, history])


def report(model: keras.Model, parts: Parts) -> pd.Series:
    """Calibrate a model on validation; measure it on the test places, as they are and changed."""
    _, validation, test = parts
    known = logits(model, validation)
    temperature = calibration.fit_temperature(validation.labels, known)
    probabilities = softmax(logits(model, test) / temperature, axis=1)
    row = {"validation": (known.argmax(axis=1) == validation.labels).mean()}
    even = np.array([_digest(name) % 2 == 0 for name in test.names])
    for part, chosen in (("even half", even), ("odd half", ~even), ("all", even | ~even)):
        scores = evaluation.scores(test.labels[chosen], probabilities[chosen])
        row[part] = scores["accuracy"]
    row |= {key: scores[key] for key in ("accuracy_low", "accuracy_high", "calibration_error")}
    threshold = calibration.confidence_threshold(
        validation.labels, softmax(known / temperature, axis=1), accuracy=0.995
    )["threshold"]
    summary = evaluation.robustness(test.labels, {"all": probabilities}, threshold)
    row |= summary.loc["all", ["sure", "right_when_sure"]].to_dict()
    some = data.sample(test, min(1000, len(test)), seed=0)
    right = [
        model.predict(corruptions.corrupt(some.images, name), verbose=0).argmax(axis=1)
        == some.labels
        for name in corruptions.CORRUPTIONS
    ]
    row["changed"] = np.mean(right)
    row |= {
        f"F1 {name}": value
        for name, value in zip(
            test.class_names,
            f1_score(test.labels, probabilities.argmax(axis=1), average=None),
            strict=True,
        )
        if value < 0.9
    }
    return pd.Series(row)


def _digest(name: str) -> int:
    return int(hashlib.sha256(name.rpartition("/")[2].encode()).hexdigest(), 16)


def load(name: str, parts: Parts) -> keras.Model:
    """Read a model that was tested on these places, or fine-tune one."""
    if name != "fine_tuned":
        about, tested = record.read(Path(name))
        known = {key: about["split"].get(key, SPLIT[key]) for key in SPLIT}
        if set(tested) != set(parts.test.names) or known != SPLIT:
            sys.exit(f"`{name}` must be trained with `test_names` of this list and {SPLIT}.")
        return keras.saving.load_model(Path(name) / "model.keras", compile=False)
    model, history = fine_tuned(parts.train, parts.validation)
    print(f"{name}: {history.seconds.sum() / 60:.1f} minutes")
    return model


def main() -> None:
    """Measure the models that are named."""
    if len(sys.argv) < 3:
        sys.exit("Give a file of names, then folders of saved models or `fine_tuned`.")
    test_names, *names = sys.argv[1:]
    test_names = Path(test_names).resolve()
    names = [name if name == "fine_tuned" else str(Path(name).resolve()) for name in names]
    os.chdir(Path(__file__).resolve().parent.parent)  # the paths are those of the project
    strategy = devices.set_up(seed=SEED)
    parts = Parts(*data.split(data.load("EuroSAT"), **SPLIT, test_names=test_names))
    rows = {}
    for name in names:
        with strategy.scope():
            model = load(name, parts)
        rows[os.path.relpath(name)] = row = report(model, parts)
        print(row.round(4).to_string(), flush=True)
    print(pd.DataFrame(rows).T.round(4).to_string())


if __name__ == "__main__":
    main()
