"""Files and folders that are written completely or not at all, by one process at a time."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock


def write(file: Path, content: bytes | memoryview) -> None:
    """Replace the file by a temporary one beside it, or leave it as it is; make its folder.

    Raises:
        OSError: If it cannot be written, for example because the disk is full.
    """
    new = file.with_name(f".{file.name}.partial")  # the next write replaces that of a killed one
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(file.with_name(".lock")):
            try:
                with new.open("wb") as stream:
                    stream.write(content)
                    stream.flush()
                    os.fsync(stream.fileno())
                new.replace(file)
            finally:
                new.unlink(missing_ok=True)
    except OSError as error:  # that of a full disk names no file
        raise OSError(f"Could not write `{file}`; nothing was changed. {error}") from error


@contextlib.contextmanager
def _held(directory: Path) -> Iterator[tuple[Path, Path]]:
    """Hold the lock of a folder, and yield places beside it for the new and the replaced one."""
    kinds = ("saving", "replaced", "lock")
    new, old, lock = (directory.with_name(f".{directory.name}.{kind}") for kind in kinds)

    def undo() -> None:
        if old.exists() and not directory.exists():
            old.rename(directory)
        for left in (new, old):
            shutil.rmtree(left, ignore_errors=True)

    with FileLock(lock):
        undo()  # what a process that was killed left half done
        try:
            yield new, old
        finally:
            undo()
