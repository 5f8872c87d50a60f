"""What came of a job: its transcript in any format, and the recording it was made from."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import quote

from fastapi import APIRouter, Depends, Query, Request, Response
from sqlalchemy.orm import Session
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse

from api import filenames, jobs
from api.captions import CaptionsDep
from api.dependencies import By, JobId, Reader, ServicesDep, single_values
from api.documentation import Responses, problems
from api.errors import invalid
from errors import JobNotFinished, JobWithoutResult, NotFound, UploadMissing
from jobs import queries
from models import FINAL, AuditAction, JobStatus, TranscriptionJob
from speech.formats import FORMATS, Format
from speech.transcript import Transcript

router = APIRouter(tags=["jobs"], dependencies=[Depends(single_values)])

DEFAULT_FORMAT: Final = "json"
#: Whether the transcript is whole.
COMPLETE_HEADER: Final = "Transcript-Complete"
#: What files begin with; anything else is only bytes. Never a type that a browser would run.
SIGNATURES: Final = (
    (0, b"ID3", "audio/mpeg"),
    (0, b"\xff\xfb", "audio/mpeg"),
    (0, b"\xff\xf3", "audio/mpeg"),
    (0, b"fLaC", "audio/flac"),
    (0, b"OggS", "audio/ogg"),
    (8, b"WAVE", "audio/wav"),
    (0, b"\x1aE\xdf\xa3", "video/webm"),
    (4, b"ftyp", "video/mp4"),
)
SIGNATURE_BYTES: Final = 12
UNKNOWN_TYPE: Final = "application/octet-stream"

_RESULT: Final[Responses] = {
    200: {
        "description": "The transcript.",
        "content": {
            row.accepts[0]: {"schema": {"type": "object" if row.name == "json" else "string"}}
            for row in FORMATS.values()
        },
        "headers": {
            COMPLETE_HEADER: {
                "description": "`false` for a partial transcript.",
                "schema": {"type": "string", "enum": ["true", "false"]},
            }
        },
    }
}
_UPLOAD_TYPES: Final[dict[str, dict[str, Any]]] = {
    media_type: {} for media_type in (UNKNOWN_TYPE, *(row[2] for row in SIGNATURES))
}
_AUDIO: Final[Responses] = {
    200: {"description": "The upload.", "content": _UPLOAD_TYPES},
    206: {"description": "The part of it that `Range` asks for.", "content": _UPLOAD_TYPES},
}


@router.get(
    "/jobs/{job_id}/result",
    operation_id="get_result",
    summary="Read the transcript",
    description=f"In the `format`, or as `Accept` says: {', '.join(FORMATS)}.",
    response_class=Response,
    responses=_RESULT | problems(401, 403, 404, 406, 409, 410, 503),
)
def result(  # noqa: PLR0913, PLR0917 - what FastAPI hands in
    request: Request,
    job_id: JobId,
    principal: Reader,
    by: By,
    services: ServicesDep,
    shaped: CaptionsDep,
    name: Annotated[
        str | None,
        Query(alias="format", json_schema_extra={"enum": list(FORMATS)}),
    ] = None,
    partial: Annotated[
        bool, Query(description="Whether the windows that are finished so far will do.")
    ] = False,
) -> Response:
    chosen = format_of(name) if name else _accepted(", ".join(request.headers.getlist("accept")))
    shaped.require_cues(chosen)
    with services.transaction() as session:
        job = jobs.find(session, job_id, principal).job
        transcript, complete = _transcript(session, job, partial=partial)
        services.trail.read(session, by, AuditAction.TRANSCRIPT_READ, job_id)
    return Response(
        shaped.render(chosen, transcript),
        media_type=chosen.media_type,
        headers={
            COMPLETE_HEADER: str(complete).lower(),
            "Content-Disposition": attachment(
                filenames.stem(job.client_filename) + chosen.extension
            ),
            "Vary": "Accept",
        },
    )


@router.get(
    "/jobs/{job_id}/audio",
    operation_id="get_audio",
    summary="Read the upload",
    description="While it is kept; ranges can be asked for.",
    response_class=FileResponse,
    responses=_AUDIO | problems(400, 401, 403, 404, 410, 416, 503),
)
def audio(
    request: Request,
    job_id: JobId,
    principal: Reader,
    by: By,
    services: ServicesDep,
) -> FileResponse:
    with services.transaction() as session:
        job = jobs.find(session, job_id, principal).job
        if job.upload_deleted_at is not None:
            raise UploadMissing("The upload is no longer kept.")
        if job.upload_awaited:
            raise NotFound("The upload is not here.")
        path = services.uploads.find(job_id)
        if request.method != "HEAD":
            services.trail.read(session, by, AuditAction.AUDIO_READ, job_id)
    return FileResponse(
        path,
        media_type=media_type_of(path),
        headers={"Content-Disposition": attachment(job.client_filename)},
    )


router.add_api_route("/jobs/{job_id}/audio", audio, methods=["HEAD"], include_in_schema=False)


def media_type_of(path: Path) -> str:
    """Tell what an upload is from its first bytes."""
    with path.open("rb") as file:
        beginning = file.read(SIGNATURE_BYTES)
    for offset, signature, media_type in SIGNATURES:
        if beginning[offset:].startswith(signature):
            return media_type
    return UNKNOWN_TYPE


def _transcript(
    session: Session, job: TranscriptionJob, *, partial: bool
) -> tuple[Transcript, bool]:
    """Read a job's transcript, and whether it is whole.

    Raises:
        JobNotFinished: It is not there yet.
        JobWithoutResult: It never will be.
    """
    if job.status == JobStatus.COMPLETED:
        whole = queries.transcript(session, job.id)
        if whole is not None:
            return whole, True
    if partial:
        return queries.partial_transcript(session, job), False
    if job.status in FINAL:
        raise JobWithoutResult(job_status=job.status)
    raise JobNotFinished(job_status=job.status, retry_after_seconds=jobs.POLL_SECONDS_MAX)


def format_of(name: str) -> Format:
    if name not in FORMATS:
        raise invalid("format", "unknown_format", f"It should be one of: {', '.join(FORMATS)}.")
    return FORMATS[name]


def _accepted(accept: str) -> Format:
    """Choose the format that a client likes best.

    Args:
        accept: Its ``Accept`` header; without a word in it, everything is liked.

    Raises:
        HTTPException: 406, it likes none of ours.
    """
    for liked in _by_liking(accept.strip(", ") or "*/*"):
        if liked == "*/*":
            return FORMATS[DEFAULT_FORMAT]
        for row in FORMATS.values():
            if any(_matches(media_type, liked) for media_type in row.accepts):
                return row
    offered = sorted(media_type for row in FORMATS.values() for media_type in row.accepts)
    raise HTTPException(406, f"The result can be had as: {', '.join(offered)}.")


def _by_liking(accept: str) -> list[str]:
    """Media ranges of an Accept header, the best liked first; those not liked at all are left out.

    Source: RFC 9110, section 12.5.1.
    """
    weighed = []
    for item in accept.split(","):
        media_range, *parameters = (part.strip().lower() for part in item.split(";"))
        weights = [part.removeprefix("q=") for part in parameters if part.startswith("q=")]
        weight = _weight(weights[0]) if weights else 1.0
        if media_range and weight > 0:
            weighed.append((weight, media_range))
    return [media_range for _, media_range in sorted(weighed, key=lambda pair: -pair[0])]


def _weight(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


def _matches(media_type: str, media_range: str) -> bool:
    if media_range.endswith("/*"):
        return media_type.startswith(media_range.removesuffix("*"))
    return media_type == media_range


def attachment(name: str) -> str:
    """Say what a download is called (RFC 6266); to whom knows no more than ASCII as well."""
    plain = re.sub(r"[^A-Za-z0-9 ()_.,+=@-]", "_", name)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"
