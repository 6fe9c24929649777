"""Several predictions of one tile become one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def average_over_symmetries(
    predict: Callable[[np.ndarray], np.ndarray], images: np.ndarray
) -> np.ndarray:
    """Average the predictions of each tile over its eight symmetries (test-time augmentation).

    Turned and mirrored tiles show the same place, and a network that trained on all eight errs a
    little differently on each. It costs eight predictions a tile.

    Args:
        predict: Function from images to probabilities `(N, C)`, such as `Classifier.predict`.
        images: The tiles, `(N, 64, 64, 3)`.

    Returns:
        The mean probabilities, `(N, C)`.
    """
    views = [np.rot90(images, quarter_turns, axes=(1, 2)) for quarter_turns in range(4)]
    views += [np.swapaxes(view, 1, 2) for view in views]
    return np.mean([predict(view) for view in views], axis=0)
