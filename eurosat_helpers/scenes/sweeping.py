"""Classify all windows of a scene, strip by strip, and average them per cell of the map."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import math
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from rasterio.windows import Window
from tqdm.auto import tqdm

from eurosat_helpers import files
from eurosat_helpers.classifier import IMAGE_SHAPE, Classifier
from eurosat_helpers.scenes.scene import Scene

SIDE = IMAGE_SHAPE[0]  # pixels of a window
BLOCK = 256  # windows that are read and classified at once
OVERVIEW = 1000  # pixels of the longer side of a picture of the scene
SECONDS = 20  # between two states that are kept


def overview(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Read a scene with at most `OVERVIEW` pixels a side: grey levels, and which have data.

    In strips, since GDAL does not keep the blocks of one band until the next one is read.
    """
    height, width = scene.files[0].shape
    shrink = max(1, max(height, width) / OVERVIEW)
    tops = np.linspace(0, height, math.ceil(height / 512) + 1).round().astype(int)
    rows = np.diff(np.ceil(tops / shrink).astype(int))  # of the overview
    strips = [
        scene.read(Window(0, top, width, bottom - top), (count, math.ceil(width / shrink)))
        for top, bottom, count in zip(tops[:-1], tops[1:], rows, strict=True)
    ]
    picture, valid = (np.concatenate(parts) for parts in zip(*strips, strict=True))
    return picture, valid


def sweep(scene: Scene, classifier: Classifier, stride: int, state_file: Path) -> np.ndarray:
    """Classify the windows of a scene, and average the answers per cell.

    Args:
        scene: At least 64 x 64 pixels.
        classifier: What `artifact.load` returned.
        stride: Pixels between windows, and of a cell.
        state_file: Keeps what is done, for the next call if this one is interrupted.

    Returns:
        Probabilities and, last, the unfamiliarity per cell, float32 `(rows, columns, C + 1)`; NaN
        in cells without data.
    """
    height, width = scene.files[0].shape
    rows, columns = _starts(height, stride), _starts(width, stride)
    cells = -(-height // stride), -(-width // stride)
    state = {
        "sums": np.zeros((*cells, len(classifier.class_names) + 1), np.float32),
        "windows": np.zeros(cells, np.float32),
        "has_data": np.zeros(cells, bool),
    }
    run = json.dumps([scene.identity(), stride, classifier.metadata])
    run = hashlib.sha256(run.encode()).hexdigest()
    done = _resume(state_file, run, state)
    step, kept = max(1, BLOCK // len(columns)), time.monotonic()

    def read(begin: int) -> tuple[np.ndarray, np.ndarray]:
        tops = rows[begin : begin + step]
        return scene.read(Window(0, tops[0], width, tops[-1] + SIDE - tops[0]))

    begins = range(done, len(rows), step)
    with (
        tqdm(total=len(rows) * len(columns), initial=done * len(columns), unit="window") as bar,
        ThreadPoolExecutor(1) as reader,  # of the next strip, while this one is classified
    ):
        coming = [reader.submit(read, begin) for begin in begins[:1]]
        for begin in begins:
            grey, valid = coming.pop().result()
            coming = [reader.submit(read, begin + step)] if begin + step in begins else []
            if time.monotonic() - kept > SECONDS:
                np.savez(packed := io.BytesIO(), run=run, done=begin, **state)
                files.write(state_file, packed.getbuffer())
                kept = time.monotonic()
            tops = rows[begin : begin + step]
            first = tops[0] // stride
            touched = _per_cell(valid, tops[0], stride)
            state["has_data"][first : first + len(touched)] |= touched
            complete = valid.all()
            places = [
                (top, left)
                for top in tops
                for left in columns
                if complete or valid[top - tops[0] :, left:][:SIDE, :SIDE].mean() >= 0.5
            ]
            if places:
                windows = [grey[top - tops[0] :, left:][:SIDE, :SIDE] for top, left in places]
                answers = classifier.serve(np.stack(windows), batch_size=BLOCK)
                values = np.column_stack([answers["probabilities"], answers["unfamiliarity"]])
                for (top, left), value in zip(places, values, strict=True):
                    covered = _covered(top, height, stride), _covered(left, width, stride)
                    state["sums"][covered] += value
                    state["windows"][covered] += 1
            bar.update(len(tops) * len(columns))
    known = state["has_data"] & (state["windows"] > 0)
    mean = state["sums"]  # in place: at small strides this is what fills the memory
    mean /= np.maximum(state["windows"], 1)[..., None]
    mean[~known] = np.nan
    return mean


def _starts(side: int, stride: int) -> list[int]:
    """Place windows along a side; the last one ends with it."""
    return [*range(0, side - SIDE, stride), side - SIDE]


def _covered(start: int, side: int, stride: int) -> slice:
    """Find the cells that lie completely in a window; that at the end of a side may be smaller."""
    end = start + SIDE
    return slice(-(-start // stride), -(-side // stride) if end == side else end // stride)


def _per_cell(valid: np.ndarray, top: int, stride: int) -> np.ndarray:
    """Find the cells of a strip, from that of row `top` on, of which any pixel has data."""
    height, width = valid.shape
    rows = np.maximum(0, np.arange(top // stride * stride, top + height, stride) - top)
    rows_any = np.logical_or.reduceat(valid, rows, axis=0)
    return np.logical_or.reduceat(rows_any, np.arange(0, width, stride), axis=1)


def _resume(file: Path, run: str, state: dict[str, np.ndarray]) -> int:
    """Restore the state of the same run, and return how many rows of windows are done."""
    with contextlib.suppress(Exception):  # it is missing, damaged or of another run
        saved = np.load(io.BytesIO(file.read_bytes()), allow_pickle=False)
        if str(saved["run"]) == run:
            arrays = {name: saved[name] for name in state}
            for name, array in arrays.items():
                state[name][...] = array
            return int(saved["done"])
    return 0
