"""Reads the facts that ``jobs.conditions`` judges by."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import text
from sqlalchemy.orm import Session

from database import Migrated, Revisions, revision
from jobs import queries, queues
from jobs.conditions import DiskFacts, Facts, LaneFacts, ProcessFacts, Still
from jobs.queries import Figures, LaneState, WorkerView
from models import PausedQueue, Worker

_NOW: Final = text("SELECT now() AS now, pg_postmaster_start_time() AS started")
_CLOCK: Final = text("SELECT EXTRACT(EPOCH FROM clock_timestamp())::float")

#: Leases that seem to stand still, the longest first. Only for people: see ``maintenance.Reaper``.
_STILL: Final = text("""
SELECT id AS job_id, worker_name, heartbeat_at AS since
  FROM transcription_jobs
 WHERE status = 'processing'
   AND heartbeat_at < now() - make_interval(secs => :silent)
 ORDER BY heartbeat_at
 LIMIT 100
""")


#: Since when something is to be called that nobody has called: a webhook, or a recording's server.
_CALL_DUE: Final = text("""
SELECT LEAST((
    SELECT min(due_at)
      FROM upload_fetches
      JOIN transcription_jobs AS job ON job.id = job_id
     WHERE due_at <= now()
       AND job.status = 'pending'
), (
SELECT min(next.not_before)
  FROM webhooks
 CROSS JOIN LATERAL (
       SELECT not_before
         FROM webhook_deliveries
        WHERE webhook_id = webhooks.id
          AND status = 'pending'
        ORDER BY not_before
        LIMIT 1) AS next
 WHERE disabled_at IS NULL
   AND next.not_before <= now()
))
""")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outside:
    """What PostgreSQL cannot tell of the process that asks it."""

    redis: bool
    pool_used: int
    pool_size: int
    #: None when the folder of uploads cannot be read.
    disk: DiskFacts | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Vitals:
    """How the service is, to be shown and to be judged."""

    figures: Figures
    lanes: Sequence[LaneState]
    paused: frozenset[str]
    #: Those that did not take leave.
    workers: Sequence[WorkerView]
    facts: Facts


def read(
    session: Session, outside: Outside, *, lane_names: Sequence[str], lease_seconds: float
) -> Vitals:
    """Look at everything once."""
    figures = queries.figures(session)
    lanes = queries.lanes(session, lane_names)
    stops = queues.known(session)
    workers = queries.workers(session)
    now = session.execute(_NOW).one()
    facts = Facts(
        now=now.now,
        database_since=now.started,
        redis=outside.redis,
        migrations_behind=Revisions.of().judge(revision(session)) is Migrated.BEHIND,
        lanes=[_lane(state, stops.get(state.lane)) for state in lanes],
        processes=[_process(view.worker) for view in workers],
        still=still(session, silent_seconds=lease_seconds / 2),
        ended_1h=figures.ended_1h,
        failed_1h=figures.failed_1h,
        dead_letters=figures.unresolved_errors,
        call_due_since=session.scalar(_CALL_DUE),
        pool_used=outside.pool_used,
        pool_size=outside.pool_size,
        disk=outside.disk,
        clock_ahead_seconds=clock_ahead_seconds(session),
        lease_seconds=lease_seconds,
    )
    return Vitals(
        figures=figures,
        lanes=lanes,
        paused=frozenset(name for name, stop in stops.items() if stop.resumed_at is None),
        workers=[view for view in workers if view.worker.left_at is None],
        facts=facts,
    )


def still(session: Session, *, silent_seconds: float) -> list[Still]:
    """Find the leases whose heartbeat has not moved for so long, by the database's clock."""
    rows = session.execute(_STILL, {"silent": silent_seconds})
    return [Still(**row._mapping) for row in rows]  # noqa: SLF001 - SQLAlchemy's documented name


def clock_ahead_seconds(session: Session, *, clock: Callable[[], float] = time.time) -> float:
    """By how much this process's clock is ahead of the database's; exact to half a round trip."""
    session.connection()
    before = clock()
    theirs: float = session.execute(_CLOCK).scalar_one()
    return (before + clock()) / 2 - theirs


def _lane(state: LaneState, stop: PausedQueue | None) -> LaneFacts:
    return LaneFacts(
        name=state.lane,
        due_since=state.due_since,
        left_since=state.left_since,
        paused_at=stop.paused_at if stop and stop.resumed_at is None else None,
        resumed_at=stop.resumed_at if stop else None,
    )


def _process(worker: Worker) -> ProcessFacts:
    return ProcessFacts(**{name: getattr(worker, name) for name in ProcessFacts.__slots__})
