"""What a key has used of audio, jobs at once and stored bytes, counted from the rows themselves.

Nothing is counted beside the rows, so nothing can drift: an upload that is deleted, a job that
ends, and a length that turns out otherwise count from that moment on.
"""

from __future__ import annotations

import math
import uuid
from dataclasses import dataclass
from typing import Final

from sqlalchemy import bindparam, text
from sqlalchemy.dialects.postgresql import UUID
from sqlalchemy.orm import Session

from errors import QuotaExceeded

#: Audio is counted for so long after it was submitted.
AUDIO_WINDOW_SECONDS: Final = 3600
#: A header is read within seconds, and then a length is no guess any more.
SETTLED_SECONDS: Final = 5
#: When to ask again for what nobody can foresee: a job that ends, an upload that is deleted.
JOBS_RETRY_SECONDS: Final = 15
BYTES_RETRY_SECONDS: Final = 3600
#: Of two submissions with one key the second waits for the first; other keys have other locks.
LOCK_SEED: Final = 0x5354_5402

_KEY: Final = bindparam("key_id", type_=UUID(as_uuid=True))

HOLD: Final = text("SELECT pg_advisory_xact_lock(hashtextextended(CAST(:key_id AS text), :seed))")

#: Audio that counts: of jobs that were begun or may be, also when they were deleted since. One that
#: failed before anybody could tell its length cost next to nothing.
_AUDIO: Final = """
    SELECT created_at AS submitted_at,
           audio_seconds,
           probed_at IS NULL AND audio_estimated AND status = 'pending' AS unsettled
      FROM transcription_jobs
     WHERE api_key_id = :key_id
       AND created_at > now() - make_interval(secs => :window)
       AND NOT (status = 'cancelled' AND started_at IS NULL)
       AND NOT (status = 'failed' AND audio_estimated)
     UNION ALL
    SELECT submitted_at, audio_seconds, false
      FROM deleted_jobs
     WHERE api_key_id = :key_id
       AND submitted_at > now() - make_interval(secs => :window)
       AND NOT (status = 'cancelled' AND started_at IS NULL)
       AND NOT (status = 'failed' AND audio_estimated)"""

AUDIO: Final = text(f"""
SELECT COALESCE(sum(audio_seconds), 0) AS used,
       COALESCE(sum(audio_seconds) FILTER (WHERE unsettled), 0) AS unsettled
  FROM ({_AUDIO}) AS audio
""").bindparams(_KEY)

#: When so much will have left the hour that less than the limit is in it.
AUDIO_FREE: Final = text(f"""
SELECT EXTRACT(EPOCH FROM max(submitted_at) - now()) + :window
  FROM (SELECT submitted_at,
               sum(audio_seconds) OVER (ORDER BY submitted_at DESC) AS since
          FROM ({_AUDIO}) AS audio) AS summed
 WHERE since >= :limit
""").bindparams(_KEY)

JOBS: Final = text("""
SELECT (SELECT count(*)
          FROM transcription_jobs
         WHERE api_key_id = :key_id
           AND status = 'pending')
     + (SELECT count(*)
          FROM transcription_jobs
         WHERE api_key_id = :key_id
           AND status = 'processing')
""").bindparams(_KEY)

#: Of a resumable upload all counts that was announced, from then until it is a job or expires.
BYTES: Final = text("""
SELECT (SELECT COALESCE(sum(upload_bytes), 0)::bigint
          FROM transcription_jobs
         WHERE api_key_id = :key_id
           AND upload_deleted_at IS NULL)
     + (SELECT COALESCE(sum(size_bytes), 0)::bigint
          FROM resumable_uploads
         WHERE api_key_id = :key_id
           AND finished_at IS NULL)
""").bindparams(_KEY)


@dataclass(frozen=True, slots=True, kw_only=True)
class Quotas:
    """What a key may use; None is any amount."""

    audio_seconds_per_hour: float | None = None
    jobs_at_once: int | None = None
    bytes_stored: int | None = None

    def __bool__(self) -> bool:
        return self != Quotas()


@dataclass(frozen=True, slots=True, kw_only=True)
class Used:
    """What a key uses."""

    #: Submitted within the last hour.
    audio_seconds: float
    #: Pending or processing.
    jobs: int
    #: Of uploads that are kept, or announced.
    bytes_stored: int


def used(session: Session, key_id: uuid.UUID) -> Used:
    """Count what a key uses."""
    return Used(
        audio_seconds=_audio(session, key_id)[0],
        jobs=session.execute(JOBS, {"key_id": key_id}).scalar_one(),
        bytes_stored=session.execute(BYTES, {"key_id": key_id}).scalar_one(),
    )


def hold(session: Session, key_id: uuid.UUID) -> None:
    """Let no other submission with this key be counted until the transaction ends."""
    session.execute(HOLD, {"key_id": str(key_id), "seed": LOCK_SEED})


def require_room(session: Session, key_id: uuid.UUID, quotas: Quotas, *, upload_bytes: int) -> None:
    """Do nothing, or refuse one more job.

    A length is a guess until the header was read, so any recording is taken while something is
    left of the hour's audio: a key goes over by one recording at most, and waits for it after.

    Raises:
        QuotaExceeded: It would be too many or too much.
    """
    if (limit := quotas.jobs_at_once) is not None:
        jobs = session.execute(JOBS, {"key_id": key_id}).scalar_one()
        if jobs >= limit:
            raise _exceeded("jobs_at_once", limit, jobs, JOBS_RETRY_SECONDS)
    if (most := quotas.bytes_stored) is not None:
        stored = session.execute(BYTES, {"key_id": key_id}).scalar_one()
        if stored + upload_bytes > most:
            raise bytes_exceeded(most, stored)
    if (longest := quotas.audio_seconds_per_hour) is not None:
        audio, unsettled = _audio(session, key_id)
        if audio >= longest:
            wait = _audio_wait(session, key_id, longest)
            if audio - unsettled < longest:
                wait = min(wait, SETTLED_SECONDS)
            raise _exceeded("audio_seconds_per_hour", longest, audio, wait)


def bytes_exceeded(most: int, stored: int) -> QuotaExceeded:
    """The refusal of a key that stores too much."""
    return _exceeded("bytes_stored", most, stored, BYTES_RETRY_SECONDS)


def _audio(session: Session, key_id: uuid.UUID) -> tuple[float, float]:
    """Seconds that count, and how many of these are a guess that will soon be better."""
    row = session.execute(AUDIO, {"key_id": key_id, "window": AUDIO_WINDOW_SECONDS}).one()
    return row.used, row.unsettled


def _audio_wait(session: Session, key_id: uuid.UUID, limit: float) -> int:
    values = {"key_id": key_id, "window": AUDIO_WINDOW_SECONDS, "limit": limit}
    wait = session.execute(AUDIO_FREE, values).scalar_one()
    return AUDIO_WINDOW_SECONDS if wait is None else max(1, math.ceil(wait))


def _exceeded(quota: str, limit: float, amount: float, retry_seconds: int) -> QuotaExceeded:
    return QuotaExceeded(
        f"This key's quota of {quota} is used up.",
        quota=quota,
        limit=limit,
        used=amount,
        retry_after_seconds=retry_seconds,
    )
