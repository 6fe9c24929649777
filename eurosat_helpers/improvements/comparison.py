"""Tell whether one model is more accurate than another on the same tiles."""

from __future__ import annotations

import numpy as np
from scipy.stats import binomtest

from eurosat_helpers.calibration import _check


def compare(
    labels: np.ndarray,
    probabilities: np.ndarray,
    other_probabilities: np.ndarray,
    *,
    seed: int = 0,
    resamples: int = 10_000,
) -> dict[str, int | float]:
    """Tell whether one model is more accurate than another on the same tiles.

    The interval is the percentile interval of the paired bootstrap (Efron and Tibshirani, "An
    Introduction to the Bootstrap", 1993), which draws tiles, each with both answers. The p value is
    that of McNemar's test ("Note on the sampling error of the difference between correlated
    proportions or percentages", Psychometrika 1947) in its exact form: of the tiles on which one
    model alone is right, chance gives each model half. Both speak of the tiles, not of other seeds.

    Args:
        labels: Integers in `[0, C)`, shape `(N,)`.
        probabilities: Array of shape `(N, C)` with rows that sum to one.
        other_probabilities: Those of the other model, for the same tiles in the same order.
        seed: Seed of the bootstrap.
        resamples: Number of bootstrap samples.

    Returns:
        `tiles` (their number N), `accuracy`, `other_accuracy`, their `difference` (positive where
        the first is better) with the ends `difference_low` and `difference_high` of its 95 %
        interval, `alone_right` and `other_alone_right` (tiles on which one model alone is right),
        and `p_value` (two-sided). Plain Python numbers, ready for JSON.

    Raises:
        ValueError: If the arrays are empty, not probabilities or do not fit together, or
            `resamples` is below 1.
    """
    if resamples < 1:
        raise ValueError(f"`resamples` must be at least 1. Received: {resamples}")
    labels, probabilities = _check(labels, probabilities)
    _, other_probabilities = _check(labels, other_probabilities, name="other_probabilities")
    if other_probabilities.shape != probabilities.shape:
        raise ValueError(
            f"`other_probabilities` must have shape {probabilities.shape}, as `probabilities`. "
            f"Received: shape {other_probabilities.shape}"
        )
    tiles = len(labels)
    right = probabilities.argmax(axis=1) == labels
    other_right = other_probabilities.argmax(axis=1) == labels
    alone = int(np.count_nonzero(right & ~other_right))
    other_alone = int(np.count_nonzero(other_right & ~right))
    # All that the difference of a sample depends on is how many of the tiles drawn are of either
    # kind, and drawing tiles makes these numbers multinomial: no tile has to be drawn.
    shares = np.array([alone, other_alone, tiles - alone - other_alone]) / tiles
    drawn = np.random.default_rng(seed).multinomial(tiles, shares, size=resamples)
    low, high = np.percentile((drawn[:, 0] - drawn[:, 1]) / tiles, [2.5, 97.5])
    discordant = alone + other_alone
    return {
        "tiles": tiles,
        "accuracy": float(right.mean()),
        "other_accuracy": float(other_right.mean()),
        "difference": (alone - other_alone) / tiles,
        "difference_low": float(low),
        "difference_high": float(high),
        "alone_right": alone,
        "other_alone_right": other_alone,
        "p_value": float(binomtest(alone, discordant).pvalue) if discordant else 1.0,
    }
