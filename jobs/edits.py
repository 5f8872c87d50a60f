"""What owners may change of a job beside its life: wishes, notes.

None of these is a transition; those are in ``jobs.lifecycle``. Nothing here commits.
"""

from __future__ import annotations

import uuid
from typing import Any

from sqlalchemy import ColumnElement, update
from sqlalchemy.orm import Session

from models import JobStatus, Priority, TranscriptionJob


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


def _of(owner_id: uuid.UUID | None) -> list[ColumnElement[bool]]:
    return [] if owner_id is None else [TranscriptionJob.owner_id == owner_id]
