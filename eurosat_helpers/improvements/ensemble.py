"""Several models become one, and the eight symmetries of a tile one prediction."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np
from keras import layers, ops
from scipy.optimize import minimize

from eurosat_helpers.calibration import check


def vote_weights(labels: np.ndarray, probabilities: Sequence[np.ndarray]) -> np.ndarray:
    """Find the weights with which the mean of several models' probabilities fits the labels best.

    Minimizes the log loss of the weighted mean, which is convex in the weights (stacking of
    distributions, Smyth and Wolpert 1999). Fit them on validation tiles.

    Args:
        labels: Integers in `[0, C)`, shape `(N,)`.
        probabilities: One array per model, `(N, C)` with rows that sum to one.

    Returns:
        float64 weights, one per model, at least 0 and with sum 1; below 1e-4 they become 0. The
        search begins at equal weights, so equal models get equal weights.

    Raises:
        ValueError: If an array does not fit the labels.
    """
    labels = np.asarray(labels)
    members = [check(labels, member)[1] for member in probabilities]
    if not members:
        raise ValueError("`probabilities` must be those of at least one model. Received: none")
    # Of the right class, (N, M). A model that rules it out would make the log loss infinite.
    chances = np.stack([member[range(len(labels)), labels] for member in members], axis=1)
    chances = np.maximum(chances, 1e-12)

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        mixed = np.maximum(chances @ weights, 1e-12)
        return -np.log(mixed).mean(), -(chances / mixed[:, None]).mean(axis=0)

    found = minimize(
        loss,
        np.full(len(members), 1 / len(members)),
        jac=True,
        method="SLSQP",
        bounds=[(0, 1)] * len(members),
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": np.ones_like},
        options={"ftol": 1e-12, "maxiter": 1000},
    ).x
    found = np.where(found < 1e-4, 0, found)
    return found / found.sum()


def average_models(
    members: Sequence[keras.Model],
    *,
    temperatures: Sequence[float] | None = None,
    weights: Sequence[float] | None = None,
    symmetries: bool = False,
) -> keras.Model:
    """Make one model of several; `artifact.save` takes it with the detector of a member.

    It averages the members' probabilities (Lakshminarayanan et al., "Deep Ensembles", arXiv
    1612.01474), and with `symmetries` those of each tile's eight views (test-time augmentation).

    Args:
        members: Models from raw pixels to logits, all of the same shapes. Their weights are
            shared with the result, not copied.
        temperatures: One per member, see `calibration.fit_temperature`; `None` means 1 for each.
        weights: One per member, see `vote_weights`; `None` means equal weights. A member of weight
            0 is left out, with its cost.
        symmetries: Whether to average over the eight symmetries of each tile too, at eight times
            the computation and memory.

    Returns:
        A model from raw pixels, float32 `(N, 64, 64, 3)` in 0-255, to logits float32 `(N, C)`: the
        logarithm of the mean probabilities, of which small ones survive.

    Raises:
        ValueError: If there is no member, the members differ in shape, or `temperatures` or
            `weights` does not fit.
    """
    shapes = {(member.input_shape, member.output_shape) for member in members}
    if len(shapes) != 1:
        raise ValueError(
            f"`members` must be at least one model, all of the same shapes. Received: {shapes}"
        )
    ones = np.ones(len(members))
    weights = ones if weights is None else np.asarray(weights, "float64")
    temperatures = ones if temperatures is None else np.asarray(temperatures, "float64")
    for name, values in (("weights", weights), ("temperatures", temperatures)):
        fits = values.shape == ones.shape and (values >= 0).all() and 0 < values.sum() < np.inf
        if not fits or (name == "temperatures" and 0 in values):
            raise ValueError(
                f"`{name}` must be {len(members)} positive numbers, one per member (a weight may "
                f"be 0, but not all of them). Received: {values}"
            )
    weights = weights / weights.sum()
    images = keras.Input(members[0].input_shape[1:], name="images")
    views = [images]
    if symmetries:
        views += [ops.flip(images, axis=1)]
        views += [ops.flip(view, axis=2) for view in views]
        views += [ops.transpose(view, (0, 2, 1, 3)) for view in views]
    # One pass over all views: the whole batch in its first symmetry, then in its second, ...
    batch = ops.concatenate(views, axis=0) if symmetries else images
    votes = []
    for number in np.flatnonzero(weights):
        member = members[number]
        # Members are often built by one function: as models inside a model each has its own names.
        logits = keras.Model(member.input, member.output, name=f"member{number + 1}")(batch)
        log_share = float(np.log(weights[number] / len(views)))
        vote = ops.log_softmax(logits / float(temperatures[number]), axis=-1) + log_share
        votes.append(ops.reshape(vote, (len(views), -1, logits.shape[-1])))
    mean = ops.logsumexp(ops.concatenate(votes, axis=0), axis=0)
    # A layer at the end, whose name and number format can be asked for.
    outputs = layers.Activation("linear", dtype="float32", name="head-vote")(mean)
    return keras.Model(images, outputs, name="ensemble")
