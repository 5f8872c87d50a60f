"""How jobs stand that are followed: many of them in few statements, without their texts."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import Row, and_, case, exists, func, select
from sqlalchemy.orm import Session, aliased

from jobs import backlog
from jobs.backlog import Backlog, Estimate
from jobs.sources import FETCHING
from models import FINAL, JobStatus, PausedQueue, TranscriptionJob, TranscriptionWindow

#: The status of a job that is no more.
DELETED: Final = "deleted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How a job was a moment ago. Two are alike where nobody needs to be told of the second."""

    status: str
    #: Share done, 0 to 1.
    progress: float = 0.0
    current_step: str | None = None
    #: Of the upload; while it is fetched, of what is here.
    upload_bytes: int = 0
    audio_seconds: float | None = None
    audio_estimated: bool = True
    attempt: int = 0
    cancelling: bool = False
    queue_paused: bool = False
    error_code: str | None = None
    #: Windows that are kept.
    windows: int = 0
    #: Tells the windows of one transcription from those of another one of the same job; 0 without.
    run: int = 0
    position: int | None = None
    #: Changes all the time, and is told with what else does.
    eta_seconds: int | None = field(default=None, compare=False)

    @property
    def ended(self) -> bool:
        return self.status in FINAL or self.status == DELETED


GONE: Final = Standing(status=DELETED)


def read(
    session: Session,
    job_ids: Collection[uuid.UUID],
    look: Callable[[Session], Backlog],
    *,
    lanes: Sequence[str],
) -> dict[uuid.UUID, Standing]:
    """Look up how these jobs stand.

    Args:
        look: Gives the whole backlog; asked only if one of them has not ended.
        lanes: The most urgent first.
    """
    rows = session.execute(_rows().where(TranscriptionJob.id.in_(job_ids))).all()
    open_rows = [row for row in rows if row.status not in FINAL]
    estimates: Mapping[uuid.UUID, Estimate] = {}
    if open_rows:
        estimates = backlog.estimates(session, open_rows, look(session), lanes=lanes)
    found = {row.id: _standing(row, estimates.get(row.id, Estimate())) for row in rows}
    return {job_id: found.get(job_id, GONE) for job_id in job_ids}


def _rows() -> Any:
    job, window = TranscriptionJob, aliased(TranscriptionWindow)
    return select(
        job.id,
        job.status,
        job.progress,
        case(
            (and_(job.upload_awaited, job.status == JobStatus.PENDING), FETCHING),
            else_=job.current_step,
        ).label("current_step"),
        job.upload_bytes,
        job.audio_seconds,
        job.audio_estimated,
        job.attempt,
        job.cancel_requested_at.is_not(None).label("cancelling"),
        job.error_code,
        job.api_key_id,
        job.lane,
        job.not_before,
        exists()
        .where(PausedQueue.name == job.lane, PausedQueue.resumed_at.is_(None))
        .label("queue_paused"),
        select(func.max(TranscriptionWindow.index) + 1)
        .where(TranscriptionWindow.job_id == job.id)
        .scalar_subquery()
        .label("windows"),
        select(window.lease_epoch)
        .where(window.job_id == job.id, window.index == 0)
        .scalar_subquery()
        .label("run"),
    )


def _standing(row: Row[Any], found: Estimate) -> Standing:
    waits = row.status == JobStatus.PENDING
    paused = waits and row.queue_paused
    return Standing(
        status=row.status,
        progress=row.progress,
        current_step=row.current_step,
        upload_bytes=row.upload_bytes,
        audio_seconds=row.audio_seconds,
        audio_estimated=row.audio_estimated,
        attempt=row.attempt,
        cancelling=row.cancelling,
        queue_paused=paused,
        error_code=row.error_code,
        windows=row.windows or 0,
        run=row.run or 0,
        position=found.position,
        # while its queue is paused nobody can tell
        eta_seconds=None if paused else found.eta_seconds,
    )
