"""The life of a job. Every change of its status happens here and nowhere else.

Each verb is one statement (see ``jobs.statements``) in the caller's transaction; nothing here
commits. A worker's verbs take its ``Lease`` and raise ``LeaseLost`` when it is no longer valid.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from sqlalchemy import Row, TextClause, insert
from sqlalchemy.orm import Session

from errors import CancelRequested, LeaseLost, Occupied, UploadMissing, WorkerLost
from jobs import statements
from models import (
    NOT_YET,
    WISHES_VERSION,
    JobStatus,
    TranscriptionJob,
    TranscriptionResult,
    UploadFetch,
)
from retries import Policy
from speech.transcript import Mode, Part, Transcript, Window, storable_text

#: See ``step_aside``.
PATIENCE_SECONDS: Final = 0.5
AGAIN_SECONDS: Final = 30.0
#: Jobs that ``claim_next`` looks at: so many workers may claim at once and each find one.
CANDIDATES: Final = 64

Lane = Literal["high", "normal", "retry"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NewJob:
    """What a submission says."""

    id: uuid.UUID
    owner_id: uuid.UUID
    engine_name: str
    model_name: str
    client_filename: str
    upload_bytes: int
    upload_sha256: bytes
    max_attempts: int
    api_key_id: uuid.UUID | None = None
    batch_id: uuid.UUID | None = None
    priority: str = "normal"
    language: str | None = None
    translate: bool = False
    initial_prompt: str | None = None
    word_timestamps: bool = False
    track: int | None = None
    start_seconds: float = 0.0
    end_seconds: float | None = None
    #: The least that knows all of these wishes: see ``models.WISHES_VERSION``.
    wishes_version: int = 1
    client_metadata: dict[str, Any] = field(default_factory=dict)
    #: To be told of its end.
    callback_url: str | None = None
    #: Where the upload is to be fetched from, if it is: then nobody knows its bytes and digest.
    source_url: str | None = None
    #: Guessed from the upload's size.
    audio_seconds: float | None = None
    warnings: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """The right of one worker to one job. ``epoch`` fences: it is never given out twice."""

    job_id: uuid.UUID
    epoch: int
    worker_name: str
    #: Which attempt this is, from 1.
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimedJob:
    """What a worker needs to know to do a job."""

    lease: Lease
    owner_id: uuid.UUID
    max_attempts: int
    crash_count: int
    isolate: bool
    priority: str
    engine_name: str
    model_name: str
    language: str | None
    translate: bool
    initial_prompt: str | None
    word_timestamps: bool
    part: Part
    warnings: tuple[str, ...]
    upload_bytes: int
    upload_sha256: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Beat:
    """What a heartbeat says of one lease."""

    lease: Lease
    #: Share done, 0 to 1.
    progress: float
    step: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why an attempt failed."""

    code: str
    message: str
    traceback: str | None = None
    context: dict[str, Any] = field(default_factory=dict)
    fallbacks: Sequence[dict[str, Any]] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a job was done."""

    #: Engine, model, device and number format: see ``ModelKey``.
    model_used: str
    mode: Mode = Mode.EXACT
    degraded: bool = False
    fallbacks: Sequence[dict[str, Any]] = ()
    warnings: Sequence[str] = ()
    #: How loud the audio is from beginning to end: see ``speech.peaks``.
    peaks: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Pause after the nth time: anything up to base * 2^(n - 1), and never more than cap.

    Source: "full jitter" in AWS's "Exponential Backoff And Jitter": jobs that failed together come
    back spread over all of the pause, so that what they need is not overrun again.
    """

    base_seconds: float
    cap_seconds: float

    @classmethod
    def of(cls, policy: Policy, *, base_seconds: float, cap_seconds: float) -> Backoff:
        """Scale a policy's pauses by the settings."""
        return cls(
            base_seconds=policy.pause * base_seconds, cap_seconds=policy.longest * cap_seconds
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Redrive:
    """How failed jobs are sent round again; what is None stays as it was asked for."""

    max_attempts: int
    #: Who does it: the shown name of an API key, or ``cli``.
    by: str | None = None
    #: Another model or engine: what was transcribed so far is dropped.
    model_name: str | None = None
    engine_name: str | None = None
    priority: str | None = None
    #: What jobs of that model warn of.
    model_warnings: Sequence[str] = ()

    @property
    def notes(self) -> str:
        """What the errors before it are resolved with."""
        changed = (
            f"{name} {value}"
            for name, value in (
                ("model", self.model_name),
                ("engine", self.engine_name),
                ("priority", self.priority),
            )
            if value is not None
        )
        return ", ".join(("sent round again", *changed))


@dataclass(frozen=True, slots=True, kw_only=True)
class StillLease:
    """A lease whose heartbeat did not move: reaped if it still has not."""

    job_id: uuid.UUID
    epoch: int
    heartbeat: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reaped:
    """A job taken from a worker that is gone."""

    job_id: uuid.UUID
    status: JobStatus
    worker_name: str


def submit(session: Session, job: NewJob) -> TranscriptionJob:
    """Add a pending job, due for dispatch at once, or for fetching where it has a source."""
    values = {name: getattr(job, name) for name in NewJob.__slots__}
    values["warnings"] = list(job.warnings)
    if job.source_url is not None:
        values |= {"upload_awaited": True, "not_before": NOT_YET}
    row = session.scalars(insert(TranscriptionJob).values(values).returning(TranscriptionJob)).one()
    if row.upload_awaited:
        session.execute(insert(UploadFetch).values(job_id=row.id))
    return row


def claim(session: Session, job_id: uuid.UUID, worker_name: str) -> ClaimedJob | None:
    """Begin an attempt. None when the job is not there to be had: a stale or repeated message."""
    row = _first(
        session,
        statements.CLAIM,
        job_id=job_id,
        worker_name=worker_name,
        wishes_version=WISHES_VERSION,
    )
    return None if row is None else _claimed(row, worker_name)


def claim_next(session: Session, lanes: Sequence[str], worker_name: str) -> ClaimedJob | None:
    """Begin an attempt at the job that is due first. None when none is.

    Args:
        lanes: From which to take, the most urgent first.
    """
    row = _first(
        session,
        statements.CLAIM_NEXT,
        lanes=list(lanes),
        worker_name=worker_name,
        wishes_version=WISHES_VERSION,
        candidates=CANDIDATES,
    )
    return None if row is None else _claimed(row, worker_name)


def _claimed(row: Row[Any], worker_name: str) -> ClaimedJob:
    values = dict(row._mapping)  # noqa: SLF001 - SQLAlchemy's documented name
    lease = Lease(
        job_id=values.pop("id"),
        epoch=values.pop("lease_epoch"),
        worker_name=worker_name,
        attempt=values.pop("attempt"),
    )
    values["warnings"] = tuple(values["warnings"])
    values["upload_sha256"] = bytes(values["upload_sha256"])
    values["part"] = Part(
        track=values.pop("track"),
        start_seconds=values.pop("start_seconds"),
        end_seconds=values.pop("end_seconds"),
    )
    return ClaimedJob(lease=lease, **values)


def heartbeat(session: Session, beats: Sequence[Beat]) -> dict[uuid.UUID, bool]:
    """Renew the leases of one process.

    Returns:
        For each job whose lease still holds, whether its client wants it cancelled. A job that
        is missing has lost its lease: stop it and write nothing.
    """
    rows = session.execute(
        statements.HEARTBEAT,
        {
            "ids": [beat.lease.job_id for beat in beats],
            "epochs": [beat.lease.epoch for beat in beats],
            "progress": [beat.progress for beat in beats],
            "steps": [beat.step for beat in beats],
        },
    )
    return {row.id: row.cancel_requested for row in rows}


def report(
    session: Session,
    lease: Lease,
    step: str,
    *,
    audio_seconds: float | None = None,
    warnings: Sequence[str] | None = None,
) -> None:
    """Say what the attempt is at, and what was learnt of the audio.

    Raises:
        LeaseLost, CancelRequested: Stop.
    """
    row = _fenced(
        session,
        statements.REPORT,
        lease,
        step=step,
        audio_seconds=audio_seconds,
        warnings=None if warnings is None else list(warnings),
    )
    _heed(cancel_requested=row.cancel_requested)


def save_window(
    session: Session, lease: Lease, index: int, window: Window, *, progress: float, model_used: str
) -> None:
    """Keep a finished window and the progress it means.

    Raises:
        LeaseLost, CancelRequested: Stop; the caller rolls back, so nothing was kept.
    """
    row = _fenced(
        session,
        statements.SAVE_WINDOW,
        lease,
        index=index,
        progress=min(1.0, max(0.0, progress)),
        start_seconds=window.start_seconds,
        end_seconds=window.end_seconds,
        segments=[segment.to_json() for segment in window.segments],
        resume=window.resume.to_json(),
        model_used=model_used,
    )
    _heed(cancel_requested=row.cancel_requested)


def complete(session: Session, lease: Lease, transcript: Transcript, outcome: Outcome) -> None:
    """Store the result and finish the job.

    A second call under the same lease is accepted: the answer to the first COMMIT may have been
    lost on the way.

    Raises:
        CancelRequested: The client's cancel came first; call ``acknowledge_cancel``.
        LeaseLost: Another worker owns the job.
    """
    row = _first(
        session,
        statements.COMPLETE,
        job_id=lease.job_id,
        epoch=lease.epoch,
        text=transcript.text,
        language=transcript.language,
        language_probability=transcript.language_probability,
        audio_seconds=transcript.audio_seconds,
        word_count=transcript.word_count,
        confidence=transcript.confidence,
        segments=[segment.to_json() for segment in transcript.segments],
        peaks=outcome.peaks,
        model_used=outcome.model_used,
        mode=outcome.mode,
        degraded=outcome.degraded,
        fallbacks=list(outcome.fallbacks),
        warnings=list(outcome.warnings),
    )
    if row is not None:
        return
    stored = session.get(TranscriptionResult, lease.job_id)
    if stored is not None and stored.lease_epoch == lease.epoch:
        return
    job = session.get(TranscriptionJob, lease.job_id)
    if job is not None and job.lease_epoch == lease.epoch and job.cancel_requested_at is not None:
        raise CancelRequested
    raise LeaseLost


def retry(session: Session, lease: Lease, failure: Failure, backoff: Backoff) -> JobStatus:
    """End a failed attempt that another may mend: pending again, or failed after the last.

    Raises:
        LeaseLost: Another worker owns the job.
    """
    row = _fenced(
        session,
        statements.RETRY,
        lease,
        **_failure(lease, failure),
        reason="deadline" if failure.code == "deadline" else "attempts_exhausted",
        fallbacks=list(failure.fallbacks),
        base=backoff.base_seconds,
        cap=backoff.cap_seconds,
    )
    return JobStatus(row.status)


def fail(session: Session, lease: Lease, failure: Failure) -> JobStatus:
    """End a job that no attempt can mend.

    Raises:
        LeaseLost: Another worker owns the job.
    """
    return JobStatus(_fenced(session, statements.FAIL, lease, **_failure(lease, failure)).status)


def hand_back(session: Session, lease: Lease) -> JobStatus:
    """Return a job that was not finished, and the attempt with it.

    Raises:
        LeaseLost: Another worker owns the job.
    """
    return JobStatus(_fenced(session, statements.HAND_BACK, lease).status)


def step_aside(
    session: Session,
    lease: Lease,
    *,
    most: int,
    patience_seconds: float = PATIENCE_SECONDS,
    again_seconds: float = AGAIN_SECONDS,
) -> bool:
    """Return the job, if an urgent one waits that nobody makes room for; whether it was returned.

    Its attempt is given back and its place in the queue kept.

    Args:
        most: How often one job steps aside.
        patience_seconds: How long the urgent job has to have waited: a free slot takes it sooner.
        again_seconds: When room was made in vain, it is made again after so long.
    """
    row = _first(
        session,
        statements.STEP_ASIDE,
        job_id=lease.job_id,
        epoch=lease.epoch,
        most=most,
        patience=patience_seconds,
        again=again_seconds,
        wishes_version=WISHES_VERSION,
    )
    return row is not None


def put_off(session: Session, lease: Lease, failure: Failure, backoff: Backoff) -> JobStatus:
    """Return a job that needs what is not there now, such as the uploads' disk; it waits a while.

    Waiting uses up no attempt, however often: the job says what it waits for.

    Raises:
        LeaseLost: Another worker owns the job.
    """
    row = _fenced(
        session,
        statements.PUT_OFF,
        lease,
        code=failure.code,
        message=_storable(failure.message),
        base=backoff.base_seconds,
        cap=backoff.cap_seconds,
    )
    return JobStatus(row.status)


def crash(
    session: Session,
    lease: Lease,
    failure: Failure,
    *,
    max_solo_crashes: int,
    max_crashes: int,
    backoff: Backoff,
) -> JobStatus:
    """End an attempt that hung, or whose own process died; the attempt itself is given back.

    A job that shared its process becomes a suspect, and runs alone from now on.

    Raises:
        LeaseLost: Another worker owns the job.
    """
    row = _fenced(
        session,
        statements.CRASH,
        lease,
        **_failure(lease, failure),
        max_solo_crashes=max_solo_crashes,
        max_crashes=max_crashes,
        base=backoff.base_seconds,
        cap=backoff.cap_seconds,
    )
    return JobStatus(row.status)


def call_suspect(session: Session) -> uuid.UUID | None:
    """Have the suspect that was submitted first start now, of those that wait for their turn.

    Returns:
        Which, or None when nobody waits.
    """
    row = _first(session, statements.CALL_SUSPECT, code=Occupied.code)
    return None if row is None else row.id


def cancel(
    session: Session, job_id: uuid.UUID, *, owner_id: uuid.UUID | None = None
) -> JobStatus | None:
    """Cancel a job: at once if it waits, else as a wish that its worker will see.

    Args:
        owner_id: Whose job it must be; None for anybody's.

    Returns:
        Its status now, or None when it is final or not there.
    """
    row = _first(session, statements.CANCEL, job_id=job_id, owner_id=owner_id)
    return None if row is None else JobStatus(row.status)


def acknowledge_cancel(session: Session, lease: Lease) -> None:
    """End an attempt whose client cancelled.

    Raises:
        LeaseLost: Another worker owns the job, or nobody cancelled it.
    """
    _fenced(session, statements.CANCELLED, lease)


def lose(session: Session, job_ids: Sequence[uuid.UUID]) -> int:
    """Fail jobs that wait for an upload that is gone; returns how many."""
    values = {"code": UploadMissing.code, "message": UploadMissing().message}
    return len(session.execute(statements.LOSE, {"ids": list(job_ids), **values}).all())


def fail_fetch(
    session: Session, job_id: uuid.UUID, holder: uuid.UUID, failure: Failure, *, reason: str
) -> bool:
    """Fail a job whose upload cannot be fetched; whether that was still ours to say.

    Args:
        holder: Of the try that found out.
        reason: Why the job is given up: a code, ``attempts_exhausted`` or ``deadline``.
    """
    row = _first(
        session,
        statements.FAIL_FETCH,
        job_id=job_id,
        holder=holder,
        reason=reason,
        code=failure.code,
        message=_storable(failure.message),
        context={name: _storable(value) for name, value in failure.context.items()},
    )
    return row is not None


def void(session: Session) -> int:
    """End every lease, also those that nobody remembers: for a database that was set back.

    What was being processed goes on after its last window, its attempt given back.

    Returns:
        How many jobs wait now.
    """
    rows = session.execute(statements.VOID)
    return sum(row.status == JobStatus.PENDING for row in rows)


def touch(session: Session, leases: Iterable[StillLease]) -> set[uuid.UUID]:
    """Write these rows as a heartbeat does, changing nothing; returns the jobs where that worked.

    Those whose heartbeat moved meanwhile are not written.
    """
    return {row.id for row in session.execute(statements.TOUCH, _seen(leases))}


def reap(
    session: Session, leases: Iterable[StillLease], *, max_crashes: int, backoff: Backoff
) -> list[Reaped]:
    """End leases that stood still; those that moved since, or that others hold, are left alone."""
    rows = session.execute(
        statements.REAP,
        {
            **_seen(leases),
            "max_crashes": max_crashes,
            "code": WorkerLost.code,
            "message": WorkerLost().message,
            "base": backoff.base_seconds,
            "cap": backoff.cap_seconds,
        },
    )
    return [
        Reaped(job_id=row.id, status=JobStatus(row.status), worker_name=row.worker_name)
        for row in rows
    ]


def redrive(session: Session, job_ids: Iterable[uuid.UUID], how: Redrive) -> dict[uuid.UUID, Lane]:
    """Send failed jobs round again.

    Returns:
        The lane that each waits in. What is missing has not failed, is in quarantine, or has no
        upload any more.
    """
    rows = session.execute(
        statements.REDRIVE,
        {
            "ids": list(job_ids),
            "max_attempts": how.max_attempts,
            "by": how.by,
            "notes": how.notes,
            "model_name": how.model_name,
            "model_warnings": list(how.model_warnings),
            "engine_name": how.engine_name,
            "priority": how.priority,
            "not_yet": NOT_YET,
        },
    )
    return {row.id: row.lane for row in rows}


def note_dead_letter(session: Session, job_id: uuid.UUID) -> Row[Any] | None:
    """Note that the dead letter queue's task saw a failed job; None if it had, or is not failed."""
    return _first(session, statements.NOTE_DEAD_LETTER, job_id=job_id)


def unnoted_dead_letters(
    session: Session, *, older_than_seconds: float, limit: int
) -> list[uuid.UUID]:
    """Find failed jobs whose message to the dead letter queue was lost."""
    rows = session.execute(
        statements.UNNOTED_DEAD_LETTERS, {"older_than": older_than_seconds, "limit": limit}
    )
    return [row.id for row in rows]


def probed(
    session: Session, job_id: uuid.UUID, audio_seconds: float | None, *, estimated: bool
) -> None:
    """Note that the upload's header was asked for its length; None when it tells none.

    Args:
        estimated: The length is no more than a better guess.
    """
    values = {"job_id": job_id, "audio_seconds": audio_seconds, "estimated": estimated}
    session.execute(statements.PROBED, values)


def _first(session: Session, statement: TextClause, **values: object) -> Row[Any] | None:
    return session.execute(statement, values).first()


def _fenced(session: Session, statement: TextClause, lease: Lease, **values: object) -> Row[Any]:
    row = _first(session, statement, job_id=lease.job_id, epoch=lease.epoch, **values)
    if row is None:
        raise LeaseLost
    return row


def _seen(leases: Iterable[StillLease]) -> dict[str, list[Any]]:
    leases = list(leases)
    return {
        "ids": [lease.job_id for lease in leases],
        "epochs": [lease.epoch for lease in leases],
        "heartbeats": [lease.heartbeat for lease in leases],
    }


def _heed(*, cancel_requested: bool) -> None:
    if cancel_requested:
        raise CancelRequested


def _failure(lease: Lease, failure: Failure) -> dict[str, object]:
    return {
        "attempt": lease.attempt,
        "worker_name": lease.worker_name,
        "code": failure.code,
        "message": _storable(failure.message),
        "traceback": None if failure.traceback is None else _storable(failure.traceback),
        "context": {name: _storable(value) for name, value in failure.context.items()},
    }


def _storable(value: Any) -> Any:
    """What PostgreSQL can hold of a text or figure that somebody else's library made up."""
    if isinstance(value, str):
        return storable_text(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
