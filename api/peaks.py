"""How loud a job's recording is: what a waveform is drawn from, also once the upload is deleted."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter, Depends
from pydantic import Field

from api import jobs
from api.dependencies import By, JobId, Reader, ServicesDep, single_values
from api.documentation import problems
from api.schemas import Answer
from errors import JobNotFinished, JobWithoutResult
from jobs import queries
from models import FINAL, AuditAction, JobStatus
from speech.peaks import SAMPLE_RATE_HZ

router = APIRouter(tags=["page"], dependencies=[Depends(single_values)])

BITS: Final = 8


class Peaks(Answer):
    """A waveform, as audiowaveform's JSON has it, so that players know how to read it."""

    version: int = 2
    channels: int = 1
    sample_rate: int = Field(description="In Hz.")
    samples_per_pixel: int = Field(description="Of how many samples each pair is.")
    bits: int = Field(description="The least of `data` is -128, the greatest 127.")
    length: int = Field(description="How many pairs there are; 0 where nobody looked.")
    data: list[int] = Field(description="The least and the greatest sample of each, in turn.")
    start_seconds: float = Field(description="Where in the recording the first pair begins.")
    audio_seconds: float = Field(description="How long all pairs together are.")


@router.get(
    "/jobs/{job_id}/peaks",
    operation_id="get_peaks",
    summary="Read the waveform",
    description="In at most 2,000 pairs. It is kept as long as the transcript.",
    responses=problems(401, 403, 404, 409, 410, 503),
)
def peaks(job_id: JobId, principal: Reader, by: By, services: ServicesDep) -> Peaks:
    with services.transaction() as session:
        job = jobs.find(session, job_id, principal).job
        found = queries.peaks(session, job_id) if job.status == JobStatus.COMPLETED else None
        if found is None and job.status in FINAL:
            raise JobWithoutResult(job_status=job.status)
        if found is None:
            seconds = jobs.POLL_SECONDS_MAX
            raise JobNotFinished(job_status=job.status, retry_after_seconds=seconds)
        if job.owner_id != principal.owner_id:
            services.trail.read(session, by, AuditAction.JOB_READ, job_id)
    return Peaks(
        sample_rate=SAMPLE_RATE_HZ,
        samples_per_pixel=found.samples_each,
        bits=BITS,
        length=len(found.pairs) // 2,
        data=found.pairs,
        start_seconds=job.start_seconds,
        audio_seconds=found.audio_seconds,
    )
