"""List and read the files of a folder or zip file of class folders."""

from __future__ import annotations

import contextlib
import glob
import os
import re
import stat
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PureWindowsPath

from eurosat_helpers.data.tiles import ROOTS

# A file that is hidden or that a file manager made, or a folder.
_NO_TILE = re.compile(r"(^|/)(\.|__MACOSX/|(Thumbs\.db|desktop\.ini)?$)")


@contextlib.contextmanager
def searched(source: Path) -> Iterator[tuple[dict[str, int], Callable[[str], bytes]]]:
    """Open a folder or zip file with files at any depth.

    Yields:
        The size in bytes of each file by its path, sorted, without hidden files; and a function
        that reads a path, or raises ValueError if it is not a regular file. Links to folders are
        not followed, since they may form circles.

    Raises:
        ValueError: If the zip file is damaged, or unsafe to unpack.
        OSError: If a folder cannot be read.
    """
    if not source.is_dir():
        with _unpacked(source) as (sizes, read_file):
            yield {one: sizes[one] for one in sorted(sizes) if not _NO_TILE.search(one)}, read_file
        return
    sizes = {}
    for folder, _, names in os.walk(source, onerror=_stop):
        for file in (Path(folder, name) for name in names):
            path = file.relative_to(source).as_posix()
            if not _NO_TILE.search(path):  # a link to nothing has the size of the link
                sizes[path] = os.stat(file, follow_symlinks=file.exists()).st_size
    yield dict(sorted(sizes.items())), lambda path: _read(source / path)


def stamp(source: Path) -> list[tuple[str, int, int]]:
    """Return name, bytes and time of change in ns of a zip file, or of each file of a folder."""
    root, paths = source.parent, [source.name]
    if source.is_dir():
        root = _root(source)
        paths = _tiles(path.replace(os.sep, "/") for path in glob.glob("*/*", root_dir=root))
    stamps = []
    for path in sorted(paths):
        file = os.path.join(root, path)
        status = os.stat(file, follow_symlinks=os.path.exists(file))  # it may link to nothing
        stamps.append((path, status.st_size, max(status.st_mtime_ns, status.st_ctime_ns)))
    return stamps


@contextlib.contextmanager
def opened(source: Path) -> Iterator[tuple[dict[str, int], Callable[[str], bytes]]]:
    """Open class folders, bare or in one of `ROOTS` or a packed folder; paths: "Class/file"."""
    if source.is_dir():
        folder = _root(source)
        yield {path: size for path, size, _ in stamp(source)}, lambda path: _read(folder / path)
        return
    with _unpacked(source) as (sizes, read_file):
        found = [name.split("/") for name in sizes if not _NO_TILE.search(name)]
        tops = {parts[0] for parts in found}
        packed = tops if len(tops) == 1 and max(map(len, found)) > 2 else ()
        root = next((f"{top}/" for top in (*ROOTS, *packed) if top in tops), "")
        paths = _tiles(name.removeprefix(root) for name in sizes if name.startswith(root))
        yield {path: sizes[root + path] for path in paths}, lambda path: read_file(root + path)


@contextlib.contextmanager
def _unpacked(source: Path) -> Iterator[tuple[dict[str, int], Callable[[str], bytes]]]:
    """Open a zip file: the size of each member by its name, and the function that reads one."""
    try:
        archive = zipfile.ZipFile(source)
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise ValueError(
            f"`{source}` is not a complete zip file: {error}. Delete it and download it again."
        ) from error
    with archive:
        members = {  # Windows and `tar` write names in ways of their own
            one.filename.replace("\\", "/").removeprefix("./"): one for one in archive.infolist()
        }
        sizes = {path: one.file_size for path, one in members.items()}
        for path in map(PureWindowsPath, sizes):  # which knows drives and both kinds of slashes
            if path.anchor or ".." in path.parts:
                name = path.as_posix()
                raise ValueError(f"`{source}` is not safe: `{name}` writes outside its folder.")
        yield sizes, lambda path: archive.read(members[path])


def _stop(error: OSError) -> None:
    raise error  # `os.walk` would leave the folder out


def _root(folder: Path) -> Path:
    return next((folder / name for name in ROOTS if (folder / name).is_dir()), folder)


def _tiles(paths: Iterable[str]) -> list[str]:
    """Without stray files, and those beside the class folders."""
    return [path for path in paths if "/" in path and not _NO_TILE.search(path)]


def _read(file: Path) -> bytes:
    if not stat.S_ISREG(file.stat().st_mode):  # to read a pipe or a device might never end
        raise ValueError("a folder, not a tile" if file.is_dir() else "not a regular file")
    return file.read_bytes()
