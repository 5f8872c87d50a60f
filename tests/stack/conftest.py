"""The service as processes: worker, maintenance and web over real PostgreSQL and Valkey.

They connect as a role that owns nothing, as in Compose.
"""

import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import redis
from sqlalchemy import NullPool, create_engine, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker
from uuid_utils.compat import uuid7

from celery_app import TRANSCRIBE, make_celery, send
from config import Settings
from jobs import lifecycle
from jobs.lifecycle import NewJob
from jobs.uploads import UploadStore
from models import Owner, TranscriptionJob, TranscriptionResult, TranscriptionWindow
from tests.conftest import SERVICE_ROLE, as_service, migrate
from tests.recordings import PROJECT_DIR
from tests.stack import canaries

#: Bounds waiting for things that take moments on an idle machine.
PATIENCE_SECONDS = 120.0

#: Everything that is slow on purpose, made quick.
QUICK = {
    "LEASE_SECONDS": "4",
    "HEARTBEAT_SECONDS": "0.5",
    "DISPATCH_SECONDS": "0.2",
    "RETRY_BASE_SECONDS": "0.2",
    "DRAIN_SECONDS": "1",
    "DRAIN_FORCE_SECONDS": "10",
    "WHISPER_MODEL_SIZE": "demo",
    "WHISPER_THREADS": "1",
    "MODEL_DOWNLOAD": "false",
    "MIN_FREE_DISK_MB": "0",
    "LOG_LEVEL": "INFO",
    "RATE_LIMIT_REQUESTS": "1000000",  # tests ask again and again
}


def wait_for(fact: Callable[[], Any], what: str) -> Any:
    """Wait until ``fact`` gives something true, and return it."""
    until = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < until:
        if found := fact():
            return found
        time.sleep(0.05)
    raise AssertionError(f"never came true: {what}")


@dataclass
class Process:
    """One process of the service, and its log."""

    name: str
    popen: subprocess.Popen[bytes]
    log: Path

    def signal(self, number: int) -> None:
        os.kill(self.popen.pid, number)

    def kill(self) -> None:
        self.popen.kill()
        self.popen.wait()

    def wait(self) -> int:
        return self.popen.wait(PATIENCE_SECONDS)

    def said(self, sentence: str) -> bool:
        return sentence in self.log.read_text("utf-8")


@dataclass
class Stack:
    """What a test does with the service from outside."""

    folder: Path
    environment: dict[str, str]
    sessions: sessionmaker[Session]
    redis: redis.Redis
    uploads: UploadStore
    #: For whoever migrates and restores: the service's own role owns nothing.
    as_owner: dict[str, str]
    #: The version that is run.
    code: Path = PROJECT_DIR
    processes: list[Process] = field(default_factory=list)
    #: Keys and passwords that its processes were given.
    secrets: set[str] = field(default_factory=set)

    def at(self, *, database_url: str | None = None, redis_url: str | None = None) -> "Stack":
        """The same, on another database, which is migrated, or on another Redis."""
        stack = self
        if database_url is not None:
            migrate(database_url)
            engine = create_engine(database_url, poolclass=NullPool)
            stack = replace(
                stack,
                environment={**stack.environment, "DATABASE_URL": database_url},
                as_owner={"DATABASE_URL": database_url},
                sessions=sessionmaker(engine, expire_on_commit=False),
            )
        if redis_url is not None:
            stack = replace(
                stack,
                environment={**stack.environment, "REDIS_URL": redis_url},
                redis=redis.Redis.from_url(redis_url),
            )
        return stack

    def start(self, name: str, *arguments: str, **variables: str) -> Process:
        log = self.folder / f"{len(self.processes)}-{name}.log"
        self.secrets |= {*canaries.secrets_of({**self.environment, **variables})}
        with log.open("wb") as output:
            popen = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=self.code,
                env={**self.environment, **variables},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        process = Process(name, popen, log)
        self.processes.append(process)
        return process

    def worker(self, *, ready: bool = True, **variables: str) -> Process:
        process = self.start("worker", "worker.py", **variables)
        if ready:
            wait_for(lambda: process.said("ready"), "the worker is ready")
        return process

    def maintenance(self, *, ready: bool = True, **variables: str) -> Process:
        process = self.start("maintenance", "worker.py", "--role", "maintenance", **variables)
        if ready:
            wait_for(lambda: process.said("ready"), "maintenance is ready")
        return process

    def webhooks(self, **variables: str) -> Process:
        process = self.start("webhooks", "worker.py", "--role", "webhooks", **variables)
        wait_for(lambda: process.said("ready"), "the sender of webhooks is ready")
        return process

    def web(self, **variables: str) -> tuple[Process, str]:
        """Start a web process, on a port of its own unless one is said; returns its URL, too."""
        if "PORT" not in variables:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                variables["PORT"] = str(probe.getsockname()[1])
        # some tests run no maintenance, which rings again where a busy machine was too late
        budget = {"PUBLISH_BUDGET_MS": "10000", **variables}
        process = self.start("web", "app.py", **budget)
        return process, f"http://127.0.0.1:{variables['PORT']}"

    def submit(self, recording: Path, *, ring: bool = True, **values: Any) -> uuid.UUID:
        """Submit as the web process does: file, commit, message."""
        job_id = uuid7()
        with self.uploads.writer(job_id) as writer:
            writer.write(recording.read_bytes())
            upload = writer.finish()
        with self.sessions.begin() as session:
            job = {
                "id": job_id,
                "owner_id": self._owner(session),
                "engine_name": "openai-whisper",
                "model_name": "demo",
                "client_filename": canaries.NAME,
                "client_metadata": {"label": canaries.LABEL},
                "upload_bytes": upload.size_bytes,
                "upload_sha256": upload.sha256,
                "max_attempts": 3,
                **values,
            }
            lifecycle.submit(session, NewJob(**job))
        if ring:
            self.ring(job_id, values.get("priority", "normal"))
        return job_id

    def ring(self, job_id: uuid.UUID, queue: str) -> None:
        settings = Settings(redis_url=self.environment["REDIS_URL"], _env_file=None)  # type: ignore[call-arg, arg-type]
        app = make_celery(settings)
        send(app, TRANSCRIBE, job_id, queue)
        app.close()

    def _owner(self, session: Session) -> uuid.UUID:
        owner = session.scalars(select(Owner).where(Owner.name == "tests")).first()
        if owner is None:
            owner = Owner(name="tests")
            session.add(owner)
            session.flush()
        return owner.id

    def job(self, job_id: uuid.UUID) -> TranscriptionJob:
        with self.sessions() as session:
            return session.get_one(TranscriptionJob, job_id)

    def result(self, job_id: uuid.UUID) -> TranscriptionResult | None:
        with self.sessions() as session:
            return session.get(TranscriptionResult, job_id)

    def windows(self, job_id: uuid.UUID) -> list[TranscriptionWindow]:
        with self.sessions() as session:
            query = select(TranscriptionWindow).where(TranscriptionWindow.job_id == job_id)
            return list(session.scalars(query.order_by(TranscriptionWindow.index)))

    def wait_for_status(self, job_id: uuid.UUID, *statuses: str) -> TranscriptionJob:
        def reached() -> TranscriptionJob | None:
            job = self.job(job_id)
            return job if job.status in statuses else None

        found: TranscriptionJob = wait_for(reached, f"job is {' or '.join(statuses)}")
        return found

    def leaks(self) -> list[str]:
        """What the logs hold that no log may hold, and where."""
        key = self.folder / "admin.key"
        said = {canaries.NAME, canaries.LABEL, *canaries.phrases(self._transcripts())}
        made = {key.read_text("utf-8").strip()} if key.exists() else set()
        return canaries.found((p.log for p in self.processes), self.secrets | said | made)

    def _transcripts(self) -> list[str]:
        try:
            with self.sessions() as session:
                return list(session.scalars(select(TranscriptionResult.text)))
        except SQLAlchemyError:
            return []  # its server is the test's own, and gone

    def wait_for_windows(self, job_id: uuid.UUID, count: int) -> None:
        wait_for(lambda: len(self.windows(job_id)) >= count, f"{count} windows are kept")


@pytest.fixture
def stack(
    tmp_path: Path, database_url: str, redis_url: str, request: pytest.FixtureRequest
) -> Iterator[Stack]:
    engine = create_engine(database_url)
    uploads = UploadStore(tmp_path / "uploads", max_bytes=2**30, min_free_bytes=0)
    uploads.prepare()
    environment = {
        **{name: value for name, value in os.environ.items() if name in {"PATH", "HOME", "LANG"}},
        **{name: value for name, value in os.environ.items() if name.startswith("COV")},
        **QUICK,
        "DATABASE_URL": canaries.with_password(as_service(database_url), SERVICE_ROLE),
        "REDIS_URL": canaries.with_password(redis_url, "default"),
        "STATE_DIR": str(tmp_path),
    }
    stack = Stack(
        folder=tmp_path,
        environment=environment,
        sessions=sessionmaker(engine, expire_on_commit=False),
        redis=redis.Redis.from_url(redis_url),
        uploads=uploads,
        as_owner={"DATABASE_URL": canaries.with_password(database_url, "postgres")},
    )
    failed_before = request.session.testsfailed
    try:
        yield stack
    finally:
        for process in stack.processes:
            if process.popen.poll() is None:
                process.popen.send_signal(signal.SIGCONT)
                process.kill()
        leaks = stack.leaks()
        if request.session.testsfailed > failed_before:
            for process in stack.processes:
                print(f"--- {process.log.name}\n{process.log.read_text('utf-8')[-4000:]}")
        stack.redis.close()
        engine.dispose()
    assert not leaks, "logs hold what no log may hold: " + "; ".join(leaks[:10])
