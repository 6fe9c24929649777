"""Scores and tables, against values worked out by hand."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from eurosat_helpers import evaluation

# Four tiles of three classes. The predicted classes are 0, 0, 1, 0, so tiles 1 and 3 are mistakes;
# class 2 is never predicted.
LABELS = np.array([0, 1, 1, 2])
PROBABILITIES = np.array([[0.9, 0.1, 0.0], [0.6, 0.4, 0.0], [0.3, 0.7, 0.0], [0.8, 0.1, 0.1]])


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


def test_calibration_error_is_the_weighted_gap_between_confidence_and_accuracy():
    # In 15 bins each of the four tiles is alone: 0.9 right, 0.6 wrong, 0.7 right, 0.8 wrong.
    error = evaluation.scores(LABELS, PROBABILITIES)["calibration_error"]
    assert error == pytest.approx((0.1 + 0.6 + 0.3 + 0.8) / 4)


def test_scores_refuse_rows_that_do_not_sum_to_one():
    with pytest.raises(ValueError, match=r"row sums 0\.5 to 0\.5"):
        evaluation.scores(LABELS, PROBABILITIES / 2)


def test_predictions_table_has_one_row_per_tile():
    arguments = [[0.9, 0.1], [0.2, 0.8]], ["Forest", "River"]
    table = evaluation.predictions_table(["a.jpg", "b.jpg"], ["River", "River"], *arguments)
    assert table.to_dict("list") == {
        "file": ["a.jpg", "b.jpg"],
        "truth": ["River", "River"],
        "prediction": ["Forest", "River"],
        "confidence": [0.9, 0.8],
        "Forest": [0.9, 0.2],
        "River": [0.1, 0.8],
    }
    table = evaluation.predictions_table(["a.jpg", "b.jpg"], None, *arguments)
    assert table["truth"].tolist() == ["", ""]


@pytest.mark.parametrize(
    ("names", "truth", "columns"),
    [(["a"], ["River"] * 2, 2), (["a"], ["River"], 3), (["a", "b"], None, 2)],
)
def test_predictions_table_refuses_lengths_that_differ(names, truth, columns):
    with pytest.raises(ValueError, match=r"Length of values|Shape of passed values"):
        evaluation.predictions_table(names, truth, np.full((1, columns), 0.5), ["Forest", "River"])


def test_robustness_compares_states_of_the_same_tiles():
    labels = np.array([0, 1, 1, 0])
    sure, unsure = np.array([0.95, 0.05]), np.array([0.6, 0.4])
    answers = {"clean": np.array([sure, sure[::-1], unsure[::-1], unsure]), "dark": [unsure] * 4}
    answers["dark"] = np.array(answers["dark"])
    table = evaluation.robustness(labels, answers, threshold=0.9)
    assert table.index.tolist() == ["clean", "dark"]
    assert table["accuracy"].tolist() == [1, 0.5]
    assert table["sure"].tolist() == [0.5, 0]
    assert table["right_when_sure"].tolist()[0] == 1
    assert pd.isna(table["right_when_sure"].iloc[1])
    rows = json.loads(json.dumps(table.replace({np.nan: None}).to_dict("index"), allow_nan=False))
    assert rows["dark"]["right_when_sure"] is None
    clean = evaluation.scores(labels, answers["clean"])
    assert table["calibration_error"].iloc[0] == clean["calibration_error"]
