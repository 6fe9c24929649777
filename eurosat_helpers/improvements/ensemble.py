"""Several predictions of one tile become one, and several sets of weights one model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops
from scipy.optimize import minimize

from eurosat_helpers import models, pipeline
from eurosat_helpers.data import Tiles
from eurosat_helpers.improvements import transfer


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


def soft_vote(
    probabilities: Sequence[np.ndarray], weights: Sequence[float] | None = None
) -> np.ndarray:
    """Average the probabilities of several models for the same tiles.

    Args:
        probabilities: One array a model, `(N, C)` with rows that sum to one.
        weights: One number a model, at least 0, of which the shares count; `None` weighs alike.

    Returns:
        The weighted mean, float64 `(N, C)` with rows that sum to one.

    Raises:
        ValueError: If the arrays are not probabilities of one shape, or `weights` does not fit.
    """
    members = _check_members(probabilities)
    return np.tensordot(_check_weights(weights, len(members)), members, axes=1)


def vote_weights(labels: np.ndarray, probabilities: Sequence[np.ndarray]) -> np.ndarray:
    """Find the weights with which `soft_vote` fits the labels best.

    Minimizes the log loss of the weighted mean, which is convex in the weights: the linear opinion
    pool, or stacking of distributions (Smyth and Wolpert 1999). Fit them on validation tiles.

    Args:
        labels: Integers in `[0, C)`, shape `(N,)`.
        probabilities: One array a model, `(N, C)` with rows that sum to one.

    Returns:
        float64 weights, one a model, at least 0 and with sum 1; below 1e-4 they become 0. The
        search begins at equal weights: there it stays when all models are equal, and models that
        are equal among others share alike.

    Raises:
        ValueError: If the arrays are not probabilities of one shape, or `labels` does not fit.
    """
    members = _check_members(probabilities)
    _, tiles, classes = members.shape
    labels = np.asarray(labels)
    if labels.shape != (tiles,) or not np.isin(labels, range(classes)).all():
        raise ValueError(
            f"`labels` must be {tiles} integers in [0, {classes}), one a tile. "
            f"Received: shape {labels.shape} with {np.unique(labels)[:20]}"
        )
    # Of the right class, (N, M). A model that rules it out would make the log loss infinite.
    chances = np.maximum(members[:, np.arange(tiles), labels].T, 1e-12)

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


@keras.saving.register_keras_serializable(package="eurosat_helpers")
class Symmetries(layers.Layer):
    """Put the eight symmetries of each image behind one another, for one pass over all of them.

    Input: `(batch, side, side, channels)`. Output: `(8 * batch, side, side, channels)`, the whole
    batch in its first symmetry, then in its second, and so on.
    """

    def call(self, images: tf.Tensor) -> tf.Tensor:
        views = [images, ops.flip(images, axis=1)]
        views += [ops.flip(view, axis=2) for view in views]
        views += [ops.transpose(view, (0, 2, 1, 3)) for view in views]
        return ops.concatenate(views, axis=0)


@keras.saving.register_keras_serializable(package="eurosat_helpers")
class SoftVote(layers.Layer):
    """Logits of several models become the logarithm of their weighted mean probability.

    Input: a list of logits, each `(views * batch, C)`. Output: float32 `(batch, C)`, whose softmax
    is the mean. Computed with logarithms throughout, so that small probabilities survive.

    Args:
        temperatures: One a model; divides its logits before the softmax.
        member_weights: One a model, above 0 and with sum 1.
        views: Times that the batch comes in each of the inputs, see `Symmetries`.
    """

    def __init__(
        self,
        *,
        temperatures: Sequence[float],
        member_weights: Sequence[float],
        views: int = 1,
        **kwargs: object,
    ) -> None:
        super().__init__(**{"dtype": "float32", **kwargs})
        self.temperatures = list(temperatures)
        self.member_weights = list(member_weights)
        self.views = views

    def call(self, logits: list[tf.Tensor]) -> tf.Tensor:
        votes = []
        for one, temperature, weight in zip(
            logits, self.temperatures, self.member_weights, strict=True
        ):
            vote = ops.log_softmax(one / temperature, axis=-1) + np.log(weight / self.views)
            votes.append(ops.reshape(vote, (self.views, -1, one.shape[-1])))
        return ops.logsumexp(ops.concatenate(votes, axis=0), axis=0)

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "temperatures": self.temperatures,
            "member_weights": self.member_weights,
            "views": self.views,
        }


def average_models(
    members: Sequence[keras.Model],
    *,
    temperatures: Sequence[float] | None = None,
    weights: Sequence[float] | None = None,
    symmetries: bool = False,
) -> keras.Model:
    """Make one model of several, which `artifact.save` takes like any other.

    Its answer is that of `soft_vote` over the members (Lakshminarayanan et al., "Deep Ensembles",
    arXiv 1612.01474). Whoever loads its `model.keras` must import this module first, for the
    layers of its own.

    Args:
        members: Models from raw pixels to logits, all of the same shapes. Their weights are
            shared with the result, not copied.
        temperatures: One a member, see `evaluation.fit_temperature`; `None` means 1 for each.
        weights: One a member, see `vote_weights`; `None` weighs alike. A member of weight 0 is
            left out, with its cost.
        symmetries: Whether to average over the eight symmetries of each tile too, as
            `average_over_symmetries` does, with eight times the computation and memory.

    Returns:
        A model from raw pixels, float32 `(N, 64, 64, 3)` in 0-255, to logits float32 `(N, C)`: the
        logarithm of the mean probabilities.

    Raises:
        ValueError: If there is no member, the members differ in shape, or `temperatures` or
            `weights` does not fit.
    """
    shapes = {(member.input_shape, member.output_shape) for member in members}
    if len(shapes) != 1:
        raise ValueError(
            f"`members` must be at least one model, all of the same shapes. Received: {shapes}"
        )
    weights = _check_weights(weights, len(members))
    temperatures = np.ones(len(members)) if temperatures is None else np.asarray(temperatures)
    if temperatures.shape != weights.shape or not np.all(
        (temperatures > 0) & (temperatures < np.inf)
    ):
        raise ValueError(
            f"`temperatures` must be {len(members)} positive numbers, one a member. "
            f"Received: {temperatures}"
        )
    images = keras.Input(members[0].input_shape[1:], name="images")
    views = Symmetries(name="symmetries")(images) if symmetries else images
    kept = np.flatnonzero(weights)
    # Members are often built by one function: as models inside a model each has names of its own.
    logits = [
        keras.Model(members[number].input, members[number].output, name=f"member{number + 1}")(
            views
        )
        for number in kept
    ]
    vote = SoftVote(
        temperatures=temperatures[kept].tolist(),
        member_weights=weights[kept].tolist(),
        views=8 if symmetries else 1,
        name="head-vote",
    )
    return keras.Model(images, vote(logits), name="ensemble")


class Snapshots(keras.callbacks.Callback):
    """Keep the weights at the end of some epochs of one `training.fit`, for `average_weights`.

    Args:
        epochs: The epochs to keep, the first of which is 1.

    Attributes:
        weight_sets: One list of arrays, as `model.get_weights` gives, an epoch kept.
    """

    def __init__(self, epochs: Iterable[int]) -> None:
        super().__init__()
        self.epochs = frozenset(epochs)
        self.weight_sets: list[list[np.ndarray]] = []

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:  # noqa: ARG002
        if epoch + 1 in self.epochs:
            self.weight_sets.append(self.model.get_weights())


def average_weights(
    model: keras.Model,
    weight_sets: Sequence[Sequence[np.ndarray]],
    tiles: Tiles,
    *,
    seed: int,
    batch_size: int = 256,
) -> None:
    """Give a model the mean of several sets of its weights, from one training run.

    Stochastic weight averaging (Izmailov et al., arXiv 1803.05407). The moving mean and variance
    of batch normalization belong to no mean of weights: they become the mean over one pass of
    `tiles`, augmented as in training. It costs one pass, and prediction costs no more than before.

    Args:
        model: The model, whose weights are replaced.
        weight_sets: Lists of arrays as `model.get_weights` gives, see `Snapshots`.
        tiles: The training tiles.
        seed: Seed of the order of the tiles, of augmentation and of dropout.
        batch_size: Tiles in a batch; the statistics are those within batches, so not too few.

    Raises:
        ValueError: If `weight_sets` is empty or does not fit the model, or `tiles` is empty.
    """
    expected = [weight.shape for weight in model.get_weights()]
    if not weight_sets or any(
        [np.shape(weight) for weight in weights] != expected for weights in weight_sets
    ):
        raise ValueError(
            f"`weight_sets` must be at least one list of the {len(expected)} weights of `model`, "
            "as `model.get_weights()` gives. Received: lists of "
            f"{[len(weights) for weights in weight_sets]} arrays, or of other shapes"
        )
    batches = pipeline.dataset(tiles, batch_size=batch_size, shuffle_seed=seed)
    model.set_weights([np.mean(weights, axis=0) for weights in zip(*weight_sets, strict=True)])
    for layer in models.sublayers(model):
        if hasattr(layer, "seed_generator"):  # the draws do not depend on what ran before
            layer.seed_generator.state.assign([seed, 0])
    transfer.estimate_statistics(model, (images for images, _ in batches))


def _check_members(probabilities: Sequence[np.ndarray]) -> np.ndarray:
    """Return the probabilities of M models as float64 `(M, N, C)`, or say what is wrong."""
    arrays = [np.asarray(member, "float64") for member in probabilities]
    shapes = {array.shape for array in arrays}
    if len(shapes) != 1 or len(arrays[0].shape) != 2 or 0 in arrays[0].shape:
        raise ValueError(
            "`probabilities` must be one array (N, C) a model, all of one shape. "
            f"Received: shapes {[array.shape for array in arrays]}"
        )
    members = np.stack(arrays)
    sums = members.sum(axis=2)
    if not (members.min() >= 0 and np.abs(sums - 1).max() <= 1e-3):  # NaN is neither
        raise ValueError(
            "`probabilities` must be at least 0 with rows that sum to 1; for logits call "
            f"`evaluation.softmax` first. Received: minimum {members.min():.4g}, row sums "
            f"{sums.min():.4g} to {sums.max():.4g}"
        )
    return members / sums[..., None]


def _check_weights(weights: Sequence[float] | None, members: int) -> np.ndarray:
    """Return the weights of the members with sum 1, or say what is wrong."""
    weights = np.ones(members) if weights is None else np.asarray(weights, "float64")
    fine = weights.shape == (members,) and np.isfinite(weights).all() and (weights >= 0).all()
    if not fine or weights.sum() == 0:
        raise ValueError(
            f"`weights` must be {members} numbers, one a model, at least 0 and not all 0. "
            f"Received: {weights}"
        )
    return weights / weights.sum()
