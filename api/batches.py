"""Batches: many files with one profile, followed, read, cancelled and retried together."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final

from fastapi import APIRouter, BackgroundTasks, Depends, Query, Request, Response
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool
from uuid_utils.compat import uuid7

from api import addresses, cursors, idempotency
from api.batch_schemas import Batch, BatchList, NewBatch
from api.dependencies import (
    BatchId,
    By,
    Deleter,
    Reader,
    ServicesDep,
    Writer,
    json_body,
    single_values,
)
from api.documentation import json_request, problems, upload_body
from api.jobs import Page
from api.multipart import FILE_FIELD
from api.receiving import Submission
from api.schemas import JobDetail
from api.services import Services
from api.submission import Defaults, Wishes, said
from api.transcriptions import ACCEPTED
from api.uploading import OurForm, Received, promised
from audit.events import record, record_each
from auth import Principal
from errors import InvalidRequest, UnknownModel
from jobs import batches, deletion, lifecycle
from jobs.lifecycle import Redrive
from jobs.paging import Place
from models import AuditAction, DeletedBy, JobStatus, Scope
from models import Batch as Row

router = APIRouter(prefix="/batches", tags=["batches"], dependencies=[Depends(single_values)])

#: Read by hand, so FastAPI does not see them.
BODIES: Final = (NewBatch,)
#: Jobs that are cancelled in one transaction.
STEP: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchForm:
    """The fields of a file that is added to a batch: its own, and the profile's."""

    ours: OurForm
    profile: Mapping[str, str]

    file_field: ClassVar = FILE_FIELD
    preface: ClassVar = b""

    @property
    def known(self) -> Collection[str]:
        return self.ours.known

    def wishes(self, fields: Mapping[str, str]) -> Wishes:
        return self.ours.wishes(self.said(fields))

    def said(self, fields: Mapping[str, str]) -> Mapping[str, str]:
        return {**self.profile, **said(self.ours.query, fields)}


@router.post(
    "",
    status_code=201,
    operation_id="create_batch",
    summary="Begin a batch",
    description="Post its files to `/batches/{batch_id}/files` then, one at a time or side by side,"
    " and close it. With `urls` it has jobs from the beginning: all of them or none.",
    responses=problems(401, 403, 503),
    openapi_extra=json_request(NewBatch.__name__, required=True),
)
def create(
    request: Request,
    response: Response,
    principal: Writer,
    by: By,
    services: ServicesDep,
    wanted: Annotated[NewBatch, Depends(json_body(NewBatch))],
) -> Batch:
    profile = wanted.profile.said()
    with _told_of_profile():
        _form(request, services, principal, {}).wishes(profile)
    form = _form(request, services, principal, profile)
    files = [_promised(form, number, each) for number, each in enumerate(wanted.urls)]
    url = wanted.callback_url
    if url is not None:
        principal.require(Scope.WEBHOOKS)
        url = addresses.require_callable(services.outgoing, url, "callback_url")
    with services.transaction() as session:
        if url is not None:
            addresses.require_secret(session, principal.owner_id)
        made = batches.NewBatch(
            owner_id=principal.owner_id,
            api_key_id=principal.key_id,
            name=wanted.name,
            profile=profile,
            callback_url=url,
        )
        row = batches.create(session, made)
        record(session, by, AuditAction.BATCH_CREATED, batch_id=row.id)
        submission = Submission(request, principal, services, form, None, batch_id=row.id)
        for file in files:
            submission.add_job(session, file)
        shown = _shown(session, request, [row])[0]
    response.headers["Location"] = shown.links.self
    return shown


@router.get(
    "",
    operation_id="list_batches",
    summary="List batches, newest first",
    responses=problems(400, 401, 403, 503),
)
def index(
    request: Request,
    response: Response,
    principal: Reader,
    services: ServicesDep,
    wanted: Annotated[Page, Query()],
) -> BatchList:
    of = f"batches/{principal.reach}"
    before = cursors.decode(wanted.cursor, of=of)
    with services.transaction() as session:
        total = batches.count(session, principal.reach)
        rows = batches.page(
            session, owner_id=principal.reach, before=before, limit=wanted.limit + 1
        )
        shown = _shown(session, request, rows[: wanted.limit])
    cursor = None
    if len(rows) > wanted.limit:
        last = rows[wanted.limit - 1]
        cursor = cursors.encode(Place(last.created_at, last.id), of=of)
        response.headers["Link"] = cursors.next_link(request, cursor)
    return BatchList(batches=shown, total=total, next_cursor=cursor)


@router.get(
    "/{batch_id}",
    operation_id="get_batch",
    summary="Ask after a batch",
    responses=problems(401, 403, 404, 503),
)
def show(request: Request, batch_id: BatchId, principal: Reader, services: ServicesDep) -> Batch:
    with services.transaction() as session:
        row = batches.find(session, batch_id, owner_id=principal.reach)
        return _shown(session, request, [row])[0]


@router.post(
    "/{batch_id}/files",
    status_code=202,
    operation_id="add_file",
    summary="Add a file to a batch",
    description="As `POST /transcribe` does, with the batch's profile: what the form or the query"
    " says goes before it.",
    responses=ACCEPTED | problems(400, 401, 403, 404, 408, 409, 410, 413, 415, 503, 507),
    openapi_extra=upload_body(),
)
async def add(
    request: Request,
    response: Response,
    batch_id: BatchId,
    principal: Writer,
    services: ServicesDep,
    background: BackgroundTasks,
) -> JobDetail:
    def profile() -> dict[str, Any]:
        with services.transaction() as session:
            # before a byte of the file is read, and once more when its job is added
            batches.hold_open(session, batch_id, owner_id=principal.owner_id)
            return batches.find(session, batch_id, owner_id=principal.owner_id).profile

    key = idempotency.key_of(request.headers)
    with services.under_way.hold(principal.owner_id, key):
        form = _form(request, services, principal, await run_in_threadpool(profile))
        submission = Submission(request, principal, services, form, key, batch_id=batch_id)
        added = await submission.receive()
    if added.lane is not None and not added.shown.queue_paused:
        # after the answer: whoever waits for it need not wait for Redis
        background.add_task(services.publish, added.shown.id, added.lane)
    response.status_code = added.status
    response.headers.update(added.headers)
    return added.shown


@router.post(
    "/{batch_id}/close",
    operation_id="close_batch",
    summary="Take no more files",
    description="Only then can it end. Closing it again changes nothing.",
    responses=problems(401, 403, 404, 503),
)
def close(
    request: Request, batch_id: BatchId, principal: Writer, by: By, services: ServicesDep
) -> Batch:
    with services.transaction() as session:
        row = batches.find(session, batch_id, owner_id=principal.reach)
        if batches.close(session, row):
            record(session, by, AuditAction.BATCH_CLOSED, batch_id=batch_id)
        return _shown(session, request, [row])[0]


@router.post(
    "/{batch_id}/cancel",
    operation_id="cancel_batch",
    summary="Cancel what has not ended",
    description="And close the batch. What a worker has stops at the end of the window it is at.",
    responses=problems(401, 403, 404, 503),
)
def cancel(
    request: Request, batch_id: BatchId, principal: Writer, by: By, services: ServicesDep
) -> Batch:
    with services.transaction() as session:
        row = batches.find(session, batch_id, owner_id=principal.reach)
        batches.close(session, row)
        record(session, by, AuditAction.BATCH_CANCELLED, batch_id=batch_id)
        waiting = batches.jobs(session, batch_id, JobStatus.PENDING, JobStatus.PROCESSING)
        ids = sorted(job.id for job in waiting)
    for first in range(0, len(ids), STEP):
        with services.transaction() as session:
            step = ids[first : first + STEP]
            done = [i for i in step if lifecycle.cancel(session, i, owner_id=principal.reach)]
            record_each(session, by, AuditAction.JOB_CANCELLED, done)
    with services.transaction() as session:
        row = batches.find(session, batch_id, owner_id=principal.reach)
        return _shown(session, request, [row])[0]


@router.post(
    "/{batch_id}/retry",
    status_code=202,
    operation_id="retry_batch",
    summary="Send the failed jobs round again",
    description="Those whose uploads are kept, and that are not in quarantine; all of them or none,"
    " as far as limits go. The batch's end is told again.",
    responses=problems(401, 403, 404, 503),
)
def retry(
    request: Request,
    batch_id: BatchId,
    principal: Writer,
    by: By,
    services: ServicesDep,
    background: BackgroundTasks,
) -> Batch:
    with services.transaction() as session:
        row = batches.find(session, batch_id, owner_id=principal.reach)
        lanes = _retry(session, services, principal, batch_id)
        if lanes:
            batches.reopen(session, row)
            record_each(session, by, AuditAction.ERROR_RETRIED, list(lanes))
        session.expire_all()
        shown = _shown(session, request, [row])[0]
    for job_id, lane in lanes.items():
        background.add_task(services.publish, job_id, lane)
    return shown


@router.delete(
    "/{batch_id}",
    status_code=204,
    operation_id="delete_batch",
    summary="Delete a batch with all its jobs",
    description="As each of them would be deleted; what has not ended is cancelled by that.",
    responses=problems(401, 403, 404, 503),
)
def delete(batch_id: BatchId, principal: Deleter, by: By, services: ServicesDep) -> None:
    with services.transaction() as session:
        row = batches.find(session, batch_id, owner_id=principal.reach)
        batches.close(session, row)
        ids = sorted(job.id for job in batches.jobs(session, batch_id))
        who = DeletedBy.CLIENT if row.owner_id == principal.owner_id else DeletedBy.ADMIN
    for first in range(0, len(ids), STEP):
        with services.transaction() as session:
            step = ids[first : first + STEP]
            # before they are gone, and with them whose they were
            record_each(session, by, AuditAction.JOB_DELETED, step)
            deletion.delete(session, step, by=who, owner_id=principal.reach)
            for job_id in step:
                services.uploads.delete(job_id)
    with services.transaction() as session:
        row = batches.find(session, batch_id, owner_id=principal.reach)
        record(session, by, AuditAction.BATCH_DELETED, batch_id=batch_id)
        session.delete(row)


def _retry(
    session: Session, services: Services, principal: Principal, batch_id: uuid.UUID
) -> dict[uuid.UUID, str]:
    """Send what failed round again; returns the lanes that the jobs wait in.

    Raises:
        QueueFull, QuotaExceeded: There is no room for all of them.
    """
    how = Redrive(max_attempts=services.settings.max_attempts, by=principal.key_prefix)
    lanes: dict[uuid.UUID, str] = {}
    for job in batches.jobs(session, batch_id, JobStatus.FAILED):
        services.outlook.require_room(session)
        services.allowances.take_room(session, principal, upload_bytes=0)
        lanes |= lifecycle.redrive(session, [job.id], how)
    return lanes


def _shown(session: Session, request: Request, rows: Sequence[Row]) -> list[Batch]:
    tallies = batches.tallies(session, [row.id for row in rows])
    root: str = request.scope.get("root_path", "")
    return [Batch.of(row, tallies[row.id], root=root) for row in rows]


def _form(
    request: Request, services: Services, principal: Principal, profile: Mapping[str, str]
) -> BatchForm:
    ours = OurForm(
        query=request.query_params,
        defaults=Defaults.of(services.settings),
        principal=principal,
        outgoing=lambda: services.outgoing,
    )
    return BatchForm(ours=ours, profile=profile)


def _promised(form: BatchForm, number: int, url: str) -> Received:
    try:
        return promised(form, {"source_url": url}, uuid7())
    except InvalidRequest as error:
        for told in error.data.get("errors", ()):
            told["pointer"] = f"#/urls/{number}"
        raise


@contextmanager
def _told_of_profile() -> Iterator[None]:
    """Have errors of fields point to where they stand in the body."""
    try:
        yield
    except (InvalidRequest, UnknownModel) as error:
        for told in error.data.get("errors", ()):
            told["pointer"] = f"#/profile{told['pointer'].removeprefix('#')}"
        raise
