"""Check and decode tile files into one array, and keep it on disk for the next time."""

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

_CACHE_VERSION = 2


def read(
    source: Path, class_names: Sequence[str], *, on_error: str, cache: Path
) -> tuple[np.ndarray, list[str], dict[str, str], bool]:
    """Read every tile of a folder or zip file, from the cache where that still holds.

    Args:
        source: Folder or zip file, as `listing.opened` takes it.
        class_names: The classes, each the name of a folder.
        on_error: "raise" stops at a bad tile, "skip" leaves it out.
        cache: File of the decoded tiles; made anew if it is missing, stale or damaged.

    Returns:
        Images, uint8 of shape (N, 64, 64, 3); their names, class by class and by number within a
        class; what is wrong with each tile that was left out, by name; and whether the images are
        those of the cache.

    Raises:
        ValueError: If a zip file is damaged or unsafe, if the folders are not the classes or one
            holds no tile, or, with "raise", if a file is no whole RGB tile of 64x64 pixels.
    """
    content = _CACHE_VERSION, tuple(class_names), listing.state(source)
    fingerprint = hashlib.sha256(repr(content).encode()).hexdigest()
    if cached := _read_cache(cache, fingerprint):
        return *cached, {}, True
    with listing.opened(source) as (paths, read_file):
        names = _tile_names(source, paths, class_names)
        images, names, problems = _decode_all(source, names, read_file, on_error)
    if problems:
        _check_every_class(source, names, class_names)
    else:  # only a whole set is kept, so that "raise" may believe what "skip" wrote
        _write_cache(cache, fingerprint, images, names)
    return images, names, problems, False


def decode(encoded: bytes) -> np.ndarray:
    """Decode a tile, to the same pixels as `tf.io.decode_jpeg(dct_method="INTEGER_ACCURATE")`.

    Args:
        encoded: Content of a JPEG or PNG file.

    Returns:
        uint8 of shape (64, 64, 3).

    Raises:
        ValueError: If this is no whole RGB image of 64x64 pixels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(encoded), formats=("JPEG", "PNG"))
        with image:
            if image.size != (IMAGE_SIZE, IMAGE_SIZE):
                width, height = image.size
                raise ValueError(f"{width}x{height} pixels, not {IMAGE_SIZE}x{IMAGE_SIZE}")
            if image.mode != "RGB":
                raise ValueError(f"color mode {image.mode}, not RGB")
            return np.asarray(image)
    except UnidentifiedImageError:
        raise ValueError("no JPEG or PNG image") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(f"not {IMAGE_SIZE}x{IMAGE_SIZE} pixels: {error}") from error
    except (OSError, SyntaxError) as error:
        raise ValueError(f"damaged, {error}") from error


def _tile_names(source: Path, paths: Iterable[str], class_names: Sequence[str]) -> list[str]:
    """Names of the tiles, class by class and by number."""
    paths = [path for path in paths if "/" in path]  # other files lie beside the class folders
    unknown = sorted({path.split("/")[0] for path in paths} - set(class_names))
    if unknown:
        raise ValueError(
            f"`{source}` holds unknown class folders: {', '.join(unknown[:5])}. Known are "
            f"{', '.join(class_names)}; for your own classes pass their list as `class_names`."
        )
    if deeper := [path for path in paths if path.count("/") > 1]:
        raise ValueError(f"`{deeper[0]}` in `{source}` must lie directly in its class folder.")
    names = [path for path in paths if not path.endswith("/")]
    _check_every_class(source, names, class_names)
    label = {class_name: index for index, class_name in enumerate(class_names)}
    digits = re.compile(r"([0-9]+)")

    def by_number(name: str) -> tuple:
        class_name, file_name = name.split("/")
        parts = digits.split(file_name)
        parts[1::2] = map(int, parts[1::2])
        return label[class_name], parts, file_name

    return sorted(names, key=by_number)


def _check_every_class(source: Path, names: Sequence[str], class_names: Sequence[str]) -> None:
    present = {name.split("/")[0] for name in names}
    if empty := [class_name for class_name in class_names if class_name not in present]:
        raise ValueError(f"`{source}` holds no tile of the class {', '.join(empty)}.")


def _decode_all(
    source: Path, names: Sequence[str], read_file: Callable[[str], bytes], on_error: str
) -> tuple[np.ndarray, list[str], dict[str, str]]:
    """The tiles, their names, and what is wrong with those left out, by name."""
    images = np.empty((len(names), IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    decoded, problems = [], {}
    for name in names:  # threads gain nothing: most of the time is spent in Python
        try:
            images[len(decoded)] = decode(read_file(name))
            decoded.append(name)
        except (ValueError, OSError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
            if on_error == "raise":
                raise ValueError(
                    f"`{name}` in `{source}` is a bad tile: {error}. Replace or remove it, or "
                    'leave out bad tiles with on_error="skip".'
                ) from error
            problems[name] = str(error)
    return images[: len(decoded)], decoded, problems


def _read_cache(cache: Path, fingerprint: str) -> tuple[np.ndarray, list[str]] | None:
    if not cache.exists():
        return None
    try:
        with cache.open("rb") as file:
            # Not `np.load`, which would also try to read the file as a zip.
            stamp, names = (np.lib.format.read_array(file, allow_pickle=False) for _ in range(2))
            np.lib.format.read_magic(file)
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
            start = file.tell()
        if dtype != np.uint8 or shape != (len(names), IMAGE_SIZE, IMAGE_SIZE, 3):
            raise ValueError(f"it holds {dtype} of shape {shape}")
        # Mapped, not copied: to fill 332 MB of fresh memory takes longer than to check them.
        images = np.asarray(np.memmap(cache, dtype, mode="c", offset=start, shape=shape))
        if stamp[0] != fingerprint:
            print(f"The cache {cache.name} is of other files: decoding anew.")
            return None
        if stamp[1] != _checksum(images, names):
            raise ValueError("its checksum is wrong")
    except Exception as error:  # NumPy reads a header as Python's source, and fails as that may
        print(f"The cache {cache.name} is damaged ({error}): decoding anew.")
        return None
    return images, names.tolist()


def _write_cache(cache: Path, fingerprint: str, images: np.ndarray, names: list[str]) -> None:
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache.parent, prefix=f"{cache.name}-") as temporary:
            written = Path(temporary) / "cache.npy"
            with written.open("wb") as file:
                for array in ([fingerprint, _checksum(images, names)], names, images):
                    np.save(file, array)
            written.replace(cache)
    except OSError as error:
        reason = error.strerror or error
        print(f"Working without a cache: {cache.parent.name}/ takes no file ({reason}).")


def _checksum(images: np.ndarray, names: Sequence[str]) -> str:
    return str(zlib.crc32(images, zlib.crc32("\n".join(names).encode())))
