"""The record that lies beside a saved model: how it is checked, read and compared with tiles."""

from __future__ import annotations

import json
import math
import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from pathlib import Path

import yaml

from eurosat_helpers.data.tiles import DEMO_SOURCE, Tiles

FILES = ("saved_model.pb", "variables/variables.index", "variables/variables.data-00000-of-00001")
FILES += ("metadata.json", "test_files.txt", "history.csv", "model.keras")
# TensorFlow writes these too, and macOS the last one.
MORE_FILES = ("fingerprint.pb", "variables", "assets", ".DS_Store")
SHIPPED = "eurosat_cnn"  # name of the folder that comes with the project
# What `metadata.json` must hold, and of which type; a dot leads into a nested table.
METADATA = {"class_names": list, "data_source": str, "split": dict, "epochs": int, "seconds": Real}
METADATA |= {"scores.validation.tiles": int, "scores.validation.accuracy": Real}
METADATA |= {"scores.test.tiles": int, "scores.test.calibration_error": Real}
METADATA |= {f"scores.test.accuracy{end}": Real for end in ("", "_low", "_high")}
METADATA |= {"confidence_threshold.threshold": Real, "temperature": Real, "command": str}
METADATA |= {"hardware": str, "image_size": int, "input_range": list, "parameters": int}
METADATA |= {"versions.tensorflow": str, "date": str}


def command(notebook: str, parameters: Mapping[str, object]) -> str:
    """Write the papermill command that runs a notebook with these parameters."""
    words, rest = ["papermill", notebook, f"results/{Path(notebook).name}"], {}
    for name, value in parameters.items():
        if isinstance(value, (str, bool, int, float)):  # `-r` takes a text as it is, even "1"
            words += ["-r" if isinstance(value, str) else "-p", name, str(value)]
        else:
            rest[name] = value
    if rest:
        style = {"default_flow_style": True, "allow_unicode": True, "sort_keys": False}
        words += ["-y", yaml.safe_dump(rest, width=math.inf, **style).strip()]
    return shlex.join(words)


def check(metadata: object, test_names: Sequence[str]) -> None:
    """Check the content of `metadata.json`.

    Raises:
        ValueError: If an entry of `METADATA` is missing or wrong, or does not fit `test_names`.
    """
    for key, kind in METADATA.items():
        value = metadata
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if not isinstance(value, kind):
            raise ValueError(f"`{key}` is missing or of the wrong type. Received: {value!r:.60}")
    classes, tiles = metadata["class_names"], metadata["scores"]["test"]["tiles"]
    if not classes or not all(isinstance(name, str) for name in classes):
        raise ValueError(f"`class_names` must be at least one name. Received: {classes!r:.60}")
    if tiles != len(test_names):
        raise ValueError(f"`scores` are of {tiles} test tiles, but {len(test_names)} are named")


def read(directory: Path) -> tuple[dict, tuple[str, ...]]:
    """Read the metadata and the names of the test tiles of a saved model.

    Raises:
        FileNotFoundError: If a file of the saved model is missing.
        ValueError: If one of the two files is damaged.
    """
    missing = [name for name in FILES if not (directory / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"`{directory}` is not a complete saved model: {', '.join(missing)} is missing. "
            "Run training.ipynb to save one."
        )
    try:
        file = directory / "test_files.txt"
        test_names = tuple(file.read_text(encoding="utf-8").splitlines())
        file = directory / "metadata.json"
        metadata = json.loads(file.read_text(encoding="utf-8"))
        check(metadata, test_names)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"`{file}` is damaged: {error}") from error
    return metadata, test_names


def check_replaceable(directory: Path) -> None:
    """Check that there is nothing, or a complete saved model and nothing else.

    Raises:
        FileExistsError: If there is anything else.
    """
    if not os.path.lexists(directory):
        return
    problem = "it is a link or a file."
    if directory.is_dir() and not directory.is_symlink():
        inside = {path.relative_to(directory).as_posix(): path for path in directory.rglob("*")}
        known = {*FILES, *MORE_FILES}
        foreign = [name for name in inside if name not in known or inside[name].is_symlink()]
        problem = f"it holds {', '.join(sorted(foreign)[:3])}." if foreign else ""
        if inside and not foreign:
            try:
                read(directory)
            except (OSError, ValueError) as error:
                problem = str(error)
    if problem:
        raise FileExistsError(
            f"`{directory}` is not replaced, because it is not a complete saved model alone: "
            f"{problem} Save under another name, or move or delete it yourself."
        )


def choose(directories: Iterable[Path], tiles: Tiles) -> Path:
    """Choose the newest saved model that fits the tiles, the shipped one last.

    A model fits tiles of its classes that hold all of its test tiles.

    Raises:
        ValueError: If none fits; the message says what is wrong with each.
    """
    fit, problems = {}, {}
    for directory in directories:
        try:
            metadata, test_names = read(directory)
        except (OSError, ValueError) as error:
            problems[directory] = str(error).rstrip(".")
            continue
        absent = len(set(test_names).difference(tiles.names.tolist()))
        if metadata["class_names"] != list(tiles.class_names):
            problem = f"has classes {', '.join(metadata['class_names'])}"
        elif (metadata["data_source"] == DEMO_SOURCE) != tiles.demo:
            problem = f"was trained on {metadata['data_source']}"
        elif absent:
            problem = f"was tested on {absent:,} tiles that are not among them"
        else:
            fit[directory] = directory.name != SHIPPED, metadata["date"]
            continue
        problems[directory] = f"`{directory}` {problem}"
    if not fit:
        raise ValueError(
            f"No saved model fits these tiles with classes {', '.join(tiles.class_names)}: "
            f"{'; '.join(problems.values()) or 'there is none'}. Run training.ipynb with these "
            "tiles first."
        )
    passed = [text for path, text in problems.items() if path.name not in (SHIPPED, "demo")]
    if passed:
        print(f"Not used: {'; '.join(passed)}.")
    return max(fit, key=fit.get)
