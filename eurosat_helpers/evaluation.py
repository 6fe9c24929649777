"""Judge predicted probabilities: scores, tables, calibration and the confidence to ask for.

Everything here takes `labels` (integers of shape `(N,)`) and `probabilities` (`(N, C)`, rows that
sum to one) as NumPy arrays, so it works for any model.
"""

from __future__ import annotations

from collections.abc import Sequence

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

from eurosat_helpers.calibration import _check, expected_calibration_error


def scores(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, int | float]:
    """Summarize how good the predictions are.

    Args:
        labels: Integers in `[0, C)`, shape `(N,)`.
        probabilities: Array of shape `(N, C)` with rows that sum to one.

    Returns:
        `tiles` (their number N), `accuracy` with the ends `accuracy_low` and `accuracy_high` of
        its 95 % interval (Wilson 1927), `macro_f1` (mean F1 of the classes that occur),
        `log_loss` (nats) and `calibration_error` (see `expected_calibration_error`). Plain Python
        numbers, ready for JSON.

    Raises:
        ValueError: If the arrays are empty, not probabilities or do not fit together.
    """
    labels, probabilities = _check(labels, probabilities)
    predictions = probabilities.argmax(axis=1)
    right = int(accuracy_score(labels, predictions, normalize=False))
    interval = binomtest(right, len(labels)).proportion_ci(confidence_level=0.95, method="wilson")
    # scikit-learn warns about rows that sum to one only in float32.
    normalized = probabilities / probabilities.sum(axis=1, keepdims=True)
    return {
        "tiles": len(labels),
        "accuracy": right / len(labels),
        "accuracy_low": float(interval.low),
        "accuracy_high": float(interval.high),
        "macro_f1": float(f1_score(labels, predictions, average="macro", zero_division=0)),
        "log_loss": float(log_loss(labels, normalized, labels=range(probabilities.shape[1]))),
        "calibration_error": expected_calibration_error(labels, probabilities),
    }


def per_class(
    labels: np.ndarray, probabilities: np.ndarray, class_names: Sequence[str]
) -> pd.DataFrame:
    """Score each class by itself.

    Args:
        labels: Integers in `[0, C)`, shape `(N,)`.
        probabilities: Array of shape `(N, C)` with rows that sum to one.
        class_names: The C names, in the order of the columns of `probabilities`.

    Returns:
        One row a class with `precision`, `recall`, `f1` (0 where undefined) and `tiles` (their
        true number).

    Raises:
        ValueError: If the arrays are empty, not probabilities or do not fit together.
    """
    labels, probabilities = _check(labels, probabilities, class_names)
    precision, recall, f1, tiles = precision_recall_fscore_support(
        labels, probabilities.argmax(axis=1), labels=range(len(class_names)), zero_division=0
    )
    return pd.DataFrame(
        {"precision": precision, "recall": recall, "f1": f1, "tiles": tiles},
        index=pd.Index(class_names, name="class"),
    )


def confusion(
    labels: np.ndarray, probabilities: np.ndarray, class_names: Sequence[str]
) -> pd.DataFrame:
    """Count the tiles for each pair of true and predicted class.

    Args:
        labels: Integers in `[0, C)`, shape `(N,)`.
        probabilities: Array of shape `(N, C)` with rows that sum to one.
        class_names: The C names, in the order of the columns of `probabilities`.

    Returns:
        Table of `(C, C)` counts: a row a true class, a column a predicted class.

    Raises:
        ValueError: If the arrays are empty, not probabilities or do not fit together.
    """
    labels, probabilities = _check(labels, probabilities, class_names)
    counts = confusion_matrix(labels, probabilities.argmax(axis=1), labels=range(len(class_names)))
    return pd.DataFrame(
        counts,
        index=pd.Index(class_names, name="truth"),
        columns=pd.Index(class_names, name="prediction"),
    )


def mistakes(labels: np.ndarray, probabilities: np.ndarray, *, count: int = 10) -> np.ndarray:
    """Find the mistakes that the model was most confident about.

    Args:
        labels: Integers in `[0, C)`, shape `(N,)`.
        probabilities: Array of shape `(N, C)` with rows that sum to one.
        count: The most to return.

    Returns:
        Indices into `labels`, the most confident mistake first; fewer than `count` when there
        are fewer mistakes.

    Raises:
        ValueError: If the arrays are empty, not probabilities or do not fit together, or `count`
            is negative.
    """
    labels, probabilities = _check(labels, probabilities)
    if count < 0:
        raise ValueError(f"`count` must not be negative. Received: {count}")
    wrong = np.flatnonzero(probabilities.argmax(axis=1) != labels)
    order = np.argsort(-probabilities.max(axis=1)[wrong], kind="stable")
    return wrong[order][:count]


"""x"""


def predictions_table(
    names: Sequence[str],
    truth: Sequence[str] | None,
    probabilities: np.ndarray,
    class_names: Sequence[str],
) -> pd.DataFrame:
    """Put predictions into a table.

    Args:
        names: N file names.
        truth: N class names, or None when the truth is not known.
        probabilities: Array of shape `(N, C)`.
        class_names: The C class names.

    Returns:
        One row a tile: `file`, `truth` (empty when not known), `prediction`, `confidence` and one
        probability column a class.

    Raises:
        ValueError: If the lengths differ.
    """
    probabilities, classes = np.asarray(probabilities), np.asarray(class_names)
    expected = len(names), len(classes)
    truths = len(names) if truth is None else len(truth)
    if probabilities.shape != expected or truths != len(names):
        raise ValueError(
            f"`probabilities` must have shape {expected}, one row a name and one column a class "
            f"name, and `truth` {len(names)} entries. Received: shape {probabilities.shape} and "
            f"{truths} entries."
        )
    table = pd.DataFrame(probabilities, columns=list(class_names))
    table.insert(0, "file", list(names))
    table.insert(1, "truth", "" if truth is None else list(truth))
    table.insert(2, "prediction", classes[probabilities.argmax(axis=1)])
    table.insert(3, "confidence", probabilities.max(axis=1))
    return table
