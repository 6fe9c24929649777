"""Measure how fast a zip file of images is classified, against decoding plus `serve` from memory.

Run `python -m tests.benchmarks.images` in the project's folder, where the environment variable
EUROSAT_ARCHIVE names EuroSAT.zip, or the zip lies in `EuroSAT/`. It takes about two minutes on 2
cores. The two sides take turns, five times, in one process; it prints the ratio of the medians
(aim: at least 0.8), and the largest memory of the process after a quarter and after all of 4,000
files, or of as many as an argument says: `python -m tests.benchmarks.images 100000`.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from eurosat_helpers import artifact, decoding, image_files
from tests.benchmarks.endurance import peak

PROJECT = Path(__file__).resolve().parents[2]
FILES = 4000
REPEATS = 5


def seconds(function: Callable[[], object]) -> float:
    """Seconds that one call takes."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def main() -> None:
    """Print the ratio and the memory."""
    archives = [os.environ.get("EUROSAT_ARCHIVE"), *(PROJECT / "EuroSAT").glob("*.zip")]
    archive = next((path for path in archives if path), None)
    if archive is None:
        sys.exit("Set EUROSAT_ARCHIVE to EuroSAT.zip, or put the zip into EuroSAT/.")
    classifier = artifact.load(PROJECT / "saved_model" / "eurosat_cnn")
    with zipfile.ZipFile(archive) as file:
        names = [name for name in file.namelist() if name.endswith(".jpg")][:: 27000 // FILES]
        encoded = [file.read(name) for name in names[:FILES]]
    count = int(sys.argv[1]) if len(sys.argv) > 1 else FILES
    sources = {}
    with tempfile.TemporaryDirectory() as folder:
        for part in {FILES, count // 4, count}:
            sources[part] = Path(folder, f"{part}.zip")
            with zipfile.ZipFile(sources[part], "w") as file:
                for number in range(part):
                    file.writestr(f"{number:06}.jpg", encoded[number % FILES])

        def whole() -> None:
            image_files.classify(sources[FILES], classifier)

        def parts() -> None:
            images = np.stack([np.asarray(decoding.decode(content)) for content in encoded])
            classifier.serve(images)

        for part in (count // 4, count):
            image_files.classify(sources[part], classifier)
            print(f"memory: {peak():.0f} MB after {part} files", flush=True)
        times = [(seconds(parts), seconds(whole)) for _ in range(REPEATS)]
    apart, together = (statistics.median(side) for side in zip(*times, strict=True))
    print(f"rate of `classify` / rate of decoding plus `serve`: {apart / together:.2f}")
    print("ratios of the turns:", *(f"{one / other:.2f}" for one, other in times))


if __name__ == "__main__":
    main()
