"""Short stories of jobs, as PostgreSQL would have seen them."""

import uuid
from collections.abc import Sequence

from rig.engines import Script
from soak.clients import Accepted
from soak.observer import Event, JobRow, ResultRow
from soak.plan import Kind, PlannedJob
from soak.verdict import Evidence

JOB = uuid.UUID(int=1)
WEB, FIRST, SECOND, MAINTENANCE = "web-1.1", "worker-1.1", "worker-2.1", "maintenance-1.1"


def status(at: float, writer: str, before: str | None, after: str, epoch: int = 0) -> Event:
    return Event(
        at=at, writer=writer, what="status", job_id=JOB, epoch=epoch, before=before, after=after
    )


def claim(at: float, writer: str, epoch: int = 1) -> Event:
    return status(at, writer, "pending", "processing", epoch)


def write(at: float, writer: str, what: str) -> Event:
    return Event(at=at, writer=writer, what=what, job_id=JOB, after="INSERT")


def completed(at: float, writer: str) -> list[Event]:
    return [status(at, writer, "processing", "completed"), write(at, writer, "result")]


def reaped(at: float) -> Event:
    return status(at, MAINTENANCE, "processing", "pending", 1)


SUBMITTED = status(0.0, WEB, None, "pending")
#: Claimed, done.
PLAIN = [SUBMITTED, claim(1.0, FIRST), write(2.0, FIRST, "window"), *completed(3.0, FIRST)]
#: Frozen from 2 on, reaped, taken over, done by the other.
TAKEN_OVER = [
    SUBMITTED,
    claim(1.0, FIRST),
    reaped(10.0),
    write(10.5, MAINTENANCE, "dispatched"),
    claim(11.0, SECOND, 2),
    *completed(14.0, SECOND),
]


def accepted(kind: Kind = "null", *, job_id: uuid.UUID = JOB) -> Accepted:
    script = Script(windows=2, seconds=0.1, tag="T1")
    job = PlannedJob(
        number=1, kind=kind, script=script, sample=None, owner=0, priority="normal"
    )  # fmt: skip
    return Accepted(job=job, job_id=job_id, at=0.1, seconds=0.1)


def row(state: str = "completed", **values: object) -> JobRow:
    usual = {
        "id": JOB,
        "status": state,
        "failure_reason": None,
        "attempt": 1,
        "max_attempts": 3,
        "epoch": 1,
        "crash_count": 0,
    }
    return JobRow(**{**usual, **values})  # type: ignore[arg-type] # of many types


def result(text: str = "T1-0 T1-1", epoch: int = 1) -> ResultRow:
    return ResultRow(job_id=JOB, epoch=epoch, text=text)


def evidence(
    events: Sequence[Event] = PLAIN,
    *,
    jobs: Sequence[JobRow] = (row(),),
    results: Sequence[ResultRow] = (result(),),
    kind: Kind = "null",
    cancelled: bool = False,
    starts: Sequence[int] = (1,),
) -> Evidence:
    return Evidence(
        accepted=[accepted(kind)],
        cancelled=frozenset([JOB] if cancelled else []),
        perhaps_cancelled=frozenset(),
        jobs={one.id: one for one in jobs},
        results={JOB: list(results)} if results else {},
        events=list(events),
        ledger=[{"what": "attempt", "job": str(JOB), "epoch": epoch} for epoch in starts],
        samples={},
    )
