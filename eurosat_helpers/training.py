"""From a model and tiles to trained weights: devices, schedule, class weights, `fit`."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import keras
import numpy as np
import pandas as pd
from IPython import get_ipython
from IPython.display import display
from sklearn.utils.class_weight import compute_class_weight
from tqdm import tqdm

from eurosat_helpers import checkpoint, devices, models, pipeline
from eurosat_helpers.data import Tiles

EVALUATION_BATCH = 250  # tiles; larger than in training, since nothing is kept for gradients

ROW = ("epoch", "loss", "accuracy", "val_loss", "val_accuracy", "learning_rate", "seconds")


def class_weights(labels: np.ndarray) -> dict[int, float]:
    """Weigh the classes so that each counts the same in the loss, whatever its number of tiles.

    Args:
        labels: Integer labels `(N,)` of the training tiles.

    Returns:
        Label to weight: tiles / (classes * tiles of the class), as in scikit-learn's `balanced`.
    """
    present = np.unique(labels)
    weights = compute_class_weight("balanced", classes=present, y=labels)
    return {int(label): float(weight) for label, weight in zip(present, weights, strict=True)}


def warmup_cosine(
    peak: float, *, warmup_steps: int, total_steps: int
) -> keras.optimizers.schedules.LearningRateSchedule:
    """Let the learning rate rise in a line to `peak`, then fall to zero along a cosine.

    The fall is Loshchilov and Hutter's, without restarts (SGDR, arXiv 1608.03983).

    Args:
        peak: The highest learning rate.
        warmup_steps: Batches of the rise, fewer than `total_steps`.
        total_steps: Batches of the whole training.

    Returns:
        The schedule, a function of the number of batches so far.

    Raises:
        ValueError: If `warmup_steps` is negative or not less than `total_steps`.
    """
    if not 0 <= warmup_steps < total_steps:
        raise ValueError(
            f"`warmup_steps` must be at least 0 and less than `total_steps`. "
            f"Received: warmup_steps={warmup_steps}, total_steps={total_steps}."
        )
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0 if warmup_steps else peak,
        decay_steps=total_steps - warmup_steps,
        warmup_target=peak if warmup_steps else None,
        warmup_steps=warmup_steps,
    )


class ProgressLine:
    """A line of text that is rewritten in place in a notebook, and printed anew elsewhere.

    A display that is updated leaves one line in a saved notebook; a bar of carriage returns would
    leave hundreds.

    Attributes:
        in_notebook: Whether the line can be rewritten.
    """

    def __init__(self) -> None:
        self.in_notebook = get_ipython() is not None
        if self.in_notebook:
            self.handle = display({"text/plain": ""}, raw=True, display_id=True)

    def show(self, text: str) -> None:
        """Show the text in place of the one before."""
        if self.in_notebook:
            self.handle.update({"text/plain": text}, raw=True)
        else:
            print(text, flush=True)


class _EpochLog(keras.callbacks.Callback):
    """One line of progress, and one row of numbers an epoch."""

    def __init__(self, *, epochs: int, batches: int) -> None:
        super().__init__()
        self.epochs, self.batches = epochs, batches
        self.rows: list[dict[str, float]] = []
        self.validation = ""
        self.line = ProgressLine()

    def on_train_begin(self, logs: dict | None = None) -> None:  # noqa: ARG002
        self.begin = self.shown = time.perf_counter()

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:  # noqa: ARG002
        self.epoch, self.epoch_begin = epoch, time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: dict) -> None:
        if self.line.in_notebook and time.perf_counter() - self.shown > 2:
            self._show(batch + 1, logs)

    def on_epoch_end(self, epoch: int, logs: dict) -> None:
        rate = float(self.model.optimizer.learning_rate)
        seconds = time.perf_counter() - self.epoch_begin
        row = {**logs, "epoch": epoch + 1, "learning_rate": rate, "seconds": seconds}
        self.rows.append({name: row[name] for name in ROW})
        self.validation = f", validation accuracy {logs['val_accuracy']:.2%}"
        self._show(self.batches, logs)

    def _show(self, batch: int, logs: dict) -> None:
        self.shown = time.perf_counter()
        text = tqdm.format_meter(
            n=self.epoch * self.batches + batch,
            total=self.epochs * self.batches,
            elapsed=self.shown - self.begin,
            ncols=120,
            prefix=f"epoch {self.epoch + 1}/{self.epochs}",
            postfix=f"training loss {logs['loss']:.3f}{self.validation}",
            unit="batch",
        )
        self.line.show(text)


class _BestWeights(keras.callbacks.Callback):
    """Remember the weights of the epoch with the highest validation accuracy."""

    def __init__(self) -> None:
        super().__init__()
        self.accuracy, self.weights = -np.inf, []

    def on_epoch_end(self, epoch: int, logs: dict) -> None:  # noqa: ARG002
        if logs["val_accuracy"] > self.accuracy:
            self.accuracy, self.weights = logs["val_accuracy"], self.model.get_weights()


class _Keeper(keras.callbacks.Callback):
    """Keep all that a training needs to go on, after each epoch, in one file."""

    def __init__(self, file: Path, log: _EpochLog, best: _BestWeights) -> None:
        super().__init__()
        self.file, self.log, self.best = file, log, best

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:  # noqa: ARG002
        checkpoint.write(
            self.file,
            rows=[pd.DataFrame(self.log.rows).to_numpy()],
            model=[keras.ops.convert_to_numpy(value) for value in self.model.variables],
            optimizer=[
                keras.ops.convert_to_numpy(value) for value in self.model.optimizer.variables
            ],
            best=[self.best.accuracy, *self.best.weights],
        )

    def resume(self, model: keras.Model) -> int:
        """Take up what the file holds, if it is there, and return the number of epochs done."""
        if not self.file.exists():
            return 0
        state = checkpoint.read(self.file)
        model.optimizer.build(model.trainable_variables)
        checkpoint.restore(self.file, model.variables, state["model"])
        checkpoint.restore(self.file, model.optimizer.variables, state["optimizer"])
        self.best.accuracy, *self.best.weights = state["best"]
        rows = pd.DataFrame(state["rows"][0], columns=ROW).astype({"epoch": int})
        self.log.rows = rows.to_dict("records")
        return len(rows)


@contextlib.contextmanager
def _computing_in(policy: str, model: keras.Model) -> Iterator[None]:
    """Compute in half precision for a while; the weights are float32 throughout.

    Raw pixels are normalized in float32, and logits come out in it: a float16 softmax loses the
    small probabilities.
    """
    whole = [keras.layers.Normalization, models.BatchNormalization]
    if policy == "mixed_bfloat16":  # on CPUs these have a slow kernel only
        whole.append(keras.layers.DepthwiseConv2D)
    outputs = [model.get_layer(name) for name in model.output_names]
    layers = [
        layer
        for layer in models.sublayers(model)
        if not isinstance(layer, tuple(whole)) and layer not in outputs
    ]
    before = [layer.dtype_policy for layer in layers]
    for layer in layers:
        layer.dtype_policy = policy
    try:
        yield
    finally:
        for layer, was in zip(layers, before, strict=True):
            layer.dtype_policy = was


def fit(
    model: keras.Model,
    train: Tiles,
    validation: Tiles,
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    weight_decay: float = 0.0,
    label_smoothing: float = 0.0,
    mixup: float = 0.0,
    warmup_fraction: float = 0.15,
    class_weight: dict[int, float] | None = None,
    policy: str | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    checkpoint_dir: str | os.PathLike[str] | None = None,
) -> pd.DataFrame:
    """Train with AdamW, warm-up and cosine, and leave the model at its best weights.

    The best weights are those of the epoch with the highest accuracy on `validation`.

    Args:
        model: A model from raw pixels to logits; it is compiled here.
        train: The training tiles, shuffled anew each epoch.
        validation: The validation tiles.
        epochs: Passes over `train`.
        batch_size: Tiles in a batch; several GPUs share it.
        learning_rate: Peak of the schedule.
        seed: Seed of the shuffling and of mix-up.
        weight_decay: Decoupled weight decay (Loshchilov and Hutter, arXiv 1711.05101) of kernels;
            each step shrinks them by the share `learning_rate * weight_decay`.
        label_smoothing: Share of the label that is spread over all classes, 0 to below 1
            (Szegedy et al., arXiv 1512.00567).
        mixup: See `pipeline.dataset`; the training accuracy is then that on blended tiles.
        warmup_fraction: Share of all batches over which the learning rate rises.
        class_weight: Label to weight in the loss, see `class_weights`; `None` weighs tiles alike.
        policy: Keras dtype policy to compute in; `None` takes that of `precision`. The weights are
            float32 in each, and afterwards the model computes in float32 again.
        callbacks: More callbacks of Keras, such as `ensemble.Snapshots`.
        checkpoint_dir: Folder in which the state is kept after each epoch. When a training was
            killed, the same call (model, first weights, tiles, settings) goes on after its last
            whole epoch, and ends as it would have ended. A finished training stays there too: until
            its file is removed, the same call returns it at once.

    Returns:
        One row an epoch: `epoch`, `loss`, `accuracy`, `val_loss`, `val_accuracy`,
        `learning_rate` (at its end), `seconds` (with validation).

    Raises:
        ValueError: If `epochs` or `batch_size` is not a positive integer, `callbacks` and
            `checkpoint_dir` are both given, or a checkpoint is damaged.
    """
    for name, value in (("epochs", epochs), ("batch_size", batch_size)):
        if not isinstance(value, (int, np.integer)) or value < 1:
            raise ValueError(f"`{name}` must be a positive integer. Received: {value!r}.")
    if callbacks and checkpoint_dir is not None:
        raise ValueError(
            "`callbacks` and `checkpoint_dir` exclude each other: what a callback remembers is not "
            "kept. Leave out one of them."
        )
    policy = policy or devices.precision()
    steps = math.ceil(len(train) / batch_size)
    log, best = _EpochLog(epochs=epochs, batches=steps), _BestWeights()
    callbacks, keeper, done = [log, best, *callbacks], None, 0
    if checkpoint_dir is not None:
        settings = {
            "epochs": epochs,
            "batch_size": batch_size,
            "learning_rate": learning_rate,
            "seed": seed,
            "weight_decay": weight_decay,
            "label_smoothing": label_smoothing,
            "mixup": mixup,
            "warmup_fraction": warmup_fraction,
            "class_weight": class_weight,
            "policy": policy,
        }
        file = checkpoint.find(checkpoint_dir, model, train, validation, settings)
        keeper = _Keeper(file, log, best)
        callbacks.append(keeper)
    with model.distribute_strategy.scope(), _computing_in(policy, model):
        optimizer = keras.optimizers.AdamW(
            warmup_cosine(
                learning_rate,
                warmup_steps=int(warmup_fraction * epochs * steps),
                total_steps=epochs * steps,
            ),
            weight_decay=weight_decay,
        )
        # Decay is for kernels: the scales and shifts of batch normalization are left alone.
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
        model.compile(
            optimizer,
            loss=keras.losses.CategoricalCrossentropy(
                from_logits=True, label_smoothing=label_smoothing
            ),
            metrics=["accuracy"],
        )
        if keeper and (done := keeper.resume(model)):
            again = f"Finished before: remove {file} to train anew"
            print(again if done == epochs else f"Going on after epoch {done} of {epochs}")
        if done < epochs:
            model.fit(
                pipeline.dataset(
                    train,
                    batch_size=batch_size,
                    shuffle_seed=seed,
                    epochs=range(done, epochs),
                    mixup=mixup,
                ),
                validation_data=pipeline.dataset(validation, batch_size=EVALUATION_BATCH),
                initial_epoch=done,
                epochs=epochs,
                steps_per_epoch=steps,
                class_weight=class_weight,
                callbacks=callbacks,
                shuffle=False,  # the dataset shuffles
                verbose=0,
            )
        model.set_weights(best.weights)
    for make in (model.make_test_function, model.make_predict_function):
        make(force=True)  # those made above would go on computing in half precision
    history = pd.DataFrame(log.rows)
    seconds = history.seconds.sum()
    kept = history.loc[history.val_accuracy.idxmax()]
    print(
        f"{devices.hardware()}: {epochs} epochs in {seconds / 60:.1f} min, "
        f"{epochs * len(train) / seconds:,.0f} tiles/s; "
        f"kept epoch {kept.epoch:.0f}, validation accuracy {kept.val_accuracy:.2%}"
    )
    return history
