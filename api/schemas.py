"""The bodies of requests and answers, as clients see them.

The first version's words stay: ``job_id``, ``progress`` in percent, ``transcription``,
``error_type`` and so on, beside what is new.
"""

from __future__ import annotations

import uuid
from datetime import MAXYEAR, UTC, datetime
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, PlainSerializer

from api import codes, filenames
from api.examples import COMPLETED_JOB
from jobs.queries import JobView
from jobs.sources import FETCHING
from models import FINAL, JobStatus, Priority, TranscriptionJob

#: Not ``Z``: Python before 3.11 cannot read that.
Time = Annotated[
    datetime,
    PlainSerializer(lambda value: value.astimezone(UTC).isoformat(), return_type=str),
    Field(examples=["2026-11-22T16:03:29.123456+00:00"]),
]


def _in_utc(value: datetime) -> datetime:
    try:
        value = value.astimezone(UTC)
    except OverflowError:
        value = datetime.max.replace(tzinfo=UTC)
    if value.year == MAXYEAR:
        raise ValueError("It should lie within the years 1 to 9998.")
    return value


#: A time that a client names: PostgreSQL knows fewer zones than Python, and Python fewer years.
Instant = Annotated[AwareDatetime, AfterValidator(_in_utc)]
Text = Annotated[str, Field(pattern=r"^[^\x00]*$")]

#: While two versions run side by side, the newer one may have written what we do not know.
StoredPriority = Annotated[Priority | str, Field(description="More may come.")]

MESSAGES: Final = {
    JobStatus.PENDING: "The job waits for a worker.",
    JobStatus.PROCESSING: "A worker has the job.",
    JobStatus.COMPLETED: "The job is done.",
    JobStatus.FAILED: "The job was given up.",
    JobStatus.CANCELLED: "The job was cancelled.",
}
CANCELLING: Final = "The job will stop at the end of the window it is at."
RETRYING: Final = "An attempt failed; the job waits for the next one."
WAITING: Final = "The job waits for something that is not there now."
BEING_FETCHED: Final = "The recording is being fetched."
FETCHED_AGAIN: Final = "The recording could not be fetched; it is tried again."
PAUSED: Final = "The job waits: an operator paused its queue."


class Answer(BaseModel):
    """What we send."""

    model_config = ConfigDict(from_attributes=True, ser_json_inf_nan="null")


class Body(BaseModel):
    """What we are sent: nothing that we do not know."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class Links(Answer):
    """Where to go from a job; null where there is nothing."""

    self: str
    result: str | None
    audio: str | None
    cancel: str | None


class Job(Answer):
    """A job, as lists show it."""

    id: uuid.UUID
    job_id: uuid.UUID
    batch_id: uuid.UUID | None = Field(description="The batch that it was submitted with.")
    status: JobStatus
    message: str = Field(description="The status in words.")
    filename: str = Field(description="What the client called its file.")
    progress: float = Field(description="Share done, in percent.", ge=0, le=100)
    current_step: str | None = Field(description="What the running attempt is at.")
    priority: StoredPriority
    queue_paused: bool = Field(
        description="True while it waits in a queue that an operator paused."
    )
    engine: str
    task: Literal["transcribe", "translate"]
    model_size: str = Field(description="Model that was asked for.")
    track: int | None = Field(description="Track of sound that was asked for, from 1.")
    start_seconds: float = Field(description="Where the part that is transcribed begins.")
    end_seconds: float | None = Field(description="Where it ends; null for the end of the audio.")
    model_used: str | None = Field(description="Engine, model, device and number format.")
    mode: Literal["exact", "fast"] | None = Field(
        description="How the audio was gone through: window after window, or cut in its pauses and"
        " all parts side by side. Null until it is done."
    )
    degraded: bool = Field(description="True when a smaller model was used for lack of memory.")
    warnings: list[str] = Field(
        description=f"What to know about the result: {codes.listed(codes.WARNINGS)}."
    )
    language: str | None = Field(description="Language that was found, or until then asked for.")
    language_probability: float | None
    duration: float | None = Field(description="Length of the transcribed audio, in seconds.")
    audio_seconds: float | None = Field(
        description="Length of the audio, or of the part that is transcribed, in seconds."
    )
    audio_seconds_done: float | None = Field(
        description="How much of it is transcribed and kept; null while its length is a guess."
    )
    estimated: bool = Field(description="True while `audio_seconds` is a guess from the size.")
    word_count: int | None
    confidence: float | None = Field(description="Mean probability of a token, 0 to 1.")
    attempt: int = Field(description="Attempts that were begun.")
    max_attempts: int
    next_attempt_at: Time | None = Field(description="No attempt starts before.")
    created_at: Time
    started_at: Time | None
    completed_at: Time | None
    cancel_requested_at: Time | None
    error_type: str | None = Field(description="The same as `error_code`.")
    error_code: str | None = Field(
        description="Why the last attempt failed, or what the job waits for:"
        f" {codes.listed(codes.ATTEMPTS)}. More may come."
    )
    error_message: str | None
    failure_reason: str | None = Field(
        description=f"Why the job was given up: {codes.listed(codes.REASONS)}. More may come."
    )
    metadata: dict[str, Any] = Field(description="The client's own.")
    callback_url: str | None = Field(description="Called when the job has ended.")
    source_url: str | None = Field(
        description="Where the upload is fetched from; without its query to all but its owner."
    )
    source_bytes: int | None = Field(
        description="How large the upload is there, as far as its server says."
    )
    upload_bytes: int = Field(description="Of the upload; while it is fetched, of what is here.")
    upload_sha256: str = Field(description="Of the upload; empty until it is here.")
    links: Links

    @classmethod
    def of(cls, view: JobView, *, root: str = "", **more: Any) -> Self:
        """Show a job.

        Args:
            root: Path under which a proxy serves us.
            more: Fields of a subclass, or others than the row's.
        """
        return cls(**{**_fields(view, root), **more})


class JobDetail(Job):
    """A job, with its text when it is completed."""

    model_config = ConfigDict(json_schema_extra={"examples": [COMPLETED_JOB]})

    transcription: str | None = Field(description="The text, once the job is completed.")
    queue_position: int | None = Field(
        description="About how many jobs go first, counting this one; null unless it waits."
    )
    eta_seconds: int | None = Field(
        description="About in how many seconds it will be done, by what waits and how fast the last"
        " jobs were done; null where nobody can tell."
    )


class JobList(Answer):
    """A page of jobs, newest first."""

    jobs: list[Job]
    total: int = Field(description="How many there are on all pages.")
    next_cursor: str | None = Field(description="For the next page; null on the last.")


class JobPatch(Body):
    """What may be changed of a job."""

    priority: Annotated[Priority, Field(strict=False)] | None = Field(
        None, description="Only while it waits."
    )
    metadata: dict[str, Any] | None = Field(None, description="Replaces what was there.")


class Health(Answer):
    """That the web process lives."""

    status: Literal["healthy"] = "healthy"
    version: str


class Ready(Answer):
    """That a job would be accepted."""

    status: Literal["ready"] = "ready"


class Problem(Answer):
    """What went wrong (RFC 9457)."""

    type: str = Field(examples=["about:blank"])
    title: str = Field(examples=["Not Found"])
    status: int = Field(examples=[404])
    detail: str = Field(examples=["There is no such thing, or it is not yours."])
    instance: str = Field(description="The request's path; empty where it could not be read.")
    code: str = Field(
        description=f"Stable; for programs: {codes.listed(codes.PROBLEMS)}. More may come.",
        examples=["not_found"],
    )
    request_id: str
    errors: list[dict[str, str]] | None = Field(
        None, description="Which fields are wrong: `pointer`, `code`, `message`."
    )


def without_secrets(url: str) -> str:
    """A source's address as others than its owner may see it: the query may open it to anybody."""
    return url.partition("?")[0]


def path_of(job_id: uuid.UUID, root: str = "") -> str:
    return f"{root}/jobs/{job_id}"


def _fields(view: JobView, root: str) -> dict[str, Any]:
    job = view.job
    waits = job.status == JobStatus.PENDING
    fetching = waits and job.upload_awaited
    return {
        "id": job.id,
        "job_id": job.id,
        "batch_id": job.batch_id,
        "status": job.status,
        "message": _message(view),
        "filename": job.client_filename or filenames.DEFAULT,
        "progress": round(job.progress * 100, 1),
        "current_step": FETCHING if fetching else job.current_step,
        "priority": job.priority,
        "queue_paused": waits and view.queue_paused,
        "engine": job.engine_name,
        "task": "translate" if job.translate else "transcribe",
        "model_size": job.model_name,
        "track": job.track,
        "start_seconds": job.start_seconds,
        "end_seconds": job.end_seconds,
        "model_used": job.model_used,
        "mode": job.mode,
        "degraded": job.degraded,
        "warnings": job.warnings,
        "language": view.language or job.language,
        "language_probability": view.language_probability,
        "duration": job.audio_seconds if job.status == JobStatus.COMPLETED else None,
        "audio_seconds": job.audio_seconds,
        "audio_seconds_done": _seconds_done(job),
        "estimated": job.audio_estimated,
        "word_count": view.word_count,
        "confidence": view.confidence,
        "attempt": job.attempt,
        "max_attempts": job.max_attempts,
        "next_attempt_at": job.not_before if waits and not fetching else None,
        "created_at": job.created_at,
        "started_at": job.started_at,
        "completed_at": job.completed_at,
        "cancel_requested_at": job.cancel_requested_at,
        "error_type": job.error_code,
        "error_code": job.error_code,
        "error_message": job.error_message,
        "failure_reason": job.failure_reason,
        "metadata": job.client_metadata,
        "callback_url": job.callback_url,
        "source_url": job.source_url,
        "source_bytes": job.source_bytes,
        "upload_bytes": job.upload_bytes,
        "upload_sha256": job.upload_sha256.hex(),
        "links": _links(job, root),
    }


def _seconds_done(job: TranscriptionJob) -> float | None:
    if job.audio_estimated or job.audio_seconds is None:
        return None
    return round(job.progress * job.audio_seconds, 2)


def _message(view: JobView) -> str:
    job = view.job
    if job.status == JobStatus.PROCESSING and job.cancel_requested_at is not None:
        return CANCELLING
    if job.status == JobStatus.PENDING and job.upload_awaited:
        return FETCHED_AGAIN if job.error_code is not None else BEING_FETCHED
    if job.status == JobStatus.PENDING and view.queue_paused:
        return PAUSED
    if job.status == JobStatus.PENDING and job.error_code is not None:
        return WAITING if job.error_code in codes.WAITING else RETRYING
    return MESSAGES[JobStatus(job.status)]


def _links(job: TranscriptionJob, root: str) -> Links:
    path = path_of(job.id, root)
    is_here = job.upload_deleted_at is None and not job.upload_awaited
    return Links(
        self=path,
        result=f"{path}/result" if job.status == JobStatus.COMPLETED else None,
        audio=f"{path}/audio" if is_here else None,
        cancel=None if job.status in FINAL else f"{path}/cancel",
    )
