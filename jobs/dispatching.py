"""Which of the jobs that wait are published next: in turn over the keys, and the oldest in time.

A message only rings: what is due again when nobody takes it is published again. Each verb is one
statement in the caller's transaction; nothing here commits.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY, UUID
from sqlalchemy.orm import Session

from jobs.lifecycle import Lane
from jobs.statements import NOT_PAUSED

#: Published: due again when nobody takes it, later each time.
_PUBLISHED = """dispatch_count = dispatch_count + 1,
       dispatch_due_at = now() + make_interval(
           secs => LEAST(:redispatch * power(2, LEAST(dispatch_count, 10)), 600))"""
_WAITED = "EXTRACT(EPOCH FROM now() - job.not_before)::float AS waited_seconds"

#: What one key has waiting in a lane, the oldest first. Jobs without a key are one key's together.
_OF_SHARER = """
                  FROM transcription_jobs
                 WHERE status = 'pending'
                   AND {key}
                   AND lane = :lane
                   AND not_before <= now()"""
_DUE = """
               (SELECT id, not_before {of}
                   AND dispatch_due_at <= now()
                   AND {wanted}
                 ORDER BY not_before, id
                 LIMIT :room)"""
_AHEAD = """
               (SELECT dispatch_due_at {of}
                   AND {wanted}
                 ORDER BY not_before, id
                 LIMIT :deep)"""


def _each_sharer(rows: str) -> str:
    own = rows.format(of=_OF_SHARER.format(key="api_key_id = sharers.id"), wanted="true")
    rest = rows.format(of=_OF_SHARER.format(key="api_key_id IS NULL"), wanted="sharers.id IS NULL")
    return f"{own} UNION ALL {rest}"


#: Choose what to publish next in one lane, turn by turn over the keys, and mark it published. A
#: key's turns count from what it has in hand already, running or as a message in the lane, and
#: one of twice the weight has two for another's one. Each key's oldest come from an index, so the
#: cost does not grow with the backlog.
DISPATCH: Final = text(f"""
WITH sharers AS (
    SELECT id, weight FROM api_keys
     UNION ALL
    SELECT NULL, 1
), running AS (
    SELECT api_key_id, count(*) AS jobs
      FROM transcription_jobs
     WHERE status = 'processing'
     GROUP BY api_key_id
), waiting AS (
    SELECT next.id,
           next.not_before,
           (next.turn + ahead.jobs + COALESCE(running.jobs, 0)) / sharers.weight AS turn
      FROM sharers
      LEFT JOIN running
        ON running.api_key_id IS NOT DISTINCT FROM sharers.id
     CROSS JOIN LATERAL (
        SELECT id, not_before, row_number() OVER (ORDER BY not_before, id) AS turn
          FROM ({_each_sharer(_DUE)}) AS oldest) AS next
     CROSS JOIN LATERAL (
        SELECT count(*) FILTER (WHERE dispatch_due_at > now()) AS jobs
          FROM ({_each_sharer(_AHEAD)}) AS oldest) AS ahead
     WHERE {NOT_PAUSED.format(lane=":lane")}
     ORDER BY turn, next.not_before, next.id
     LIMIT :room
), due AS (
    SELECT job.id
      FROM transcription_jobs AS job
      JOIN waiting USING (id)
     WHERE job.status = 'pending' AND job.dispatch_due_at <= now()
       FOR UPDATE OF job SKIP LOCKED
)
UPDATE transcription_jobs AS job
   SET {_PUBLISHED}
  FROM due
 WHERE job.id = due.id
RETURNING job.id, {_WAITED}
""")

#: Choose the one that has waited longest in a lane, published or not, if that is too long.
OVERTAKE: Final = text(f"""
UPDATE transcription_jobs AS job
   SET {_PUBLISHED}
  FROM (SELECT id
          FROM transcription_jobs
         WHERE status = 'pending'
           AND lane = :lane
           AND not_before < now() - make_interval(secs => :too_long)
           AND {NOT_PAUSED.format(lane=":lane")}
         ORDER BY not_before, id
         LIMIT 1
           FOR UPDATE SKIP LOCKED) AS oldest
 WHERE job.id = oldest.id
RETURNING job.id, {_WAITED}
""")

#: What was marked as published, but could not be.
UNDISPATCH: Final = text("""
UPDATE transcription_jobs
   SET dispatch_due_at = now()
 WHERE id = ANY(:ids)
   AND status = 'pending'
""").bindparams(bindparam("ids", type_=ARRAY(UUID(as_uuid=True))))

#: A submission published its job itself: the dispatcher need not do it again soon.
DISPATCHED: Final = text("""
UPDATE transcription_jobs
   SET dispatch_count = dispatch_count + 1,
       dispatch_due_at = now() + make_interval(secs => :redispatch)
 WHERE id = :job_id
   AND status = 'pending'
   AND dispatch_count = 0
""")

_LOST = """status = 'pending'
       AND dispatch_due_at > now()
       AND not_before <= now()"""

#: Redis lost its data: everything that waits is to be published again. What somebody else has
#: locked is named and left: they may be frozen, and all others would wait for them.
REDISPATCH_ALL: Final = text(f"""
WITH lost AS (
    SELECT id
      FROM transcription_jobs
     WHERE {_LOST}
       AND (CAST(:among AS uuid[]) IS NULL OR id = ANY(:among))
), free AS (
    SELECT id
      FROM transcription_jobs
     WHERE {_LOST}
       AND id IN (SELECT id FROM lost)
       FOR UPDATE SKIP LOCKED
), again AS (
    UPDATE transcription_jobs AS job
       SET dispatch_due_at = now(),
           dispatch_count = 0
      FROM free
     WHERE job.id = free.id
    RETURNING job.id
)
SELECT lost.id, again.id IS NOT NULL AS again
  FROM lost
  LEFT JOIN again USING (id)
""").bindparams(bindparam("among", type_=ARRAY(UUID(as_uuid=True))))


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """A job to publish."""

    job_id: uuid.UUID
    waited_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Redispatched:
    """What became of the jobs whose messages were lost."""

    #: So many are due.
    count: int
    #: These are not: somebody held their rows.
    held: frozenset[uuid.UUID]


def dispatch(
    session: Session, lane: Lane, *, room: int, redispatch_seconds: float, window: int = 0
) -> list[Due]:
    """Choose up to ``room`` jobs of a lane to publish, in turn over the keys, and mark them.

    Args:
        window: How many messages the lane holds at most: those of a key count as turns it had.
    """
    values = {"lane": lane, "room": room, "deep": room + 2 * window}
    rows = session.execute(DISPATCH, {**values, "redispatch": redispatch_seconds})
    return [Due(job_id=row.id, waited_seconds=row.waited_seconds) for row in rows]


def overtake(
    session: Session, lane: Lane, *, too_long_seconds: float, redispatch_seconds: float
) -> Due | None:
    """Choose the job that has waited longest in a lane, if that is too long, and mark it.

    To be published in a better lane, whether or not its message lies in its own.
    """
    values = {"too_long": too_long_seconds, "redispatch": redispatch_seconds}
    row = session.execute(OVERTAKE, {"lane": lane, **values}).first()
    return None if row is None else Due(job_id=row.id, waited_seconds=row.waited_seconds)


def dispatched(session: Session, job_id: uuid.UUID, *, redispatch_seconds: float) -> None:
    """Note that a submission published its job itself."""
    session.execute(DISPATCHED, {"job_id": job_id, "redispatch": redispatch_seconds})


def undispatch(session: Session, job_ids: Sequence[uuid.UUID]) -> None:
    """Make jobs due again whose message could not be sent."""
    session.execute(UNDISPATCH, {"ids": list(job_ids)})


def redispatch_all(session: Session, *, among: Collection[uuid.UUID] | None = None) -> Redispatched:
    """Make everything that waits due again, because Redis lost its data.

    Args:
        among: Of these jobs alone.
    """
    values = {"among": None if among is None else list(among)}
    rows = session.execute(REDISPATCH_ALL, values).all()
    return Redispatched(
        count=sum(row.again for row in rows),
        held=frozenset(row.id for row in rows if not row.again),
    )
