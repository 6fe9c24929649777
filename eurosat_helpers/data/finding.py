"""Find the folder or zip file that holds the tiles; download EuroSAT if there is none."""

from __future__ import annotations

import logging
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pooch
import requests

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


def find(data_dir: Path, class_names: Sequence[str]) -> Path:
    """Find the folder or zip file to read, or download it, in the order that `load` gives.

    Raises:
        FileNotFoundError: If the folder does not exist or holds neither class folders nor a zip.
        ValueError: If EUROSAT_ARCHIVE names no zip file, or if it is unclear which zip to read.
        OSError: If no mirror gave the right file; ConnectionError if none could be reached.
    """
    if any((data_dir / name).is_dir() for name in (*ROOTS, *class_names)):
        return data_dir
    is_eurosat = data_dir.name == "EuroSAT"
    if is_eurosat and (named := os.environ.get("EUROSAT_ARCHIVE")):
        if not zipfile.is_zipfile(archive := Path(named).expanduser()):
            raise ValueError(f"`EUROSAT_ARCHIVE` must be a zip file, or not set. Received: {named}")
        return archive
    zips = sorted(path.name for path in data_dir.glob("[!.]*.[zZ][iI][pP]"))
    if len(zips) > 1:
        raise ValueError(f"`{data_dir}` must hold only one zip file. Received: {', '.join(zips)}")
    if zips:
        return data_dir / zips[0]
    if any(path.is_dir() for path in data_dir.glob("[!._]*")):
        return data_dir  # its class folders are unknown: `reading.read` lists them in an error
    if is_eurosat:
        return _download(data_dir)
    found = "holds no tiles" if data_dir.is_dir() else "is no folder"
    raise FileNotFoundError(
        f"`{data_dir}` {found if data_dir.exists() else 'does not exist'}. Correct "
        "`data_dir`, or put class folders, `2750`, `EuroSAT_RGB` or a zip of them there. (The "
        'download is only into a `data_dir` named "EuroSAT".)'
    )


def _download(folder: Path) -> Path:
    """Download the first archive whose SHA-256 is right; try all mirrors, then all again."""
    pooch.get_logger().setLevel(logging.WARNING)
    downloader = pooch.HTTPDownloader(progressbar=True, timeout=(3, 30))  # to connect, for a byte
    problems = {}
    for url, sha256 in [*MIRRORS.items()] * 2:
        if problems.get(url) == "no connection":
            continue
        try:  # under another name until its SHA-256 is verified
            archive = pooch.retrieve(url, sha256, Path(url).name, folder, downloader=downloader)
            return Path(archive)
        except (requests.RequestException, ValueError) as error:  # ValueError: the SHA-256
            failed = isinstance(error, requests.ConnectionError) and error.request is not None
            answered = isinstance(error, requests.exceptions.SSLError)  # with a bad certificate
            problems[url] = "no connection" if failed and not answered else str(error)
            if getattr(error, "response", None) is not None:
                error.response.close()  # pooch leaves it open
    answers = "\n".join(f"- {url}: {problem}" for url, problem in problems.items())
    kind = ConnectionError if set(problems.values()) == {"no connection"} else OSError
    raise kind(
        f"No mirror gave the EuroSAT archive:\n{answers}\nConnect to the network or try again "
        f"later, download an archive into `{folder}`, or set EUROSAT_ARCHIVE to the path of a copy."
    )
