"""The bodies of the dead letter queue: what operators are shown of it, and what they ask for."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field

from api import cursors
from api.jobs import Page
from api.schemas import Answer, Body, Instant, JobDetail, StoredPriority, Text, Time
from jobs.dead_letters import DeadLetter, Wanted
from jobs.sweeps import PassedBy, Swept
from models import ErrorLog, Priority, TranscriptionJob
from speech.engines import catalogue

#: RFC 3339. A + that was not escaped comes out of a query as a space.
MOMENT: Final = re.compile(r"(\d{4}-\d\d-\d\d[Tt ][\d:.]+)(?:([Zz])|([-+ ])(\d\d:\d\d))")
#: What one request looks at, unless it says; a batch in a transaction.
SWEEP_JOBS: Final = 1000


def _moment(sent: object) -> object:
    if isinstance(sent, datetime):
        return sent
    said = MOMENT.fullmatch(sent) if isinstance(sent, str) else None
    if said is None:
        raise ValueError("It should be a time with its zone, such as 2026-11-22T16:03:29Z.")
    time, utc, sign, zone = said.groups()
    return f"{time}Z" if utc else f"{time}{sign.replace(' ', '+')}{zone}"


def _model(sent: str) -> str:
    # not refused if unknown: a job of version 2 may have any
    return catalogue.ALIASES.get(sent, sent)


Moment = Annotated[
    Instant,
    BeforeValidator(_moment, json_schema_input_type=str),
    Field(strict=False, examples=["2026-11-22T16:03:29Z"]),
]
Name = Annotated[Text, Field(min_length=1, max_length=200)]
Notes = Annotated[Text, Field(max_length=4000)]


class Chosen(Body):
    """Which failed jobs are meant. What is not given may be anything."""

    code: Name | None = Field(
        None, description="`error_code` of the last attempt, or `failure_reason` of the job."
    )
    model: Annotated[Name, AfterValidator(_model)] | None = Field(
        None, description="The model that was asked for."
    )
    engine: Name | None = None
    since: Moment | None = Field(None, description="Given up then or later.")
    until: Moment | None = Field(None, description="Given up before.")
    worker: Name | None = Field(
        None, description="A worker that an attempt failed on: its name, or its host's."
    )
    key: Name | None = Field(
        None, description="Shown name of the API key that submitted it, or the owner's name."
    )
    resolved: bool = Field(False, description="Those that were dealt with too.")
    permanent: bool = Field(
        False, description="Those whose input is at fault too, as a `code` of such a fault means."
    )

    def wanted(self, *, quarantined: bool = False) -> Wanted:
        values = {name: getattr(self, name) for name in Chosen.model_fields}
        return Wanted(**values, quarantined=quarantined)


class FailedJobFilter(Chosen, Page):
    """Which part of the dead letter queue is wanted."""

    model_config = ConfigDict(strict=False)

    quarantined: bool = Field(False, description="Those in quarantine, and no others.")


class Attempt(Answer):
    """One failed attempt, as lists show it."""

    attempt: int
    worker: str | None
    code: str
    message: str
    created_at: Time
    resolved: bool
    resolved_at: Time | None
    resolved_by: str | None = Field(description="Shown name of the API key.")
    notes: str | None

    @classmethod
    def of(cls, log: ErrorLog, **more: Any) -> Self:
        return cls(
            attempt=log.attempt,
            worker=log.worker_name,
            code=log.error_code,
            message=log.error_message,
            created_at=log.created_at,
            resolved=log.resolved,
            resolved_at=log.resolved_at,
            resolved_by=log.resolved_by,
            notes=log.resolution_notes,
            **more,
        )


class AttemptDetail(Attempt):
    """One failed attempt."""

    traceback: str | None
    context: dict[str, Any] = Field(description="Model, step, memory: what may explain it.")


class Mark(Answer):
    """Who did something with a failed job, and why."""

    at: Time
    by: str | None = Field(description="Shown name of the API key, or `cli`.")
    notes: str | None


class FailedJob(Answer):
    """An entry of the dead letter queue."""

    id: uuid.UUID
    job_id: uuid.UUID
    type: str = Field(description="Why it was given up: the job's `failure_reason`.")
    code: str | None = Field(description="Why the last attempt failed: the job's `error_code`.")
    message: str | None
    owner: str
    key: str | None = Field(description="Shown name of the API key that submitted it.")
    filename: str
    model_size: str
    engine: str
    priority: StoredPriority
    created_at: Time
    failed_at: Time | None
    permanent: bool = Field(description="True when the input is at fault.")
    upload_kept: bool = Field(description="False when it cannot be sent round again.")
    resolved: bool
    resolution: Mark | None
    quarantine: Mark | None
    attempts: Sequence[Attempt]

    @classmethod
    def of(cls, letter: DeadLetter) -> FailedJob:
        return cls(**_fields(letter), attempts=[Attempt.of(log) for log in letter.attempts])


class FailedJobDetail(FailedJob):
    """An entry of the dead letter queue, with all there is to know of it."""

    attempts: Sequence[AttemptDetail]
    crashes: int = Field(description="Workers that died with it.")
    crashes_alone: int = Field(description="Deaths of a process that ran it alone.")
    fallbacks: list[Any] = Field(description="Steps down after running out of memory.")
    job: JobDetail

    @classmethod
    def with_job(cls, letter: DeadLetter, job: JobDetail) -> FailedJobDetail:
        return cls(
            **_fields(letter),
            attempts=[
                AttemptDetail.of(log, traceback=log.traceback, context=log.context)
                for log in letter.attempts
            ],
            crashes=letter.job.crash_count,
            crashes_alone=letter.job.solo_crash_count,
            fallbacks=letter.job.fallbacks,
            job=job,
        )


class FailedJobList(Answer):
    """A page of the dead letter queue, the last to fail first."""

    errors: list[FailedJob]
    total: int = Field(description="How many there are on all pages.")
    next_cursor: str | None = Field(description="For the next page; null on the last.")


class Retry(Body):
    """How to send a failed job round again; what is not given stays as it was asked for."""

    model_size: str | None = Field(None, description="Another model; begins from the start.")
    engine: str | None = Field(None, description="Another engine; begins from the start.")
    priority: Annotated[Priority, Field(strict=False)] | None = None


class Resolution(Body):
    """What was done about a failed job."""

    notes: Notes | None = None


class Quarantine(Body):
    """Why a failed job is set aside."""

    notes: Notes | None = None


class Many(Body):
    """Which failed jobs something is done to. Those in quarantine are never among them."""

    filter: Chosen = Field(default_factory=lambda: Chosen.model_validate({}))
    all: bool = Field(False, description="Needed where the filter leaves nothing out.")
    limit: int = Field(SWEEP_JOBS, ge=1, le=SWEEP_JOBS, description="How many are looked at.")
    cursor: str | None = Field(None, description="`next_cursor` of the answer before.")
    dry_run: bool = Field(False, description="Change nothing, and tell what would be done.")


class RetryMany(Many, Retry):
    """Which failed jobs to send round again, and how."""


class ResolveMany(Many, Resolution):
    """Which failed jobs were dealt with, and how."""


class Skipped(Answer):
    """A job that was passed by."""

    job_id: uuid.UUID
    code: Literal["upload_missing", "unknown_language", "cannot_translate", "job_not_failed"]


class _Done(Answer):
    dry_run: bool = Field(description="True when nothing was changed.")
    jobs: Sequence[uuid.UUID]
    skipped: Sequence[Skipped]
    next_cursor: str | None = Field(description="To go on; null when there are no more.")


class Retried(_Done):
    """What was sent round again."""

    retried: int


class Resolved(_Done):
    """What was noted as dealt with."""

    resolved: int


def done(swept: Swept, asked: Many) -> Mapping[str, Any]:
    """What both verbs answer."""
    rest = swept.rest
    return {
        "dry_run": asked.dry_run,
        "jobs": swept.done,
        "skipped": [_skipped(passed_by) for passed_by in swept.passed_by],
        "next_cursor": None
        if rest is None
        else cursors.encode(rest, of=list_of(asked.filter.wanted())),
    }


def list_of(wanted: Wanted) -> str:
    """The name that a list has in its cursors."""
    return f"errors/{wanted}"


def _skipped(passed_by: PassedBy) -> Skipped:
    return Skipped.model_validate({"job_id": passed_by.job_id, "code": passed_by.reason})


def _fields(letter: DeadLetter) -> dict[str, Any]:
    job = letter.job
    return {
        "id": job.id,
        "job_id": job.id,
        "type": job.failure_reason or "",
        "code": job.error_code,
        "message": job.error_message,
        "owner": letter.owner_name,
        "key": letter.key_prefix,
        "filename": job.client_filename,
        "model_size": job.model_name,
        "engine": job.engine_name,
        "priority": job.priority,
        "created_at": job.created_at,
        "failed_at": job.completed_at,
        "permanent": letter.permanent,
        "upload_kept": job.upload_deleted_at is None,
        "resolved": job.resolved_at is not None,
        "resolution": _resolution(job),
        "quarantine": _quarantine(job),
    }


def _resolution(job: TranscriptionJob) -> Mark | None:
    if job.resolved_at is None:
        return None
    return Mark(at=job.resolved_at, by=job.resolved_by, notes=job.resolution_notes)


def _quarantine(job: TranscriptionJob) -> Mark | None:
    if job.quarantined_at is None:
        return None
    return Mark(at=job.quarantined_at, by=job.quarantined_by, notes=job.quarantine_notes)
