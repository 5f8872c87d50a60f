"""Deletes what nobody needs any more, and what no row knows."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Iterator
from typing import Final

from sqlalchemy import bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY, UUID
from sqlalchemy.orm import Session

from jobs.uploads import UploadStore

logger = logging.getLogger(__name__)

#: A file without a row is an upload whose submission is under way, or one that died there.
ORPHAN_SECONDS: Final = 3600.0
BATCH: Final = 500

EXPIRED: Final = text("""
SELECT id
  FROM transcription_jobs
 WHERE completed_at < now() - make_interval(secs => :older_than)
   AND upload_deleted_at IS NULL
 ORDER BY completed_at
 LIMIT :limit
""")

DELETED: Final = text("""
UPDATE transcription_jobs
   SET upload_deleted_at = now()
 WHERE id = ANY(:ids)
   AND completed_at IS NOT NULL
""").bindparams(bindparam("ids", type_=ARRAY(UUID(as_uuid=True))))

KNOWN: Final = text("SELECT id FROM transcription_jobs WHERE id = ANY(:ids)").bindparams(
    bindparam("ids", type_=ARRAY(UUID(as_uuid=True)))
)


def purge_uploads(session: Session, store: UploadStore, *, older_than_seconds: float) -> int:
    """Delete the uploads of jobs that ended long ago; returns how many.

    The row is marked first, in the caller's transaction: a job redriven at that moment either
    keeps its upload or is refused.
    """
    rows = session.execute(EXPIRED, {"older_than": older_than_seconds, "limit": BATCH}).all()
    ids = [row.id for row in rows]
    if not ids:
        return 0
    session.execute(DELETED, {"ids": ids})
    for job_id in ids:
        store.delete(job_id)
    return len(ids)


def delete_orphans(session: Session, store: UploadStore, *, now: float | None = None) -> int:
    """Delete stored uploads that no job knows; returns how many."""
    horizon = (time.time() if now is None else now) - ORPHAN_SECONDS
    deleted = 0
    for ids in _batches(store.stored_before(horizon)):
        known = set(session.scalars(KNOWN, {"ids": ids}))
        for job_id in set(ids) - known:
            store.delete(job_id)
            deleted += 1
    return deleted


def _batches(ids: Iterator[uuid.UUID]) -> Iterator[list[uuid.UUID]]:
    batch: list[uuid.UUID] = []
    for job_id in ids:
        batch.append(job_id)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch
