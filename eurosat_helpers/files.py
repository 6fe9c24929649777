"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def write(file: Path, content: bytes | memoryview) -> None:
    """Write the whole file or none of it: beside it first, then renamed.

    Args:
        file: The file; one that is there is replaced.
        content: What to write.

    Raises:
        OSError: If it cannot be written, for lack of room perhaps. What was there is still there.
    """
    with tempfile.TemporaryDirectory(prefix=f".{file.name}-", dir=file.parent) as scratch:
        written = Path(scratch) / file.name
        with written.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        written.replace(file)
