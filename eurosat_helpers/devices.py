"""The devices and the number format that TensorFlow computes with."""

from __future__ import annotations

import contextlib
import os
import platform
import re
from collections.abc import Sequence
from pathlib import Path

import keras
import tensorflow as tf

FLOAT16_UNITS = (7, 0)  # compute capability of the first NVIDIA chips that have them (Volta)
CPUINFO = Path("/proc/cpuinfo")  # Linux only (WSL 2 is one)


def set_up(*, seed: int, devices: Sequence[str] | None = None) -> tf.distribute.Strategy:
    """Seed every random generator, choose the devices to train on and print them in one line.

    Args:
        seed: Seed of Python, NumPy and TensorFlow.
        devices: Logical devices that share each batch, such as `["GPU:0", "GPU:2"]`; `None` means
            every GPU, or the CPU.

    Returns:
        The strategy under whose `scope()` the model must be built.
    """
    allow_growth()
    keras.utils.set_random_seed(seed)
    if devices is None:
        gpus = tf.config.list_physical_devices("GPU")
        devices = [f"GPU:{number}" for number in range(len(gpus))]
    print(f"Training on {hardware()}, {precision().replace('_', ' ')}")
    if len(devices) > 1:
        return tf.distribute.MirroredStrategy(devices)
    return tf.distribute.get_strategy()  # the default one takes the GPU if there is one


def allow_growth() -> None:
    """Let TensorFlow take GPU memory as needed; without effect once it has used a GPU."""
    for gpu in tf.config.list_physical_devices("GPU"):
        # In use already, or divided into logical devices by the user.
        with contextlib.suppress(RuntimeError, ValueError):
            tf.config.experimental.set_memory_growth(gpu, True)


def hardware() -> str:
    """Name the hardware, such as "2 x NVIDIA H200" or "AMD EPYC 7B13, 8 cores"."""
    names = [
        tf.config.experimental.get_device_details(gpu).get("device_name", "GPU")
        for gpu in tf.config.list_physical_devices("GPU")
    ]
    if names:
        return ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names))
    found = re.search(r"model name\s*:\s*(.+)", CPUINFO.read_text()) if CPUINFO.is_file() else None
    processor = found[1].strip() if found else platform.processor() or platform.machine()
    return f"{processor}, {os.cpu_count()} cores"


def precision() -> str:
    """Choose the number format that this machine trains in fastest (arXiv 1710.03740, 1905.12322).

    Returns:
        Name of a Keras dtype policy: `mixed_float16` if every GPU has matrix units for it,
        `mixed_bfloat16` if there is no GPU and the CPU has instructions for it, else `float32`.
    """
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
        fast = all(detail.get("compute_capability", (0, 0)) >= FLOAT16_UNITS for detail in details)
        return "mixed_float16" if fast else "float32"
    # Other CPUs emulate bfloat16, slowly.
    fast = CPUINFO.is_file() and "avx512_bf16" in CPUINFO.read_text()
    return "mixed_bfloat16" if fast else "float32"
