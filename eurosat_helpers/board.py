"""Curves and pictures of mistakes for TensorBoard."""

from __future__ import annotations

import os

import keras
import numpy as np
import tensorflow as tf
from matplotlib.backends.backend_agg import FigureCanvasAgg

from eurosat_helpers import plots, progress
from eurosat_helpers.data import Tiles


class Board(keras.callbacks.TensorBoard):
    """Write curves and learning rate for TensorBoard, and at times the mistakes on validation.

    Args:
        log_dir: Folder of the event files.
        log: The callback that validates; it comes before this one.
        validation: Its tiles.
    """

    EVERY, SHOWN = 5, 20  # epochs between pictures; mistakes in one, the most confident ones

    def __init__(
        self, log_dir: str | os.PathLike[str], log: progress.Epochs, validation: Tiles
    ) -> None:
        super().__init__(os.path.expanduser(log_dir), write_graph=False)
        self.log, self.validation = log, validation

    def on_epoch_end(self, epoch: int, logs: dict) -> None:
        super().on_epoch_end(epoch, logs)
        if (epoch + 1) % self.EVERY and epoch + 1 < self.log.epochs:
            return
        said, sure = self.log.probabilities.argmax(axis=1), self.log.probabilities.max(axis=1)
        wrong = np.flatnonzero(said != self.validation.labels)
        wrong = wrong[np.argsort(-sure[wrong])][: self.SHOWN]
        tiles, names = self.validation[wrong], np.array(self.validation.class_names)
        title = f"Confident mistakes after epoch {epoch + 1}, {tiles.source}"
        grid = plots.prediction_grid(
            tiles.images, tiles.truth, names[said[wrong]], sure[wrong], title=title
        )
        canvas = FigureCanvasAgg(grid)
        canvas.draw()
        with self._val_writer.as_default():
            tf.summary.image("mistakes", np.asarray(canvas.buffer_rgba())[None], epoch)
