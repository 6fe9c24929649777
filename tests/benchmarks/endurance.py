"""Does a long job stay small, and a large folder quick? Memory and time as ratios.

Run `python -m tests.benchmarks.endurance` from the project's folder, where the environment variable
EUROSAT_ARCHIVE names EuroSAT.zip, or the zip lies in `EuroSAT/`. 15 minutes on 2 cores.
"""

from __future__ import annotations

import itertools
import os
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from eurosat_helpers import artifact, data
from tests.conftest import write_demo

TILES = 500_000
BATCH = 1_000
FILES = 10_000, 100_000


def peak() -> float:
    """Return the most memory that this process had so far, in MB; Linux counts in kilobytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (
        1e6 if sys.platform == "darwin" else 1e3
    )


def predict() -> None:
    """Predict the real tiles again and again, from a generator."""
    tiles = data.load("EuroSAT")
    if tiles.demo:
        sys.exit("Set EUROSAT_ARCHIVE to EuroSAT.zip, or put the zip into EuroSAT/.")
    images = np.array(tiles.images)  # in memory: mapped pages come in one by one and count too
    classifier = artifact.load("saved_model/eurosat_cnn")

    def batches() -> Iterator[np.ndarray]:
        starts = itertools.cycle(range(0, len(images) - BATCH + 1, BATCH))
        for start in itertools.islice(starts, TILES // BATCH):
            yield images[start : start + BATCH]

    sizes, begin = [], time.perf_counter()
    for batch in batches():
        rows = classifier.predict(batch)
        assert rows.shape == (BATCH, len(tiles.class_names))
        sizes.append(peak())
    seconds = time.perf_counter() - begin
    first, most = sizes[len(sizes) // 50], sizes[-1]
    print(f"{TILES:,} tiles in {seconds:,.0f} s, {TILES / seconds:,.0f} tiles/s")
    print(f"memory {first:,.0f} MB after 2 %, {most:,.0f} MB at most: {most - first:+,.0f} MB")


def read() -> None:
    """Read folders of many files: links to 60 demo tiles, which cost no room."""
    seconds = []
    for count in FILES:
        with tempfile.TemporaryDirectory() as scratch:
            few = write_demo(Path(scratch) / "few", tiles_per_class=6)
            originals = sorted(few.rglob("*.jpg"))
            folder = Path(scratch) / "many"
            for number in range(count):
                original = originals[number % len(originals)]
                link = folder / original.parent.name / f"{original.parent.name}_{number}.jpg"
                link.parent.mkdir(parents=True, exist_ok=True)
                os.link(original, link)
            begin = time.perf_counter()
            assert len(data.load(folder)) == count
            seconds.append((time.perf_counter() - begin) / count)
            print(f"{count:,} files: {seconds[-1] * 1e6:,.0f} µs per file")
    print(f"ratio {seconds[1] / seconds[0]:.2f}")


if __name__ == "__main__":
    read()
    predict()
