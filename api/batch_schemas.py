"""The bodies of what is told and said of batches."""

from __future__ import annotations

import json
import uuid
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field

from api.schemas import Answer, Body, Text, Time
from api.submission import MAX_PROMPT_CHARS, MAX_SECONDS, MAX_TRACK, MAX_URL_CHARS
from jobs.batches import Tally
from models import Batch as Row
from models import JobStatus

MAX_NAME_CHARS: Final = 200
#: That a batch is begun with; more can be added.
MAX_URLS: Final = 200


class Profile(Body):
    """What each file of a batch is submitted with; what it says itself goes before."""

    model_size: Text | None = None
    language: Text | None = None
    task: Text | None = None
    priority: Text | None = None
    word_timestamps: bool | None = None
    track: Annotated[int, Field(ge=1, le=MAX_TRACK)] | None = None
    start_seconds: Annotated[float, Field(ge=0, le=MAX_SECONDS)] | None = None
    end_seconds: Annotated[float, Field(ge=0, le=MAX_SECONDS)] | None = None
    initial_prompt: Annotated[Text, Field(max_length=MAX_PROMPT_CHARS)] | None = None
    engine: Text | None = None
    metadata: dict[str, Any] | None = None

    def said(self) -> dict[str, str]:
        """The same, as a form would say it."""
        return {name: _said(value) for name, value in self.model_dump(exclude_none=True).items()}


class NewBatch(Body):
    """What a new batch is to be."""

    name: Annotated[Text, Field(min_length=1, max_length=MAX_NAME_CHARS)] | None = Field(
        None, description="Of your own."
    )
    profile: Profile = Field(default_factory=Profile)
    callback_url: Annotated[Text, Field(min_length=1, max_length=MAX_URL_CHARS)] | None = Field(
        None,
        description="Called once, when the whole batch has ended; as that of a job is signed.",
    )
    urls: list[Annotated[Text, Field(min_length=1, max_length=MAX_URL_CHARS)]] = Field(
        default_factory=list,
        max_length=MAX_URLS,
        description="Files that are fetched, each for a job of its own, if the service allows that:"
        " as `source_url` of a submission.",
    )


class Counts(Answer):
    """How many of its jobs have each status."""

    total: int
    pending: int
    processing: int
    completed: int
    failed: int
    cancelled: int


class BatchLinks(Answer):
    """Where to go from a batch; null where there is nothing."""

    self: str
    jobs: str
    files: str | None = Field(description="Post files here; null once it is closed.")
    result: str


class Batch(Answer):
    """A batch, and how its jobs are doing."""

    id: uuid.UUID
    name: str | None
    status: Literal["open", "closed", "ended"] = Field(
        description="`open`: it takes files; `closed`: it takes none, and some jobs have not ended;"
        " `ended`: they all have."
    )
    profile: dict[str, str]
    callback_url: str | None
    jobs: Counts
    progress: float = Field(description="Share done, in percent of the audio.", ge=0, le=100)
    audio_seconds: float = Field(
        description="Length of the audio of all its jobs, as far as known."
    )
    created_at: Time
    closed_at: Time | None
    ended_at: Time | None
    links: BatchLinks

    @classmethod
    def of(cls, row: Row, tally: Tally, *, root: str = "") -> Self:
        path = path_of(row.id, root)
        return cls(
            id=row.id,
            name=row.name,
            status="ended" if row.ended_at else "closed" if row.closed_at else "open",
            profile=row.profile,
            callback_url=row.callback_url,
            jobs=Counts(
                total=tally.total,
                **{str(status): tally.jobs.get(status, 0) for status in JobStatus},
            ),
            progress=100.0 if row.ended_at else round(100 * _share(tally), 1),
            audio_seconds=round(tally.audio_seconds, 3),
            created_at=row.created_at,
            closed_at=row.closed_at,
            ended_at=row.ended_at,
            links=BatchLinks(
                self=path,
                jobs=f"{root}/jobs?batch_id={row.id}",
                files=None if row.closed_at else f"{path}/files",
                result=f"{path}/result",
            ),
        )


class BatchList(Answer):
    """A page of batches, newest first."""

    batches: list[Batch]
    total: int = Field(description="How many there are on all pages.")
    next_cursor: str | None = Field(description="For the next page; null on the last.")


def path_of(batch_id: uuid.UUID, root: str) -> str:
    return f"{root}/batches/{batch_id}"


def _share(tally: Tally) -> float:
    if tally.audio_seconds > 0:
        return min(1.0, tally.done_seconds / tally.audio_seconds)
    ended = tally.total - sum(
        tally.jobs.get(status, 0) for status in (JobStatus.PENDING, JobStatus.PROCESSING)
    )
    return ended / tally.total if tally.total else 0.0


def _said(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, float):
        return f"{value:.6f}".rstrip("0").rstrip(".")
    return str(value)
