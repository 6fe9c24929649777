"""Classify a folder or zip file of your own images: one row of a table per image or window."""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
import unicodedata
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
from PIL import Image
from tqdm import tqdm

from eurosat_helpers import decoding, pixels
from eurosat_helpers.classifier import Classifier
from eurosat_helpers.data import IMAGE_SIZE, listing

_ENDINGS = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp")
_MAX_BYTES = 100_000_000  # of a file; that of its pixels is in `decoding`
_BATCH = 256  # images that wait for the classifier, which divides them further
_THREADS = min(4, os.cpu_count() or 1)


def classify(
    source: str | Path, classifier: Classifier, *, size: str | None = None, level: str = "L1C"
) -> pd.DataFrame:
    """Classify every JPEG, PNG, TIFF and WebP file of a folder or zip file, at any depth.

    Links to folders are not followed. A file that cannot be used gets a row that says why. What may
    be wrong with the images as a whole is printed: see `pixels.suspicions`.

    Args:
        source: A folder or zip file. Files may lie in folders with the names of classes.
        classifier: What `artifact.load` returned.
        size: None refuses images that are not 64x64 pixels; "cut" makes windows of this size, the
            last ones at the edges; "scale" resizes, whatever the shape and the size of the pixels.
        level: "L1C", as EuroSAT, or "L2A": a clear atmosphere is added (`pixels.as_level_1c`).

    Returns:
        One row per image, or per window with "cut", sorted by file: `file` (its path in `source`);
        `truth`, the nearest folder above it that has the name of a class, else ""; with "cut" also
        `left` and `top` in pixels; `label`; `confidence` in 0-1; `unfamiliarity`; `note`, which is
        "" for a sure answer, else "unsure", "unfamiliar", or why there is no answer; and one
        probability column per class. With no answer, `label` is "" and the numbers are NaN.

    Raises:
        FileNotFoundError: If `source` does not exist.
        ValueError: If an argument is unknown, or `source` is no folder or safe zip file of images.
    """
    if size not in (None, "cut", "scale"):
        raise ValueError(f'`size` must be None, "cut" or "scale". Received: {size!r}')
    if level not in ("L1C", "L2A"):
        raise ValueError(f'`level` must be "L1C" or "L2A". Received: {level!r}')
    waiting, places, answers, measures, problems = [], [], [], [], {}

    def serve() -> None:
        images = np.concatenate(waiting)
        measures.append(pixels.measure(images))
        images = pixels.as_level_1c(images) if level == "L2A" else images
        answers.append(classifier.serve(images))
        waiting.clear()

    with warnings.catch_warnings(), _opened(Path(source)) as (sizes, read_file):
        warnings.simplefilter("ignore", UserWarning)  # Pillow's, about metadata
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        files = list(sizes)
        decoded = _in_threads(files, lambda one: _decoded(one, sizes[one], read_file, size), size)
        # A bar that is drawn often leaves hundreds of lines in the file of a notebook.
        bar = {"file": sys.stdout, "mininterval": 2, "unit": "file"}
        for number, result in enumerate(tqdm(decoded, total=len(files), **bar)):
            if isinstance(result, str):
                problems[number] = result
                continue
            tiles, corners = result
            waiting.append(tiles)
            places.append(np.insert(corners, 0, number, axis=1))
            if sum(map(len, waiting)) >= _BATCH:
                serve()
        if waiting:
            serve()
    for sentence in pixels.suspicions(np.concatenate(measures), level) if measures else []:
        print(f"Note: {sentence}")
    return _table(files, places, answers, problems, classifier, cut=size == "cut")


def read(source: str | Path, rows: pd.DataFrame) -> np.ndarray:
    """Read the images of some rows of the table that `classify` made of `source`, to show them.

    Returns:
        uint8 pixels in 0-255, shape `(N, 64, 64, 3)`, cut or scaled as they were classified.

    Raises:
        FileNotFoundError, ValueError: If a file is gone or has changed, or a row has no answer.
    """
    size = "cut" if "left" in rows else "scale"
    images = np.empty((len(rows), IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    with _opened(Path(source)) as (sizes, read_file):
        for number, (_, row) in enumerate(rows.iterrows()):
            if row.file not in sizes:
                raise FileNotFoundError(f"`{row.file}` is no longer in `{source}`.")
            decoded = _decoded(row.file, sizes[row.file], read_file, size)
            place = (row.left, row.top) if size == "cut" else (0, 0)
            found = isinstance(decoded, tuple) and (decoded[1] == place).all(axis=1)
            if not row.label or not np.any(found):
                changed = "it has changed" if row.label else row.note
                why = decoded if isinstance(decoded, str) else changed
                raise ValueError(f"`{row.file}` in `{source}` cannot be shown: {why}")
            images[number] = decoded[0][found][0]
    return images


@contextlib.contextmanager
def _opened(source: Path) -> Iterator[tuple[dict[str, int], Callable[[str], bytes]]]:
    """Open the images of a folder or zip file, as `listing.searched` does."""
    source = source.expanduser()
    if not source.exists():
        raise FileNotFoundError(f"`{source}` does not exist. Correct the path of your images.")
    if not source.is_dir() and source.suffix.lower() != ".zip":
        raise ValueError(f"`source` must be a folder or a zip file of images. Received: {source}")
    with listing.searched(source) as (sizes, read_file):
        images = {path: n for path, n in sizes.items() if path.lower().endswith(_ENDINGS)}
        if not images:
            others = sorted({PurePosixPath(path).suffix or "none" for path in sizes})[:5]
            raise ValueError(
                f"`{source}` must hold files that end in {', '.join(_ENDINGS)}. Received: "
                f"{len(sizes)} files{', with the endings ' if others else ''}{', '.join(others)}"
            )
        yield images, read_file


def _in_threads(files: list[str], work: Callable[[str], object], size: str | None) -> Iterator:
    """Do the work for each file, in order, a few files ahead of who takes the results."""
    ahead = _THREADS if size == "cut" else _BATCH  # the windows of an image may be 50 MB
    pool, left, running = ThreadPoolExecutor(_THREADS), iter(files), deque()
    try:
        running.extend(pool.submit(work, file) for file in itertools.islice(left, ahead))
        while running:
            yield running.popleft().result()
            running.extend(pool.submit(work, file) for file in itertools.islice(left, 1))
    finally:
        pool.shutdown(cancel_futures=True)


def _decoded(
    file: str, size_in_bytes: int, read_file: Callable[[str], bytes], size: str | None
) -> tuple[np.ndarray, np.ndarray] | str:
    """Decode a file into tiles and their places, or say why it is left out."""
    try:
        if size_in_bytes > _MAX_BYTES:
            raise ValueError(f"{size_in_bytes:,} bytes, more than the limit of {_MAX_BYTES:,}")
        return decoding.fit(decoding.decode(read_file(file)), size)
    except Exception as error:  # damaged bytes fail in Pillow and `zipfile` as they may
        return " ".join(str(error).split()) or type(error).__name__


def _table(
    files: list[str],
    places: list[np.ndarray],
    answers: list[dict[str, np.ndarray]],
    problems: dict[int, str],
    classifier: Classifier,
    *,
    cut: bool,
) -> pd.DataFrame:
    """Join the answers, and rows for files without one; `places` holds number, left and top."""
    classes, limits = np.array([*classifier.class_names, ""], object), classifier.metadata
    failed = np.array([[number, 0, 0] for number in problems], int).reshape(-1, 3)
    numbers, left, top = np.concatenate([*places, failed]).T
    nothing = np.full((len(failed), len(classes) - 1), np.nan, np.float32)
    probabilities = np.concatenate([*(part["probabilities"] for part in answers), nothing])
    unlike = np.concatenate([*(part["unfamiliarity"] for part in answers), nothing[:, 0]])
    confidence = probabilities.max(axis=1)
    known = ~np.isnan(confidence)
    unsure = confidence < limits["confidence_threshold"]["threshold"]
    note = np.where(unsure, "unsure", "").astype(object)
    note[unlike > limits["unfamiliarity_threshold"]["threshold"]] = "unfamiliar"
    note[~known] = list(problems.values())
    composed = [unicodedata.normalize("NFC", text) for text in (*classifier.class_names, *files)]
    named = dict(zip(composed, classifier.class_names, strict=False))  # macOS splits accents off
    above = [file.split("/")[-2::-1] for file in composed[len(named) :]]
    truth = [next((named[part] for part in parts if part in named), "") for parts in above]
    table = pd.DataFrame(probabilities, columns=classifier.class_names)
    columns = {
        "file": np.array(files, object)[numbers],
        "truth": np.array(truth, object)[numbers],
        **({"left": left, "top": top} if cut else {}),
        "label": classes[np.where(known, np.nan_to_num(probabilities).argmax(axis=1), -1)],
        "confidence": confidence,
        "unfamiliarity": unlike,
        "note": note,
    }
    table = pd.concat([pd.DataFrame(columns), table], axis=1)
    return table.iloc[np.argsort(numbers, kind="stable")].reset_index(drop=True)
