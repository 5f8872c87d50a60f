"""Events of one job: what is said as it is done, how far it is, where it stands in the queue."""

from __future__ import annotations

import functools
import random
import re
import uuid
from collections.abc import AsyncGenerator
from http import HTTPStatus
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Header, Request, Response
from starlette.concurrency import run_in_threadpool

from api import jobs
from api.dependencies import FOLLOWED, By, JobId, Reader, ServicesDep, single_values
from api.documentation import Responses, problems
from api.event_stream import COMMENT, EVENT, EventStream, event
from api.hub import Follower
from api.services import Services
from api.story import Place, Story
from audit.events import Actor
from auth import Principal
from errors import JobDeleted, NotFound, ServiceError
from jobs.queries import WindowView
from jobs.standings import DELETED, Standing
from models import FINAL, AuditAction
from speech.formats import segment_fields

router = APIRouter(tags=["jobs"], dependencies=[Depends(single_values)])

#: What an event is called: which transcription of the job, how many of its windows were told by
#: then, and whether that was all.
EVENT_ID: Final = re.compile(r"([0-9]{1,18})-([0-9]{1,9})(-end)?")
#: When to come again after a connection broke; after the process stopped, all come at once.
RETRY_SECONDS: Final = 2.0
RETRY_SECONDS_MAX: Final = 8.0

_ANSWERS: Final[Responses] = {
    200: {
        "description": "The events: `progress`, `segments`, and at the end `completed`, `failed`,"
        " `cancelled` or `deleted`.",
        "content": {"text/event-stream": {"itemSchema": dict(EVENT)}},
    },
    204: {"description": "The job has ended, and `Last-Event-ID` was its last event."},
}


@router.get(
    "/jobs/{job_id}/events",
    operation_id=FOLLOWED,
    summary="Follow a job",
    description="Server-sent events, until it has ended; `Last-Event-ID` goes on after that one.",
    response_class=Response,
    responses=_ANSWERS | problems(401, 403, 404, 410, 503),
)
def follow(
    request: Request,
    job_id: JobId,
    principal: Reader,
    by: By,
    services: ServicesDep,
    last_event_id: Annotated[
        str | None, Header(description="The last event that was heard; anything else is ignored.")
    ] = None,
) -> Response:
    with services.transaction() as session:
        job = jobs.find(session, job_id, principal).job
        if job.owner_id != principal.owner_id:
            services.trail.read(session, by, AuditAction.JOB_READ, job_id)
    heard = EVENT_ID.fullmatch(last_event_id or "")
    if heard and heard[3] and job.status in FINAL:
        standing = services.standings([job_id])[job_id]
        if standing.run == int(heard[1]):
            # the only answer after which browsers do not come again
            return Response(status_code=HTTPStatus.NO_CONTENT)
    after = Place(run=int(heard[1]), windows=int(heard[2])) if heard else None
    telling = _Telling(request, services, principal, by, job_id)
    return EventStream(services.hub, job_id, principal, functools.partial(telling.tell, after))


class _Telling:
    """Tells one client of one job."""

    def __init__(
        self,
        request: Request,
        services: Services,
        principal: Principal,
        by: Actor,
        job_id: uuid.UUID,
    ) -> None:
        self._request = request
        self._services = services
        self._principal = principal
        self._by = by
        self._job_id = job_id

    async def tell(self, after: Place | None, follower: Follower) -> AsyncGenerator[str, None]:
        story = Story(
            self._services, self._job_id, follower, self._principal, self._by, after=after
        )
        yield f"retry: {RETRY_SECONDS * 1000:.0f}\n\n"
        async for news in story.tell():
            if isinstance(news, WindowView):
                name = f"{story.place.run}-{news.index + 1}"
                yield event(_segments(news), name="segments", id=name)
            elif news is None or news.ended:
                yield COMMENT
            else:
                yield event(_progress(news), name="progress")
        if follower.stopping:
            pause = random.uniform(RETRY_SECONDS, RETRY_SECONDS_MAX)  # noqa: S311 - no secret
            yield f"retry: {pause * 1000:.0f}\n" + event({}, name="stopping")
        elif not follower.left:
            yield await run_in_threadpool(self._last, story.place)

    def _last(self, place: Place) -> str:
        name = f"{place.run}-{place.windows}-end"
        try:
            with self._services.transaction() as session:
                shown = jobs.read(session, self._job_id, self._principal, self._request)
        except (JobDeleted, NotFound):
            gone = {"job_id": str(self._job_id), "status": DELETED}
            return event(gone, name=DELETED, id=name)
        except ServiceError:
            return COMMENT  # who comes again hears of it
        if shown.status not in FINAL:
            return COMMENT  # it was sent round again meanwhile
        return event(shown.model_dump(mode="json"), name=shown.status, id=name)


def _segments(window: WindowView) -> dict[str, Any]:
    return {
        "window": window.index,
        "start": round(window.start_seconds, 3),
        "end": round(window.end_seconds, 3),
        "segments": [
            segment_fields(window.segments_before + number, segment)
            for number, segment in enumerate(window.segments)
        ],
    }


def _progress(standing: Standing) -> dict[str, Any]:
    """Say how a job stands, in the words of ``GET /jobs/{job_id}``."""
    length = standing.audio_seconds
    known = length is not None and not standing.audio_estimated
    return {
        "status": standing.status,
        "current_step": standing.current_step,
        "upload_bytes": standing.upload_bytes,
        "progress": round(standing.progress * 100, 1),
        "audio_seconds": length,
        "audio_seconds_done": round(standing.progress * (length or 0), 2) if known else None,
        "estimated": standing.audio_estimated,
        "attempt": standing.attempt,
        "queue_position": standing.position,
        "queue_paused": standing.queue_paused,
        "eta_seconds": standing.eta_seconds,
        "error_code": standing.error_code,
        "cancelling": standing.cancelling,
    }
