"""Predicted probabilities become scores and tables; `calibration` says what they must be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy.stats import binomtest
from sklearn.metrics import f1_score, log_loss

from eurosat_helpers.calibration import check, reliability


def scores(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, int | float]:
    """Summarize how good the predictions are.

    Returns:
        `tiles` (their number N), `accuracy` with the ends `accuracy_low` and `accuracy_high` of
        its 95 % interval (Wilson 1927), `macro_f1` (mean F1 of the classes that occur),
        `log_loss` (nats) and `calibration_error` (mean gap between confidence and accuracy over 15
        bins, 0 to 1; Naeini et al., AAAI 2015). Plain Python numbers, ready for JSON.
    """
    labels, probabilities = check(labels, probabilities)
    predictions = probabilities.argmax(axis=1)
    right = int((predictions == labels).sum())
    interval = binomtest(right, len(labels)).proportion_ci(confidence_level=0.95, method="wilson")
    # scikit-learn warns about rows that sum to one only in float32.
    normalized = probabilities / probabilities.sum(axis=1, keepdims=True)
    bins = reliability(labels, probabilities)
    gaps = (bins["confidence"] - bins["accuracy"]).abs()
    return {
        "tiles": len(labels),
        "accuracy": right / len(labels),
        "accuracy_low": float(interval.low),
        "accuracy_high": float(interval.high),
        "macro_f1": float(f1_score(labels, predictions, average="macro", zero_division=0)),
        "log_loss": float(log_loss(labels, normalized, labels=range(probabilities.shape[1]))),
        "calibration_error": float((gaps * bins["tiles"]).sum() / len(labels)),
    }


def robustness(
    labels: np.ndarray, answers: Mapping[str, np.ndarray], threshold: float
) -> pd.DataFrame:
    """Compare the probabilities for the same tiles in several states, such as saved as JPEG.

    Returns:
        One row per key of `answers`: `accuracy`, `sure` (share of the tiles with at least the
        confidence `threshold`), `right_when_sure` (accuracy of these; NaN if there is none) and
        `calibration_error`, as in `scores`.
    """
    rows = {}
    for name, probabilities in answers.items():
        sure, right = probabilities.max(axis=1) >= threshold, probabilities.argmax(axis=1) == labels
        rows[name] = {**scores(labels, probabilities), "sure": sure.mean()}
        rows[name]["right_when_sure"] = right[sure].mean() if sure.any() else np.nan
    columns = ["accuracy", "sure", "right_when_sure", "calibration_error"]
    return pd.DataFrame.from_dict(rows, orient="index")[columns]


def predictions_table(
    names: Sequence[str],
    truth: Sequence[str] | None,
    probabilities: np.ndarray,
    class_names: Sequence[str],
) -> pd.DataFrame:
    """Put predictions into a table, one row per tile.

    `names` holds N file names, `truth` N class names or None, `class_names` the C classes of the
    columns of `probabilities`, shape `(N, C)`. The columns of the table are `file`, `truth` (empty
    if not known), `prediction`, `confidence` and one per class. Other lengths are a ValueError.
    """
    table = pd.DataFrame(probabilities, columns=list(class_names))
    about = {"file": list(names), "truth": [""] * len(table) if truth is None else list(truth)}
    about |= {"prediction": table.idxmax(axis=1), "confidence": table.max(axis=1)}
    return pd.DataFrame(about, index=table.index).join(table)
