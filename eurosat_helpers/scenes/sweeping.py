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
# The network takes black pixels for water. A window counts by its share of data to this power, so
# those without gaps decide, and others have a say only where there are none.
POWER = 16


def overview(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Read a scene with at most `OVERVIEW` pixels a side: gray levels, and which have data.

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
    """Classify the windows of a scene, and average the answers per cell, weighed by their data.

    Args:
        scene: At least 64 x 64 pixels.
        classifier: What `artifact.load` returned.
        stride: Pixels between windows, and of a cell.
        state_file: Keeps what is done, for the next call if this one is interrupted.

    Returns:
        Probabilities and, last, the unfamiliarity per cell, float32 `(rows, columns, C + 1)`; NaN
        in cells of which less than half of the pixels have data, or no window of which half has.
    """
    height, width = scene.files[0].shape
    rows, columns = _starts(height, stride), _starts(width, stride)
    cells = -(-height // stride), -(-width // stride)
    state = {
        "sums": np.zeros((*cells, len(classifier.class_names) + 1), np.float32),
        "weights": np.zeros(cells, np.float32),
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
            gray, valid = coming.pop().result()
            coming = [reader.submit(read, begin + step)] if begin + step in begins else []
            if time.monotonic() - kept > SECONDS:
                np.savez(packed := io.BytesIO(), run=run, done=begin, **state)
                files.write(state_file, packed.getbuffer())
                kept = time.monotonic()
            tops = rows[begin : begin + step]
            # Strips overlap, so that each cell lies completely in one of them.
            whole = _covered(tops[0], height, stride, len(valid))
            inside = valid[whole.start * stride - tops[0] : whole.stop * stride - tops[0]]
            state["has_data"][whole] = _per_cell(inside, stride)
            complete = valid.all()
            shares = {
                (top, left): float(complete or valid[top - tops[0] :, left:][:SIDE, :SIDE].mean())
                for top in tops
                for left in columns
            }
            shares = {place: share for place, share in shares.items() if share >= 0.5}
            if shares:
                windows = [gray[top - tops[0] :, left:][:SIDE, :SIDE] for top, left in shares]
                answers = classifier.serve(np.stack(windows), batch_size=BLOCK)
                values = np.column_stack([answers["probabilities"], answers["unfamiliarity"]])
                weights = np.array([*shares.values()], np.float32) ** POWER
                values *= weights[:, None]
                for (top, left), value, weight in zip(shares, values, weights, strict=True):
                    covered = _covered(top, height, stride), _covered(left, width, stride)
                    state["sums"][covered] += value
                    state["weights"][covered] += weight
            bar.update(len(tops) * len(columns))
    known = state["has_data"] & (state["weights"] > 0)
    mean = state["sums"]  # in place: at small strides this is what fills the memory
    mean /= np.where(known, state["weights"], 1)[..., None]
    mean[~known] = np.nan
    return mean


def _starts(side: int, stride: int) -> list[int]:
    """Place windows along a side; the last one ends with it."""
    return [*range(0, side - SIDE, stride), side - SIDE]


def _covered(start: int, side: int, stride: int, length: int = SIDE) -> slice:
    """Find the cells that lie completely in a window; that at the end of a side may be smaller."""
    end = start + length
    return slice(-(-start // stride), -(-side // stride) if end == side else end // stride)


def _per_cell(valid: np.ndarray, stride: int) -> np.ndarray:
    """Find the cells of which at least half of the pixels have data."""
    starts = [np.arange(0, side, stride) for side in valid.shape]
    per_row = np.add.reduceat(valid, starts[0], axis=0, dtype=np.int32)
    sizes = [np.diff([*each, side]) for each, side in zip(starts, valid.shape, strict=True)]
    return 2 * np.add.reduceat(per_row, starts[1], axis=1) >= np.outer(*sizes)


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
