"""All transcripts of a batch, in one archive."""

from __future__ import annotations

import functools
import json
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Query
from starlette.responses import StreamingResponse

from api import archives, filenames
from api.captions import CaptionsDep
from api.dependencies import BatchId, By, Reader, ServicesDep, single_values
from api.documentation import Responses, problems
from api.results import attachment, format_of
from api.services import Services
from audit.events import Actor
from jobs import batches, queries
from models import AuditAction, JobStatus, TranscriptionJob
from speech.formats import FORMATS
from speech.transcript import Transcript

router = APIRouter(prefix="/batches", tags=["batches"], dependencies=[Depends(single_values)])

Write = Callable[[Transcript], str]

#: Its name and suffix.
MANIFEST: Final = ("batch", ".json")
ZIP: Final = "application/zip"
_ARCHIVE: Final[Responses] = {
    200: {
        "description": "A transcript for each completed job, and `batch.json`, which names them"
        " and tells of the others.",
        "content": {ZIP: {"schema": {"type": "string", "format": "binary"}}},
    }
}


@router.get(
    "/{batch_id}/result",
    operation_id="get_batch_result",
    summary="Read all transcripts in one archive",
    description="Of the jobs that are completed now; others may follow.",
    response_class=StreamingResponse,
    responses=_ARCHIVE | problems(401, 403, 404, 503),
)
def result(
    batch_id: BatchId,
    principal: Reader,
    by: By,
    services: ServicesDep,
    shaped: CaptionsDep,
    name: Annotated[str, Query(alias="format", json_schema_extra={"enum": list(FORMATS)})] = "txt",
) -> StreamingResponse:
    chosen = format_of(name)
    shaped.require_cues(chosen)
    write = functools.partial(shaped.render, chosen)
    with services.transaction() as session:
        row = batches.find(session, batch_id, owner_id=principal.reach)
        found = [_Entry.of(job) for job in batches.jobs(session, batch_id)]
        stem = filenames.clean((row.name or f"batch-{row.id}").encode())
    return StreamingResponse(
        archives.zipped(_files(services, by, found, chosen.extension, write)),
        media_type=ZIP,
        headers={"Content-Disposition": attachment(f"{stem}.zip")},
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """A job, as its batch's archive tells of it."""

    job_id: uuid.UUID
    filename: str
    status: str
    error_code: str | None
    failure_reason: str | None
    at: datetime

    @classmethod
    def of(cls, job: TranscriptionJob) -> _Entry:
        return cls(
            job_id=job.id,
            filename=job.client_filename or filenames.DEFAULT,
            status=job.status,
            error_code=job.error_code,
            failure_reason=job.failure_reason,
            at=job.completed_at or job.created_at,
        )

    def to_json(self, file: str | None) -> dict[str, Any]:
        return {
            "job_id": str(self.job_id),
            "filename": self.filename,
            "status": self.status,
            "error_code": self.error_code,
            "failure_reason": self.failure_reason,
            "file": file,
        }


def _files(
    services: Services, by: Actor, entries: Sequence[_Entry], extension: str, write: Write
) -> Iterator[tuple[str, datetime, bytes]]:
    """Read transcript after transcript, each when its turn has come."""
    names, told = archives.Names(), []
    names.take(*MANIFEST)
    for entry in entries:
        name = None
        if (content := _transcript(services, by, entry, write)) is not None:
            name = names.take(filenames.stem(entry.filename), extension)
            yield name, entry.at, content
        told.append(entry.to_json(name))
    manifest = json.dumps({"jobs": told}, ensure_ascii=False, indent=2).encode()
    yield "".join(MANIFEST), datetime.now(UTC), manifest


def _transcript(services: Services, by: Actor, entry: _Entry, write: Write) -> bytes | None:
    if entry.status != JobStatus.COMPLETED:
        return None
    with services.transaction() as session:
        transcript = queries.transcript(session, entry.job_id)
        if transcript is None:  # deleted meanwhile
            return None
        services.trail.read(session, by, AuditAction.TRANSCRIPT_READ, entry.job_id)
    return write(transcript).encode()
