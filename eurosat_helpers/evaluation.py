"""Predicted probabilities become scores and tables.

Everywhere `labels` are integers in `[0, C)` of shape `(N,)`, `probabilities` have shape `(N, C)`
and rows that sum to one, and `class_names` are C names in the order of the columns. Other values
are a ValueError that says what was received.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy.stats import binomtest
from sklearn.metrics import (
    accuracy_score,
    confusion_matrix,
    f1_score,
    log_loss,
    precision_recall_fscore_support,
)

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
    right = int(accuracy_score(labels, predictions, normalize=False))
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
    rows = []
    for probabilities in answers.values():
        summary, sure = scores(labels, probabilities), probabilities.max(axis=1) >= threshold
        right = probabilities[sure].argmax(axis=1) == labels[sure]
        right_when_sure = right.mean() if sure.any() else np.nan
        rows += [(summary["accuracy"], sure.mean(), right_when_sure, summary["calibration_error"])]
    columns = ["accuracy", "sure", "right_when_sure", "calibration_error"]
    return pd.DataFrame(rows, index=list(answers), columns=columns)


def per_class(
    labels: np.ndarray, probabilities: np.ndarray, class_names: Sequence[str]
) -> pd.DataFrame:
    """Compute `precision`, `recall`, `f1` (0 where undefined) and number of `tiles` per class."""
    labels, probabilities = check(labels, probabilities, class_names)
    columns = precision_recall_fscore_support(
        labels, probabilities.argmax(axis=1), labels=range(len(class_names)), zero_division=0
    )
    table = dict(zip(("precision", "recall", "f1", "tiles"), columns, strict=True))
    return pd.DataFrame(table, index=pd.Index(class_names, name="class"))


def confusion(
    labels: np.ndarray, probabilities: np.ndarray, class_names: Sequence[str]
) -> pd.DataFrame:
    """Count the tiles: one row per true class, one column per predicted class."""
    labels, probabilities = check(labels, probabilities, class_names)
    return pd.DataFrame(
        confusion_matrix(labels, probabilities.argmax(axis=1), labels=range(len(class_names))),
        index=pd.Index(class_names, name="truth"),
        columns=pd.Index(class_names, name="prediction"),
    )


def mistakes(labels: np.ndarray, probabilities: np.ndarray, *, count: int = 10) -> np.ndarray:
    """Return indices of at most `count` mistakes, the most confident first."""
    labels, probabilities = check(labels, probabilities)
    if count < 0:
        raise ValueError(f"`count` must not be negative. Received: {count}")
    wrong = np.flatnonzero(probabilities.argmax(axis=1) != labels)
    order = np.argsort(-probabilities.max(axis=1)[wrong], kind="stable")
    return wrong[order][:count]


def predictions_table(
    names: Sequence[str],
    truth: Sequence[str] | None,
    probabilities: np.ndarray,
    class_names: Sequence[str],
) -> pd.DataFrame:
    """Put predictions into a table, one row per tile.

    Args:
        names: N file names.
        truth: N class names, or None if the truth is not known.
        probabilities: The predictions.
        class_names: The C class names.

    Returns:
        `file`, `truth` (empty if not known), `prediction`, `confidence`, one column per class.
    """
    probabilities, classes = np.asarray(probabilities), np.asarray(class_names)
    expected = len(names), len(classes)
    truth = [""] * len(names) if truth is None else list(truth)
    if probabilities.shape != expected or len(truth) != len(names):
        raise ValueError(
            f"`probabilities` must have shape {expected} (names, class names), and `truth` "
            f"{len(names)} entries. Received: shape {probabilities.shape} and {len(truth)} entries."
        )
    table = pd.DataFrame(probabilities, columns=list(class_names))
    table.insert(0, "file", list(names))
    table.insert(1, "truth", truth)
    table.insert(2, "prediction", classes[probabilities.argmax(axis=1)])
    table.insert(3, "confidence", probabilities.max(axis=1))
    return table
