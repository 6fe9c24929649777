"""Find the folder or zip file that holds the tiles; download EuroSAT if there is none."""

from __future__ import annotations

import logging
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

import pooch
import requests
import urllib3

from eurosat_helpers.data.tiles import ROOTS

MIRRORS = {  # address and SHA-256 of each published archive, tried in this order
    "https://zenodo.org/records/7711810/files/EuroSAT_RGB.zip": (
        "b4f5b234ecb7d7ff9c6cddb046543b4717c53fd6e9815be6c0e80cc614f51b90"
    ),
    "https://huggingface.co/datasets/torchgeo/eurosat/resolve/"
    "c877bcd43f099cd0196738f714544e355477f3fd/EuroSAT.zip": (
        "8ebea626349354c5328b142b96d0430e647051f26efc2dc974c843f25ecf70bd"
    ),
}
_TIMEOUT = (3, 30)  # seconds to connect, and without a byte


def find(data_dir: Path, class_names: Sequence[str]) -> Path:
    """Find what to read, or download it, in the order that the docstring of `load` gives.

    Returns:
        The folder itself, or a zip file.

    Raises:
        FileNotFoundError: If the folder does not exist or holds neither class folders nor a zip.
        ValueError: If EUROSAT_ARCHIVE names no zip file, or if it is unclear which zip to read.
        OSError: If no mirror gave the right file; ConnectionError if none could be reached.
    """
    if any((data_dir / name).is_dir() for name in (*ROOTS, *class_names)):
        return data_dir
    is_eurosat = data_dir.name == "EuroSAT"
    if is_eurosat and (named := os.environ.get("EUROSAT_ARCHIVE")):
        archive = Path(named).expanduser()
        if not zipfile.is_zipfile(archive):
            raise ValueError(
                "`EUROSAT_ARCHIVE` must be the path of a complete zip file, or not be set. "
                f"Received: {named}"
            )
        return archive
    zips = sorted(data_dir.glob("[!.]*.zip"))
    published = [path for path in zips if path.name in [Path(url).name for url in MIRRORS]]
    if len(zips) > 1 and not published:
        found = ", ".join(path.name for path in zips)
        raise ValueError(f"`{data_dir}` holds several zip files: {found}. Leave only one there.")
    if zips:
        return (published or zips)[0]
    if any(path.is_dir() for path in data_dir.glob("[!._]*")):
        return data_dir  # its class folders are unknown: `reading.read` lists them in an error
    if is_eurosat:
        data_dir.mkdir(parents=True, exist_ok=True)
        return _download(data_dir)
    if not data_dir.is_dir():
        raise FileNotFoundError(f"There is no folder `{data_dir}`. Correct `data_dir`.")
    raise FileNotFoundError(
        f"`{data_dir}` holds no tiles. Put class folders, `2750`, `EuroSAT_RGB` or a zip of them "
        'there. (EuroSAT is downloaded only into a `data_dir` named "EuroSAT".)'
    )


def _download(folder: Path) -> Path:
    """Download the first archive whose SHA-256 is right; try all mirrors, then all again."""
    pooch.get_logger().setLevel(logging.WARNING)
    remedy = f"download an archive into `{folder}`, or set EUROSAT_ARCHIVE to the path of a copy."
    problems: dict[str, str | None] = {}  # None where there is no connection
    for _ in range(2):
        for url, sha256 in MIRRORS.items():
            try:
                archive = pooch.retrieve(  # a temporary file until its SHA-256 is verified
                    url,
                    known_hash=f"sha256:{sha256}",
                    fname=Path(url).name,
                    path=folder,
                    downloader=pooch.HTTPDownloader(progressbar=True, timeout=_TIMEOUT),
                )
                return Path(archive)
            except (requests.RequestException, ValueError) as error:  # ValueError: the SHA-256
                problems[url] = None if _is_unreachable(error) else str(error)
                if getattr(error, "response", None) is not None:
                    error.response.close()  # pooch leaves it open
        if set(problems.values()) == {None}:
            hosts = " or ".join(urlsplit(url).netloc for url in problems)
            raise ConnectionError(f"No connection to {hosts}. Connect to the network, {remedy}")
    answers = "\n".join(
        f"- {url}: {problem or 'no connection'}" for url, problem in problems.items()
    )
    raise OSError(f"No mirror gave the EuroSAT archive:\n{answers}\nTry again later, {remedy}")


def _is_unreachable(error: Exception) -> bool:
    """Whether a request failed before the server took part."""
    cause = getattr(error.args[0], "reason", None) if error.args else None
    no_answer = urllib3.exceptions.NewConnectionError, urllib3.exceptions.ConnectTimeoutError
    return isinstance(error, requests.exceptions.ProxyError) or isinstance(cause, no_answer)
