"""What a key may use and has used, and what holds for everybody."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Request
from pydantic import Field

import keys
from api.dependencies import Admin, Caller, KeyId, ServicesDep, single_values
from api.documentation import problems
from api.rates import Rate
from api.schemas import Answer
from api.services import Services
from auth import Allowance
from jobs import quotas
from jobs.quotas import Used
from models import ApiKey

router = APIRouter(tags=["limits"], dependencies=[Depends(single_values)])


class RequestLimit(Answer):
    """How many requests a key may make; asking after a job counts as a tenth of one."""

    limit: int
    window_seconds: int


class Limits(Answer):
    """What holds for a key that has no limits of its own, and for every upload; null: no limit."""

    requests: RequestLimit | None
    audio_seconds_per_hour: float | None
    jobs_at_once: int | None = Field(description="Jobs that are pending or processing.")
    bytes_stored: int | None = Field(description="Of uploads that are kept.")
    requests_at_once: int | None = Field(description="Under way in one web process.")
    waits_at_once: int | None = Field(description="Of these, such as wait for jobs or follow them.")
    max_upload_bytes: int
    source_urls: bool = Field(description="Whether `source_url` may be sent in place of a file.")
    max_audio_seconds: float = Field(description="Longest audio.")
    queued_audio_seconds: float | None = Field(
        description="Audio that may wait in all queues; more is answered 503 `queue_full`."
    )
    audio_retention_seconds: float | None = Field(
        description="Uploads are deleted so long after their job's end; null: never."
    )
    transcript_retention_seconds: float | None = Field(
        description="Jobs are deleted, with all they hold, so long after their end; null: never."
    )


class RequestUse(RequestLimit):
    """A key's requests."""

    remaining: int = Field(description="How many more may come now; this one is counted.")
    reset_seconds: int = Field(description="When this window ends.")


class Use(Answer):
    """How much of something was used."""

    used: float
    limit: float | None = Field(description="null: any amount.")


class Usage(Answer):
    """What a key has used."""

    key: str = Field(description="The key's shown name.")
    requests: RequestUse | None = Field(description="null: not limited, or unknown just now.")
    audio_seconds_per_hour: Use = Field(
        description="Audio submitted in the last hour; a guess until its header was read."
    )
    jobs_at_once: Use = Field(description="Jobs that are pending or processing.")
    bytes_stored: Use = Field(description="Of uploads that are kept.")
    audio_retention_seconds: float | None = Field(
        description="Uploads of this key's jobs are deleted so long after their end; null: never."
    )
    transcript_retention_seconds: float | None = Field(
        description="This key's jobs are deleted so long after their end; null: never."
    )

    @classmethod
    def of(cls, key: ApiKey, rate: Rate | None, used: Used, services: Services) -> Usage:
        """What a key has used of what it may, and how long that is kept."""
        allowed = services.allowances.of(Allowance.of(key))
        settings = services.settings
        audio = Use(used=used.audio_seconds, limit=allowed.audio_seconds_per_hour or None)
        return cls(
            key=key.prefix,
            requests=None if rate is None else RequestUse.model_validate(rate),
            audio_seconds_per_hour=audio,
            jobs_at_once=Use(used=used.jobs, limit=allowed.jobs_at_once or None),
            bytes_stored=Use(used=used.bytes_stored, limit=allowed.bytes_stored or None),
            audio_retention_seconds=_kept(
                key.audio_retention_seconds, settings.audio_retention_seconds
            ),
            transcript_retention_seconds=_kept(
                key.transcript_retention_seconds, settings.transcript_retention_seconds
            ),
        )


@router.get("/limits", operation_id="get_limits", summary="What holds for everybody")
async def limits(services: ServicesDep) -> Limits:
    settings, default = services.settings, services.allowances.default
    requests = None
    if default.requests:
        window_seconds = services.allowances.window_seconds
        requests = RequestLimit(limit=default.requests, window_seconds=window_seconds)
    return Limits(
        requests=requests,
        audio_seconds_per_hour=default.audio_seconds_per_hour or None,
        jobs_at_once=default.jobs_at_once or None,
        bytes_stored=default.bytes_stored or None,
        requests_at_once=settings.key_requests_at_once or None,
        waits_at_once=settings.key_waits_at_once or None,
        max_upload_bytes=settings.max_upload_bytes,
        source_urls=settings.source_urls,
        max_audio_seconds=settings.max_audio_seconds,
        queued_audio_seconds=settings.max_queued_audio_hours * 3600 or None,
        audio_retention_seconds=settings.audio_retention_seconds or None,
        transcript_retention_seconds=settings.transcript_retention_seconds or None,
    )


@router.get(
    "/usage",
    operation_id="get_usage",
    summary="What your key has used",
    description="Any key may ask, whatever its scopes.",
    responses=problems(401, 503),
)
def usage(request: Request, caller: Caller, services: ServicesDep) -> Usage:
    with services.transaction() as session:
        key = session.get_one(ApiKey, caller.key_id)
        return Usage.of(key, request.state.rate, quotas.used(session, key.id), services)


@router.get(
    "/admin/keys/{key_id}/usage",
    operation_id="get_key_usage",
    summary="What a key has used",
    responses=problems(401, 403, 404, 503),
)
def key_usage(key_id: KeyId, _principal: Admin, services: ServicesDep) -> Usage:
    with services.transaction() as session:
        key = keys.find(session, key_id)
        used = quotas.used(session, key_id)
    return Usage.of(key, services.allowances.look(key), used, services)


def _kept(own: float | None, default: float) -> float | None:
    """For how long, in seconds; None is for ever."""
    return (default if own is None else own) or None
