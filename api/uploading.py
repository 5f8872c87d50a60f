"""Receiving one upload: from the socket to the disk, in few and large steps."""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import ClassVar, Final, Protocol
from urllib.parse import unquote_to_bytes, urlsplit

import anyio
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from api import addresses, filenames
from api.bodies import require_plain
from api.errors import invalid
from api.multipart import FILE_FIELD, MAX_OVERHEAD_BYTES, FormReader, boundary_of
from api.submission import FIELDS, Defaults, Wishes, read, said
from auth import Principal
from errors import ServiceError, UploadTooLarge
from models import Scope
from outgoing import Outgoing

#: Handed to the disk at once: each step costs a change of threads.
STEP_BYTES: Final = 2**20
TURNED_OFF: Final = "This service fetches no files; send it."
BOTH: Final = "Send the file or say where it is, not both."


class Content(Protocol):
    """What a file is."""

    @property
    def size_bytes(self) -> int: ...

    @property
    def sha256(self) -> bytes: ...


class Writer(Protocol):
    """Takes a file as it comes."""

    def write(self, chunk: bytes) -> None: ...

    def finish(self) -> Content: ...

    def close(self) -> None: ...

    @property
    def open(self) -> bool: ...


class Store(Protocol):
    """Where files go."""

    @property
    def max_bytes(self) -> int: ...

    def writer(self, job_id: uuid.UUID, *, expected_bytes: int = 0) -> Writer: ...


@dataclass(frozen=True, slots=True)
class Promised:
    """A file that is somewhere else yet: it is known by where."""

    url: str
    size_bytes: ClassVar = 0

    @property
    def sha256(self) -> bytes:
        return hashlib.sha256(self.url.encode()).digest()

    @property
    def filename(self) -> str:
        """What it is called there."""
        path = urlsplit(self.url).path
        return filenames.clean(unquote_to_bytes(path.rpartition("/")[2]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """A whole submission: its file is where the store puts it, or promised."""

    job_id: uuid.UUID
    upload: Content
    filename: str
    wishes: Wishes
    #: What it says, in our words.
    said: Mapping[str, str]
    #: As they were sent.
    fields: Mapping[str, str]


class Form(Protocol):
    """How the fields of one submission are understood."""

    @property
    def file_field(self) -> str:
        """The name of its file."""

    @property
    def preface(self) -> bytes:
        """What is stored before the file's first byte, since its sender leaves it out."""

    @property
    def known(self) -> Collection[str] | None:
        """Their names; None: any will do."""

    def wishes(self, fields: Mapping[str, str]) -> Wishes: ...

    def said(self, fields: Mapping[str, str]) -> Mapping[str, str]:
        """What a submission says once it is whole; two that say the same want the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OurForm:
    """The fields of ``FIELDS``, in the form and in the query."""

    file_field: ClassVar = FILE_FIELD
    preface: ClassVar = b""

    query: Mapping[str, str]
    defaults: Defaults
    principal: Principal
    outgoing: Callable[[], Outgoing]

    @property
    def known(self) -> Collection[str]:
        return list(FIELDS)

    def wishes(self, fields: Mapping[str, str]) -> Wishes:
        may_use_high = self.principal.may_use_high
        wishes = read(self.query, fields, self.defaults, may_use_high=may_use_high)
        if wishes.source_url is not None:
            if not self.defaults.source_urls:
                raise invalid("source_url", "turned_off", TURNED_OFF)
            with addresses.told_of("source_url"):
                wishes = replace(wishes, source_url=self.outgoing().read(wishes.source_url))
        if wishes.callback_url is None:
            return wishes
        self.principal.require(Scope.WEBHOOKS)
        with addresses.told_of("callback_url"):
            return replace(wishes, callback_url=self.outgoing().read(wishes.callback_url))

    def said(self, fields: Mapping[str, str]) -> Mapping[str, str]:
        return said(self.query, fields)


async def receive(request: Request, store: Store, form: Form, job_id: uuid.UUID) -> Received:
    """Read a submission and keep its file; whatever goes wrong, nothing is left of it.

    Raises:
        ServiceError, HTTPException: The submission is wrong, too large, or there is no room.
        ClientDisconnect: Its sender went away.
    """
    wishes = form.wishes({})
    if wishes.source_url is not None and _has_no_body(request):
        return promised(form, {}, job_id)

    def before_file(fields: Mapping[str, str]) -> None:
        if form.wishes(fields).source_url is not None:
            raise invalid("source_url", "contradiction", BOTH)

    reader = FormReader(
        boundary_of(request.headers.get("content-type")),
        file_field=form.file_field,
        known=form.known,
        before_file=before_file,
    )
    require_plain(request)
    expected_bytes = _expected_bytes(request, store)
    async with _writing(store, job_id, expected_bytes) as pen:
        await _copy(request, reader, pen, form.preface)
        if reader.filename is None and form.wishes(reader.fields).source_url is not None:
            reader.require_whole()
            return promised(form, reader.fields, job_id)
        filename = reader.require_end()
        before_file(reader.fields)
        wishes, words = form.wishes(reader.fields), form.said(reader.fields)
        upload = await pen.finish()
    return Received(
        job_id=job_id,
        upload=upload,
        filename=filename,
        wishes=wishes,
        said=words,
        fields=reader.fields,
    )


def _has_no_body(request: Request) -> bool:
    headers = request.headers
    return int(headers.get("content-length", "0")) == 0 and "transfer-encoding" not in headers


def promised(form: Form, fields: Mapping[str, str], job_id: uuid.UUID) -> Received:
    """A submission whose ``source_url`` says where its file is."""
    wishes = form.wishes(fields)
    upload = Promised(wishes.source_url or "")
    return Received(
        job_id=job_id,
        upload=upload,
        filename=upload.filename,
        wishes=wishes,
        said=form.said(fields),
        fields=fields,
    )


def _expected_bytes(request: Request, store: Store) -> int:
    """About how large the file will be, from the size of the whole body; 0 when it is not told."""
    length = int(request.headers.get("content-length", "0"))
    if length > store.max_bytes + MAX_OVERHEAD_BYTES:
        raise UploadTooLarge(max_bytes=store.max_bytes)
    return min(length, store.max_bytes)


class _Pen:
    """Writes behind the reading: while one step goes to the disk, the next one arrives."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._step: asyncio.Task[None] | None = None

    async def write(self, data: bytes) -> None:
        """Begin to write, once what came before is written.

        Raises:
            UploadTooLarge, DiskFull, StorageUnavailable: That could not be written.
        """
        await self._settle()
        self._step = asyncio.create_task(run_in_threadpool(self._writer.write, data))

    async def finish(self) -> Content:
        await self._settle()
        return await run_in_threadpool(self._writer.finish)

    async def close(self) -> None:
        # a thread that still writes needs its file
        with suppress(ServiceError):
            await self._settle()
        if self._writer.open:
            await run_in_threadpool(self._writer.close)

    async def _settle(self) -> None:
        step, self._step = self._step, None
        if step is not None:
            await step


@asynccontextmanager
async def _writing(store: Store, job_id: uuid.UUID, expected_bytes: int) -> AsyncIterator[_Pen]:
    def begin() -> Writer:
        return store.writer(job_id, expected_bytes=expected_bytes)

    pen = _Pen(await run_in_threadpool(begin))
    try:
        yield pen
    finally:
        # also when the server stops: what was not finished is deleted
        with anyio.CancelScope(shield=True):
            await pen.close()


async def _copy(request: Request, reader: FormReader, pen: _Pen, preface: bytes) -> None:
    async for data in request.stream():
        reader.feed(data)
        if reader.waiting_bytes >= STEP_BYTES:
            await pen.write(preface + reader.take())
            preface = b""
    if reader.waiting_bytes:  # a file without a byte gets no preface: it is empty
        await pen.write(preface + reader.take())
