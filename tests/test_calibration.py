"""Temperature, reliability and thresholds, against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax

from eurosat_helpers import calibration, evaluation

# Four tiles of three classes. The predicted classes are 0, 0, 1, 0, so tiles 1 and 3 are mistakes;
# class 2 is never predicted.
LABELS = np.array([0, 1, 1, 2])
PROBABILITIES = np.array([[0.9, 0.1, 0.0], [0.6, 0.4, 0.0], [0.3, 0.7, 0.0], [0.8, 0.1, 0.1]])


def simulated(count: int, temperature: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and labels drawn from `softmax(logits / temperature)`: calibrated by construction."""
    random = np.random.default_rng(seed)
    logits = random.normal(scale=4, size=(count, 10))
    cumulated = softmax(logits / temperature, axis=1).cumsum(axis=1)
    return (random.random((count, 1)) > cumulated).sum(axis=1).clip(max=9), logits


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_temperature_of_simulated_logits_is_recovered(temperature):
    labels, logits = simulated(20_000, temperature)
    assert calibration.fit_temperature(labels, logits) == pytest.approx(temperature, rel=0.05)


def test_fitted_temperature_lowers_the_calibration_error_and_keeps_the_accuracy():
    labels, logits = simulated(20_000, 2.5)
    before = evaluation.scores(labels, softmax(logits, axis=1))
    temperature = calibration.fit_temperature(labels, logits)
    after = evaluation.scores(labels, softmax(logits / temperature, axis=1))
    assert before["calibration_error"] > 0.1
    assert after["calibration_error"] < 0.015
    assert after["accuracy"] == before["accuracy"]


def test_temperature_without_a_mistake_stays_one():
    assert calibration.fit_temperature(np.arange(3), np.eye(3)) == 1


def test_reliability_sorts_the_tiles_into_bins():
    table = calibration.reliability(LABELS, PROBABILITIES, bins=5)
    assert table["high"].tolist() == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    # A bin holds its upper end: 0.6 is in the third, 0.7 and 0.8 in the fourth.
    assert table["tiles"].tolist() == [0, 0, 1, 2, 1]
    assert table["confidence"][2:].tolist() == pytest.approx([0.6, 0.75, 0.9])
    assert table["accuracy"][2:].tolist() == pytest.approx([0, 0.5, 1])
    assert table.loc[:1, ["confidence", "accuracy"]].isna().all(axis=None)


def test_reliability_keeps_a_confidence_of_one_in_the_last_bin():
    probabilities = np.array([[1.0000001, 0.0]])
    assert calibration.reliability(np.array([0]), probabilities)["tiles"].iloc[-1] == 1


@pytest.mark.parametrize(
    ("accuracy", "threshold", "kept", "coverage"),
    [(0.995, 0.9, 1, 0.25), (0.6, 0.7, 2 / 3, 0.75), (0.5, 0.6, 1 / 2, 1)],
)
def test_confidence_threshold_is_the_lowest_that_keeps_the_accuracy(
    accuracy, threshold, kept, coverage
):
    found = calibration.confidence_threshold(LABELS, PROBABILITIES, accuracy=accuracy)
    assert found == pytest.approx({"threshold": threshold, "accuracy": kept, "coverage": coverage})


def test_confidence_threshold_keeps_equal_confidences_together():
    found = calibration.confidence_threshold(
        np.array([0, 1]), np.array([[0.9, 0.1]] * 2), accuracy=0.5
    )
    assert found == {"threshold": 0.9, "accuracy": 0.5, "coverage": 1}


def test_confidence_threshold_that_nothing_reaches_keeps_no_tile():
    found = calibration.confidence_threshold(np.array([1]), PROBABILITIES[:1])
    assert np.float32(1) < found["threshold"]  # NumPy compares these in float32
    assert (found["accuracy"], found["coverage"]) == (None, 0)


@pytest.mark.parametrize(
    ("labels", "probabilities", "message"),
    [
        (LABELS, PROBABILITIES * 8 - 3, "for logits use `softmax`. Received: minimum -3"),
        (LABELS, PROBABILITIES / 2, "row sums 0.5 to 0.5"),
        (LABELS, PROBABILITIES * np.nan, "Received: minimum nan, row sums nan to nan"),
        (LABELS, PROBABILITIES[0], r"shape \(N, C\) with at least one tile. Received: shape \(3,"),
        (LABELS[:0], PROBABILITIES[:0], r"at least one tile. Received: shape \(0, 3\)"),
        (LABELS[:3], PROBABILITIES, r"`labels` must be 4 integers.* Received: shape \(3,\)"),
        (LABELS[:0], PROBABILITIES, r"`labels` must be 4 integers.* Received: shape \(0,\)"),
        (np.eye(3)[LABELS], PROBABILITIES, r"one per tile.* shape \(4, 3\)"),
        (LABELS / 1.0, PROBABILITIES, "`labels` must be 4 integers.* dtype float64"),
        (LABELS + 1, PROBABILITIES, r"in \[0, 3\), one per tile. Received: .*1 to 3"),
        (LABELS - 1, PROBABILITIES, r"in \[0, 3\), one per tile. Received: .*-1 to 1"),
    ],
)
def test_bad_arrays_are_named(labels, probabilities, message):
    with pytest.raises(ValueError, match=message):
        calibration.check(labels, probabilities)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: calibration.fit_temperature(LABELS, np.full((4, 3), np.nan)),
            "minimum nan, row sums",
        ),
        (
            lambda: calibration.fit_temperature(LABELS, np.zeros(4)),
            r"`softmax\(logits\)` must have",
        ),
        (lambda: calibration.fit_temperature(LABELS, np.eye(3)), "`labels` must be 3 integers"),
        (lambda: calibration.reliability(LABELS, PROBABILITIES, bins=0), "`bins` must be at least"),
        (
            lambda: calibration.confidence_threshold(LABELS, PROBABILITIES, accuracy=99.5),
            r"`accuracy` must be in \(0, 1\]. Received: 99.5",
        ),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
