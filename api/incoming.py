"""Resumable uploads while they are received, and the job that each becomes, once.

What was received is kept whatever ends a request. Whoever finds an upload whole makes its job: the
request that sent the last byte, or a later one, if that one got no further.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import anyio
from fastapi import Request
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool
from uuid_utils.compat import uuid7

from api.batches import BatchForm
from api.receiving import Added, Submission
from api.services import Services
from api.submission import Defaults
from api.tus import Checksum
from api.uploading import STEP_BYTES, Form, OurForm, Received
from auth import Principal
from errors import ChecksumMismatch, NotFound, OffsetMismatch, ServiceError, UploadTooLarge
from jobs import batches, resumable
from jobs.parts import Part, Parts
from models import ResumableUpload


@dataclass(frozen=True, slots=True)
class State:
    """How an upload is doing."""

    row: ResumableUpload
    offset: int
    #: The job, where this request made it.
    added: Added | None = None


class _Taken(Exception):
    """Rolls back what another request has done meanwhile."""


@dataclass(frozen=True, slots=True)
class _Source:
    """Where a job's recording comes from: see ``receiving.Source``."""

    upload_id: uuid.UUID

    def take(self, session: Session) -> None:
        if not resumable.finish(session, self.upload_id):
            raise _Taken

    def settle(self, session: Session, job_id: uuid.UUID) -> None:
        resumable.settle(session, self.upload_id, job_id)


@dataclass(frozen=True, slots=True)
class Incoming:
    """The resumable uploads of one caller."""

    request: Request
    principal: Principal
    services: Services

    @property
    def _parts(self) -> Parts:
        return Parts(self.services.uploads)

    @property
    def _keep_seconds(self) -> float:
        return self.services.settings.upload_expiry_seconds

    def form(self, session: Session, batch_id: uuid.UUID | None) -> Form:
        """How its fields are understood.

        Raises:
            NotFound, BatchClosed: Its batch is not there, or takes no more files.
        """
        ours = OurForm(
            query={},
            defaults=Defaults.of(self.services.settings),
            principal=self.principal,
            outgoing=lambda: self.services.outgoing,
        )
        if batch_id is None:
            return ours
        owner_id = self.principal.owner_id
        batches.hold_open(session, batch_id, owner_id=owner_id)
        profile = batches.find(session, batch_id, owner_id=owner_id).profile
        return BatchForm(ours=ours, profile=profile)

    def create(
        self, wanted: resumable.NewUpload, note: Callable[[Session], object]
    ) -> ResumableUpload:
        """Announce an upload.

        Args:
            note: Called in the transaction that adds it.

        Raises:
            ServiceError: A field is wrong, it is too large, or there is no room.
        """
        services, most = self.services, self.services.settings.max_unfinished_uploads
        with services.transaction() as session:
            # looked at before a file is made; counted exactly when its row is
            self.form(session, wanted.batch_id).wishes(wanted.said)
            services.outlook.require_room(session)
            resumable.require_room(session, wanted.owner_id, most=most)
        self._parts.create(wanted.id, expected_bytes=wanted.size_bytes)
        try:
            with services.transaction() as session:
                services.allowances.take_room(
                    session, self.principal, upload_bytes=wanted.size_bytes
                )
                keep = self._keep_seconds
                row = resumable.create(session, wanted, keep_seconds=keep, most=most)
                note(session)
        except BaseException:
            # its address was told to nobody: a row without a part is as good as none
            self._parts.delete(wanted.id)
            raise
        return row

    def find(self, upload_id: uuid.UUID) -> ResumableUpload:
        """Look an upload of the caller's up.

        Raises:
            NotFound: There is none.
        """
        with self.services.transaction() as session:
            return resumable.find(session, upload_id, owner_id=self.principal.owner_id)

    def offset(self, row: ResumableUpload) -> int:
        """How much of it is here, for good.

        Raises:
            NotFound: It was lost.
        """
        if row.finished_at is not None:
            return row.size_bytes
        size_bytes = self._parts.size(row.id)
        return size_bytes if row.checked_from is None else min(size_bytes, row.checked_from)

    async def look(self, upload_id: uuid.UUID) -> State:
        """Tell how an upload is doing; one that is whole becomes a job, if none was made yet.

        Raises:
            NotFound: There is none.
            UploadBusy: It is whole, and another request makes its job.
            ServiceError: See ``finish``.
        """
        row = await run_in_threadpool(self.find, upload_id)
        offset = await run_in_threadpool(self.offset, row)
        if row.finished_at is not None or offset < row.size_bytes:
            return State(row, offset)
        # nobody is told that all is here before there is a job
        return await self.append(upload_id, offset, None)

    async def append(self, upload_id: uuid.UUID, offset: int, checksum: Checksum | None) -> State:
        """Receive what the request's body holds, and make the job when that was the last of it.

        Raises:
            NotFound: There is no such upload.
            OffsetMismatch: It goes on from elsewhere.
            UploadBusy: Another request is sending it.
            UploadTooLarge: More comes than was announced.
            ChecksumMismatch: What came is not what it should be; nothing of it is kept.
            ServiceError: See ``Submission.repeat``: the upload stays, and can be finished later.
            HTTPException, ClientDisconnect: What came until then is kept.
        """
        row, part = await run_in_threadpool(self._hold, upload_id, offset, checksum)
        if part is None:
            return State(row, row.size_bytes)
        try:
            await self._receive(row, part, checksum)
            if part.size_bytes < row.size_bytes:
                return State(row, part.size_bytes)
            added = await self._finish(row, part)
            row = await run_in_threadpool(self.find, upload_id)
            return State(row, row.size_bytes, added)
        finally:
            part.close()

    def _hold(
        self, upload_id: uuid.UUID, offset: int, checksum: Checksum | None
    ) -> tuple[ResumableUpload, Part | None]:
        """Have the part to ourselves, at the offset; None where it is a job already."""
        row = self.find(upload_id)
        if row.finished_at is not None:
            return self._finished(row, offset)
        try:
            part = Part(self._parts, upload_id)
        except NotFound:
            row = self.find(upload_id)
            if row.finished_at is None:
                raise
            return self._finished(row, offset)
        try:
            with self.services.transaction() as session:
                owner_id = self.principal.owner_id
                row = resumable.find(session, upload_id, owner_id=owner_id, hold=True)
                if row.finished_at is not None:
                    part.close()
                    return self._finished(row, offset)
                if row.checked_from is not None and part.size_bytes > row.checked_from:
                    part.cut(row.checked_from)  # whoever sent it died before it was checked
                self._require(row, part, offset)
                start = None if checksum is None else offset
                keep = self._keep_seconds
                resumable.extend(session, upload_id, keep_seconds=keep, checked_from=start)
        except BaseException:
            part.close()
            raise
        return row, part

    def _require(self, row: ResumableUpload, part: Part, offset: int) -> None:
        if part.size_bytes != offset:
            raise OffsetMismatch(offset=part.size_bytes)
        more = int(self.request.headers.get("content-length", "0"))
        if offset + more > row.size_bytes:
            raise UploadTooLarge("More comes than Upload-Length says.", max_bytes=row.size_bytes)

    def _finished(self, row: ResumableUpload, offset: int) -> tuple[ResumableUpload, None]:
        if offset != row.size_bytes:
            raise OffsetMismatch(offset=row.size_bytes)
        return row, None

    # Receiving

    async def _receive(self, row: ResumableUpload, part: Part, checksum: Checksum | None) -> None:
        chunk = _Chunk(row, part, checksum)
        try:
            async for data in self.request.stream():
                chunk.waiting.append(data)
                chunk.waiting_bytes += len(data)
                if chunk.waiting_bytes >= STEP_BYTES:
                    await run_in_threadpool(chunk.write)
            await run_in_threadpool(chunk.write)
            chunk.check()
        except BaseException:
            # also when the server stops: what came is kept, unless it was to be checked as a whole
            with anyio.CancelScope(shield=True):
                await run_in_threadpool(chunk.leave)
                with suppress(ServiceError):
                    await run_in_threadpool(self._extend, row)
            raise
        await run_in_threadpool(part.sync)
        row.expires_at = await run_in_threadpool(self._extend, row)

    def _extend(self, row: ResumableUpload) -> datetime:
        with self.services.transaction() as session:
            return resumable.extend(session, row.id, keep_seconds=self._keep_seconds)

    # Finishing

    async def _finish(self, row: ResumableUpload, part: Part) -> Added | None:
        """Make its job; None where there is one already."""
        whole = await run_in_threadpool(part.digest)
        key = row.idempotency_key
        with self.services.under_way.hold(self.principal.owner_id, key):
            form = await run_in_threadpool(self._form_of, row)
            received = Received(
                job_id=uuid7(),
                upload=whole,
                filename=row.client_filename,
                wishes=form.wishes(row.said),
                said=form.said(row.said),
                fields=row.said,
            )
            submission = Submission(
                self.request,
                self.principal,
                self.services,
                form,
                key,
                batch_id=row.batch_id,
                source=_Source(row.id),
            )

            def keep() -> None:
                self._parts.keep(row.id, received.job_id)

            try:
                added = await submission.repeat(received, keep)
            except _Taken:
                return None
        await run_in_threadpool(self._settle, row.id, uuid.UUID(str(added.shown.id)))
        return added

    def _form_of(self, row: ResumableUpload) -> Form:
        with self.services.transaction() as session:
            return self.form(session, row.batch_id)

    def _settle(self, upload_id: uuid.UUID, job_id: uuid.UUID) -> None:
        with self.services.transaction() as session:
            # is done already, unless the job was made by an earlier submission of the same key
            resumable.settle(session, upload_id, job_id)
        self._parts.delete(upload_id)

    # Ending

    def discard(self, upload_id: uuid.UUID, note: Callable[[Session], object]) -> None:
        """Forget an upload, and delete what is here of it; its job, if there is one, stays.

        Raises:
            NotFound: There is none, or it is somebody else's.
            UploadBusy: A request is sending it.
        """
        with self.services.transaction() as session:
            row = resumable.find(session, upload_id, owner_id=self.principal.reach)
            with self._held(upload_id):
                note(session)  # before it is gone, and with it whose it was
                session.delete(row)
                session.flush()
        self._parts.delete(upload_id)

    @contextmanager
    def _held(self, upload_id: uuid.UUID) -> Iterator[None]:
        try:
            part = Part(self._parts, upload_id)
        except NotFound:
            yield  # a job already, or lost
            return
        with part:
            yield


class _Chunk:
    """What one request sends."""

    def __init__(self, row: ResumableUpload, part: Part, checksum: Checksum | None) -> None:
        self.waiting: list[bytes] = []
        self.waiting_bytes = 0
        self._part = part
        self._most_bytes = row.size_bytes
        self._start = part.size_bytes
        self._checksum = checksum
        self._hash: Any = None if checksum is None else checksum.start()
        self._refused = False

    def write(self) -> None:
        data = b"".join(self.waiting)
        self.waiting.clear()
        self.waiting_bytes = 0
        if not data:
            return
        if self._hash is not None:
            self._hash.update(data)
        try:
            self._part.append(data, most_bytes=self._most_bytes)
        except BaseException:
            self._refused = True
            raise

    def check(self) -> None:
        """Do nothing, or find that it is not what it should be.

        Raises:
            ChecksumMismatch: It is not.
        """
        if self._checksum is not None and self._hash.digest() != self._checksum.digest:
            raise ChecksumMismatch

    def leave(self) -> None:
        """Put away what came before something went wrong."""
        if self._checksum is not None:
            self._part.cut(self._start)
            return
        if not self._refused:
            self.write()
        self._part.sync()
