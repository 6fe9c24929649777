"""Measure what a land-cover map costs, against scene size and stride, and against `serve`.

Run `python -m tests.benchmarks.scenes` in the project's folder (a minute on 2 cores);
`python -m tests.benchmarks.scenes 10980` maps a scene of the size of a Sentinel-2 product too, as
uint8 and as a compressed product of uint16. The scene is a mosaic of demo tiles, repeated. Each map
is made in a process of its own, whose largest memory is printed; `serve` classifies as many tiles
from memory right before each. `results/scene_cost.png` shows seconds against pixels and stride.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import rasterio
from matplotlib.ticker import LogLocator
from rasterio.windows import Window

from eurosat_helpers import artifact, scenes
from eurosat_helpers.data import demo
from tests.benchmarks.endurance import peak

PROJECT = Path(__file__).resolve().parents[2]
SIDES = (1024, 2048, 4096)  # pixels, at stride 64
STRIDES = (64, 32, 16)  # at 1024 pixels
BATCH = 256  # windows at once, as in `scenes`


def write(file: Path, side: int, dtype: str) -> None:
    """Write a scene of gray levels, or of compressed digital numbers, block by block."""
    images, _ = demo.draw(10, seed=0)
    scale = 0.275 / 254
    if dtype == "uint16":
        noise = np.random.default_rng(0).integers(0, 11, images.shape)  # as products have it
        images = (np.maximum(images, 1) - 1) * (scale / 1e-4) + noise
    block = images[:64].reshape(8, 8, 64, 64, 3).transpose(4, 0, 2, 1, 3).reshape(3, 512, 512)
    size = {"count": 3, "height": side, "width": side, "dtype": dtype, "tiled": True}
    size |= {"compress": "deflate"} if dtype == "uint16" else {}
    grid = {"crs": "EPSG:32632", "transform": rasterio.Affine(10, 0, 5e5, 0, -10, 5e6)}
    with rasterio.open(
        file, "w", driver="GTiff", blockxsize=512, blockysize=512, **size, **grid
    ) as scene:
        numbers = (1e-4, 0.0) if dtype == "uint16" else (scale, -scale)
        scene.scales, scene.offsets = ([number] * 3 for number in numbers)
        for top in range(0, side, 512):
            for left in range(0, side, 512):
                height, width = min(512, side - top), min(512, side - left)
                part = block[:, :height, :width].astype(dtype)
                scene.write(part, window=Window(left, top, width, height))


def measure(file: str, side: int, stride: int) -> None:
    """Map one scene, and print windows, seconds, the share of the rate of `serve`, and memory."""
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
    row = {"side": side, "stride": stride, "windows": windows, "seconds": seconds}
    print(json.dumps(row | {"of serve": windows / seconds / rate, "MB": peak()}))


def draw(table: pd.DataFrame) -> None:
    """Draw what a map costs against the size of the scene and against the stride."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    sizes, strides = table[table.stride == 64], table[table.side == SIDES[0]]
    left.set(title="stride 64", xlabel="million pixels", ylabel="seconds")
    right.set(
        title=f"{SIDES[0]:,} x {SIDES[0]:,} pixels", xlabel="stride, pixels", ylabel="seconds"
    )
    for chart, x, seconds, power, law in (
        (left, sizes.side**2 / 1e6, sizes.seconds, 1, "pixels"),
        (right, strides.stride, strides.seconds, -2, "1 / stride²"),
    ):
        largest = seconds.to_numpy().argmax()
        line = seconds.iloc[largest] * (x / x.iloc[largest]) ** power
        chart.loglog(x, seconds, "o-", color="#0072B2", label="measured")
        chart.loglog(x, line, "--", color="#666666", label=f"proportional to {law}")
        chart.set_xticks(x, [f"{value:.3g}" for value in x], minor=False)
        chart.minorticks_off()
        chart.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        chart.yaxis.set_major_formatter("{x:g}")
        chart.legend(frameon=False, fontsize=8)
        chart.grid(alpha=0.25)
    figure.suptitle("Cost of a land-cover map, demo tiles")
    figure.savefig(PROJECT / "results" / "scene_cost.png", dpi=150)


def main() -> None:
    """Measure every scene in a process of its own."""
    runs = [(side, "uint8", 64) for side in SIDES]
    runs += [(SIDES[0], "uint8", stride) for stride in STRIDES[1:]]
    runs += [(int(side), dtype, 64) for side in sys.argv[1:] for dtype in ("uint8", "uint16")]
    rows = []
    for side, dtype, stride in runs:
        with tempfile.TemporaryDirectory() as folder:
            write(file := Path(folder) / "scene.tif", side, dtype)
            call = f"scenes.measure({str(file)!r}, {side}, {stride})"
            command = [sys.executable, "-c", f"from tests.benchmarks import scenes; {call}"]
            options = {"check": True, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
            done = subprocess.run(command, cwd=PROJECT, **options)
        rows.append({"numbers": dtype, **json.loads(done.stdout.splitlines()[-1])})
        print(pd.DataFrame(rows[-1:]).round(2).to_string(index=False, header=len(rows) == 1))
    table = pd.DataFrame(rows)
    draw(table[table.numbers == "uint8"].sort_values(["side", "stride"]))


if __name__ == "__main__":
    main()
