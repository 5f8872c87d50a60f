"""Submissions that say what was said before: by their idempotency key, or by what they hold.

Nothing here commits: a key is remembered in the transaction that adds its job, so that the two
are there together or not at all.
"""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import dataclass
from typing import Final

from sqlalchemy import ColumnElement, bindparam, exists, func, or_, select, text
from sqlalchemy.dialects.postgresql import UUID
from sqlalchemy.orm import Session
from sqlalchemy.types import LargeBinary

from jobs.lifecycle import NewJob
from models import JobStatus, TranscriptionJob, TranscriptionResult

#: Who comes second waits for the first one's commit, and then finds it. A key whose time is over
#: is as good as none.
REMEMBER: Final = text("""
INSERT INTO idempotency_keys (owner_id, key_sha256, fingerprint, job_id)
VALUES (:owner_id, :key_sha256, :fingerprint, :job_id)
ON CONFLICT (owner_id, key_sha256) DO UPDATE
   SET fingerprint = excluded.fingerprint,
       job_id = excluded.job_id,
       created_at = now()
 WHERE idempotency_keys.created_at < now() - make_interval(secs => :keep)
RETURNING job_id
""").bindparams(
    bindparam("owner_id", type_=UUID(as_uuid=True)),
    bindparam("key_sha256", type_=LargeBinary),
    bindparam("fingerprint", type_=LargeBinary),
    bindparam("job_id", type_=UUID(as_uuid=True)),
)

FIND: Final = text("""
SELECT fingerprint, job_id
  FROM idempotency_keys
 WHERE owner_id = :owner_id
   AND key_sha256 = :key_sha256
   AND created_at >= now() - make_interval(secs => :keep)
""").bindparams(
    bindparam("owner_id", type_=UUID(as_uuid=True)), bindparam("key_sha256", type_=LargeBinary)
)

FORGET: Final = text("""
DELETE FROM idempotency_keys
 WHERE created_at < now() - make_interval(secs => :keep)
""")

_HAS_RESULT: Final = exists().where(TranscriptionResult.job_id == TranscriptionJob.id)
#: What two jobs have in common that come to the same transcript.
ASKED_FOR: Final = (
    "owner_id", "upload_sha256", "upload_bytes", "engine_name", "model_name", "language",
    "translate", "initial_prompt", "word_timestamps", "track", "start_seconds", "end_seconds",
    "client_metadata",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What became of a key."""

    #: A digest of all that the submission said; empty once the job was deleted.
    fingerprint: bytes
    #: May have been deleted since.
    job_id: uuid.UUID


def remember(
    session: Session, owner_id: uuid.UUID, key: str, memory: Memory, *, keep_seconds: float
) -> bool:
    """Tie a key to its job; False when somebody was faster, and nothing of it is to be kept."""
    values = {"fingerprint": memory.fingerprint, "job_id": memory.job_id, "keep": keep_seconds}
    row = session.execute(REMEMBER, {**_named(owner_id, key), **values}).first()
    return row is not None


def recall(
    session: Session, owner_id: uuid.UUID, key: str, *, keep_seconds: float
) -> Memory | None:
    """Find what became of a key; None for one that is new, or as good as new."""
    row = session.execute(FIND, {**_named(owner_id, key), "keep": keep_seconds}).first()
    return None if row is None else Memory(fingerprint=bytes(row.fingerprint), job_id=row.job_id)


def forget(session: Session, *, keep_seconds: float) -> None:
    """Delete the keys whose time is over."""
    session.execute(FORGET, {"keep": keep_seconds})


def _named(owner_id: uuid.UUID, key: str) -> dict[str, object]:
    return {"owner_id": owner_id, "key_sha256": hashlib.sha256(key.encode()).digest()}


def twin(session: Session, job: NewJob) -> uuid.UUID | None:
    """Find the owner's newest finished job of the same file, with the same wishes.

    One that was done with less than was asked for is none.
    """
    return _newest(
        session,
        job,
        TranscriptionJob.status == JobStatus.COMPLETED,
        TranscriptionJob.degraded.is_(False),
        _HAS_RESULT,
    )


def same(session: Session, job: NewJob, *, keep_seconds: float) -> uuid.UUID | None:
    """Find the owner's newest job of the same file, with the same wishes, that may yet be done.

    Until the transaction's end nobody else finds none: of two that come at once one makes the job.
    """
    wishes = [str(getattr(job, name)) for name in ASKED_FOR]
    digest = hashlib.sha256(repr(wishes).encode()).digest()
    number = int.from_bytes(digest[:8], signed=True)
    session.execute(select(func.pg_advisory_xact_lock(number)))
    return _newest(
        session,
        job,
        TranscriptionJob.created_at
        >= func.now() - func.make_interval(0, 0, 0, 0, 0, 0, keep_seconds),
        TranscriptionJob.cancel_requested_at.is_(None),
        or_(TranscriptionJob.status.in_((JobStatus.PENDING, JobStatus.PROCESSING)), _HAS_RESULT),
    )


def _newest(session: Session, job: NewJob, *conditions: ColumnElement[bool]) -> uuid.UUID | None:
    alike = (
        getattr(TranscriptionJob, name).is_not_distinct_from(getattr(job, name))
        for name in ASKED_FOR
    )
    return session.scalar(
        select(TranscriptionJob.id)
        .where(*alike, *conditions)
        .order_by(TranscriptionJob.created_at.desc(), TranscriptionJob.id.desc())
        .limit(1)
    )
