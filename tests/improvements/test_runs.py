"""The record of runs: rows and predictions, what they cost, many writers at once, and damage."""

from __future__ import annotations

import dataclasses
import os
import resource
from concurrent.futures import ProcessPoolExecutor

import keras
import numpy as np
import pandas as pd
import pytest
from conftest import PROJECT
from scipy.special import softmax

from eurosat_helpers import calibration, evaluation
from eurosat_helpers.data import Tiles
from eurosat_helpers.improvements import runs

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
    "seconds": 0.1 + 0.2,  # 0.30000000000000004: rounding would lose it
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
    assert row.index.tolist() == list(runs.COLUMNS)
    assert row["accuracy"] == 4 / 6
    assert row["macro_f1"] == evaluation.scores(LABELS, RUN["probabilities"])["macro_f1"]
    assert row["tiles_per_second"] == 42 * 3 / RUN["seconds"]
    assert (row["tiles"], row["validation_tiles"]) == (42, 6)
    day = pd.Timestamp(row["date"]).strftime("%Y-%m-%d")
    assert row["run"] == f"small_cnn-{day}-1"
    assert row["source"] == "EuroSAT RGB, and more"
    assert pd.Timestamp(row["date"]).utcoffset().total_seconds() == 0


def test_every_run_is_calibrated_in_the_same_way(tmp_path):
    timid = RUN["probabilities"] ** 0.1  # right in 4 of 6 cases, at a confidence of 55 %
    timid /= timid.sum(axis=1, keepdims=True)
    row = runs.record(**{**RUN, "probabilities": timid}, directory=tmp_path).iloc[0]
    assert row["calibration_error"] < 0.01  # 0.11 as given
    with np.load(tmp_path / "runs" / f"{row['run']}.npz", allow_pickle=False) as packed:
        assert packed["names"].tolist() == NAMES
        np.testing.assert_array_equal(packed["labels"], LABELS)
        np.testing.assert_allclose(packed["probabilities"].max(axis=1), 4 / 6, atol=1e-3)
    certain = np.round(RUN["probabilities"])  # a probability of zero has no logarithm
    assert runs.record(**{**RUN, "probabilities": certain}, directory=tmp_path).accuracy[0] == 4 / 6


def test_model_is_recorded_with_the_temperature_of_its_export(tmp_path):
    inputs = keras.Input((64, 64, 3))
    pooled = keras.layers.GlobalAveragePooling2D()(inputs)
    model = keras.Model(inputs, keras.layers.Dense(2)(pooled))
    model.layers[-1].set_weights([np.zeros((3, 2)), np.array([0, 5.0])])  # far too sure of "Wood"
    history = pd.DataFrame({"epoch": [1, 2], "seconds": [2.0, 1.0]})
    options = {**{name: RUN[name] for name in ("train", "validation")}, "directory": tmp_path}
    row = runs.record_model("net", model, history, seed=3, **options).iloc[0]
    assert row[["name", "seed", "parameters", "epochs", "seconds"]].tolist() == ["net", 3, 8, 2, 3]
    assert row["accuracy"] == 0.5
    logits = np.tile([0, 5.0], (6, 1))
    temperature = calibration.fit_temperature(LABELS, logits)
    wanted = evaluation.scores(LABELS, softmax(logits / temperature, axis=1))
    assert row["calibration_error"] == pytest.approx(wanted["calibration_error"], abs=1e-4)
    # Nothing was trained beside what it is based on.
    same = runs.record_model("same", model, history[:0], seed=3, based_on=["net"], **options)
    assert same[["epochs", "seconds"]].to_numpy().tolist() == [[2, 3]]


def test_cost_includes_the_runs_that_a_run_is_based_on(tmp_path):
    head = {**RUN, "name": "head", "epochs": 10, "seconds": 40.0}
    runs.record(**{**head, "epochs": 99}, directory=tmp_path)
    runs.record(**head, directory=tmp_path)  # the newest of its name counts
    member = runs.record(**RUN, directory=tmp_path)["run"][0]
    tuned = {**RUN, "name": "tuned", "epochs": 5, "seconds": 60.0}
    row = runs.record(**tuned, based_on=["head"], directory=tmp_path).iloc[0]
    assert (row["epochs"], row["seconds"]) == (15, 100.0)
    assert row["tiles_per_second"] == 42 * 15 / 100
    features = {**RUN, "name": "svm", "epochs": 0, "seconds": 1.0}
    row = runs.record(**features, based_on=["tuned", member], directory=tmp_path).iloc[0]
    assert (row["epochs"], row["seconds"]) == (18, 101.0 + RUN["seconds"])
    with pytest.raises(ValueError, match="has no run or name 'body', but "):
        runs.record(**tuned, based_on=["body"], directory=tmp_path)


def test_table_gives_back_every_number_as_it_was(tmp_path):
    row = runs.record(**RUN, directory=tmp_path).iloc[0]
    runs.record(**{**RUN, "name": "None"}, directory=tmp_path)  # a name, and no missing value
    table = runs.table(tmp_path)
    assert table.iloc[0].to_dict() == row.to_dict()
    assert table["name"].tolist() == ["small_cnn", "None"]
    assert (table["seed"].dtype, table["seconds"].dtype) == ("int64", "float64")


def test_table_has_the_best_first_and_of_equal_ones_the_quickest(tmp_path):
    better = answers(True, True, True, True, True, False)
    for name, seconds, probabilities in (
        ("slow", 9.0, RUN["probabilities"]),
        ("best", 100.0, better),
        ("quick", 2.0, RUN["probabilities"]),
        ("best", 1.0, RUN["probabilities"]),
    ):
        changed = {"name": name, "seconds": seconds, "probabilities": probabilities}
        runs.record(**{**RUN, **changed}, directory=tmp_path)
    assert runs.table(tmp_path)["name"].tolist() == ["best", "best", "quick", "slow"]
    newest = runs.table(tmp_path, newest=True)
    assert newest[["name", "seconds"]].to_numpy().tolist() == [
        ["best", 1.0],
        ["quick", 2.0],
        ["slow", 9.0],
    ]
    with pytest.raises(FileNotFoundError, match=r"There is no `.*runs.csv`. Record a run first"):
        runs.table(tmp_path / "none")


def test_run_never_takes_the_predictions_of_another(tmp_path):
    (first,) = runs.record(**RUN, directory=tmp_path)["run"]
    (second,) = runs.record(**RUN, directory=tmp_path)["run"]
    assert (first[-2:], second[-2:]) == ("-1", "-2")
    (tmp_path / "runs.csv").unlink()  # the predictions stay
    before = files(tmp_path / "runs")
    assert runs.record(**RUN, directory=tmp_path)["run"][0].endswith("-3")
    assert before.items() < files(tmp_path / "runs").items()


def test_many_processes_at_once_lose_no_row(processes, tmp_path):
    with ProcessPoolExecutor(4, mp_context=processes) as pool:
        pending = [
            pool.submit(runs.record, **{**RUN, "seed": seed}, directory=tmp_path)
            for seed in range(16)
        ]
        rows = [job.result() for job in pending]
    table = runs.table(tmp_path)
    assert sorted(table["seed"]) == list(range(16))
    assert set(table["run"]) == {row["run"][0] for row in rows}
    assert {path.stem for path in (tmp_path / "runs").glob("*.npz")} == set(table["run"])
    assert {"runs", "runs.csv"} <= {path.name for path in tmp_path.iterdir()}


def test_folder_of_tiles_may_have_any_name(tmp_path):
    named = dataclasses.replace(RUN["validation"], source=os.fsdecode(b"caf\xe9"))
    for number in (1, 2):
        row = runs.record(**{**RUN, "validation": named}, directory=tmp_path).iloc[0]
        assert row["run"].endswith(f"-{number}")
    assert runs.table(tmp_path)["source"].tolist() == [named.source] * 2


def test_damaged_table_is_named_and_left_alone(tmp_path):
    runs.record(**RUN, directory=tmp_path)
    file = tmp_path / "runs.csv"
    text = file.read_text()
    damages = {
        text.replace("macro_f1", "f1"): "its columns are run, name.*f1",
        text.replace("run,name", "run;name"): "its columns are",
        "": "No columns",
        text[:-1]: "last line is not complete",
        text[:-40]: "damaged: ",
        text.replace(",1000,", ",1000,5,"): "damaged: ",
        text.replace(",1000,", ",many,"): "damaged: .*many",
        text.replace(",1000,", ",,"): "damaged: ",
        text.replace(f",{4 / 6},", ",nan,"): "a number is not finite",
        text + text.splitlines()[1] + "\n": "a run is there twice",
        text.replace("small", '"small'): "damaged: ",
        text.encode() + b"\xff\xfe\n": "damaged: ",
    }
    for damaged, message in damages.items():
        file.write_bytes(damaged if isinstance(damaged, bytes) else damaged.encode())
        before = files(tmp_path)
        with pytest.raises(ValueError, match=rf"(?s)runs.csv` .*{message}.*Repair it, or move it"):
            runs.record(**RUN, directory=tmp_path)
        assert files(tmp_path) == before
        with pytest.raises(ValueError, match=r"runs.csv` "):
            runs.table(tmp_path)


def test_row_that_cannot_be_written_leaves_the_table_complete(tmp_path):
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
    assert [name[-7:] for name in added] == ["-21.npz"]  # no temporary file is left
    assert runs.record(**RUN, directory=tmp_path)["run"][0].endswith("-22")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"name": "../other"}, "`name` must be letters.* Received: '../other'"),
        ({"name": "a,b"}, "`name` must be letters"),
        ({"epochs": 0}, "`epochs` must be at least 1 .* Received: 0 and 0.3"),
        ({"seconds": 0}, "`seconds` above 0.* Received: 3 and 0"),
        ({"seconds": np.nan}, "`seconds` above 0.* Received: 3 and nan"),
        ({"validation": tiles(NAMES[:5] + NAMES[:1])}, "`validation` must hold each tile once"),
        ({"probabilities": np.zeros((6, 2))}, "rows that sum to 1"),
        ({"validation": tiles(NAMES[:5], LABELS[:5])}, "`labels` must be 6 integers"),
    ],
)
def test_bad_run_is_named_and_leaves_nothing(tmp_path, changed, message):
    with pytest.raises(ValueError, match=message):
        runs.record(**{**RUN, **changed}, directory=tmp_path / "results")
    assert not (tmp_path / "results").exists()


def test_published_table_marks_what_was_not_calibrated_and_counts_what_runs_are_based_on():
    table = runs.table(PROJECT / "docs").set_index("name")
    uncalibrated = table.index[table.calibration_error > 0.05]
    assert all(name.endswith("-uncalibrated") for name in uncalibrated)
    network = table.loc["cnn-90-epochs"]
    readers = table[table.index.str.startswith("cnn-features-")]
    assert len(readers) == 4
    assert (readers.epochs == network.epochs).all()
    assert (readers.seconds > network.seconds).all()
