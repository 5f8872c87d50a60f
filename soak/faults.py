"""The faults: each meets one part of the service, and tells what it met, and for how long."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import resource
import shutil
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import psutil
import redis
from sqlalchemy.exc import SQLAlchemyError

from celery_app import LANES
from errors import LocalServerFailed
from soak.observer import Observer
from soak.plan import PlannedFault
from soak.service import SETTINGS, Life, Place, Supervisor

LEASE_SECONDS: Final = float(SETTINGS["LEASE_SECONDS"])
#: How long faults last that last.
FREEZE_SECONDS: Final = (0.1 * LEASE_SECONDS, 2.5 * LEASE_SECONDS)
REDIS_AWAY_SECONDS: Final = (0.5, 6.0)
POSTGRES_AWAY_SECONDS: Final = (0.0, 1.5 * LEASE_SECONDS)
DISK_FULL_SECONDS: Final = (1.0, 4.0)
#: How long a duel waits for a job that suits it, and for another worker to take it up.
DUEL_SECONDS: Final = 30.0
TAKEN_OVER_SECONDS: Final = 90.0
#: How long one that destroys messages waits for some.
PREY_SECONDS: Final = 8.0
POLL_SECONDS: Final = 0.05
GARBAGE: Final = (
    b"no JSON",
    b'{"body": "eA==", "headers": {}}',
    json.dumps(
        {
            "body": base64.b64encode(json.dumps([["x"], {}, {}]).encode()).decode(),
            "headers": {"task": "tasks.unknown", "id": "x"},
            "content-type": "application/json",
            "content-encoding": "utf-8",
            "properties": {
                "delivery_tag": "x",
                "delivery_info": {"exchange": "", "routing_key": "normal"},
                "body_encoding": "base64",
            },
        }
    ).encode(),
)
#: What may come of injecting into what another fault has just taken away.
IN_VAIN: Final = (
    redis.RedisError, SQLAlchemyError, ProcessLookupError, psutil.Error, LocalServerFailed,
    subprocess.TimeoutExpired, TimeoutError,
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Injected:
    """A fault that happened."""

    kind: str
    began: float
    #: When the cause was gone: what was frozen thawed, what was away came back.
    ended: float
    #: The processes that it met.
    lives: tuple[str, ...] = ()
    #: Jobs whose messages it destroyed.
    jobs: tuple[uuid.UUID, ...] = ()
    #: Why nothing came of it.
    in_vain: str = ""


@dataclass
class Injector:
    """Does what a plan of faults says. Faults of one server wait for each other."""

    place: Place
    supervisor: Supervisor
    observer: Observer
    client: redis.Redis
    injected: list[Injected] = field(default_factory=list)
    _redis: threading.Lock = field(default_factory=threading.Lock)
    _postgres: threading.Lock = field(default_factory=threading.Lock)
    _threads: list[threading.Thread] = field(default_factory=list)

    def inject(self, fault: PlannedFault) -> None:
        """Do it, in a thread of its own."""
        thread = threading.Thread(target=self._inject, args=(fault,), name=fault.kind, daemon=True)
        self._threads.append(thread)
        thread.start()

    def settle(self, seconds: float) -> None:
        """Wait until all of them are over."""
        until = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))

    def _inject(self, fault: PlannedFault) -> None:
        began = time.time()
        try:
            found = KINDS[fault.kind](self, fault)
        except IN_VAIN as error:
            found = _now(fault, in_vain=type(error).__name__, began=began)
        self.injected.append(found)

    # Processes

    def kill(self, fault: PlannedFault) -> Injected:
        life = self._choose(fault)
        life.fault = fault.kind
        life.process.signal(signal.SIGKILL)
        return _now(fault, lives=(life.name,))

    def term(self, fault: PlannedFault) -> Injected:
        life = self._choose(fault)
        life.fault = fault.kind
        began = time.time()
        self.supervisor.end(life)
        return _now(fault, lives=(life.name,), began=began)

    def freeze(self, fault: PlannedFault) -> Injected:
        life = self._choose(fault)
        began = time.time()
        with self._frozen(fault, life):
            time.sleep(_between(FREEZE_SECONDS, fault.length))
        return _now(fault, lives=(life.name,), began=began)

    def duel(self, fault: PlannedFault) -> Injected:
        """Freeze a worker until another one has taken its job, then let both go on with it."""
        until = time.monotonic() + DUEL_SECONDS
        while time.monotonic() < until:
            lives = {life.process.pid: life for life in self.supervisor.alive("worker")}
            for job_id, epoch, pid in self.observer.half_done():
                if pid not in lives:
                    continue
                began = time.time()
                if self._fight(fault, lives[pid], job_id, epoch):
                    return _now(fault, lives=(lives[pid].name,), began=began)
            time.sleep(POLL_SECONDS)
        return _now(fault, in_vain="no job to fight for")

    def _fight(self, fault: PlannedFault, life: Life, job_id: uuid.UUID, epoch: int) -> bool:
        """Returns whether the job has found somebody else."""
        until = time.monotonic() + TAKEN_OVER_SECONDS
        with self._frozen(fault, life):
            if not self.observer.holds(job_id, epoch):
                return False  # it was gone by the time that its worker was
            while not self.observer.goes_on(job_id, epoch) and time.monotonic() < until:
                time.sleep(POLL_SECONDS)
        return True

    @contextlib.contextmanager
    def _frozen(self, fault: PlannedFault, life: Life) -> Iterator[None]:
        life.fault = fault.kind
        life.process.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                life.process.signal(signal.SIGCONT)

    def fill_disk(self, fault: PlannedFault) -> Injected:
        """Let the web process write to no file for a while; it is told as with a full disk."""
        life = self._choose(fault, role="web")
        began = time.time()
        pid = life.process.pid
        before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, before[1]))
        time.sleep(_between(DISK_FULL_SECONDS, fault.length))
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)
        return _now(fault, lives=(life.name,), began=began)

    def _choose(self, fault: PlannedFault, role: str | None = None) -> Life:
        alive = self.supervisor.alive(role or fault.kind.partition("-")[0])
        if not alive:
            raise ProcessLookupError
        return alive[int(fault.target * len(alive))]

    # Redis

    def flush(self, fault: PlannedFault) -> Injected:
        with self._redis:
            jobs = self._prey()
            self.client.flushall()
        return _now(fault, jobs=jobs)

    def delete(self, fault: PlannedFault) -> Injected:
        with self._redis:
            jobs = self._prey()
            self.client.delete(*LANES)
        return _now(fault, jobs=jobs)

    def cut_redis(self, fault: PlannedFault) -> Injected:
        with self._redis:
            self.client.client_kill_filter(_type="normal", skipme=True)
        return _now(fault)

    def repeat(self, fault: PlannedFault) -> Injected:
        with self._redis:
            for lane in LANES:
                for message in self._messages(lane):
                    self.client.lpush(lane, message, message)
        return _now(fault)

    def rubbish(self, fault: PlannedFault) -> Injected:
        with self._redis:
            for lane in LANES:
                self.client.lpush(lane, *GARBAGE)
        return _now(fault)

    def kill_redis(self, fault: PlannedFault) -> Injected:
        wipe = fault.kind == "redis-wipe"
        with self._redis:
            jobs = self._prey() if wipe else ()
            began = time.time()
            self._end_server(self.place.valkey.pid, signal.SIGKILL)
            if wipe:
                shutil.rmtree(self.place.valkey.data / "appendonlydir", ignore_errors=True)
            time.sleep(_between(REDIS_AWAY_SECONDS, fault.length))
            self.place.valkey.start()
        return _now(fault, jobs=jobs, began=began)

    def freeze_redis(self, fault: PlannedFault) -> Injected:
        with self._redis:
            pid, began = self.place.valkey.pid, time.time()
            if pid is None:
                raise ProcessLookupError
            os.kill(pid, signal.SIGSTOP)
            time.sleep(_between(REDIS_AWAY_SECONDS, fault.length))
            os.kill(pid, signal.SIGCONT)
        return _now(fault, began=began)

    def _prey(self) -> tuple[uuid.UUID, ...]:
        """Wait a while for messages that can be destroyed; returns their jobs."""
        until = time.monotonic() + PREY_SECONDS
        while not (found := self._rung()) and time.monotonic() < until:
            time.sleep(POLL_SECONDS)
        return found

    def _rung(self) -> tuple[uuid.UUID, ...]:
        """The jobs whose messages lie in Redis."""
        return tuple(
            job_id
            for lane in LANES
            for message in self._messages(lane)
            if (job_id := _job_of(message)) is not None
        )

    def _messages(self, lane: str) -> list[bytes]:
        found: Sequence[bytes] = self.client.lrange(lane, 0, -1)  # type: ignore[assignment] # not awaitable
        return list(found)

    # PostgreSQL

    def restart_postgres(self, fault: PlannedFault) -> Injected:
        with self._postgres:
            began = time.time()
            self.place.postgres.stop()
            self.place.postgres.start()
        return _now(fault, began=began)

    def kill_postgres(self, fault: PlannedFault) -> Injected:
        number = signal.SIGQUIT if fault.target < 0.5 else signal.SIGKILL
        with self._postgres:
            began = time.time()
            self._end_server(self.place.postgres.pid, number)
            time.sleep(_between(POSTGRES_AWAY_SECONDS, fault.length))
            self.place.postgres.start()
        return _now(fault, began=began)

    def cut_postgres(self, fault: PlannedFault) -> Injected:
        with self._postgres:
            self.observer.cut()
        return _now(fault)

    def _end_server(self, pid: int | None, number: int) -> None:
        if pid is None:
            raise ProcessLookupError
        process = psutil.Process(pid)
        process.send_signal(number)
        psutil.wait_procs([process], timeout=20)


KINDS: Final[dict[str, Callable[[Injector, PlannedFault], Injected]]] = {
    "worker-kill": Injector.kill,
    "worker-term": Injector.term,
    "worker-freeze": Injector.freeze,
    "worker-duel": Injector.duel,
    "maintenance-kill": Injector.kill,
    "maintenance-freeze": Injector.freeze,
    "web-kill": Injector.kill,
    "web-term": Injector.term,
    "redis-flush": Injector.flush,
    "redis-delete": Injector.delete,
    "redis-cut": Injector.cut_redis,
    "redis-repeat": Injector.repeat,
    "redis-garbage": Injector.rubbish,
    "redis-kill": Injector.kill_redis,
    "redis-wipe": Injector.kill_redis,
    "redis-freeze": Injector.freeze_redis,
    "postgres-restart": Injector.restart_postgres,
    "postgres-kill": Injector.kill_postgres,
    "postgres-cut": Injector.cut_postgres,
    "disk-full": Injector.fill_disk,
}


def _now(
    fault: PlannedFault,
    *,
    began: float | None = None,
    lives: tuple[str, ...] = (),
    jobs: tuple[uuid.UUID, ...] = (),
    in_vain: str = "",
) -> Injected:
    now = time.time()
    return Injected(
        kind=fault.kind,
        began=now if began is None else began,
        ended=now,
        lives=lives,
        jobs=jobs,
        in_vain=in_vain,
    )


def _between(bounds: tuple[float, float], share: float) -> float:
    return bounds[0] + share * (bounds[1] - bounds[0])


def _job_of(message: bytes) -> uuid.UUID | None:
    try:
        body = json.loads(base64.b64decode(json.loads(message)["body"]))
        return uuid.UUID(body[0][0])
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        return None
