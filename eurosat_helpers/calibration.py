"""Confidence: temperature, reliability and thresholds.

Everywhere `labels` are integers in `[0, C)` of shape `(N,)`, and `probabilities` have shape
`(N, C)` and rows that sum to one. Other values are a ValueError that says what was received.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax


def softmax(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Turn logits `(N, C)` into float64 probabilities.

    `temperature` divides the logits; above 1 it lowers the confidence, below 1 it raises it.
    """
    if not (np.isfinite(temperature) and temperature > 0):
        raise ValueError(f"`temperature` must be a positive number. Received: {temperature}")
    return np.exp(log_softmax(np.asarray(logits, "float64") / temperature, axis=1))


def fit_temperature(labels: np.ndarray, logits: np.ndarray) -> float:
    """Find the temperature for which `softmax(logits, temperature)` fits the labels best.

    Minimizes the log loss (Guo et al., arXiv 1706.04599) between 0.1 and 10, on validation tiles.
    If every one is classified correctly it has no minimum, and the result is close to 0.1.
    """
    labels, _ = check(labels, softmax(logits), name="softmax(logits)")

    def loss(log_temperature: float) -> float:
        rows = log_softmax(np.asarray(logits, "float64") / np.exp(log_temperature), axis=1)
        return -rows[np.arange(len(labels)), labels].mean()

    return float(np.exp(minimize_scalar(loss, bounds=np.log([0.1, 10]), method="bounded").x))


def reliability(labels: np.ndarray, probabilities: np.ndarray, *, bins: int = 15) -> pd.DataFrame:
    """Compare confidence with accuracy in equal-width bins of the confidence.

    Returns:
        One row per bin: its ends `low` (excluded) and `high` (included), the number of `tiles` in
        it, their mean `confidence` and their `accuracy`; both NaN in an empty bin.
    """
    labels, probabilities = check(labels, probabilities)
    if bins < 1:
        raise ValueError(f"`bins` must be at least 1. Received: {bins}")
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    edges = np.linspace(0, 1, bins + 1)
    # Only the inner edges, so that a confidence of 1 + rounding stays in the last bin.
    members = np.digitize(confidence, edges[1:-1], right=True)
    tiles = np.bincount(members, minlength=bins)
    filled = np.where(tiles > 0, tiles, np.nan)
    return pd.DataFrame(
        {
            "low": edges[:-1],
            "high": edges[1:],
            "tiles": tiles,
            "confidence": np.bincount(members, weights=confidence, minlength=bins) / filled,
            "accuracy": np.bincount(members, weights=right, minlength=bins) / filled,
        }
    )


def accuracy_by_coverage(labels: np.ndarray, probabilities: np.ndarray) -> pd.DataFrame:
    """Show how accurate the model is if it answers only where it is confident.

    The risk-coverage curve (Geifman and El-Yaniv, arXiv 1705.08500), with accuracy = 1 - risk.

    Returns:
        One row per distinct confidence, the highest first: this `threshold`, the `coverage` (share
        of the tiles at or above it) and the `accuracy` of those tiles.
    """
    labels, probabilities = check(labels, probabilities)
    confidence = probabilities.max(axis=1)
    order = np.argsort(-confidence, kind="stable")
    right = (probabilities.argmax(axis=1) == labels)[order]
    kept = np.arange(1, len(labels) + 1)
    coverage, accuracy = kept / len(labels), right.cumsum() / kept
    table = {"threshold": confidence[order], "coverage": coverage, "accuracy": accuracy}
    # Tiles of equal confidence are kept or left out together.
    return pd.DataFrame(table).drop_duplicates("threshold", keep="last", ignore_index=True)


def confidence_threshold(
    labels: np.ndarray, probabilities: np.ndarray, *, accuracy: float = 0.995
) -> dict[str, float | None]:
    """Find the lowest confidence from which on the tiles reach an `accuracy` in `(0, 1]`.

    Returns:
        `threshold`, and the `accuracy` and `coverage` (share of all tiles) of the tiles at or above
        it. If none is good enough: just above one, None and 0.
    """
    if not 0 < accuracy <= 1:
        raise ValueError(f"`accuracy` must be in (0, 1]. Received: {accuracy}")
    table = accuracy_by_coverage(labels, probabilities)
    enough = table[table["accuracy"] >= accuracy]
    if enough.empty:
        return {"threshold": float(np.nextafter(1, 2)), "accuracy": None, "coverage": 0.0}
    return {name: float(enough[name].iloc[-1]) for name in ("threshold", "accuracy", "coverage")}


def check(
    labels: np.ndarray,
    probabilities: np.ndarray,
    class_names: Sequence[str] | None = None,
    *,
    name: str = "probabilities",
) -> tuple[np.ndarray, np.ndarray]:
    """Return labels and probabilities as int64 and float64, or say what is wrong with `name`."""
    labels, probabilities = np.asarray(labels), np.asarray(probabilities, "float64")
    if probabilities.ndim != 2 or probabilities.size == 0:
        received = f"Received: shape {probabilities.shape}"
        raise ValueError(f"`{name}` must have shape (N, C) with at least one tile. {received}")
    low, sums = probabilities.min(), probabilities.sum(axis=1)
    if not (low >= 0 and np.abs(sums - 1).max() <= 1e-3):  # NaN is neither
        raise ValueError(
            f"`{name}` must be at least 0 with rows that sum to 1; for logits use `softmax`. "
            f"Received: minimum {low:.4g}, row sums {sums.min():.4g} to {sums.max():.4g}"
        )
    count, classes = probabilities.shape
    integers = labels.shape == (count,) and np.issubdtype(labels.dtype, np.integer)
    if not integers or labels.min() < 0 or labels.max() >= classes:
        received = f"{labels.min()} to {labels.max()}" if integers else f"dtype {labels.dtype}"
        raise ValueError(
            f"`labels` must be {count} integers in [0, {classes}), one per tile. "
            f"Received: shape {labels.shape}, {received}"
        )
    if class_names is not None and len(class_names) != classes:
        received = f"Received: {len(class_names)} names"
        raise ValueError(f"`class_names` must name the {classes} columns of `{name}`. {received}")
    return labels.astype("int64"), probabilities
