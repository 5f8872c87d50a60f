"""Recordings that come in pieces: tus 1.0.0, with a job at the end."""

from __future__ import annotations

import uuid
from typing import Any, Final, Literal

import anyio
from fastapi import APIRouter, BackgroundTasks, Depends, Request, Response
from pydantic import Field
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect
from uuid_utils.compat import uuid7

from api import idempotency, tus
from api.bodies import require_plain
from api.calls import JOB_HEADER
from api.dependencies import By, Reader, ServicesDep, UploadId, Writer, single_values
from api.documentation import problems
from api.incoming import Incoming, State
from api.schemas import Answer, Time
from api.schemas import path_of as job_path
from api.submission import FIELDS, said
from audit.events import record
from errors import UploadTooLarge
from jobs import resumable
from jobs.parts import ALGORITHMS
from jobs.resumable import NewUpload
from models import AuditAction

router = APIRouter(
    prefix="/uploads", tags=["uploads"], dependencies=[Depends(tus.speak), Depends(single_values)]
)


def _header(name: str, schema: dict[str, Any], told: str, *, required: bool) -> dict[str, Any]:
    return {
        "name": name,
        "in": "header",
        "required": required,
        "description": told,
        "schema": schema,
    }


_VERSION: Final = _header(
    "Tus-Resumable", {"type": "string", "enum": [tus.VERSION]}, "The protocol.", required=True
)
_CHECKSUM: Final = _header(
    "Upload-Checksum",
    {"type": "string", "pattern": "^(sha1 [A-Za-z0-9+/]{27}=|sha256 [A-Za-z0-9+/]{43}=)$"},
    "`sha256` or `sha1`, a blank, and the digest of this chunk in Base64.",
    required=False,
)
_CHUNK: Final = {tus.MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}}


_OFFSET: Final = {
    "Upload-Offset": {"description": "Bytes that are here.", "schema": {"type": "integer"}},
    JOB_HEADER: {"description": "The job, once it is whole.", "schema": {"type": "string"}},
}


class UploadLinks(Answer):
    """Where to go from an upload; null where there is nothing."""

    self: str
    job: str | None


class Upload(Answer):
    """A resumable upload."""

    id: uuid.UUID
    status: Literal["receiving", "submitted"] = Field(
        description="`submitted`: it is whole, and there is a job."
    )
    filename: str
    offset: int = Field(description="Bytes that are here.")
    length: int = Field(description="Bytes that were announced.")
    created_at: Time
    expires_at: Time = Field(description="When it is forgotten, unless more comes; a job stays.")
    job_id: uuid.UUID | None
    links: UploadLinks


@router.options(
    "",
    status_code=204,
    operation_id="describe_uploads",
    summary="What this service speaks of tus",
    description="Needs no key.",
    response_class=Response,
)
async def describe(services: ServicesDep) -> Response:
    headers = {
        "Tus-Version": tus.VERSION,
        "Tus-Extension": ",".join(tus.EXTENSIONS),
        "Tus-Max-Size": str(services.settings.max_upload_bytes),
        "Tus-Checksum-Algorithm": ",".join(ALGORITHMS),
    }
    return Response(status_code=204, headers=headers)


@router.post(
    "",
    status_code=201,
    operation_id="create_upload",
    summary="Announce a recording that comes in pieces",
    description="`Upload-Metadata` may hold `filename`, `filetype`, `batch_id`, and every field of"
    " `POST /transcribe`, which may stand in the query as well. A body is its first piece.",
    response_class=Response,
    responses={
        201: {
            "description": "It can be sent.",
            "headers": {
                "Location": {"description": "The upload.", "schema": {"type": "string"}},
                **_OFFSET,
            },
        },
        **problems(400, 401, 403, 404, 408, 409, 410, 412, 413, 415, 422, 460, 503, 507),
    },
    openapi_extra={
        "parameters": [
            _VERSION,
            _header(
                "Upload-Length",
                {"type": "integer", "minimum": 1},
                "Bytes of the whole recording.",
                required=True,
            ),
            _header(
                "Upload-Metadata",
                {"type": "string", "pattern": "^(filename [A-Za-z0-9+/]{4,40})$"},
                "Names, each with a blank and its value in Base64, and commas between.",
                required=False,
            ),
            _CHECKSUM,
        ],
        "requestBody": {"required": False, "content": _CHUNK},
    },
)
async def create(
    request: Request, principal: Writer, by: By, services: ServicesDep, background: BackgroundTasks
) -> Response:
    tus.require_version(request)
    headers, incoming = request.headers, Incoming(request, principal, services)
    length, checksum = tus.length_of(headers), tus.checksum_of(headers)
    if has_body := tus.has_body(headers):
        tus.require_chunk(headers)
        require_plain(request)
    if length > services.uploads.max_bytes:
        raise UploadTooLarge(max_bytes=services.uploads.max_bytes)
    announced = tus.announced(headers, lambda name: name in FIELDS)
    wanted = NewUpload(
        id=uuid7(),
        owner_id=principal.owner_id,
        api_key_id=principal.key_id,
        batch_id=announced.batch_id,
        idempotency_key=idempotency.key_of(headers),
        size_bytes=length,
        filename=announced.filename,
        said=said(request.query_params, announced.fields),
        metadata_sent=headers.get("upload-metadata"),
    )

    def note(session: Session) -> None:
        detail = {"bytes": length}
        record(session, by, AuditAction.UPLOAD_BEGUN, upload_id=wanted.id, detail=detail)

    row = await run_in_threadpool(incoming.create, wanted, note)
    state = State(row, 0)
    if has_body:
        try:
            state = await incoming.append(wanted.id, 0, checksum)
        except BaseException as error:
            if not isinstance(error, ClientDisconnect):
                # its address was told to nobody
                with anyio.CancelScope(shield=True):
                    await run_in_threadpool(incoming.discard, wanted.id, lambda _: None)
            raise
    answer = _answer(request, services, state, background, status=201)
    answer.headers["Location"] = _path(request, wanted.id)
    return answer


@router.head("/{upload_id}", include_in_schema=False)
async def look(
    request: Request,
    upload_id: UploadId,
    principal: Writer,
    services: ServicesDep,
    background: BackgroundTasks,
) -> Response:
    tus.require_version(request)
    state = await Incoming(request, principal, services).look(upload_id)
    answer = _answer(request, services, state, background, status=200)
    answer.headers["Upload-Length"] = str(state.row.size_bytes)
    if state.row.metadata_sent is not None:
        answer.headers["Upload-Metadata"] = state.row.metadata_sent
    return answer


@router.get(
    "/{upload_id}",
    operation_id="get_upload",
    summary="Look at a resumable upload",
    description="By `HEAD` it is answered as tus has it, which needs the scope `jobs:write`.",
    responses=problems(401, 403, 404, 503),
)
def show(request: Request, upload_id: UploadId, principal: Reader, services: ServicesDep) -> Upload:
    with services.transaction() as session:
        row = resumable.find(session, upload_id, owner_id=principal.reach)
    root: str = request.scope.get("root_path", "")
    return Upload(
        id=row.id,
        status="receiving" if row.finished_at is None else "submitted",
        filename=row.client_filename,
        offset=Incoming(request, principal, services).offset(row),
        length=row.size_bytes,
        created_at=row.created_at,
        expires_at=row.expires_at,
        job_id=row.job_id,
        links=UploadLinks(
            self=_path(request, row.id), job=job_path(row.job_id, root) if row.job_id else None
        ),
    )


@router.patch(
    "/{upload_id}",
    status_code=204,
    operation_id="append_upload",
    summary="Send the next piece",
    description="After the last one there is a job: `x-job-id` and `Link` name it.",
    responses={
        204: {
            "description": "It is kept.",
            "headers": _OFFSET,
        },
        **problems(400, 401, 403, 404, 408, 409, 410, 412, 413, 415, 422, 423, 460, 503, 507),
    },
    openapi_extra={
        "parameters": [
            _VERSION,
            _header(
                "Upload-Offset",
                {"type": "integer", "minimum": 0},
                "Where this piece begins: what HEAD says.",
                required=True,
            ),
            _CHECKSUM,
        ],
        "requestBody": {"required": True, "content": _CHUNK},
    },
)
async def append(
    request: Request,
    upload_id: UploadId,
    principal: Writer,
    services: ServicesDep,
    background: BackgroundTasks,
) -> Response:
    tus.require_version(request)
    tus.require_chunk(request.headers)
    require_plain(request)
    offset, checksum = tus.offset_of(request.headers), tus.checksum_of(request.headers)
    state = await Incoming(request, principal, services).append(upload_id, offset, checksum)
    return _answer(request, services, state, background, status=204)


@router.delete(
    "/{upload_id}",
    status_code=204,
    operation_id="discard_upload",
    summary="Give a resumable upload up",
    description="What came of it is deleted; a job that it became stays.",
    responses=problems(401, 403, 404, 412, 423, 503),
    openapi_extra={"parameters": [_VERSION]},
)
async def discard(
    request: Request, upload_id: UploadId, principal: Writer, by: By, services: ServicesDep
) -> Response:
    tus.require_version(request)

    def note(session: Session) -> None:
        record(session, by, AuditAction.UPLOAD_DISCARDED, upload_id=upload_id)

    await run_in_threadpool(Incoming(request, principal, services).discard, upload_id, note)
    return Response(status_code=204)


def _answer(
    request: Request,
    services: ServicesDep,
    state: State,
    background: BackgroundTasks,
    *,
    status: int,
) -> Response:
    row, added = state.row, state.added
    headers = tus.told_of(row, state.offset)
    if row.job_id is not None:
        root: str = request.scope.get("root_path", "")
        headers[JOB_HEADER] = str(row.job_id)
        headers["Link"] = f'<{job_path(row.job_id, root)}>; rel="related"'
    if added is not None and added.lane is not None and not added.shown.queue_paused:
        # after the answer: whoever waits for it need not wait for Redis
        background.add_task(services.publish, added.shown.id, added.lane)
    return Response(status_code=status, headers=headers, background=background)


def _path(request: Request, upload_id: uuid.UUID) -> str:
    root: str = request.scope.get("root_path", "")
    return f"{root}/uploads/{upload_id}"
