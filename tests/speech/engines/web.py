"""A web server of model files that can be told to misbehave."""

import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

#: Longest time that a held answer waits for the test to let it go on.
HOLD_SECONDS = 60


@dataclass(frozen=True, kw_only=True)
class Fault:
    """How one answer goes wrong."""

    status: int = 200
    #: Bytes after which the connection is cut, or held.
    after: int | None = None
    hold: bool = False
    #: Send everything, whatever range was asked for.
    ignores_range: bool = False
    body: bytes | None = None


@dataclass
class Site:
    """What the server has, what it will do wrong, and what it was asked."""

    url: str
    files: dict[str, bytes] = field(default_factory=dict)
    #: For the next answers, in order.
    faults: list[Fault] = field(default_factory=list)
    #: Method, path and range of every request.
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)

    def gets(self, path: str) -> list[str | None]:
        """The ranges that ``path`` was asked for with."""
        return [asked for method, at, asked in self.requests if (method, at) == ("GET", path)]


@contextlib.contextmanager
def serve() -> Iterator[Site]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    site = Site(url=f"http://127.0.0.1:{server.server_port}")
    server.site = site  # type: ignore[attr-defined]  # for the handler
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield site
    finally:
        site.released.set()
        server.shutdown()
        server.server_close()
        thread.join()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def site(self) -> Site:
        return self.server.site  # type: ignore[attr-defined, no-any-return]

    def log_message(self, *_) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        self.site.requests.append((self.command, self.path, self.headers.get("Range")))
        fault = self.site.faults.pop(0) if self.site.faults else Fault()
        body = fault.body or self.site.files.get(self.path.partition("?")[0])
        if fault.status != 200 or body is None:
            self.respond(fault.status if fault.status != 200 else 404, b"")
            return
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        start = int(asked[1]) if asked and not fault.ignores_range else 0
        if start >= len(body) > 0:
            self.respond(416, b"")
        elif start:
            self.respond(206, body[start:], fault, range_=f"{start}-{len(body) - 1}/{len(body)}")
        else:
            self.respond(200, body, fault)

    def respond(self, status: int, body: bytes, fault: Fault = Fault(), *, range_="") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        whole = self.site.files.get(self.path)
        if whole is not None:
            self.send_header("ETag", f'"{hashlib.sha256(whole).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
        if range_:
            self.send_header("Content-Range", f"bytes {range_}")
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(body[: fault.after])
        if fault.hold:
            self.wfile.flush()
            self.site.released.wait(HOLD_SECONDS)
            self.wfile.write(body[fault.after :])
        elif fault.after is not None:
            self.close_connection = True


COMMIT = "0123456789abcdef0123456789abcdef01234567"


def hub_files(repository: str, files: dict[str, bytes], revision: str = COMMIT) -> dict[str, bytes]:
    """What a Hugging Face hub has for one repository: its list of files, and the files."""
    entries = [
        {
            "type": "file",
            "path": name,
            "size": len(content),
            "oid": hashlib.sha1(content, usedforsecurity=False).hexdigest(),
        }
        for name, content in files.items()
    ]
    info = {"id": repository, "sha": revision, "siblings": [{"rfilename": n} for n in files]}
    return {
        f"/api/models/{repository}/revision/main": json.dumps(info).encode(),
        f"/api/models/{repository}/tree/{revision}": json.dumps(entries).encode(),
        **{f"/{repository}/resolve/{revision}/{n}": content for n, content in files.items()},
    }
