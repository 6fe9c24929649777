"""Two processes that train one model over the loopback interface."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import PROJECT, write_demo

from eurosat_helpers import workers

TRAIN = """
import sys
import keras, numpy as np
from eurosat_helpers import data, devices, models, training

out, folder, normalized = sys.argv[1], sys.argv[2] or None, sys.argv[3] == "normalized"
with devices.set_up(seed=3).scope():
    if normalized:
        model = models.build_cnn(
            mean=[90] * 3, variance=[2000] * 3, widths=[8, 8], blocks=[1, 1], stem_width=8, seed=3
        )
    else:
        images = keras.Input((64, 64, 3))
        x = keras.layers.Rescaling(1 / 255)(images)
        x = keras.layers.Conv2D(8, 4, strides=4, activation="relu")(x)
        x = keras.layers.GlobalAveragePooling2D()(x)
        model = keras.Model(images, keras.layers.Dense(10)(x))
tiles = data.sample(data.load(sys.argv[4]), 190, seed=0)
history = training.fit(
    model, tiles[:150], tiles[150:], epochs=4, batch_size=20, learning_rate=0.01, seed=5,
    policy="float32", class_weight="balanced", cropped=0.5 * normalized, checkpoint_dir=folder,
)
seeds = [int(one[0]) for one in model.non_trainable_variables if "seed" in one.path]
print("seeds", *seeds)
np.savez(out, *model.get_weights(), history=history.drop(columns="seconds").to_numpy())
"""


def start(count, out, demo, *, folder="", network="normalized"):
    """Start two or more processes, one worker each."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    addresses = [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]
    for one in sockets:
        one.close()
    started = []
    for index in range(count):
        cluster = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        environment = os.environ | {"TF_CONFIG": json.dumps(cluster)}
        command = [sys.executable, "-c", TRAIN, f"{out}{index}.npz", folder, network, demo]
        with open(f"{out}{index}.log", "w") as log:
            process = subprocess.Popen(
                command, cwd=PROJECT, env=environment, stdout=log, stderr=subprocess.STDOUT
            )
        started.append(process)
    return started


def finish(processes, out):
    try:
        for index, process in enumerate(processes):
            with open(f"{out}{index}.log") as log:
                assert process.wait(240) == 0, log.read()[-3000:]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    results = []
    for index in range(len(processes)):
        with np.load(f"{out}{index}.npz") as packed:
            results.append([packed[name] for name in packed.files])
    return results


def assert_same(one, other, **tolerance):
    for left, right in zip(one, other, strict=True):
        np.testing.assert_allclose(left, right, **tolerance)


@pytest.fixture
def demo(tmp_path):
    return str(write_demo(tmp_path / "demo", tiles_per_class=19))


def test_two_workers_end_as_one_process_with_the_whole_batch(tmp_path, demo, monkeypatch):
    # Without batch normalization, which sees a part of the batch on each worker.
    out, alone = tmp_path / "two", tmp_path / "one.npz"
    first, second = finish(start(2, out, demo, network="plain"), out)
    assert_same(first, second, rtol=0)
    monkeypatch.setattr(sys, "argv", ["", str(alone), "", "plain", demo])
    exec(TRAIN, {})
    with np.load(alone) as packed:
        assert_same(first, [packed[name] for name in packed.files], rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_after_the_loss_of_a_worker_both_resume_and_end_as_if_nothing_had_happened(tmp_path, demo):
    out, folder = tmp_path / "expected", tmp_path / "run"
    expected, second = finish(start(2, out, demo), out)
    assert_same(expected, second, rtol=0)
    processes = start(2, tmp_path / "killed", demo, folder=str(folder))
    while not (tmp_path / "killed0.log").read_text().count("batch/s") >= 2:
        assert processes[0].poll() is None, (tmp_path / "killed0.log").read_text()
        time.sleep(0.05)
    processes[1].kill()
    assert [process.wait(120) != 0 for process in processes] == [True, True]
    out = tmp_path / "resumed"
    first, second = finish(start(2, out, demo, folder=str(folder)), out)
    assert "Resuming after epoch" in (tmp_path / "resumed1.log").read_text()
    assert_same(first, second, rtol=0)
    assert_same(first, expected, rtol=0)
    logs = [(tmp_path / f"resumed{index}.log").read_text() for index in (0, 1)]
    draws = [re.search(r"seeds (\d+) (\d+)", log).groups() for log in logs]
    assert [int(two) - int(one) for one, two in zip(*draws, strict=True)] == [1, 1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (json.dumps({"cluster": {"worker": ["a:1"], "ps": ["b:1"]}}), "Received: ps, worker"),
        ("{", "must be a JSON object. Received: '{'"),
        ("[]", "must be a JSON object"),
    ],
)
def test_other_tasks_and_other_texts_are_refused(monkeypatch, text, message):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(ValueError, match=re.escape(message)):
        workers.count()
