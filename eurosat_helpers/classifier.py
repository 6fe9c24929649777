"""The classifier that `artifact.load` returns: it checks its input and predicts in batches."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pandas as pd
import PIL.Image
import tensorflow as tf
from tqdm import tqdm

IMAGE_SHAPE = (64, 64, 3)


@dataclass(frozen=True, eq=False)
class Classifier:
    """A saved model that predicts. Made by `artifact.load`.

    Attributes:
        directory: The folder.
        metadata: The content of `metadata.json`.
        test_names: Names of the test tiles, which the model never saw.
        served: What `tf.saved_model.load` returned.
    """

    directory: Path
    metadata: dict[str, Any] = field(repr=False)
    test_names: tuple[str, ...] = field(repr=False)
    served: Any = field(repr=False)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the probabilities."""
        return tuple(self.metadata["class_names"])

    def predict(self, images: np.ndarray, *, batch_size: int = 128) -> np.ndarray:
        """Predict the class probabilities of tiles.

        Args:
            images: uint8 or floating-point pixels in 0-255, shape `(N, 64, 64, 3)`.
            batch_size: Tiles computed at once.

        Returns:
            float32 probabilities of shape `(N, C)`; each row sums to one.

        Raises:
            ValueError: If `images` is anything else; the message says how to mend it.
        """
        images = _check_images(images)
        return np.concatenate(
            [
                self.served.serve(tf.cast(images[start : start + batch_size], tf.float32))[
                    "probabilities"
                ]
                for start in range(0, len(images), batch_size)
            ]
        )

    def predict_batches(
        self, batches: Iterable[np.ndarray], *, tiles: int | None = None
    ) -> Iterator[np.ndarray]:
        """Predict batch by batch, for more tiles than fit into memory, with a progress bar.

        Args:
            batches: Arrays as `predict` takes, each of as many tiles as fit into memory.
            tiles: How many there are in all, for the progress bar to tell what is left.

        Yields:
            What `predict` returns, for each batch in turn.

        Raises:
            ValueError: If a batch is none.
        """
        with tqdm(total=tiles, desc="predict", unit=" tiles", file=sys.stdout) as bar:
            for images in batches:
                rows = self.predict(images)
                bar.update(len(rows))
                yield rows

    def predict_jpeg(self, encoded: Sequence[bytes], *, batch_size: int = 128) -> pd.DataFrame:
        """Predict from encoded images.

        Args:
            encoded: The bytes of N JPEG or PNG files of 64x64 pixels; gray ones count as RGB.
            batch_size: Images computed at once.

        Returns:
            One row an image: `label`, `confidence` and one probability column a class.

        Raises:
            ValueError: If there is no image, or one cannot be used; the message says which.
        """
        if isinstance(encoded, bytes | str) or len(encoded) == 0:
            raise ValueError(
                "`encoded` must be a list with the bytes of at least one image. "
                f"Received: {type(encoded).__name__} of length {len(encoded)}"
            )
        for position, item in enumerate(encoded):
            if not isinstance(item, bytes):
                raise ValueError(
                    f"`encoded[{position}]` must be bytes, as Path.read_bytes() gives. "
                    f"Received: {type(item).__name__}"
                )
        tables = []
        for start in range(0, len(encoded), batch_size):
            batch = list(encoded[start : start + batch_size])
            try:
                outputs = self.served.serve_jpeg(tf.constant(batch))
            except tf.errors.InvalidArgumentError as error:
                self._name_bad_image(batch, start, error)
            table = pd.DataFrame(outputs["probabilities"].numpy(), columns=self.class_names)
            table.insert(0, "label", [label.decode() for label in outputs["label"].numpy()])
            table.insert(1, "confidence", outputs["confidence"].numpy())
            tables.append(table)
        return pd.concat(tables, ignore_index=True)

    def _name_bad_image(self, batch: Sequence[bytes], start: int, error: Exception) -> NoReturn:
        """Raise an error that says which image is bad, and what it is."""
        for position, item in enumerate(batch, start):
            try:
                self.served.serve_jpeg(tf.constant([item]))
            except tf.errors.InvalidArgumentError:
                received = f"{len(item)} bytes that are none or are damaged"
                with contextlib.suppress(Exception):  # of damaged files Pillow raises anything
                    # Reads the header alone: a small file may claim gigabytes of pixels.
                    image = PIL.Image.open(io.BytesIO(item))
                    if image.size != IMAGE_SHAPE[:2] or image.format not in ("JPEG", "PNG"):
                        received = f"{image.format}, {image.width}x{image.height} pixels"
                raise ValueError(
                    f"`encoded[{position}]` must be a JPEG or PNG image of 64x64 pixels. "
                    f"Received: {received}"
                ) from None
        raise error

    def card(self) -> pd.DataFrame:
        """Tell what the model is and how good, from its metadata.

        Returns:
            A row a fact and one column, named after the folder.
        """
        about, test = self.metadata, self.metadata["scores"]["test"]
        facts = {
            "data": about["data_source"],
            "test accuracy": f"{test['accuracy']:.2%} of {test['tiles']:,} tiles",
            "95% interval": f"{test['accuracy_low']:.2%} to {test['accuracy_high']:.2%}",
            "calibration error": f"{test['calibration_error']:.4f}",
            "parameters": f"{about['parameters']:,}",
            "training": f"{about['epochs']} epochs, {about['seconds'] / 60:.1f} minutes",
            "hardware": about["hardware"],
            "TensorFlow": about["versions"]["tensorflow"],
            "date": about["date"],
        }
        return pd.Series(facts, name=self.directory.name).to_frame()


def _check_images(images: np.ndarray) -> np.ndarray:
    images = np.asarray(images)
    if images.shape[1:] != IMAGE_SHAPE or len(images) == 0:
        hint = " (for one tile pass images[None])" if images.shape == IMAGE_SHAPE else ""
        raise ValueError(
            f"`images` must have shape (N, 64, 64, 3) with at least one tile{hint}. "
            f"Received: shape {images.shape}"
        )
    if images.dtype == np.uint8:
        return images
    if not np.issubdtype(images.dtype, np.floating):
        raise ValueError(
            "`images` must be uint8 or floating-point pixels in 0-255. "
            f"Received: dtype {images.dtype}"
        )
    low, high = images.min(), images.max()  # NaN where any pixel is
    if not np.isfinite([low, high]).all():
        raise ValueError("`images` must be finite. Received: pixels that are NaN or infinite")
    if low < 0 or high > 255:
        raise ValueError(
            f"`images` must hold raw pixels in 0-255. Received: {low:.4g} to {high:.4g}"
        )
    if high <= 1:
        raise ValueError(
            "`images` must hold raw pixels in 0-255, and these look scaled to 0-1: multiply by "
            f"255. Received: {low:.4g} to {high:.4g}"
        )
    return images
