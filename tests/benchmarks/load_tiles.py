"""Measure how long `data.load` takes for the 27,000 tiles, and how much memory.

Run `python tests/benchmarks/load_tiles.py` where the environment variable EUROSAT_ARCHIVE names
EuroSAT.zip, or the zip lies in `EuroSAT/`. Each load runs in a fresh process, the first without a
cache and the second with it; seconds are those of the call alone, and memory is the peak beyond
that of the imported libraries. The table shows the median of three.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
REPEATS = 3
TARGETS = {"first load, s": 10, "second load, s": 1, "peak memory, MB": 700}

LOAD = """
import json, sys, time
from eurosat_helpers import data

def peak():  # megabytes; Linux counts in kilobytes, macOS and Windows in bytes
    if sys.platform == "win32":
        import psutil
        return psutil.Process().memory_info().peak_wset / 1e6
    import resource
    unit = 1e6 if sys.platform == "darwin" else 1e3
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit

imported, started = peak(), time.perf_counter()
tiles = data.load(sys.argv[1])
print(json.dumps([len(tiles), time.perf_counter() - started, peak() - imported]))
"""


def load(data_dir: Path, archive: Path) -> tuple[int, float, float]:
    """Load in a fresh process: number of tiles, seconds, megabytes above the libraries."""
    process = subprocess.run(
        [sys.executable, "-c", LOAD, data_dir],
        cwd=PROJECT,
        env={**os.environ, "EUROSAT_ARCHIVE": str(archive)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return tuple(json.loads(process.stdout.splitlines()[-1]))


def main() -> None:
    """Print measured values beside their targets."""
    archives = [os.environ.get("EUROSAT_ARCHIVE"), *(PROJECT / "EuroSAT").glob("*.zip")]
    archive = next((Path(path).resolve() for path in archives if path), None)
    if archive is None:
        sys.exit("Set EUROSAT_ARCHIVE to EuroSAT.zip, or put the zip into EuroSAT/.")
    measured = {name: [] for name in TARGETS}
    for _ in range(REPEATS):
        with tempfile.TemporaryDirectory() as temporary:
            data_dir = Path(temporary) / "EuroSAT"
            count, first, peak = load(data_dir, archive)
            _, second, peak_again = load(data_dir, archive)
        for name, value in zip(TARGETS, (first, second, max(peak, peak_again)), strict=True):
            measured[name].append(value)
    print(f"{count:,} tiles, {os.cpu_count()} cores, median of {REPEATS}")
    print(f"{'':16}{'measured':>10}{'target':>8}{'ratio':>7}")
    for name, target in TARGETS.items():
        value = statistics.median(measured[name])
        print(f"{name:16}{value:>10.2f}{target:>8}{value / target:>7.2f}")


if __name__ == "__main__":
    main()
