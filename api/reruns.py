"""Transcribing a recording once more, which is here already, with other settings."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Final

from fastapi import APIRouter, BackgroundTasks, Depends, Request, Response
from pydantic import Field
from starlette.concurrency import run_in_threadpool
from uuid_utils.compat import uuid7

from api import idempotency, jobs
from api.batch_schemas import Profile
from api.dependencies import JobId, ServicesDep, Writer, json_body, single_values
from api.documentation import json_request, problems
from api.receiving import Submission
from api.schemas import JobDetail, Text
from api.submission import MAX_URL_CHARS, Defaults
from api.transcriptions import ACCEPTED
from api.uploading import OurForm, Received
from errors import ConflictError, NotFound, UploadMissing
from models import TranscriptionJob

router = APIRouter(tags=["jobs"], dependencies=[Depends(single_values)])


class Rerun(Profile):
    """What is to be other than it was; null takes a wish back."""

    callback_url: Annotated[Text, Field(min_length=1, max_length=MAX_URL_CHARS)] | None = Field(
        None, description="Called when the new job has ended; that of the old one is not."
    )

    def changed(self) -> dict[str, str]:
        """What is said here, as a form would say it: nothing, for null."""
        return {**dict.fromkeys(self.model_fields_set, ""), **self.said()}


BODIES: Final = (Rerun,)


@dataclass(frozen=True, slots=True)
class _Kept:
    """An upload that is here already."""

    size_bytes: int
    sha256: bytes


@router.post(
    "/jobs/{job_id}/rerun",
    status_code=202,
    operation_id="rerun_job",
    summary="Transcribe the recording once more",
    description="A new job, of a recording that is still kept; what is not said is as it was. It"
    " counts against the limits as any other, and either is deleted by itself.",
    responses=ACCEPTED | problems(401, 403, 404, 409, 410, 503, 507),
    openapi_extra=json_request(Rerun.__name__, required=False, idempotent=True),
)
async def rerun(  # noqa: PLR0913, PLR0917 - what FastAPI hands in
    request: Request,
    response: Response,
    job_id: JobId,
    principal: Writer,
    services: ServicesDep,
    background: BackgroundTasks,
    wanted: Annotated[Rerun, Depends(json_body(Rerun, optional=True))],
) -> JobDetail:
    def find() -> TranscriptionJob:
        with services.transaction() as session:
            job = jobs.find(session, job_id, principal).job
        # not even an operator does it to another's: whose would the job be?
        if job.owner_id != principal.owner_id:
            raise NotFound
        if job.upload_deleted_at is not None:
            raise UploadMissing("The upload is no longer kept.")
        if job.upload_awaited:
            raise ConflictError("The upload is not here.")
        return job

    key = idempotency.key_of(request.headers)
    with services.under_way.hold(principal.owner_id, key):
        job = await run_in_threadpool(find)
        form = OurForm(
            query={},
            defaults=Defaults.of(services.settings),
            principal=principal,
            outgoing=lambda: services.outgoing,
        )
        fields = {**_said(job), **wanted.changed()}
        received = Received(
            job_id=uuid7(),
            upload=_Kept(job.upload_bytes, job.upload_sha256),
            filename=job.client_filename,
            wishes=form.wishes(fields),
            said=form.said(fields),
            fields=fields,
        )
        submission = Submission(request, principal, services, form, key)
        keep = functools.partial(services.uploads.share, job_id, received.job_id)
        added = await submission.repeat(received, keep)
    if added.lane is not None and not added.shown.queue_paused:
        background.add_task(services.publish, added.shown.id, added.lane)
    response.status_code = added.status
    response.headers.update(added.headers)
    return added.shown


def _said(job: TranscriptionJob) -> Mapping[str, str]:
    """What a job was submitted with, as a form would say it."""
    said = {
        "model_size": job.model_name,
        "engine": job.engine_name,
        "language": job.language,
        "task": "translate" if job.translate else None,
        "priority": job.priority,
        "word_timestamps": "true" if job.word_timestamps else None,
        "initial_prompt": job.initial_prompt,
        "track": job.track,
        "start_seconds": job.start_seconds or None,
        "end_seconds": job.end_seconds,
        "metadata": json.dumps(job.client_metadata) if job.client_metadata else None,
    }
    return {name: str(value) for name, value in said.items() if value is not None}
