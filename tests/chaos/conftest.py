"""Faults on real processes: what is injected, what is checked after it, and the printed matrix."""

from __future__ import annotations

import os
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, TypeVar

import httpx2
import psutil
import pytest
from sqlalchemy import func, select

from attempts import LAST_PAUSE_SECONDS
from local_servers import PostgresServer, ValkeyServer
from lookout import AWAY_SECONDS, LOOK_SECONDS
from models import ErrorLog, JobStatus, TranscriptionJob, TranscriptionResult
from rig.engines import Script, null_upload
from solo import LOCK_NAME
from tests.recordings import SAMPLES, repeated, sample
from tests.stack import conftest as stack_conftest
from tests.stack.conftest import QUICK, Process, Stack, wait_for
from worker import EXIT_SECONDS

stack = stack_conftest.stack

Server = TypeVar("Server", PostgresServer, ValkeyServer)
Post = Callable[[], uuid.UUID]
SHORT: Final = SAMPLES / "digits-en.wav"
FAULTY_WORKER: Final = ("-m", "rig.worker")
#: The model of jobs that do nothing for a while: see ``rig.engines``.
NULL_MODEL: Final = "base"
FINAL: Final = ("completed", "failed", "cancelled")

LEASE: Final = float(QUICK["LEASE_SECONDS"])
HEARTBEAT: Final = float(QUICK["HEARTBEAT_SECONDS"])
DISPATCH: Final = float(QUICK["DISPATCH_SECONDS"])
REDISPATCH: Final = 5.0
BACKOFF: Final = float(QUICK["RETRY_BASE_SECONDS"])
#: How often the reaper looks: see ``maintenance.make_loops``.
LOOK: Final = LEASE / 6
#: From a worker's death to its job's being due and published again: the formula of the promise.
REAPED: Final = LEASE + 2 * LOOK + BACKOFF + 2 * DISPATCH
#: From the loss of everything in Redis until it is published again: the formula of the promise.
NOTICED: Final = 3 * DISPATCH
#: From when PostgreSQL can be written to again until attempts write: the formula of the promise.
WRITTEN: Final = LAST_PAUSE_SECONDS + HEARTBEAT
#: From a wish to cancel until a job that runs hears of it: the formula of the promise.
TOLD: Final = 2 * HEARTBEAT
#: One window with the demo model, on a busy machine.
WINDOW: Final = 2.0
#: How long a Redis that is frozen is waited for: see ``celery_app.make_redis``.
PING_SECONDS: Final = 2.0
#: From when Redis is away until its messages are missed no more: the formula of the promise.
UNRUNG: Final = AWAY_SECONDS + 2 * LOOK_SECONDS + 2 * PING_SECONDS
#: Machines that run tests are busy: a bound holds if it holds within so many times its length.
ALLOWANCE: Final = 2.0
#: And short ones within so many heartbeats: for as long a process may simply not be scheduled.
HICCUP: Final = 6


def retried(times: int = 1, *, pause: float = 1.0) -> float:
    """From the failure of an attempt until the next one is published: the formula of the promise.

    Args:
        times: How often it failed so far.
        pause: The error's own, in RETRY_BASE_SECONDS: see ``retries.TABLE``.
    """
    return BACKOFF * pause * 2.0 ** (times - 1) + 2 * DISPATCH


def drained(drain_seconds: float, force_seconds: float) -> float:
    """From SIGTERM until a worker is gone: the formula of the promise."""
    return drain_seconds + force_seconds + EXIT_SECONDS


class Ticks:
    """Heartbeats that pass in the test's own process, on the same busy machine."""

    def __init__(self) -> None:
        self.count = 0
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ticks", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closed.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._closed.wait(HEARTBEAT):
            self.count += 1


@dataclass
class Chaos:
    """A stack whose workers fail on request, and what must hold afterwards."""

    stack: Stack
    ticks: Ticks
    record: Callable[[str, object], None]
    jobs: list[uuid.UUID] = field(default_factory=list)

    def worker(self, *, ready: bool = True, **variables: str) -> Process:
        """Start a worker whose engine does what a job's prompt says."""
        process = self.stack.start("worker", *FAULTY_WORKER, **variables)
        if ready:
            wait_for(lambda: process.said("ready"), "the worker is ready")
        return process

    def submit(self, recording: Path = SHORT, *, fault: str | None = None, **v: Any) -> uuid.UUID:
        if fault is not None:
            v["initial_prompt"] = f"fault: {fault}"
        job_id = self.stack.submit(recording, **v)
        self.jobs.append(job_id)
        return job_id

    def submit_null(
        self, windows: int, seconds: float = 0.0, *, fault: str | None = None, **values: Any
    ) -> uuid.UUID:
        """Submit a job that takes no more than so many seconds for each window."""
        script = Script(windows=windows, seconds=seconds, tag=f"T{len(self.jobs)}")
        upload = self.stack.folder / f"{script.tag}.null"
        upload.write_bytes(null_upload(script))
        prompt = str(script) if fault is None else f"{script}; fault: {fault}"
        values = {"model_name": NULL_MODEL, "initial_prompt": prompt, **values}
        return self.submit(upload, **values)

    def end_of(self, job_id: uuid.UUID) -> TranscriptionJob:
        return self.stack.wait_for_status(job_id, *FINAL)

    def fails(self, job_id: uuid.UUID, times: int = 1) -> None:
        wait_for(lambda: len(self.errors_of(job_id)) >= times, "it fails")

    def is_taken(self, job_id: uuid.UUID, epoch: int = 2) -> None:
        wait_for(lambda: self.stack.job(job_id).lease_epoch >= epoch, "a worker has it")

    def goes_on(self, job_id: uuid.UUID) -> None:
        """Wait until a job that runs has a window more than now, or its end."""
        before = len(self.stack.windows(job_id))

        def went_on() -> bool:
            ended = self.stack.job(job_id).status in FINAL
            return ended or len(self.stack.windows(job_id)) > before

        wait_for(went_on, "it goes on")

    def errors_of(self, job_id: uuid.UUID) -> list[str]:
        with self.stack.sessions() as session:
            query = select(ErrorLog.error_code).where(ErrorLog.job_id == job_id)
            return list(session.scalars(query.order_by(ErrorLog.lease_epoch)))

    def decoder_of(self, worker: Process) -> psutil.Process:
        """Wait for the process that a worker decodes in."""

        def found() -> psutil.Process | None:
            for child in psutil.Process(worker.popen.pid).children():
                with suppress(psutil.NoSuchProcess):
                    if any("decoder.main" in word for word in child.cmdline()):
                        return child
            return None

        decoder: psutil.Process = wait_for(found, "the decoder runs")
        return decoder

    @contextmanager
    def recovery(self, bound_seconds: float) -> Iterator[None]:
        """Check that what happens in the block is over within the bound, counted in heartbeats."""
        before, began = self.ticks.count, time.monotonic()
        yield
        passed = self.ticks.count - before
        self.record("recovery", f"{time.monotonic() - began:.1f} s of {bound_seconds:.1f} s")
        assert passed <= ALLOWANCE * bound_seconds / HEARTBEAT + HICCUP

    def check(self) -> None:
        """The invariants: every job has one end, and a result if and only if it completed."""
        for job_id in self.jobs:
            job = self.end_of(job_id)
            result = self.stack.result(job_id)
            assert (result is not None) == (job.status == JobStatus.COMPLETED)
            assert result is None or result.lease_epoch == job.lease_epoch
            assert job.attempt <= job.max_attempts
            assert (job.failure_reason is not None) == (job.status == JobStatus.FAILED)
            assert job.worker_name is None
        with self.stack.sessions() as session:
            count = session.scalar(select(func.count()).select_from(TranscriptionResult))
        assert count == sum(self.stack.job(j).status == JobStatus.COMPLETED for j in self.jobs)
        wait_for(lambda: self.left_behind() == [], "nothing is left in the scratch folder")

    def left_behind(self) -> list[str]:
        scratch = self.stack.folder / "scratch"
        return [path.name for path in scratch.glob("*") if path.name != LOCK_NAME]


@pytest.fixture
def chaos(stack: Stack, record_property: Callable[[str, object], None]) -> Iterator[Chaos]:
    ticks = Ticks()
    stack.environment |= {"REDISPATCH_SECONDS": str(REDISPATCH), "NULL_MODEL": NULL_MODEL}
    try:
        yield Chaos(stack, ticks, record_property)
    finally:
        ticks.close()


@contextmanager
def running(server: Server) -> Iterator[Server]:
    """Run a server of the test's own, which it may stop, freeze, kill and start again."""
    server.start()
    try:
        yield server
    finally:
        if server.pid is not None:
            with suppress(ProcessLookupError):
                os.kill(server.pid, signal.SIGCONT)
        server.stop()


@pytest.fixture
def postgres(tmp_path: Path) -> Iterator[PostgresServer]:
    with running(PostgresServer(tmp_path / "postgres", fast=True)) as server:
        yield server


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[ValkeyServer]:
    with running(ValkeyServer(tmp_path / "valkey", fast=True)) as server:
        yield server


@pytest.fixture
def broken(chaos: Chaos, request: pytest.FixtureRequest) -> Iterator[Chaos]:
    """A stack on the servers of its own that the test asks for: ``postgres``, ``valkey``."""
    urls = {
        variable: request.getfixturevalue(name).url
        for name, variable in (("postgres", "database_url"), ("valkey", "redis_url"))
        if name in request.fixturenames
    }
    stack = chaos.stack.at(**urls)
    yield replace(chaos, stack=stack)
    if stack.redis is not chaos.stack.redis:
        stack.redis.close()


@contextmanager
def browsing(stack: Stack) -> Iterator[httpx2.Client]:
    """Start a web process, and be its client."""
    process, url = stack.web()
    wait_for(lambda: process.said("Uvicorn running"), "the web process is ready")
    wait_for((stack.folder / "admin.key").exists, "the key is there")
    key = (stack.folder / "admin.key").read_text("utf-8").strip()
    with httpx2.Client(base_url=url, headers={"X-API-Key": key}, timeout=60) as client:
        yield client


def upload(client: httpx2.Client) -> httpx2.Response:
    return client.post("/transcribe", files={"file": ("a.wav", SHORT.read_bytes())})


@pytest.fixture
def post(broken: Chaos) -> Iterator[Post]:
    """Submit as a client does."""
    with browsing(broken.stack) as client:

        def submit() -> uuid.UUID:
            answer = upload(client)
            assert answer.status_code == 202
            broken.jobs.append(uuid.UUID(answer.json()["job_id"]))
            return broken.jobs[-1]

        yield submit


@pytest.fixture
def long_recording(tmp_path: Path) -> Path:
    """Some minutes: many windows, so that something can happen in the middle."""
    return repeated("digits-en.wav", LONG_TIMES, tmp_path / "long.wav")


LONG_TIMES: Final = 40
SHORT_TEXT: Final = sample("digits-en.wav").text.split()
LONG_TEXT: Final = LONG_TIMES * sample("digits-en.wav").text.split()


def words_of(stack: Stack, job_id: uuid.UUID) -> list[str]:
    result = stack.result(job_id)
    assert result is not None
    return result.text.split()


# The matrix


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for mark in item.iter_markers("fault"):
            item.user_properties.append(("fault", mark.args))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print every fault, what came of it, and how long its recovery took."""
    rows: list[tuple[str, str, str, str]] = []
    for outcome in ("passed", "failed", "skipped", "error"):
        for report in terminalreporter.stats.get(outcome, ()):
            took = dict(report.user_properties).get("recovery", "")
            if report.when == "call" or outcome != "passed":
                faults = (told for name, told in report.user_properties if name == "fault")
                rows += [(code, outcome, fault, str(took)) for code, fault in faults]
    if not rows:
        return
    terminalreporter.section("what survives what")
    for code, outcome, fault, took in sorted(rows, key=lambda row: _number(row[0])):
        terminalreporter.write_line(f"{code:<5}{outcome:<9}{fault:<70}{took}")


def _number(code: str) -> tuple[str, int]:
    digits = "".join(filter(str.isdigit, code))
    return code.rstrip("0123456789"), int(digits or 0)
