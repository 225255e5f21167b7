"""A Hugging Face Hub on loopback: enough of its file protocol for `huggingface_hub` to download from it.

It answers HEAD and GET on `/{repo}/resolve/{revision}/{file}` as the real one does for large files: the commit, the
sha256 as linked ETag, the size, byte ranges, and refusals told apart by `X-Error-Code`. It can break off a download,
and it remembers every request.
"""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any
from urllib.parse import unquote

import pytest
from huggingface_hub import constants


@dataclass(frozen=True)
class Request:
    """A request, and how many bytes of a file it was answered with."""

    method: str
    path: str
    range: str
    authorization: str
    n_sent: int = 0


@dataclass
class Hub:
    """What the server holds, how it is to misbehave, and what it was asked.

    Attributes:
        url: the value for `HF_ENDPOINT`.
        repos: repository -> revision -> the commit it stands for.
        files: (commit, file name) -> contents.
        gated: repositories that are shown to nobody without a token.
        token: the one that is valid; any other is refused, even for public files.
        down: answer everything with 503.
        closed: answer everything with 403, and say no more.
        xet: offer downloads by the Xet protocol, and then refuse its token.
        cut_after: break the next download off after so many bytes, once.
        claimed_size: the size to announce instead of the true one.
        asked: set by the first download.
        answers: clear it, and downloads get no answer.
        requests: in the order of their arrival.
    """

    url: str = ""
    repos: dict[str, dict[str, str]] = field(default_factory=dict)
    files: dict[tuple[str, str], bytes] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    token: str = "hf_valid"  # noqa: S105  (opens nothing)
    down: bool = False
    closed: bool = False
    xet: bool = False
    cut_after: int | None = None
    claimed_size: int | None = None
    asked: Event = field(default_factory=Event)
    answers: Event = field(default_factory=Event)
    requests: list[Request] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.answers.set()

    def publish(self, repo: str, filename: str, contents: bytes, *, revision: str = "main") -> str:
        """Put a file at the head of a revision; returns its commit."""
        commit = hashlib.sha1(repo.encode() + contents, usedforsecurity=False).hexdigest()
        self.repos.setdefault(repo, {}).update({revision: commit, commit: commit})
        self.files[commit, filename] = contents
        return commit

    @property
    def downloads(self) -> list[Request]:
        """The GET requests so far."""
        return [request for request in self.requests if request.method == "GET"]


@contextmanager
def serve() -> Iterator[Hub]:
    """Run a hub on a free port of 127.0.0.1; once the block has ended, nothing answers there."""
    hub = Hub()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, hub)) as server:
        server.daemon_threads = False  # closing the server waits for the answers still under way
        hub.url = f"http://127.0.0.1:{server.server_port}"
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, name="hub")
        thread.start()
        try:
            yield hub
        finally:
            hub.answers.set()
            server.shutdown()
            thread.join()


def use_hub(monkeypatch: pytest.MonkeyPatch, url: str, cache: Path) -> None:
    """Point this process and its subprocesses at a hub, without a token, and at a cache folder."""
    for name, value in {"HF_ENDPOINT": url, "HF_HUB_CACHE": str(cache), "HF_XET_CACHE": f"{cache}-xet"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    # These the library has read from the environment already, when it was imported.
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", f"{cache}-token")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)


class _Handler(BaseHTTPRequestHandler):
    """One request a connection, so that no idle connection outlives the server."""

    def __init__(self, hub: Hub, *args: Any) -> None:
        self.hub = hub
        super().__init__(*args)

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, *args: object) -> None:
        """Stay silent: `Hub.requests` is the log."""

    def _answer(self) -> None:
        repo, _, rest = unquote(self.path).lstrip("/").partition("/resolve/")
        revision, _, filename = rest.partition("/")
        commit = self.hub.repos.get(repo, {}).get(revision, "")
        authorization = self.headers.get("Authorization")
        if self.hub.down:
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE)
        elif self.hub.closed:
            self._refuse(HTTPStatus.FORBIDDEN)
        elif self.path == "/xet/token":
            self._send_xet_token()
        elif self.path.startswith("/xet/"):
            self._refuse(HTTPStatus.UNAUTHORIZED)
        elif authorization not in {None, f"Bearer {self.hub.token}"}:
            self._refuse(HTTPStatus.UNAUTHORIZED, message="Invalid credentials in Authorization header")
        elif repo not in self.hub.repos:
            self._refuse(HTTPStatus.UNAUTHORIZED, "RepoNotFound")
        elif repo in self.hub.gated and authorization is None:
            self._refuse(HTTPStatus.UNAUTHORIZED, "GatedRepo")
        elif not commit:
            self._refuse(HTTPStatus.NOT_FOUND, "RevisionNotFound")
        elif (commit, filename) not in self.hub.files:
            self._refuse(HTTPStatus.NOT_FOUND, "EntryNotFound")
        else:
            self._send_file(commit, self.hub.files[commit, filename])

    def _send_xet_token(self) -> None:
        self._record(0)
        self._send_headers(
            HTTPStatus.OK,
            {
                "X-Xet-Cas-Url": f"{self.hub.url}/xet",
                "X-Xet-Access-Token": "opens nothing",
                "X-Xet-Token-Expiration": "9999999999",
                "Content-Length": "0",
            },
        )

    def _refuse(self, status: HTTPStatus, code: str = "", message: str = "") -> None:
        self._record(0)
        reasons = {"X-Error-Code": code, "X-Error-Message": message}
        self._send_headers(status, {name: value for name, value in reasons.items() if value} | {"Content-Length": "0"})

    def _send_file(self, commit: str, contents: bytes) -> None:
        first, cut = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-")), None
        if self.command == "GET":
            self.hub.asked.set()
            self.hub.answers.wait()
            cut, self.hub.cut_after = self.hub.cut_after, None
        body = contents[first:cut] if self.command == "GET" else b""
        self._record(len(body))
        digest, size = hashlib.sha256(contents).hexdigest(), len(contents)
        headers = {
            "X-Repo-Commit": commit,
            "ETag": f'"{digest}"',
            "X-Linked-ETag": f'"{digest}"',
            "X-Linked-Size": str(self.hub.claimed_size or size),
            "Accept-Ranges": "bytes",
            "Content-Length": str(size - first),
        }
        if first:
            headers["Content-Range"] = f"bytes {first}-{size - 1}/{size}"
        if self.hub.xet:
            headers |= {"X-Xet-Hash": digest, "X-Xet-Refresh-Route": f"{self.hub.url}/xet/token"}
        self._send_headers(HTTPStatus.PARTIAL_CONTENT if first else HTTPStatus.OK, headers)
        self.wfile.write(body)
        if cut is not None:
            self.connection.shutdown(socket.SHUT_RDWR)

    def _send_headers(self, status: HTTPStatus, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _record(self, n_sent: int) -> None:
        range_, authorization = self.headers.get("Range", ""), self.headers.get("Authorization", "")
        self.hub.requests.append(Request(self.command, self.path, range_, authorization, n_sent))
