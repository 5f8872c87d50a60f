"""Waits that PostgreSQL's clock left in the future when it was set back.

All times of a job are PostgreSQL's own, and a job begins no sooner than its ``not_before``. Set
back by two hours, that clock would make everybody wait two hours who was due a moment ago. No
clocks are compared here: a wait that is longer than any that the job can have been given is proof
enough, whoever was or was not running when the clock was set.
"""

from collections.abc import Sequence
from typing import Final

from sqlalchemy import bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Session
from sqlalchemy.types import Text

from jobs import dispatching
from jobs.lifecycle import Backoff

#: Give every job that waits for too long the longest wait that it can have been given. One that
#: was never tried was given none. The second is for clocks that are being nudged.
SHORTEN: Final = text("""
UPDATE transcription_jobs AS job
   SET not_before = now() + longest.pause,
       dispatch_due_at = now() + longest.pause,
       dispatch_count = 0
  FROM (SELECT id,
               make_interval(secs => CASE
                   WHEN faults = 0 THEN 0
                   ELSE LEAST(:cap, :base * power(2, LEAST(faults - 1, 30)))
               END) AS pause
          FROM (SELECT id, attempt + put_off_count + crash_count + solo_crash_count AS faults
                  FROM transcription_jobs
                 WHERE status = 'pending'
                   AND NOT upload_awaited
                   AND lane = ANY(:lanes)
                   AND not_before > now() + interval '1 second') AS waiting) AS longest
 WHERE job.id = longest.id
   AND job.status = 'pending'
   AND job.not_before > now() + longest.pause + interval '1 second'
RETURNING job.id
""").bindparams(bindparam("lanes", type_=ARRAY(Text)))


def shorten_waits(session: Session, *, lanes: Sequence[str], longest: Backoff) -> int:
    """Put right the waits that a clock which was set back made too long; returns how many.

    Args:
        longest: Pauses that no error exceeds.
    """
    values = {"lanes": list(lanes), "base": longest.base_seconds, "cap": longest.cap_seconds}
    shortened = len(session.execute(SHORTEN, values).all())
    if shortened:
        # when a message counts as lost lies too far ahead as well
        dispatching.redispatch_all(session)
    return shortened
