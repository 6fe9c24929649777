"""Measure what a saved model makes of changed test tiles, and of other decoders.

Run `python tests/benchmarks/robustness.py [FOLDER]` where the environment variable EUROSAT_ARCHIVE
names EuroSAT.zip, or the zip lies in `EuroSAT/`; FOLDER is that of the saved model, by default the
shipped one. The tiles are 2,700 of its test tiles, drawn with seed 0. `results/robustness.png`
shows the medium strength.
"""

from __future__ import annotations

import os
import sys
import zipfile
from pathlib import Path

import numpy as np
import tensorflow as tf

from eurosat_helpers import artifact, corruptions, data, evaluation, plots

PROJECT = Path(__file__).resolve().parents[2]


def decoded(archive: str | Path, names: np.ndarray, **options: object) -> np.ndarray:
    """Decode the files of the archive in another way than `data.load` does."""
    with zipfile.ZipFile(archive) as file:
        paths = {"/".join(path.split("/")[-2:]): path for path in file.namelist()}
        images = [tf.io.decode_jpeg(file.read(paths[name]), **options) for name in names]
    return np.stack(images)


def main() -> None:
    """Print a table per strength, and one of decoders."""
    archives = [os.environ.get("EUROSAT_ARCHIVE"), *(PROJECT / "EuroSAT").glob("*.zip")]
    archive = next((path for path in archives if path), None)
    if archive is None:
        sys.exit("Set EUROSAT_ARCHIVE to EuroSAT.zip, or put the zip into EuroSAT/.")
    folder = sys.argv[1] if len(sys.argv) > 1 else PROJECT / "saved_model" / "eurosat_cnn"
    classifier = artifact.load(folder)
    threshold = classifier.metadata["confidence_threshold"]["threshold"]
    tiles = data.select(data.load(PROJECT / "EuroSAT"), classifier.test_names)
    tiles = data.sample(tiles, min(2700, len(tiles)), seed=0)
    for strength in (1, 2, 3):
        answers = {"unchanged": classifier.predict(tiles.images)}
        for name in corruptions.CORRUPTIONS:
            changed = corruptions.corrupt(tiles.images, name, strength=strength)
            answers[name] = classifier.predict(changed)
        table = evaluation.robustness(tiles.labels, answers, threshold)
        if strength == 2:
            title = f"{len(tiles):,} test tiles, as they are and changed, {tiles.source}"
            plots.robustness(table, title=title).savefig(PROJECT / "results" / "robustness.png")
        table.loc["mean of the changes"] = table.drop(index="unchanged").mean()
        print(f"\nstrength {strength}, {len(tiles)} tiles\n{table.round(3).to_string()}")
    decoders = {"fast transform": {}, "… and color not smoothed": {"fancy_upscaling": False}}
    answers = {
        name: classifier.predict(
            decoded(archive, tiles.names, dct_method="INTEGER_FAST", **options)
        )
        for name, options in decoders.items()
    }
    table = evaluation.robustness(tiles.labels, answers, threshold)
    print(f"\nother decoders\n{table.round(4).to_string()}")


if __name__ == "__main__":
    main()
