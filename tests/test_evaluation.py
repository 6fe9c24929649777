"""Scores, tables and calibration, against values worked out by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest

from eurosat_helpers import evaluation

# Four tiles of three classes. The predicted classes are 0, 0, 1, 0, so tiles 1 and 3 are mistakes;
# class 2 is never predicted.
LABELS = np.array([0, 1, 1, 2])
PROBABILITIES = np.array([[0.9, 0.1, 0.0], [0.6, 0.4, 0.0], [0.3, 0.7, 0.0], [0.8, 0.1, 0.1]])
CLASS_NAMES = ("Forest", "River", "SeaLake")


def simulated(count: int, temperature: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and labels drawn from `softmax(logits / temperature)`: calibrated by construction."""
    random = np.random.default_rng(seed)
    logits = random.normal(scale=4, size=(count, 10))
    cumulated = evaluation.softmax(logits, temperature).cumsum(axis=1)
    return (random.random((count, 1)) > cumulated).sum(axis=1).clip(max=9), logits


def test_softmax_divides_the_logits_by_the_temperature():
    logits = np.log([[1.0, 4.0, 16.0]])
    np.testing.assert_allclose(evaluation.softmax(logits), [[1 / 21, 4 / 21, 16 / 21]])
    np.testing.assert_allclose(evaluation.softmax(logits, 2), [[1 / 7, 2 / 7, 4 / 7]])


def test_softmax_of_huge_logits_is_finite():
    np.testing.assert_allclose(evaluation.softmax(np.array([[1e4, 0.0]])), [[1.0, 0.0]])


@pytest.mark.parametrize("temperature", [0, -1, np.nan, np.inf])
def test_softmax_refuses_a_temperature_that_is_not_positive(temperature):
    with pytest.raises(ValueError, match=r"`temperature` must be a positive number. Received: "):
        evaluation.softmax(np.zeros((1, 3)), temperature)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_temperature_of_simulated_logits_is_recovered(temperature):
    labels, logits = simulated(20_000, temperature)
    assert evaluation.fit_temperature(labels, logits) == pytest.approx(temperature, rel=0.05)


def test_fitted_temperature_lowers_the_calibration_error_and_keeps_the_accuracy():
    labels, logits = simulated(20_000, 2.5)
    before = evaluation.scores(labels, evaluation.softmax(logits))
    temperature = evaluation.fit_temperature(labels, logits)
    after = evaluation.scores(labels, evaluation.softmax(logits, temperature))
    assert before["calibration_error"] > 0.1
    assert after["calibration_error"] < 0.015
    assert after["accuracy"] == before["accuracy"]


def test_temperature_without_a_mistake_stays_at_its_bound():
    assert evaluation.fit_temperature(np.arange(3), np.eye(3)) == pytest.approx(0.1, rel=0.01)


def test_scores_of_four_tiles():
    scores = evaluation.scores(LABELS, PROBABILITIES)
    assert scores["tiles"] == 4
    assert scores["accuracy"] == 0.5
    # Wilson: (p + z²/2n ± z sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n) with p = 1/2, n = 4, z = 1.96.
    assert scores["accuracy_low"] == pytest.approx(0.1500, abs=1e-4)
    assert scores["accuracy_high"] == pytest.approx(0.8500, abs=1e-4)
    # F1 is 1/2 (precision 1/3, recall 1), 2/3 (precision 1, recall 1/2) and 0.
    assert scores["macro_f1"] == pytest.approx((1 / 2 + 2 / 3 + 0) / 3)
    assert scores["log_loss"] == pytest.approx(-np.log([0.9, 0.4, 0.7, 0.1]).mean())


def test_scores_can_be_written_as_json_and_take_float32():
    probabilities = PROBABILITIES.astype("float32")
    assert json.loads(json.dumps(evaluation.scores(LABELS, probabilities))) == pytest.approx(
        evaluation.scores(LABELS, PROBABILITIES), abs=1e-6
    )


def test_scores_of_one_class_alone():
    scores = evaluation.scores(np.array([0]), PROBABILITIES[:1])
    assert (scores["accuracy"], scores["macro_f1"]) == (1, 1)


def test_per_class_counts_a_class_that_is_never_predicted_as_zero():
    table = evaluation.per_class(LABELS, PROBABILITIES, CLASS_NAMES)
    assert table.index.tolist() == list(CLASS_NAMES)
    assert table["precision"].tolist() == pytest.approx([1 / 3, 1, 0])
    assert table["recall"].tolist() == pytest.approx([1, 1 / 2, 0])
    assert table["f1"].tolist() == pytest.approx([1 / 2, 2 / 3, 0])
    assert table["tiles"].tolist() == [1, 2, 1]


def test_confusion_has_the_truth_in_rows():
    table = evaluation.confusion(LABELS, PROBABILITIES, CLASS_NAMES)
    assert table.to_numpy().tolist() == [[1, 0, 0], [1, 1, 0], [1, 0, 0]]
    assert table.loc["SeaLake", "Forest"] == 1
    assert (table.index.name, table.columns.name) == ("truth", "prediction")


def test_reliability_sorts_the_tiles_into_bins():
    table = evaluation.reliability(LABELS, PROBABILITIES, bins=5)
    assert table["high"].tolist() == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    # A bin holds its upper end: 0.6 is in the third, 0.7 and 0.8 in the fourth.
    assert table["tiles"].tolist() == [0, 0, 1, 2, 1]
    assert table["confidence"][2:].tolist() == pytest.approx([0.6, 0.75, 0.9])
    assert table["accuracy"][2:].tolist() == pytest.approx([0, 0.5, 1])
    assert table.loc[:1, ["confidence", "accuracy"]].isna().all(axis=None)


def test_reliability_keeps_a_confidence_of_one_in_the_last_bin():
    probabilities = np.array([[1.0000001, 0.0]])
    assert evaluation.reliability(np.array([0]), probabilities)["tiles"].iloc[-1] == 1


def test_expected_calibration_error_is_the_weighted_gap():
    # Bins as above: 1 tile off by 0.6, 2 tiles by 0.25, 1 tile by 0.1.
    error = evaluation.expected_calibration_error(LABELS, PROBABILITIES, bins=5)
    assert error == pytest.approx((1 * 0.6 + 2 * 0.25 + 1 * 0.1) / 4)


def test_mistakes_come_with_the_most_confident_first():
    assert evaluation.mistakes(LABELS, PROBABILITIES).tolist() == [3, 1]
    assert evaluation.mistakes(LABELS, PROBABILITIES, count=1).tolist() == [3]
    assert evaluation.mistakes(LABELS[:1], PROBABILITIES[:1]).tolist() == []


def test_accuracy_by_coverage_adds_tiles_by_falling_confidence():
    table = evaluation.accuracy_by_coverage(LABELS, PROBABILITIES)
    assert table["threshold"].tolist() == [0.9, 0.8, 0.7, 0.6]
    assert table["coverage"].tolist() == [0.25, 0.5, 0.75, 1]
    assert table["accuracy"].tolist() == pytest.approx([1, 1 / 2, 2 / 3, 1 / 2])


def test_accuracy_by_coverage_keeps_equal_confidences_together():
    table = evaluation.accuracy_by_coverage(np.array([0, 1]), np.array([[0.9, 0.1]] * 2))
    assert table.to_numpy().tolist() == [[0.9, 1, 0.5]]


@pytest.mark.parametrize(
    ("accuracy", "threshold", "kept", "coverage"),
    [(0.995, 0.9, 1, 0.25), (0.6, 0.7, 2 / 3, 0.75), (0.5, 0.6, 1 / 2, 1)],
)
def test_confidence_threshold_is_the_lowest_that_keeps_the_accuracy(
    accuracy, threshold, kept, coverage
):
    found = evaluation.confidence_threshold(LABELS, PROBABILITIES, accuracy=accuracy)
    assert found == pytest.approx({"threshold": threshold, "accuracy": kept, "coverage": coverage})


def test_confidence_threshold_that_nothing_reaches_keeps_no_tile():
    found = evaluation.confidence_threshold(np.array([1]), PROBABILITIES[:1])
    assert found["threshold"] > 1
    assert (found["accuracy"], found["coverage"]) == (None, 0)


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
    return evaluation.compare(np.zeros(sum(counts), int), first, second, **settings)


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


def test_models_that_agree_differ_by_nothing():
    found = compared(0, 0, both=90, neither=10)
    assert (found["difference_low"], found["difference"], found["difference_high"]) == (0, 0, 0)


def test_interval_is_that_of_drawing_the_tiles_themselves():
    first, second = right_on(*(np.random.default_rng(5).random((2, 300)) < [[0.9], [0.8]]))
    labels = np.zeros(300, int)
    found = evaluation.compare(labels, first, second, seed=0)
    drawn = np.random.default_rng(1).integers(300, size=(10_000, 300))
    difference = (first[:, 0] - second[:, 0])[drawn].mean(axis=1)
    ends = found["difference_low"], found["difference_high"]
    np.testing.assert_allclose(ends, np.percentile(difference, [2.5, 97.5]), atol=0.004)


def test_interval_covers_the_true_difference_in_95_of_100_cases():
    random = np.random.default_rng(0)
    labels, covered = np.zeros(1000, int), []
    for _ in range(400):
        answer = random.random(1000)  # 6 % the first alone, 3 % the other alone, 85 % both
        first, second = right_on(
            (answer < 0.06) | (answer >= 0.15),
            (answer >= 0.06) & ((answer < 0.09) | (answer >= 0.15)),
        )
        found = evaluation.compare(labels, first, second, resamples=1000)
        covered.append(found["difference_low"] <= 0.03 <= found["difference_high"])
    assert 0.92 <= np.mean(covered) <= 0.98


def test_comparison_is_repeated_by_its_seed_alone():
    first, second = (compared(40, 30, both=900, neither=30, seed=seed) for seed in (0, 0))
    assert first == second
    assert compared(40, 30, both=900, neither=30, seed=1, resamples=99) != compared(
        40, 30, both=900, neither=30, seed=0, resamples=99
    )


@pytest.mark.parametrize(
    ("labels", "probabilities", "message"),
    [
        (LABELS, PROBABILITIES * 8 - 3, "for logits call `softmax` first. Received: minimum -3"),
        (LABELS, PROBABILITIES / 2, "row sums 0.5 to 0.5"),
        (LABELS, PROBABILITIES * np.nan, "`probabilities` must be finite. Received: 12 values"),
        (LABELS, PROBABILITIES[0], r"shape \(N, C\) with at least one tile. Received: shape \(3,"),
        (LABELS[:0], PROBABILITIES[:0], r"at least one tile. Received: shape \(0, 3\)"),
        (LABELS[:3], PROBABILITIES, r"`labels` must be 4 integers.* Received: shape \(3,\)"),
        (np.eye(3)[LABELS], PROBABILITIES, r"take `argmax\(axis=1\)`.* shape \(4, 3\)"),
        (LABELS / 1.0, PROBABILITIES, "`labels` must be 4 integers.* dtype float64"),
        (LABELS + 1, PROBABILITIES, r"`labels` must be in \[0, 3\). Received: 1 to 3"),
        (LABELS - 1, PROBABILITIES, r"`labels` must be in \[0, 3\). Received: -1 to 1"),
    ],
)
def test_bad_arrays_are_named(labels, probabilities, message):
    with pytest.raises(ValueError, match=message):
        evaluation.scores(labels, probabilities)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: evaluation.per_class(LABELS, PROBABILITIES, CLASS_NAMES[:2]), "2 names"),
        (lambda: evaluation.confusion(LABELS, PROBABILITIES, CLASS_NAMES[:2]), "2 names"),
        (lambda: evaluation.reliability(LABELS, PROBABILITIES, bins=0), "`bins` must be at least"),
        (lambda: evaluation.mistakes(LABELS, PROBABILITIES, count=-1), "`count` must not be neg"),
        (lambda: evaluation.fit_temperature(LABELS, PROBABILITIES[:2]), "must be 2 integers"),
        (
            lambda: evaluation.compare(LABELS, PROBABILITIES, PROBABILITIES / 2),
            "`other_probabilities` must be at least 0 with rows that sum to 1",
        ),
        (
            lambda: evaluation.compare(LABELS[:2], PROBABILITIES[:2], PROBABILITIES[:2, :2]),
            r"`other_probabilities` must have shape \(2, 3\).* Received: shape \(2, 2\)",
        ),
        (
            lambda: evaluation.compare(LABELS, PROBABILITIES, PROBABILITIES, resamples=0),
            "`resamples` must be at least 1. Received: 0",
        ),
        (
            lambda: evaluation.confidence_threshold(LABELS, PROBABILITIES, accuracy=99.5),
            r"`accuracy` must be in \(0, 1\]. Received: 99.5",
        ),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
