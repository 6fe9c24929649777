"""What a training and a save keep through `kill -9`, a full disk, and others at the same work."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from conftest import CACHE

from eurosat_helpers import artifact, checkpoint, data, models, pipeline, training

SMALL = {"stem_width": 4, "widths": (8,), "blocks": (1,)}
EPOCHS = 16


def fit_small(folder, checkpoint_dir, *, seed=0):
    """Train as training.ipynb does."""
    train, validation, test = data.split(data.load(folder), validation_fraction=0.2)
    training.set_up_devices(seed=seed)
    mean, variance = pipeline.channel_statistics(train)
    model = models.build_cnn(mean=mean, variance=variance, **SMALL)
    settings = {"epochs": EPOCHS, "batch_size": 8, "learning_rate": 3e-3, "seed": seed}
    settings |= {"mixup": 0.2}
    history = training.fit(model, train, validation, checkpoint_dir=checkpoint_dir, **settings)
    return model, history, test


def work(folder, checkpoint_dir, directory, seed=0) -> None:
    """Train and save, and leave the history."""
    model, history, test = fit_small(folder, checkpoint_dir, seed=seed)
    scores = {"tiles": len(test), "accuracy": 0.0}
    scores |= {"accuracy_low": 0.0, "accuracy_high": 1.0, "calibration_error": 0.0}
    artifact.save(
        model,
        directory,
        metadata={
            "class_names": test.class_names,
            "data_source": test.source,
            "split": {"seed": seed, "validation_fraction": 0.2, "test_fraction": 0.2},
            "scores": {"validation": scores, "test": scores},
            "epochs": EPOCHS,
            "seconds": 1.0,
            "hardware": "CPU",
        },
        history=history,
        test_names=test.names,
    )


@pytest.fixture(scope="module")
def processes():
    """Processes are forks of a server that imported the package, and begin at once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def run_all(*started) -> None:
    """Run processes at once, each to its end."""
    for process in started:
        process.start()
    for process in started:
        process.join()
        assert process.exitcode == 0


@pytest.fixture(scope="module")
def unbroken(processes, demo_folder, tmp_path_factory):
    """Folder of a model whose training nothing disturbed."""
    home = tmp_path_factory.mktemp("unbroken")
    run_all(processes.Process(target=work, args=(demo_folder, home / "kept", home / "model")))
    return home / "model"


def history(directory):
    return pd.read_csv(directory / "history.csv").drop(columns="seconds")


def test_training_that_is_killed_ten_times_ends_as_an_unbroken_one(
    processes, demo_folder, unbroken, tmp_path
):
    model, kept = tmp_path / "model", tmp_path / "kept"
    draw = random.Random(0)

    def epochs_done():
        states = [checkpoint.read(file) for file in kept.glob("*.npz")]
        return max((len(state["rows"][0]) for state in states), default=0)

    def in_an_epoch():
        if epochs_done() > before:
            time.sleep(draw.uniform(0, 0.05))
            return True
        return False

    def while_a_checkpoint_is_written():
        return any(kept.glob(".*.npz-*/*"))

    def while_the_export_runs():
        return (tmp_path / ".model.new").exists()

    moments = [in_an_epoch] * 4 + [while_a_checkpoint_is_written] * 3
    draw.shuffle(moments)
    for comes in [*moments, *[while_the_export_runs] * 3]:
        before = epochs_done()
        for left in kept.glob(".*.npz-*"):  # by a process that was killed while it wrote
            shutil.rmtree(left)
        process = processes.Process(target=work, args=(demo_folder, kept, model))
        process.start()
        while process.is_alive() and not comes():
            pass
        process.kill()
        process.join()
        assert process.exitcode == -9, "the training ended before it was killed"
        assert epochs_done() >= before
    assert epochs_done() == EPOCHS
    run_all(processes.Process(target=work, args=(demo_folder, kept, model)))
    pd.testing.assert_frame_equal(history(model), history(unbroken))
    images = data.load(demo_folder).images
    np.testing.assert_array_equal(
        artifact.load(model).predict(images), artifact.load(unbroken).predict(images)
    )
    assert {path.name for path in tmp_path.iterdir()} == {"model", ".model.lock", "kept"}


def test_two_at_once_save_to_the_same_name(processes, demo_folder, unbroken, tmp_path):
    model = tmp_path / "model"
    arguments = demo_folder, tmp_path / "kept", model
    run_all(*(processes.Process(target=work, args=arguments) for _ in range(2)))
    pd.testing.assert_frame_equal(history(model), history(unbroken))
    classifier = artifact.load(model)
    assert json.loads((model / "metadata.json").read_text()) == classifier.metadata
    assert {path.name for path in tmp_path.iterdir()} == {"model", ".model.lock", "kept"}


def load(folder, begin) -> None:
    begin.wait()
    assert len(data.load(folder)) == 60


def test_two_at_once_make_the_same_cache(processes, folder, demo_folder, capsys):
    begin = processes.Barrier(2)
    run_all(*(processes.Process(target=load, args=(folder, begin)) for _ in range(2)))
    tiles = data.load(folder)
    assert "cached" in capsys.readouterr().out
    np.testing.assert_array_equal(tiles.images, data.load(demo_folder).images)
    assert {path.name for path in folder.iterdir()} == {CACHE, "2750"}


def test_seed_decides_in_every_process(processes, demo_folder, unbroken, tmp_path):
    for seed in (0, 1):
        model = tmp_path / f"seed{seed}"
        arguments = demo_folder, tmp_path / "kept", model, seed
        run_all(processes.Process(target=work, args=arguments))
    pd.testing.assert_frame_equal(history(tmp_path / "seed0"), history(unbroken))
    images = data.load(demo_folder).images
    answers = [artifact.load(tmp_path / f"seed{seed}").predict(images) for seed in (0, 1)]
    np.testing.assert_array_equal(answers[0], artifact.load(unbroken).predict(images))
    assert np.abs(answers[1] - answers[0]).max() > 1e-3


# Writes everything, fills the disk, and tries to write it all again.
FULL_DISK = """
import json, shutil, sys
from pathlib import Path

from matplotlib.figure import Figure

from eurosat_helpers import artifact, checkpoint, data, runs
from test_artifact import IMAGES, build_model, save
from test_runs import RUN
from test_survival import fit_small

home, originals = map(Path, sys.argv[1:])
shutil.copytree(originals, home / "tiles")
model = build_model()

def save_results():
    classifier = artifact.load(home / "model")
    names = [f"Forest/Forest_{number}.jpg" for number in range(5)]
    rows = classifier.predict(IMAGES)
    table = artifact.predictions_table(names, ["Forest"] * 5, rows, classifier.class_names)
    artifact.save_results(table, Figure(), home / "results")

def content():
    return {str(path): path.read_bytes() for path in home.rglob("*") if path.is_file()}

actions = {
    "save": lambda: save(model, home / "model"),
    "record": lambda: runs.record(**RUN, directory=home / "results"),
    "save_results": save_results,
    "fit": lambda: fit_small(home / "tiles", home / "checkpoints", seed=seed),
}
seed = 0
for action in actions.values():
    action()
before = content()
with (home / "filler").open("wb", buffering=0) as filler:
    try:
        while filler.write(bytes(1024)):
            pass
    except OSError:
        pass
errors, seed = {}, 1  # a finished training is not repeated
for name, action in actions.items():
    try:
        action()
    except OSError as error:
        errors[name] = str(error)
(home / "tiles" / "2750" / "Forest" / "Forest_1.jpg").touch()  # the cache is another's now
tiles = len(data.load(home / "tiles"))
(home / "filler").unlink()
print(json.dumps([errors, tiles, content() == before]))
"""


def test_full_disk_ends_in_an_error_that_says_so_and_changes_nothing(demo_folder, tmp_path):
    inside = 'mount -t tmpfs -o size=8m tmpfs "$1" && shift && exec "$@"'
    isolated = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", inside, "sh"]
    if subprocess.run([*isolated, tmp_path, "true"], check=False, capture_output=True).returncode:
        pytest.skip("needs a file system of its own: `unshare` and user namespaces")
    command = [*isolated, tmp_path, sys.executable, "-c", FULL_DISK, tmp_path, demo_folder]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    errors, tiles, unchanged = json.loads(run.stdout.splitlines()[-1])
    assert errors.keys() == {"save", "record", "save_results", "fit"}
    for error in errors.values():
        assert "No space left on device" in error
        assert str(tmp_path) in error
    assert tiles == 60
    assert "Working without a cache" in run.stdout
    assert unchanged
