"""Several machines that train one model: each runs the same program with its own TF_CONFIG.

Keras' `fit` does not run under `MultiWorkerMirroredStrategy`. Here every worker trains its own copy
on its share of each batch, and the copies stay equal because the gradients are averaged first. The
strategy only connects the workers and sums.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf


def count() -> int:
    """Count the workers that the environment variable TF_CONFIG names, 1 without it.

    Raises:
        ValueError: If it is no JSON, or names other tasks than workers.
    """
    text = os.environ.get("TF_CONFIG") or "{}"
    try:
        cluster = json.loads(text).get("cluster", {"worker": [""]})
    except (ValueError, AttributeError) as error:
        raise ValueError(f"TF_CONFIG must be a JSON object. Received: {text!r:.60}") from error
    if set(cluster) != {"worker"}:
        raise ValueError(
            "TF_CONFIG must name tasks of the type `worker` only (the first is in charge). "
            f"Received: {', '.join(sorted(cluster)) or 'none'}."
        )
    return len(cluster["worker"])


@functools.cache
def connect() -> tf.distribute.Strategy | None:
    """Connect to the other workers, before TensorFlow's first operation; `None` without others.

    Raises:
        ValueError: If this worker has several devices.
    """
    if count() == 1:
        return None
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    if strategy.num_replicas_in_sync != count():
        raise ValueError(
            "Each worker must have one device: start one per GPU, each with its own "
            f"CUDA_VISIBLE_DEVICES. Received: {strategy.num_replicas_in_sync} devices for "
            f"{count()} workers."
        )
    return strategy


def index() -> int:
    """Number this worker, from 0; the first one reads and writes the state of the run."""
    strategy = connect()
    return strategy.cluster_resolver.task_id if strategy else 0


def mean(tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """Average floating-point tensors over the workers; all get the same numbers."""
    return _reduced("MEAN", tensors)


def from_first(
    model: keras.Model, rows: np.ndarray, best: list[np.ndarray]
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Give all workers the history, best weights and model of the first, but draws of their own."""
    if connect() is None:
        return rows, best
    (done,) = _of_first([np.array(len(rows))])
    if index() and done:  # arrays of the same shapes, to be replaced
        rows, best = np.empty((done, rows.shape[1])), [np.array(0.0), *model.get_weights()]
    state = [*model.variables, *model.optimizer.variables]
    rows, *arrays = _of_first([rows, *best, *(one.numpy() for one in state)])
    for variable, array in zip(state, arrays[len(best) :], strict=True):
        variable.assign(array)
    for variable in model.non_trainable_variables:
        if variable.path.endswith("seed_generator_state"):  # (seed, number of the draw)
            variable.assign_add(np.array([index(), 0], variable.dtype))  # of augmentation
    return rows, arrays[: len(best)]


def _of_first(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    arrays = [np.asarray(array) for array in arrays]
    # The sum with zeros, in one vector (an empty tensor crashes TensorFlow) of a type that holds
    # the integers of a model's state too.
    sent = np.concatenate([array.ravel() for array in arrays]).astype("float64")
    (received,) = _reduced("SUM", [tf.constant(sent if index() == 0 else np.zeros_like(sent))])
    ends = np.cumsum([array.size for array in arrays])[:-1]
    parts = zip(np.split(received.numpy(), ends), arrays, strict=True)
    return [part.reshape(array.shape).astype(array.dtype) for part, array in parts]


def _reduced(operation: str, tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    strategy = connect()
    if strategy is None or not tensors:
        return list(tensors)

    def reduce() -> list[tf.Tensor]:
        context = tf.distribute.get_replica_context()
        return context.all_reduce(operation, [tf.identity(tensor) for tensor in tensors])

    return strategy.run(reduce)


def average_statistics(model: keras.Model) -> None:
    """Average what batch normalization has seen on each worker."""
    if connect() is None:
        return
    floats = [one for one in model.non_trainable_variables if one.dtype.startswith("float")]
    for variable, value in zip(floats, mean([one.value for one in floats]), strict=True):
        variable.assign(value)
