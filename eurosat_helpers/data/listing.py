"""List and open the files of a folder or zip file of class folders."""

from __future__ import annotations

import contextlib
import os
import re
import stat
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

from eurosat_helpers.data.tiles import ROOTS

MAX_BYTES = 1_000_000  # of a tile's file: the pixels are 12 kB, the rest leaves room for metadata
_UNSAFE = re.compile(r"^[\\/]|^[A-Za-z]:|(^|[\\/])\.\.([\\/]|$)")


@contextlib.contextmanager
def opened(source: Path) -> Iterator[tuple[dict[str, tuple[int, int]], Callable[[str], bytes]]]:
    """Open a folder or zip file with class folders, bare or below one of `ROOTS`.

    Hidden files, and those that Windows and macOS add, are ignored.

    Yields:
        The size in bytes of each path below the root ("Class/file", or "Class/" for a folder) and
        its time of change, or CRC-32 in a zip; and a function that reads a path, or raises
        ValueError for one that is not a regular file or has more than `MAX_BYTES`.

    Raises:
        ValueError: If the zip file is damaged, or unsafe to unpack.
    """
    if source.is_dir():
        root = next((source / name for name in ROOTS if (source / name).is_dir()), source)
        yield _list_folder(root), lambda path: _read_file(root / path)
        return
    try:
        archive = zipfile.ZipFile(source)
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise ValueError(
            f"`{source}` is not a complete zip file: {error}. Delete it and download it again."
        ) from error
    with archive:
        members = _list_zip(source, archive)
        files = {path: (member.file_size, member.CRC) for path, member in members.items()}
        yield files, lambda path: _read_member(archive, members[path])


def _is_visible(name: str) -> bool:
    return not name.startswith(".") and name not in ("Thumbs.db", "desktop.ini", "__MACOSX")


def _list_folder(root: Path) -> dict[str, tuple[int, int]]:
    files = {}
    folders = [name for name in os.listdir(root) if _is_visible(name) and (root / name).is_dir()]
    for folder in folders:
        files[f"{folder}/"] = 0, 0
        with os.scandir(root / folder) as entries:
            for entry in filter(lambda entry: _is_visible(entry.name), entries):
                size = modified = 0
                with contextlib.suppress(FileNotFoundError):  # of a link to nothing: a bad tile
                    size, modified = entry.stat().st_size, entry.stat().st_mtime_ns
                files[f"{folder}/{entry.name}{'/' if entry.is_dir() else ''}"] = size, modified
    return files


def _list_zip(source: Path, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    members = {info.filename: info for info in archive.infolist()}
    if unsafe := [name for name in members if _UNSAFE.search(name)]:
        raise ValueError(f"`{source}` is not safe: `{unsafe[0]}` writes outside its folder.")
    tops = {name.split("/")[0] for name in members if "/" in name}
    root = next((f"{root}/" for root in ROOTS if root in tops), "")
    below = {name[len(root) :]: member for name, member in members.items() if name.startswith(root)}
    visible = [path for path in below if all(map(_is_visible, path.split("/")))]
    return {path: below[path] for path in visible if "/" in path}  # others lie beside the classes


def _read_file(path: Path) -> bytes:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):  # to read a pipe or a device might never end
        raise ValueError("not a regular file")
    _check_size(status.st_size)
    return path.read_bytes()


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    _check_size(member.file_size)  # `zipfile` reads no more than this, whatever is packed
    return archive.read(member)


def _check_size(size: int) -> None:
    if size > MAX_BYTES:
        raise ValueError(f"{size:,} bytes, more than the {MAX_BYTES:,} that a tile may have")
