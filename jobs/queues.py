"""Pausing queues. Dispatching and claiming heed the rows written here: see ``jobs.statements``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sqlalchemy import bindparam, exists, select, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Session
from sqlalchemy.types import Text

from models import PausedQueue

#: Pausing again keeps who paused it first, and takes a new note.
PAUSE: Final = text("""
INSERT INTO paused_queues (name, paused_by, note)
SELECT name, :paused_by, :note
  FROM unnest(:names) AS chosen (name)
ON CONFLICT (name) DO UPDATE
   SET paused_at = CASE WHEN paused_queues.resumed_at IS NULL THEN paused_queues.paused_at
                        ELSE excluded.paused_at END,
       paused_by = CASE WHEN paused_queues.resumed_at IS NULL THEN paused_queues.paused_by
                        ELSE excluded.paused_by END,
       note = CASE WHEN paused_queues.resumed_at IS NULL
                   THEN COALESCE(excluded.note, paused_queues.note)
                   ELSE excluded.note END,
       resumed_at = NULL
""").bindparams(
    bindparam("names", type_=ARRAY(Text)),
    bindparam("paused_by", type_=Text),
    bindparam("note", type_=Text),
)

#: What waits there is due at once: its messages, if it had any, came to nothing.
RESUME: Final = text("""
WITH resumed AS (
    UPDATE paused_queues
       SET resumed_at = now()
     WHERE name = ANY(:names)
       AND resumed_at IS NULL
    RETURNING name
)
UPDATE transcription_jobs
   SET dispatch_due_at = now(),
       dispatch_count = 0
 WHERE status = 'pending'
   AND lane IN (SELECT name FROM resumed)
   AND not_before <= now()
   AND dispatch_due_at > now()
""").bindparams(bindparam("names", type_=ARRAY(Text)))


def pause(
    session: Session, names: Sequence[str], *, paused_by: str | None, note: str | None
) -> None:
    """Let no further job of these queues start, from the commit on; what runs goes on."""
    session.execute(PAUSE, {"names": list(names), "paused_by": paused_by, "note": note})


def resume(session: Session, names: Sequence[str]) -> None:
    """Let the jobs of these queues start again; queues that are not paused stay as they are."""
    session.execute(RESUME, {"names": list(names)})


def paused(session: Session) -> dict[str, PausedQueue]:
    """Look up the queues that are paused, by name."""
    return {name: queue for name, queue in known(session).items() if queue.resumed_at is None}


def known(session: Session) -> dict[str, PausedQueue]:
    """Look up the queues that are paused or once were, by name."""
    return {queue.name: queue for queue in session.scalars(select(PausedQueue))}


def is_paused(session: Session, name: str) -> bool:
    query = exists().where(PausedQueue.name == name, PausedQueue.resumed_at.is_(None))
    return bool(session.scalar(select(query)))
