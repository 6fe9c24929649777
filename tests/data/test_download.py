"""The download against a server on this machine that behaves, and that misbehaves."""

from __future__ import annotations

import hashlib
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from eurosat_helpers.data import download

CONTENT = b"an archive of tiles" * 20_000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Serves the archive under paths that say what goes wrong."""

    def do_GET(self) -> None:
        """Answer, well or badly."""
        self.server.requests.append(self.path)
        if "missing" in self.path:
            self.send_error(404)
            return
        cut = "cut" in self.path or (
            "once" in self.path and self.server.requests.count(self.path) == 1
        )
        body = CONTENT.replace(b"tiles", b"tales") if "wrong" in self.path else CONTENT
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if cut or "stalls" in self.path else body)
        self.wfile.flush()
        if "stalls" in self.path:
            self.server.halfway.set()
            self.server.stopped.wait(30)

    def log_message(self, *arguments: object) -> None:
        """Keep quiet."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadingHTTPServer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.requests, server.halfway, server.stopped = [], threading.Event(), threading.Event()
        threading.Thread(target=server.serve_forever, args=(0.02,)).start()
        yield server
        server.stopped.set()
        server.shutdown()


def mirrors(server: ThreadingHTTPServer, *paths: str) -> list[download.Mirror]:
    base = f"http://127.0.0.1:{server.server_port}"
    return [download.Mirror(f"{base}/{path}", SHA256) for path in paths]


def unreachable() -> download.Mirror:
    """A port that was free a moment ago: nobody listens there."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return download.Mirror(f"http://127.0.0.1:{probe.getsockname()[1]}/a.zip", SHA256)


def test_published_archives_have_https_addresses_and_sha256_sums():
    for url, sha256 in download.MIRRORS:
        assert url.startswith("https://")
        assert url.endswith(".zip")
        assert len(bytes.fromhex(sha256)) == 32


def test_right_file_arrives_whole_with_a_progress_bar(server, tmp_path, capfd):
    archive = download.fetch(tmp_path, mirrors(server, "good.zip"))
    assert archive == tmp_path / "good.zip"
    assert archive.read_bytes() == CONTENT
    assert list(tmp_path.iterdir()) == [archive]
    output = capfd.readouterr()
    assert "100%" in output.err
    assert output.out == ""


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("wrong.zip", "does not match the known hash"),
        ("cut.zip", "IncompleteRead|does not match the known hash"),
        ("missing.zip", "404 Client Error"),
    ],
)
def test_bad_answer_of_every_mirror_is_an_error_that_says_what_to_do(
    server, tmp_path, path, message
):
    with pytest.raises(OSError, match=message) as raised:
        download.fetch(tmp_path, mirrors(server, path, f"second/{path}"))
    assert not isinstance(raised.value, download.NoNetworkError)
    assert f"/{path}" in str(raised.value)
    assert f"/second/{path}" in str(raised.value)
    assert "EUROSAT_ARCHIVE" in str(raised.value)
    assert f"by hand into `{tmp_path}`" in str(raised.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", ["wrong.zip", "cut.zip", "missing.zip"])
def test_next_mirror_is_asked_when_one_fails(server, tmp_path, path):
    archive = download.fetch(tmp_path, mirrors(server, path, "good.zip"))
    assert archive.read_bytes() == CONTENT
    assert server.requests == [f"/{path}", "/good.zip"]
    assert list(tmp_path.iterdir()) == [archive]


def test_unreachable_mirror_is_passed_over(server, tmp_path):
    archive = download.fetch(tmp_path, [unreachable(), *mirrors(server, "good.zip")])
    assert archive.read_bytes() == CONTENT


def test_cut_connection_is_tried_again(server, tmp_path):
    archive = download.fetch(tmp_path, mirrors(server, "once.zip"))
    assert archive.read_bytes() == CONTENT
    assert server.requests == ["/once.zip", "/once.zip"]


@pytest.mark.parametrize("url", [None, "http://no-such-host.invalid/a.zip"])
def test_no_network_is_told_from_a_bad_answer_and_at_once(tmp_path, url):
    mirror = download.Mirror(url, SHA256) if url else unreachable()
    started = time.monotonic()
    with pytest.raises(download.NoNetworkError, match="No connection to"):
        download.fetch(tmp_path, [mirror, unreachable()])
    assert time.monotonic() - started < 20
    assert list(tmp_path.iterdir()) == []


def test_proxy_that_is_down_counts_as_no_network(tmp_path, monkeypatch):
    monkeypatch.setenv("http_proxy", unreachable().url.removesuffix("/a.zip"))
    with pytest.raises(download.NoNetworkError, match=r"No connection to somewhere.invalid"):
        download.fetch(tmp_path, [download.Mirror("http://somewhere.invalid/a.zip", SHA256)])


def test_one_bad_answer_among_unreachable_mirrors_is_not_taken_for_no_network(server, tmp_path):
    with pytest.raises(OSError, match=r"no connection\n.*404") as raised:
        download.fetch(tmp_path, [unreachable(), *mirrors(server, "missing.zip")])
    assert not isinstance(raised.value, download.NoNetworkError)


def test_killed_download_leaves_no_archive_behind(server, tmp_path):
    code = (
        "import sys; from eurosat_helpers.data import download; "
        "download.fetch(sys.argv[1], [download.Mirror(sys.argv[2], sys.argv[3])])"
    )
    url = mirrors(server, "stalls.zip")[0].url
    process = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path, url, SHA256],
        cwd=Path(__file__).parent.parent,
        stderr=subprocess.DEVNULL,
    )
    assert server.halfway.wait(30)
    process.kill()
    assert process.wait(30) in (-signal.SIGKILL, 1)
    assert list(tmp_path.glob("*.zip")) == []
