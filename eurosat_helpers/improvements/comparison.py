"""Test whether one model is more accurate than another on the same tiles."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from eurosat_helpers.calibration import check
from eurosat_helpers.improvements import runs


def compare(
    labels: np.ndarray, probabilities: np.ndarray, other_probabilities: np.ndarray, *, seed: int = 0
) -> dict[str, int | float]:
    """Test whether one model is more accurate than another on the same tiles.

    The interval is the percentile interval of the paired bootstrap (Efron and Tibshirani 1993),
    which draws tiles, each with both answers. The p value is that of McNemar's test (Psychometrika
    1947) in its exact form: of the tiles on which one model alone is right, chance gives each model
    half. Neither speaks of other seeds.

    Args:
        labels: Integers in `[0, C)`, shape `(N,)`.
        probabilities: Array of shape `(N, C)` with rows that sum to one.
        other_probabilities: Those of the other model, for the same tiles in the same order.
        seed: Seed of the bootstrap, of 10,000 samples.

    Returns:
        `tiles` (their number N), `accuracy`, `other_accuracy`, their `difference` (positive where
        the first is better) with the ends `difference_low` and `difference_high` of its 95 %
        interval, `alone_right` and `other_alone_right` (tiles on which one model alone is right),
        and `p_value` (two-sided).

    Raises:
        ValueError: If the arrays are empty, not probabilities or do not fit together.
    """
    labels, probabilities = check(labels, probabilities)
    _, other_probabilities = check(labels, other_probabilities, name="other_probabilities")
    tiles = len(labels)
    right = probabilities.argmax(axis=1) == labels
    other_right = other_probabilities.argmax(axis=1) == labels
    alone = int(np.count_nonzero(right & ~other_right))
    other_alone = int(np.count_nonzero(other_right & ~right))
    # All that the difference of a sample depends on is how many of the tiles drawn are of either
    # kind, and drawing tiles makes these numbers multinomial: no tile has to be drawn.
    shares = np.array([alone, other_alone, tiles - alone - other_alone]) / tiles
    drawn = np.random.default_rng(seed).multinomial(tiles, shares, size=10_000)
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


def compare_runs(
    one: str,
    other: str,
    *,
    source: str | None = None,
    directory: str | Path = "results",
    seed: int = 0,
) -> pd.DataFrame:
    """Test whether one recorded run is more accurate than another on the same validation tiles.

    Args:
        one: A `run` of the table, or a `name` for its newest run.
        other: What to compare it with.
        source: That of the tiles, where the record holds runs of these names with other tiles too.
        directory: Folder of the record.
        seed: Seed of the bootstrap.

    Returns:
        What `compare` returns, as a table of one row.

    Raises:
        ValueError: If there is no such run, its predictions are missing or damaged, or the runs
            were evaluated on other tiles.
    """
    table = (directory := Path(directory).expanduser()) / "runs.csv"
    sources = {runs._find(table, run, source)["source"]: run for run in (one, other)}
    if len(sources) > 1:
        raise ValueError(f"{one} and {other} are of other tiles ({sources}): pass `source`")
    found = (_predictions(run, directory, source) for run in (one, other))
    (names, labels, probabilities), (other_names, other_labels, other_probabilities) = found
    if differ := set(zip(names, labels, strict=True)) ^ set(
        zip(other_names, other_labels, strict=True)
    ):
        raise ValueError(
            f"{one} and {other} were not evaluated on the same validation tiles: they differ in "
            f"{', '.join(sorted({str(name) for name, _ in differ})[:3])} or its label. Compare "
            "runs with the same tiles and the same split."
        )
    found = compare(labels, probabilities, other_probabilities, seed=seed)
    return pd.DataFrame(found, index=[f"{one} - {other}"])


def _predictions(run: str, directory: Path, source: str | None) -> tuple[np.ndarray, ...]:
    """Names, labels and probabilities of a run, in the order of the names."""
    file = directory / "runs" / f"{runs._find(directory / 'runs.csv', run, source)['run']}.npz"
    try:
        # NumPy leaves a damaged file open that it opened itself.
        with np.load(io.BytesIO(file.read_bytes()), allow_pickle=False) as packed:
            arrays = [packed[key] for key in ("names", "labels", "probabilities")]
        order = np.argsort(arrays[0])
        return tuple(array[order] for array in arrays)
    except Exception as error:  # NumPy reads a header as Python's source, and fails as that may
        raise ValueError(
            f"`{file}` is missing or damaged: {error}. Record the run again."
        ) from error
