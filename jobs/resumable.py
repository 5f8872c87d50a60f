"""The rows of resumable uploads: whose they are, what is to become of them, and for how long.

Nothing here commits. An owner is part of every query: somebody else's upload is as good as none.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import bindparam, func, select, text
from sqlalchemy.dialects.postgresql import ARRAY, UUID
from sqlalchemy.orm import Session

from errors import NotFound, QuotaExceeded
from jobs.parts import NOT_FOUND
from models import ResumableUpload

#: Of two announcements of one owner the second waits for the first.
LOCK_SEED: Final = 0x5354_5403
#: When to ask again for what nobody can foresee: an upload that is finished, or expires.
RETRY_SECONDS: Final = 60
#: A row is written after its part: one whose part is not seen is younger than any folder's cache.
UNSEEN_SECONDS: Final = 60.0
BATCH: Final = 500

_IDS: Final = bindparam("ids", type_=ARRAY(UUID(as_uuid=True)))
_ID: Final = bindparam("id", type_=UUID(as_uuid=True))

HOLD: Final = text("SELECT pg_advisory_xact_lock(hashtextextended(CAST(:owner_id AS text), :seed))")

UNFINISHED: Final = text("""
SELECT count(*)
  FROM resumable_uploads
 WHERE owner_id = :owner_id
   AND finished_at IS NULL
   AND expires_at > now()
""").bindparams(bindparam("owner_id", type_=UUID(as_uuid=True)))

#: Until it is a job: what was finished keeps its time.
EXTEND: Final = text("""
UPDATE resumable_uploads
   SET expires_at = now() + make_interval(secs => :keep),
       checked_from = :checked_from
 WHERE id = :id
   AND finished_at IS NULL
RETURNING expires_at
""").bindparams(_ID)

#: Of two that come at once the second waits for the first one's commit, and then finds nothing.
FINISH: Final = text("""
UPDATE resumable_uploads
   SET finished_at = now()
 WHERE id = :id
   AND finished_at IS NULL
RETURNING id
""").bindparams(_ID)

SETTLE: Final = text("""
UPDATE resumable_uploads
   SET finished_at = COALESCE(finished_at, now()),
       job_id = COALESCE(job_id, :job_id)
 WHERE id = :id
""").bindparams(_ID, bindparam("job_id", type_=UUID(as_uuid=True)))

EXPIRE: Final = text("""
DELETE FROM resumable_uploads
 WHERE id IN (SELECT id
                FROM resumable_uploads
               WHERE expires_at < now()
               LIMIT :limit
                 FOR UPDATE SKIP LOCKED)
RETURNING id
""")

#: Which of these still need their part.
KNOWN: Final = text("""
SELECT id
  FROM resumable_uploads
 WHERE id = ANY(:ids)
   AND finished_at IS NULL
""").bindparams(_IDS)

SHOULD_BE_THERE: Final = text("""
SELECT id
  FROM resumable_uploads
 WHERE finished_at IS NULL
   AND created_at < now() - make_interval(secs => :unseen)
   AND id > :after
 ORDER BY id
 LIMIT :limit
""").bindparams(bindparam("after", type_=UUID(as_uuid=True)))

FORGET: Final = text("""
DELETE FROM resumable_uploads
 WHERE id = ANY(:ids)
   AND finished_at IS NULL
RETURNING id
""").bindparams(_IDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewUpload:
    """What an upload is to be."""

    id: uuid.UUID
    owner_id: uuid.UUID
    api_key_id: uuid.UUID | None
    batch_id: uuid.UUID | None
    idempotency_key: str | None
    size_bytes: int
    filename: str
    said: Mapping[str, str]
    metadata_sent: str | None


def create(
    session: Session, wanted: NewUpload, *, keep_seconds: float, most: int
) -> ResumableUpload:
    """Add an upload.

    Args:
        keep_seconds: It expires when nothing comes for so long.
        most: So many of one owner are unfinished at a time.

    Raises:
        QuotaExceeded: It would be one too many.
    """
    require_room(session, wanted.owner_id, most=most)
    upload = ResumableUpload(
        id=wanted.id,
        owner_id=wanted.owner_id,
        api_key_id=wanted.api_key_id,
        batch_id=wanted.batch_id,
        idempotency_key=wanted.idempotency_key,
        size_bytes=wanted.size_bytes,
        client_filename=wanted.filename,
        said=dict(wanted.said),
        metadata_sent=wanted.metadata_sent,
        expires_at=func.now() + func.make_interval(0, 0, 0, 0, 0, 0, keep_seconds),
    )
    session.add(upload)
    session.flush()
    session.refresh(upload)
    return upload


def require_room(session: Session, owner_id: uuid.UUID, *, most: int) -> None:
    """Do nothing, or refuse one more unfinished upload; nobody else is counted until the end.

    Raises:
        QuotaExceeded: It would be one too many.
    """
    session.execute(HOLD, {"owner_id": str(owner_id), "seed": LOCK_SEED})
    unfinished = session.execute(UNFINISHED, {"owner_id": owner_id}).scalar_one()
    if unfinished >= most:
        raise QuotaExceeded(
            "There are too many unfinished uploads.",
            quota="unfinished_uploads",
            limit=most,
            used=unfinished,
            retry_after_seconds=RETRY_SECONDS,
        )


def find(
    session: Session, upload_id: uuid.UUID, *, owner_id: uuid.UUID | None, hold: bool = False
) -> ResumableUpload:
    """Look an upload up.

    Args:
        owner_id: Whose it must be; None for anybody's.
        hold: Wait for whoever changes it, and let nobody else until the transaction's end.

    Raises:
        NotFound: There is none, it is somebody else's, or its time is over.
    """
    query = select(ResumableUpload).where(
        ResumableUpload.id == upload_id, ResumableUpload.expires_at > func.now()
    )
    if owner_id is not None:
        query = query.where(ResumableUpload.owner_id == owner_id)
    if hold:
        query = query.with_for_update()
    upload = session.scalar(query.execution_options(populate_existing=True))
    if upload is None:
        raise NotFound(NOT_FOUND)
    return upload


def extend(
    session: Session,
    upload_id: uuid.UUID,
    *,
    keep_seconds: float,
    checked_from: int | None = None,
) -> datetime:
    """Let it expire later; returns when.

    Args:
        checked_from: What comes from there on is to be checked before it counts.

    Raises:
        NotFound: It is gone, or a job already.
    """
    values = {"id": upload_id, "keep": keep_seconds, "checked_from": checked_from}
    expires_at: datetime | None = session.execute(EXTEND, values).scalar()
    if expires_at is None:
        raise NotFound(NOT_FOUND)
    return expires_at


def finish(session: Session, upload_id: uuid.UUID) -> bool:
    """Take it for this transaction to make a job of; False where another one has."""
    return session.execute(FINISH, {"id": upload_id}).first() is not None


def settle(session: Session, upload_id: uuid.UUID, job_id: uuid.UUID) -> None:
    """Note which job it became."""
    session.execute(SETTLE, {"id": upload_id, "job_id": job_id})


# Maintenance


def expire(session: Session, *, limit: int = BATCH) -> Sequence[uuid.UUID]:
    """Forget the uploads whose time is over; returns whose parts are to be deleted then."""
    return session.scalars(EXPIRE, {"limit": limit}).all()


def orphans(session: Session, upload_ids: Iterable[uuid.UUID]) -> set[uuid.UUID]:
    """Those of these parts that no unfinished upload has."""
    ids = list(upload_ids)
    return {*ids} - {*session.scalars(KNOWN, {"ids": ids})}


def should_be_there(
    session: Session, *, after: uuid.UUID, limit: int = BATCH
) -> Sequence[uuid.UUID]:
    """Uploads whose part should be there, in the order of their ids."""
    values = {"after": after, "unseen": UNSEEN_SECONDS, "limit": limit}
    return session.scalars(SHOULD_BE_THERE, values).all()


def forget(session: Session, upload_ids: Iterable[uuid.UUID]) -> int:
    """Forget unfinished uploads whose parts are gone; returns how many."""
    return len(session.execute(FORGET, {"ids": list(upload_ids)}).all())
