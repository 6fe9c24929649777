"""Files that are written completely or not at all, by one process at a time."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock


@contextlib.contextmanager
def locked(file: Path) -> Iterator[None]:
    """Wait until no other process holds the lock; the system releases that of a killed one.

    Args:
        file: An empty file that is created, stays and stands for the lock.
    """
    with FileLock(file):
        yield


def write(file: Path, content: bytes | memoryview) -> None:
    """Replace the file by a temporary one beside it, or leave it as it is.

    Raises:
        OSError: If it cannot be written, for example because the disk is full.
    """
    new = file.with_name(f".{file.name}.partial")  # the next write replaces that of a killed one
    try:
        with locked(file.with_name(".lock")):
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
