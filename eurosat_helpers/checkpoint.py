"""The state of a training run in a file, so that an interrupted run can resume."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
from pathlib import Path

import keras
import numpy as np

from eurosat_helpers import files
from eurosat_helpers.data import Tiles


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
        text = json.dumps([_architecture(model), settings, keras.__version__], default=str)
        digest = hashlib.sha256(text.encode())
        for tiles in (train, validation):
            digest.update("\n".join(tiles.names).encode())
            digest.update(np.ascontiguousarray(tiles.labels))
            digest.update(np.ascontiguousarray(tiles.images))
        self.model, self.file = model, Path(folder) / f"{digest.hexdigest()[:16]}.npz"
        if not self.file.exists() and getattr(model, "_trained_by_run", False):
            raise ValueError(
                "`model` was trained by another run: build the model again first (run its cell)."
            )

    def write(self, *, rows: np.ndarray, best: list[np.ndarray]) -> None:
        """Write model, optimizer, history and best weights: the complete file or nothing."""
        groups = {"rows": [rows], "best": best, **self._variables()}
        arrays = {
            f"{name}/{number}": keras.ops.convert_to_numpy(value)
            for name, values in groups.items()
            for number, value in enumerate(values)
        }
        packed = io.BytesIO()
        np.savez(packed, **arrays)
        self.file.parent.mkdir(parents=True, exist_ok=True)
        files.write(self.file, packed.getbuffer())
        self.model._trained_by_run = True

    def read(self) -> tuple[np.ndarray, list[np.ndarray]]:
        """Restore model and optimizer, and return history and best weights.

        Raises:
            ValueError: If the file is damaged.
        """
        groups: dict[str, list[np.ndarray]] = {}
        try:
            with np.load(io.BytesIO(self.file.read_bytes()), allow_pickle=False) as packed:
                for key in packed.files:
                    groups.setdefault(key.partition("/")[0], []).append(packed[key])
            for name, variables in self._variables().items():
                expected = [tuple(variable.shape) for variable in variables]
                if [array.shape for array in groups[name]] != expected:
                    raise ValueError(f"the arrays of the {name} have other shapes")
        except Exception as error:  # NumPy parses a header as Python source, which fails in any way
            raise ValueError(
                f"`{self.file}` is damaged: {error}. Delete it to train from scratch."
            ) from error
        self.model._trained_by_run = True
        for name, variables in self._variables().items():
            for variable, array in zip(variables, groups[name], strict=True):
                variable.assign(array)
        return groups["rows"][0], groups["best"]

    def _variables(self) -> dict[str, list[keras.Variable]]:
        return {"model": self.model.variables, "optimizer": self.model.optimizer.variables}


def _architecture(model: keras.Model) -> str:
    """Serialize the model without what changes when it is built again or compiled."""
    numbers: dict[str, str] = {}  # layers by the order in which they appear, not by their names

    def essential(part: dict) -> dict:
        left_out = ("shared_object_id", "build_config", "compile_config")
        return {key: value for key, value in part.items() if key not in left_out}

    def count(part: dict) -> dict:
        config, kind = part.get("config"), part.get("class_name", "")
        if isinstance(config, dict) and "name" in config and not kind.endswith("DTypePolicy"):
            numbers.setdefault(config["name"], f"layer {len(numbers)}")
        return part

    text = json.dumps(json.loads(model.to_json(), object_hook=essential), sort_keys=True)
    json.loads(text, object_hook=count)
    return re.sub(r'"([^"]*)"', lambda found: f'"{numbers.get(found[1], found[1])}"', text)
