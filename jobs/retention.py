"""Deletes what nobody needs any more, and what no row knows."""

from __future__ import annotations

import itertools
import time
import uuid
from collections.abc import Iterator, Sequence
from typing import Final

from sqlalchemy import bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY, UUID
from sqlalchemy.orm import Session

from audit.events import MAINTENANCE, record_each
from jobs.uploads import UploadStore
from models import AuditAction

#: A file without a row is an upload whose submission is under way, or one that died there.
ORPHAN_SECONDS: Final = 3600.0
BATCH: Final = 500

#: Mark the uploads whose time is over. Quarantined ones have all the time there is; rows that
#: somebody holds, such as a redrive, are left.
EXPIRE: Final = text("""
UPDATE transcription_jobs
   SET upload_deleted_at = now()
 WHERE id IN (SELECT id
                FROM transcription_jobs
               WHERE completed_at < now() - make_interval(secs => :older_than)
                 AND upload_deleted_at IS NULL
                 AND quarantined_at IS NULL
                 AND (released_at IS NULL
                      OR released_at < now() - make_interval(secs => :older_than))
               ORDER BY completed_at
               LIMIT :limit
                 FOR UPDATE SKIP LOCKED)
RETURNING id
""")

#: Which of these jobs still have an upload.
KNOWN: Final = text("""
SELECT id
  FROM transcription_jobs
 WHERE id = ANY(:ids)
   AND upload_deleted_at IS NULL
""").bindparams(bindparam("ids", type_=ARRAY(UUID(as_uuid=True))))


def purge_uploads(session: Session, store: UploadStore, *, older_than_seconds: float) -> int:
    """Delete the uploads of jobs that ended long ago, a batch at a time; returns how many.

    Their rows are marked and locked first, in the caller's transaction: a job redriven at that
    moment either keeps its upload or is refused.
    """
    rows = session.execute(EXPIRE, {"older_than": older_than_seconds, "limit": BATCH}).all()
    record_each(session, MAINTENANCE, AuditAction.UPLOAD_DELETED, [row.id for row in rows])
    for row in rows:
        store.delete(row.id)
    return len(rows)


def stored_long_ago(store: UploadStore, *, batch: int = BATCH) -> Iterator[list[uuid.UUID]]:
    """Stored uploads that are old enough to be orphans, ``batch`` at a time."""
    stored = store.stored_before(time.time() - ORPHAN_SECONDS)
    while ids := list(itertools.islice(stored, batch)):
        yield ids


def orphans(session: Session, job_ids: Sequence[uuid.UUID]) -> set[uuid.UUID]:
    """Those of these uploads that no job has."""
    return {*job_ids} - {*session.scalars(KNOWN, {"ids": list(job_ids)})}
