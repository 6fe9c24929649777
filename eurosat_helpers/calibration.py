"""Confidence: temperature, reliability and threshold.

Everywhere `labels` are integers in `[0, C)` of shape `(N,)`, and `probabilities` have shape
`(N, C)` and rows that sum to one. Other values are a ValueError that says what was received.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax


def fit_temperature(labels: np.ndarray, logits: np.ndarray) -> float:
    """Find the temperature for which `softmax(logits / temperature)` fits the labels best.

    Minimizes the log loss (Guo et al., arXiv 1706.04599) between 0.1 and 10, on validation tiles.
    If every one is classified correctly it has no minimum, and the result is 1.
    """
    logits = np.asarray(logits, "float64")
    labels, _ = check(labels, softmax(logits, axis=-1), name="softmax(logits)")
    if (logits.argmax(axis=1) == labels).all():
        return 1.0

    def loss(log_temperature: float) -> float:
        rows = log_softmax(logits / np.exp(log_temperature), axis=1)
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
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    edges = np.linspace(0, 1, bins + 1)
    rows = pd.DataFrame({"confidence": confidence, "accuracy": right})
    # Clipped, so that a confidence of 1 + rounding is in the last bin.
    groups = rows.groupby(pd.cut(confidence.clip(max=1), edges, labels=False))
    tiles = groups.size().reindex(range(bins), fill_value=0)
    table = pd.DataFrame({"low": edges[:-1], "high": edges[1:], "tiles": tiles})
    return table.join(groups.mean())


def confidence_threshold(
    labels: np.ndarray, probabilities: np.ndarray, *, accuracy: float = 0.995
) -> dict[str, float | None]:
    """Find the lowest confidence from which on the tiles reach an `accuracy` in `(0, 1]`.

    It is a point of the risk-coverage curve (Geifman and El-Yaniv, arXiv 1705.08500).

    Returns:
        `threshold`, and the `accuracy` and `coverage` (share of all tiles) of the tiles at or above
        it. If none is good enough: just above one, None and 0.
    """
    if not 0 < accuracy <= 1:
        raise ValueError(f"`accuracy` must be in (0, 1]. Received: {accuracy}")
    labels, probabilities = check(labels, probabilities)
    right = pd.Series(probabilities.argmax(axis=1) == labels)
    # Tiles of equal confidence are kept or left out together.
    groups = right.groupby(probabilities.max(axis=1)).agg(["sum", "count"])[::-1].cumsum()
    enough = groups[groups["sum"] / groups["count"] >= accuracy]
    if enough.empty:
        above_one = float(np.nextafter(np.float32(1), 2))  # in float32 too
        return {"threshold": above_one, "accuracy": None, "coverage": 0.0}
    threshold, (right, kept) = enough.index[-1], enough.iloc[-1]
    reached = {"accuracy": float(right / kept), "coverage": float(kept / len(labels))}
    return {"threshold": float(threshold), **reached}


def check(
    labels: np.ndarray, probabilities: np.ndarray, *, name: str = "probabilities"
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
    integers = labels.shape == (count,) and labels.dtype.kind in "iu"
    if not integers or labels.min() < 0 or labels.max() >= classes:
        received = f"{labels.min()} to {labels.max()}" if integers else f"dtype {labels.dtype}"
        raise ValueError(
            f"`labels` must be {count} integers in [0, {classes}), one per tile. "
            f"Received: shape {labels.shape}, {received}"
        )
    return labels.astype("int64"), probabilities
