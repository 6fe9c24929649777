"""The state of a training run in a file, so that an interrupted run can resume."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import zlib
from pathlib import Path

import keras
import numpy as np

from eurosat_helpers import files
from eurosat_helpers.data import Tiles

FORMAT = 2  # of the file; another one is another run


class Run:
    """One training run, and the `file` with its state after the last completed epoch.

    A run is known by its folder, the architecture of the model, the settings (all that the result
    depends on), the tiles and the version of Keras: the file is named by a digest of them. The
    weights in memory are no part of it, nor are names that Keras counts, such as "conv2d_3".

    Raises:
        ValueError: If there is no file yet, but `model` was trained by a run already.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        model: keras.Model,
        train: Tiles,
        validation: Tiles,
        settings: dict[str, object],
    ) -> None:
        known = [FORMAT, _architecture(model), settings, keras.__version__]
        digest = hashlib.sha256(json.dumps(known, default=str).encode())
        for tiles in (train, validation):
            digest.update("\n".join(tiles.names).encode(errors="surrogateescape"))
            digest.update(np.ascontiguousarray(tiles.labels))
            digest.update(np.ascontiguousarray(tiles.images))
        self.model, self.file = model, Path(folder).expanduser() / f"{digest.hexdigest()[:16]}.npz"
        if not self.file.exists() and getattr(model, "_trained_by_run", False):
            raise ValueError(
                "`model` was trained by another run: build the model again first (run its cell)."
            )

    def write(self, *, rows: np.ndarray, best: list[np.ndarray]) -> None:
        """Write history, model, optimizer and best weights: the complete file or nothing."""
        arrays = map(keras.ops.convert_to_numpy, (*self._variables(), *best))
        np.savez(packed := io.BytesIO(), *arrays, rows=rows)  # the first in the file
        packed.write(zlib.crc32(packed.getbuffer()).to_bytes(4, "big"))
        files.write(self.file, packed.getbuffer())

    def read(self) -> tuple[np.ndarray, list[np.ndarray]]:
        """Restore model and optimizer, and return history and best weights.

        Raises:
            ValueError: If the file is damaged.
        """
        variables = self._variables()
        try:
            content = self.file.read_bytes()
            # Those of the zip format do not cover all that NumPy reads.
            if zlib.crc32(content[:-4]).to_bytes(4, "big") != content[-4:]:
                raise ValueError("its checksum is wrong")
            with np.load(io.BytesIO(content[:-4]), allow_pickle=False) as packed:
                rows, *arrays = (packed[key] for key in packed.files)
            state, best = arrays[: len(variables)], arrays[len(variables) :]
            if [array.shape for array in state] != [tuple(one.shape) for one in variables]:
                raise ValueError("its arrays have other shapes than the model and its optimizer")
        except Exception as error:  # NumPy parses a header as Python source, which fails in any way
            fix = "Delete it to train from scratch."
            raise ValueError(f"`{self.file}` is damaged: {error}. {fix}") from error
        self.model._trained_by_run = True
        for variable, array in zip(variables, state, strict=True):
            variable.assign(array)
        return rows, best

    def _variables(self) -> list[keras.Variable]:
        return [*self.model.variables, *self.model.optimizer.variables]


def _architecture(model: keras.Model) -> str:
    """Serialize the model without what changes when it is built again, compiled or moved."""

    def essential(part: dict) -> dict | str:
        if part.get("class_name", "").endswith("DTypePolicy"):
            return part["config"]["name"]  # all other names are of layers
        left_out = ("shared_object_id", "build_config", "compile_config", "module")
        return {key: value for key, value in part.items() if key not in left_out}

    text = json.dumps(json.loads(model.to_json(), object_hook=essential), sort_keys=True)
    # Layers by the order in which they appear.
    names = dict.fromkeys(re.findall(r'"name": ("[^"]*")', text))
    numbers = {name: f'"layer {number}"' for number, name in enumerate(names)}
    # Where they are named, and where they are an input: ["name", 0, 0].
    named = r'(?<="name": )"[^"]*"|(?<=\[)"[^"]*"(?=, \d)'
    text = re.sub(named, lambda found: numbers.get(found[0], found[0]), text)
    return text + getattr(model, "_began_with", "")  # noted by `build_transfer` and `fit_head`
