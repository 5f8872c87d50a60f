"""How much waits, how fast it is done, and what that means for one job.

Nothing is counted beside the rows. What is read of the whole backlog holds for many requests: see
``api.outlook``. Who goes when is worked out as the dispatcher does it: keys take turns by weight.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import bindparam, func, literal, select, text, tuple_
from sqlalchemy.dialects.postgresql import ARRAY, UUID
from sqlalchemy.orm import Session

from jobs import workers
from models import ApiKey, JobStatus, TranscriptionJob

#: A key's own jobs before one are counted up to here.
MAX_JOBS_AHEAD: Final = 10_000
#: Of the jobs that were done last, so many of the last day tell how fast one slot works.
LATEST: Final = {"limit": 100, "hours": 24}

WAITING: Final = text("""
SELECT api_key_id,
       lane,
       count(*) FILTER (WHERE not_before <= now()) AS jobs,
       COALESCE(sum(audio_seconds) FILTER (WHERE not_before <= now()), 0) AS due_seconds,
       COALESCE(sum(audio_seconds), 0) AS all_seconds
  FROM transcription_jobs
 WHERE status = 'pending'
 GROUP BY api_key_id, lane
""")

RUNNING: Final = text("""
SELECT api_key_id,
       count(*) AS jobs,
       COALESCE(sum(audio_seconds * (1 - progress)), 0) AS seconds_left
  FROM transcription_jobs
 WHERE status = 'processing'
 GROUP BY api_key_id
""")

#: What jobs have before them of their own keys in their lanes; those that are not due are left out.
OWN_AHEAD: Final = text("""
SELECT id, jobs, audio_seconds
  FROM (SELECT id,
               row_number() OVER ahead - 1 AS jobs,
               COALESCE(sum(audio_seconds) OVER (ahead ROWS BETWEEN UNBOUNDED PRECEDING
                                                            AND 1 PRECEDING), 0) AS audio_seconds
          FROM transcription_jobs
         WHERE status = 'pending'
           AND not_before <= now()
           AND (api_key_id = ANY(:keys) OR (:keyless AND api_key_id IS NULL))
        WINDOW ahead AS (PARTITION BY api_key_id, lane ORDER BY not_before, id)) AS queued
 WHERE id = ANY(:ids)
""").bindparams(
    bindparam("ids", type_=ARRAY(UUID(as_uuid=True))),
    bindparam("keys", type_=ARRAY(UUID(as_uuid=True))),
)

#: Jobs that were done in one go: what waited between two attempts was no work.
SPEED: Final = text("""
SELECT sum(audio_seconds) / NULLIF(sum(EXTRACT(EPOCH FROM completed_at - started_at)), 0)
  FROM (SELECT audio_seconds, completed_at, started_at
          FROM transcription_jobs
         WHERE completed_at > now() - make_interval(hours => :hours)
           AND upload_deleted_at IS NULL
           AND status = 'completed'
           AND attempt = 1
           AND interrupt_count + preempt_count + crash_count = 0
         ORDER BY completed_at DESC
         LIMIT :limit) AS latest
""")


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """What one key has due in one lane."""

    jobs: int
    audio_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What one key has running and waiting, and how its turns count."""

    weight: float = 1.0
    running: int = 0
    waiting: Mapping[str, Waiting] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """What was waiting and running at one moment."""

    #: By key; None are the jobs without one.
    shares: Mapping[uuid.UUID | None, Share]
    #: Audio of everything that waits, due or not.
    queued_seconds: float
    #: Audio that is left of what is running.
    running_seconds: float
    #: Jobs that the living workers can run at once.
    slots: int
    #: Seconds of audio that one slot does in a second; None when none was done lately.
    speed: float | None

    @property
    def rate(self) -> float | None:
        """Seconds of audio done in a second by all slots; None when nobody can tell."""
        return self.speed * self.slots if self.speed and self.slots else None

    @property
    def free_slots(self) -> int:
        return max(0, self.slots - sum(share.running for share in self.shares.values()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """When a job's turn comes. None is what nobody can tell."""

    #: About how many go first, counting this one.
    position: int | None = None
    #: Until it is done.
    eta_seconds: int | None = None


def read(session: Session) -> Backlog:
    """Look at the whole backlog; the cost grows with it."""
    keys = session.execute(select(ApiKey.id, ApiKey.weight))
    weights = {row.id: row.weight for row in keys}
    running = {row.api_key_id: row for row in session.execute(RUNNING)}
    waiting: dict[uuid.UUID | None, dict[str, Waiting]] = {}
    queued_seconds = 0.0
    for row in session.execute(WAITING):
        lanes = waiting.setdefault(row.api_key_id, {})
        lanes[row.lane] = Waiting(jobs=row.jobs, audio_seconds=row.due_seconds)
        queued_seconds += row.all_seconds
    return Backlog(
        shares={
            key: Share(
                weight=1.0 if key is None else weights.get(key, 1.0),
                running=running[key].jobs if key in running else 0,
                waiting=waiting.get(key, {}),
            )
            for key in {*waiting, *running}
        },
        queued_seconds=queued_seconds,
        running_seconds=sum(row.seconds_left for row in running.values()),
        slots=workers.live_slots(session),
        speed=session.execute(SPEED, LATEST).scalar(),
    )


def estimate(
    session: Session, job: TranscriptionJob, backlog: Backlog, *, lanes: Sequence[str]
) -> Estimate:
    """Tell when a job's turn comes, and when it will be done.

    Args:
        lanes: The most urgent first.
    """
    own = None
    if job.status == JobStatus.PENDING and job.lane in lanes:
        own = _own_ahead(session, job)
    return _estimate(job, own, backlog, lanes)


def estimates(
    session: Session, jobs: Sequence[Any], backlog: Backlog, *, lanes: Sequence[str]
) -> dict[uuid.UUID, Estimate]:
    """Tell the same of many jobs, with one statement.

    Args:
        jobs: Rows with the columns of one that ``estimate`` is told of.
    """
    waiting = [job for job in jobs if job.status == JobStatus.PENDING and job.lane in lanes]
    keys = {job.api_key_id for job in waiting}
    own: dict[uuid.UUID, Waiting] = {}
    if waiting:
        values = {
            "ids": [job.id for job in waiting],
            "keys": list(keys - {None}),
            "keyless": None in keys,
        }
        own = {
            row.id: Waiting(jobs=row.jobs, audio_seconds=row.audio_seconds)
            for row in session.execute(OWN_AHEAD, values)
        }
    return {job.id: _estimate(job, own.get(job.id), backlog, lanes) for job in jobs}


def _estimate(
    job: TranscriptionJob, own: Waiting | None, backlog: Backlog, lanes: Sequence[str]
) -> Estimate:
    if job.status == JobStatus.PROCESSING:
        left = None if job.audio_seconds is None else job.audio_seconds * (1 - job.progress)
        return Estimate(eta_seconds=_eta(backlog, 0.0, left))
    if own is None:
        return Estimate()
    more_urgent = lanes[: lanes.index(job.lane)]
    others = _others_ahead(backlog, job, more_urgent, turn=own.jobs + 1)
    position = own.jobs + others.jobs + 1
    before = 0.0
    if position > backlog.free_slots:
        before = own.audio_seconds + others.audio_seconds + backlog.running_seconds
    eta_seconds = _eta(backlog, before, job.audio_seconds)
    return Estimate(position=position, eta_seconds=eta_seconds)


def _eta(backlog: Backlog, before_seconds: float, own_seconds: float | None) -> int | None:
    if backlog.rate is None or backlog.speed is None or own_seconds is None:
        return None
    return max(1, math.ceil(before_seconds / backlog.rate + own_seconds / backlog.speed))


def _own_ahead(session: Session, job: TranscriptionJob) -> Waiting | None:
    """What the job's own key has before it in its lane; None before the job is due."""
    ahead = (
        select(TranscriptionJob.audio_seconds)
        .where(
            TranscriptionJob.status == JobStatus.PENDING,
            TranscriptionJob.api_key_id == job.api_key_id,
            TranscriptionJob.lane == job.lane,
            TranscriptionJob.not_before <= func.now(),
            tuple_(TranscriptionJob.not_before, TranscriptionJob.id)
            < tuple_(literal(job.not_before), literal(job.id)),
        )
        .limit(MAX_JOBS_AHEAD)
        .subquery()
    )
    due, jobs, seconds = session.execute(
        select(
            literal(job.not_before) <= func.now(),
            func.count(),
            func.coalesce(func.sum(ahead.c.audio_seconds), 0.0),
        ).select_from(ahead)
    ).one()
    return Waiting(jobs=jobs, audio_seconds=seconds) if due else None


def _others_ahead(
    backlog: Backlog, job: TranscriptionJob, more_urgent: Sequence[str], *, turn: int
) -> Waiting:
    """What goes first of better lanes, and of the same one while other keys have their turns."""
    mine = backlog.shares.get(job.api_key_id, Share())
    when = (turn + mine.running) / mine.weight
    jobs, seconds = 0, 0.0
    for key, share in backlog.shares.items():
        for lane, waiting in share.waiting.items():
            first = 0
            if lane in more_urgent:
                first = waiting.jobs
            elif lane == job.lane and key != job.api_key_id:
                turns = math.floor(when * share.weight) - share.running
                first = max(0, min(waiting.jobs, turns))
            if first:
                jobs += first
                seconds += waiting.audio_seconds * first / waiting.jobs
    return Waiting(jobs=jobs, audio_seconds=seconds)
