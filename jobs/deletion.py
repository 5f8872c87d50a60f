"""Deleting jobs with all that they hold, and what is left to tell that they were there.

Nothing here commits, and no file is touched: whoever calls deletes the upload before the commit, so
that a store that is away leaves the row, and the job may be deleted again.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection
from typing import Final

from sqlalchemy import bindparam, select, text
from sqlalchemy.dialects.postgresql import ARRAY, UUID
from sqlalchemy.orm import Session

from models import DeletedBy, DeletedJob

_IDS: Final = bindparam("ids", type_=ARRAY(UUID(as_uuid=True)))

#: Wait for whoever writes to these jobs, so that what they wrote last is counted.
HOLD: Final = text("""
SELECT id
  FROM transcription_jobs
 WHERE id = ANY(:ids)
   AND (CAST(:owner_id AS uuid) IS NULL OR owner_id = :owner_id)
 ORDER BY id
   FOR UPDATE
""").bindparams(_IDS)

#: Results, windows and error logs go with their job, and what was delivered of it; what is still to
#: be delivered says nothing but how it ended. Of an idempotency key stays what keeps a
#: submission that is sent again from bringing the job back: the digest of a name.
DELETE: Final = text("""
WITH deleted AS (
    DELETE FROM transcription_jobs
     WHERE id = ANY(:ids)
    RETURNING id, owner_id, api_key_id, status, created_at, started_at, completed_at,
              audio_seconds, audio_estimated, upload_bytes
), emptied AS (
    UPDATE idempotency_keys
       SET fingerprint = ''
      FROM deleted
     WHERE job_id = deleted.id
), delivered AS (
    DELETE FROM webhook_deliveries AS delivery
     USING deleted
     WHERE delivery.job_id = deleted.id
       AND delivery.status <> 'pending'
)
INSERT INTO deleted_jobs
       (id, owner_id, api_key_id, status, submitted_at, started_at, ended_at, deleted_by,
        audio_seconds, audio_estimated, upload_bytes, segment_count, word_count)
SELECT id, owner_id, api_key_id,
       CASE WHEN completed_at IS NULL THEN 'cancelled' ELSE status END,
       deleted.created_at, started_at, COALESCE(completed_at, now()), :by,
       deleted.audio_seconds, audio_estimated, upload_bytes,
       COALESCE(jsonb_array_length(result.segments), windows.segments, 0),
       COALESCE(result.word_count, 0)
  FROM deleted
  LEFT JOIN transcription_results AS result ON result.job_id = deleted.id
  LEFT JOIN LATERAL (
       SELECT sum(jsonb_array_length(part.segments)) AS segments
         FROM transcription_windows AS part
        WHERE part.job_id = deleted.id) AS windows ON true
RETURNING id
""").bindparams(_IDS)


def delete(
    session: Session,
    job_ids: Collection[uuid.UUID],
    *,
    by: DeletedBy,
    owner_id: uuid.UUID | None = None,
) -> set[uuid.UUID]:
    """Delete jobs in any status with all that they hold; returns those that were there.

    A worker that has one in hand loses its lease: its next write finds no row, and it stops.

    Args:
        owner_id: Whose jobs they must be; None for anybody's.
    """
    held = session.scalars(HOLD, {"ids": list(job_ids), "owner_id": owner_id}).all()
    return {row.id for row in session.execute(DELETE, {"ids": list(held), "by": str(by)})}


def find(session: Session, job_id: uuid.UUID, *, owner_id: uuid.UUID | None) -> DeletedJob | None:
    """What is left of a job that was deleted; None if there was none, or it was somebody else's."""
    mine = [] if owner_id is None else [DeletedJob.owner_id == owner_id]
    return session.scalar(select(DeletedJob).where(DeletedJob.id == job_id, *mine))
