"""Jobs whose recordings are elsewhere, a server there that breaks as it is told, and fetchers."""

import re
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from sqlalchemy.orm import Session, sessionmaker

from fetching.attempts import Rules
from fetching.fetcher import Fetcher
from jobs.uploads import PART_DIR, UploadStore
from models import TranscriptionJob
from outgoing import Limits, Outgoing
from tests.jobs.conftest import engine, make_job, owner_id, sessions
from tests.outgoing.conftest import serve
from tests.outgoing.servers import LOOPBACK, PATIENT, Caller, Serve, Server
from tests.stack.conftest import wait_for

__all__ = ["engine", "make_job", "owner_id", "serve", "sessions"]

MEGABYTE = 2**20
#: So large that it comes in many pieces.
RECORDING = bytes(range(256)) * (MEGABYTE // 256)
RULES = Rules(enabled=True, longest_seconds=3600, retry_seconds=0.01, key_bytes=0)

MakeSource = Callable[..., TranscriptionJob]
Fetch = Callable[..., TranscriptionJob]


@dataclass
class Place:
    """A server that gives a recording out."""

    body: bytes = RECORDING
    etag: str | None = '"1"'
    #: Whether it knows ranges.
    ranges: bool = True
    #: What it answers first, instead.
    statuses: list[int] = field(default_factory=list)
    headers: str = ""
    #: Where in the recording its next answers break off.
    cuts: list[int] = field(default_factory=list)
    #: Called when an answer broke off.
    after_cut: Callable[["Place"], object] = lambda _: None
    #: Longest answer to who asks for a range.
    piece_bytes: int = 2**30
    #: Whether the second half of an answer comes byte by byte, and takes hours.
    drips: bool = False
    #: From where to where each answer went.
    sent: list[tuple[int, int]] = field(default_factory=list)
    server: Server | None = None

    @property
    def url(self) -> str:
        assert self.server is not None
        return f"http://127.0.0.1:{self.server.port}/talks/monday.wav?signature=hidden"

    @property
    def requests(self) -> list[str]:
        assert self.server is not None
        return [request.decode() for request in self.server.requests]

    def answer(self, caller: Caller) -> None:
        if self.statuses:
            status = self.statuses.pop(0)
            head = f"HTTP/1.1 {status} Whatever\r\n{self.headers}Content-Length: 0\r\n\r\n"
            caller.send(head.encode())
            return
        start = self._start(self.requests[-1])
        size = len(self.body)
        if start >= size > 0:
            caller.send(
                b"HTTP/1.1 416 Whatever\r\nContent-Range: bytes */%d\r\n"
                b"Content-Length: 0\r\n\r\n" % size
            )
            return
        whole = min(size, start + self.piece_bytes) if start else size
        lines = ["HTTP/1.1 206 Partial Content" if start else "HTTP/1.1 200 OK"]
        if start:
            lines.append(f"Content-Range: bytes {start}-{whole - 1}/{size}")
        if self.etag is not None:
            lines.append(f"ETag: {self.etag}")
        lines.append(f"Content-Length: {whole - start}")
        end = self.cuts.pop(0) if self.cuts else whole
        self.sent.append((start, end))
        begun = "\r\n".join([*lines, "", ""]).encode()
        if self.drips:
            half = (start + end) // 2
            caller.send(begun + self.body[start:half])
            for number in range(half, end):
                caller.pause(0.05)
                caller.send(self.body[number : number + 1])
            return
        caller.send(begun + self.body[start:end])
        if end < whole:
            self.after_cut(self)

    def _start(self, request: str) -> int:
        asked = re.search(r"range: bytes=([0-9]+)-", request)
        if asked is None or not self.ranges:
            return 0
        condition = re.search(r"if-range: (\S+)", request)
        if condition is not None and condition[1] != self.etag:
            return 0
        return int(asked[1])


@pytest.fixture
def place(serve: Serve) -> Place:
    made = Place()
    made.server = serve(made.answer)
    return made


@pytest.fixture
def uploads(tmp_path: Path) -> UploadStore:
    store = UploadStore(tmp_path / "uploads", max_bytes=4 * MEGABYTE, min_free_bytes=0)
    store.prepare()
    return store


@pytest.fixture
def make_source(make_job: MakeSource) -> MakeSource:
    def make(url: str, **values: object) -> TranscriptionJob:
        empty: dict[str, object] = {"upload_bytes": 0, "upload_sha256": b""}
        return make_job(**{**empty, "source_url": url, **values})

    return make


@pytest.fixture
def make_fetcher(
    sessions: sessionmaker[Session], uploads: UploadStore
) -> Iterator[Callable[..., Fetcher]]:
    made = []

    def make(*ports: int, limits: Limits = PATIENT, **rules: object) -> Fetcher:
        outgoing = Outgoing(allow=LOOPBACK, allow_http=True, ports=ports, limits=limits)
        fetcher = Fetcher(sessions, outgoing, uploads, replace(RULES, **rules))  # type: ignore[arg-type]
        made.append(fetcher)
        return fetcher

    yield make
    for fetcher in made:
        fetcher.close(60)


@pytest.fixture
def fetch(
    make_fetcher: Callable[..., Fetcher],
    make_source: MakeSource,
    read: Callable[[uuid.UUID], TranscriptionJob],
) -> Fetch:
    """Submit a job of a place's recording, and fetch until that has ended."""

    def run(place: Place, job: TranscriptionJob | None = None, **rules: object) -> TranscriptionJob:
        assert place.server is not None
        job_id = (job or make_source(place.url)).id
        fetcher = make_fetcher(place.server.port, **rules)

        def ended() -> TranscriptionJob | None:
            fetcher.run()
            found = read(job_id)
            return None if found.upload_awaited and found.status == "pending" else found

        found: TranscriptionJob = wait_for(ended, "it was fetched, or given up")
        fetcher.close(60)
        return found

    return run


@pytest.fixture
def read(sessions: sessionmaker[Session]) -> Callable[[uuid.UUID], TranscriptionJob]:
    def look(job_id: uuid.UUID) -> TranscriptionJob:
        with sessions() as session:
            return session.get_one(TranscriptionJob, job_id)

    return look


def parts_of(uploads: UploadStore) -> list[Path]:
    return list((uploads.root / PART_DIR).iterdir())
