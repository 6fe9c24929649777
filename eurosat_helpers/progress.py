"""What follows each epoch: the best weights, the state of the run, one line."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator

import keras
import numpy as np
import tensorflow as tf
from IPython import get_ipython
from IPython.display import display
from tqdm import tqdm

from eurosat_helpers import checkpoint, pipeline, workers
from eurosat_helpers.data import Tiles

COLUMNS = ("epoch", "loss", "accuracy", "val_loss", "val_accuracy", "learning_rate", "seconds")


class Epochs(keras.callbacks.Callback):
    """Validate after each epoch, remember the best weights, write the state and show progress.

    Make it while the layers of the model compute in float32: its validation then computes in it as
    well, as the saved model does, whatever the layers compute in later.

    In a notebook one line is rewritten in place; a bar of carriage returns would leave hundreds in
    the file. Elsewhere each epoch prints a line.

    Attributes:
        rows: The history, one row of `COLUMNS` per epoch.
        best: Validation accuracy of the best epoch, and its weights.
    """

    def __init__(
        self,
        model: keras.Model,
        validation: Tiles,
        run: checkpoint.Run | None,
        *,
        smoothing: float,
        epochs: int,
        steps: int,
    ) -> None:
        super().__init__()
        self.set_model(model)
        self.run, self.epochs, self.steps, self.smoothing = run, epochs, steps, smoothing
        # Its first output: a second one would be hints.
        infer = tf.function(lambda images: tf.nest.flatten(model(images, training=False))[0])
        self.infer = infer.get_concrete_function(tf.TensorSpec(model.input_shape, tf.float32))
        # Larger batches than in training, since nothing is kept for gradients.
        self.batches = pipeline.dataset(validation, batch_size=250)
        self.labels = tf.one_hot(validation.labels, len(validation.class_names))
        self.rows, self.best = np.empty((0, len(COLUMNS))), [np.array(-np.inf)]
        self.validation, self.line, self.interrupted = "", None, False
        if get_ipython() is not None:
            self.line = display({"text/plain": ""}, raw=True, display_id=True)

    def start(self) -> int:
        """Restore the state of the run, or write the initial one; return the epochs done."""
        if self.run and workers.index() == 0:
            if self.run.file.exists():
                self.rows, self.best = self.run.read()
            else:
                self.run.write(rows=self.rows, best=self.best)
        self.rows, self.best = workers.from_first(self.model, self.rows, self.best)
        self.started = self.shown = time.perf_counter()
        self.done = len(self.rows)
        return self.done

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:  # noqa: ARG002
        self.epoch, self.epoch_started = epoch, time.perf_counter()

    @contextlib.contextmanager
    def interrupts_after_a_batch(self) -> Iterator[None]:
        """Let an interrupt (■ in Jupyter) wait for the end of the batch; a second one does not.

        In the middle of an operation, it can leave TensorFlow not recording gradients any more.
        """
        self.interrupted = False

        def wait(number: int, frame: object) -> None:
            if self.interrupted:
                signal.default_int_handler(number, frame)
            self.interrupted = True

        if threading.current_thread() is not threading.main_thread():  # which alone gets signals
            yield
            return
        before = signal.signal(signal.SIGINT, wait)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)
        if self.interrupted:
            raise KeyboardInterrupt

    def on_train_batch_end(self, batch: int, logs: dict) -> None:
        if self.interrupted:
            raise KeyboardInterrupt
        if self.line and time.perf_counter() - self.shown > 2:
            self._show(batch + 1, logs)

    def on_epoch_end(self, epoch: int, logs: dict) -> None:
        workers.average_statistics(self.model)
        logs["accuracy"] = next(logs[name] for name in logs if name.endswith("accuracy"))
        logs |= self._validate()  # for the callbacks after this one too
        row = {**logs, "epoch": epoch + 1}
        row["learning_rate"] = float(self.model.optimizer.learning_rate)
        row["seconds"] = time.perf_counter() - self.epoch_started
        mean = workers.mean([tf.constant(row[name], tf.float64) for name in COLUMNS])
        row = {name: float(value) for name, value in zip(COLUMNS, mean, strict=True)}
        self.rows = np.vstack([self.rows, list(row.values())])
        if row["val_accuracy"] >= self.best[0]:  # of equal ones the last, which has learned most
            self.best = [np.array(row["val_accuracy"]), *self.model.get_weights()]
        if self.run and workers.index() == 0:
            self.run.write(rows=self.rows, best=self.best)
        self.validation = f", validation accuracy {row['val_accuracy']:.2%}"
        self._show(self.steps, logs)

    def _validate(self) -> dict[str, float]:
        logits = tf.concat([self.infer(images) for images, _ in self.batches], axis=0)
        self.probabilities = tf.nn.softmax(logits).numpy()
        options = {"from_logits": True, "label_smoothing": self.smoothing}
        losses = keras.losses.categorical_crossentropy(self.labels, logits, **options)
        kernels = [one for one in self.model.trainable_weights if one.regularizer]  # with L2
        loss = losses.numpy().mean() + sum(float(one.regularizer(one)) for one in kernels)
        right = logits.numpy().argmax(axis=1) == self.labels.numpy().argmax(axis=1)
        return {"val_loss": loss, "val_accuracy": right.mean()}

    def _show(self, batch: int, logs: dict) -> None:
        self.shown = time.perf_counter()
        text = tqdm.format_meter(
            n=self.epoch * self.steps + batch,
            total=self.epochs * self.steps,
            elapsed=self.shown - self.started,
            initial=self.done * self.steps,
            ncols=120,
            prefix=f"epoch {self.epoch + 1}/{self.epochs}",
            postfix=f"training loss {logs['loss']:.3f}{self.validation}",
            unit="batch",
        )
        if self.line:
            self.line.update({"text/plain": text}, raw=True)
        else:
            print(text, flush=True)
