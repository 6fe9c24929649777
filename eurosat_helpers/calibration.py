"""Confidence: temperature, reliability and thresholds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax


def softmax(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Turn logits into probabilities, softened by `temperature`.

    Args:
        logits: Array of shape `(N, C)`.
        temperature: Divides the logits; above 1 lowers the confidence, below 1 raises it.

    Returns:
        float64 array of shape `(N, C)` with rows that sum to one.

    Raises:
        ValueError: If `logits` is not a finite `(N, C)` array or `temperature` is not positive.
    """
    if not (np.isfinite(temperature) and temperature > 0):
        raise ValueError(f"`temperature` must be a positive number. Received: {temperature}")
    return np.exp(log_softmax(_check_rows("logits", logits) / temperature, axis=1))


def fit_temperature(labels: np.ndarray, logits: np.ndarray) -> float:
    """Find the temperature that makes `softmax(logits, temperature)` fit the labels best.

    Minimizes the log loss, as in Guo et al., "On Calibration of Modern Neural Networks"
    (ICML 2017). Fit it on validation tiles. It changes the confidence, never the class.

    Args:
        labels: Integers in `[0, C)`, shape `(N,)`.
        logits: Array of shape `(N, C)`.

    Returns:
        The temperature, between 0.1 and 10. When every tile is classified correctly the log loss
        has no minimum and the result is close to 0.1.

    Raises:
        ValueError: If the arrays are empty, not finite or do not fit together.
    """
    logits = _check_rows("logits", logits)
    labels = _check_labels(labels, logits)
    rows = np.arange(len(labels))

    def loss(log_temperature: float) -> float:
        return -log_softmax(logits / np.exp(log_temperature), axis=1)[rows, labels].mean()

    return float(np.exp(minimize_scalar(loss, bounds=np.log([0.1, 10]), method="bounded").x))


def reliability(labels: np.ndarray, probabilities: np.ndarray, *, bins: int = 15) -> pd.DataFrame:
    """Compare confidence with accuracy in equal-width bins of the confidence.

    Args:
        labels: Integers in `[0, C)`, shape `(N,)`.
        probabilities: Array of shape `(N, C)` with rows that sum to one.
        bins: Number of bins between 0 and 1.

    Returns:
        One row a bin: its ends `low` (excluded) and `high` (included), the number of `tiles` in
        it, their mean `confidence` and their `accuracy`; both NaN in an empty bin.

    Raises:
        ValueError: If the arrays are empty, not probabilities or do not fit together, or `bins`
            is below 1.
    """
    labels, probabilities = _check(labels, probabilities)
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


def expected_calibration_error(
    labels: np.ndarray, probabilities: np.ndarray, *, bins: int = 15
) -> float:
    """Average the gap between confidence and accuracy over the bins, weighted by their tiles.

    Naeini et al., "Obtaining Well Calibrated Probabilities Using Bayesian Binning" (AAAI 2015),
    on the confidence of the predicted class as in Guo et al. (ICML 2017).

    Args:
        labels: Integers in `[0, C)`, shape `(N,)`.
        probabilities: Array of shape `(N, C)` with rows that sum to one.
        bins: Number of equal-width bins between 0 and 1.

    Returns:
        The error, between 0 (calibrated) and 1.

    Raises:
        ValueError: As `reliability`.
    """
    table = reliability(labels, probabilities, bins=bins)
    gaps = (table["confidence"] - table["accuracy"]).abs()
    return float((gaps * table["tiles"]).sum() / table["tiles"].sum())


def accuracy_by_coverage(labels: np.ndarray, probabilities: np.ndarray) -> pd.DataFrame:
    """Show how accurate the model is when it answers only where it is confident.

    The risk-coverage curve of Geifman and El-Yaniv, "Selective Classification for Deep Neural
    Networks" (NeurIPS 2017), with accuracy = 1 - risk.

    Args:
        labels: Integers in `[0, C)`, shape `(N,)`.
        probabilities: Array of shape `(N, C)` with rows that sum to one.

    Returns:
        One row a distinct confidence, the highest first: this `threshold`, the `coverage` (share
        of the tiles at or above it) and the `accuracy` of those tiles.

    Raises:
        ValueError: If the arrays are empty, not probabilities or do not fit together.
    """
    labels, probabilities = _check(labels, probabilities)
    confidence = probabilities.max(axis=1)
    order = np.argsort(-confidence, kind="stable")
    right = (probabilities.argmax(axis=1) == labels)[order]
    kept = np.arange(1, len(labels) + 1)
    table = pd.DataFrame(
        {
            "threshold": confidence[order],
            "coverage": kept / len(labels),
            "accuracy": right.cumsum() / kept,
        }
    )
    # Tiles of equal confidence are kept or left out together.
    return table.drop_duplicates("threshold", keep="last", ignore_index=True)


def confidence_threshold(
    labels: np.ndarray, probabilities: np.ndarray, *, accuracy: float = 0.995
) -> dict[str, float | None]:
    """Find the lowest confidence at which the tiles kept are right often enough.

    Choose it on validation tiles.

    Args:
        labels: Integers in `[0, C)`, shape `(N,)`.
        probabilities: Array of shape `(N, C)` with rows that sum to one.
        accuracy: Accuracy asked of the tiles at or above the threshold, in `(0, 1]`.

    Returns:
        `threshold`, and the `accuracy` and `coverage` (share of all tiles) of the tiles at or
        above it. Where no threshold is good enough, it is just above one and keeps no tile:
        `coverage` 0 and `accuracy` None.

    Raises:
        ValueError: If `accuracy` is out of range, or the arrays are empty, not probabilities or
            do not fit together.
    """
    if not 0 < accuracy <= 1:
        raise ValueError(f"`accuracy` must be in (0, 1]. Received: {accuracy}")
    table = accuracy_by_coverage(labels, probabilities)
    enough = table[table["accuracy"] >= accuracy]
    if enough.empty:
        return {"threshold": float(np.nextafter(1, 2)), "accuracy": None, "coverage": 0.0}
    return {name: float(enough[name].iloc[-1]) for name in ("threshold", "accuracy", "coverage")}


def _check(
    labels: np.ndarray,
    probabilities: np.ndarray,
    class_names: Sequence[str] | None = None,
    *,
    name: str = "probabilities",
) -> tuple[np.ndarray, np.ndarray]:
    """Return the labels and the probabilities as int64 and float64, or say what is wrong."""
    probabilities = _check_rows(name, probabilities)
    labels = _check_labels(labels, probabilities)
    sums = probabilities.sum(axis=1)
    if probabilities.min() < 0 or np.abs(sums - 1).max() > 1e-3:
        raise ValueError(
            f"`{name}` must be at least 0 with rows that sum to 1; for logits call "
            f"`softmax` first. Received: minimum {probabilities.min():.4g}, row sums "
            f"{sums.min():.4g} to {sums.max():.4g}"
        )
    if class_names is not None and len(class_names) != probabilities.shape[1]:
        raise ValueError(
            f"`class_names` must name the {probabilities.shape[1]} columns of `probabilities`. "
            f"Received: {len(class_names)} names"
        )
    return labels, probabilities


def _check_rows(name: str, values: np.ndarray) -> np.ndarray:
    values = np.asarray(values)
    if values.ndim != 2 or 0 in values.shape:
        raise ValueError(
            f"`{name}` must have shape (N, C) with at least one tile. "
            f"Received: shape {values.shape}"
        )
    values = values.astype("float64")
    if not np.isfinite(values).all():
        raise ValueError(
            f"`{name}` must be finite. Received: "
            f"{np.count_nonzero(~np.isfinite(values))} values that are NaN or infinite"
        )
    return values


def _check_labels(labels: np.ndarray, rows: np.ndarray) -> np.ndarray:
    labels = np.asarray(labels)
    if labels.shape != rows.shape[:1] or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"`labels` must be {len(rows)} integers, one a tile (for one-hot rows take "
            f"`argmax(axis=1)`). Received: shape {labels.shape}, dtype {labels.dtype}"
        )
    if labels.min() < 0 or labels.max() >= rows.shape[1]:
        raise ValueError(
            f"`labels` must be in [0, {rows.shape[1]}). Received: {labels.min()} to {labels.max()}"
        )
    return labels.astype("int64")
