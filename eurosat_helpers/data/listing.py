"""List and read the files of a folder or zip file of class folders."""

from __future__ import annotations

import contextlib
import os
import re
import stat
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

ROOTS = ("2750", "EuroSAT_RGB")  # what the published archives call the folder of class folders


MAX_BYTES = 1_000_000  # of a tile's file: the pixels are 12 kB, the rest leaves room for metadata


_UNSAFE = re.compile(r"^[\\/]|^[A-Za-z]:|(^|[\\/])\.\.([\\/]|$)")


def state(source: Path) -> list[tuple[str, int, int]]:
    """List what changes whenever the tiles do: path, bytes and time of change of each file.

    Args:
        source: Folder or zip file. A zip is one file: reading its list would take longer than all
            the rest of a load from the cache.

    Returns:
        The files in an order that does not depend on the file system; times in nanoseconds.
    """
    if source.is_dir():
        return sorted(_list_folder(_root(source)))
    status = source.stat()
    return [(source.name, status.st_size, status.st_mtime_ns)]


@contextlib.contextmanager
def opened(source: Path) -> Iterator[tuple[list[str], Callable[[str], bytes]]]:
    """Open a folder or zip file of class folders.

    Hidden files and what Windows and macOS leave in folders and zips are passed over.

    Args:
        source: Folder or zip file with class folders, bare or below one of `ROOTS`.

    Yields:
        The paths below the root, "Class/file" and, with a slash at the end, those of folders; and
        a function that reads the file of such a path.

    Raises:
        ValueError: If the zip file is damaged, or unsafe to unpack. The function raises it for what
            is no file, or has more than `MAX_BYTES`.
    """
    if source.is_dir():
        root = _root(source)
        yield [path for path, *_ in _list_folder(root)], lambda path: _read_file(root / path)
        return
    try:
        archive = zipfile.ZipFile(source)
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise ValueError(
            f"`{source}` is no whole zip file: {error}. Delete it and download it again."
        ) from error
    with archive:
        members = _list_zip(source, archive)
        yield list(members), lambda path: _read_member(archive, members[path])


def _is_visible(name: str) -> bool:
    return not name.startswith(".") and name not in ("Thumbs.db", "desktop.ini", "__MACOSX")


def _visible_folders(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return [entry.name for entry in entries if entry.is_dir() and _is_visible(entry.name)]


def _root(folder: Path) -> Path:
    return next((folder / name for name in ROOTS if (folder / name).is_dir()), folder)


def _list_folder(root: Path) -> list[tuple[str, int, int]]:
    files = []
    for folder in _visible_folders(root):
        files.append((f"{folder}/", 0, 0))
        with os.scandir(root / folder) as entries:
            for entry in filter(lambda entry: _is_visible(entry.name), entries):
                path = f"{folder}/{entry.name}{'/' if entry.is_dir() else ''}"
                size = modified = 0
                with contextlib.suppress(FileNotFoundError):  # of a link to nothing: a bad tile
                    size, modified = entry.stat().st_size, entry.stat().st_mtime_ns
                files.append((path, size, modified))
    return files


def _list_zip(source: Path, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    members = {info.filename: info for info in archive.infolist()}
    if unsafe := [name for name in members if _UNSAFE.search(name)]:
        raise ValueError(f"`{source}` is not safe: `{unsafe[0]}` writes outside its folder.")
    for root in ROOTS:
        below = {
            name.removeprefix(f"{root}/"): info
            for name, info in members.items()
            if name.startswith(f"{root}/")
        }
        if below:
            members = below
            break
    return {
        name: info
        for name, info in members.items()
        if name and all(map(_is_visible, name.rstrip("/").split("/")))
    }


def _read_file(path: Path) -> bytes:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):  # to read a pipe or a device might never end
        raise ValueError("no regular file")
    _check_size(status.st_size)
    return path.read_bytes()


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    _check_size(member.file_size)  # of which `zipfile` reads no more, whatever is packed
    return archive.read(member)


def _check_size(size: int) -> None:
    if size > MAX_BYTES:
        raise ValueError(f"{size:,} bytes, more than the {MAX_BYTES:,} that a tile may have")
