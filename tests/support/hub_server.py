"""A server on this machine that speaks what `huggingface_hub` asks of the hub, and plain file requests.

Repositories are folders of files in memory. Faults are put in on purpose: a connection cut after some bytes, a hash
that is not the file's, a repository that is gated.
"""

from __future__ import annotations

import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

LARGE = 1000  # bytes, from which a file is an LFS file with a SHA-256
WEIGHTS, SAM = bytes(range(256)) * 400, b"sam" * 5000  # two files that tests put there


@dataclass
class Hub:
    """repositories: name -> path -> bytes; plain: path -> bytes; asked: (method, path, Range header) of every request.

    cut: path's last name -> bytes after which the connection is cut, as often as it stands in the list; wrong: names
    whose SHA-256 is told wrongly; larger: names whose size is told ten bytes too large; gated: repositories that want a
    token; unsized: plain files whose size HEAD does not tell.
    """

    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    plain: dict[str, bytes] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    wrong: set[str] = field(default_factory=set)
    larger: set[str] = field(default_factory=set)
    unsized: set[str] = field(default_factory=set)
    cut: dict[str, list[int]] = field(default_factory=dict)
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)
    token: str = "hf_right"
    url: str = ""

    def start(self) -> None:
        hub = self

        class Handler(_Handler):
            state = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def bodies(self, name: str) -> list[str | None]:
        """The Range headers of the GET requests for a file, in their order."""
        return [span for method, path, span in self.asked if method == "GET" and path.rpartition("/")[2] == name]


class _Handler(BaseHTTPRequestHandler):
    state: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Nothing: pytest's output stays clean."""

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        path = unquote(urlsplit(self.path).path).lstrip("/")
        self.state.asked.append((self.command, path, self.headers.get("Range")))
        if path.startswith("api/models/"):
            self._info(path.removeprefix("api/models/"))
        elif "/resolve/" in path:
            self._resolve(path, body)
        elif path in self.state.plain:
            self._send(path, self.state.plain[path], body)
        else:
            self._fail(404, "")

    def _info(self, path: str) -> None:
        """api/models/OWNER/NAME[/revision/REVISION]: the list of files with sizes and hashes."""
        repository = path.partition("/revision/")[0]
        if repository not in self.state.repositories:
            return self._fail(401, "RepoNotFound")
        files = self.state.repositories[repository]
        data = json.dumps({
            "id": repository, "sha": "0" * 40, "private": False, "tags": [], "downloads": 0, "likes": 0,
            "siblings": [self._sibling(name, content) for name, content in files.items()],
        }).encode()  # fmt: skip
        return self._reply(200, data, {"Content-Type": "application/json"})

    def _sibling(self, name: str, content: bytes) -> dict[str, Any]:
        blob = hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()
        size = len(content) + 10 * (name in self.state.larger)
        entry: dict[str, Any] = {"rfilename": name, "size": size, "blobId": blob}
        if len(content) >= LARGE:
            sha256 = "0" * 64 if name in self.state.wrong else hashlib.sha256(content).hexdigest()
            entry["lfs"] = {"sha256": sha256, "size": size, "pointerSize": 134}
        return entry

    def _resolve(self, path: str, body: bool) -> None:
        repository, _, rest = path.partition("/resolve/")
        files = self.state.repositories.get(repository, {})
        name = next((name for name in files if rest.endswith(f"/{name}")), None)
        if repository in self.state.gated and self.headers.get("Authorization") != f"Bearer {self.state.token}":
            return self._fail(401, "GatedRepo")
        if name is None:
            return self._fail(404, "EntryNotFound")
        return self._send(path, files[name], body)

    def _send(self, path: str, content: bytes, body: bool) -> None:
        start = 0
        span = self.headers.get("Range")
        if span:
            start = int(span.removeprefix("bytes=").partition("-")[0])
        headers = {"Accept-Ranges": "bytes"}
        if span:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        cuts = self.state.cut.get(path.rpartition("/")[2], [])
        stop = cuts.pop(0) if body and cuts else None
        self._reply(206 if span else 200, content[start:], headers, send=body, stop=stop)

    def _fail(self, status: int, code: str) -> None:
        self._reply(status, b"", {"X-Error-Code": code, "X-Error-Message": code} if code else {})

    def _reply(
        self, status: int, data: bytes, headers: dict[str, str], send: bool = True, stop: int | None = None
    ) -> None:
        self.send_response(status)
        silent = self.command == "HEAD" and self.path.lstrip("/") in self.state.unsized
        for name, value in {**headers, **({} if silent else {"Content-Length": str(len(data))})}.items():
            self.send_header(name, value)
        self.end_headers()
        if send and self.command != "HEAD":
            self.wfile.write(data[:stop])
        if stop is not None:
            self.close_connection = True


def only_this_machine(monkeypatch) -> None:
    """Connections to other machines are an OSError until the test ends, before any name is asked for."""
    import socket

    connect = socket.socket.connect

    def checked(host) -> None:
        if isinstance(host, str) and host not in ("127.0.0.1", "localhost", "::1"):
            raise OSError(f"a test asked for another machine: {host}")

    def asked(host, *arguments, find=socket.getaddrinfo, **options):
        checked(host)
        return find(host, *arguments, **options)

    def connected(self, address):
        checked(address[0] if isinstance(address, tuple) else None)
        return connect(self, address)

    monkeypatch.setattr(socket, "getaddrinfo", asked)
    monkeypatch.setattr(socket.socket, "connect", connected)
