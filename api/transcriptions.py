"""Submitting a recording, and the first version's words for asking after it and cancelling."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter, BackgroundTasks, Depends, Request, Response
from starlette.concurrency import run_in_threadpool
from uuid_utils.compat import uuid7

from api import jobs, uploading
from api.dependencies import JobId, Reader, ServicesDep, Writer, single_values
from api.documentation import Responses, problems, upload_body
from api.schemas import JobDetail, path_of
from api.services import Services
from api.submission import BYTES_PER_SECOND, Defaults
from api.uploading import Received, Reception
from auth import Principal
from jobs import lifecycle, queues
from jobs.lifecycle import NewJob
from jobs.queries import JobView

router = APIRouter(tags=["jobs"], dependencies=[Depends(single_values)])

SUBMITTED: Final = (
    "Transcription job submitted successfully. Use GET /transcribe/{job_id} to check status."
)
ACCEPTED: Final[Responses] = {
    202: {
        "description": "The recording is stored, and will be transcribed whatever happens to us.",
        "headers": {
            "Location": {"description": "The job.", "schema": {"type": "string"}},
            "Retry-After": {
                "description": "When to ask again, in seconds.",
                "schema": {"type": "integer"},
            },
        },
    }
}


@router.post(
    "/transcribe",
    status_code=202,
    operation_id="submit",
    summary="Submit a recording",
    description="The fields may stand before or after the file, and in the query as well.",
    responses=ACCEPTED | problems(400, 401, 403, 408, 413, 415, 422, 503, 507),
    openapi_extra=upload_body(),
)
async def submit(
    request: Request,
    response: Response,
    principal: Writer,
    services: ServicesDep,
    background: BackgroundTasks,
) -> JobDetail:
    reception = Reception(
        job_id=uuid7(),
        query=request.query_params,
        defaults=Defaults.of(services.settings),
        may_use_high=principal.may_use_high,
    )
    received = await uploading.receive(request, services.uploads, reception)
    root = request.scope.get("root_path", "")
    detail, lane = await run_in_threadpool(_add, services, principal, received, root)
    if not detail.queue_paused:
        # after the answer: whoever waits for it need not wait for Redis
        background.add_task(services.publish, detail.id, lane)
    response.headers["Location"] = path_of(detail.id, root)
    response.headers["Retry-After"] = str(jobs.poll_seconds(detail))
    return detail


@router.get(
    "/transcribe/{job_id}",
    operation_id="get_transcription",
    summary="Ask after a job",
    description="The same as `GET /jobs/{job_id}`.",
    responses=problems(401, 403, 404, 503),
)
def ask(
    request: Request, response: Response, job_id: JobId, principal: Reader, services: ServicesDep
) -> JobDetail:
    return jobs.show(request, response, job_id, principal, services)


@router.delete(
    "/transcribe/{job_id}",
    operation_id="cancel_transcription",
    summary="Cancel a job",
    description="The same as `POST /jobs/{job_id}/cancel`; deletes nothing.",
    responses=jobs.CANCELLING | problems(401, 403, 404, 409, 503),
)
def cancel(
    request: Request, response: Response, job_id: JobId, principal: Writer, services: ServicesDep
) -> JobDetail:
    return jobs.cancel(request, response, job_id, principal, services)


def _add(
    services: Services, principal: Principal, received: Received, root: str
) -> tuple[JobDetail, str]:
    """Add the job; its file does not stay where that fails. Returns the job and its lane."""
    try:
        with services.transaction() as session:
            job = lifecycle.submit(session, _new_job(services, principal, received))
            view = JobView(job=job, queue_paused=queues.is_paused(session, job.lane))
            detail = jobs.detail(session, view, root, message=SUBMITTED)
            return detail, job.lane
    except BaseException:
        services.uploads.delete(received.upload.job_id)
        raise


def _new_job(services: Services, principal: Principal, received: Received) -> NewJob:
    wishes, upload = received.wishes, received.upload
    return NewJob(
        id=upload.job_id,
        owner_id=principal.owner_id,
        api_key_id=principal.key_id,
        engine_name=wishes.engine_name,
        model_name=wishes.model_name,
        client_filename=received.filename,
        upload_bytes=upload.size_bytes,
        upload_sha256=upload.sha256,
        max_attempts=services.settings.max_attempts,
        priority=wishes.priority,
        language=wishes.language,
        translate=wishes.translate,
        initial_prompt=wishes.initial_prompt,
        word_timestamps=wishes.word_timestamps,
        client_metadata=wishes.client_metadata,
        audio_seconds=upload.size_bytes / BYTES_PER_SECOND,
        warnings=wishes.warnings,
    )
