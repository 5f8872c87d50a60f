"""What running processes say of themselves: rows that the web process reads."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
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
INSERT INTO workers
       (name, role, version, queues, slots, running, draining_since, begun, idle_since,
        clock_ahead_seconds, pool, audit_broken, audit_broken_since)
VALUES (:name, :role, :version, :queues, :slots, :running, CASE WHEN :draining THEN now() END,
        :begun,
        CASE WHEN :running < :slots THEN now() END,
        EXTRACT(EPOCH FROM to_timestamp(:clock) - clock_timestamp()), :pool,
        :audit_broken, CASE WHEN :audit_broken IS NOT NULL THEN now() END)
ON CONFLICT (name) DO UPDATE
   SET seen_at = now(),
       running = excluded.running,
       draining_since = COALESCE(workers.draining_since, excluded.draining_since),
       begun = excluded.begun,
       idle_since = CASE WHEN excluded.idle_since IS NOT NULL
                         THEN CASE WHEN excluded.begun = workers.begun
                                   THEN COALESCE(workers.idle_since, excluded.idle_since)
                                   ELSE excluded.idle_since END END,
       clock_ahead_seconds = excluded.clock_ahead_seconds,
       pool = excluded.pool,
       audit_broken = excluded.audit_broken,
       audit_broken_since = COALESCE(workers.audit_broken_since, excluded.audit_broken_since)
""").bindparams(
    bindparam("queues", type_=ARRAY(Text)),
    bindparam("pool", type_=JSONB),
    bindparam("audit_broken", type_=Text),
)

#: Its row stays a while: whoever comes next is waited for before anybody calls it missing.
LEAVE: Final = text("UPDATE workers SET left_at = now(), running = 0 WHERE name = :name")

SLOTS: Final = text("""
SELECT COALESCE(sum(slots), 0)
  FROM workers
 WHERE role = 'worker'
   AND draining_since IS NULL
   AND left_at IS NULL
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
    #: Of the service.
    version: str
    queues: Sequence[str]
    #: Jobs that it can run at once.
    slots: int
    running: int = 0
    draining: bool = False
    #: Attempts that it has begun since its start.
    begun: int = 0
    #: Statistics of its model pool.
    pool: dict[str, Any] = field(default_factory=dict)
    #: What it found wrong with the chain of audit events.
    audit_broken: str | None = None


def announce(
    session: Session, state: WorkerState, *, clock: Callable[[], float] = time.time
) -> None:
    """Say how a process is; to be repeated, since silence means that it is gone."""
    values = {name: getattr(state, name) for name in WorkerState.__slots__}
    session.connection()  # what connecting takes is no difference between clocks
    session.execute(ANNOUNCE, {**values, "queues": list(state.queues), "clock": clock()})


def leave(session: Session, name: str) -> None:
    """Note that a process stops, and in good order."""
    session.execute(LEAVE, {"name": name})


def forget_silent(session: Session) -> None:
    """Delete the rows of processes that are gone."""
    session.execute(FORGET, {"forget": FORGET_SECONDS, "silent": SILENT_SECONDS})


def live_slots(session: Session) -> int:
    """How many jobs all living workers can run at once."""
    return int(session.execute(SLOTS, {"silent": SILENT_SECONDS}).scalar_one())
