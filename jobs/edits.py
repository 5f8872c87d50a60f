"""What owners may change of a job beside its life: wishes, notes, its existence.

None of these is a transition; those are in ``jobs.lifecycle``. Nothing here commits.
"""

from __future__ import annotations

import uuid
from typing import Any, Final

from sqlalchemy import ColumnElement, text, update
from sqlalchemy.orm import Session

from jobs.quotas import AUDIO_WINDOW_SECONDS
from models import JobStatus, Priority, TranscriptionJob

#: Delete a job; what it cost of its key's hour of audio still counts.
DELETE: Final = text("""
WITH deleted AS (
    DELETE FROM transcription_jobs
     WHERE id = :job_id
       AND (CAST(:owner_id AS uuid) IS NULL OR owner_id = :owner_id)
    RETURNING id, api_key_id, created_at, started_at, status, audio_seconds, audio_estimated
), spent AS (
    INSERT INTO spent_audio (job_id, api_key_id, submitted_at, audio_seconds)
    SELECT id, api_key_id, created_at, audio_seconds
      FROM deleted
     WHERE api_key_id IS NOT NULL
       AND audio_seconds > 0
       AND started_at IS NOT NULL
       AND NOT (status = 'failed' AND audio_estimated)
       AND created_at > now() - make_interval(secs => :window)
)
SELECT id FROM deleted
""")


def set_priority(
    session: Session, job_id: uuid.UUID, priority: Priority, *, owner_id: uuid.UUID | None
) -> bool:
    """Change the priority of a job that waits, and make it due for dispatch into its new lane.

    Returns:
        False when there is no such job, or it waits no longer.
    """
    statement = (
        update(TranscriptionJob)
        .where(
            TranscriptionJob.status == JobStatus.PENDING,
            TranscriptionJob.id == job_id,
            *_of(owner_id),
        )
        .values(priority=priority, dispatch_due_at=TranscriptionJob.not_before, dispatch_count=0)
        .returning(TranscriptionJob.id)
    )
    return session.scalar(statement) is not None


def set_metadata(
    session: Session,
    job_id: uuid.UUID,
    client_metadata: dict[str, Any],
    *,
    owner_id: uuid.UUID | None,
) -> bool:
    """Replace the client's own data; returns whether there is such a job."""
    statement = (
        update(TranscriptionJob)
        .where(TranscriptionJob.id == job_id, *_of(owner_id))
        .values(client_metadata=client_metadata)
        .returning(TranscriptionJob.id)
    )
    return session.scalar(statement) is not None


def delete_job(session: Session, job_id: uuid.UUID, *, owner_id: uuid.UUID | None) -> bool:
    """Delete a job in any status, with its result and errors; returns whether there was one.

    A worker that has it in hand loses its lease: its next write finds no row, and it stops.
    """
    values = {"job_id": job_id, "owner_id": owner_id, "window": AUDIO_WINDOW_SECONDS}
    return session.execute(DELETE, values).first() is not None


def _of(owner_id: uuid.UUID | None) -> list[ColumnElement[bool]]:
    return [] if owner_id is None else [TranscriptionJob.owner_id == owner_id]
