"""What becomes of a submission: a new job, the job that its key made before, or a finished one."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final, Protocol
from urllib.parse import urlsplit

from fastapi import Request
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool
from uuid_utils.compat import uuid7

from api import addresses, idempotency, jobs, uploading
from api.digests import Digests
from api.schemas import JobDetail, path_of
from api.services import Services
from api.submission import BYTES_PER_SECOND
from api.trail import ACTOR
from api.uploading import Form, Received, Store
from audit.events import record
from auth import Principal
from errors import (
    IdempotencyMismatch,
    JobDeleted,
    NotFound,
    QueueFull,
    QuotaExceeded,
    StorageUnavailable,
    SubmissionUnderWay,
)
from jobs import batches, lifecycle, queues, submissions
from jobs.lifecycle import NewJob
from jobs.queries import JobView
from jobs.submissions import Memory
from models import FINAL, AuditAction, TranscriptionJob

SUBMITTED: Final = (
    "Transcription job submitted successfully. Use GET /transcribe/{job_id} to check status."
)
DUPLICATE: Final = "This file was transcribed like this before: here is the job that did."


@dataclass(frozen=True, slots=True, kw_only=True)
class Added:
    """What is answered."""

    shown: JobDetail
    status: int = HTTPStatus.ACCEPTED
    #: Where to ring for a worker; None where nothing is new, or its file is to be fetched first.
    lane: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    #: What was sent beside the file.
    fields: Mapping[str, str] = field(default_factory=dict)


class Source(Protocol):
    """Where a recording comes from that is here already, and becomes one job at most."""

    def take(self, session: Session) -> None:
        """Take it in the transaction that adds its job; raises where another one has."""

    def settle(self, session: Session, job_id: uuid.UUID) -> None:
        """Note the job."""


class _Beaten(Exception):
    """Rolls back what a faster submission made superfluous."""

    def __init__(self, key: str) -> None:
        self.key = key


@dataclass(frozen=True, slots=True)
class Submission:
    """One submission while it is received."""

    request: Request
    principal: Principal
    services: Services
    form: Form
    #: What its client calls it.
    key: str | None
    #: Whether one without a key is known by what it holds, so that it may be sent again, too.
    known_by_content: bool = False
    #: Which one it is added to.
    batch_id: uuid.UUID | None = None
    #: It counts as stored already, and room for its job was looked for.
    source: Source | None = None

    async def receive(self) -> Added:
        """Read it, and add its job unless there is one already.

        Raises:
            IdempotencyMismatch: Its key was used for another one.
            JobDeleted: Its key made a job that is no more.
            QuotaExceeded, QueueFull: It would be one too many for its API key, or for all.
            ServiceError, HTTPException, ClientDisconnect: See ``uploading.receive``.
        """
        memory = None if self.key is None else await run_in_threadpool(self._recall, self.key)
        if memory is not None:
            # The key alone proves nothing: what comes is read, compared, and kept nowhere.
            received = await self._read(Digests(self.services.uploads.max_bytes))
            replayed = await run_in_threadpool(self._replay, memory, received)
            return dataclasses.replace(replayed, fields=received.fields)
        try:
            await run_in_threadpool(self._require_room)
        except (QueueFull, QuotaExceeded):
            if not self.known_by_content:
                raise
            # what is here already needs no room
            if (found := await self._again()) is None:
                raise
            return found
        received = await self._read(self.services.uploads)
        async with self.services.allowances.turn(self.principal):
            added = await run_in_threadpool(self._add, received)
        return dataclasses.replace(added, fields=received.fields)

    async def repeat(self, received: Received, keep: Callable[[], object]) -> Added:
        """Add a job of a recording that is here already, unless there is such a job already.

        Args:
            received: What the job is to be.
            keep: Has the recording kept for it.

        Raises:
            IdempotencyMismatch, JobDeleted, QuotaExceeded, QueueFull: As ``receive``.
            ServiceError: As ``keep``.
        """
        memory = None if self.key is None else await run_in_threadpool(self._recall, self.key)
        if memory is not None:
            return await run_in_threadpool(self._replay, memory, received)
        if self.source is None:
            await run_in_threadpool(self._require_room)
        await run_in_threadpool(keep)
        async with self.services.allowances.turn(self.principal):
            return await run_in_threadpool(self._add, received)

    async def _again(self) -> Added | None:
        received = await self._read(Digests(self.services.uploads.max_bytes))

        def find() -> Added | None:
            with self.services.transaction() as session:
                return self._same(session, received)

        return await run_in_threadpool(find)

    def _require_room(self) -> None:
        if self.services.outlook.has_budget:
            with self.services.transaction() as session:
                self.services.outlook.require_room(session)
        length = int(self.request.headers.get("content-length", "0"))
        self.services.allowances.require_room(self.principal, body_bytes=length)

    async def _read(self, store: Store) -> Received:
        return await uploading.receive(self.request, store, self.form, uuid7())

    # Adding

    def _add(self, received: Received) -> Added:
        """Add the job, or find the one that makes it superfluous; only a new job's file stays."""
        keep_file = False
        try:
            self._require_callable(received)
            with self.services.transaction() as session:
                if self.source is not None:
                    self.source.take(session)
                added = (
                    self._same(session, received)
                    or self._duplicate(session, received)
                    or self._new(session, received)
                )
                self._remember(session, received, added.shown.id)
                if self.source is not None:
                    self.source.settle(session, added.shown.id)
                # From here on only the commit is left. Should its answer be lost, nobody knows
                # whether the job is there: the file stays, and maintenance deletes it if not.
                keep_file = added.lane is not None or received.wishes.source_url is not None
        except _Beaten as beaten:
            added = self._beaten(beaten.key, received)
        finally:
            if not keep_file:
                with suppress(StorageUnavailable):
                    self.services.uploads.delete(received.job_id)
        return added

    def _require_callable(self, received: Received) -> None:
        # before the transaction: looking a name up takes its time
        if (url := received.wishes.callback_url) is not None:
            addresses.require_callable(self.services.outgoing, url, "callback_url")

    def _job(self, received: Received) -> NewJob:
        job = _new_job(self.services, self.principal, received)
        return dataclasses.replace(job, batch_id=self.batch_id)

    def _new(self, session: Session, received: Received) -> Added:
        job = self.add_job(session, received)
        view = JobView(job=job, queue_paused=queues.is_paused(session, job.lane))
        shown = jobs.detail(session, view, self._root, self.services.outlook, message=SUBMITTED)
        lane = None if job.upload_awaited else job.lane
        return Added(shown=shown, lane=lane, headers=self._headers(shown))

    def add_job(self, session: Session, received: Received) -> TranscriptionJob:
        """Add a job, in the caller's transaction.

        Raises:
            BatchClosed, InvalidRequest, QuotaExceeded, QueueFull: It may not be added.
        """
        if received.wishes.callback_url is not None:
            addresses.require_secret(session, self.principal.owner_id)
        if self.batch_id is not None:
            batches.hold_open(session, self.batch_id, owner_id=self.principal.owner_id)
        self.services.outlook.require_room(session)
        self.services.allowances.take_room(
            session, self.principal, upload_bytes=max(1, received.upload.size_bytes)
        )
        job = lifecycle.submit(session, self._job(received))
        self._note(session, job)
        self.services.outlook.add(job.audio_seconds or 0.0)
        return job

    def _note(self, session: Session, job: TranscriptionJob) -> None:
        detail = {"bytes": job.upload_bytes, "model": job.model_name, "priority": job.priority}
        if job.source_url is not None:
            # a path is as good as a file's name
            detail["source"] = urlsplit(job.source_url).netloc
        by = self.request.scope["state"][ACTOR]
        record(session, by, AuditAction.JOB_SUBMITTED, job_id=job.id, detail=detail)

    def _same(self, session: Session, received: Received) -> Added | None:
        if not self.known_by_content:
            return None
        job = self._job(received)
        job_id = submissions.same(session, job, keep_seconds=self._keep_seconds)
        if job_id is None:
            return None
        shown = jobs.read(session, job_id, self.principal, self.request)
        headers = {**self._headers(shown), idempotency.REPLAYED: "true"}
        return Added(shown=shown, headers=headers, fields=received.fields)

    def _duplicate(self, session: Session, received: Received) -> Added | None:
        if self.services.settings.duplicate_detection == "off" or self.batch_id is not None:
            return None
        if received.wishes.source_url is not None:
            return None  # nobody has read it yet
        if received.wishes.callback_url is not None:
            return None  # what has ended before ends no more
        job_id = submissions.twin(session, self._job(received))
        if job_id is None:
            return None
        shown = jobs.read(session, job_id, self.principal, self.request)
        shown = shown.model_copy(update={"message": DUPLICATE})
        return Added(shown=shown, status=HTTPStatus.OK, headers=self._headers(shown))

    # Keys

    def _recall(self, key: str) -> Memory | None:
        with self.services.transaction() as session:
            return submissions.recall(
                session, self.principal.owner_id, key, keep_seconds=self._keep_seconds
            )

    def _remember(self, session: Session, received: Received, job_id: uuid.UUID) -> None:
        if self.key is None:
            return
        memory = Memory(fingerprint=_fingerprint(received), job_id=job_id)
        owner_id, keep_seconds = self.principal.owner_id, self._keep_seconds
        if not submissions.remember(session, owner_id, self.key, memory, keep_seconds=keep_seconds):
            raise _Beaten(self.key)

    def _beaten(self, key: str, received: Received) -> Added:
        memory = self._recall(key)
        if memory is None:  # its time was over this very moment
            raise SubmissionUnderWay(retry_after_seconds=idempotency.UNDER_WAY_SECONDS)
        return self._replay(memory, received)

    def _replay(self, memory: Memory, received: Received) -> Added:
        if not memory.fingerprint:
            raise JobDeleted
        if memory.fingerprint != _fingerprint(received):
            raise IdempotencyMismatch
        try:
            with self.services.transaction() as session:
                shown = jobs.read(session, memory.job_id, self.principal, self.request)
        except NotFound:
            raise JobDeleted from None
        return Added(shown=shown, headers={**self._headers(shown), idempotency.REPLAYED: "true"})

    # What is answered

    @property
    def _root(self) -> str:
        root: str = self.request.scope.get("root_path", "")
        return root

    @property
    def _keep_seconds(self) -> float:
        return self.services.settings.idempotency_seconds

    def _headers(self, shown: JobDetail) -> dict[str, str]:
        headers = {"Location": path_of(shown.id, self._root)}
        if shown.status not in FINAL:
            headers["Retry-After"] = str(jobs.poll_seconds(shown))
        return headers


def _fingerprint(received: Received) -> bytes:
    return idempotency.fingerprint(received.said, received.filename, received.upload.sha256)


def _new_job(services: Services, principal: Principal, received: Received) -> NewJob:
    wishes, upload = received.wishes, received.upload
    is_here = wishes.source_url is None
    seconds = min(upload.size_bytes / BYTES_PER_SECOND, wishes.most_seconds)
    return NewJob(
        id=received.job_id,
        owner_id=principal.owner_id,
        api_key_id=principal.key_id,
        engine_name=wishes.engine_name,
        model_name=wishes.model_name,
        client_filename=received.filename,
        upload_bytes=upload.size_bytes,
        upload_sha256=upload.sha256 if is_here else b"",
        source_url=wishes.source_url,
        max_attempts=services.settings.max_attempts,
        priority=wishes.priority,
        language=wishes.language,
        translate=wishes.translate,
        initial_prompt=wishes.initial_prompt,
        word_timestamps=wishes.word_timestamps,
        track=wishes.track,
        start_seconds=wishes.start_seconds,
        end_seconds=wishes.end_seconds,
        wishes_version=wishes.version,
        client_metadata=wishes.client_metadata,
        callback_url=wishes.callback_url,
        audio_seconds=seconds if is_here else None,
        warnings=wishes.warnings,
    )
