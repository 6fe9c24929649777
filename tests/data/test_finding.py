"""Finding the tiles: which folder or zip, and the download from a server on this machine."""

from __future__ import annotations

import hashlib
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from conftest import CACHE, zip_folder

from eurosat_helpers import data
from eurosat_helpers.data import finding


def test_missing_and_empty_folders_are_errors_that_say_what_belongs_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere` does not exist. Correct `data_dir`"):
        data.load(tmp_path / "nowhere")
    (tmp_path / ".ipynb_checkpoints").mkdir()
    (tmp_path / ".ipynb_checkpoints" / "tiles.zip").touch()
    with pytest.raises(FileNotFoundError, match=r"tiles.zip` is no folder. Correct `data_dir`"):
        data.load(tmp_path / ".ipynb_checkpoints" / "tiles.zip")
    with pytest.raises(FileNotFoundError, match=r"holds no tiles. .* put class folders, `2750`"):
        data.load(tmp_path)


def test_only_unknown_class_folders_are_not_an_empty_folder(tmp_path, eurosat):
    for folder in (tmp_path / "mine", eurosat):
        (folder / "Glacier").mkdir(parents=True)
        (folder / "Glacier" / "Glacier_1.jpg").touch()
        with pytest.raises(ValueError, match="unknown class folders: Glacier"):
            data.load(folder)


def test_several_zips_are_an_error_that_names_them(folder, tmp_path):
    zip_folder(folder, tmp_path / "old.zip")
    zip_folder(folder, tmp_path / "new.zip")
    with pytest.raises(ValueError, match=r"must hold only one zip file.* new.zip, old.zip"):
        data.load(tmp_path)


def test_environment_variable_names_a_zip_for_eurosat_alone(folder, eurosat, tmp_path, monkeypatch):
    monkeypatch.setenv("EUROSAT_ARCHIVE", str(zip_folder(folder, tmp_path / "far" / "mine.zip")))
    assert data.load(eurosat).source == "tiles in mine.zip"
    assert [path.name for path in eurosat.iterdir()] == [CACHE]
    assert [path.name for path in (tmp_path / "far").iterdir()] == ["mine.zip"]
    with pytest.raises(FileNotFoundError, match="my tiles` does not exist"):
        data.load(eurosat.with_name("my tiles"))


@pytest.mark.parametrize("content", [None, b"no zip"], ids=["missing", "no zip"])
def test_bad_environment_variable_is_named(eurosat, tmp_path, monkeypatch, content):
    archive = tmp_path / "archive.zip"
    if content:
        archive.write_bytes(content)
    monkeypatch.setenv("EUROSAT_ARCHIVE", str(archive))
    with pytest.raises(ValueError, match=r"`EUROSAT_ARCHIVE` must be .*Received: .*archive\.zip"):
        data.load(eurosat)


# --- the download ---


class Handler(BaseHTTPRequestHandler):
    """Serves the archive under paths that say what goes wrong."""

    def do_GET(self) -> None:
        """Answer, well or badly."""
        self.server.requests.append(self.path)
        if "missing" in self.path:
            self.send_error(404)
            return
        first = self.server.requests.count(self.path) == 1
        body = self.server.content[::-1] if "wrong" in self.path else self.server.content
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        cut = "cut" in self.path or "stalls" in self.path or ("once" in self.path and first)
        self.wfile.write(body[: len(body) // 2] if cut else body)
        self.wfile.flush()
        if "stalls" in self.path:
            self.server.halfway.set()
            self.server.stopped.wait(30)

    def log_message(self, *arguments: object) -> None:
        """Keep quiet."""


@pytest.fixture
def server(demo_folder: Path, tmp_path: Path) -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.content = zip_folder(demo_folder, tmp_path / "served" / "tiles.zip").read_bytes()
        server.requests, server.halfway, server.stopped = [], threading.Event(), threading.Event()
        threading.Thread(target=server.serve_forever, args=(0.02,)).start()
        yield server
        server.stopped.set()
        server.shutdown()


@pytest.fixture
def download(server, eurosat, monkeypatch) -> Callable[..., Path]:
    """Download from these addresses, or paths on the server, into the folder `eurosat`."""
    sha256 = hashlib.sha256(server.content).hexdigest()

    def call(*paths: str) -> Path:
        base = f"http://127.0.0.1:{server.server_port}/"
        urls = [path if "://" in path else base + path for path in paths]
        monkeypatch.setattr(finding, "MIRRORS", dict.fromkeys(urls, sha256))
        return finding.find(eurosat, data.CLASS_NAMES)

    return call


def unreachable() -> str:
    """The address of a port that was free a moment ago: nobody listens there."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}/a.zip"


def test_published_archives_have_https_addresses_and_sha256_sums():
    for url, sha256 in finding.MIRRORS.items():
        assert url.startswith("https://")
        assert url.endswith(".zip")
        assert len(bytes.fromhex(sha256)) == 32


def test_archive_is_downloaded_once_with_a_progress_bar(
    download, server, eurosat, capfd, demo_folder
):
    archive = download("good.zip")
    assert archive == eurosat / "good.zip"
    assert archive.read_bytes() == server.content
    assert list(eurosat.iterdir()) == [archive]
    output = capfd.readouterr()
    assert "100%" in output.err
    assert output.out == ""
    np.testing.assert_array_equal(data.load(eurosat).images, data.load(demo_folder).images)
    assert server.requests == ["/good.zip"]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("wrong.zip", "does not match the known hash"),
        ("cut.zip", "IncompleteRead|does not match the known hash"),
        ("missing.zip", "404 Client Error"),
    ],
)
def test_bad_answer_is_an_error_that_says_what_to_do_unless_another_mirror_is_good(
    download, server, eurosat, path, message
):
    with pytest.raises(OSError, match=message) as raised:
        download(path, f"second/{path}")
    assert not isinstance(raised.value, ConnectionError)  # no reason for demo tiles
    assert f"/{path}" in str(raised.value)
    assert f"/second/{path}" in str(raised.value)
    assert f"download an archive into `{eurosat}`, or set EUROSAT_ARCHIVE" in str(raised.value)
    assert list(eurosat.iterdir()) == []
    server.requests.clear()
    archive = download(path, "good.zip")
    assert archive.read_bytes() == server.content
    assert server.requests == [f"/{path}", "/good.zip"]
    assert list(eurosat.iterdir()) == [archive]


def test_unreachable_mirror_is_skipped(download, server):
    assert download(unreachable(), "good.zip").read_bytes() == server.content


def test_cut_connection_is_tried_again(download, server):
    assert download("once.zip").read_bytes() == server.content
    assert server.requests == ["/once.zip", "/once.zip"]


@pytest.mark.parametrize("url", [None, "http://no-such-host.invalid/a.zip"])
def test_no_network_is_told_from_a_bad_answer_and_at_once(download, eurosat, url, monkeypatch):
    asked, retrieve = [], finding.pooch.retrieve

    def recorded(address, *arguments, **options):
        asked.append(address)
        return retrieve(address, *arguments, **options)

    monkeypatch.setattr(finding.pooch, "retrieve", recorded)
    with pytest.raises(ConnectionError, match=r"archive:\n.*no connection\n.*\nConnect to the"):
        download(url or unreachable(), unreachable())
    assert len(asked) == len(set(asked)) == 2  # neither is tried again
    assert list(eurosat.iterdir()) == []
    with pytest.raises(OSError, match=r"no connection\n.*404") as raised:
        download(unreachable(), "missing.zip")
    assert not isinstance(raised.value, ConnectionError)


def test_proxy_that_is_down_counts_as_no_network(download, monkeypatch):
    monkeypatch.setenv("http_proxy", unreachable().removesuffix("/a.zip"))
    with pytest.raises(ConnectionError, match=r"somewhere.invalid/a.zip: no connection"):
        download("http://somewhere.invalid/a.zip")


KILLED = """
import sys
from pathlib import Path
from eurosat_helpers.data import finding
finding.MIRRORS = {sys.argv[2]: "0" * 64}
finding.find(Path(sys.argv[1]), ())
"""


def test_killed_download_leaves_no_archive_behind(server, eurosat):
    url = f"http://127.0.0.1:{server.server_port}/stalls.zip"
    command = [sys.executable, "-c", KILLED, str(eurosat), url]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    assert server.halfway.wait(60)
    process.kill()
    assert process.wait(30) in (-signal.SIGKILL if hasattr(signal, "SIGKILL") else 1, 1)
    assert list(eurosat.glob("*.zip")) == []


def test_demo_tiles_without_network_come_with_a_notice_and_leave_no_file(eurosat, capsys):
    tiles = data.load(eurosat)
    assert tiles.demo
    assert tiles.source == "demo tiles"
    assert tiles.counts().to_dict() == dict.fromkeys(data.CLASS_NAMES, 100)
    assert list(eurosat.iterdir()) == []
    notice = capsys.readouterr().out
    assert "DEMO TILES, NOT EuroSAT" in notice
    assert "/EuroSAT.zip: no connection" in notice
    assert "EUROSAT_ARCHIVE" in notice
    with pytest.raises(ConnectionError, match="no connection"):  # none for other classes
        data.load(eurosat, class_names=("Ice", "Sand"))
