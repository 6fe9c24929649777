"""The devices and the number format of a training."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import keras
import tensorflow as tf

FLOAT16_UNITS = (7, 0)  # compute capability of the first NVIDIA chips that have them (Volta)


def set_up_devices(*, seed: int, devices: Sequence[str] | None = None) -> tf.distribute.Strategy:
    """Seed every random generator, choose the devices to train on and say which in one line.

    A GPU is used when one is present, with memory growth. Several GPUs share each batch through
    `MirroredStrategy`.

    Args:
        seed: Seed of Python, NumPy and TensorFlow.
        devices: Logical devices that share each batch, such as `["GPU:0", "GPU:2"]`; `None` means
            every GPU, or the CPU.

    Returns:
        The strategy under whose `scope()` the model must be built.
    """
    gpus = tf.config.list_physical_devices("GPU")
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)
    keras.utils.set_random_seed(seed)
    if devices is None:
        devices = [f"GPU:{number}" for number in range(len(gpus))]
    print(f"Training on {hardware()}, {precision().replace('_', ' ')}")
    if len(devices) > 1:
        return tf.distribute.MirroredStrategy(devices)
    return tf.distribute.get_strategy()  # the default one takes the GPU where there is one


def hardware() -> str:
    """Name the devices that TensorFlow computes on, such as "2 x NVIDIA H200" or "CPU, 8 cores"."""
    names = [
        tf.config.experimental.get_device_details(gpu).get("device_name", "GPU")
        for gpu in tf.config.list_physical_devices("GPU")
    ]
    counts = [f"{names.count(name)} x {name}" for name in dict.fromkeys(names)]
    return ", ".join(counts) or f"CPU, {os.cpu_count()} cores"


def precision() -> str:
    """Choose the number format that this machine trains in fastest (arXiv 1710.03740, 1905.12322).

    Returns:
        Name of a Keras dtype policy: `mixed_float16` where every GPU has matrix units for it,
        `mixed_bfloat16` where there is no GPU and the CPU has instructions for it, else `float32`.
    """
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
        fast = all(detail.get("compute_capability", (0, 0)) >= FLOAT16_UNITS for detail in details)
        return "mixed_float16" if fast else "float32"
    # Other CPUs emulate bfloat16, slowly. Only Linux tells (WSL 2 is one).
    processor = Path("/proc/cpuinfo")
    fast = processor.is_file() and "avx512_bf16" in processor.read_text()
    return "mixed_bfloat16" if fast else "float32"
