"""What running processes say of themselves: rows that the web process reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import Session
from sqlalchemy.types import Text

#: A process that was silent for so long no longer counts; its row is deleted later.
SILENT_SECONDS: Final = 60.0
FORGET_SECONDS: Final = 3600.0

ANNOUNCE: Final = text("""
INSERT INTO workers (name, role, queues, slots, running, draining, pool)
VALUES (:name, :role, :queues, :slots, :running, :draining, :pool)
ON CONFLICT (name) DO UPDATE
   SET seen_at = now(),
       running = excluded.running,
       draining = excluded.draining,
       pool = excluded.pool
""").bindparams(bindparam("queues", type_=ARRAY(Text)), bindparam("pool", type_=JSONB))

SLOTS: Final = text("""
SELECT COALESCE(sum(slots), 0)
  FROM workers
 WHERE role = 'worker'
   AND NOT draining
   AND abs(EXTRACT(EPOCH FROM now() - seen_at)) < :silent
""")

#: Who was seen in the future was seen before PostgreSQL's clock was set back, and writes again soon
#: if it lives.
FORGET: Final = text("""
DELETE FROM workers
 WHERE seen_at NOT BETWEEN now() - make_interval(secs => :forget)
                       AND now() + make_interval(secs => :silent)
""")


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerState:
    """One process, at one moment."""

    #: host:pid:random, unique to one run of one process.
    name: str
    #: ``worker`` or ``maintenance``.
    role: str
    queues: Sequence[str]
    #: Jobs that it can run at once.
    slots: int
    running: int = 0
    draining: bool = False
    #: Statistics of its model pool.
    pool: dict[str, Any] = field(default_factory=dict)


def announce(session: Session, state: WorkerState) -> None:
    """Say how a process is; to be repeated, since silence means that it is gone."""
    values = {name: getattr(state, name) for name in WorkerState.__slots__}
    session.execute(ANNOUNCE, {**values, "queues": list(state.queues)})


def leave(session: Session, name: str) -> None:
    """Take a process that stops off the list."""
    session.execute(text("DELETE FROM workers WHERE name = :name"), {"name": name})


def forget_silent(session: Session) -> None:
    """Delete the rows of processes that died without taking leave."""
    session.execute(FORGET, {"forget": FORGET_SECONDS, "silent": SILENT_SECONDS})


def live_slots(session: Session) -> int:
    """How many jobs all living workers can run at once."""
    return int(session.execute(SLOTS, {"silent": SILENT_SECONDS}).scalar_one())
