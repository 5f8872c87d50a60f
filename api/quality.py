"""What to look at again in a job's transcript."""

from __future__ import annotations

from fastapi import APIRouter, Depends
from pydantic import Field

from api import jobs
from api.dependencies import By, JobId, Reader, ServicesDep, single_values
from api.documentation import problems
from api.schemas import Answer
from errors import JobNotFinished, JobWithoutResult
from jobs import queries
from models import FINAL, AuditAction
from speech import quality
from speech.quality import Doubt

router = APIRouter(tags=["jobs"], dependencies=[Depends(single_values)])

#: Enough for whoever looks; a recording of noise may have thousands.
MOST_FINDINGS = 1000


class Finding(Answer):
    """A stretch that somebody should look at."""

    code: Doubt = Field(
        description="`loop`: the same again and again. `repetitive`: compresses as no speech does."
        " `low_confidence`: the model was guessing. `too_fast`: more than anybody says in that"
        " time. `in_silence`: there is nothing to be heard. `no_words`: there is something to be"
        " heard, and no word; `cut_off`: at the end. More may come."
    )
    start: float = Field(description="In seconds of the recording, as segments have it.")
    end: float
    segments: list[int] = Field(description="Their `id` in the `json` of the result.")


class Quality(Answer):
    """Where a transcript is likely to be bad; it says nothing of how good the rest is."""

    findings: list[Finding] = Field(
        description=f"In the order of the recording, {MOST_FINDINGS} at most."
    )
    suspect_segments: list[int] = Field(description="All that findings name.")
    silence_share: float | None = Field(
        description="Of the audio, 0 to 1; null where its loudness is not known.", ge=0, le=1
    )
    speech_share: float = Field(description="Of the audio, under segments.", ge=0, le=1)
    words_per_minute: float | None = Field(description="Under segments; null without a word.")
    confidence: float | None = Field(description="Mean probability of a token, 0 to 1.")


@router.get(
    "/jobs/{job_id}/quality",
    operation_id="get_quality",
    summary="Find what to look at again",
    description="Loops, guesses, text in silence, and sound without words: judged from the"
    " transcript and from how loud the recording is.",
    responses=problems(401, 403, 404, 409, 410, 503),
)
def show(job_id: JobId, principal: Reader, by: By, services: ServicesDep) -> Quality:
    with services.transaction() as session:
        job = jobs.find(session, job_id, principal).job
        transcript = queries.transcript(session, job_id)
        loudness = queries.peaks(session, job_id)
        if transcript is None or loudness is None:
            if job.status in FINAL:
                raise JobWithoutResult(job_status=job.status)
            seconds = jobs.POLL_SECONDS_MAX
            raise JobNotFinished(job_status=job.status, retry_after_seconds=seconds)
        if job.owner_id != principal.owner_id:
            services.trail.read(session, by, AuditAction.JOB_READ, job_id)
    found = quality.judge(transcript, loudness.pairs, start_seconds=job.start_seconds)
    return Quality(
        findings=[
            Finding(
                code=each.doubt,
                start=round(each.start_seconds, 3),
                end=round(each.end_seconds, 3),
                segments=list(each.segments),
            )
            for each in found.findings[:MOST_FINDINGS]
        ],
        suspect_segments=found.suspects,
        silence_share=found.silence_share,
        speech_share=found.speech_share,
        words_per_minute=found.words_per_minute,
        confidence=transcript.confidence,
    )
