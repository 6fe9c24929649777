"""Tests of eurosat_helpers.tuning: real searches over networks of a few hundred parameters."""

import inspect
import itertools
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time

import keras_tuner
import pandas as pd
import pytest
from conftest import PROJECT

from eurosat_helpers import data, models, training, tuning

FIXED = {"policy": "float32"}


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


def test_search_returns_a_row_a_trial_the_best_first(searched):
    table = searched[1]
    assert list(table) == [
        "trial",
        "learning_rate",
        "batch_size",
        "dropout",
        "stages",
        "width",
        "epochs",
        "parameters",
        "val_accuracy",
        "seconds",
    ]
    assert sorted(table.trial) == [1, 2]
    assert table.val_accuracy.is_monotonic_decreasing
    assert table.learning_rate.between(1e-3, 1e-2).all()
    assert (table.seconds > 0).all()
    for row in table.itertuples():
        shape = {"stem_width": row.width, "widths": [row.width], "blocks": [1]}
        model = models.build_cnn(mean=[0] * 3, variance=[1] * 3, **shape)
        assert row.parameters == model.count_params()


def test_a_trial_is_what_fit_gives_with_the_best_settings(parts, searched):
    network, fit = tuning.best_settings(searched[1])
    mean, variance = tuning.pipeline.channel_statistics(parts[0])
    training.set_up_devices(seed=0)
    model = models.build_cnn(mean=mean, variance=variance, **network)
    history = training.fit(model, *parts, epochs=1, seed=0, **fit, **FIXED)
    assert history.val_accuracy.max() == pytest.approx(searched[1].val_accuracy[0])


def test_finished_search_trains_nothing_and_is_silent(again, searched, capfd):
    pd.testing.assert_frame_equal(again(), searched[1])
    assert capfd.readouterr() == ("", "")


def test_more_trials_go_on_from_those_that_are_there(again, searched, capfd):
    table = again(trials=3)
    out, err = capfd.readouterr()
    assert [line.partition(":")[0] for line in out.splitlines()] == ["trial 3/3"]
    assert err == ""
    assert table.val_accuracy.max() == pytest.approx(float(out.split()[-1][:-1]) / 100)
    before = table[table.trial < 3].reset_index(drop=True)
    pd.testing.assert_frame_equal(before, searched[1])


def test_trial_that_ended_is_not_repeated_though_the_list_says_that_it_goes_on(again, searched):
    path = again.folder / "oracle.json"
    state = json.loads(path.read_text())
    path.write_text(json.dumps({**state, "ongoing_trials": {"tuner0": "1"}}))
    pd.testing.assert_frame_equal(again(), searched[1])


def test_trial_that_began_is_repeated_though_it_is_in_no_list(again, searched):
    path = again.folder / "trial_1/trial.json"
    path.write_text(path.read_text().replace("COMPLETED", "RUNNING"))
    columns = ["trial", "learning_rate", "dropout", "width", "val_accuracy"]
    assert len(tuning.results(again.folder)) == 1
    pd.testing.assert_frame_equal(again()[columns], searched[1][columns])  # same seed, same result
    assert path.read_text() != (searched[0] / "trial_1/trial.json").read_text()


def test_other_settings_or_tiles_are_another_search(again, parts, monkeypatch):
    monkeypatch.setattr(tuning._Tuner, "search", lambda *_, **__: None)  # the folder alone matters
    changes = [
        {"method": "grid"},
        {"epochs": 2},
        {"seed": 1},
        {"space": tuning.default_space()},
        {"weight_decay": 0.1},
        {"policy": "mixed_bfloat16"},
        {"parts": (parts[0][1:], parts[1])},
        {"parts": (parts[0], parts[1][1:])},
    ]
    for changed in changes:
        again(**changed)
    folders = {path.name for path in again.folder.parent.iterdir()}
    assert len(folders) == 1 + len(changes)
    assert sum(name.startswith("grid-") for name in folders) == 1
    again()
    assert {path.name for path in again.folder.parent.iterdir()} == folders


@pytest.mark.parametrize("name", ["oracle.json", "trial_0/trial.json"])
def test_damaged_file_is_named_and_kept(again, name):
    path = again.folder / name
    path.write_text(path.read_text()[:-20])
    damaged = path.read_text()
    with pytest.raises(ValueError, match=re.escape(str(path)) + " must be a JSON file"):
        again()
    assert path.read_text() == damaged


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"method": "sgd"}, ValueError, "one of random, grid, bayesian, hyperband. Received: 'sgd"),
        ({"trials": 0}, ValueError, "`trials` must be an integer from 1 on. Received: 0"),
        ({"epochs": 1.5}, ValueError, "`epochs` must be an integer from 1 on. Received: 1.5"),
        ({"seed": -1}, ValueError, "`seed` must be an integer from 0 on. Received: -1"),
        ({"weight_dekay": 0.1}, TypeError, "weight_dekay"),
        ({"learning_rate": 0.1}, TypeError, "multiple values for keyword argument 'learning_rate'"),
    ],
)
def test_bad_options_are_named_and_claim_no_folder(again, tmp_path, changed, error, message):
    with pytest.raises(error, match=message):
        again(directory=tmp_path / "new", **changed)
    assert not (tmp_path / "new").exists()


def test_unknown_setting_is_named(again):
    space = small_space()
    space.Choice("momentum", [0.9])
    with pytest.raises(ValueError, match=r"`space` must be made of learning_rate.* momentum"):
        again(space=space)


def test_failed_trial_comes_last_and_is_told(parts, options, tmp_path, capsys):
    space = keras_tuner.HyperParameters()
    space.Choice("batch_size", [40, -1])
    space.Choice("stages", [1])
    space.Choice("width", [4])
    options = {**options, "method": "grid", "trials": 9, "learning_rate": 1e-3}
    table = tuning.search(*parts, **options, space=space, directory=tmp_path / "grid")
    assert table.batch_size.tolist() == [40, -1]
    assert table.val_accuracy.isna().tolist() == [False, True]
    told = f"Trial {table.trial[1]} failed: ValueError: `batch_size` must be a positive integer"
    assert told in capsys.readouterr().out
    assert tuning.best_settings(table)[1] == {"batch_size": 40}
    with pytest.raises(ValueError, match="`trials` must hold a finished trial"):
        tuning.best_settings(table[1:])


def test_hyperband_trains_the_best_of_many_again_for_more_epochs(parts, options, tmp_path):
    options = {**options, "method": "hyperband", "trials": 4, "epochs": 3}
    table = tuning.search(*parts, **options, space=small_space(), directory=tmp_path / "band")
    table = table.sort_values("trial", ignore_index=True)
    assert table.epochs.tolist() == [1, 1, 1, 3]
    best = table.val_accuracy[:3].idxmax()
    assert table.learning_rate[3] == table.learning_rate[best]
    assert table.learning_rate.nunique() == 3


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
    space.Float("learning_rate", 1e-4, 1e-2, sampling="log")
    space.Int("hidden_layers", 0, 1)
    with space.conditional_scope("hidden_layers", [1]):
        space.Choice("hidden_width", [8, 16])
    chosen = run(make("grid", space, tmp_path, trials=99))
    wanted = itertools.product([1e-4, 1e-3, 1e-2], [(0, None), (1, 8), (1, 16)])
    assert sorted(
        (round(x["learning_rate"], 9), x["hidden_layers"], x.get("hidden_width") or 0)
        for x in chosen
    ) == sorted((rate, layers, width or 0) for rate, (layers, width) in wanted)


def test_grid_goes_on_in_the_order_of_its_seed(tmp_path):
    orders = []
    for folder, seed in (("whole", 0), ("other", 1)):
        oracle = make("grid", small_space(), tmp_path / folder, trials=18, seed=seed)
        orders.append(run(oracle))
    begun = run(make("grid", small_space(), tmp_path / "cut", trials=5))
    resumed = make("grid", small_space(), tmp_path / "cut", trials=18)
    tuning._resume(resumed, tmp_path / "cut/search")
    assert begun + run(resumed) == orders[0]
    assert orders[0] != orders[1]


def test_bayesian_search_turns_to_where_it_is_good(tmp_path):
    space = keras_tuner.HyperParameters()
    space.Float("dropout", 0.0, 1.0)
    oracle = make("bayesian", space, tmp_path, trials=10)
    chosen = [x["dropout"] for x in run(oracle, lambda x: 1 - (x["dropout"] - 0.3) ** 2)]
    assert len(chosen) == 10
    assert max(abs(value - 0.3) for value in chosen[-3:]) < 0.05


@pytest.mark.parametrize("method", tuning.METHODS)
def test_settings_follow_the_seed_and_stay_within_the_trials(method, tmp_path):
    chosen = [
        run(make(method, tuning.default_space(), tmp_path / str(n), trials=3, seed=seed))
        for n, seed in enumerate([0, 0, 1])
    ]
    assert chosen[0] == chosen[1]
    assert chosen[0] != chosen[2]
    assert len(chosen[0]) == 3


def test_settings_that_are_not_searched_are_the_defaults_of_the_network():
    table = pd.DataFrame({"learning_rate": [0.01], "val_accuracy": [0.5]})
    network, fit = tuning.best_settings(table)
    defaults = inspect.signature(models.build_cnn).parameters
    assert network == {name: defaults[name].default for name in network}
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


def test_results_of_no_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="`directory` must hold a search"):
        tuning.results(tmp_path / "none")


SEARCH = """
import sys

sys.path.insert(0, "tests")
from test_tuning import FIXED, small_space

from eurosat_helpers import data, tuning

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


def test_killed_search_goes_on_where_it_stood(demo_folder, parts, options, searched, tmp_path):
    folder = tmp_path / searched[0].name  # the same settings
    first, second = (folder / f"trial_{n}/trial.json" for n in range(2))
    with start(demo_folder, tmp_path, 2) as process:
        try:
            wait_for(second.exists, process)
        finally:
            process.kill()
    assert len(tuning.results(folder)) == 1, "not in the middle"
    before = first.stat().st_mtime_ns, first.read_bytes()
    options = {**options, "directory": tmp_path, "space": small_space()}
    table = tuning.search(*parts, **options)
    assert (first.stat().st_mtime_ns, first.read_bytes()) == before, "trained twice"
    columns = ["trial", "learning_rate", "dropout", "width", "val_accuracy"]
    pd.testing.assert_frame_equal(table[columns], searched[1][columns])


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
        wait_for((folder / "trial_0/trial.json").exists, processes[1])
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
    assert sorted(tuning.results(folder).trial) == [1, 2, 3, 4]
    for name in (*place, "KERASTUNER_TUNER_ID"):
        monkeypatch.delenv(name)
    tuning.search(*parts, **options)
    assert capsys.readouterr().out == "", "what the chief collected was trained again"
