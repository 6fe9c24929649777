"""Do scores find land cover that the network has no class for?

Run `python -m tests.benchmarks.unseen_classes`, where the environment variable EUROSAT_ARCHIVE
names EuroSAT.zip. Ten networks, each trained without the tiles of one class (4,000 tiles, 8 epochs
of the recipe of training.ipynb without squares and mix-up; ten minutes on 2 cores), judge test
tiles of that class and of the others. The scores are those of `outliers.py`.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import keras
import numpy as np
import pandas as pd
from scipy.special import softmax
from sklearn.metrics import roc_auc_score

from eurosat_helpers import calibration, data, devices, models, outliers, pipeline, training
from tests.benchmarks.outliers import scores

PROJECT = Path(__file__).resolve().parents[2]
TILES, JUDGED, SEED = 4000, 1000, 1
RECIPE = {"epochs": 8, "batch_size": 128, "learning_rate": 0.01, "weight_decay": 0.05}
RECIPE |= {"label_smoothing": 0.1, "compressed": 0.25, "seed": SEED}


def without(tiles: data.Tiles, label: int) -> data.Tiles:
    """Leave out one class, and number the others again."""
    rest = tiles[tiles.labels != label]
    names = tuple(name for name in tiles.class_names if name != tiles.class_names[label])
    return dataclasses.replace(rest, labels=rest.labels - (rest.labels > label), class_names=names)


def judge(
    parts: tuple[data.Tiles, data.Tiles, data.Tiles], label: int
) -> tuple[dict[str, float], dict[str, float]]:
    """Train without one class; return the AUROC of each score, and what is said of its tiles."""
    train, validation, test = (without(part, label) for part in parts)
    train, test = data.sample(train, TILES, seed=SEED), data.sample(test, JUDGED, seed=SEED)
    unseen = parts[2][parts[2].labels == label]
    mean, variance = pipeline.channel_statistics(train)
    model = models.build_cnn(
        mean=mean, variance=variance, num_classes=len(train.class_names), changed=0.5, seed=SEED
    )
    training.fit(model, train, validation, **RECIPE)
    detector = outliers.fit(model, train, seed=SEED)
    limit = outliers.threshold(detector, validation, seed=SEED)["threshold"]
    inner = keras.Model(model.input, [model.get_layer("head-pool").output, model.output])

    head = model.get_layer("head-logits").get_weights()

    def answers(tiles: data.Tiles) -> tuple[np.ndarray, np.ndarray]:
        return inner.predict(tiles.images, batch_size=250, verbose=0)

    _, logits = answers(validation)
    temperature = calibration.fit_temperature(validation.labels, logits)
    certain = calibration.confidence_threshold(
        validation.labels, softmax(logits / temperature, axis=1), accuracy=0.995
    )["threshold"]
    fitted = np.concatenate([train.images[:3000], outliers._changed(train[:3000], SEED)])
    compared = scores(*inner.predict(fitted, batch_size=250, verbose=0), head)
    known, strange = answers(test), answers(unseen)
    found = {name: [score(*known), score(*strange)] for name, score in compared.items()}
    found["unfamiliarity (exported)"] = [
        detector.predict(tiles.images, verbose=0) for tiles in (test, unseen)
    ]
    truth = np.repeat([0, 1], [len(test), len(unseen)])
    areas = {name: roc_auc_score(truth, np.concatenate(rows)) for name, rows in found.items()}
    said = {}
    for name, (_, outputs) in (("known", known), ("unseen", strange)):
        said[f"{name}: sure"] = (
            softmax(outputs / temperature, axis=1).max(axis=1) >= certain
        ).mean()
    said["known: right"] = (known[1].argmax(axis=1) == test.labels).mean()
    said["unseen: refused"] = (found["unfamiliarity (exported)"][1] > limit).mean()
    answer = np.bincount(strange[1].argmax(axis=1), minlength=len(test.class_names))
    said["taken for"] = test.class_names[answer.argmax()]
    return areas, said


def main() -> None:
    """Print both tables, one row per class that was left out."""
    devices.set_up(seed=SEED)
    parts = data.split(data.load(PROJECT / "EuroSAT"))
    areas, said = {}, {}
    for label, name in enumerate(parts[0].class_names):
        areas[name], said[name] = judge(parts, label)
        print(f"{name}: {said[name]}", flush=True)
    table = pd.DataFrame(areas).T
    table.loc["mean"] = table.mean()
    print(f"\nAUROC in percent\n{table.mul(100).round(1).to_string()}")
    table = pd.DataFrame(said).T
    print(f"\nShares\n{table.to_string()}\n{table.drop(columns='taken for').astype(float).mean()}")


if __name__ == "__main__":
    main()
