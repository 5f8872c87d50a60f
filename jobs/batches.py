"""Batches: many files that a client submits with one profile. Nothing here commits.

An owner is part of every query: somebody else's batch is as good as none. How a batch is doing is
counted from its jobs whenever somebody asks; no counter has to be kept right.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from sqlalchemy import ARRAY, Select, Uuid, bindparam, func, literal, select, text, tuple_
from sqlalchemy.orm import Session

from errors import BatchClosed, NotFound
from jobs.paging import Place
from models import FINAL, Batch, JobStatus, TranscriptionJob

NOT_FOUND: Final = "There is no such batch."
#: One that never had a job, or has none any more, is forgotten after so long.
KEEP_EMPTY_SECONDS: Final = 7 * 86_400.0

COUNT: Final = text("""
SELECT batch_id, status, count(*) AS jobs,
       COALESCE(sum(audio_seconds), 0) AS audio_seconds,
       COALESCE(sum(CASE WHEN status = ANY(:final) THEN audio_seconds
                         ELSE progress * audio_seconds END), 0) AS done_seconds
  FROM transcription_jobs
 WHERE batch_id = ANY(:ids)
 GROUP BY batch_id, status
""").bindparams(bindparam("ids", type_=ARRAY(Uuid)))

#: Whoever wants to hear of it is told by a trigger.
END: Final = text("""
UPDATE batches
   SET ended_at = now()
 WHERE closed_at IS NOT NULL
   AND ended_at IS NULL
   AND NOT EXISTS (SELECT FROM transcription_jobs
                    WHERE batch_id = batches.id
                      AND status IN ('pending', 'processing'))
RETURNING id
""")

FORGET: Final = text("""
DELETE FROM batches
 WHERE created_at < now() - make_interval(secs => :keep)
   AND NOT EXISTS (SELECT FROM transcription_jobs WHERE batch_id = batches.id)
""")


@dataclass(frozen=True, slots=True, kw_only=True)
class NewBatch:
    """What a batch is to be."""

    owner_id: uuid.UUID
    api_key_id: uuid.UUID | None
    name: str | None = None
    #: What every file of it is submitted with, as a client would say it.
    profile: Mapping[str, str] = field(default_factory=dict)
    callback_url: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """How the jobs of a batch are."""

    #: How many have each status.
    jobs: Mapping[JobStatus, int]
    audio_seconds: float = 0.0
    #: Of those, what needs no more work: also what failed or was cancelled.
    done_seconds: float = 0.0

    @property
    def total(self) -> int:
        return sum(self.jobs.values())


def create(session: Session, wanted: NewBatch) -> Batch:
    batch = Batch(
        owner_id=wanted.owner_id,
        api_key_id=wanted.api_key_id,
        name=wanted.name,
        profile=dict(wanted.profile),
        callback_url=wanted.callback_url,
    )
    session.add(batch)
    session.flush()
    session.refresh(batch)
    return batch


def find(session: Session, batch_id: uuid.UUID, *, owner_id: uuid.UUID | None) -> Batch:
    """Look a batch up.

    Args:
        owner_id: Whose it must be; None for anybody's.

    Raises:
        NotFound: There is none, or it is somebody else's.
    """
    batch = session.scalar(_of(owner_id).where(Batch.id == batch_id))
    if batch is None:
        raise NotFound(NOT_FOUND)
    return batch


def hold_open(session: Session, batch_id: uuid.UUID, *, owner_id: uuid.UUID) -> None:
    """Make sure that a batch takes files, until the transaction's end.

    Raises:
        NotFound: There is none, or it is somebody else's.
        BatchClosed: It takes none any more.
    """
    query = _of(owner_id).where(Batch.id == batch_id).with_for_update(read=True)
    batch = session.scalar(query.execution_options(populate_existing=True))
    if batch is None:
        raise NotFound(NOT_FOUND)
    if batch.closed_at is not None:
        raise BatchClosed


def page(
    session: Session, *, owner_id: uuid.UUID | None, before: Place | None, limit: int
) -> Sequence[Batch]:
    """Batches, newest first."""
    query = _of(owner_id).order_by(Batch.created_at.desc(), Batch.id.desc()).limit(limit)
    if before is not None:
        here = tuple_(literal(before.at), literal(before.id))
        query = query.where(tuple_(Batch.created_at, Batch.id) < here)
    return session.scalars(query).all()


def count(session: Session, owner_id: uuid.UUID | None) -> int:
    return session.scalars(select(func.count()).select_from(_of(owner_id).subquery())).one()


def tallies(session: Session, ids: Collection[uuid.UUID]) -> dict[uuid.UUID, Tally]:
    """Count the jobs of batches."""
    rows = session.execute(COUNT, {"ids": list(ids), "final": list(FINAL)}).all()
    found = {}
    for batch_id in ids:
        own = [row for row in rows if row.batch_id == batch_id]
        found[batch_id] = Tally(
            jobs={JobStatus(row.status): row.jobs for row in own},
            audio_seconds=sum(row.audio_seconds for row in own),
            done_seconds=sum(row.done_seconds for row in own),
        )
    return found


def close(session: Session, batch: Batch) -> bool:
    """Take no more files; False where it took none before."""
    locked = select(Batch).where(Batch.id == batch.id).with_for_update()
    session.scalars(locked.execution_options(populate_existing=True)).one()
    if batch.closed_at is not None:
        return False
    batch.closed_at = func.now()
    session.flush()
    session.refresh(batch)
    return True


def reopen(session: Session, batch: Batch) -> None:
    """Have its end told anew: jobs of it were sent round again."""
    batch.ended_at = None
    session.flush()


def jobs(session: Session, batch_id: uuid.UUID, *statuses: JobStatus) -> Sequence[TranscriptionJob]:
    """The jobs of a batch, in the order of their submission; of these statuses, if any are said."""
    query = select(TranscriptionJob).where(TranscriptionJob.batch_id == batch_id)
    if statuses:
        query = query.where(TranscriptionJob.status.in_(statuses))
    return session.scalars(query.order_by(TranscriptionJob.created_at, TranscriptionJob.id)).all()


def end(session: Session) -> list[uuid.UUID]:
    """Note which batches have ended: they take no more files, and all their jobs have."""
    return [row.id for row in session.execute(END)]


def forget_empty(session: Session) -> None:
    """Delete old batches without jobs."""
    session.execute(FORGET, {"keep": KEEP_EMPTY_SECONDS})


def _of(owner_id: uuid.UUID | None) -> Select[Batch]:
    query = select(Batch)
    return query if owner_id is None else query.where(Batch.owner_id == owner_id)
