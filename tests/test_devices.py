"""Tests of eurosat_helpers.devices, and of what an import of TensorFlow prints."""

import os
import subprocess
import sys

import pytest
import tensorflow as tf
from jupyter_client.manager import start_new_kernel

from eurosat_helpers import devices


def test_devices_are_named_with_their_precision(capsys):
    strategy = devices.set_up(seed=0)
    assert strategy.num_replicas_in_sync == max(1, len(tf.config.list_physical_devices("GPU")))
    named = devices.precision().replace("_", " ")
    assert named in {"float32", "mixed bfloat16", "mixed float16"}
    assert capsys.readouterr().out == f"Training on {devices.hardware()}, {named}\n"


@pytest.mark.parametrize(
    ("capability", "gpus", "workers", "expected"),
    [
        ((9, 0), 1, 1, "mixed_float16"),
        ((9, 0), 2, 1, "float32"),
        ((9, 0), 1, 2, "float32"),
        ((6, 1), 1, 1, "float32"),
    ],
)
def test_float16_is_for_one_gpu_with_units_for_it(monkeypatch, capability, gpus, workers, expected):
    monkeypatch.setattr(devices, "_gpus", lambda: [{"compute_capability": capability}] * gpus)
    monkeypatch.setattr(devices.workers, "count", lambda: workers)
    assert devices.precision() == expected


def test_all_gpus_are_taken_and_else_the_default_strategy(monkeypatch):
    taken = []
    monkeypatch.setattr(tf.distribute, "MirroredStrategy", lambda: taken.append("all") or "all")
    monkeypatch.setattr(devices, "_gpus", lambda: [{"device_name": "GPU"}] * 2)
    assert devices.set_up(seed=0) == "all"
    monkeypatch.setattr(devices, "_gpus", lambda: [{"device_name": "GPU"}])
    assert devices.set_up(seed=0) is tf.distribute.get_strategy()
    assert taken == ["all"]


def test_processor_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda *_: [])
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(devices, "CPUINFO", tmp_path / "cpuinfo")
    assert devices.hardware().endswith(", 8 cores")
    assert devices.precision() == "float32"
    text = "processor\t: 0\nmodel name\t: AMD EPYC 7B13\nflags\t: avx2{}\nmodel name\t: other\n"
    devices.CPUINFO.write_text(text.format(""))
    assert devices.hardware() == "AMD EPYC 7B13, 8 cores"
    assert devices.precision() == "float32"
    devices.CPUINFO.write_text(text.format(" avx512_bf16"))
    assert devices.precision() == "mixed_bfloat16"


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ("Intel(R) Xeon(R) Processor", "Intel Xeon"),
        ("Intel(R) Xeon(R) Gold 6348 CPU @ 2.60GHz", "Intel Xeon Gold 6348 CPU @ 2.60GHz"),
        ("AMD EPYC 9B45 128-Core Processor", "AMD EPYC 9B45"),
        ("AMD Ryzen Threadripper PRO 5995WX 64-Cores", "AMD Ryzen Threadripper PRO 5995WX"),
        ("12th Gen Intel(R) Core(TM) i7-12700H", "12th Gen Intel Core i7-12700H"),
    ],
)
def test_name_of_the_processor_fits_a_table(monkeypatch, tmp_path, given, named):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda *_: [])
    monkeypatch.setattr(os, "cpu_count", lambda: 128)
    monkeypatch.setattr(devices, "CPUINFO", tmp_path / "cpuinfo")
    devices.CPUINFO.write_text(f"model name\t: {given}\n")
    assert devices.hardware() == f"{named}, 128 cores"
    assert len(devices.hardware()) <= 50  # where pandas cuts


def test_gpu_memory_is_taken_as_needed_unless_the_user_says_otherwise():
    program = "import os, eurosat_helpers; print(os.environ['TF_FORCE_GPU_ALLOW_GROWTH'])"
    for given, used in ({}, "true"), ({"TF_FORCE_GPU_ALLOW_GROWTH": "false"}, "false"):
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}  # without an import of TensorFlow
        environment.pop("TF_FORCE_GPU_ALLOW_GROWTH")
        command = [sys.executable, "-c", program]
        printed = subprocess.check_output(command, env=environment | given, text=True)
        assert printed == f"{used}\n"


ABORTS = """
import os
os.write(2, b"F0000 compiled to use AVX instructions, but these aren't available\\n")
os.abort()
"""


@pytest.fixture
def without_avx(tmp_path):
    """An environment whose TensorFlow aborts as it does on a processor without AVX."""
    (tmp_path / "tensorflow.py").write_text(ABORTS)
    paths = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    return {**os.environ, "PYTHONPATH": paths, "TF_CPP_MIN_LOG_LEVEL": ""}


@pytest.fixture
def clean(monkeypatch):
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL")  # set by the import of the package in this process


@pytest.mark.usefixtures("clean")
def test_last_words_of_tensorflow_reach_the_terminal(without_avx):
    del without_avx["TF_CPP_MIN_LOG_LEVEL"]
    run = subprocess.run(
        [sys.executable, "-c", "from eurosat_helpers import models"],
        env=without_avx,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode < 0
    assert "compiled to use AVX instructions" in run.stderr


@pytest.mark.usefixtures("clean")
def test_last_words_of_tensorflow_in_a_notebook_reach_the_log_of_the_server(without_avx, tmp_path):
    del without_avx["TF_CPP_MIN_LOG_LEVEL"]
    with (tmp_path / "log").open("w") as log:
        manager, client = start_new_kernel(env=without_avx, stderr=log)
        client.execute("from eurosat_helpers import models")
        assert manager.provisioner.process.wait(60) < 0
        client.stop_channels()
        manager.cleanup_resources()
    assert "compiled to use AVX instructions" in (tmp_path / "log").read_text()
