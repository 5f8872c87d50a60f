"""Submitting a recording, and the first version's words for asking after it and cancelling."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter, BackgroundTasks, Depends, Request, Response

from api import idempotency, jobs
from api.dependencies import By, JobId, Reader, ServicesDep, Writer, single_values
from api.documentation import Responses, problems, upload_body
from api.receiving import Submission
from api.schemas import JobDetail
from api.submission import Defaults
from api.uploading import OurForm

router = APIRouter(tags=["jobs"], dependencies=[Depends(single_values)])

_LOCATION: Final = {"Location": {"description": "The job.", "schema": {"type": "string"}}}
ACCEPTED: Final[Responses] = {
    200: {
        "description": "With `DUPLICATE_DETECTION`: the job that transcribed this file before.",
        "model": JobDetail,
        "headers": _LOCATION,
    },
    202: {
        "description": "The recording is stored, and will be transcribed whatever happens to us.",
        "headers": {
            **_LOCATION,
            "Retry-After": {
                "description": "When to ask again, in seconds.",
                "schema": {"type": "integer"},
            },
            idempotency.REPLAYED: {
                "description": "`true` where the key had made this job before.",
                "schema": {"type": "string", "enum": ["true"]},
            },
        },
    },
}


@router.post(
    "/transcribe",
    status_code=202,
    operation_id="submit",
    summary="Submit a recording",
    description="The fields may stand before or after the file, and in the query as well.",
    responses=ACCEPTED | problems(400, 401, 403, 408, 409, 410, 413, 415, 503, 507),
    openapi_extra=upload_body(),
)
async def submit(
    request: Request,
    response: Response,
    principal: Writer,
    services: ServicesDep,
    background: BackgroundTasks,
) -> JobDetail:
    key = idempotency.key_of(request.headers)
    with services.under_way.hold(principal.owner_id, key):
        form = OurForm(
            query=request.query_params,
            defaults=Defaults.of(services.settings),
            principal=principal,
            outgoing=lambda: services.outgoing,
        )
        submission = Submission(request, principal, services, form, key)
        added = await submission.receive()
    if added.lane is not None and not added.shown.queue_paused:
        # after the answer: whoever waits for it need not wait for Redis
        background.add_task(services.publish, added.shown.id, added.lane)
    response.status_code = added.status
    response.headers.update(added.headers)
    return added.shown


@router.get(
    "/transcribe/{job_id}",
    operation_id="get_transcription",
    summary="Ask after a job",
    description="The same as `GET /jobs/{job_id}`.",
    responses=problems(401, 403, 404, 410, 503),
)
async def ask(
    request: Request,
    response: Response,
    job_id: JobId,
    principal: Reader,
    services: ServicesDep,
    wait: jobs.Wait = 0,
) -> JobDetail:
    return await jobs.show(request, response, job_id, principal, services, wait)


@router.delete(
    "/transcribe/{job_id}",
    operation_id="cancel_transcription",
    summary="Cancel a job",
    description="The same as `POST /jobs/{job_id}/cancel`; deletes nothing.",
    responses=jobs.CANCELLING | problems(401, 403, 404, 409, 410, 503),
)
def cancel(
    request: Request,
    response: Response,
    job_id: JobId,
    principal: Writer,
    by: By,
    services: ServicesDep,
) -> JobDetail:
    return jobs.cancel(request, response, job_id, principal, by, services)
