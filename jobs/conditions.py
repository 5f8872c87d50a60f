"""What may be wrong with the service: one table, and a rule for each of its rows.

Rules are pure: facts in, conditions out. What looks alike and is no fault, such as a backlog while
every worker is busy, or a process that is being replaced, is told apart here and nowhere else.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final, Literal


class Severity(StrEnum):
    """How bad it is, the worst first."""

    #: Jobs are not taken or not done, or nobody can tell who did what, until somebody acts.
    UNHEALTHY = "unhealthy"
    DEGRADED = "degraded"  #: Jobs are done, worse than they should be.
    WARNING = "warning"  #: Somebody should know; the service does what it should.
    INFO = "info"  #: Good to know while looking at something else.


#: A process that stopped is missed after: so long a deployment may take to replace it.
GRACE_SECONDS: Final = 60.0
#: A free slot, and a job that waits for one, for so long is no coincidence.
STUCK_SECONDS: Final = 60.0
#: Leases that stand still for so many times their length: the reaper ends them after one.
STILL_LEASES: Final = 2.0
#: The share of failed jobs of an hour that is too large, of so many at least.
MANY: Final = 0.1
MOST: Final = 0.5
ENOUGH_JOBS: Final = 10
#: Share of a process's database connections that may be in use.
BUSY_POOL: Final = 0.9
#: Clocks further apart than this make logs hard to read.
CLOCK_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class Kind:
    """A row of the table; ``docs/operating.md`` shows the same."""

    severity: Severity
    means: str
    remedy: str


KINDS: Final[Mapping[str, Kind]] = {
    "no_maintenance": Kind(
        Severity.UNHEALTHY,
        "For a minute no maintenance process has run: nothing is published again or reaped.",
        "Start `python worker.py --role maintenance`.",
    ),
    "no_worker": Kind(
        Severity.UNHEALTHY,
        "Jobs are due, and for a minute no worker has run that takes from their queue.",
        "Start `python worker.py`; look at CELERY_QUEUES.",
    ),
    "jobs_stuck": Kind(
        Severity.UNHEALTHY,
        "Jobs were published again and again or not at all, while a worker was idle.",
        "Restart maintenance, then the workers; send their logs with a report.",
    ),
    "lease_still": Kind(
        Severity.UNHEALTHY,
        "A job's heartbeat has stood still for two leases, and nobody took the job back.",
        "Restart maintenance, whose reaper ends such leases.",
    ),
    "storage_unavailable": Kind(
        Severity.UNHEALTHY,
        "The folder of uploads cannot be read: submissions are refused.",
        "Mount it; look at UPLOAD_DIR.",
    ),
    "disk_full": Kind(
        Severity.UNHEALTHY,
        "Less than MIN_FREE_DISK_MB is free: submissions are refused.",
        "Free space; lower AUDIO_RETENTION.",
    ),
    "migrations_behind": Kind(
        Severity.UNHEALTHY,
        "The database is older than this version.",
        "Run `alembic upgrade head`.",
    ),
    "most_jobs_fail": Kind(
        Severity.UNHEALTHY,
        "Half of the last hour's jobs or more failed, of ten at least, for no fault of their"
        " input.",
        "Look at `/admin/errors` for what they have in common.",
    ),
    "audit_broken": Kind(
        Severity.UNHEALTHY,
        "Maintenance found audit events changed or taken away, or their triggers off.",
        "Keep a copy of the database; run `python cli.py audit verify`; do as docs/operating.md"
        " says under Audit.",
    ),
    "redis_unavailable": Kind(
        Severity.DEGRADED,
        "Redis does not answer: workers look for jobs in PostgreSQL, and start them some seconds"
        " later.",
        "Start Redis; look at REDIS_URL.",
    ),
    "many_jobs_fail": Kind(
        Severity.DEGRADED,
        "A tenth of the last hour's jobs or more failed, of ten at least, for no fault of their"
        " input.",
        "Look at `/admin/errors` for what they have in common.",
    ),
    "no_sender": Kind(
        Severity.DEGRADED,
        "Webhooks are to be called or recordings to be fetched, and for a minute no process has run"
        " that does.",
        "Start `python worker.py --role webhooks`.",
    ),
    "disk_low": Kind(
        Severity.DEGRADED,
        "An upload of the largest size that is allowed would be refused for lack of space.",
        "Free space; lower AUDIO_RETENTION.",
    ),
    "database_pool_busy": Kind(
        Severity.DEGRADED,
        "Nine tenths of this web process's database connections are in use.",
        "Raise DATABASE_POOL_SIZE, or start another web process.",
    ),
    "dead_letters": Kind(
        Severity.WARNING,
        "Jobs were given up for no fault of their input, and nobody has dealt with them.",
        "Look at `/admin/errors`; retry or resolve each.",
    ),
    "queue_paused": Kind(
        Severity.WARNING,
        "An operator paused a queue: its jobs wait.",
        "Run `python cli.py queues resume NAME` when it is time.",
    ),
    "worker_silent": Kind(
        Severity.WARNING,
        "A process stopped in the last hour without taking leave: it died, or is cut off.",
        "Look at its log and at `dmesg`; its jobs go on elsewhere.",
    ),
    "clocks_differ": Kind(
        Severity.WARNING,
        "A clock is more than 5 s off the database's: times in logs do not fit together.",
        "Have the machine's clock set by NTP.",
    ),
    "versions_differ": Kind(
        Severity.INFO,
        "Processes of several versions run, as they do during a deployment.",
        "Finish the deployment.",
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneFacts:
    """What waits in one lane."""

    name: str
    #: Since when the one due longest could have been begun; None when none is due.
    due_since: datetime | None
    #: Since when the one waits that was published again and again, or not at all; None if none is.
    left_since: datetime | None
    #: None while it is not paused.
    paused_at: datetime | None
    #: None if it never was paused.
    resumed_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessFacts:
    """What a process last said of itself."""

    name: str
    role: str
    version: str
    queues: Sequence[str]
    started_at: datetime
    seen_at: datetime
    #: Since when it takes nothing new; None while it does.
    draining_since: datetime | None
    left_at: datetime | None
    idle_since: datetime | None
    clock_ahead_seconds: float
    #: What it found wrong with the chain of audit events, and when.
    audit_broken: str | None = None
    audit_broken_since: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Still:
    """A lease whose heartbeat stands still."""

    job_id: uuid.UUID
    worker_name: str
    #: When its heartbeat last moved.
    since: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskFacts:
    """Where uploads are kept."""

    free_bytes: int
    #: Uploads are refused that would leave less.
    floor_bytes: int
    largest_upload_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """All that the rules judge by. Times are the database's."""

    now: datetime
    #: When PostgreSQL started: what was silent before that could not speak.
    database_since: datetime
    redis: bool
    migrations_behind: bool
    lanes: Sequence[LaneFacts]
    processes: Sequence[ProcessFacts]
    still: Sequence[Still]
    #: Of the jobs that ended in the last hour, input faults left out.
    ended_1h: int
    failed_1h: int
    dead_letters: int
    #: Since when the webhook that waits longest is to be called; None when none is.
    call_due_since: datetime | None
    #: Connections of this process in use, and as many as there may be.
    pool_used: int
    pool_size: int
    #: None when the folder of uploads cannot be read.
    disk: DiskFacts | None
    #: By how much this process's clock is ahead of the database's.
    clock_ahead_seconds: float
    lease_seconds: float

    def seconds_since(self, time: datetime) -> float:
        return (self.now - time).total_seconds()

    def is_alive(self, process: ProcessFacts) -> bool:
        """Whether it was heard of within a lease; an outage of the database silences nobody."""
        heard = max(process.seen_at, self.database_since)
        # the database's clock may have been set back since
        silent_seconds = abs(self.seconds_since(heard))
        return process.left_at is None and silent_seconds <= self.lease_seconds

    def is_at_work(self, process: ProcessFacts) -> bool:
        return process.draining_since is None and self.is_alive(process)

    def missing_since(self, processes: Sequence[ProcessFacts]) -> datetime | None:
        """Since when none of these is at work; None while one is."""
        if any(map(self.is_at_work, processes)):
            return None
        ends = (p.draining_since or p.left_at or p.seen_at for p in processes)
        return max([self.database_since, *ends])


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """Something that is wrong now."""

    code: str
    message: str
    since: datetime | None = None

    @property
    def severity(self) -> Severity:
        return KINDS[self.code].severity

    @property
    def remedy(self) -> str:
        return KINDS[self.code].remedy


Status = Literal["healthy", "degraded", "unhealthy"]
Rule = Callable[[Facts], Iterator[Condition]]


def judge(facts: Facts) -> list[Condition]:
    """Tell what is wrong, the worst first."""
    found = [condition for rule in RULES for condition in rule(facts)]
    return sorted(found, key=lambda condition: [*Severity].index(condition.severity))


def status_of(conditions: Sequence[Condition]) -> Status:
    """One word for all of them; warnings leave a service healthy."""
    severities = {condition.severity for condition in conditions}
    if Severity.UNHEALTHY in severities:
        return "unhealthy"
    return "degraded" if Severity.DEGRADED in severities else "healthy"


def _redis(facts: Facts) -> Iterator[Condition]:
    if not facts.redis:
        yield Condition(code="redis_unavailable", message="Redis does not answer.")


def _maintenance(facts: Facts) -> Iterator[Condition]:
    since = facts.missing_since(_of_role(facts, "maintenance"))
    if since is not None and facts.seconds_since(since) > GRACE_SECONDS:
        yield Condition(code="no_maintenance", message="No maintenance process runs.", since=since)


def _workers(facts: Facts) -> Iterator[Condition]:
    for lane in _open_lanes(facts):
        gone_since = facts.missing_since(_takers(facts, lane))
        if lane.due_since is None or gone_since is None:
            continue
        since = max(lane.due_since, gone_since)
        if facts.seconds_since(since) > GRACE_SECONDS:
            yield Condition(
                code="no_worker",
                message=f"Jobs are due in {lane.name}, and no worker takes from it.",
                since=since,
            )


def _sender(facts: Facts) -> Iterator[Condition]:
    gone_since = facts.missing_since(_of_role(facts, "webhooks"))
    if facts.call_due_since is None or gone_since is None:
        return
    since = max(facts.call_due_since, gone_since)
    if facts.seconds_since(since) > GRACE_SECONDS:
        yield Condition(code="no_sender", message="Nobody calls webhooks or fetches.", since=since)


def _stuck(facts: Facts) -> Iterator[Condition]:
    dispatchers = list(filter(facts.is_at_work, _of_role(facts, "maintenance")))
    if not facts.redis or not dispatchers:
        return  # which says why
    began = min(dispatcher.started_at for dispatcher in dispatchers)
    for lane in _open_lanes(facts):
        takers = filter(facts.is_at_work, _takers(facts, lane))
        idle = [taker.idle_since for taker in takers if taker.idle_since is not None]
        if lane.left_since is None or not idle:
            continue
        since = max(lane.left_since, min(idle), began, lane.resumed_at or began)
        if facts.seconds_since(since) > STUCK_SECONDS:
            yield Condition(
                code="jobs_stuck",
                message=f"A job waits in {lane.name} while a worker is idle.",
                since=since,
            )


def _leases(facts: Facts) -> Iterator[Condition]:
    for lease in facts.still:
        heard = max(lease.since, facts.database_since)
        if facts.seconds_since(heard) > STILL_LEASES * facts.lease_seconds:
            yield Condition(
                code="lease_still",
                message=f"Job {lease.job_id} of worker {lease.worker_name} shows no heartbeat.",
                since=lease.since,
            )


def _disk(facts: Facts) -> Iterator[Condition]:
    disk = facts.disk
    if disk is None:
        yield Condition(code="storage_unavailable", message="The folder of uploads cannot be read.")
        return
    told = f"{disk.free_bytes / 2**20:.0f} MB are free for uploads."
    if disk.free_bytes < disk.floor_bytes:
        yield Condition(code="disk_full", message=told)
    elif disk.free_bytes - disk.largest_upload_bytes < disk.floor_bytes:
        yield Condition(code="disk_low", message=told)


def _migrations(facts: Facts) -> Iterator[Condition]:
    if facts.migrations_behind:
        yield Condition(code="migrations_behind", message="Migrations have to be run.")


def _failures(facts: Facts) -> Iterator[Condition]:
    if facts.ended_1h < ENOUGH_JOBS:
        return
    rate = facts.failed_1h / facts.ended_1h
    if rate >= MANY:
        yield Condition(
            code="most_jobs_fail" if rate >= MOST else "many_jobs_fail",
            message=f"{facts.failed_1h} of the last hour's {facts.ended_1h} jobs failed.",
        )


def _pool(facts: Facts) -> Iterator[Condition]:
    if facts.pool_used >= BUSY_POOL * facts.pool_size > 0:
        yield Condition(
            code="database_pool_busy",
            message=f"{facts.pool_used} of {facts.pool_size} connections are in use.",
        )


def _audit(facts: Facts) -> Iterator[Condition]:
    for process in facts.processes:
        if process.audit_broken is not None and process.left_at is None:
            yield Condition(
                code="audit_broken",
                message=f"The chain of audit events is broken: {process.audit_broken}.",
                since=process.audit_broken_since,
            )


def _dead_letters(facts: Facts) -> Iterator[Condition]:
    if facts.dead_letters:
        yield Condition(
            code="dead_letters", message=f"Given up and not dealt with: {facts.dead_letters}."
        )


def _paused(facts: Facts) -> Iterator[Condition]:
    for lane in facts.lanes:
        if lane.paused_at is not None:
            yield Condition(
                code="queue_paused", message=f"{lane.name} is paused.", since=lane.paused_at
            )


def _silent(facts: Facts) -> Iterator[Condition]:
    for process in facts.processes:
        if process.left_at is None and not facts.is_alive(process):
            yield Condition(
                code="worker_silent",
                message=f"Nothing is heard of {process.role} {process.name}.",
                since=process.seen_at,
            )


def _clocks(facts: Facts) -> Iterator[Condition]:
    clocks = {"This web process": facts.clock_ahead_seconds}
    for process in filter(facts.is_alive, facts.processes):
        clocks[f"{process.role} {process.name}"] = process.clock_ahead_seconds
    for name, ahead in clocks.items():
        if abs(ahead) > CLOCK_SECONDS:
            way = "ahead of" if ahead > 0 else "behind"
            yield Condition(
                code="clocks_differ", message=f"{name} is {abs(ahead):.0f} s {way} the database."
            )


def _versions(facts: Facts) -> Iterator[Condition]:
    versions = {process.version for process in facts.processes if facts.is_alive(process)}
    if len(versions) > 1:
        yield Condition(
            code="versions_differ", message=f"These run: {', '.join(sorted(versions))}."
        )


def _open_lanes(facts: Facts) -> Iterator[LaneFacts]:
    return (lane for lane in facts.lanes if lane.paused_at is None)


def _of_role(facts: Facts, role: str) -> list[ProcessFacts]:
    return [process for process in facts.processes if process.role == role]


def _takers(facts: Facts, lane: LaneFacts) -> list[ProcessFacts]:
    return [process for process in _of_role(facts, "worker") if lane.name in process.queues]


RULES: Final[Sequence[Rule]] = (
    _redis,
    _maintenance,
    _workers,
    _sender,
    _stuck,
    _leases,
    _disk,
    _migrations,
    _failures,
    _pool,
    _audit,
    _dead_letters,
    _paused,
    _silent,
    _clocks,
    _versions,
)
