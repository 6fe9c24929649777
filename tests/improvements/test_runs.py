"""The record of runs: rows and predictions, many writers at once, damage, and comparison."""

from __future__ import annotations

import fcntl
import multiprocessing
import resource
import subprocess
import sys
import threading
from concurrent.futures import ProcessPoolExecutor

import keras
import numpy as np
import pandas as pd
import pytest

from eurosat_helpers import evaluation, runs
from eurosat_helpers.data import Tiles

NAMES = [f"Lake/Lake_{number}.jpg" for number in range(6)]
LABELS = np.array([0, 0, 0, 1, 1, 1])


def tiles(names, labels=LABELS, source="EuroSAT RGB, and more") -> Tiles:
    images = np.zeros((len(names), 64, 64, 3), np.uint8)
    return Tiles(images, np.asarray(labels), np.asarray(names), ("Lake", "Wood"), source)


def answers(*right: bool) -> np.ndarray:
    """Probabilities of two classes that are right on the given tiles alone."""
    predictions = np.where(right, LABELS, 1 - LABELS)
    return np.where(np.eye(2)[predictions] > 0, 0.9, 0.1)


RUN = {
    "name": "small_cnn",
    "seed": 1,
    "parameters": 1000,
    "epochs": 3,
    "seconds": 0.1 + 0.2,  # 0.30000000000000004: whoever rounds loses it
    "train": tiles(NAMES * 7, np.resize(LABELS, 42)),
    "validation": tiles(NAMES),
    "probabilities": answers(True, True, True, True, False, False),
}


def files(directory) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


def test_row_has_the_scores_of_evaluation_and_the_cost(tmp_path):
    row = runs.record(**RUN, directory=tmp_path / "new" / "results").iloc[0]
    scores = evaluation.scores(LABELS, RUN["probabilities"])
    assert row.index.tolist() == list(runs.COLUMNS)
    assert row["accuracy"] == 4 / 6
    for score in ("accuracy", "macro_f1", "calibration_error"):
        assert row[score] == scores[score]
    assert row["tiles_per_second"] == 42 * 3 / RUN["seconds"]
    assert (row["tiles"], row["validation_tiles"]) == (42, 6)
    day = pd.Timestamp(row["date"]).strftime("%Y-%m-%d")
    assert row["run"] == f"small_cnn-{day}-1"
    assert row["source"] == "EuroSAT RGB, and more"
    assert pd.Timestamp(row["date"]).utcoffset().total_seconds() == 0


def test_model_is_recorded_with_the_temperature_of_its_export(tmp_path):
    inputs = keras.Input((64, 64, 3))
    pooled = keras.layers.GlobalAveragePooling2D()(inputs)
    model = keras.Model(inputs, keras.layers.Dense(2)(pooled))
    model.layers[-1].set_weights([np.zeros((3, 2)), np.array([0, 5.0])])  # far too sure of "Wood"
    history = pd.DataFrame({"epoch": [1, 2], "seconds": [2.0, 1.0]})
    parts = {name: RUN[name] for name in ("train", "validation")}
    row = runs.record_model("net", model, history, **parts, seed=3, directory=tmp_path).iloc[0]
    assert row[["name", "seed", "parameters", "epochs", "seconds"]].tolist() == ["net", 3, 8, 2, 3]
    assert row["accuracy"] == 0.5
    assert row["calibration_error"] < 0.15  # 0.49 without the temperature


def test_table_gives_back_every_number_as_it_was(tmp_path):
    row = runs.record(**RUN, directory=tmp_path).iloc[0]
    runs.record(**{**RUN, "name": "None"}, directory=tmp_path)  # a name, and no missing value
    table = runs.table(tmp_path)
    assert table.iloc[0].to_dict() == row.to_dict()
    assert table["name"].tolist() == ["small_cnn", "None"]
    assert table["seed"].dtype == "int64"
    assert table["seconds"].dtype == "float64"


def test_table_has_the_best_first_and_of_equal_ones_the_quickest(tmp_path):
    better = answers(True, True, True, True, True, False)
    for name, seconds, probabilities in (
        ("slow", 9.0, RUN["probabilities"]),
        ("quick", 2.0, RUN["probabilities"]),
        ("best", 100.0, better),
    ):
        changed = {"name": name, "seconds": seconds, "probabilities": probabilities}
        runs.record(**{**RUN, **changed}, directory=tmp_path)
    assert runs.table(tmp_path)["name"].tolist() == ["best", "quick", "slow"]
    assert runs.table(tmp_path).index.tolist() == [0, 1, 2]


def test_predictions_are_kept_without_pickles(tmp_path):
    (run,) = runs.record(**RUN, directory=tmp_path)["run"]
    with np.load(tmp_path / "runs" / f"{run}.npz", allow_pickle=False) as packed:
        assert packed["names"].tolist() == NAMES
        np.testing.assert_array_equal(packed["labels"], LABELS)
        np.testing.assert_array_equal(packed["probabilities"], RUN["probabilities"])


def test_run_never_takes_the_predictions_of_another(tmp_path):
    (first,) = runs.record(**RUN, directory=tmp_path)["run"]
    (second,) = runs.record(**RUN, directory=tmp_path)["run"]
    assert (first[-2:], second[-2:]) == ("-1", "-2")
    (tmp_path / "runs.csv").unlink()  # the predictions stay
    before = files(tmp_path / "runs")
    assert runs.record(**RUN, directory=tmp_path)["run"][0].endswith("-3")
    assert before.items() < files(tmp_path / "runs").items()


def test_many_processes_at_once_lose_no_row(tmp_path):
    # One server imports the package, and each worker is a fork of it.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["eurosat_helpers.runs"])
    with ProcessPoolExecutor(8, mp_context=context) as pool:
        pending = [
            pool.submit(runs.record, **{**RUN, "seed": seed}, directory=tmp_path)
            for seed in range(80)
        ]
        rows = [job.result() for job in pending]
    table = runs.table(tmp_path)
    assert sorted(table["seed"]) == list(range(80))
    assert set(table["run"]) == {row["run"][0] for row in rows}
    assert {path.stem for path in (tmp_path / "runs").iterdir()} == set(table["run"])
    assert {path.name for path in tmp_path.iterdir()} == {"runs", "runs.csv", ".runs.lock"}


def test_lock_is_waited_for_and_ends_with_the_process_that_holds_it(tmp_path):
    holding = (
        "import fcntl, sys, time\n"
        "lock = open(sys.argv[1], 'a')\n"
        "fcntl.flock(lock, fcntl.LOCK_EX)\n"
        "print('held', flush=True)\n"
        "time.sleep(60)\n"
    )
    command = [sys.executable, "-c", holding, str(tmp_path / ".runs.lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        writer = threading.Thread(target=runs.record, kwargs={**RUN, "directory": tmp_path})
        writer.start()
        writer.join(0.5)
        assert writer.is_alive()
        assert not (tmp_path / "runs.csv").exists()
        holder.kill()
        writer.join(30)
    assert len(runs.table(tmp_path)) == 1


def test_lock_is_free_after_an_error(tmp_path):
    (tmp_path / "runs.csv").write_text("other\n")
    with pytest.raises(ValueError, match="must have the columns"):
        runs.record(**RUN, directory=tmp_path)
    with (tmp_path / ".runs.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises where it is held


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text.replace("macro_f1", "f1"), "must have the columns run, name.*f1"),
        (lambda text: text.replace("run,name", "run;name"), "must have the columns"),
        (lambda text: text[:0], r"damaged: .*\. Repair it, or move it away"),
        (lambda text: text[:-1], "a line is not whole"),
        (lambda text: text[: len(text) - 40], "unexpected end of data"),
        (lambda text: text.replace(",1000,", ",1000,5,"), "a line is not whole"),
        (lambda text: text.replace(",1000,", ",many,"), "damaged: .*many"),
        (lambda text: text.replace(",1000,", ",,"), "damaged: "),
        (lambda text: text.replace(f",{4 / 6},", ",nan,"), "a number is not finite"),
        (lambda text: text + text.splitlines()[1] + "\n", "small_cnn-.*-1 is there twice"),
        (lambda text: text.replace("small", '"small'), "damaged: "),
        (lambda text: text.encode() + b"\xff\xfe\n", "damaged: .*utf-8"),
    ],
)
def test_damaged_table_is_named_and_left_alone(tmp_path, damage, message):
    runs.record(**RUN, directory=tmp_path)
    file = tmp_path / "runs.csv"
    damaged = damage(file.read_text())
    file.write_bytes(damaged if isinstance(damaged, bytes) else damaged.encode())
    before = files(tmp_path)
    with pytest.raises(ValueError, match=rf"(?s)runs.csv` .*{message}"):
        runs.record(**RUN, directory=tmp_path)
    assert files(tmp_path) == before
    with pytest.raises(ValueError, match=r"runs.csv` "):
        runs.table(tmp_path)


def test_row_that_cannot_be_written_leaves_the_table_whole(tmp_path):
    for _ in range(20):  # the table is then the largest file
        runs.record(**RUN, directory=tmp_path)
    before = files(tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before["runs.csv"]), limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            runs.record(**RUN, directory=tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    added = files(tmp_path).keys() - before.keys()
    assert before.items() < files(tmp_path).items()
    assert [name[-7:] for name in added] == ["-21.npz"]  # nothing half written lies about
    assert runs.record(**RUN, directory=tmp_path)["run"][0].endswith("-22")


def test_table_that_is_not_there_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no `.*runs.csv`. Record a run first"):
        runs.table(tmp_path)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"name": "../other"}, "`name` must be letters.* Received: '../other'"),
        ({"name": "a,b"}, "`name` must be letters"),
        ({"name": ""}, "`name` must be letters"),
        ({"seed": -1}, "`seed` must be an integer from 0. Received: -1"),
        ({"epochs": 0}, "`epochs` must be an integer from 1. Received: 0"),
        ({"epochs": 1.5}, "`epochs` must be an integer from 1. Received: 1.5"),
        ({"parameters": "many"}, "`parameters` must be an integer"),
        ({"seconds": 0}, "`seconds` must be a positive number. Received: 0"),
        ({"seconds": np.nan}, "`seconds` must be a positive number. Received: nan"),
        ({"validation": tiles(NAMES[:5] + NAMES[:1])}, "`validation` must hold each tile once"),
        ({"probabilities": np.zeros((6, 2))}, "rows that sum to 1"),
        ({"validation": tiles(NAMES[:5], LABELS[:5])}, "`labels` must be 6 integers"),
    ],
)
def test_bad_run_is_named_and_leaves_nothing(tmp_path, changed, message):
    with pytest.raises(ValueError, match=message):
        runs.record(**{**RUN, **changed}, directory=tmp_path / "results")
    assert not (tmp_path / "results").exists()


def test_comparison_is_by_the_name_of_the_tiles(tmp_path):
    other = answers(False, True, True, True, True, True)
    order = np.array([3, 0, 5, 1, 4, 2])
    (one,) = runs.record(**RUN, directory=tmp_path)["run"]
    shuffled = {
        "name": "other",
        "validation": tiles(NAMES)[order],
        "probabilities": other[order],
    }
    (second,) = runs.record(**{**RUN, **shuffled}, directory=tmp_path)["run"]
    compared = runs.compare(one, second, directory=tmp_path, seed=3, resamples=500)
    expected = evaluation.compare(LABELS, RUN["probabilities"], other, seed=3, resamples=500)
    assert compared.to_dict() == expected
    assert (compared["alone_right"], compared["other_alone_right"]) == (1, 2)
    swapped = runs.compare(second, one, directory=tmp_path)
    assert swapped["difference"] == -compared["difference"] == 1 / 6


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"validation": tiles([*NAMES[:5], "Wood/Wood_1.jpg"])},
            "1 of the 6 tiles of the first are not among the 6 of the second and 1 the other way "
            "round, such as Lake/Lake_5.jpg, Wood/Wood_1.jpg",
        ),
        (
            {"validation": tiles(NAMES)[:4], "probabilities": RUN["probabilities"][:4]},
            "2 of the 6 tiles .* among the 4 of the second and 0 the other way",
        ),
        (
            {"validation": tiles(NAMES, [0, 0, 0, 1, 1, 0])},
            "1 have another label, such as Lake/Lake_5.jpg",
        ),
    ],
)
def test_runs_on_other_tiles_are_not_compared(tmp_path, changed, message):
    (one,) = runs.record(**RUN, directory=tmp_path)["run"]
    (other,) = runs.record(**{**RUN, **changed}, directory=tmp_path)["run"]
    with pytest.raises(ValueError, match=f"not judged on the same validation tiles: {message}"):
        runs.compare(one, other, directory=tmp_path)


def test_run_that_is_not_there_says_which_are(tmp_path):
    (run,) = runs.record(**RUN, directory=tmp_path)["run"]
    with pytest.raises(FileNotFoundError, match=rf"of a run none in `.*There are: {run}\."):
        runs.compare(run, "none", directory=tmp_path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:0],
        lambda content: content[: len(content) // 2],
        lambda content: content[:60] + bytes([content[60] ^ 255]) + content[61:],
        lambda content: b"text" + content[:0],
    ],
    ids=["empty", "half", "flipped", "text"],
)
def test_damaged_predictions_are_named(tmp_path, damage):
    (run,) = runs.record(**RUN, directory=tmp_path)["run"]
    file = tmp_path / "runs" / f"{run}.npz"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ValueError, match=rf"{run}.npz` is damaged: .*Record the run again"):
        runs.compare(run, run, directory=tmp_path)
