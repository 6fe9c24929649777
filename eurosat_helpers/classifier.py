"""The classifier that `artifact.load` returns: it checks its input and predicts in batches."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import PIL.Image
import tensorflow as tf

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

    def serve(self, images: np.ndarray, *, batch_size: int = 128) -> dict[str, np.ndarray]:
        """Predict the class probabilities and the unfamiliarity of tiles.

        Args:
            images: uint8, or floats in 0-255 that reach 30, pixels of shape `(N, 64, 64, 3)`.
            batch_size: Tiles computed at once.

        Returns:
            `probabilities`, float32 of shape `(N, C)` with rows that sum to one, and
            `unfamiliarity`, float32 of shape `(N,)`: above the threshold in the metadata, the image
            is unlike the tiles of the training, and its probabilities should not be used.

        Raises:
            ValueError: If `images` has another shape, dtype or range; the message names the fix.
        """
        _check_images(images := np.asarray(images))
        if batch_size < 1:
            raise ValueError(f"`batch_size` must be at least 1. Received: {batch_size}")
        batches = (images[i : i + batch_size] for i in range(0, len(images), batch_size))
        rows = [self.served.serve(tf.cast(batch, tf.float32)) for batch in batches]
        return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}

    def predict(self, images: np.ndarray, *, batch_size: int = 128) -> np.ndarray:
        """Predict the class probabilities of tiles alone: see `serve`."""
        return self.serve(images, batch_size=batch_size)["probabilities"]

    def predict_jpeg(self, encoded: Sequence[bytes], *, batch_size: int = 128) -> pd.DataFrame:
        """Predict from encoded images.

        Args:
            encoded: The bytes of N JPEG or 8-bit PNG files of 64x64 pixels, RGB or grayscale.
            batch_size: Images computed at once.

        Returns:
            One row per image: `label`, `confidence`, `unfamiliarity` and one probability column per
            class.

        Raises:
            ValueError: If there is no image, or one is not as described; the message names it.
        """
        container, encoded = type(encoded).__name__, list(encoded)
        kinds = sorted({type(item).__name__ for item in encoded})
        if kinds != ["bytes"]:
            received = f"Received: {container} of {', '.join(kinds) or 'nothing'}"
            raise ValueError(f"`encoded` must be a list of bytes, one or more images. {received}")
        if batch_size < 1:
            raise ValueError(f"`batch_size` must be at least 1. Received: {batch_size}")
        rows = []
        for start in range(0, len(encoded), batch_size):
            batch = encoded[start : start + batch_size]
            try:
                rows.append(self.served.serve_jpeg(tf.constant(batch)))
            except tf.errors.InvalidArgumentError as error:
                first = re.search(r"\[(\d+)", error.message)  # of the positions that it names
                if first is None:
                    raise
                position = start + int(first[1])
                raise ValueError(
                    f"`encoded[{position}]` must be a JPEG or PNG image of 64x64 pixels. "
                    f"Received: {_describe(encoded[position])}"
                ) from None
        found = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
        table = pd.DataFrame(found.pop("probabilities"), columns=self.class_names)
        found["label"] = [label.decode() for label in found["label"]]
        columns = ["label", "confidence", "unfamiliarity"]
        return pd.concat([pd.DataFrame(found)[columns], table], axis=1)

    def card(self) -> pd.DataFrame:
        """Summarize the metadata: one row per fact, one column, named after the folder."""
        about, test = self.metadata, self.metadata["scores"]["test"]
        facts = {
            "data": about["data_source"],
            "test accuracy": f"{test['accuracy']:.2%} of {test['tiles']:,} tiles",
            "95% interval": f"{test['accuracy_low']:.2%} to {test['accuracy_high']:.2%}",
            "calibration error": f"{test['calibration_error']:.4f}",
            "parameters": f"{about['parameters']:,}",
            "training": f"{about['epochs']} epochs, {about['seconds'] / 60:.1f} minutes",
            **dict(zip(("hardware", "precision"), about["hardware"].rsplit(", ", 1), strict=False)),
            "saved": f"{about['date']:.10}, TensorFlow {about['versions']['tensorflow']}",
            "unsure": f"confidence below {about['confidence_threshold']['threshold']:.3f}",
            "unfamiliar": f"above {about['unfamiliarity_threshold']['threshold']:.2f}",
        }
        if far := about["scores"].get("new_places"):  # of a model trained without them
            facts["new places, another model"] = f"{far['accuracy']:.2%} of {far['tiles']:,} tiles"
        rows = {**about["scores"].get("corrupted", {})}  # as training.ipynb measures them
        tiles = rows.pop("unchanged", {}).get("tiles")
        if rows:
            mean, of = np.mean([row["accuracy"] for row in rows.values()]), f" of {tiles} tiles"
            facts["changed tiles"] = f"{mean:.2%}{of * bool(tiles)}, mean of {len(rows)} changes"
        return pd.Series(facts, name=self.directory.name).to_frame()


def _describe(encoded: bytes) -> str:
    if encoded[:4] == b"\x89PNG" and encoded[24:25] not in (b"", b"\x08"):
        return f"PNG of {encoded[24]} bits per value, not 8"
    with contextlib.suppress(Exception):  # Pillow raises anything on damaged files
        # Reads the header only: a small file may claim gigabytes of pixels.
        image = PIL.Image.open(io.BytesIO(encoded))
        if image.size != IMAGE_SHAPE[:2] or image.format not in ("JPEG", "PNG"):
            return f"{image.format}, {image.width}x{image.height} pixels"
        if "A" in image.getbands() and image.getchannel("A").getextrema()[0] < 255:
            return "PNG with transparent pixels"
    return f"{len(encoded)} bytes that are no image or a damaged one"


def _check_images(images: np.ndarray) -> None:
    floats = images.dtype.kind == "f" and images.size > 0
    low, high = (images.min(), images.max()) if floats else (0, 255)  # NaN where any pixel is
    raw = images.dtype == np.uint8 or (floats and low >= 0 and 30 <= high <= 255)
    if images.shape[1:] != IMAGE_SHAPE or len(images) == 0 or not raw:
        values = f", {low:.4g} to {high:.4g}" if floats else ""
        raise ValueError(
            "`images` must be uint8, or floats in 0-255 that reach 30 (multiply by 255 what is in "
            "0-1, scale reflectance as EuroSAT's tiles were), shape (N, 64, 64, 3), N >= 1 (for "
            f"one tile pass images[None]). Received: {images.dtype}, shape {images.shape}{values}"
        )
