"""Files that are written whole or not at all, by one process at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import tensorflow as tf


@contextlib.contextmanager
def locked(file: Path) -> Iterator[None]:
    """Wait until no other process is in here; the system ends the lock of one that dies.

    Args:
        file: An empty file that is made and stays: its lock counts. Not a folder, which network
            file systems cannot lock.
    """
    with file.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def write(file: Path, content: bytes | memoryview) -> None:
    """Write the whole file or none of it: beside it first, then renamed.

    Args:
        file: The file; one that is there is replaced.
        content: What to write.

    Raises:
        OSError: If it cannot be written, for lack of room perhaps. What was there is still there.
    """
    with (
        named(file),
        tempfile.TemporaryDirectory(prefix=f".{file.name}-", dir=file.parent) as scratch,
    ):
        written = Path(scratch) / file.name
        with written.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        written.replace(file)


@contextlib.contextmanager
def named(path: Path) -> Iterator[None]:
    """Let an error of writing name what was to be written, which that of a full disk does not.

    Args:
        path: File or folder that is written under another name in here, and renamed at the end.

    Raises:
        OSError: In place of any other, and of those of TensorFlow.
    """
    try:
        yield
    except (OSError, tf.errors.OpError) as error:
        raise OSError(f"Could not write `{path}`; nothing was changed. {error}") from error
