"""Change the recipe of training.ipynb in one thing at a time, and train with three seeds each.

Run `python -m tests.benchmarks.recipes` where the environment variable EUROSAT_ARCHIVE names
EuroSAT.zip, or the zip lies in `EuroSAT/`; fifteen minutes on 2 cores. Each training is short, 6
epochs on 3,000 tiles, judged on the validation tiles as they are and on 500 of them under seven
changes, three of which are no part of the training. No test tile is used.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from eurosat_helpers import corruptions, data, devices, models, pipeline, training

RECIPE = {"epochs": 6, "batch_size": 128, "learning_rate": 0.01, "weight_decay": 0.05}
RECIPE |= {"label_smoothing": 0.1, "compressed": 0.25}
TILES, SEEDS = 3000, (1, 2, 3)
VARIANTS = {
    "AdamW, peak learning rate 0.003": {"muon": False, "learning_rate": 0.003},
    "AdamW, 0.01": {"muon": False},
    "Muon, 0.003": {"learning_rate": 0.003},
    "Muon, 0.01 (the recipe)": {},
    "… batches of 256": {"batch_size": 256},
    "… batch normalization that forgets faster, momentum 0.9": {"momentum": 0.9},
}
CHANGES = ("jpeg", "webp", "sharpening", "haze removed", "gamma", "rotation", "shot noise")


def train(
    parts: tuple[data.Tiles, data.Tiles], seed: int, momentum: float = 0.98, **settings: object
) -> dict[str, float]:
    """Train once; return accuracies, and tiles per second."""
    tiles, validation = parts
    mean, variance = pipeline.channel_statistics(tiles)
    model = models.build_cnn(mean=mean, variance=variance, changed=0.5, seed=seed)
    for layer in model.layers:
        if isinstance(layer, models.FusedBatchNormalization):
            layer.momentum = momentum
    options = {**RECIPE, **settings}
    history = training.fit(model, tiles, validation, seed=seed, **options)
    some = data.sample(validation, 500, seed=0)
    right = [
        model.predict(corruptions.corrupt(some.images, name), verbose=0).argmax(axis=1)
        == some.labels
        for name in CHANGES
    ]
    return {
        "validation": history["val_accuracy"].iloc[-1],
        "changed": np.mean(right),
        "training loss": history["loss"].iloc[-1],
        "tiles/s": len(tiles) / history["seconds"].median(),
    }


def main() -> None:
    """Print mean and range over the seeds, one row per variant."""
    devices.set_up(seed=0)
    everything, validation, _ = data.split(data.load("EuroSAT"))
    parts = data.sample(everything, TILES, seed=0), validation
    for name, settings in VARIANTS.items():
        runs = pd.DataFrame([train(parts, seed, **settings) for seed in SEEDS])
        cells = [
            f"{runs[key].mean():.2%} ({runs[key].min():.2%} to {runs[key].max():.2%})"
            for key in ("validation", "changed")
        ]
        rest = f"{runs['training loss'].mean():.3f} | {runs['tiles/s'].median():.0f}"
        print(f"| {name} | {' | '.join(cells)} | {rest} |", flush=True)


if __name__ == "__main__":
    main()
