"""For operators: the dead letter queue, to look at and to work through, one by one or many."""

from __future__ import annotations

import functools
import uuid
from typing import Annotated, Final

from fastapi import APIRouter, BackgroundTasks, Depends, Query, Request, Response
from sqlalchemy.orm import Session

from api import cursors, jobs, submission
from api.dead_letter_schemas import (
    FailedJob,
    FailedJobDetail,
    FailedJobFilter,
    FailedJobList,
    Many,
    Quarantine,
    Resolution,
    Resolved,
    ResolveMany,
    Retried,
    Retry,
    RetryMany,
    done,
    list_of,
)
from api.dependencies import Admin, By, JobId, ServicesDep, json_body, single_values
from api.documentation import json_request, problems
from api.errors import invalid
from api.schemas import JobDetail
from api.services import Services
from audit.events import Actor, record
from auth import Principal
from errors import JobNotFailed, JobQuarantined, NotFound, UploadMissing
from jobs import dead_letters, lifecycle
from jobs.dead_letters import DeadLetter
from jobs.lifecycle import Redrive
from jobs.sweeps import Broom
from models import AuditAction, TranscriptionJob
from speech.engines import catalogue

router = APIRouter(prefix="/admin/errors", tags=["admin"], dependencies=[Depends(single_values)])

#: The bodies that are read by hand.
BODIES: Final = (Retry, Resolution, Quarantine, RetryMany, ResolveMany)


@router.get(
    "",
    operation_id="list_errors",
    summary="The dead letter queue, the last to fail first",
    responses=problems(400, 401, 403, 503),
)
def index(
    request: Request,
    response: Response,
    _principal: Admin,
    by: By,
    services: ServicesDep,
    asked: Annotated[FailedJobFilter, Query()],
) -> FailedJobList:
    wanted = asked.wanted(quarantined=asked.quarantined)
    of = list_of(wanted)
    before = cursors.decode(asked.cursor, of=of)
    with services.transaction() as session:
        total = dead_letters.count(session, wanted)
        letters = dead_letters.page(session, wanted, before=before, limit=asked.limit + 1)
        shown = [FailedJob.of(letter) for letter in letters[: asked.limit]]
        services.trail.read(session, by, AuditAction.JOBS_LISTED)
    cursor = None
    if len(letters) > asked.limit:
        cursor = cursors.encode(dead_letters.place_of(letters[asked.limit - 1].job), of=of)
        response.headers["Link"] = cursors.next_link(request, cursor)
    return FailedJobList(errors=shown, total=total, next_cursor=cursor)


@router.get(
    "/{job_id}",
    operation_id="get_error",
    summary="A failed job with its attempts, tracebacks and all",
    responses=problems(401, 403, 404, 410, 503),
)
def show(
    request: Request, job_id: JobId, principal: Admin, by: By, services: ServicesDep
) -> FailedJobDetail:
    with services.transaction() as session:
        job = jobs.read(session, job_id, principal, request)
        letter = dead_letters.find(session, job_id)
        if letter is None:
            raise NotFound("There is such a job, but it has not failed.")
        services.trail.read(session, by, AuditAction.ERROR_READ, job_id)
        return FailedJobDetail.with_job(letter, job)


@router.post(
    "/retry",
    operation_id="retry_errors",
    summary="Send many failed jobs round again",
    responses=problems(401, 403, 503),
    openapi_extra=json_request(RetryMany.__name__, required=True),
)
def retry_many(
    principal: Admin,
    by: By,
    services: ServicesDep,
    asked: Annotated[RetryMany, Depends(json_body(RetryMany))],
) -> Retried:
    how = _redrive(asked, services, principal)
    swept = _broom(asked, services, by).retry(how, unfit=functools.partial(_unfit, how))
    # not rung for one by one: the dispatcher takes what is due, in turn over the owners
    return Retried(retried=len(swept.done), **done(swept, asked))


@router.post(
    "/resolve",
    operation_id="resolve_errors",
    summary="Note that many failed jobs were dealt with",
    responses=problems(401, 403, 503),
    openapi_extra=json_request(ResolveMany.__name__, required=True),
)
def resolve_many(
    principal: Admin,
    by: By,
    services: ServicesDep,
    asked: Annotated[ResolveMany, Depends(json_body(ResolveMany))],
) -> Resolved:
    swept = _broom(asked, services, by).resolve(by=principal.key_prefix, notes=asked.notes)
    return Resolved(resolved=len(swept.done), **done(swept, asked))


@router.post(
    "/{job_id}/retry",
    status_code=202,
    operation_id="retry_error",
    summary="Send a failed job round again",
    responses=problems(401, 403, 404, 409, 410, 503),
    openapi_extra=json_request(Retry.__name__, required=False),
)
def retry(  # noqa: PLR0913, PLR0917 - what FastAPI hands in
    request: Request,
    job_id: JobId,
    principal: Admin,
    by: By,
    services: ServicesDep,
    background: BackgroundTasks,
    asked: Annotated[Retry, Depends(json_body(Retry, optional=True))],
) -> JobDetail:
    how = _redrive(asked, services, principal)
    with services.transaction() as session:
        shown = jobs.read(session, job_id, principal, request)
        _require_retriable(_require_failed(session, job_id, shown), how)
        lanes = lifecycle.redrive(session, [job_id], how)
        session.expire_all()
        shown = jobs.read(session, job_id, principal, request)
        if not lanes:  # somebody was faster
            raise JobNotFailed(job_status=shown.status)
        record(session, by, AuditAction.ERROR_RETRIED, job_id=job_id)
    if not shown.queue_paused:
        background.add_task(services.publish, job_id, lanes[job_id])
    return shown


@router.post(
    "/{job_id}/resolve",
    operation_id="resolve_error",
    summary="Note that a failed job was dealt with",
    responses=problems(401, 403, 404, 409, 410, 503),
    openapi_extra=json_request(Resolution.__name__, required=False),
)
def resolve(
    request: Request,
    job_id: JobId,
    principal: Admin,
    by: By,
    services: ServicesDep,
    asked: Annotated[Resolution, Depends(json_body(Resolution, optional=True))],
) -> FailedJobDetail:
    with services.transaction() as session:
        letter = _find(session, job_id, principal, request)
        _require_free(letter)
        dead_letters.resolve(session, [job_id], by=principal.key_prefix, notes=asked.notes)
        record(session, by, AuditAction.ERROR_RESOLVED, job_id=job_id)
        return _shown(session, job_id, principal, request)


@router.post(
    "/{job_id}/quarantine",
    operation_id="quarantine_error",
    summary="Set a failed job aside",
    description="Until it is released it is not retried or resolved, and its upload is kept.",
    responses=problems(401, 403, 404, 409, 410, 503),
    openapi_extra=json_request(Quarantine.__name__, required=False),
)
def quarantine(
    request: Request,
    job_id: JobId,
    principal: Admin,
    by: By,
    services: ServicesDep,
    asked: Annotated[Quarantine, Depends(json_body(Quarantine, optional=True))],
) -> FailedJobDetail:
    with services.transaction() as session:
        _find(session, job_id, principal, request)
        dead_letters.quarantine(session, job_id, by=principal.key_prefix, notes=asked.notes)
        record(session, by, AuditAction.ERROR_QUARANTINED, job_id=job_id)
        return _shown(session, job_id, principal, request)


@router.delete(
    "/{job_id}/quarantine",
    operation_id="delete_quarantine",
    summary="Take a failed job out of quarantine",
    description="The same as `POST /admin/errors/{job_id}/release`.",
    responses=problems(401, 403, 404, 409, 410, 503),
)
@router.post(
    "/{job_id}/release",
    operation_id="release_error",
    summary="Take a failed job out of quarantine",
    description="The time that its upload is kept for begins again.",
    responses=problems(401, 403, 404, 409, 410, 503),
)
def release(
    request: Request, job_id: JobId, principal: Admin, by: By, services: ServicesDep
) -> FailedJobDetail:
    with services.transaction() as session:
        _find(session, job_id, principal, request)
        dead_letters.release(session, job_id)
        record(session, by, AuditAction.ERROR_RELEASED, job_id=job_id)
        return _shown(session, job_id, principal, request)


def _find(
    session: Session, job_id: uuid.UUID, principal: Principal, request: Request
) -> DeadLetter:
    return _require_failed(session, job_id, jobs.read(session, job_id, principal, request))


def _shown(
    session: Session, job_id: uuid.UUID, principal: Principal, request: Request
) -> FailedJobDetail:
    """Show a failed job as it is after a change."""
    session.expire_all()
    job = jobs.read(session, job_id, principal, request)
    return FailedJobDetail.with_job(_require_failed(session, job_id, job), job)


def _require_failed(session: Session, job_id: uuid.UUID, job: JobDetail) -> DeadLetter:
    letter = dead_letters.find(session, job_id)
    if letter is None:
        raise JobNotFailed(job_status=job.status)
    return letter


def _require_free(letter: DeadLetter) -> None:
    if letter.job.quarantined_at is not None:
        raise JobQuarantined


def _require_retriable(letter: DeadLetter, how: Redrive) -> None:
    _require_free(letter)
    job = letter.job
    if job.upload_deleted_at is not None:
        raise UploadMissing("The upload is no longer kept, so the job cannot be tried again.")
    if how.model_name is not None:
        submission.require_ability(how.model_name, language=job.language, translate=job.translate)


def _redrive(asked: Retry, services: Services, principal: Principal) -> Redrive:
    """Read how jobs are to be sent round again.

    Raises:
        UnknownModel, InvalidRequest: There is no such model or engine.
    """
    name = None if asked.model_size is None else submission.model_name(asked.model_size)
    engine = submission.FIELDS["engine"]
    return Redrive(
        max_attempts=services.settings.max_attempts,
        by=principal.key_prefix,
        model_name=name,
        model_warnings=() if name is None else catalogue.resolve(name).warnings,
        engine_name=None if asked.engine is None else engine.read(asked.engine),
        priority=asked.priority,
    )


def _unfit(how: Redrive, job: TranscriptionJob) -> str | None:
    if how.model_name is None:
        return None
    spec = catalogue.resolve(how.model_name)
    return spec.unfit_for(language=job.language, translate=job.translate)


def _broom(asked: Many, services: Services, by: Actor) -> Broom:
    wanted = asked.filter.wanted()
    if wanted.is_everything and not asked.all:
        raise invalid("filter", "missing", "It leaves nothing out: mean that with `all`.")
    return Broom(
        transaction=services.transaction,
        actor=by,
        wanted=wanted,
        limit=asked.limit,
        before=cursors.decode(asked.cursor, of=list_of(wanted)),
        dry_run=asked.dry_run,
    )
