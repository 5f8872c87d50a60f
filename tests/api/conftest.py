"""The web process on real servers: in this process for most tests, behind a socket for others."""

import contextlib
import socket
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session, sessionmaker
from starlette.testclient import TestClient
from uuid_utils.compat import uuid7

import auth
import keys
from app import create_app
from app import serving as options_of
from config import Settings
from jobs import batches, lifecycle, resumable
from jobs.batches import NewBatch
from jobs.lifecycle import Backoff, Failure, NewJob, Outcome
from jobs.parts import Part, Parts
from jobs.uploads import UploadStore
from keys import Grant
from models import Scope, TranscriptionJob
from speech.transcript import ResumeState, Segment, Transcript, Window
from tests.api import spills
from tests.api.spills import Watcher
from webhooks import deliveries, endpoints
from webhooks.endpoints import NewWebhook

#: A key from the setting, as the first version's users have them.
ADMIN_KEY = "an-operators-own-words"
#: Settings of an app that is never started.
NOWHERE: dict[str, Any] = {
    "_env_file": None,
    "database_url": "postgresql://127.0.0.1:1/nowhere",
    "redis_url": "redis://127.0.0.1:1/0",
    "whisper_model_size": "tiny",
}
SEGMENT = Segment(
    text=" one two",
    start_seconds=0.0,
    end_seconds=1.5,
    avg_logprob=-0.1,
    no_speech_prob=0.01,
    compression_ratio=0.8,
    temperature=0.0,
)
TRANSCRIPT = Transcript(
    language="en", language_probability=0.9, audio_seconds=30.0, segments=(SEGMENT,)
)
WINDOW = Window(
    start_seconds=0.0,
    end_seconds=28.0,
    segments=(SEGMENT,),
    resume=ResumeState(next_frame=2800, language="en", language_probability=0.8),
)
FAILURE = Failure(code="engine_error", message="It broke.", traceback="Traceback: secret")
NO_PAUSE = Backoff(base_seconds=0.0, cap_seconds=0.0)

MakeKey = Callable[..., dict[str, str]]


@pytest.fixture(autouse=True)
def log_watcher() -> Iterator[Watcher]:
    """Fails the test whose log holds a key, a file name or a word of a transcript."""
    with spills.watched() as watcher:
        yield watcher
    spills.judge(watcher)


@pytest.fixture
def engine(emptied_engine: Engine) -> Engine:
    return emptied_engine


@pytest.fixture
def sessions(engine: Engine) -> sessionmaker[Session]:
    return sessionmaker(engine, expire_on_commit=False)


@pytest.fixture
def make_settings(engine: Engine, redis_url: str, tmp_path: Path) -> Callable[..., Settings]:
    def make(**values: Any) -> Settings:
        given: dict[str, Any] = {
            "_env_file": None,
            "database_url": engine.url.render_as_string(hide_password=False),
            "redis_url": redis_url,
            "state_dir": tmp_path / "state",
            "api_keys": ADMIN_KEY,
            "min_free_disk_mb": 0,
            "max_upload_size_mb": 1,
            "whisper_model_size": "tiny",
            # no test depends on how busy the machine is
            "publish_budget_ms": 10_000,
            # and none has a worker
            "openai_wait_seconds": 0.0,
            "asr_wait_seconds": 0.0,
        }
        return Settings(**{**given, **values})

    return make


@pytest.fixture
def settings(make_settings: Callable[..., Settings]) -> Settings:
    return make_settings()


@pytest.fixture
def client(settings: Settings) -> Iterator[TestClient]:
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def make_key(sessions: sessionmaker[Session]) -> MakeKey:
    """Make a key; returns the headers that carry it."""

    def make(owner: str = "alice", **values: Any) -> dict[str, str]:
        with sessions.begin() as session:
            key, _ = keys.create(session, Grant(owner=owner, **values))
        return {"X-API-Key": key}

    return make


@pytest.fixture
def alice(make_key: MakeKey) -> dict[str, str]:
    return make_key("alice")


@pytest.fixture
def bob(make_key: MakeKey) -> dict[str, str]:
    return make_key("bob")


@pytest.fixture
def admin(make_key: MakeKey) -> dict[str, str]:
    return make_key("root", scopes=tuple(Scope))


@dataclass
class Jobs:
    """Makes jobs in any status by the verbs that lead there."""

    sessions: sessionmaker[Session]
    settings: Settings

    def submit(self, owner: str = "alice", **values: Any) -> uuid.UUID:
        with self.sessions.begin() as session:
            new = {
                "id": uuid7(),
                "owner_id": auth.owner_id(session, owner),
                "engine_name": "openai-whisper",
                "model_name": "tiny",
                "client_filename": "speech.mp3",
                "upload_bytes": 5,
                "upload_sha256": b"\1" * 32,
                "max_attempts": 2,
                "audio_seconds": 30.0,
            }
            return lifecycle.submit(session, NewJob(**{**new, **values})).id

    def claim(self, job_id: uuid.UUID) -> lifecycle.Lease:
        with self.sessions.begin() as session:
            claimed = lifecycle.claim(session, job_id, "worker:1")
        assert claimed is not None
        return claimed.lease

    def processing(self, owner: str = "alice", **values: Any) -> uuid.UUID:
        job_id = self.submit(owner, **values)
        self.claim(job_id)
        return job_id

    def transcribing(self, owner: str = "alice", **values: Any) -> uuid.UUID:
        job_id = self.submit(owner, **values)
        lease = self.claim(job_id)
        with self.sessions.begin() as session:
            lifecycle.save_window(session, lease, 0, WINDOW, progress=0.5, model_used="m")
        return job_id

    def completed(
        self, owner: str = "alice", transcript: Transcript = TRANSCRIPT, **values: Any
    ) -> uuid.UUID:
        return self.finish(self.submit(owner, **values), transcript)

    def finish(self, job_id: uuid.UUID | str, transcript: Transcript = TRANSCRIPT) -> uuid.UUID:
        job_id = uuid.UUID(str(job_id))
        lease = self.claim(job_id)
        outcome = Outcome(model_used="openai-whisper/tiny/cpu/float32")
        with self.sessions.begin() as session:
            lifecycle.complete(session, lease, transcript, outcome)
        return job_id

    def failed(self, owner: str = "alice", failure: Failure = FAILURE, **values: Any) -> uuid.UUID:
        job_id = self.submit(owner, **values)
        self.fail(self.claim(job_id), failure)
        return job_id

    def fail(self, lease: lifecycle.Lease, failure: Failure = FAILURE) -> None:
        with self.sessions.begin() as session:
            lifecycle.fail(session, lease, failure)

    def exhausted(self, owner: str = "alice") -> uuid.UUID:
        """A job whose two attempts failed."""
        job_id = self.submit(owner)
        for _ in range(2):
            lease = self.claim(job_id)
            with self.sessions.begin() as session:
                lifecycle.retry(session, lease, FAILURE, NO_PAUSE)
        return job_id

    def row(self, job_id: uuid.UUID | str) -> TranscriptionJob | None:
        with self.sessions.begin() as session:
            return session.get(TranscriptionJob, uuid.UUID(str(job_id)))

    def count(self) -> int:
        with self.sessions.begin() as session:
            return session.query(TranscriptionJob).count()

    def keep(self, job_id: uuid.UUID, data: bytes) -> Path:
        """Store an upload for a job."""
        path = self.settings.uploads_path / job_id.hex[-2:] / str(job_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return path


@pytest.fixture
def jobs(sessions: sessionmaker[Session], settings: Settings) -> Jobs:
    return Jobs(sessions, settings)


@pytest.fixture
def finishing(jobs: Jobs) -> Callable[..., threading.Thread]:
    """Ends the next job as a worker does, once somebody has submitted it."""

    def start(end: Callable[[uuid.UUID], Any] = jobs.finish) -> threading.Thread:
        def run() -> None:
            def waiting() -> uuid.UUID | None:
                with jobs.sessions() as session:
                    query = select(TranscriptionJob.id).where(TranscriptionJob.status == "pending")
                    return session.scalar(query)

            end(poll(waiting))

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    return start


@dataclass(frozen=True)
class OneWebhook:
    """Somebody's webhook, and one delivery of it."""

    webhook_id: uuid.UUID
    delivery_id: uuid.UUID


@pytest.fixture
def make_webhook(sessions: sessionmaker[Session]) -> Callable[..., OneWebhook]:
    def make(owner: str = "alice") -> OneWebhook:
        with sessions.begin() as session:
            wanted = NewWebhook(url="https://receiver.test/")
            webhook = endpoints.create(session, auth.owner_id(session, owner), wanted)
            delivery = deliveries.test(session, webhook)
            return OneWebhook(webhook.id, delivery.id)

    return make


@pytest.fixture
def make_batch(sessions: sessionmaker[Session]) -> Callable[..., uuid.UUID]:
    """Make a batch of an owner, that takes files, with some of their jobs."""

    def make(owner: str, *job_ids: uuid.UUID) -> uuid.UUID:
        with sessions.begin() as session:
            owner_id = auth.owner_id(session, owner)
            batch = batches.create(session, NewBatch(owner_id=owner_id, api_key_id=None))
            for job_id in job_ids:
                session.get_one(TranscriptionJob, job_id).batch_id = batch.id
            return batch.id

    return make


@pytest.fixture
def make_upload(sessions: sessionmaker[Session], settings: Settings) -> Callable[..., uuid.UUID]:
    """Announce a resumable upload of an owner, and receive some of it."""

    def make(owner: str = "alice", *, size_bytes: int = 10, data: bytes = b"") -> uuid.UUID:
        uploads = UploadStore(settings.uploads_path, max_bytes=2**20, min_free_bytes=0)
        uploads.prepare()
        parts, upload_id = Parts(uploads), uuid7()
        parts.create(upload_id, expected_bytes=size_bytes)
        with Part(parts, upload_id) as part:
            part.append(data, most_bytes=size_bytes)
        with sessions.begin() as session:
            wanted = resumable.NewUpload(
                id=upload_id,
                owner_id=auth.owner_id(session, owner),
                api_key_id=None,
                batch_id=None,
                idempotency_key=None,
                size_bytes=size_bytes,
                filename="talk.wav",
                said={},
                metadata_sent=None,
            )
            resumable.create(session, wanted, keep_seconds=3600.0, most=100)
        return upload_id

    return make


def stored(settings: Settings) -> list[Path]:
    """Every file of clients in the store, whole or not."""
    root = settings.uploads_path
    return [path for path in root.rglob("*") if path.is_file() and not path.name.startswith(".")]


@contextlib.contextmanager
def serving(settings: Settings, **options: Any) -> Iterator[int]:
    """Run uvicorn on a free port of the loopback; gives the port."""
    given = {**options_of(settings), "timeout_graceful_shutdown": 2, **options}
    config = uvicorn.Config(create_app(settings), host="127.0.0.1", port=0, **given)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, name="uvicorn")
    thread.start()
    try:
        for _ in range(1000):
            if server.started or not thread.is_alive():
                break
            thread.join(0.01)
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


@pytest.fixture
def port(settings: Settings) -> Iterator[int]:
    with serving(settings) as port:
        yield port


@contextlib.contextmanager
def connected(port: int) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        yield connection


def read_all(connection: socket.socket) -> bytes:
    """Read until the server closes."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while chunk := connection.recv(65536):
            received += chunk
    return received


def poll(fact: Callable[[], Any], *, times: int = 500) -> Any:
    """Ask again until a fact is true, for a bounded number of times."""
    waiting = threading.Event()
    for _ in range(times):
        if found := fact():
            return found
        waiting.wait(0.02)
    raise AssertionError("it never became true")
