"""Train the network of `models.build_cnn` in Keras and in PyTorch, turn by turn.

Run `python -m tests.benchmarks.pytorch` after `pip install -r tests/benchmarks/requirements.txt`
(the CPU wheel of PyTorch is enough). It takes about three minutes on 2 cores. Both train on the
same batch of 128 tiles in memory, with AdamW, smoothed labels and L2, in bfloat16 where
`devices.precision` says so; PyTorch with channels last, eager and compiled. Both turn each tile at
random and normalize its pixels, and PyTorch does without too ("network alone"). Each turn is a
process of its own; the table holds medians of the turns.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

PROJECT = Path(__file__).resolve().parents[2]
BATCH, STEPS, TURNS = 128, 30, 3
KINDS = ("Keras", "PyTorch eager", "PyTorch compiled")
KINDS += ("PyTorch eager, network alone", "PyTorch compiled, network alone")


def batch() -> tuple[np.ndarray, np.ndarray]:
    """Draw pixels and labels: what they show does not matter here."""
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (BATCH, 64, 64, 3)).astype("float32"), rng.integers(0, 10, BATCH)


def in_keras() -> Callable[[], object]:
    """Return a function that trains Keras' network for one step."""
    import tensorflow as tf

    from eurosat_helpers import devices, models, precision, training

    images, labels = batch()
    model = models.build_cnn(mean=[90] * 3, variance=[2000] * 3, seed=0)
    training.compile_model(model, 1000, 0.003, 0.05, 0.1, muon=False)
    batches = tf.data.Dataset.from_tensors((images, tf.one_hot(labels, 10))).repeat()
    batches = iter(batches.prefetch(2))
    with precision.computing_in(devices.precision(), model):
        model.make_train_function()  # what `fit` calls for each batch
        model.train_function(batches)  # the first call fixes the number formats
    return lambda: model.train_function(batches)


def in_pytorch(*, compiled: bool, half: bool, alone: bool) -> Callable[[], object]:
    """Return a function that trains the same network for one step in PyTorch."""
    import torch  # and not TensorFlow: together they may crash
    from torch import nn

    def convolve(inside: int, outside: int, size: int, **options: int) -> nn.Module:
        convolution = nn.Conv2d(inside, outside, size, bias=False, **options)
        return nn.Sequential(convolution, nn.BatchNorm2d(outside))

    class Block(nn.Module):
        def __init__(self, inside: int, outside: int) -> None:
            super().__init__()
            self.first = convolve(inside, outside, 3, padding=1)
            self.second = convolve(outside, outside, 3, padding=1)
            same = inside == outside
            self.shortcut = nn.Identity() if same else convolve(inside, outside, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            inner = self.second(torch.relu(self.first(x)))
            return torch.relu(inner + self.shortcut(x))

    torch.manual_seed(0)
    layers = [convolve(3, 32, 4, stride=2, padding=1), nn.ReLU(), Block(32, 32)]
    for inside, outside in ((32, 64), (64, 128), (128, 256)):
        layers += [nn.AvgPool2d(2), Block(inside, outside)]
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.1), nn.Linear(256, 10)]
    model = nn.Sequential(*layers).to(memory_format=torch.channels_last)
    images, labels = batch()
    images = torch.tensor(images).permute(0, 3, 1, 2)  # channels last in memory
    labels = torch.tensor(labels)
    kernels = [weight for weight in model.parameters() if weight.ndim == 4]

    def prepare(tiles: torch.Tensor) -> torch.Tensor:
        """Turn each tile into one of its eight symmetries, and normalize."""
        chosen = torch.randint(8, (len(tiles),))
        turned = torch.empty_like(tiles)
        for symmetry in range(8):
            places = (chosen == symmetry).nonzero()[:, 0]
            view = torch.rot90(tiles[places], symmetry % 4, (2, 3))
            turned[places] = view.transpose(2, 3) if symmetry > 3 else view
        return (turned - 90) / 2000**0.5

    network_input = prepare(images)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.003, weight_decay=0.05, fused=True)
    loss_function = nn.CrossEntropyLoss(label_smoothing=0.1)
    forward = torch.compile(model) if compiled else model

    def step() -> None:
        x = network_input if alone else prepare(images)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            loss = loss_function(forward(x), labels)
        loss = loss + 1e-5 * sum(kernel.square().sum() for kernel in kernels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def measure(kind: str, *, half: bool) -> None:
    """Print the tiles per second of one kind."""
    if kind == "Keras":
        step = in_keras()
    else:
        step = in_pytorch(compiled="compiled" in kind, half=half, alone="alone" in kind)
    for _ in range(10):
        step()
    started = time.perf_counter()
    for _ in range(STEPS):
        step()
    print("rate", BATCH * STEPS / (time.perf_counter() - started))


def rates() -> dict[str, float]:
    """Measure the tiles per second of each kind, each the median of its turns."""
    from eurosat_helpers import devices

    half = devices.precision() == "mixed_bfloat16"
    found: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for _ in range(TURNS):
        for kind in KINDS:
            command = (
                f"from tests.benchmarks import pytorch; pytorch.measure({kind!r}, half={half})"
            )
            run = subprocess.run(
                [sys.executable, "-c", command], cwd=PROJECT, capture_output=True, text=True
            )
            if run.returncode:
                sys.exit(f"{kind}: {run.stderr.strip().splitlines()[-1]}")
            found[kind].append(float(run.stdout.split("rate ")[1]))
    return {kind: statistics.median(turns) for kind, turns in found.items()}


def main() -> None:
    """Print a table of tiles per second."""
    measured = rates()
    for kind, rate in measured.items():
        print(f"{kind:32}{rate:7.0f} tiles/s, Keras {measured['Keras'] / rate:.2f} times as fast")


if __name__ == "__main__":
    main()
