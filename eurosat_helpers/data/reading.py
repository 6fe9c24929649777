"""Check and decode tile files into one array, and cache it on disk."""

from __future__ import annotations

import hashlib
import io
import re
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from eurosat_helpers.data import listing
from eurosat_helpers.data.tiles import IMAGE_SIZE

_CACHE_VERSION = 3


def read(
    source: Path, class_names: Sequence[str], *, on_error: str, cache: Path
) -> tuple[np.ndarray, list[str], dict[str, str], bool]:
    """Read every tile of a folder or zip file, from the cache if that is still right.

    The arguments are those of `load`; `cache` is the file of the decoded tiles, which is written
    again if it is missing, stale or damaged.

    Returns:
        Images, uint8 of shape (N, 64, 64, 3); their names, by class and by number; what is wrong
        with each tile left out, by name; and whether the images come from the cache.

    Raises:
        ValueError: If a zip file is damaged or unsafe, if the folders are not the classes or one
            holds no tile, or, with "raise", if a file is not a complete RGB tile of 64x64 pixels.
    """
    with listing.opened(source) as (files, read_file):
        content = _CACHE_VERSION, tuple(class_names), sorted(files.items())
        fingerprint = hashlib.sha256(repr(content).encode()).hexdigest()
        if cached := _read_cache(cache, fingerprint):
            return *cached, {}, True
        names = _tile_names(source, files, class_names)
        images, names, problems = _decode_all(source, names, read_file, on_error)
    if problems:
        _check_every_class(source, names, class_names)
    else:  # only the complete set is cached, so that "raise" can trust what "skip" wrote
        _write_cache(cache, fingerprint, images, names)
    return images, names, problems, False


def _tile_names(source: Path, files: Iterable[str], class_names: Sequence[str]) -> list[str]:
    """Names of the tiles, by class and by number."""
    if unknown := sorted({path.split("/")[0] for path in files} - set(class_names)):
        raise ValueError(
            f"`{source}` holds unknown class folders: {', '.join(unknown[:5])}. Known are "
            f"{', '.join(class_names)}; for your own classes pass their list as `class_names`."
        )
    if deeper := [path for path in files if path.count("/") > 1]:
        raise ValueError(f"`{deeper[0]}` in `{source}` must lie directly in its class folder.")
    names = [path for path in files if not path.endswith("/")]
    _check_every_class(source, names, class_names)

    def by_number(name: str) -> tuple:
        parts = re.split(r"([0-9]+)", name)
        parts[1::2] = map(int, parts[1::2])
        return class_names.index(name.split("/")[0]), parts, name

    return sorted(names, key=by_number)


def _check_every_class(source: Path, names: Sequence[str], class_names: Sequence[str]) -> None:
    present = {name.split("/")[0] for name in names}
    if empty := [class_name for class_name in class_names if class_name not in present]:
        raise ValueError(
            f"`{source}` holds no tile of the class {', '.join(empty)}. Add some, or leave the "
            "class out of `class_names`."
        )


def _decode_all(
    source: Path, names: Sequence[str], read_file: Callable[[str], bytes], on_error: str
) -> tuple[np.ndarray, list[str], dict[str, str]]:
    """The tiles, their names, and what is wrong with those left out, by name."""
    images = np.empty((len(names), IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    decoded, problems = [], {}
    for name in names:  # threads gain nothing: most of the time is spent in Python
        try:
            images[len(decoded)] = _decode(read_file(name))
            decoded.append(name)
        except (ValueError, OSError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
            if on_error == "raise":
                raise ValueError(
                    f"`{name}` in `{source}` is a bad tile: {error}. Replace or remove it, or "
                    'leave out bad tiles with on_error="skip".'
                ) from error
            problems[name] = str(error)
    return images[: len(decoded)], decoded, problems


def _decode(encoded: bytes) -> np.ndarray:
    """Decode a JPEG or PNG tile, as `tf.io.decode_jpeg(dct_method="INTEGER_ACCURATE")` does."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the size is checked
            image = Image.open(io.BytesIO(encoded), formats=("JPEG", "PNG"))
        with image:
            if (image.mode, image.size) != ("RGB", (IMAGE_SIZE, IMAGE_SIZE)):
                raise ValueError(f"{image.width}x{image.height} {image.mode}, not 64x64 RGB")
            return np.asarray(image)
    except UnidentifiedImageError:
        raise ValueError("not a JPEG or PNG image") from None
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"damaged, {error}") from error


def _read_cache(cache: Path, fingerprint: str) -> tuple[np.ndarray, list[str]] | None:
    if not cache.exists():
        return None
    try:
        with cache.open("rb") as file:
            # Not `np.load`, which would also try to read the file as a zip.
            stamp, names = (np.lib.format.read_array(file, allow_pickle=False) for _ in range(2))
            start, shape = file.tell(), (len(names), IMAGE_SIZE, IMAGE_SIZE, 3)
        if stamp[0] != fingerprint:
            print(f"The cache {cache.name} was made from other files: decoding again.")
            return None
        # Mapped, not copied: to fill 332 MB of fresh memory takes longer than to check them.
        images = np.asarray(np.memmap(cache, np.uint8, "c", start, shape))
        if stamp[1] != _checksum(images, names):
            raise ValueError("its checksum is wrong")
    except Exception as error:  # NumPy reads a header as Python's source, and fails as that may
        print(f"The cache {cache.name} is damaged ({error}): decoding again.")
        return None
    return images, names.tolist()


def _write_cache(cache: Path, fingerprint: str, images: np.ndarray, names: list[str]) -> None:
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache.parent, prefix=f"{cache.name}-") as temporary:
            written = Path(temporary) / "cache.npy"
            with written.open("wb") as file:
                for array in ([fingerprint, _checksum(images, names)], names):
                    np.save(file, array)
                images.tofile(file)
            written.replace(cache)  # one step, also where two processes write at once
    except OSError as error:
        print(f"No cache: cannot write to {cache.parent.name}/ ({error.strerror or error}).")


def _checksum(images: np.ndarray, names: Sequence[str]) -> str:
    return str(zlib.crc32(images, zlib.crc32("\n".join(names).encode())))
