"""The dead letter queue: the jobs that were given up, and what operators note of them.

Sending one round again is a transition of its life, ``jobs.lifecycle.redrive``; nothing here
changes a status. Nothing commits.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, TypeVarTuple

from sqlalchemy import ColumnElement, Select, bindparam, exists, func, or_, select, text
from sqlalchemy.dialects.postgresql import ARRAY, UUID
from sqlalchemy.orm import Session, defer
from sqlalchemy.types import Text

from errors import (
    AddressRefused,
    EmptyFile,
    MediaError,
    QuotaExceeded,
    ReplyRefused,
    SourceRefused,
    UploadAltered,
    UploadMissing,
    UploadTooLarge,
)
from jobs.paging import Place, after
from models import ApiKey, ErrorLog, JobStatus, Owner, TranscriptionJob

Columns = TypeVarTuple("Columns")


def _codes(error: type[MediaError]) -> set[str]:
    return {error.code}.union(*map(_codes, error.__subclasses__()))


#: The same of what the client named instead of sending it.
_SOURCE_FAULTS: Final = {
    error.code
    for error in (
        AddressRefused, EmptyFile, QuotaExceeded, ReplyRefused, SourceRefused, UploadTooLarge,
    )
}  # fmt: skip
#: Reasons to fail that lie in what the client sent, so that no operator can mend them.
INPUT_FAULTS: Final = frozenset(
    _codes(MediaError) - {UploadMissing.code, UploadAltered.code} | _SOURCE_FAULTS
)

#: Somebody dealt with failed jobs. What was resolved before stays as it is.
RESOLVE: Final = text("""
WITH dealt_with AS (
    UPDATE transcription_jobs
       SET resolved_at = now(),
           resolved_by = :by,
           resolution_notes = :notes
     WHERE id = ANY(:ids)
       AND status = 'failed'
       AND resolved_at IS NULL
       AND quarantined_at IS NULL
    RETURNING id
), logged AS (
    UPDATE error_logs
       SET resolved = true,
           resolved_at = now(),
           resolved_by = :by,
           resolution_notes = :notes
      FROM dealt_with
     WHERE job_id = dealt_with.id
       AND NOT resolved
)
SELECT id FROM dealt_with
""").bindparams(
    bindparam("ids", type_=ARRAY(UUID(as_uuid=True))),
    bindparam("by", type_=Text),
    bindparam("notes", type_=Text),
)

#: A failed job is set aside. Whoever did so first is kept; a new note replaces the old one.
QUARANTINE: Final = text("""
UPDATE transcription_jobs
   SET quarantined_by = CASE WHEN quarantined_at IS NULL THEN :by ELSE quarantined_by END,
       quarantined_at = COALESCE(quarantined_at, now()),
       quarantine_notes = COALESCE(:notes, quarantine_notes)
 WHERE id = :job_id
   AND status = 'failed'
RETURNING id
""").bindparams(bindparam("by", type_=Text), bindparam("notes", type_=Text))

#: And taken back among the others. The time for which its upload is kept begins again.
RELEASE: Final = text("""
UPDATE transcription_jobs
   SET quarantined_at = NULL,
       quarantined_by = NULL,
       quarantine_notes = NULL,
       released_at = now()
 WHERE id = :job_id
   AND quarantined_at IS NOT NULL
RETURNING id
""")


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A failed job with its failed attempts, oldest first."""

    job: TranscriptionJob
    owner_name: str
    #: Shown name of the API key that it came with; None without one, or if it is gone.
    key_prefix: str | None
    attempts: Sequence[ErrorLog]

    @property
    def permanent(self) -> bool:
        """Whether the input is at fault."""
        return self.job.failure_reason in INPUT_FAULTS


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which failed jobs are meant; None means any."""

    #: Of the last error, or why the job was given up.
    code: str | None = None
    #: Asked for.
    model: str | None = None
    engine: str | None = None
    #: When the job was given up: from, and before.
    since: datetime | None = None
    until: datetime | None = None
    #: A worker that an attempt failed on: its name, or the host's.
    worker: str | None = None
    #: Whose job it is: the shown name of the API key that it came with, or its owner's.
    key: str | None = None
    #: Those that somebody has dealt with too.
    resolved: bool = False
    #: Those whose input was at fault too.
    permanent: bool = False
    #: Those in quarantine, and no others; it makes no difference why they are there.
    quarantined: bool = False

    @property
    def is_everything(self) -> bool:
        """Whether nothing narrows it down."""
        return not any(
            (self.code, self.model, self.engine, self.since, self.until, self.worker, self.key)
        )


def page(
    session: Session, wanted: Wanted, *, before: Place | None = None, limit: int
) -> list[DeadLetter]:
    """List failed jobs, the last one first. Their attempts come without traceback and context.

    Args:
        before: The last job of the page before this one; it may be gone by now.
    """
    chosen = _in_order(_letters(), wanted, before).limit(limit)
    rows = session.execute(chosen).all()
    attempts = _attempts(session, [job.id for job, *_ in rows])
    return [
        DeadLetter(job=job, owner_name=name, key_prefix=prefix, attempts=attempts.get(job.id, []))
        for job, name, prefix in rows
    ]


def jobs(
    session: Session, wanted: Wanted, *, before: Place | None = None, limit: int
) -> Sequence[TranscriptionJob]:
    """List the same jobs alone."""
    return session.scalars(_in_order(select(TranscriptionJob), wanted, before).limit(limit)).all()


def place_of(job: TranscriptionJob) -> Place:
    """Where a failed job stands in these lists."""
    assert job.completed_at is not None  # noqa: S101 - a constraint of the table
    return Place(job.completed_at, job.id)


def find(session: Session, job_id: uuid.UUID) -> DeadLetter | None:
    """Look up one failed job with all there is to know, whatever became of it."""
    row = session.execute(
        _letters().where(TranscriptionJob.id == job_id, TranscriptionJob.status == JobStatus.FAILED)
    ).first()
    if row is None:
        return None
    attempts = session.scalars(
        select(ErrorLog).where(ErrorLog.job_id == job_id).order_by(ErrorLog.created_at)
    ).all()
    job, name, prefix = row
    return DeadLetter(job=job, owner_name=name, key_prefix=prefix, attempts=attempts)


def count(session: Session, wanted: Wanted) -> int:
    return session.scalars(
        select(func.count()).select_from(TranscriptionJob).where(*_conditions(wanted))
    ).one()


def resolve(
    session: Session, job_ids: Iterable[uuid.UUID], *, by: str | None, notes: str | None
) -> set[uuid.UUID]:
    """Note that somebody has dealt with failed jobs.

    Args:
        by: The shown name of an API key, or ``cli``.

    Returns:
        Those that nobody had dealt with before, and that are not in quarantine.
    """
    values = {"ids": list(job_ids), "by": by, "notes": notes}
    return {row.id for row in session.execute(RESOLVE, values)}


def quarantine(
    session: Session, job_id: uuid.UUID, *, by: str | None, notes: str | None = None
) -> bool:
    """Set a failed job aside, or add a note to one that is; returns whether it has failed.

    Until it is released nobody retries or resolves it, and its upload is kept.
    """
    values = {"job_id": job_id, "by": by, "notes": notes}
    return session.execute(QUARANTINE, values).first() is not None


def release(session: Session, job_id: uuid.UUID) -> bool:
    """Take a job out of quarantine; returns whether it was in it."""
    return session.execute(RELEASE, {"job_id": job_id}).first() is not None


def _in_order(query: Select[*Columns], wanted: Wanted, before: Place | None) -> Select[*Columns]:
    return query.where(
        *_conditions(wanted), *after(before, TranscriptionJob.completed_at)
    ).order_by(TranscriptionJob.completed_at.desc(), TranscriptionJob.id.desc())


def _letters() -> Select[TranscriptionJob, str, str | None]:
    return (
        select(TranscriptionJob, Owner.name, ApiKey.prefix)
        .select_from(TranscriptionJob)
        .join(Owner, Owner.id == TranscriptionJob.owner_id)
        .outerjoin(ApiKey, ApiKey.id == TranscriptionJob.api_key_id)
    )


def _conditions(wanted: Wanted) -> list[ColumnElement[bool]]:
    job = TranscriptionJob
    conditions = [job.status == JobStatus.FAILED]
    if wanted.quarantined:
        conditions.append(job.quarantined_at.is_not(None))
    else:
        conditions.append(job.quarantined_at.is_(None))
        if not wanted.resolved:
            conditions.append(job.resolved_at.is_(None))
        # whoever asks for a fault of the input by its code means it
        if not wanted.permanent and wanted.code not in INPUT_FAULTS:
            conditions.append(job.failure_reason.not_in(INPUT_FAULTS))
    return [*conditions, *_narrowing(wanted)]


def _narrowing(wanted: Wanted) -> Iterable[ColumnElement[bool]]:
    job = TranscriptionJob
    if wanted.code is not None:
        yield or_(job.error_code == wanted.code, job.failure_reason == wanted.code)
    if wanted.model is not None:
        yield job.model_name == wanted.model
    if wanted.engine is not None:
        yield job.engine_name == wanted.engine
    if wanted.since is not None:
        yield job.completed_at >= wanted.since
    if wanted.until is not None:
        yield job.completed_at < wanted.until
    if wanted.worker is not None:
        on_host = ErrorLog.worker_name.startswith(f"{wanted.worker}:", autoescape=True)
        yield exists().where(
            ErrorLog.job_id == job.id, or_(ErrorLog.worker_name == wanted.worker, on_host)
        )
    if wanted.key is not None:
        yield or_(
            job.api_key_id.in_(select(ApiKey.id).where(ApiKey.prefix == wanted.key)),
            job.owner_id.in_(select(Owner.id).where(Owner.name == wanted.key)),
        )


def _attempts(session: Session, job_ids: Collection[uuid.UUID]) -> dict[uuid.UUID, list[ErrorLog]]:
    # a page of tracebacks would be megabytes that nobody reads
    brief: list[Any] = [
        defer(column, raiseload=True) for column in (ErrorLog.traceback, ErrorLog.context)
    ]
    found: dict[uuid.UUID, list[ErrorLog]] = {}
    for log in session.scalars(
        select(ErrorLog)
        .options(*brief)
        .where(ErrorLog.job_id.in_(job_ids))
        .order_by(ErrorLog.created_at)
    ):
        found.setdefault(log.job_id, []).append(log)
    return found
