"""Measure what a land-cover map costs, against scene size and stride, and against `serve`.

Run `python -m tests.benchmarks.scenes` in the project's folder (about ten minutes on 2 cores);
`python -m tests.benchmarks.scenes 10980` maps a scene of the size of a Sentinel-2 product too. The
scene is a mosaic of demo tiles, repeated. Each map is made in a process of its own, whose largest
memory is printed; `serve` classifies as many tiles from memory right before each.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import rasterio
from rasterio.windows import Window

from eurosat_helpers import artifact, scenes
from eurosat_helpers.data import demo

PROJECT = Path(__file__).resolve().parents[2]
SIDES = (1024, 2048, 4096)  # pixels, at stride 64
STRIDES = (64, 32, 16)  # at 1024 pixels
BATCH = 256  # windows at once, as in `scenes`


def write(file: Path, side: int) -> None:
    """Write a scene, block by block."""
    images, _ = demo.draw(10, seed=0)
    block = images[:64].reshape(8, 8, 64, 64, 3).transpose(4, 0, 2, 1, 3).reshape(3, 512, 512)
    size = {"count": 3, "height": side, "width": side, "dtype": "uint8", "tiled": True}
    grid = {"crs": "EPSG:32632", "transform": rasterio.Affine(10, 0, 5e5, 0, -10, 5e6)}
    with rasterio.open(
        file, "w", driver="GTiff", blockxsize=512, blockysize=512, **size, **grid
    ) as scene:
        scene.scales, scene.offsets = [0.275 / 254] * 3, [-0.275 / 254] * 3
        for top in range(0, side, 512):
            for left in range(0, side, 512):
                height, width = min(512, side - top), min(512, side - left)
                scene.write(block[:, :height, :width], window=Window(left, top, width, height))


def measure(file: str, side: int, stride: int) -> None:
    """Map one scene, and print windows, seconds, both rates and the memory."""
    classifier = artifact.load(PROJECT / "saved_model" / "eurosat_cnn")
    images = np.repeat(demo.draw(26, seed=1)[0][:BATCH], 4, axis=0)
    classifier.serve(images, batch_size=BATCH)  # the first call builds the kernels
    started = time.perf_counter()
    classifier.serve(images, batch_size=BATCH)
    rate = len(images) / (time.perf_counter() - started)
    windows = len([*range(0, side - 64, stride), side - 64]) ** 2
    started = time.perf_counter()
    output = Path(file).with_name("map.tif")
    scenes.classify(file, classifier, output, stride=stride, level="L1C")
    seconds = time.perf_counter() - started
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{side:>6} px, stride {stride}: {windows:>7,} windows in {seconds:7.1f} s, "
        f"{windows / seconds / rate:.2f} of the rate of `serve`, {memory:,.0f} MB"
    )


def main() -> None:
    """Measure every scene in a process of its own."""
    sides = dict.fromkeys((*SIDES, *map(int, sys.argv[1:])), (64,)) | {SIDES[0]: STRIDES}
    with tempfile.TemporaryDirectory() as folder:
        for side, strides in sides.items():
            file = Path(folder) / f"{side}.tif"
            write(file, side)
            for stride in strides:
                call = f"scenes.measure({str(file)!r}, {side}, {stride})"
                command = [sys.executable, "-c", f"from tests.benchmarks import scenes; {call}"]
                subprocess.run(command, cwd=PROJECT, check=True, stderr=subprocess.DEVNULL)
            file.unlink()


if __name__ == "__main__":
    main()
