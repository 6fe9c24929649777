"""What follows each epoch of a training: the best weights, the state of the run, one line."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import keras
import numpy as np
from IPython import get_ipython
from IPython.display import display
from tqdm import tqdm

from eurosat_helpers import checkpoint

COLUMNS = ("epoch", "loss", "accuracy", "val_loss", "val_accuracy", "learning_rate", "seconds")


class Epochs(keras.callbacks.Callback):
    """Validate after each epoch, remember the best weights, write the state and show progress.

    In a notebook one line is rewritten in place; a bar of carriage returns would leave hundreds in
    the file. Elsewhere each epoch prints a line.

    Attributes:
        rows: The history, one row of `COLUMNS` per epoch.
        best: Validation accuracy of the best epoch, and its weights.
    """

    def __init__(
        self,
        validate: Callable[[], Mapping[str, float]],
        run: checkpoint.Run | None,
        *,
        epochs: int,
        steps: int,
    ) -> None:
        super().__init__()
        self.validate, self.run, self.epochs, self.steps = validate, run, epochs, steps
        self.rows, self.best = np.empty((0, len(COLUMNS))), [np.array(-np.inf)]
        self.validation, self.line = "", None
        if get_ipython() is not None:
            self.line = display({"text/plain": ""}, raw=True, display_id=True)

    def start(self) -> int:
        """Restore the state of the run, or write the initial one; return the epochs done."""
        if self.run and self.run.file.exists():
            self.rows, self.best = self.run.read()
        elif self.run:
            self.run.write(rows=self.rows, best=self.best)
        self.started = self.shown = time.perf_counter()
        self.done = len(self.rows)
        return self.done

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:  # noqa: ARG002
        self.epoch, self.epoch_started = epoch, time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: dict) -> None:
        if self.line and time.perf_counter() - self.shown > 2:
            self._show(batch + 1, logs)

    def on_epoch_end(self, epoch: int, logs: dict) -> None:
        row = {**logs, **self.validate(), "epoch": epoch + 1}
        row["learning_rate"] = float(self.model.optimizer.learning_rate)
        row["seconds"] = time.perf_counter() - self.epoch_started
        self.rows = np.vstack([self.rows, [row[name] for name in COLUMNS]])
        if row["val_accuracy"] > self.best[0]:
            self.best = [np.array(row["val_accuracy"]), *self.model.get_weights()]
        if self.run:
            self.run.write(rows=self.rows, best=self.best)
        self.validation = f", validation accuracy {row['val_accuracy']:.2%}"
        self._show(self.steps, logs)

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
