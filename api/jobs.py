"""Jobs: lists, one job, what may be changed of it, cancelling and deleting."""

from __future__ import annotations

import re
import uuid
from datetime import UTC
from http import HTTPStatus
from typing import Annotated, Any, Final

from fastapi import APIRouter, BackgroundTasks, Depends, Query, Request, Response
from pydantic import BeforeValidator, ConfigDict
from pydantic_core import PydanticCustomError
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

import auth
from api import cursors, submission
from api.dependencies import (
    POLLED,
    By,
    Deleter,
    JobId,
    Reader,
    ServicesDep,
    Writer,
    json_body,
    single_values,
)
from api.documentation import Responses, json_request, problems
from api.outlook import Outlook
from api.schemas import Body, Job, JobDetail, JobList, JobPatch, Text, without_secrets
from api.services import Services
from api.stopping import when_stopping
from api.trail import ACTOR
from audit.events import Actor, record
from auth import Principal
from errors import ConflictError, JobDeleted, JobFinished, NotAllowed, NotFound
from jobs import deletion, edits, lifecycle, queries
from jobs.backlog import Estimate
from jobs.paging import Place
from jobs.queries import JobView, Selection
from models import FINAL, AuditAction, DeletedBy, JobStatus, Priority, Scope

router = APIRouter(tags=["jobs"], dependencies=[Depends(single_values)])

#: Between two questions after the same job: a minute of audio a second, within these.
POLL_SECONDS_MIN: Final = 1
POLL_SECONDS_MAX: Final = 15
#: Less than what proxies wait for.
WAIT_SECONDS_MAX: Final = 60
MAX_SEARCH_CHARS: Final = 200
CANCELLED: Final = "Job cancelled successfully"
CANCELLING: Final[Responses] = {
    202: {
        "description": "A worker has the job, and stops at the end of the window it is at.",
        "model": JobDetail,
    }
}


def _digits(value: object) -> object:
    # pydantic would take " 5", "+5", "1_0" and "5.0" as well
    if isinstance(value, str) and not re.fullmatch(r"0|[1-9][0-9]{0,9}", value):
        raise PydanticCustomError("int_parsing", "Input should be a whole number")
    return value


Number = Annotated[int, BeforeValidator(_digits)]


Wait = Annotated[
    Number,
    Query(
        ge=0,
        le=WAIT_SECONDS_MAX,
        description="Seconds to wait until the job has ended.",
        # which FastAPI loses beside a validator
        json_schema_extra={"minimum": 0, "maximum": WAIT_SECONDS_MAX},
    ),
]


class Page(Body):
    """Which part of a list is wanted."""

    model_config = ConfigDict(strict=False)

    limit: Number = Query(50, ge=1, le=100)
    cursor: str | None = Query(None, description="`next_cursor` of the page before.")


class JobFilter(Page):
    """Which jobs are wanted."""

    status: JobStatus | None = Query(None)
    batch_id: uuid.UUID | None = Query(None, description="Only those of this batch.")
    search: Text | None = Query(
        None,
        min_length=1,
        max_length=MAX_SEARCH_CHARS,
        description="Only those whose file's name, or `title` in their metadata, holds this, in"
        " capitals or not.",
    )


@router.get(
    "/jobs",
    operation_id="list_jobs",
    summary="List jobs, newest first",
    responses=problems(400, 401, 403, 503),
)
def index(
    request: Request,
    response: Response,
    principal: Reader,
    by: By,
    services: ServicesDep,
    wanted: Annotated[JobFilter, Query()],
) -> JobList:
    of = f"jobs/{principal.reach}/{wanted.status}/{wanted.batch_id}"
    if wanted.search is not None:
        of += f"/{wanted.search}"
    before = cursors.decode(wanted.cursor, of=of)
    which = Selection(
        owner_id=principal.reach,
        status=wanted.status,
        batch_id=wanted.batch_id,
        search=wanted.search,
    )
    with services.transaction() as session:
        total = queries.count(session, which)
        views = queries.page(session, which, before=before, limit=wanted.limit + 1)
        if principal.reach is None:
            services.trail.read(session, by, AuditAction.JOBS_LISTED)
    cursor = None
    if len(views) > wanted.limit:
        last = views[wanted.limit - 1].job
        cursor = cursors.encode(Place(last.created_at, last.id), of=of)
        response.headers["Link"] = cursors.next_link(request, cursor)
    root = request.scope.get("root_path", "")
    shown = [Job.of(view, root=root, **_hidden(view, principal)) for view in views[: wanted.limit]]
    return JobList(jobs=shown, total=total, next_cursor=cursor)


@router.get(
    "/jobs/{job_id}",
    operation_id=POLLED,
    summary="Ask after a job",
    description="While it is not final, `Retry-After` tells when to ask again."
    " With `wait` the answer comes when it is, or after so many seconds.",
    responses=problems(401, 403, 404, 410, 503),
)
async def show(
    request: Request,
    response: Response,
    job_id: JobId,
    principal: Reader,
    services: ServicesDep,
    wait: Wait = 0,
) -> JobDetail:
    def look(*, again: bool = False) -> JobDetail:
        with services.transaction() as session:
            if again:
                auth.require_still(session, principal, Scope.JOBS_READ)
            return read(session, job_id, principal, request)

    if not wait:
        shown = await run_in_threadpool(look)
    else:
        with (
            services.hub.follow(job_id, principal) as follower,
            follower.listening(request.receive),
        ):
            when_stopping(request.scope, follower.stop)
            shown = await run_in_threadpool(look)
            if shown.status not in FINAL:
                await follower.end(wait)
                shown = await run_in_threadpool(look, again=True)
    if shown.status not in FINAL:
        # who waited here need not wait elsewhere
        response.headers["Retry-After"] = str(POLL_SECONDS_MIN if wait else poll_seconds(shown))
    return shown


@router.patch(
    "/jobs/{job_id}",
    operation_id="change_job",
    summary="Change priority or metadata",
    responses=problems(401, 403, 404, 409, 410, 503),
    openapi_extra=json_request(JobPatch.__name__, required=True),
)
def change(  # noqa: PLR0913, PLR0917 - what FastAPI hands in
    request: Request,
    job_id: JobId,
    principal: Writer,
    by: By,
    services: ServicesDep,
    background: BackgroundTasks,
    wanted: Annotated[JobPatch, Depends(json_body(JobPatch))],
) -> JobDetail:
    if wanted.priority is Priority.HIGH and not principal.may_use_high:
        raise NotAllowed("This key may not ask for the priority high.")
    with services.transaction() as session:
        view = find(session, job_id, principal)
        if wanted.metadata is not None:
            edits.set_metadata(
                session, job_id, submission.short(wanted.metadata), owner_id=principal.reach
            )
        if wanted.priority is not None and wanted.priority != view.job.priority:
            _change_priority(session, job_id, principal, wanted.priority)
            background.add_task(_publish_due, services, job_id)
        fields = sorted(wanted.model_fields_set & {"metadata", "priority"})
        record(session, by, AuditAction.JOB_CHANGED, job_id=job_id, detail={"fields": fields})
        session.expire_all()
        return read(session, job_id, principal, request)


@router.post(
    "/jobs/{job_id}/cancel",
    operation_id="cancel_job",
    summary="Cancel a job",
    description="At once while it waits; else its worker stops at the end of a window.",
    responses=CANCELLING | problems(401, 403, 404, 409, 410, 503),
)
def cancel(
    request: Request,
    response: Response,
    job_id: JobId,
    principal: Writer,
    by: By,
    services: ServicesDep,
) -> JobDetail:
    with services.transaction() as session:
        status = lifecycle.cancel(session, job_id, owner_id=principal.reach)
        if status is not None:
            record(session, by, AuditAction.JOB_CANCELLED, job_id=job_id)
        shown = read(session, job_id, principal, request)
    if status is None:
        raise JobFinished
    if status is JobStatus.CANCELLED:
        return shown.model_copy(update={"message": CANCELLED})
    response.status_code = HTTPStatus.ACCEPTED
    response.headers["Retry-After"] = str(POLL_SECONDS_MIN)
    return shown


@router.delete(
    "/jobs/{job_id}",
    status_code=204,
    operation_id="delete_job",
    summary="Delete a job and its upload",
    description=(
        "With its upload, transcript, errors and whatever was said of it; what is not final is"
        " cancelled by that. That there was such a job, and figures, are kept: it is answered 410"
        " `job_deleted` from then on."
    ),
    responses=problems(401, 403, 404, 410, 503),
)
def delete(job_id: JobId, principal: Deleter, by: By, services: ServicesDep) -> None:
    with services.transaction() as session:
        view = find(session, job_id, principal)
        # before it is gone, and with it whose it was
        record(session, by, AuditAction.JOB_DELETED, job_id=job_id)
        who = DeletedBy.CLIENT if view.job.owner_id == principal.owner_id else DeletedBy.ADMIN
        if not deletion.delete(session, [job_id], by=who, owner_id=principal.reach):
            raise JobDeleted
        # before the commit: should the store be away, the row stays, and may be deleted again
        services.uploads.delete(job_id)


def find(session: Session, job_id: uuid.UUID, principal: Principal) -> JobView:
    """Look up a job within the caller's reach.

    Raises:
        NotFound: There is none, or it is somebody else's.
        JobDeleted: There was one.
    """
    view = queries.find(session, job_id, owner_id=principal.reach)
    if view is not None:
        return view
    deleted = deletion.find(session, job_id, owner_id=principal.reach)
    if deleted is None:
        raise NotFound
    at = deleted.deleted_at.astimezone(UTC).isoformat()
    raise JobDeleted(deleted_at=at, deleted_by=deleted.deleted_by)


def read(session: Session, job_id: uuid.UUID, principal: Principal, request: Request) -> JobDetail:
    """Show a job within the caller's reach.

    Raises:
        NotFound, JobDeleted: There is none, or no more.
    """
    view = find(session, job_id, principal)
    services: Services = request.app.state.services
    root = request.scope.get("root_path", "")
    shown = detail(session, view, root, services.outlook, **_hidden(view, principal))
    if not principal.may_read:
        # whoever may only submit or change is not told what was said
        shown = shown.model_copy(update={"transcription": None})
    action = AuditAction.JOB_READ
    if shown.transcription is not None:
        action = AuditAction.TRANSCRIPT_READ
    elif view.job.owner_id == principal.owner_id:
        return shown  # asking how one's own job is going is no event
    by: Actor = request.scope["state"][ACTOR]
    services.trail.read(session, by, action, job_id)
    return shown


def _hidden(view: JobView, principal: Principal) -> dict[str, Any]:
    """What is shown otherwise to somebody who reads another's job."""
    url = view.job.source_url
    if url is None or view.job.owner_id == principal.owner_id:
        return {}
    return {"source_url": without_secrets(url)}


def detail(session: Session, view: JobView, root: str, outlook: Outlook, **more: Any) -> JobDetail:
    """Show a job with its text, its place in the queue and when it will be done."""
    found = Estimate()
    if view.job.status not in FINAL:
        found = outlook.estimate(session, view.job, paused=view.queue_paused)
    values = {
        "transcription": view.text,
        "queue_position": found.position,
        "eta_seconds": found.eta_seconds,
        **more,
    }
    return JobDetail.of(view, root=root, **values)


def poll_seconds(job: Job) -> int:
    """When to ask again, in seconds."""
    seconds = round((job.audio_seconds or 0) / 60)
    return max(POLL_SECONDS_MIN, min(seconds, POLL_SECONDS_MAX))


def _change_priority(
    session: Session, job_id: uuid.UUID, principal: Principal, priority: Priority
) -> None:
    if not edits.set_priority(session, job_id, priority, owner_id=principal.reach):
        raise ConflictError("Only a job that waits can change its priority.")


def _publish_due(services: Services, job_id: uuid.UUID) -> None:
    """Ring for a job in its new lane; the message in the old one will find it taken."""
    with services.transaction() as session:
        view = queries.find(session, job_id, owner_id=None)
    if view is not None and view.job.status == JobStatus.PENDING and not view.queue_paused:
        services.publish(job_id, view.job.lane)
