"""Measure how fast the shipped SavedModel predicts, reloaded with TensorFlow alone.

Run `python -m tests.benchmarks.predict` in the project's folder, where the environment variable
EUROSAT_ARCHIVE names EuroSAT.zip, or the zip lies in `EuroSAT/`. It takes about two minutes on 2
cores. All tiles go from memory through `serve` in batches, and are compared with one call of Keras'
`model.predict` per tile, with this machine's matrix product, and `serve_jpeg` with decoding and
`serve` one after the other. The sides of a comparison take turns, three times; the table holds
medians.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import keras
import tensorflow as tf

from eurosat_helpers import artifact, data, models

PROJECT = Path(__file__).resolve().parents[2]
DIRECTORY = PROJECT / "saved_model" / "eurosat_cnn"
BATCH = 128
SINGLE = 100  # tiles that are predicted one by one
ENCODED = 20 * BATCH
REPEATS = 3


def seconds(function: Callable[[], object]) -> float:
    """Seconds that one call takes."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def main() -> None:
    """Print what was measured, and the ratios with their targets."""
    archives = [os.environ.get("EUROSAT_ARCHIVE"), *(PROJECT / "EuroSAT").glob("*.zip")]
    archive = next((Path(path).resolve() for path in archives if path), None)
    if archive is None:
        sys.exit("Set EUROSAT_ARCHIVE to EuroSAT.zip, or put the zip into EuroSAT/.")
    os.environ["EUROSAT_ARCHIVE"] = str(archive)
    tiles = data.load(PROJECT / "EuroSAT")
    with zipfile.ZipFile(archive) as file:
        images = [name for name in file.namelist() if name.endswith(".jpg")][:ENCODED]
        encoded = [file.read(name) for name in images]
    classifier = artifact.load(DIRECTORY)
    model = keras.saving.load_model(DIRECTORY / "model.keras")
    multiply_adds = int(models.summary(model)["multiply-adds"].sum())
    matrix = tf.random.normal((2048, 2048))
    product = tf.function(tf.matmul)
    decode = tf.function(
        lambda batch: tf.map_fn(
            lambda one: tf.io.decode_jpeg(one, channels=3, dct_method="INTEGER_ACCURATE"),
            batch,
            fn_output_signature=tf.TensorSpec((64, 64, 3), tf.uint8),
        )
    )

    def serve_all() -> None:
        classifier.predict(tiles.images, batch_size=BATCH)

    def one_by_one() -> None:
        for image in tiles.images[:SINGLE]:
            model.predict(image[None].astype("float32"), verbose=0)

    def serve_jpeg() -> None:
        for start in range(0, ENCODED, BATCH):
            classifier.served.serve_jpeg(tf.constant(encoded[start : start + BATCH]))

    def decode_and_serve() -> None:
        for start in range(0, ENCODED, BATCH):
            pixels = decode(tf.constant(encoded[start : start + BATCH]))
            classifier.served.serve(tf.cast(pixels, tf.float32))

    def multiply() -> None:
        for _ in range(20):
            product(matrix, matrix)[0, 0].numpy()

    measured = {}
    for function in (serve_jpeg, decode_and_serve, one_by_one, multiply):
        function()  # the first call also compiles
    for _ in range(REPEATS):
        for function in (multiply, serve_all, one_by_one, serve_jpeg, decode_and_serve):
            measured.setdefault(function, []).append(seconds(function))
    took = {function: statistics.median(times) for function, times in measured.items()}

    rate = len(tiles) / took[serve_all]
    single = SINGLE / took[one_by_one]
    peak = 20 * 2 * 2048**3 / took[multiply] / 1e9
    reached = 2 * multiply_adds * rate / 1e9
    size = sum(path.stat().st_size for path in DIRECTORY.rglob("*") if path.is_file())
    print(f"{os.cpu_count()} cores, {multiply_adds / 1e6:.1f} million multiply-adds per tile")
    print(f"serve, {len(tiles):,} tiles in batches of {BATCH}: {rate:,.0f} tiles/s")
    print(f"one model.predict per tile: {single:,.1f} tiles/s")
    print(f"serve {reached:.0f} GFLOP/s, matrix product {peak:.0f} GFLOP/s in float32")
    jpeg = ENCODED / took[serve_jpeg]
    print(f"serve_jpeg: {jpeg:,.0f} tiles/s\n")
    print(f"{'':46}{'measured':>9}{'target':>14}")
    print(f"{'serve / one predict per tile':46}{rate / single:>9.1f}{'at least 40':>14}")
    print(f"{'serve / matrix product':46}{reached / peak:>9.2f}{'at least 0.5':>14}")
    slower = took[serve_jpeg] / took[decode_and_serve]
    print(f"{'seconds of serve_jpeg / of decoding and serve':46}{slower:>9.2f}{'at most 1.5':>14}")
    print(f"{'folder, MB':46}{size / 1e6:>9.1f}{'at most 30':>14}")


if __name__ == "__main__":
    main()
