"""Queues: what waits in them, and pausing them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Path
from pydantic import Field
from sqlalchemy.orm import Session

from api.dependencies import Admin, By, ServicesDep, caller, json_body, single_values
from api.documentation import json_request, problems
from api.schemas import Answer, Body, Text, Time
from audit.events import record
from auth import Principal
from celery_app import LANES
from errors import NotFound
from jobs import queries, queues
from jobs.queries import LaneState
from models import AuditAction, PausedQueue

router = APIRouter(prefix="/admin/queues", tags=["admin"], dependencies=[Depends(single_values)])

#: Every queue at once.
ALL: Final = "all"


class Pause(Body):
    """Why queues are paused."""

    note: Annotated[Text, Field(max_length=4000)] | None = Field(
        None, description="For whoever wonders; shown with the queue."
    )


class Queue(Answer):
    """One queue."""

    name: str
    paused: bool = Field(description="True while none of its jobs may start.")
    paused_at: Time | None
    paused_by: str | None = Field(description="Shown name of the API key, or `cli`.")
    note: str | None
    waiting: int = Field(description="Jobs that wait.")
    oldest_seconds: float | None = Field(description="How long the one due longest has waited.")

    @classmethod
    def of(cls, state: LaneState, paused: PausedQueue | None) -> Queue:
        return cls(
            name=state.lane,
            paused=paused is not None,
            paused_at=paused.paused_at if paused else None,
            paused_by=paused.paused_by if paused else None,
            note=paused.note if paused else None,
            waiting=state.waiting,
            oldest_seconds=state.oldest_seconds,
        )


class QueueList(Answer):
    """All queues, in the order in which workers take from them."""

    queues: list[Queue]


async def chosen(
    name: Annotated[
        str,
        Path(
            description="The queue, or `all`.",
            json_schema_extra={"enum": [*LANES, ALL]},
            examples=["normal"],
        ),
    ],
    _caller: Annotated[Principal, Depends(caller)],
) -> Sequence[str]:
    """Read which queues are meant, once it is known who asks.

    Raises:
        NotFound: There is no such queue.
    """
    if name == ALL:
        return LANES
    if name not in LANES:
        raise NotFound("There is no such queue.")
    return (name,)


Chosen = Annotated[Sequence[str], Depends(chosen)]


@router.get(
    "",
    operation_id="list_queues",
    summary="What waits, and what is paused",
    responses=problems(401, 403, 503),
)
def index(_principal: Admin, services: ServicesDep) -> QueueList:
    with services.transaction() as session:
        return _show(session)


@router.post(
    "/{name}/pause",
    operation_id="pause_queue",
    summary="Let no further job of a queue start",
    description=(
        "What runs goes on, what is submitted waits. A job that failed once waits in `retry`,"
        " whatever its priority. It stays paused until it is resumed, whatever is restarted."
    ),
    responses=problems(401, 403, 404, 503),
    openapi_extra=json_request(Pause.__name__, required=False),
)
def pause(
    names: Chosen,
    principal: Admin,
    by: By,
    services: ServicesDep,
    wanted: Annotated[Pause, Depends(json_body(Pause, optional=True))],
) -> QueueList:
    with services.transaction() as session:
        queues.pause(session, names, paused_by=principal.key_prefix, note=wanted.note)
        record(session, by, AuditAction.QUEUE_PAUSED, detail={"queues": list(names)})
        return _show(session)


@router.post(
    "/{name}/resume",  # noqa: FAST003 - `chosen` takes it
    operation_id="resume_queue",
    summary="Let the jobs of a queue start again",
    responses=problems(401, 403, 404, 503),
)
def resume(names: Chosen, _principal: Admin, by: By, services: ServicesDep) -> QueueList:
    with services.transaction() as session:
        queues.resume(session, names)
        record(session, by, AuditAction.QUEUE_RESUMED, detail={"queues": list(names)})
        return _show(session)


def _show(session: Session) -> QueueList:
    paused = queues.paused(session)
    return QueueList(
        queues=[Queue.of(state, paused.get(state.lane)) for state in queries.lanes(session, LANES)]
    )
