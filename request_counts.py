"""Requests of a key counted in PostgreSQL: exactly, across processes, while Redis is away."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Final

from sqlalchemy import bindparam, text
from sqlalchemy.dialects.postgresql import UUID
from sqlalchemy.orm import Session

#: The longest window that can be set: counts are kept for two of them.
LONGEST_SECONDS: Final = 86_400

#: Count a request, unless the window before this one, by the share of it that is still less than
#: a window ago, and this one hold too many. The row's lock lets no two pass for one.
HIT: Final = text("""
WITH moment AS (
    SELECT to_timestamp(at - elapsed) AS window_start, :window - elapsed AS left_seconds
      FROM (SELECT at, at - floor(at / :window) * :window AS elapsed
              FROM (SELECT EXTRACT(EPOCH FROM now())::double precision AS at) AS clock) AS parts
), before AS (
    SELECT COALESCE(sum(cost), 0) AS cost,
           floor(COALESCE(sum(cost), 0) * max(left_seconds) / :window) AS carried
      FROM moment
      LEFT JOIN request_counts
        ON api_key_id = :key_id
       AND request_counts.window_start = moment.window_start - make_interval(secs => :window)
), counted AS (
    INSERT INTO request_counts AS mine (api_key_id, window_start, cost)
    SELECT :key_id, window_start, :cost
      FROM moment, before
     WHERE carried + :cost <= :limit
    ON CONFLICT (api_key_id, window_start) DO UPDATE
       SET cost = mine.cost + :cost
     WHERE mine.cost + :cost + (SELECT carried FROM before) <= :limit
    RETURNING cost
)
SELECT before.cost AS previous,
       moment.left_seconds,
       (SELECT cost FROM counted) AS counted,
       (SELECT cost
          FROM request_counts
         WHERE api_key_id = :key_id
           AND window_start = moment.window_start) AS found
  FROM moment, before
""").bindparams(bindparam("key_id", type_=UUID(as_uuid=True)))

FORGET: Final = text("""
DELETE FROM request_counts
 WHERE window_start < now() - make_interval(secs => :seconds)
""")


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """What a key's requests cost in this window, and in the one before."""

    allowed: bool
    previous: int
    current: int
    #: Until this window ends. By then all of the one before has left the count, evenly.
    left_seconds: float


def hit(
    session: Session, key_id: uuid.UUID, *, limit: int, window_seconds: int, cost: int = 1
) -> Count:
    """Count a request if all of its cost is within the limit."""
    values = {"key_id": key_id, "limit": limit, "window": window_seconds, "cost": cost}
    row = session.execute(HIT, values).one()
    return Count(
        allowed=row.counted is not None,
        previous=row.previous,
        current=row.counted or row.found or 0,
        left_seconds=row.left_seconds,
    )


def forget_old(session: Session) -> None:
    """Delete counts that no window reaches any more."""
    session.execute(FORGET, {"seconds": 2 * LONGEST_SECONDS})
