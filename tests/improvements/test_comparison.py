"""Tests of eurosat_helpers.improvements.comparison."""

import dataclasses
import json

import numpy as np
import pytest
from test_runs import LABELS, NAMES, RUN, answers, tiles

from eurosat_helpers.improvements import comparison, runs


def right_on(*right: np.ndarray) -> list[np.ndarray]:
    """Probabilities of two classes, for labels of zero, that are right where `right` says so."""
    return [
        np.stack([answer, ~answer], axis=1).astype("float64") for answer in map(np.array, right)
    ]


def compared(alone: int, other_alone: int, both: int, neither: int, **settings) -> dict:
    counts = [alone, other_alone, both, neither]
    first, second = right_on(
        np.repeat([True, False, True, False], counts), np.repeat([False, True, True, False], counts)
    )
    return comparison.compare(np.zeros(sum(counts), int), first, second, **settings)


@pytest.mark.parametrize(
    ("alone", "other_alone", "p_value"),
    [
        (10, 2, 2 * (1 + 12 + 66) / 2**12),  # tails of the binomial distribution: 0.03857
        (2, 10, 2 * (1 + 12 + 66) / 2**12),
        (5, 0, 2 / 2**5),
        (3, 3, 1),
        (0, 0, 1),
    ],
)
def test_p_value_is_that_of_the_exact_test_of_mcnemar(alone, other_alone, p_value):
    found = compared(alone, other_alone, both=80, neither=8)
    assert found["p_value"] == pytest.approx(p_value, abs=1e-12)
    assert (found["alone_right"], found["other_alone_right"]) == (alone, other_alone)


def test_comparison_has_both_accuracies_and_their_difference():
    found = compared(10, 2, both=80, neither=8)
    assert found["tiles"] == 100
    assert (found["accuracy"], found["other_accuracy"]) == (0.9, 0.82)
    assert found["difference"] == 0.08
    assert 0 < found["difference_low"] < 0.08 < found["difference_high"] < 0.16
    assert json.loads(json.dumps(found)) == found
    assert found == compared(10, 2, both=80, neither=8)
    same = compared(0, 0, both=90, neither=10)
    assert (same["difference_low"], same["difference"], same["difference_high"]) == (0, 0, 0)


def test_interval_is_that_of_drawing_the_tiles_themselves():
    first, second = right_on(*(np.random.default_rng(5).random((2, 300)) < [[0.9], [0.8]]))
    labels = np.zeros(300, int)
    found = comparison.compare(labels, first, second, seed=0)
    drawn = np.random.default_rng(1).integers(300, size=(10_000, 300))
    difference = (first[:, 0] - second[:, 0])[drawn].mean(axis=1)
    ends = found["difference_low"], found["difference_high"]
    np.testing.assert_allclose(ends, np.percentile(difference, [2.5, 97.5]), atol=0.004)


def test_interval_covers_the_true_difference_in_95_of_100_cases():
    random = np.random.default_rng(0)
    labels, covered = np.zeros(1000, int), []
    for _ in range(200):
        answer = random.random(1000)  # 6 % the first alone, 3 % the other alone, 85 % both
        first, second = right_on(
            (answer < 0.06) | (answer >= 0.15),
            (answer >= 0.06) & ((answer < 0.09) | (answer >= 0.15)),
        )
        found = comparison.compare(labels, first, second)
        covered.append(found["difference_low"] <= 0.03 <= found["difference_high"])
    assert 0.91 <= np.mean(covered) <= 0.98


def test_bad_arrays_are_named():
    first, second = right_on([True, False], [True, True])
    with pytest.raises(ValueError, match="`other_probabilities` must be at least 0 with rows"):
        comparison.compare(np.zeros(2, int), first, second / 2)


# --- recorded runs ---


def record(tmp_path, **changed):
    return runs.record(**{**RUN, **changed}, directory=tmp_path)["run"][0]


def test_runs_are_compared_by_the_name_of_the_tiles(tmp_path):
    other = answers(False, True, True, True, True, True)
    order = np.array([3, 0, 5, 1, 4, 2])
    one = record(tmp_path)
    shuffled = {"validation": tiles(NAMES)[order], "probabilities": other[order]}
    second = record(tmp_path, name="other", **shuffled)
    (compared,) = comparison.compare_runs(one, second, directory=tmp_path, seed=3).to_dict(
        orient="records"
    )
    assert compared == comparison.compare(LABELS, RUN["probabilities"], other, seed=3)
    assert (compared["alone_right"], compared["other_alone_right"]) == (1, 2)
    # A name is its newest run.
    record(tmp_path, probabilities=other)
    found = comparison.compare_runs("small_cnn", "other", directory=tmp_path)
    assert found.index.tolist() == ["small_cnn - other"]
    assert found["difference"].item() == 0


def test_newest_run_of_a_name_may_be_that_of_some_tiles_alone(tmp_path):
    record(tmp_path, name="one"), record(tmp_path, name="other")
    elsewhere = dataclasses.replace(RUN["validation"], source="other tiles")
    wrong = 1 - RUN["probabilities"]
    for name in ("one", "other"):
        record(tmp_path, name=name, validation=elsewhere, probabilities=wrong)
    row = record(tmp_path, name="both", based_on=["one"])
    assert row.startswith("both")
    found = comparison.compare_runs(
        "one", "other", source="EuroSAT RGB, and more", directory=tmp_path
    )
    expected = comparison.compare(LABELS, RUN["probabilities"], RUN["probabilities"])
    assert found.accuracy.iloc[0] == expected["accuracy"]
    found = comparison.compare_runs("one", "other", directory=tmp_path)
    assert found.accuracy.iloc[0] == pytest.approx(1 - expected["accuracy"])
    record(tmp_path, name="third")
    with pytest.raises(ValueError, match=r"one and third are of other tiles .*: pass `source`"):
        comparison.compare_runs("one", "third", directory=tmp_path)
    with pytest.raises(ValueError, match="has no run or name 'one'"):
        comparison.compare_runs("one", "other", source="no tiles", directory=tmp_path)


@pytest.mark.parametrize(
    ("changed", "example"),
    [
        ({"validation": tiles([*NAMES[:5], "Wood/Wood_1.jpg"])}, "Lake_5.jpg, Wood/Wood_1.jpg"),
        (
            {"validation": tiles(NAMES)[:4], "probabilities": RUN["probabilities"][:4]},
            "Lake_4.jpg, Lake/Lake_5.jpg",
        ),
        ({"validation": tiles(NAMES, [0, 0, 0, 1, 1, 0])}, "Lake_5.jpg"),
    ],
)
def test_runs_on_other_tiles_are_not_compared(tmp_path, changed, example):
    one, other = record(tmp_path), record(tmp_path, **changed)
    with pytest.raises(ValueError, match=f"same validation tiles: they differ in Lake/{example}"):
        comparison.compare_runs(one, other, directory=tmp_path)


def test_missing_and_damaged_predictions_are_named(tmp_path):
    run = record(tmp_path)
    with pytest.raises(ValueError, match="has no run or name 'none', but small_cnn"):
        comparison.compare_runs(run, "none", directory=tmp_path)
    file = tmp_path / "runs" / f"{run}.npz"
    content = file.read_bytes()
    flipped = content[:60] + bytes([content[60] ^ 255]) + content[61:]
    for damaged in (b"", content[: len(content) // 2], flipped, b"text"):
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match=rf"{run}.npz` is missing or damaged: .*Record the ru"):
            comparison.compare_runs(run, run, directory=tmp_path)
    file.unlink()
    with pytest.raises(ValueError, match=rf"{run}.npz` is missing or damaged"):
        comparison.compare_runs(run, run, directory=tmp_path)
