"""Tests of eurosat_helpers.improvements.tuning: real searches over very small networks."""

import inspect
import itertools
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import replace

import keras_tuner
import numpy as np
import pandas as pd
import pytest
from conftest import PROJECT

from eurosat_helpers import data, models, pipeline, training
from eurosat_helpers.improvements import trials as trial_files
from eurosat_helpers.improvements import tuning

FIXED = {"policy": "float32"}
LASTING = ["trial", "learning_rate", "dropout", "width", "val_accuracy"]  # columns, not seconds


def small_space():
    space = keras_tuner.HyperParameters()
    space.Float("learning_rate", 1e-3, 1e-2, sampling="log")
    space.Choice("batch_size", [40])
    space.Choice("stages", [1])
    space.Choice("width", [4, 8])
    space.Float("dropout", 0.0, 0.5)
    return space


@pytest.fixture(scope="module")
def parts(demo_folder):
    return data.split(data.load(demo_folder), validation_fraction=0.2)[:2]


@pytest.fixture(scope="module")
def options():
    return {"method": "random", "trials": 2, "epochs": 1, "seed": 0, **FIXED}


@pytest.fixture(scope="module")
def searched(parts, options, tmp_path_factory):
    """Folder and table of a search with two trials. Copy the folder before you change it."""
    directory = tmp_path_factory.mktemp("search")
    table = tuning.search(*parts, **options, directory=directory, space=small_space())
    (folder,) = directory.iterdir()
    return folder, table


@pytest.fixture
def again(parts, options, searched, tmp_path):
    """Call the search again, in a copy of its folder, with some options changed."""
    folder = shutil.copytree(searched[0], tmp_path / "again" / searched[0].name)

    def call(**changed):
        changed = {"space": small_space(), "directory": folder.parent, **options, **changed}
        train, validation = changed.pop("parts", parts)
        return tuning.search(train, validation, **changed)

    call.folder = folder
    return call


def test_search_returns_one_row_per_trial_the_best_first(parts, searched):
    folder, table = searched
    columns = ["trial", "learning_rate", "batch_size", "dropout", "stages", "width"]
    assert list(table) == [*columns, "epochs", "parameters", "val_accuracy", "seconds"]
    assert sorted(table.trial) == [1, 2]
    assert table.val_accuracy.is_monotonic_decreasing
    assert table.learning_rate.between(1e-3, 1e-2).all()
    assert (table.seconds > 0).all()
    assert len(list(folder.glob("trial-*.json"))) == 2
    # The best trial is what `fit` gives with its settings.
    network, fit = tuning.best_settings(table)
    mean, variance = pipeline.channel_statistics(parts[0])
    model = models.build_cnn(mean=mean, variance=variance, **network, seed=0)
    assert table.parameters[0] == model.count_params()
    training.fit(model, *parts, epochs=1, seed=0, **fit, **FIXED)
    accuracy = (model.predict(parts[1].images, verbose=0).argmax(axis=1) == parts[1].labels).mean()
    assert accuracy == pytest.approx(table.val_accuracy[0])


def test_finished_search_trains_nothing_and_with_more_trials_is_extended(again, searched, capfd):
    pd.testing.assert_frame_equal(again(), searched[1])
    assert capfd.readouterr() == ("", "")
    table = again(trials=3)
    out, err = capfd.readouterr()
    assert [line.partition(":")[0] for line in out.splitlines()] == ["trial 3/3"]
    assert err == ""
    before = table[table.trial < 3].reset_index(drop=True)
    pd.testing.assert_frame_equal(before, searched[1])


def test_search_that_was_killed_while_it_wrote_is_resumed(again, searched, capfd):
    """Whatever file is cut short: the trials' own, or the state that KerasTuner writes."""
    one, other = sorted(again.folder.glob("trial-*.json"))
    content = other.read_bytes()
    one.write_bytes(one.read_bytes()[:-20])
    (again.folder / "search.json").write_text('{"method"')
    for name in ("oracle.json", "tuner0.json", "trial_0/trial.json"):
        (again.folder / name).parent.mkdir(exist_ok=True)
        (again.folder / name).write_text('{"ongoing_trials": {"tuner0"')
    pd.testing.assert_frame_equal(again()[LASTING], searched[1][LASTING])
    told, trained = capfd.readouterr().out.splitlines()
    assert told == f"`{one.name}` is damaged: its settings are trained again."
    assert trained.startswith("trial ")
    assert other.read_bytes() == content


def test_other_settings_tiles_or_pixels_are_another_search(again, parts, monkeypatch):
    monkeypatch.setattr(trial_files._Tuner, "search", lambda *_, **__: None)  # the folder matters
    images = parts[0].images.copy()
    images[3, 20, 20, 1] ^= 1
    changes = [
        {"method": "grid"},
        {"epochs": 2},
        {"seed": 1},
        {"space": tuning._default_space()},
        {"weight_decay": 0.1},
        {"parts": (parts[0][1:], parts[1])},
        {"parts": (parts[0], parts[1][1:])},
        {"parts": (replace(parts[0], images=images), parts[1])},
    ]
    for changed in changes:
        again(**changed)
    folders = {path.name for path in again.folder.parent.iterdir()}
    assert len(folders) == 1 + len(changes)
    assert sum(name.startswith("grid-") for name in folders) == 1
    again()
    assert {path.name for path in again.folder.parent.iterdir()} == folders


def test_other_hints_are_another_search(again, monkeypatch):
    monkeypatch.setattr(trial_files._Tuner, "search", lambda *_, **__: None)
    hints = np.zeros((4000, 3), "float32")
    for middle in (0, 1):
        hints[2000] = middle  # where the text of an array leaves it out
        for _ in range(2):
            again(hints=hints)
    assert len(list(again.folder.parent.iterdir())) == 1 + 2


def test_numbers_of_numpy_and_folders_of_curves_are_no_other_search(again, monkeypatch, tmp_path):
    monkeypatch.setattr(trial_files._Tuner, "search", lambda *_, **__: None)
    weights = dict.fromkeys(range(10), 1.5)
    again(class_weight=weights)
    before = set(again.folder.parent.iterdir())
    strange = {np.int64(label): np.float64(1.5) for label in range(10)}
    again(class_weight=strange, epochs=np.int64(1), seed=np.int64(0), log_dir=tmp_path / "logs")
    assert set(again.folder.parent.iterdir()) == before


def test_fewer_trials_return_the_first_ones(again, searched, capsys):
    table = again(trials=1)
    assert table.trial.tolist() == [1]
    assert "trials: the others" not in capsys.readouterr().out
    assert len(again(trials=2)) == len(searched[1])


def test_search_that_ends_early_says_so(parts, options, tmp_path, capsys):
    space = keras_tuner.HyperParameters()
    space.Choice("batch_size", [40])
    space.Choice("stages", [1])
    space.Choice("width", [4, 8])
    options = {**options, "method": "grid", "trials": 5, "learning_rate": 1e-3}
    assert len(tuning.search(*parts, **options, space=space, directory=tmp_path)) == 2
    assert (
        "2 of 5 trials: the others run elsewhere, failed or would repeat."
        in capsys.readouterr().out
    )


def test_names_of_files_need_not_be_text(parts):
    tiles = parts[1]
    names = [os.fsdecode(f"Forest/caf\xe9_{place}.jpg".encode("latin-1")) for place in range(3)]
    tiles = replace(tiles[:3], names=np.array(names))
    assert tuning._digest(tiles) != tuning._digest(replace(tiles, names=np.array(names[::-1])))


def test_bad_options_are_named_and_make_no_folder(again, tmp_path):
    unknown = small_space()
    unknown.Choice("momentum", [0.9])
    for changed, error, message in (
        ({"method": "sgd"}, ValueError, "one of random, grid, bayesian, hyperband. Received: 'sgd"),
        ({"trials": 0}, ValueError, "`trials` must be an integer from 1. Received: 0"),
        ({"epochs": 1.5}, ValueError, "`epochs` must be an integer from 1. Received: 1.5"),
        ({"seed": -1}, ValueError, "`seed` must be an integer from 0. Received: -1"),
        ({"weight_dekay": 0.1}, TypeError, "weight_dekay"),
        ({"learning_rate": 0.1}, TypeError, "multiple values for keyword argument 'learning_rate'"),
        ({"space": unknown}, ValueError, r"`space` must be made of learning_rate.*\['momentum'\]"),
    ):
        with pytest.raises(error, match=message):
            again(directory=tmp_path / "new", **changed)
    assert not (tmp_path / "new").exists()


def test_failed_trial_is_reported_and_left_out(parts, options, tmp_path, capsys):
    space = keras_tuner.HyperParameters()
    space.Choice("batch_size", [40, -1])
    space.Choice("stages", [1])
    space.Choice("width", [4])
    options = {**options, "method": "grid", "trials": 9, "learning_rate": 1e-3}
    table = tuning.search(*parts, **options, space=space, directory=tmp_path / "grid")
    assert table.batch_size.tolist() == [40]
    told = "Trial 2 failed: ValueError: `batch_size` must be an integer from 1"
    assert told in capsys.readouterr().out
    assert tuning.best_settings(table)[1] == {"batch_size": 40}
    with pytest.raises(ValueError, match="`trials` must hold a finished trial"):
        tuning.best_settings(table[1:])


# --- what the methods choose ---


def score_by_rate(values):
    return 1 - values["learning_rate"]


def run(oracle, score=score_by_rate):
    """Let an oracle choose until it has enough; return the settings in their order."""
    chosen = []
    while (trial := oracle.create_trial("tuner0")).status == "RUNNING":
        oracle.update_trial(trial.trial_id, {"val_accuracy": score(trial.hyperparameters.values)})
        trial.status = "COMPLETED"
        oracle.end_trial(trial)
        chosen.append(trial.hyperparameters.values)
    return chosen


def make(method, space, directory, *, trials, seed=0):
    oracle = tuning._oracle(method, space, trials=trials, epochs=9, seed=seed)
    oracle._set_project_dir(str(directory), "search")
    return oracle


def test_grid_goes_through_all_combinations_once(tmp_path):
    space = keras_tuner.HyperParameters()
    space.Choice("learning_rate", [1e-4, 1e-3, 1e-2])
    space.Int("hidden_layers", 0, 1)
    with space.conditional_scope("hidden_layers", [1]):
        space.Choice("hidden_width", [8, 16])
    chosen = run(make("grid", space, tmp_path, trials=99))
    wanted = itertools.product([1e-4, 1e-3, 1e-2], [(0, None), (1, 8), (1, 16)])
    assert sorted(
        (x["learning_rate"], x["hidden_layers"], x.get("hidden_width") or 0) for x in chosen
    ) == sorted((rate, layers, width or 0) for rate, (layers, width) in wanted)


def test_hyperband_trains_the_best_of_many_again_for_more_epochs(tmp_path):
    chosen = run(make("hyperband", small_space(), tmp_path, trials=17))
    assert [x["tuner/epochs"] for x in chosen[:13]] == [1] * 9 + [3] * 3 + [9]
    assert chosen[12]["learning_rate"] == min(x["learning_rate"] for x in chosen[:9])


@pytest.mark.slow
def test_bayesian_search_turns_to_where_it_is_good(tmp_path):
    space = keras_tuner.HyperParameters()
    space.Float("dropout", 0.0, 1.0)
    oracle = make("bayesian", space, tmp_path, trials=10)
    chosen = [x["dropout"] for x in run(oracle, lambda x: 1 - (x["dropout"] - 0.3) ** 2)]
    assert len(chosen) == 10
    assert max(abs(value - 0.3) for value in chosen[-3:]) < 0.1


def test_resumed_bayesian_search_takes_the_settings_of_its_trials(tmp_path):
    space = keras_tuner.HyperParameters()
    space.Float("dropout", 0.0, 1.0)
    oracle = make("bayesian", space, tmp_path, trials=6)
    oracle.finished = {number: {"trial": number, "dropout": number / 10} for number in (1, 5, 6)}
    chosen = [x["dropout"] for x in run(oracle, lambda x: x["dropout"])]
    drawn = run(make("bayesian", space, tmp_path / "new", trials=4), lambda x: x["dropout"])
    assert chosen == [*(x["dropout"] for x in drawn), 0.5, 0.6]


@pytest.mark.parametrize("method", tuning.METHODS)
def test_settings_follow_the_seed_and_with_more_trials_begin_the_same(method, tmp_path):
    chosen = [
        run(make(method, tuning._default_space(), tmp_path / str(n), trials=trials, seed=seed))
        for n, (trials, seed) in enumerate([(3, 0), (11 if method != "bayesian" else 4, 0), (3, 1)])
    ]
    assert [len(one) for one in chosen][::2] == [3, 3]
    assert len(chosen[1]) > 3
    assert chosen[0] == chosen[1][:3]
    assert (chosen[0] == chosen[2]) == (method == "grid")


def test_settings_that_are_not_searched_are_the_defaults_of_the_network():
    table = pd.DataFrame({"learning_rate": [0.01], "val_accuracy": [0.5]})
    network, fit = tuning.best_settings(table)
    defaults = inspect.signature(models.build_cnn).parameters
    expected = {name: defaults[name].default for name in network}
    assert network == {**expected, "blocks": (1, 1, 1, 1)}  # which None means there
    assert fit == {"learning_rate": 0.01}


def test_best_settings_are_keywords_of_the_network_and_of_fit():
    table = pd.DataFrame(
        {
            "val_accuracy": [0.7, 0.9],
            "learning_rate": [1e-3, 3e-3],
            "batch_size": [64, 128],
            "dropout": [0.1, 0.25],
            "l2": [1e-5, 1e-4],
            "stages": [4, 3],
            "blocks": [1, 2],
            "width": [32, 16],
            "hidden_layers": [0, 2],
            "hidden_width": pd.array([None, 64], "Int64"),
        }
    )
    network, fit = tuning.best_settings(table)
    assert network == {
        "stem_width": 16,
        "widths": (16, 32, 64),
        "blocks": (2, 2, 2),
        "hidden": (64, 64),
        "dropout": 0.25,
        "l2": 1e-4,
    }
    assert fit == {"learning_rate": 3e-3, "batch_size": 128}
    assert tuning.best_settings(table[:1])[0]["hidden"] == ()


# --- processes ---


SEARCH = """
import sys

sys.path[:0] = ["tests", "tests/improvements"]
from test_tuning import FIXED, small_space

from eurosat_helpers import data
from eurosat_helpers.improvements import tuning

train, validation, _ = data.split(data.load(sys.argv[1]), validation_fraction=0.2)
options = {"method": "random", "epochs": 1, "seed": 0, **FIXED}
options |= {"trials": int(sys.argv[3]), "directory": sys.argv[2], "space": small_space()}
tuning.search(train, validation, **options)
"""


def start(folder, directory, trials, **environment):
    return subprocess.Popen(
        [sys.executable, "-c", SEARCH, str(folder), str(directory), str(trials)],
        cwd=PROJECT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        text=True,
    )


def wait_for(condition, process, seconds=300):
    until = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "ended too early"
        assert time.monotonic() < until, "took too long"
        time.sleep(0.02)


@pytest.mark.slow
def test_killed_search_is_resumed(demo_folder, parts, options, searched, tmp_path):
    folder = tmp_path / searched[0].name  # the same settings
    with start(demo_folder, tmp_path, 2) as process:
        try:
            wait_for(lambda: any(folder.glob("trial-*.json")), process)
        finally:
            process.kill()
    (first,) = folder.glob("trial-*.json")
    before = first.stat().st_mtime_ns, first.read_bytes()
    options = {**options, "directory": tmp_path, "space": small_space()}
    table = tuning.search(*parts, **options)
    assert (first.stat().st_mtime_ns, first.read_bytes()) == before, "trained twice"
    pd.testing.assert_frame_equal(table[LASTING], searched[1][LASTING])


@pytest.mark.slow
def test_chief_and_two_workers_share_a_search(
    demo_folder, parts, options, searched, tmp_path, monkeypatch, capsys
):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    place = {"KERASTUNER_ORACLE_IP": "127.0.0.1", "KERASTUNER_ORACLE_PORT": port}
    folder = tmp_path / searched[0].name
    call = demo_folder, tmp_path, 4
    processes = [start(*call, KERASTUNER_TUNER_ID=name, **place) for name in ("chief", "worker1")]
    try:
        wait_for(lambda: any(folder.glob("trial-*.json")), processes[1])
        for name, value in {**place, "KERASTUNER_TUNER_ID": "worker2"}.items():
            monkeypatch.setenv(name, value)
        options = {**options, "trials": 4, "space": small_space(), "directory": tmp_path}
        tuning.search(*parts, **options)
        ours = capsys.readouterr().out
        theirs = processes[1].communicate(timeout=300)[0]
    finally:
        for process in processes:
            process.kill()  # the chief would look only every 20 s whether all is done
            process.wait()
            process.stdout.close()
    trained = [re.findall(r"trial (\d)/4:", text) for text in (ours, theirs)]
    assert all(trained), "a worker had nothing to do"
    assert sorted(trained[0] + trained[1]) == ["1", "2", "3", "4"]
    assert sorted(trial_files._table(folder, 4).trial) == [1, 2, 3, 4]
    for name in (*place, "KERASTUNER_TUNER_ID"):
        monkeypatch.delenv(name)
    tuning.search(*parts, **options)
    assert capsys.readouterr().out == "", "what the chief collected was trained again"
