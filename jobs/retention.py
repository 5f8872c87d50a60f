"""Deletes what nobody needs any more, and finds what no row knows, and what rows know in vain.

How long an upload and a transcript are kept is a key's own or else the service's, and counts from
the job's end: from when its failure was resolved, where somebody has to see to that, and from when
it left quarantine. What a key says now holds for all that it submitted.
"""

from __future__ import annotations

import itertools
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import TextClause, bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY, UUID
from sqlalchemy.orm import Session
from sqlalchemy.types import Text

from audit.events import MAINTENANCE, record_each
from errors import UploadMissing
from jobs import deletion
from jobs.dead_letters import INPUT_FAULTS
from jobs.uploads import UploadStore
from models import AuditAction, DeletedBy

#: A file without a row is an upload whose submission is under way, or one that died there. It has
#: its name, and this age counts, from when its last byte was written: its row follows at once.
ORPHAN_SECONDS: Final = 3600.0
#: A row whose file is not seen is younger than any folder's cache of what it lacks.
UNSEEN_SECONDS: Final = 60.0
BATCH: Final = 500
#: Files are deleted while their rows are locked, so on a slow disk few at a time.
DELETE_BATCH: Final = 100
#: If so many uploads are looked for and none is there, it is the wrong folder.
TOO_MANY: Final = 20

_IDS: Final = bindparam("ids", type_=ARRAY(UUID(as_uuid=True)))
_FAULTS: Final = bindparam("input_faults", type_=ARRAY(Text))

#: Nobody has anything to do with it any more. Failures that lie in the input are their sender's.
_DONE_WITH: Final = """
       job.completed_at IS NOT NULL
   AND job.quarantined_at IS NULL
   AND (job.status <> 'failed'
        OR job.resolved_at IS NOT NULL
        OR job.failure_reason = ANY(:input_faults))"""

#: Its time is over. The first line is for the index: no job ends before it was submitted.
_DUE: Final = f"""
       job.created_at < now() - make_interval(secs => {{keep}})
   AND GREATEST(job.completed_at, job.resolved_at, job.released_at)
       < now() - make_interval(secs => {{keep}})
   AND {_DONE_WITH}
   AND {{held}}"""


_HAS_UPLOAD: Final = "job.upload_deleted_at IS NULL AND NOT job.upload_awaited"


def _due(column: str, held: str) -> str:
    """The ids of jobs whose time is over, locked; those that somebody holds are left."""
    by_key, by_default = (_DUE.format(keep=keep, held=held) for keep in ("kept.keep", ":default"))
    return f"""
SELECT job.id
  FROM (SELECT found.id, kept.keep
          FROM (SELECT id, COALESCE({column}, :default) AS keep FROM api_keys) AS kept
         CROSS JOIN LATERAL (
               SELECT job.id
                 FROM transcription_jobs AS job
                WHERE job.api_key_id = kept.id
                  AND {by_key}
                LIMIT :limit) AS found
         WHERE kept.keep > 0
         UNION ALL
       (SELECT job.id, CAST(:default AS double precision)
          FROM transcription_jobs AS job
         WHERE job.api_key_id IS NULL
           AND :default > 0
           AND {by_default}
         LIMIT :limit)
         LIMIT :limit) AS kept
  JOIN transcription_jobs AS job USING (id)
 WHERE {by_key}
 LIMIT :limit
   FOR UPDATE OF job SKIP LOCKED"""


#: Mark the uploads whose time is over.
EXPIRE_AUDIO: Final = text(f"""
UPDATE transcription_jobs
   SET upload_deleted_at = now()
 WHERE id IN ({_due("audio_retention_seconds", _HAS_UPLOAD)})
RETURNING id
""").bindparams(_FAULTS)

EXPIRED: Final = text(_due("transcript_retention_seconds", "true")).bindparams(_FAULTS)

#: Which of these jobs still have an upload, or will.
KNOWN: Final = text("""
SELECT id
  FROM transcription_jobs
 WHERE id = ANY(:ids)
   AND upload_deleted_at IS NULL
   AND NOT (upload_awaited AND completed_at IS NOT NULL)
""").bindparams(_IDS)

#: Jobs that should have an upload, by age: those that wait, and those that have ended.
_STORED: Final = """
SELECT id
  FROM transcription_jobs
 WHERE upload_deleted_at IS NULL
   AND NOT upload_awaited
   AND {which}
   AND id > :after
   AND created_at < now() - make_interval(secs => :unseen)
 ORDER BY id
 LIMIT :limit
"""
WAITING: Final = text(_STORED.format(which="status = 'pending'"))
ENDED: Final = text(_STORED.format(which="completed_at IS NOT NULL"))

#: Note that uploads are gone, but for failures that somebody may still send round again.
GONE: Final = text(f"""
UPDATE transcription_jobs AS job
   SET upload_deleted_at = now()
 WHERE job.id = ANY(:ids)
   AND job.upload_deleted_at IS NULL
   AND {_DONE_WITH}
RETURNING job.id
""").bindparams(_IDS, _FAULTS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """For how long what ended is kept, in seconds, where a key says nothing else; 0 is for ever."""

    audio_seconds: float = 0.0
    transcript_seconds: float = 0.0


def purge_uploads(session: Session, store: UploadStore, *, keep_seconds: float) -> int:
    """Delete the uploads whose time is over, a batch at a time; returns how many.

    Their rows are marked and locked first, in the caller's transaction: a job redriven at that
    moment either keeps its upload or is refused.
    """
    rows = session.execute(EXPIRE_AUDIO, _values(keep_seconds)).all()
    record_each(session, MAINTENANCE, AuditAction.UPLOAD_DELETED, [row.id for row in rows])
    for row in rows:
        store.delete(row.id)
    return len(rows)


def purge_jobs(session: Session, store: UploadStore, *, keep_seconds: float) -> int:
    """Delete the jobs whose transcript's time is over, a batch at a time; returns how many."""
    expired = session.scalars(EXPIRED, _values(keep_seconds)).all()
    # before they are gone, and with them whose they were
    record_each(session, MAINTENANCE, AuditAction.JOB_DELETED, expired)
    gone = deletion.delete(session, expired, by=DeletedBy.RETENTION)
    for job_id in gone:
        store.delete(job_id)
    return len(gone)


def stored_long_ago(
    store: UploadStore, seconds: float = ORPHAN_SECONDS, *, batch: int = BATCH
) -> Iterator[list[uuid.UUID]]:
    """Stored uploads that are old enough to be orphans, ``batch`` at a time."""
    stored = store.stored_before(time.time() - seconds)
    while ids := list(itertools.islice(stored, batch)):
        yield ids


def orphans(session: Session, job_ids: Sequence[uuid.UUID]) -> set[uuid.UUID]:
    """Those of these uploads that no job has."""
    return {*job_ids} - {*session.scalars(KNOWN, {"ids": list(job_ids)})}


def should_be_stored(
    session: Session, which: TextClause, *, after: uuid.UUID, limit: int = BATCH
) -> Sequence[uuid.UUID]:
    """Jobs whose upload should be there, in the order of their ids.

    Args:
        which: ``WAITING`` or ``ENDED``.
    """
    values = {"after": after, "unseen": UNSEEN_SECONDS, "limit": limit}
    return session.scalars(which, values).all()


def missing(store: UploadStore, job_ids: Sequence[uuid.UUID]) -> list[uuid.UUID]:
    """Those of these jobs whose upload is not there.

    Raises:
        StorageUnavailable: None can be looked up.
    """
    return [job_id for job_id in job_ids if not _is_there(store, job_id)]


def note_gone(session: Session, job_ids: Sequence[uuid.UUID]) -> int:
    """Note of jobs that have ended that their upload is gone; returns of how many."""
    values = {"ids": list(job_ids), "input_faults": list(INPUT_FAULTS)}
    return len(session.execute(GONE, values).all())


def _values(keep_seconds: float) -> dict[str, object]:
    return {"default": keep_seconds, "limit": DELETE_BATCH, "input_faults": list(INPUT_FAULTS)}


def _is_there(store: UploadStore, job_id: uuid.UUID) -> bool:
    try:
        store.find(job_id)
    except UploadMissing:
        return False
    return True
