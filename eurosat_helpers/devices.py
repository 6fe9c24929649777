"""The devices and the number format that TensorFlow computes with."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

import keras
import tensorflow as tf

from eurosat_helpers import workers

FLOAT16_UNITS = (7, 0)  # compute capability of the first NVIDIA chips that have them (Volta)
CPUINFO = Path("/proc/cpuinfo")  # Linux only (WSL 2 is one)


def set_up(*, seed: int) -> tf.distribute.Strategy:
    """Seed every random generator, take all GPUs, or the CPU, and print them in one line.

    CUDA_VISIBLE_DEVICES="0,2" leaves out other GPUs, and CUDA_VISIBLE_DEVICES="" all of them. Where
    TF_CONFIG names several workers, they are connected, and each must have one device.

    Args:
        seed: Seed of Python, NumPy and TensorFlow.

    Returns:
        The strategy under whose `scope()` the model must be built.
    """
    workers.connect()  # before the first operation
    # Else GPUs round float32 products to 10 bits, too few for `muon` and for saved numbers.
    tf.config.experimental.enable_tensor_float_32_execution(False)
    keras.utils.set_random_seed(seed)
    print(f"Training on {hardware()}, {precision().replace('_', ' ')}")
    if len(_gpus()) > 1:
        return tf.distribute.MirroredStrategy()
    return tf.distribute.get_strategy()  # the default one takes the GPU if there is one


def hardware() -> str:
    """Name the hardware, such as "2 x NVIDIA H200" or "AMD EPYC 7B13, 8 cores"."""
    if names := [gpu.get("device_name", "GPU") for gpu in _gpus()]:
        return ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names))
    found = re.search(r"model name\s*:\s*(.*\S)", _cpuinfo())
    name = found[1] if found else platform.processor() or platform.machine()
    return re.sub(r"\((R|TM)\)| \d+-Core.*| Processor", "", name) + f", {os.cpu_count()} cores"


def precision() -> str:
    """Choose the number format that this machine trains in fastest (arXiv 1710.03740, 1905.12322).

    Returns:
        Name of a Keras dtype policy: `mixed_float16` for a single GPU that has units for it,
        `mixed_bfloat16` if there is no GPU and the CPU has instructions for it, else `float32`.
    """
    if gpus := _gpus():
        fast = [gpu.get("compute_capability", (0, 0)) >= FLOAT16_UNITS for gpu in gpus]
        return "mixed_float16" if fast == [True] and workers.count() == 1 else "float32"
    # Other CPUs emulate bfloat16, slowly.
    return "mixed_bfloat16" if "avx512_bf16" in _cpuinfo() else "float32"


def _gpus() -> list[dict]:
    gpus = tf.config.list_physical_devices("GPU")
    return [tf.config.experimental.get_device_details(gpu) for gpu in gpus]


def _cpuinfo() -> str:
    return CPUINFO.read_text() if CPUINFO.is_file() else ""
