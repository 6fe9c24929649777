"""The record that lies beside a saved model: how it is checked, read and compared with tiles."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from pathlib import Path

from eurosat_helpers.data.tiles import DEMO_SOURCE, Tiles

FILES = ("saved_model.pb", "variables/variables.index", "variables/variables.data-00000-of-00001")
FILES += ("metadata.json", "test_files.txt", "history.csv", "model.keras")
# TensorFlow writes these too, macOS the fourth, and Jupyter copies of the texts that it has shown.
MORE_FILES = ("fingerprint.pb", "variables", "assets", ".DS_Store", ".ipynb_checkpoints")
COPIES = ("metadata-checkpoint.json", "test_files-checkpoint.txt", "history-checkpoint.csv")
MORE_FILES += tuple(f".ipynb_checkpoints/{name}" for name in COPIES)
TEXT = {"encoding": "utf-8", "errors": "surrogateescape"}  # names of files may be any bytes
SHIPPED = "eurosat_cnn"  # name of the folder that comes with the project
# What `metadata.json` must hold, and of which type; a dot leads into a nested table.
METADATA = {"class_names": list, "data_source": str, "split": dict, "epochs": int, "seconds": Real}
METADATA |= {"scores.validation.tiles": int, "scores.validation.accuracy": Real}
METADATA |= {"scores.test.tiles": int, "scores.test.calibration_error": Real}
METADATA |= {f"scores.test.accuracy{end}": Real for end in ("", "_low", "_high")}
METADATA |= {"confidence_threshold.threshold": Real, "unfamiliarity_threshold.threshold": Real}
METADATA |= {"temperature": Real, "command": str, "hardware": str, "image_size": int}
METADATA |= {"input_range": list, "parameters": int, "versions.tensorflow": str, "date": str}


def check(metadata: object, test_names: Sequence[str]) -> None:
    """Check the content of `metadata.json`.

    Raises:
        ValueError: If an entry of `METADATA` is missing or wrong, or does not fit `test_names`.
    """
    for key, kind in METADATA.items():
        value = metadata
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if not isinstance(value, kind) or (kind is Real and not math.isfinite(value)):
            raise ValueError(f"`{key}` is missing or of the wrong type. Received: {value!r:.60}")
    corrupted = metadata["scores"].get("corrupted", {})  # a table of `evaluation.robustness`
    rows = corrupted.values() if isinstance(corrupted, Mapping) else [corrupted]
    if not all(isinstance(row, Mapping) and isinstance(row.get("accuracy"), Real) for row in rows):
        raise ValueError("`scores.corrupted` must be a table with a column `accuracy`")
    elsewhere = metadata["scores"].get("new_places", metadata["scores"]["test"])
    found = elsewhere if isinstance(elsewhere, Mapping) else {}
    if not isinstance(found.get("accuracy"), Real) or not isinstance(found.get("tiles"), int):
        raise ValueError("`scores.new_places` must be scores, with `tiles` and `accuracy`")
    classes, tiles = metadata["class_names"], metadata["scores"]["test"]["tiles"]
    if not classes or not all(isinstance(name, str) for name in classes):
        raise ValueError(f"`class_names` must be at least one name. Received: {classes!r:.60}")
    if len(set(classes)) < len(classes):
        raise ValueError(f"`class_names` must be different. Received: {', '.join(classes)}")
    if broken := [name for name in test_names if set("\r\n") & set(name)]:
        raise ValueError(f"names of test tiles must be one line each. Received: {str(broken[0])!r}")
    if tiles != len(test_names):
        raise ValueError(f"`scores` are of {tiles} test tiles, but {len(test_names)} are named")


def _plain(parameters: Mapping[str, object]) -> dict[str, object]:
    """Turn paths and what is of NumPy into what JSON and YAML know."""
    known = {"default": lambda x: x.tolist() if hasattr(x, "tolist") else os.fspath(x)}
    return json.loads(json.dumps(dict(parameters), **known))


def read(directory: Path, tiles: Tiles | None = None) -> tuple[dict, tuple[str, ...]]:
    """Read metadata and names of the test tiles; with `tiles` (see `artifact.load`), check the fit.

    Raises:
        FileNotFoundError: If a file of the saved model is missing.
        ValueError: If one of the two files is damaged, or the model does not fit `tiles`.
    """
    missing = [name for name in FILES if not (directory / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"`{directory}` is not a complete saved model: {', '.join(missing)} is missing. "
            "Run training.ipynb to save one."
        )
    try:
        file = directory / "test_files.txt"
        test_names = tuple(file.read_text(**TEXT).removesuffix("\n").split("\n"))
        file = directory / "metadata.json"
        metadata = json.loads(file.read_text(encoding="utf-8"))
        check(metadata, test_names)
    except (ValueError, OverflowError, RecursionError) as error:
        raise ValueError(f"`{file}` is damaged: {error}") from error
    if tiles is not None:
        absent = len(set(test_names).difference(tiles.names.tolist()))
        problem = f"was tested on {absent:,} tiles that are not among them" if absent else ""
        if (metadata["data_source"] == DEMO_SOURCE) != tiles.demo:
            problem = f"was trained on {metadata['data_source']}"
        if metadata["class_names"] != list(tiles.class_names):
            problem = f"has classes {', '.join(metadata['class_names'])}"
        if problem:
            raise ValueError(f"`{directory}` {problem}")
    return metadata, test_names


def new_places(directory: str | Path, tiles: Tiles) -> dict[str, object]:
    """Read the test scores of a model with test tiles of other places, to save them with another.

    The model must be trained with `test_names`, and have the source and the classes of `tiles`, or
    there is a ValueError. `model` and `command` in the result say whose scores they are.
    """
    metadata, _ = read(Path(directory).expanduser())
    if not metadata["split"].get("test_names"):
        raise ValueError(f"`new_places` must be trained with `test_names`. Received: {directory}")
    of = metadata["data_source"], ", ".join(metadata["class_names"])
    if of != (tiles.source, ", ".join(tiles.class_names)):
        received = f"Received: {directory}, trained on {of[0]} with {of[1]}"
        raise ValueError(f"`new_places` must have the data and classes of this run. {received}")
    about = {"model": "another one, trained without these tiles", "command": metadata["command"]}
    return metadata["scores"]["test"] | about


def check_replaceable(directory: Path) -> None:
    """Check that there is nothing, or a complete saved model and nothing else.

    Raises:
        FileExistsError: If there is anything else.
    """
    inside = sorted(directory.rglob("*"))
    try:
        if directory.is_symlink() or (directory.exists() and not directory.is_dir()):
            raise ValueError("it is a link or a file.")
        for path in inside:
            name = path.relative_to(directory).as_posix()
            if path.is_symlink() or name not in FILES + MORE_FILES:
                raise ValueError(f"it holds {name}.")
        if inside:
            read(directory)
    except (OSError, ValueError) as error:
        raise FileExistsError(
            f"`{directory}` is not replaced, because it is not a complete saved model alone: "
            f"{error} Save under another name, or move or delete it yourself."
        ) from error


def _choose(directories: Iterable[Path], tiles: Tiles) -> Path:
    """Choose the newest saved model that fits the tiles, the shipped one last.

    Raises:
        ValueError: If none fits; the message says what is wrong with each.
    """
    fit, problems = {}, {}
    for directory in directories:
        try:
            metadata, _ = read(directory, tiles)
            fit[directory] = directory.name != SHIPPED, metadata["date"]
        except (OSError, ValueError) as error:
            problems[directory] = str(error).rstrip(".")
    if not fit:
        raise ValueError(
            f"No saved model fits these tiles with classes {', '.join(tiles.class_names)}: "
            f"{'; '.join(problems.values()) or 'there is none'}. Run training.ipynb with these "
            "tiles first."
        )
    if passed := [text for path, text in problems.items() if path.name not in (SHIPPED, "demo")]:
        print(f"Not used: {'; '.join(passed)}.")
    return max(fit, key=fit.get)
