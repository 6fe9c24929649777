"""Check and decode tile files into one array, and cache it on disk."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import tempfile
import time
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from eurosat_helpers.data import listing
from eurosat_helpers.data.tiles import IMAGE_SIZE

_MAX_BYTES = 1_000_000  # the pixels are 12 kB, the rest leaves room for metadata
_CACHE_VERSION = 4


def read(
    source: Path, class_names: Sequence[str], on_error: str, cache: Path
) -> tuple[np.ndarray, list[str], dict[str, str], bool]:
    """Read every tile of a folder or zip file, or of the cache if it fits; else write the cache.

    Returns:
        Images, uint8 of shape (N, 64, 64, 3); their names, by class and by number; what is wrong
        with each tile left out, by name; and whether the images come from the cache.

    Raises:
        ValueError: If a zip file is damaged or unsafe, if a folder is not one of the classes, or,
            with "raise", if a file is not a complete RGB tile of 64x64 pixels.
    """
    content = repr((_CACHE_VERSION, class_names, listing.stamp(source)))
    if cached := _read_cache(cache, content):
        return *cached, {}, True
    names, problems = [], {}
    with listing.opened(source) as (sizes, read_file):
        if unknown := sorted({path.rpartition("/")[0] for path in sizes} - set(class_names)):
            raise ValueError(
                f"`{source}` holds unknown class folders: {', '.join(unknown[:5])}. Known are "
                f"{', '.join(class_names)}; for your own classes pass their list as `class_names`."
            )
        images = np.empty((len(sizes), IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
        # By length, so that Forest_9.jpg comes before Forest_10.jpg.
        paths = sorted(sizes, key=lambda p: (class_names.index(p.split("/")[0]), len(p), p))
        for path in paths:  # threads gain nothing: most of the time is spent in Python
            try:
                if (size := sizes[path]) > _MAX_BYTES:
                    raise ValueError(
                        f"{size:,} bytes, more than the {_MAX_BYTES:,} that a tile may have"
                    )
                images[len(names)] = _decode(read_file(path))
                names.append(path)
            except Exception as error:  # damaged bytes fail in Pillow and `zipfile` as they may
                if on_error == "raise":
                    raise ValueError(
                        f"`{path}` in `{source}` is a bad tile: {error}. Replace or remove it, or "
                        'leave out bad tiles with on_error="skip".'
                    ) from error
                problems[path] = str(error)
    images = images[: len(names)]
    if names and not problems:  # all: "raise" trusts what "skip" has cached
        _write_cache(cache, content, images, names)
    return images, names, problems, False


def _decode(encoded: bytes) -> np.ndarray:
    """Decode a JPEG or PNG tile, as `tf.io.decode_jpeg(dct_method="INTEGER_ACCURATE")` does."""
    try:
        image = Image.open(io.BytesIO(encoded), formats=("JPEG", "PNG"))
    except UnidentifiedImageError:
        raise ValueError("not a JPEG or PNG image") from None
    if (image.mode, image.size) != ("RGB", (IMAGE_SIZE, IMAGE_SIZE)):
        raise ValueError(f"{image.width}x{image.height} {image.mode}, not 64x64 RGB")
    if image.format == "PNG" and encoded[24] == 16:  # Pillow would keep the upper 8 bits
        raise ValueError("16 bits per value, not 8")
    return np.asarray(image)


def _read_cache(cache: Path, content: str) -> tuple[np.ndarray, list[str]] | None:
    try:
        with cache.open("rb") as file:  # a line of JSON, then the pixels
            source, checksum, names = json.loads(file.readline())
            start, shape = file.tell(), (len(names), IMAGE_SIZE, IMAGE_SIZE, 3)
        if source != content:
            raise ValueError("files, their times or the classes have changed")
        # Mapped, not copied: to fill 332 MB of fresh memory takes longer than to check them.
        images = np.asarray(np.memmap(cache, np.uint8, "c", start, shape))
        if checksum != zlib.crc32(images, zlib.crc32(repr(names).encode())):
            raise ValueError("damaged")
    except FileNotFoundError:
        return None
    except Exception as error:  # JSON and NumPy fail at damaged bytes as they may
        print(f"The cache {cache.name} is not used ({error}): decoding again.")
        return None
    return images, names


def _write_cache(cache: Path, content: str, images: np.ndarray, names: list[str]) -> None:
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        for left in cache.parent.glob(f"{cache.name}-*"):  # by a process that was killed
            with contextlib.suppress(FileNotFoundError):  # it was alive
                if time.time() - left.stat().st_mtime > 600:
                    shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(dir=cache.parent, prefix=f"{cache.name}-") as temporary:
            written = Path(temporary) / cache.name
            with written.open("wb") as file:
                checksum = zlib.crc32(images, zlib.crc32(repr(names).encode()))
                header = json.dumps([content, checksum, names])
                file.write(f"{header}\n".encode())
                images.tofile(file)
            written.replace(cache)  # one step, also where two processes write at once
    except OSError as error:
        print(f"No cache: cannot write to {cache.parent.name}/ ({error.strerror or error}).")
