"""Compare the SavedModel in TensorFlow with the same graph in OpenVINO and ONNX Runtime.

Run `python tests/benchmarks/runtimes.py [FOLDER]` after `pip install -r
tests/benchmarks/requirements.txt`; FOLDER is that of the saved model, by default the shipped one.
It takes about a minute on 2 cores. The runtimes take turns; the table holds medians. OpenVINO
computes in bfloat16 where the processor can, unless it is told not to, so it is measured both ways.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import openvino
import tensorflow as tf

from eurosat_helpers import artifact, data

PROJECT = Path(__file__).resolve().parents[2]
TILES, BATCH, SINGLE, REPEATS = 2560, 256, 200, 5

Runtime = Callable[[np.ndarray], np.ndarray]


def in_openvino(folder: Path, **settings: str) -> Runtime:
    """Read the SavedModel with OpenVINO."""
    compiled = openvino.compile_model(openvino.convert_model(folder), "CPU", settings)
    return lambda images: compiled(images)["probabilities"]


def in_onnx_runtime(folder: Path) -> Runtime:
    """Convert the SavedModel to ONNX and read it with ONNX Runtime."""
    with tempfile.TemporaryDirectory() as temporary:
        file = str(Path(temporary) / "model.onnx")
        convert = [sys.executable, "-m", "tf2onnx.convert", "--saved-model", folder]
        convert += ["--signature_def", "serving_default", "--opset", "17", "--output", file]
        subprocess.run(convert, check=True, capture_output=True)
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return lambda images: session.run(["probabilities"], {"images": images})[0]


def main() -> None:
    """Print tiles per second, as a multiple of TensorFlow's too, and the largest difference."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else PROJECT / "saved_model" / "eurosat_cnn"
    classifier = artifact.load(folder)
    tiles = data.load(PROJECT / "EuroSAT")
    images = data.sample(tiles, TILES, seed=0).images.astype("float32")
    serve = classifier.served.serve
    runtimes: dict[str, Runtime] = {
        "TensorFlow, `serve`": lambda x: serve(tf.constant(x))["probabilities"].numpy(),
        "OpenVINO, float32": in_openvino(folder, INFERENCE_PRECISION_HINT="f32"),
        "OpenVINO, as it chooses": in_openvino(folder),
        "ONNX Runtime": in_onnx_runtime(folder),
    }
    expected = runtimes["TensorFlow, `serve`"](images[:BATCH])
    difference = {
        name: np.abs(run(images[:BATCH]) - expected).max() for name, run in runtimes.items()
    }
    rates: dict[tuple[str, int], list[float]] = {}
    for _ in range(REPEATS):
        for name, run in runtimes.items():
            for size, count in ((BATCH, TILES), (1, SINGLE)):
                started = time.perf_counter()
                for start in range(0, count, size):
                    run(images[start : start + size])
                rates.setdefault((name, size), []).append(count / (time.perf_counter() - started))
    print(f"{'tiles/s':26}{f'batches of {BATCH}':>20}{'one at a time':>20}{'difference':>14}")
    first = next(iter(runtimes))
    for name in runtimes:
        columns = ""
        for size in (BATCH, 1):
            ours, this = (statistics.median(rates[one, size]) for one in (first, name))
            columns += f"{this:>12,.0f} ({this / ours:.2f})"
        print(f"{name:26}{columns}{difference[name]:>14.1e}")


if __name__ == "__main__":
    main()
