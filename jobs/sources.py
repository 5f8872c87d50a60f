"""Uploads that are to be fetched from elsewhere: taken, told of, brought. Nothing here commits.

Each try has a holder of its own, whom every write names: whoever was taken for lost changes
nothing. How a job fails for its upload is in ``jobs.lifecycle``, as all changes of a status are.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, UUID
from sqlalchemy.orm import Session

from errors import LeaseLost
from jobs import quotas
from jobs.lifecycle import Failure
from models import TranscriptionJob

#: What a job that waits for its upload is at.
FETCHING: Final = "fetching"
#: A try that has not been told of for so long was lost with its process.
TRY_SECONDS: Final = 60
#: Nothing is due later than so: what is, waits for a clock that was set back.
LONGEST_SECONDS: Final = 7_200.0
PRUNE_BATCH: Final = 100

_HOLDER: Final = bindparam("holder", type_=UUID(as_uuid=True))
_DUE: Final = "due_at NOT BETWEEN now() AND now() + make_interval(secs => :longest)"
_WANTED: Final = "job.status = 'pending' AND job.upload_awaited"

#: The job first, as whoever deletes it does: nobody then waits for the other.
_HELD: Final = """held AS (
    SELECT id
      FROM transcription_jobs
     WHERE id = :job_id
       FOR UPDATE
)"""

#: Take the one that is due for longest, of those that nobody else is taking.
CLAIM: Final = text(f"""
WITH due AS (
    SELECT sought.job_id
      FROM upload_fetches AS sought
      JOIN transcription_jobs AS job ON job.id = sought.job_id
     WHERE sought.{_DUE}
       AND {_WANTED}
       AND job.owner_id <> ALL(:busy)
     ORDER BY sought.due_at, sought.job_id
     LIMIT 1
       FOR UPDATE OF sought SKIP LOCKED
)
UPDATE upload_fetches AS sought
   SET holder = :holder,
       due_at = now() + make_interval(secs => :try_seconds)
  FROM due, transcription_jobs AS job
 WHERE sought.job_id = due.job_id
   AND job.id = due.job_id
RETURNING job.id AS job_id, owner_id, api_key_id, source_url AS url, upload_bytes AS here_bytes,
          source_bytes, etag, failures,
          GREATEST(0, EXTRACT(EPOCH FROM now() - began_at))::float AS age_seconds
""").bindparams(_HOLDER, bindparam("busy", type_=ARRAY(UUID(as_uuid=True))))

#: Whoever tries is alive, and has got so far. Who cancelled the job, or deleted it, is heard here.
TELL: Final = text(f"""
WITH {_HELD}, mine AS (
    UPDATE upload_fetches
       SET due_at = now() + make_interval(secs => :try_seconds),
           etag = :etag
      FROM held
     WHERE job_id = held.id
       AND holder = :holder
    RETURNING job_id
)
UPDATE transcription_jobs AS job
   SET upload_bytes = :here_bytes,
       source_bytes = :source_bytes
  FROM mine
 WHERE job.id = mine.job_id
   AND {_WANTED}
RETURNING job.id
""").bindparams(_HOLDER)

#: The upload is here: the job is like any other from now on.
BRING: Final = text(f"""
WITH {_HELD}, mine AS (
    DELETE FROM upload_fetches
     USING held
     WHERE job_id = held.id
       AND holder = :holder
    RETURNING job_id
)
UPDATE transcription_jobs AS job
   SET upload_awaited = false,
       upload_bytes = :upload_bytes,
       upload_sha256 = :sha256,
       source_bytes = :upload_bytes,
       audio_seconds = LEAST(:audio_seconds, end_seconds - start_seconds),
       not_before = now(),
       dispatch_due_at = now(),
       dispatch_count = 0,
       error_code = NULL,
       error_message = NULL
  FROM mine
 WHERE job.id = mine.job_id
   AND {_WANTED}
RETURNING job.id
""").bindparams(_HOLDER)

#: A try failed, and another one may do better.
PUT_BACK: Final = text(f"""
WITH {_HELD}, mine AS (
    UPDATE upload_fetches
       SET due_at = now() + make_interval(secs => :pause),
           holder = NULL,
           failures = :failures
      FROM held
     WHERE job_id = held.id
       AND holder = :holder
    RETURNING job_id
), noted AS (
    UPDATE transcription_jobs AS job
       SET error_code = :code,
           error_message = :message,
           upload_bytes = :here_bytes
      FROM mine
     WHERE job.id = mine.job_id
       AND {_WANTED}
    RETURNING job.id, attempt, lease_epoch
)
INSERT INTO error_logs (job_id, attempt, lease_epoch, error_code, error_message, context)
SELECT id, attempt, lease_epoch, :code, :message, :context
  FROM noted
RETURNING job_id
""").bindparams(_HOLDER, bindparam("context", type_=JSONB))

#: A stopping process gives its tries back.
HAND_BACK: Final = text("""
UPDATE upload_fetches
   SET due_at = now(),
       holder = NULL
 WHERE job_id = :job_id
   AND holder = :holder
""").bindparams(_HOLDER)

#: Those that nobody wants any more, and nobody is at.
PRUNE: Final = text(f"""
DELETE FROM upload_fetches AS sought
 WHERE job_id IN (SELECT job_id
                    FROM upload_fetches AS sought
                    JOIN transcription_jobs AS job ON job.id = sought.job_id
                   WHERE sought.{_DUE}
                     AND NOT ({_WANTED})
                   LIMIT :limit
                     FOR UPDATE OF sought SKIP LOCKED)
RETURNING job_id
""")

KEY_BYTES: Final = text("SELECT max_bytes_stored FROM api_keys WHERE id = :key_id").bindparams(
    bindparam("key_id", type_=UUID(as_uuid=True))
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """An upload that is to be fetched now."""

    job_id: uuid.UUID
    holder: uuid.UUID
    owner_id: uuid.UUID
    api_key_id: uuid.UUID | None
    #: May hold a secret.
    url: str
    #: What is here already, and safely so.
    here_bytes: int
    #: Of the whole; None where nobody knows.
    source_bytes: int | None
    #: Of what the part that is here is of; None where it cannot be gone on with.
    etag: str | None
    #: Tries in a row that brought nothing.
    failures: int
    #: Since it was submitted, or sent round again.
    age_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How far a try has got."""

    here_bytes: int
    source_bytes: int | None
    etag: str | None


def claim(session: Session, *, busy: Collection[uuid.UUID] = ()) -> Source | None:
    """Take what is due; it is ours as long as we ``tell`` of it every ``TRY_SECONDS``.

    Args:
        busy: Owners whose uploads are left.
    """
    holder = uuid.uuid4()
    row = session.execute(
        CLAIM,
        {
            "busy": list(busy),
            "holder": holder,
            "longest": LONGEST_SECONDS,
            "try_seconds": TRY_SECONDS,
        },
    ).first()
    return None if row is None else Source(holder=holder, **row._mapping)  # noqa: SLF001


def tell(session: Session, source: Source, standing: Standing) -> None:
    """Say how far a try has got, and that it goes on.

    Raises:
        LeaseLost: Nobody wants the upload any more, or somebody else fetches it.
    """
    _fenced(
        session,
        TELL,
        source,
        here_bytes=standing.here_bytes,
        source_bytes=standing.source_bytes,
        etag=standing.etag,
        try_seconds=TRY_SECONDS,
    )


def bring(
    session: Session, source: Source, *, upload_bytes: int, sha256: bytes, audio_seconds: float
) -> None:
    """Note that the upload is here, whole; its job is due.

    Args:
        audio_seconds: How long it is by its size, until somebody looks.

    Raises:
        LeaseLost: As ``tell``.
    """
    _fenced(
        session,
        BRING,
        source,
        upload_bytes=upload_bytes,
        sha256=sha256,
        audio_seconds=audio_seconds,
    )


def put_back(
    session: Session,
    source: Source,
    failure: Failure,
    *,
    here_bytes: int,
    failures: int,
    pause_seconds: float,
) -> bool:
    """Have the upload tried again later; whether that was still ours to say."""
    values = {
        **_named(source),
        "code": failure.code,
        "message": failure.message,
        "context": failure.context,
        "here_bytes": here_bytes,
        "failures": failures,
        "pause": min(pause_seconds, LONGEST_SECONDS),
    }
    return session.execute(PUT_BACK, values).first() is not None


def hand_back(session: Session, source: Source) -> None:
    """Have the upload fetched by somebody else, at once."""
    session.execute(HAND_BACK, _named(source))


def prune(session: Session) -> list[uuid.UUID]:
    """Forget a batch of those that nobody wants any more; returns their jobs."""
    values = {"longest": LONGEST_SECONDS, "limit": PRUNE_BATCH}
    return [row.job_id for row in session.execute(PRUNE, values)]


def is_wanted(session: Session, job_id: uuid.UUID) -> bool:
    """Whether the upload of a job is still to be fetched."""
    job = session.get(TranscriptionJob, job_id)
    return job is not None and job.upload_awaited and job.completed_at is None


def require_room(session: Session, source: Source, *, default_bytes: int) -> None:
    """Do nothing, or refuse what a key would store beyond its quota, this upload included.

    Args:
        default_bytes: What a key may store that has no quota of its own; 0 is any amount.

    Raises:
        QuotaExceeded: It is too much.
    """
    if source.api_key_id is None:
        return
    own = session.scalar(KEY_BYTES, {"key_id": source.api_key_id})
    if most := default_bytes if own is None else own:
        stored = session.execute(quotas.BYTES, {"key_id": source.api_key_id}).scalar_one()
        if stored > most:
            raise quotas.bytes_exceeded(most, stored)


def _named(source: Source) -> dict[str, Any]:
    return {"job_id": source.job_id, "holder": source.holder}


def _fenced(session: Session, statement: Any, source: Source, **values: object) -> None:
    if session.execute(statement, {**_named(source), **values}).first() is None:
        raise LeaseLost
