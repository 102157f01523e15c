"""A hub on loopback: what huggingface.co says to `model_info` and `resolve`, with scripted faults.

Large files are redirected to another path, as to a CDN, with ranges and entity tags. `faults` are
taken from the front, one per request for that file's bytes.
"""

import json
import threading
from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha1, sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong with one answer: `cut` or `stall` after so many bytes, `flip` that byte of
    the file, answer `status`, ignore the range (`whole`), or answer `another` range."""

    cut: int | None = None
    stall: int | None = None
    flip: int | None = None
    status: int | None = None
    whole: bool = False
    another: bool = False


@dataclass
class HubServer:
    """One repository, `ORG/NAME`. Everything may be changed while it runs."""

    directory: Path
    name: str = "org/model"
    card: dict[str, str] = field(default_factory=lambda: {"license": "apache-2.0"})
    commit: str = "c" * 40
    token: str = ""  # needed, if given
    gated: bool = False
    plain: set[str] = field(default_factory=set)  # weights kept in git: no hash is stated
    siblings: list[str] = field(default_factory=list)  # beyond what is there
    faults: dict[str, deque[Fault]] = field(default_factory=lambda: defaultdict(deque))
    asked: list[tuple[str, str]] = field(default_factory=list)  # file, range
    sent: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    port: int = 0
    over: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def is_large(self, file: str) -> bool:
        return file.endswith((".safetensors", ".bin")) and file not in self.plain

    def hash(self, file: str) -> str:
        return sha256((self.directory / file).read_bytes()).hexdigest()

    def info(self) -> dict[str, Any]:
        files = [path.name for path in sorted(self.directory.iterdir()) if path.is_file()]
        return {
            "id": self.name,
            "sha": self.commit,
            "gated": "manual" if self.gated else False,
            "cardData": self.card,
            "siblings": [self._sibling(file) for file in files]
            + [{"rfilename": name, "size": 1} for name in self.siblings],
        }

    def _sibling(self, file: str) -> dict[str, Any]:
        data = (self.directory / file).read_bytes()
        told: dict[str, Any] = {"rfilename": file, "size": len(data)}
        told["blobId"] = sha1(data).hexdigest()
        if self.is_large(file):
            told["lfs"] = {"sha256": self.hash(file), "size": len(data), "pointerSize": 134}
        return told


@contextmanager
def hub_server(directory: Path, **settings: Any) -> Iterator[HubServer]:
    hub = HubServer(directory, **settings)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield hub
    finally:
        hub.over.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        hub, path = self.hub, unquote(urlsplit(self.path).path)
        authorized = not hub.token or self.headers.get("authorization") == f"Bearer {hub.token}"
        if path.startswith("/cdn/"):
            return self._large(path.removeprefix("/cdn/"))
        if hub.gated and not authorized and "/resolve/" in path:
            return self._error(401, "GatedRepo")
        if not hub.gated and not authorized:
            return self._error(401, "RepoNotFound")
        if path.startswith("/api/models/"):
            return self._info(path.removeprefix("/api/models/"))
        name, _, rest = path[1:].partition("/resolve/")
        revision, _, file = rest.partition("/")
        if name != hub.name:
            return self._error(401, "RepoNotFound")
        if revision not in ("main", hub.commit):
            return self._error(404, "RevisionNotFound")
        if not (hub.directory / file).is_file():
            return self._error(404, "EntryNotFound")
        if hub.is_large(file):
            size = (hub.directory / file).stat().st_size
            linked = {"x_linked_etag": f'"{hub.hash(file)}"', "x_linked_size": str(size)}
            return self._answer(302, b"", location=f"{hub.url}/cdn/{file}", **linked)
        return self._large(file)

    do_HEAD = do_GET

    def _info(self, path: str) -> None:
        name, _, revision = path.partition("/revision/")
        if name != self.hub.name:  # the hub tells those it knows, and not others
            known = self.headers.get("authorization")
            return self._error(404 if known else 401, "RepoNotFound")
        if revision not in ("", "main", self.hub.commit):
            return self._error(404, "RevisionNotFound")
        return self._answer(200, json.dumps(self.hub.info()).encode())

    def _large(self, file: str) -> None:
        hub = self.hub
        fault = hub.faults[file].popleft() if hub.faults[file] else Fault()
        asked = self.headers.get("range", "").removeprefix("bytes=")
        hub.asked.append((file, asked))
        data = bytearray((hub.directory / file).read_bytes())
        if fault.status is not None:
            self._answer(fault.status, b"", retry_after="0")
            return
        if fault.flip is not None:
            data[fault.flip] ^= 1
        etag = f'"{hub.hash(file)}"'
        if asked and self.headers.get("if-range", etag) == etag and not fault.whole:
            low, high = map(int, asked.split("-"))
            if low >= len(data):
                self._answer(416, b"", content_range=f"bytes */{len(data)}")
                return
            body = bytes(data[low : high + 1])
            first = low + fault.another
            placed = f"bytes {first}-{low + len(body) - 1}/{len(data)}"
            self._head(206, len(body), etag=etag, content_range=placed)
        else:
            body = bytes(data)
            self._head(200, len(body), etag=etag)
        self._send(file, body, fault)

    def _send(self, file: str, body: bytes, fault: Fault) -> None:
        limit = min(x for x in (fault.cut, fault.stall, len(body)) if x is not None)
        if self.command == "HEAD":
            return
        self.wfile.write(body[:limit])
        self.wfile.flush()
        self.hub.sent[file] += limit
        if limit < len(body):
            if fault.stall is not None:
                self.hub.over.wait(10)
            self.close_connection = True
            self.connection.close()

    def _error(self, status: int, code: str) -> None:
        self._answer(status, b"{}", x_error_code=code)

    def _answer(self, status: int, body: bytes, **headers: str) -> None:
        self._head(status, len(body), **headers)
        self.wfile.write(body)

    def _head(self, status: int, n_bytes: int, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(n_bytes))
        self.send_header("X-Repo-Commit", self.hub.commit)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
