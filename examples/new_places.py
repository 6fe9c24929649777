"""Train apart from the places of a test list, and measure what that costs.

Run `python examples/new_places.py NAMES fine_tuned scratch taught` where the environment variable
EUROSAT_ARCHIVE names EuroSAT.zip, or the zip lies in `EuroSAT/`, and NAMES is a file with the names
of the test tiles, such as TorchGeo's `eurosat-spatial-test.txt`. Each model is kept as
`saved_model/places_...` and not trained again while it is there. An interrupted training resumes.

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
from scipy.special import softmax

from eurosat_helpers import (
    artifact,
    calibration,
    corruptions,
    data,
    devices,
    evaluation,
    models,
    pipeline,
    training,
)
from eurosat_helpers.improvements import bases, transfer

SEED = 1
SAVED = Path("saved_model")
CHANGES = {"compressed": 0.25}  # and half of the tiles changed, as in training.ipynb
RECIPE = {"batch_size": 128, "learning_rate": 0.003, "weight_decay": 0.05, "label_smoothing": 0.1}
HEAD = {"batch_size": 128, "learning_rate": 1e-3, "weight_decay": 0.05, "label_smoothing": 0.1}
# No smoothed labels: they hide which classes a tile is like (Müller et al., arXiv 1906.02629),
# which is what a pupil learns from.
FINE_TUNING = {"batch_size": 64, "learning_rate": 5e-4, "weight_decay": 0.05, "mixup": 0.2}


def fine_tuned(train: data.Tiles, validation: data.Tiles) -> tuple[keras.Model, pd.DataFrame]:
    """MobileNet 0.75 with ImageNet weights: its head for 8 epochs, then all of it for 12."""
    model = bases.build_transfer("MobileNet_0.75", changed=0.5, seed=SEED)
    head = transfer.fit_head(model, train, validation, epochs=8, seed=SEED, **HEAD)
    transfer.unfreeze(model, fixed_statistics=False)
    settings = {"epochs": 12, "seed": SEED, **FINE_TUNING, **CHANGES}
    history = training.fit(
        model, train, validation, checkpoint_dir="checkpoints/places_fine_tuned", **settings
    )
    return model, pd.concat([head, history])


def scratch(
    train: data.Tiles, validation: data.Tiles, name: str = "scratch", **settings: object
) -> tuple[keras.Model, pd.DataFrame]:
    """The network and recipe of training.ipynb, 30 epochs."""
    mean, variance = pipeline.channel_statistics(train)
    model = models.build_cnn(mean=mean, variance=variance, changed=0.5, seed=SEED)
    settings = {"epochs": 30, "seed": SEED, **RECIPE, **CHANGES, **settings}
    folder = f"checkpoints/places_{name}"
    return model, training.fit(model, train, validation, checkpoint_dir=folder, **settings)


def taught(train: data.Tiles, validation: data.Tiles) -> tuple[keras.Model, pd.DataFrame]:
    """The same on the answers of the fine-tuned network in place of the labels."""
    teacher = SAVED / "places_fine_tuned" / "model.keras"
    return scratch(train, validation, "taught", teacher=teacher, label_smoothing=0.0)


def save(name: str, parts: tuple[data.Tiles, data.Tiles, data.Tiles]) -> None:
    """Train one model, calibrate it on validation, and save it."""
    train, validation, test = parts
    model, history = EXPERIMENTS[name](train, validation)
    logits = model.predict(pipeline.dataset(validation, batch_size=500), verbose=0)
    temperature = calibration.fit_temperature(validation.labels, logits)
    probabilities = softmax(logits / temperature, axis=1)
    artifact.save(
        model,
        SAVED / f"places_{name}",
        test=test,
        parameters={"experiment": name, "seed": SEED},
        scores={"validation": evaluation.scores(validation.labels, probabilities)},
        history=history.reset_index(drop=True),
        temperature=temperature,
        confidence_threshold=calibration.confidence_threshold(
            validation.labels, probabilities, accuracy=0.995
        ),
    )


def report(folder: Path, tiles: data.Tiles) -> dict[str, float]:
    """Measure a saved model on the test places: all, each half, and changed."""
    classifier = artifact.load(folder)
    test = data.select(tiles, classifier.test_names)
    even = np.array([_digest(name) % 2 == 0 for name in test.names])
    probabilities = classifier.predict(test.images)
    row = {"validation": classifier.metadata["scores"]["validation"]["accuracy"]}
    for part, chosen in (("even half", even), ("odd half", ~even), ("all", even | ~even)):
        scores = evaluation.scores(test.labels[chosen], probabilities[chosen])
        row[part] = scores["accuracy"]
    row |= {key: scores[key] for key in ("accuracy_low", "accuracy_high", "calibration_error")}
    some = data.sample(test, min(1000, len(test)), seed=0)
    answers = {
        name: classifier.predict(corruptions.corrupt(some.images, name))
        for name in corruptions.CORRUPTIONS
    }
    threshold = classifier.metadata["confidence_threshold"]["threshold"]
    row["changed"] = evaluation.robustness(some.labels, answers, threshold).accuracy.mean()
    right = probabilities.argmax(axis=1) == test.labels
    classes = pd.Series(right).groupby(test.truth).mean().sort_values()
    print(f"{folder.name}, recall of the weakest classes:\n{classes.head(4).round(3).to_string()}")
    return row


def _digest(name: str) -> int:
    return int(hashlib.sha256(name.rpartition("/")[2].encode()).hexdigest(), 16)


EXPERIMENTS = {function.__name__: function for function in (fine_tuned, scratch, taught)}


def main() -> None:
    """Train the models that are named and not there yet, and compare all that are there."""
    names = sys.argv[2:]
    if not names or set(names) - set(EXPERIMENTS):
        sys.exit(f"Give a file of names, then one or more of {', '.join(EXPERIMENTS)}.")
    test_names = Path(sys.argv[1]).resolve()
    os.chdir(Path(__file__).resolve().parent.parent)  # the paths are those of the project
    strategy = devices.set_up(seed=SEED)
    tiles = data.load("EuroSAT")
    parts = data.split(tiles, test_names=test_names)
    for name in names:
        if not (SAVED / f"places_{name}").exists():
            with strategy.scope():
                save(name, parts)
    rows = {name: report(SAVED / f"places_{name}", tiles) for name in names}
    print(pd.DataFrame(rows).T.round(4).to_string())


if __name__ == "__main__":
    main()
