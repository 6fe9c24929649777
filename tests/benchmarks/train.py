"""Train the plain network that this project grew from and ours, and compare time and memory.

Run `python -m tests.benchmarks.train` in the project's folder, where the environment variable
EUROSAT_ARCHIVE names EuroSAT.zip, or the zip lies in `EuroSAT/`. It takes about 40 minutes on 2
cores; `--epochs 1` trains the plain network for one epoch and counts it forty times. The steps of
`pytorch.py` follow, after `pip install -r tests/benchmarks/requirements.txt`.

The plain network is the usual first try: JPEG files read by `image_dataset_from_directory` and kept
by `cache` (without it they are decoded each epoch, and memory peaks at 0.8 GB in place of 2.2),
random flips, zoom and rotation, five convolutions, Adam at a fixed learning rate, batches of 32, 40
epochs, 80 % of the tiles to train and 20 % to validate. Ours is the recipe in the parameters of
training.ipynb on the archive's files as they are, once with 8 epochs and once with 2. Each training
runs in a fresh process; seconds begin before the tiles are read and end after the validation of an
epoch.
"""

from __future__ import annotations

import argparse
import ast
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import papermill

from tests.benchmarks import pytorch

PROJECT = Path(__file__).resolve().parents[2]
EPOCHS = 40
LONG, SHORT = 8, 2  # epochs of ours: to 97 %, and to the plain network's accuracy

RECIPE = ("split", "seed", "batch_size", "learning_rate", "weight_decay")
RECIPE += ("label_smoothing", "mixup", "cropped")

HEADER = """
import json, math, resource, sys, time
begin = time.perf_counter()
epochs, recipe, data_dir = int(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3]

def report(**measured):
    unit = 1e6 if sys.platform == "darwin" else 1e3  # Linux counts in kilobytes, macOS in bytes
    measured["memory"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    print(json.dumps(measured), flush=True)
"""

PLAIN = """
import keras
from keras import layers

keras.utils.set_random_seed(1)
train, validation = keras.utils.image_dataset_from_directory(
    data_dir, image_size=(64, 64), batch_size=32, validation_split=0.2, subset="both", seed=1,
    verbose=False,
)
train, validation = train.cache().prefetch(2), validation.cache().prefetch(2)
network = [keras.Input((64, 64, 3)), layers.Rescaling(1 / 255)]
network += [layers.RandomFlip(), layers.RandomZoom(0.1), layers.RandomRotation(0.1)]
for filters in (16, 32, 64, 128, 128):
    network += [layers.Conv2D(filters, 3, padding="same", activation="relu")]
    network += [layers.MaxPooling2D()]
network += [layers.Flatten(), layers.Dense(100, activation="relu"), layers.Dense(10)]
model = keras.Sequential(network)
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
model.compile("adam", loss, metrics=["accuracy"])
seconds, accuracy = [], []
for epoch in range(epochs):
    logs = model.fit(
        train, validation_data=validation, epochs=epoch + 1, initial_epoch=epoch, verbose=0,
    ).history
    seconds.append(time.perf_counter() - begin)
    accuracy.append(logs["val_accuracy"][0])
    print(epoch + 1, round(seconds[-1]), accuracy[-1], file=sys.stderr, flush=True)
convolutions = [layer for layer in model.layers if isinstance(layer, layers.Conv2D)]
multiply_adds = sum(
    math.prod(layer.kernel.shape) * math.prod(layer.output.shape[1:3]) for layer in convolutions
)
report(
    seconds=seconds, accuracy=accuracy, tiles=21600, parameters=model.count_params(),
    multiply_adds=multiply_adds,
)
"""

OURS = """
from eurosat_helpers import data, devices, models, pipeline, training

strategy = devices.set_up(seed=recipe["seed"])
tiles = data.load(data_dir)
train, validation, _ = data.split(tiles, **recipe["split"])
mean, variance = pipeline.channel_statistics(train)
model = models.build_cnn(mean=mean, variance=variance, seed=recipe["seed"])
settings = {name: value for name, value in recipe.items() if name != "split"}
history = training.fit(model, train, validation, epochs=epochs, **settings)
before = time.perf_counter() - begin - history.seconds.sum()  # all that is outside of epochs
report(
    seconds=list(before + history.seconds.cumsum()), accuracy=list(history.val_accuracy),
    tiles=len(train), parameters=model.count_params(),
    multiply_adds=int(models.summary(model)["multiply-adds"].sum()),
)
"""

PEAK = """
import keras, sys, time
import tensorflow as tf
best = {}
for dtype in ("float32", "bfloat16"):
    a = tf.cast(tf.random.normal((2048, 2048)), dtype)
    product = tf.function(tf.matmul)
    for _ in range(30):
        started = time.perf_counter()
        product(a, a)[0, 0].numpy()
        best[dtype] = min(best.get(dtype, 9), time.perf_counter() - started)
report(**{dtype: 2 * 2048**3 / seconds / 1e9 for dtype, seconds in best.items()})
"""


# What half precision, the fused batch normalization and the kernels of oneDNN give.
PRECISION = """
import os

import keras
from eurosat_helpers import data, models, pipeline, training

tiles = data.load(data_dir)[:: 27000 // 3000]
mean, variance = pipeline.channel_statistics(tiles)
fused = models.FusedBatchNormalization
settings = {"batch_size": 128, "learning_rate": 1e-3, "seed": 0}
speed = {}
policies = ["float32", "mixed_bfloat16"]
if os.environ.get("TF_ENABLE_ONEDNN_OPTS") == "0":
    policies.pop()  # without these kernels it takes minutes per epoch
for policy in policies:
    for normalization in (keras.layers.BatchNormalization, fused):
        models.FusedBatchNormalization = normalization
        model = models.build_cnn(mean=mean, variance=variance)
        history = training.fit(model, tiles, tiles[:10], epochs=3, policy=policy, **settings)
        kind = "fused" if normalization is fused else "Keras'"
        speed[f"{policy}, {kind} batch normalization"] = len(tiles) / history.seconds.min()
report(**speed)
"""


def run(program: str, epochs: int, recipe: dict, data_dir: Path, **environment: str) -> dict:
    """Run a program in a fresh process and return what it reports."""
    process = subprocess.run(
        [sys.executable, "-c", HEADER + program, str(epochs), json.dumps(recipe), data_dir],
        cwd=PROJECT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(process.stdout.splitlines()[-1])


def seconds_to(accuracy: float, history: dict) -> float:
    """Seconds to the end of the first epoch of at least this validation accuracy, or infinity."""
    pairs = zip(history["seconds"], history["accuracy"], strict=True)
    return next((seconds for seconds, reached in pairs if reached >= accuracy), float("inf"))


def tiles_per_second(history: dict) -> float:
    """Training speed of the last epoch, which compiles nothing and sees tiles, with validation."""
    *_, before, end = 0, *history["seconds"]
    return history["tiles"] / (end - before)


def main() -> None:
    """Print what each took, and the ratios with their targets."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of the plain network")
    epochs = parser.parse_args().epochs
    archives = [os.environ.get("EUROSAT_ARCHIVE"), *(PROJECT / "EuroSAT").glob("*.zip")]
    archive = next((Path(path).resolve() for path in archives if path), None)
    if archive is None:
        sys.exit("Set EUROSAT_ARCHIVE to EuroSAT.zip, or put the zip into EuroSAT/.")
    cells = papermill.inspect_notebook(PROJECT / "training.ipynb")
    recipe = {name: ast.literal_eval(cells[name]["default"]) for name in RECIPE}

    with tempfile.TemporaryDirectory() as temporary:
        with zipfile.ZipFile(archive) as file:
            file.extractall(temporary)
        classes = next(Path(temporary).rglob("*.jpg")).parents[1]
        peak = run(PEAK, 0, {}, classes)
        precision = run(PRECISION, 0, {}, classes)
        own_kernels = run(PRECISION, 0, {}, classes, TF_ENABLE_ONEDNN_OPTS="0")
        (classes / ".tiles-cache").unlink()  # the tiles are decoded within the time, as by PLAIN
        short = run(OURS, SHORT, recipe, classes)
        (classes / ".tiles-cache").unlink()
        ours = run(OURS, LONG, recipe, classes)
        plain = run(PLAIN, epochs, {}, classes)

    del precision["memory"], own_kernels["memory"]
    forty = plain["seconds"][-1] * EPOCHS / epochs
    peaks = f"{peak['float32']:.0f} GFLOP/s in float32, {peak['bfloat16']:.0f} in bfloat16"
    print(f"\n{os.cpu_count()} cores; matrix product {peaks}")
    print(f"{'':28}{'plain':>10}{'ours':>10}{'ours, short':>13}")
    for name, value in {
        "parameters": lambda history: f"{history['parameters']:,}",
        "multiply-adds per tile, million": lambda history: f"{history['multiply_adds'] / 1e6:.1f}",
        "epochs": lambda history: len(history["seconds"]),
        "seconds": lambda history: f"{history['seconds'][-1]:.0f}",
        "best validation accuracy": lambda history: f"{max(history['accuracy']):.2%}",
        "tiles/s": lambda history: f"{tiles_per_second(history):.0f}",
        "GFLOP/s (3 x forward)": lambda history: f"{gigaflops(history):.0f}",
        "share of float32 peak": lambda history: f"{gigaflops(history) / peak['float32']:.0%}",
        "share of bfloat16 peak": lambda history: f"{gigaflops(history) / peak['bfloat16']:.0%}",
        "peak memory, MB": lambda history: f"{history['memory']:.0f}",
    }.items():
        print(f"{name:28}{value(plain):>10}{value(ours):>10}{value(short):>13}")
    print(f"\n{'ratio, ours / plain':42}{'measured':>9}{'target':>8}")
    for name, ratio, target in (
        ("seconds to 91.3 % / its 40 epochs", seconds_to(0.913, short) / forty, "0.06"),
        ("seconds to 97 % / its 40 epochs", seconds_to(0.97, ours) / forty, "0.25"),
        ("peak memory", ours["memory"] / plain["memory"], "1"),
        ("tiles/s", tiles_per_second(ours) / tiles_per_second(plain), ""),
    ):
        print(f"{name:42}{ratio:>9.2f}{target:>8}")
    precision |= {f"{name}, without oneDNN": speed for name, speed in own_kernels.items()}
    slowest = min(precision.values())
    print("\ntraining speed of ours by number format, batch normalization and kernels")
    for name, value in precision.items():
        print(f"{name:62}{value:>9.0f} tiles/s{value / slowest:>8.2f}")
    if importlib.util.find_spec("torch"):
        print("\none training step, against the same network in PyTorch")
        pytorch.main()


def gigaflops(history: dict) -> float:
    """Arithmetic of training: a multiply and an add each, forward once and backward twice."""
    return 6 * history["multiply_adds"] * tiles_per_second(history) / 1e9


if __name__ == "__main__":
    main()
