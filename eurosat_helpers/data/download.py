"""Download a published archive of EuroSAT RGB and believe it only if its checksum is right."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import pooch
import requests
import urllib3


class Mirror(NamedTuple):
    """A published archive: where it is, and the SHA-256 of its bytes."""

    url: str
    sha256: str


MIRRORS = (
    Mirror(
        "https://zenodo.org/records/7711810/files/EuroSAT_RGB.zip",
        "b4f5b234ecb7d7ff9c6cddb046543b4717c53fd6e9815be6c0e80cc614f51b90",
    ),
    Mirror(
        "https://huggingface.co/datasets/torchgeo/eurosat/resolve/"
        "c877bcd43f099cd0196738f714544e355477f3fd/EuroSAT.zip",
        "8ebea626349354c5328b142b96d0430e647051f26efc2dc974c843f25ecf70bd",
    ),
)
_ROUNDS = 2
_NO_CONNECTION = "no connection"
_TIMEOUT = (3, 30)  # seconds to connect, and without a byte


class NoNetworkError(OSError):
    """No mirror could even be reached."""


def fetch(folder: str | os.PathLike[str], mirrors: Sequence[Mirror] | None = None) -> Path:
    """Download the first archive that arrives whole, with a progress bar.

    The mirrors are tried in turn, and all of them a second time. The archive gets its name only
    when its checksum is right; until then it is a temporary file.

    Args:
        folder: Folder for the archive.
        mirrors: The archives to try; `MIRRORS` if None.

    Returns:
        Path of the archive.

    Raises:
        NoNetworkError: If no mirror could be reached: no route, no name resolution, no answer.
        OSError: If a mirror was reached, but none gave the right file, and what each one did.
    """
    pooch.get_logger().setLevel(logging.WARNING)
    mirrors = MIRRORS if mirrors is None else mirrors
    problems: dict[str, str] = {}
    for _ in range(_ROUNDS):
        for url, sha256 in mirrors:
            try:
                archive = pooch.retrieve(
                    url,
                    known_hash=f"sha256:{sha256}",
                    fname=Path(url).name,
                    path=folder,
                    downloader=pooch.HTTPDownloader(progressbar=True, timeout=_TIMEOUT),
                )
                return Path(archive)
            except (requests.RequestException, ValueError) as error:  # ValueError: the checksum
                problems[url] = _NO_CONNECTION if _is_unreachable(error) else str(error)
                if getattr(error, "response", None) is not None:
                    error.response.close()  # pooch leaves it open
        if set(problems.values()) == {_NO_CONNECTION}:
            hosts = " or ".join(urlsplit(url).netloc for url in problems)
            raise NoNetworkError(f"No connection to {hosts}.")
    answers = "\n".join(f"- {url}: {problem}" for url, problem in problems.items())
    raise OSError(
        f"No mirror gave the EuroSAT archive:\n{answers}\nTry again later, or download one of them "
        f"by hand into `{folder}`, or set EUROSAT_ARCHIVE to the path of a copy."
    )


def _is_unreachable(error: Exception) -> bool:
    """Whether a request failed before the server took part."""
    cause = getattr(error.args[0], "reason", None) if error.args else None
    no_answer = urllib3.exceptions.NewConnectionError, urllib3.exceptions.ConnectTimeoutError
    return isinstance(error, requests.exceptions.ProxyError) or isinstance(cause, no_answer)
