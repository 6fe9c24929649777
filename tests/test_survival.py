"""What a training and a save keep through `kill -9`, a full disk and concurrent processes."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time

import keras
import numpy as np
import pandas as pd
import pytest
from conftest import CACHE
from scipy.special import softmax
from test_artifact import IMAGES, SCORES, build_model, save

from eurosat_helpers import artifact, data, models, pipeline, training

SMALL = {"stem_width": 4, "widths": (8,), "blocks": (1,)}
EPOCHS = 16


def fit_small(folder, checkpoint_dir, *, seed=0):
    """Train as training.ipynb does."""
    train, validation, test = data.split(data.load(folder), validation_fraction=0.2)
    keras.utils.set_random_seed(seed)
    mean, variance = pipeline.channel_statistics(train)
    model = models.build_cnn(mean=mean, variance=variance, **SMALL)
    settings = {"epochs": EPOCHS, "batch_size": 8, "learning_rate": 3e-3, "seed": seed}
    settings |= {"mixup": 0.2}
    history = training.fit(model, train, validation, checkpoint_dir=checkpoint_dir, **settings)
    return model, history, test


def work(folder, checkpoint_dir, directory, seed=0) -> None:
    """Train and save."""
    model, history, test = fit_small(folder, checkpoint_dir, seed=seed)
    scores = {**SCORES, "tiles": len(test)}
    changes = {"history": history, "scores": {"validation": scores, "test": scores}}
    save(model, directory, test=test, **changes)


def run_all(*started) -> None:
    """Run processes at once, each to its end."""
    for process in started:
        process.start()
    for process in started:
        process.join()
        assert process.exitcode == 0


@pytest.fixture(scope="module")
def uninterrupted(processes, demo_folder, tmp_path_factory):
    """Folder of a model whose training nothing disturbed."""
    home = tmp_path_factory.mktemp("uninterrupted")
    run_all(processes.Process(target=work, args=(demo_folder, home / "kept", home / "model")))
    return home / "model"


def history(directory):
    return pd.read_csv(directory / "history.csv").drop(columns="seconds")


@pytest.mark.parametrize("kills", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_training_that_is_killed_at_any_moment_ends_as_an_uninterrupted_one(
    kills, processes, demo_folder, uninterrupted, tmp_path
):
    model, kept = tmp_path / "model", tmp_path / "kept"
    draw = random.Random(0)

    def epochs_done():
        counts = [0]
        for file in kept.glob("[!.]*.npz"):
            with np.load(file) as state:
                counts.append(len(state["rows"]))
        return max(counts)

    def in_an_epoch():
        if epochs_done() > before:
            time.sleep(draw.uniform(0, 0.05))
            return True
        return False

    def while_a_checkpoint_is_written():
        return any(kept.glob(".*.partial"))

    def while_the_export_runs():
        return (tmp_path / ".model.saving").exists()

    moments = ([while_a_checkpoint_is_written, in_an_epoch] * kills)[:kills]
    draw.shuffle(moments)
    for comes in [*moments, *[while_the_export_runs] * ((kills + 1) // 2)]:
        before = epochs_done()
        for left in kept.glob(".*.partial"):  # by a process that was killed while it wrote
            left.unlink()
        process = processes.Process(target=work, args=(demo_folder, kept, model))
        process.start()
        while process.is_alive() and not comes():
            time.sleep(0.0002)  # leaves the processor to the training
        process.kill()
        process.join()
        assert process.exitcode == -9, "the training ended before it was killed"
        assert epochs_done() >= before
    assert epochs_done() == EPOCHS
    run_all(processes.Process(target=work, args=(demo_folder, kept, model)))
    pd.testing.assert_frame_equal(history(model), history(uninterrupted))
    images = data.load(demo_folder).images
    np.testing.assert_array_equal(
        artifact.load(model).predict(images), artifact.load(uninterrupted).predict(images)
    )
    assert {path.name for path in tmp_path.iterdir()} == {"model", ".model.lock", "kept"}
    assert {path.suffix for path in kept.iterdir() if path.name != ".lock"} == {".npz"}


@pytest.mark.parametrize("trained", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_two_at_once_save_to_the_same_name(
    trained, processes, demo_folder, uninterrupted, tmp_path
):
    model = tmp_path / "model"
    arguments = demo_folder, tmp_path / "kept", model
    if trained:
        shutil.copytree(uninterrupted.parent / "kept", tmp_path / "kept")
    run_all(*(processes.Process(target=work, args=arguments) for _ in range(2)))
    pd.testing.assert_frame_equal(history(model), history(uninterrupted))
    classifier = artifact.load(model)
    assert json.loads((model / "metadata.json").read_text()) == classifier.metadata
    assert {path.name for path in tmp_path.iterdir()} == {"model", ".model.lock", "kept"}


TEMPERATURES = (0.1, 10.0)


def save_again_and_again(directory, stop) -> None:
    """Save two models in turn; each one's metadata tells which graph belongs to it."""
    model, number = build_model(), 0
    while not stop.wait(0.1):
        save(model, directory, temperature=TEMPERATURES[number % 2])
        number += 1


@pytest.mark.parametrize("loads", [5, pytest.param(40, marks=pytest.mark.slow)])
def test_model_that_is_loaded_while_another_process_saves_is_of_one_save(
    loads, processes, tmp_path
):
    model = build_model()
    save(model, tmp_path / "model", temperature=TEMPERATURES[1])
    logits = model(IMAGES.astype("float32"), training=False)
    stop = processes.Event()
    process = processes.Process(target=save_again_and_again, args=(tmp_path / "model", stop))
    process.start()
    seen = []
    while len(seen) < loads or set(seen) != set(TEMPERATURES):
        assert process.is_alive()
        time.sleep(random.uniform(0, 0.1))  # at all moments of a save
        classifier = artifact.load(tmp_path / "model")
        seen.append(classifier.metadata["temperature"])
        wanted = softmax(np.asarray(logits, "float64") / seen[-1], axis=1)
        np.testing.assert_allclose(classifier.predict(IMAGES), wanted, atol=1e-4)
    stop.set()
    process.join()
    assert process.exitcode == 0


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


@pytest.mark.slow
def test_another_seed_gives_another_model(processes, demo_folder, uninterrupted, tmp_path):
    arguments = demo_folder, tmp_path / "kept", tmp_path / "model", 1
    run_all(processes.Process(target=work, args=arguments))
    images = data.load(demo_folder).images
    answers = [artifact.load(folder).predict(images) for folder in (arguments[2], uninterrupted)]
    assert np.abs(answers[1] - answers[0]).max() > 1e-3


# Writes, fills the disk, and tries to write again.
FULL_DISK = """
import json, shutil, sys
from pathlib import Path

from matplotlib.figure import Figure

from eurosat_helpers import artifact, data, evaluation
from test_artifact import IMAGES, build_model, save
from test_survival import fit_small

home, originals = map(Path, sys.argv[1:])
shutil.copytree(originals, home / "tiles")
model = build_model()

def save_results():
    classifier = artifact.load(home / "model")
    names = [f"Forest/Forest_{number}.jpg" for number in range(5)]
    rows = classifier.predict(IMAGES)
    table = evaluation.predictions_table(names, ["Forest"] * 5, rows, classifier.class_names)
    artifact.save_results(table, Figure(), home / "results")

def content():
    return {str(path): path.read_bytes() for path in home.rglob("*") if path.is_file()}

actions = {
    "save": lambda: save(model, home / "model"),
    "save_results": save_results,
}
for action in actions.values():
    action()
assert len(data.load(home / "tiles")) == 60
(home / "checkpoints").mkdir()
(home / "checkpoints" / ".lock").touch()
actions["fit"] = lambda: fit_small(home / "tiles", home / "checkpoints")
before = content()
with (home / "filler").open("wb", buffering=0) as filler:
    try:
        while filler.write(bytes(1024)):
            pass
    except OSError:
        pass
errors = {}
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
    assert errors.keys() == {"save", "save_results", "fit"}
    for error in errors.values():
        assert "No space left on device" in error
        assert str(tmp_path) in error
    assert tiles == 60
    assert "No cache: cannot write" in run.stdout
    assert unchanged
