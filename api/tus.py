"""The words of tus 1.0.0: what its requests say in their headers.

Source: https://tus.io/protocols/resumable-upload, version 1.0.0 (2016-03-25).
"""

from __future__ import annotations

import base64
import re
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC
from email.utils import format_datetime
from http import HTTPStatus
from typing import Any, Final

from fastapi import Request
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException

from api import filenames
from api.dependencies import UUID_TEXT
from api.errors import invalid
from api.middleware import ANSWER_HEADERS
from api.multipart import MAX_FIELD_BYTES
from errors import ClientError, EmptyFile, InvalidRequest, TusVersion
from jobs.parts import ALGORITHMS
from models import ResumableUpload

VERSION: Final = "1.0.0"
EXTENSIONS: Final = ("creation", "creation-with-upload", "expiration", "termination", "checksum")
MEDIA_TYPE: Final = "application/offset+octet-stream"
#: 2^53: no client counts further.
NUMBER: Final = re.compile(r"[0-9]{1,16}")
#: What stock clients say of the file beside its name; kept and sent back, and nothing else.
IGNORED: Final = frozenset({"filetype", "type", "relativePath"})
#: In the order in which they are looked for.
FILENAMES: Final = ("filename", "name")
BATCH: Final = "batch_id"


@dataclass(frozen=True, slots=True)
class Checksum:
    """What a chunk is to be."""

    algorithm: str
    digest: bytes

    def start(self) -> Any:
        return ALGORITHMS[self.algorithm]()


@dataclass(frozen=True, slots=True, kw_only=True)
class Announced:
    """What ``Upload-Metadata`` says."""

    filename: str
    batch_id: uuid.UUID | None
    #: What a form would say in its fields.
    fields: Mapping[str, str]


async def speak(request: Request) -> None:
    """Have the answer say which version it is of, whatever becomes of it."""
    state = request.scope["state"]
    state[ANSWER_HEADERS] = {**state.get(ANSWER_HEADERS, {}), "Tus-Resumable": VERSION}


def require_version(request: Request) -> None:
    """Do nothing, or refuse another version of the protocol.

    Raises:
        TusVersion: It is of another one.
    """
    if request.headers.getlist("tus-resumable") != [VERSION]:
        state = request.scope["state"]
        state[ANSWER_HEADERS] = {**state[ANSWER_HEADERS], "Tus-Version": VERSION}
        raise TusVersion


def require_chunk(headers: Headers) -> None:
    """Do nothing, or refuse a body that is no chunk.

    Raises:
        HTTPException: 415, it is of another type.
    """
    if headers.get("content-type", "").partition(";")[0].strip().lower() != MEDIA_TYPE:
        raise HTTPException(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"The body should be {MEDIA_TYPE}.")


def has_body(headers: Headers) -> bool:
    return "transfer-encoding" in headers or headers.get("content-length", "0") != "0"


def length_of(headers: Headers) -> int:
    """How long the upload will be.

    Raises:
        ClientError: It is not said, or no number.
        EmptyFile: It will have no bytes.
    """
    length = _number(headers, "Upload-Length")
    if length == 0:
        raise EmptyFile
    return length


def offset_of(headers: Headers) -> int:
    """Where the chunk begins.

    Raises:
        ClientError: It is not said, or no number.
    """
    return _number(headers, "Upload-Offset")


def _number(headers: Headers, name: str) -> int:
    sent = headers.getlist(name)
    if len(sent) != 1 or not NUMBER.fullmatch(sent[0]):
        raise ClientError(f"{name} should stand there once, as a number of bytes.")
    return int(sent[0])


def checksum_of(headers: Headers) -> Checksum | None:
    """What the chunk is to be; None where that is not said.

    Raises:
        ClientError: It cannot be read, or checked.
    """
    sent = headers.getlist("upload-checksum")
    if not sent:
        return None
    algorithm, _, value = sent[0].partition(" ")
    digest = _decoded(value)
    fits = algorithm in ALGORITHMS and len(digest or b"") == ALGORITHMS[algorithm]().digest_size
    if len(sent) > 1 or digest is None or not fits:
        names = " or ".join(ALGORITHMS)
        raise ClientError(f"Upload-Checksum should be {names}, a blank, and the digest in Base64.")
    return Checksum(algorithm, digest)


def announced(headers: Headers, known: Callable[[str], bool]) -> Announced:
    """Read ``Upload-Metadata``.

    Args:
        known: Whether a form has a field of that name.

    Raises:
        ClientError: It cannot be read.
        InvalidRequest: There is no field of that name, or what it says is no text.
    """
    said = _pairs(headers)
    filename = next((said[name] for name in FILENAMES if name in said), b"")
    fields = {}
    for name, value in said.items():
        if name in IGNORED or name in FILENAMES:
            continue
        if name != BATCH and not known(name):
            raise InvalidRequest("Upload-Metadata has a field that does not exist.")
        try:
            fields[name] = value.decode()
        except UnicodeDecodeError:
            raise invalid(name, "encoding", "It should be UTF-8.") from None
        if len(value) > MAX_FIELD_BYTES:
            raise invalid(name, "too_long", f"It may have {MAX_FIELD_BYTES} bytes.")
    batch = fields.pop(BATCH, None)
    if batch is not None and not UUID_TEXT.fullmatch(batch):
        raise invalid(BATCH, "unknown_value", "It should be the id of a batch.")
    return Announced(
        filename=filenames.clean(filename),
        batch_id=None if batch is None else uuid.UUID(batch),
        fields=fields,
    )


def _pairs(headers: Headers) -> dict[str, bytes]:
    sent = headers.getlist("upload-metadata")
    pairs: dict[str, bytes] = {}
    for pair in ",".join(sent).split(","):
        if not pair.strip():
            continue
        name, _, value = pair.strip().partition(" ")
        decoded = _decoded(value)
        if len(sent) > 1 or decoded is None or name in pairs:
            raise ClientError(
                "Upload-Metadata should stand there once: names that differ, each with a blank and"
                " its value in Base64, and commas between."
            )
        pairs[name] = decoded
    return pairs


def _decoded(value: str) -> bytes | None:
    try:
        return base64.b64decode(value.strip(), validate=True)
    except ValueError:
        return None


def told_of(row: ResumableUpload, offset: int) -> dict[str, str]:
    """The headers that say how an upload is doing."""
    headers = {"Upload-Offset": str(offset)}
    if row.finished_at is None:
        headers["Upload-Expires"] = format_datetime(row.expires_at.astimezone(UTC), usegmt=True)
    return headers
