"""Calls that are answered with what a job comes to, and the job behind each.

A job is there before anybody waits for it: whoever hangs up, or waits for too long, loses nothing,
and finds it by sending the same again.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

from fastapi import Request, Response
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

import auth
from api import idempotency, jobs, openai_errors
from api.errors import problem
from api.middleware import ANSWER_HEADERS
from api.receiving import Added, Submission
from api.services import Services
from api.uploading import Form
from audit.events import Actor
from auth import Principal
from errors import JobWithoutResult
from jobs import queries
from jobs.dead_letters import INPUT_FAULTS
from models import FINAL, AuditAction, JobStatus, Scope, TranscriptionJob
from speech.transcript import Transcript

JOB_HEADER: Final = "x-job-id"
LATER: Final = "The job is not done yet: it goes on. Send the request again to wait for it."


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request for what a job comes to."""

    request: Request
    principal: Principal
    by: Actor
    services: Services

    @property
    def wait_seconds(self) -> float:
        """Longest time that it waits for the job."""
        raise NotImplementedError

    @property
    def prefers_async(self) -> bool:
        """Whether ``Prefer`` (RFC 7240) asks for the job itself."""
        preferences = ",".join(self.request.headers.getlist("prefer"))
        words = {word.partition(";")[0].strip().lower() for word in preferences.split(",")}
        return "respond-async" in words

    async def submit(self, form: Form, *, waits: bool) -> Added:
        """Make the job, or find it; the answer names it from here on, whatever becomes of it.

        Args:
            waits: Whether there has to be room for one more that waits.

        Raises:
            TooManyWaits: As many as may wait do so with this key already.
            ServiceError, HTTPException, ClientDisconnect: See ``Submission.receive``.
        """
        if waits:
            # before a byte of the body is read
            self.services.hub.require_room(self.principal)
        added = await self._receive(form)
        state: dict[str, Any] = self.request.scope["state"]
        named = {JOB_HEADER: str(added.shown.id)}
        state[ANSWER_HEADERS] = {**state.get(ANSWER_HEADERS, {}), **named}
        if added.lane is not None and not added.shown.queue_paused:
            await run_in_threadpool(self.services.publish, added.shown.id, added.lane)
        return added

    async def _receive(self, form: Form) -> Added:
        key = idempotency.key_of(self.request.headers)
        with self.services.under_way.hold(self.principal.owner_id, key):
            submission = Submission(
                self.request, self.principal, self.services, form, key, known_by_content=True
            )
            return await submission.receive()

    async def wait(self, job_id: uuid.UUID) -> None:
        """Wait until the job has ended, for as long as we do.

        Raises:
            ClientDisconnect: Nobody waits any more; the job goes on.
        """
        services = self.services
        with (
            services.hub.follow(job_id, self.principal) as follower,
            follower.listening(self.request.receive),
        ):
            standing = (await run_in_threadpool(services.standings, [job_id]))[job_id]
            if standing.ended or await follower.end(self.wait_seconds):
                return
            if follower.left and not follower.dismissed:
                raise ClientDisconnect

    def find(self, job_id: uuid.UUID) -> Transcript | Response:
        """Read the transcript, or say why there is none.

        Raises:
            HTTPException: 504, it takes longer than we wait.
            JobWithoutResult: It was cancelled.
            NotAuthenticated: The key is good no more.
        """
        with self.services.transaction() as session:
            # they may have waited for long
            auth.require_still(session, self.principal, Scope.JOBS_READ)
            job = jobs.find(session, job_id, self.principal).job
            if job.status not in FINAL:
                raise HTTPException(HTTPStatus.GATEWAY_TIMEOUT, LATER)
            transcript = queries.transcript(session, job_id)
            if job.status != JobStatus.COMPLETED or transcript is None:
                return self._failure(job)
            self.services.trail.read(session, self.by, AuditAction.TRANSCRIPT_READ, job_id)
        return transcript

    def _failure(self, job: TranscriptionJob) -> Response:
        """Say why there is no transcript; the queue has tried again already, as often as it may."""
        if job.status != JobStatus.FAILED:
            raise JobWithoutResult(job_status=job.status)
        theirs = job.failure_reason in INPUT_FAULTS
        status = HTTPStatus.BAD_REQUEST if theirs else HTTPStatus.INTERNAL_SERVER_ERROR
        return problem(
            self.request.scope,
            status,
            job.failure_reason or "internal_error",
            job.error_message or "The job failed.",
            headers={openai_errors.RETRY_HEADER: "false"},
        )


def accepted(added: Added) -> Response:
    """Answer with the job itself."""
    body = added.shown.model_dump(mode="json")
    return JSONResponse(body, HTTPStatus.ACCEPTED, dict(added.headers))
