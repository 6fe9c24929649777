"""Keep the state of a training in a file, so that a killed one goes on at its last whole epoch."""

from __future__ import annotations

import hashlib
import io
import json
import os
from pathlib import Path

import keras
import numpy as np

from eurosat_helpers import files
from eurosat_helpers.data import Tiles


def find(
    folder: str | os.PathLike[str],
    model: keras.Model,
    train: Tiles,
    validation: Tiles,
    settings: dict[str, object],
) -> Path:
    """Name the file in which the state of a training is kept.

    Args:
        folder: Folder of all states.
        model: The model before the training.
        train: Its training tiles.
        validation: Its validation tiles.
        settings: All that the result depends on beside these.

    Returns:
        A file named by a digest of all arguments, of the weights and pixels too: a training with
        any other never finds it. Names of layers, which Keras counts up, are left out.
    """

    def essential(config: dict) -> dict:
        counted = ("name", "shared_object_id")
        return {key: value for key, value in config.items() if key not in counted}

    config = json.loads(model.to_json(), object_hook=essential)
    text = json.dumps([config, settings, keras.__version__], sort_keys=True, default=str)
    digest = hashlib.sha256(text.encode())
    for variable in model.variables:
        digest.update(np.ascontiguousarray(keras.ops.convert_to_numpy(variable)))
    for tiles in (train, validation):
        digest.update("\n".join(tiles.names).encode())
        digest.update(np.ascontiguousarray(tiles.labels))
        digest.update(np.ascontiguousarray(tiles.images))
    return Path(folder) / f"{digest.hexdigest()[:16]}.npz"


def write(file: Path, **groups: list[np.ndarray]) -> None:
    """Write lists of arrays, the whole file or none of it."""
    packed = io.BytesIO()
    np.savez(
        packed,
        **{
            f"{name}/{number}": np.asarray(array)
            for name, arrays in groups.items()
            for number, array in enumerate(arrays)
        },
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    files.write(file, packed.getbuffer())


def read(file: Path) -> dict[str, list[np.ndarray]]:
    """Read what `write` wrote.

    Raises:
        ValueError: If the file is damaged.
    """
    groups: dict[str, list[np.ndarray]] = {}
    try:
        with np.load(io.BytesIO(file.read_bytes()), allow_pickle=False) as packed:
            for key in packed.files:
                groups.setdefault(key.partition("/")[0], []).append(packed[key])
    except Exception as error:  # NumPy reads a header as Python's source, and fails as that may
        raise ValueError(
            f"`{file}` is damaged: {error}. Remove it, and the training begins anew."
        ) from error
    return groups


def restore(file: Path, variables: list[keras.Variable], arrays: list[np.ndarray]) -> None:
    """Give the variables the values back that `read` found in the file.

    Raises:
        ValueError: If the arrays are of other variables.
    """
    shapes = [tuple(variable.shape) for variable in variables]
    if shapes != [array.shape for array in arrays]:
        raise ValueError(
            f"`{file}` must hold {len(shapes)} arrays of the shapes of the variables. It holds "
            f"{len(arrays)}, or of other shapes. Remove it, and the training begins anew."
        )
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)
