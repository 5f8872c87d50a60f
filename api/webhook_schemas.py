"""The bodies of what is told and said of webhooks."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field

from api.schemas import Answer, Body, Text, Time
from api.submission import MAX_URL_CHARS
from models import DeliveryStatus, WebhookDelivery
from models import Webhook as Row
from webhooks import endpoints
from webhooks.endpoints import NewWebhook as Wanted

MAX_DESCRIPTION_CHARS: Final = 1_000
MAX_GRACE_SECONDS: Final = 30 * 86_400.0

WantedEvent = Literal["batch.ended", "job.cancelled", "job.completed", "job.failed"]
Events = Annotated[
    list[WantedEvent], Field(min_length=1, max_length=16, description="What it is told of.")
]
Url = Annotated[
    Text,
    Field(min_length=1, max_length=MAX_URL_CHARS, examples=["https://example.com/transcripts"]),
]
Description = Annotated[Text, Field(max_length=MAX_DESCRIPTION_CHARS)]


class NewWebhook(Body):
    """What a new webhook is to be."""

    url: Url | None = Field(
        None,
        description="Called with every event; null: it signs what goes to the `callback_url` of"
        " jobs, and there may be one such.",
    )
    events: Events = Field(["batch.ended", "job.cancelled", "job.completed", "job.failed"])
    description: Description | None = Field(None, description="What it is for.")

    @property
    def wanted(self) -> Wanted:
        return Wanted(url=self.url, events=sorted({*self.events}), description=self.description)


class WebhookPatch(Body):
    """What is to be changed of a webhook; what is left out stays."""

    # left out, these have no value that is read
    url: Url = Field("", description="Called with every event.")
    events: Events = Field([])
    description: Description | None = Field(None, description="What it is for.")
    enabled: bool = Field(
        True, description="Disabling it drops what was still to be sent; nothing is made up for."
    )

    @property
    def values(self) -> dict[str, Any]:
        """The columns that are to be set."""
        values = self.model_dump(include=self.model_fields_set)
        if "events" in values:
            values["events"] = sorted({*self.events})
        return values


class WebhookRotation(Body):
    """How a webhook's secret is rotated."""

    grace_seconds: float = Field(
        endpoints.GRACE.total_seconds(),
        ge=0,
        le=MAX_GRACE_SECONDS,
        description="For so long the secret that it had signs beside the new one.",
    )


class Webhook(Answer):
    """A webhook, without its secret."""

    id: uuid.UUID
    url: str | None = Field(description="Null for the one that signs callbacks of jobs.")
    events: list[str]
    description: str | None
    enabled: bool
    disabled_at: Time | None
    disabled_reason: str | None = Field(
        description="`client`; `gone`: it answered 410; `failing`: an event was given up after"
        " three days in which none came through. More may come."
    )
    created_at: Time
    previous_secret_until: Time | None = Field(
        description="The secret before the last rotation signs as well until then."
    )
    delivered_at: Time | None = Field(description="When one last came through; to the minute.")

    @classmethod
    def of(cls, row: Row, **more: Any) -> Self:
        """Show a webhook, with the fields of a subclass."""
        ours: dict[str, Any] = {
            "enabled": row.disabled_at is None,
            "previous_secret_until": row.previous_until,
        }
        theirs = {name: getattr(row, name) for name in Webhook.model_fields if name not in ours}
        return cls(**theirs, **ours, **more)


class WebhookWithSecret(Webhook):
    """A webhook as it is told once."""

    secret: str = Field(
        description="Verifies its signatures, as Standard Webhooks has it. It is not shown again.",
        examples=["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw8KfA5ZcKGr0="],
    )


class WebhookList(Answer):
    """A page of webhooks, newest first."""

    webhooks: list[Webhook]
    total: int = Field(description="How many there are on all pages.")
    next_cursor: str | None = Field(description="For the next page; null on the last.")


class Try(Answer):
    """One try to deliver an event."""

    at: Time
    seconds: float
    status: int | None = Field(description="Of the reply; null where none came.")
    error: str | None = Field(
        description="Why none came: `name`, `connection`, `tls`, `protocol`, `timeout`,"
        " `address_refused`, `reply_too_large`. More may come."
    )


class Delivery(Answer):
    """One event on its way to one webhook."""

    id: uuid.UUID = Field(description="The `webhook-id`, the same at every try.")
    event: str
    job_id: uuid.UUID | None
    status: DeliveryStatus
    created_at: Time
    next_try_at: Time | None = Field(description="Null once it has ended.")
    ended_at: Time | None
    tries: list[Try] = Field(description="The last twenty.")

    @classmethod
    def of(cls, row: WebhookDelivery) -> Self:
        waits = row.status == DeliveryStatus.PENDING
        ours: dict[str, Any] = {"next_try_at": row.not_before if waits else None}
        theirs = {name: getattr(row, name) for name in cls.model_fields if name not in ours}
        return cls(**theirs, **ours)


class DeliveryList(Answer):
    """A page of deliveries, newest first."""

    deliveries: list[Delivery]
    total: int = Field(description="How many there are on all pages.")
    next_cursor: str | None = Field(description="For the next page; null on the last.")


class JobEnded(Answer):
    """What a webhook is told of a job that has ended."""

    job_id: uuid.UUID
    status: Literal["cancelled", "completed", "failed"]
    failure_reason: str | None
    error_code: str | None = Field(description="Only of a job that failed.")
    audio_seconds: float | None
    created_at: datetime
    completed_at: datetime
    metadata: dict[str, Any] | None = Field(
        None, description="The client's own; missing once the job is deleted."
    )


class JobsEnded(Answer):
    """How many jobs of a batch ended in which way."""

    completed: int
    failed: int
    cancelled: int


class BatchEnded(Answer):
    """What a webhook is told of a batch that has ended."""

    batch_id: uuid.UUID
    jobs: JobsEnded
    created_at: datetime
    ended_at: datetime


class Tested(Answer):
    """What a webhook is told when somebody asked for a test."""

    webhook_id: uuid.UUID


class Message(Answer):
    """What is posted to a webhook. More types may come, and more fields."""

    type: Literal["batch.ended", "job.cancelled", "job.completed", "job.failed", "webhook.test"]
    timestamp: datetime = Field(description="When it happened.")
    data: JobEnded | BatchEnded | Tested
