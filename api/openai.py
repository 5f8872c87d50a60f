"""What OpenAI's clients ask for: transcripts in the answer, with a job behind each."""

from __future__ import annotations

import functools
import time
import uuid
from collections.abc import AsyncGenerator
from http import HTTPStatus
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Path, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

import auth
from api import idempotency, jobs, openai_form, openai_formats, openai_stream
from api.dependencies import By, Reader, ServicesDep, Writer, single_values
from api.documentation import Responses, openai_body, refusals
from api.errors import problem, response_of
from api.event_stream import COMMENT, EVENT, EventStream
from api.hub import Follower
from api.middleware import ANSWER_HEADERS
from api.openai_form import MODELS, Asked, OpenAIForm
from api.receiving import Added, Submission
from api.schemas import JobDetail
from api.services import Services
from api.story import QUIET_SECONDS, Story
from api.submission import Defaults
from audit.events import Actor
from auth import Principal
from errors import JobWithoutResult, ServiceError, UnknownModel
from jobs import queries
from jobs.dead_letters import INPUT_FAULTS
from jobs.queries import WindowView
from models import FINAL, AuditAction, JobStatus, Scope, TranscriptionJob
from speech.transcript import Transcript

router = APIRouter(prefix="/v1", tags=["openai"], dependencies=[Depends(single_values)])

JOB_HEADER: Final = "x-job-id"
#: When Whisper was published; OpenAI's clients expect a time of each model.
CREATED: Final = 1_663_718_400
LATER: Final = "The job is not done yet: it goes on. Send the request again to wait for it."

_ANSWERS: Final[Responses] = {
    200: {
        "description": "The transcript, in the `response_format`.",
        "content": {
            "application/json": {"schema": {"type": "object"}},
            "text/plain": {"schema": {"type": "string"}},
            "text/event-stream": {"itemSchema": dict(EVENT)},
        },
        "headers": {JOB_HEADER: {"description": "Its job.", "schema": {"type": "string"}}},
    },
    202: {"description": "The job, where that was asked for.", "model": JobDetail},
}
_REFUSALS: Final = refusals(400, 401, 403, 404, 408, 409, 410, 413, 415, 503, 504, 507)


class Model(BaseModel):
    """A model, by one of its names."""

    id: str
    object: str = "model"
    created: int = CREATED
    owned_by: str


class ModelList(BaseModel):
    """All of them."""

    object: str = "list"
    data: list[Model]


@router.post(
    "/audio/transcriptions",
    operation_id="openai_transcribe",
    summary="Transcribe, and wait for it",
    description="As OpenAI's. What is sent again finds the job that it made before.",
    response_class=Response,
    responses=_ANSWERS | _REFUSALS,
    openapi_extra=openai_body(openai_form.FIELDS),
)
async def transcribe(
    request: Request, principal: Writer, by: By, services: ServicesDep
) -> Response:
    return await _Call(request, principal, by, services, translate=False).answer()


@router.post(
    "/audio/translations",
    operation_id="openai_translate",
    summary="Translate into English, and wait for it",
    description="As OpenAI's. What is sent again finds the job that it made before.",
    response_class=Response,
    responses=_ANSWERS | _REFUSALS,
    openapi_extra=openai_body(openai_form.FIELDS),
)
async def translate(request: Request, principal: Writer, by: By, services: ServicesDep) -> Response:
    return await _Call(request, principal, by, services, translate=True).answer()


@router.get(
    "/models",
    operation_id="openai_models",
    summary="List the models, with OpenAI's names for the default",
    responses=refusals(400, 401, 403, 503),
)
def list_models(principal: Reader) -> ModelList:
    return ModelList(data=[_model(name) for name in MODELS])


@router.get(
    "/models/{name}",
    operation_id="openai_model",
    summary="Look at a model",
    responses=refusals(400, 401, 403, 404, 503),
)
def show_model(
    name: Annotated[str, Path(json_schema_extra={"enum": list(MODELS)})], principal: Reader
) -> Model:
    if name not in MODELS:
        raise UnknownModel("There is no model of that name.")
    return _model(name)


def _model(name: str) -> Model:
    return Model(id=name, owned_by="openai" if name in openai_form.ALIASES else "local")


class _Call:
    """One request for a transcript."""

    def __init__(
        self,
        request: Request,
        principal: Principal,
        by: Actor,
        services: Services,
        *,
        translate: bool,
    ) -> None:
        self._request = request
        self._principal = principal
        self._by = by
        self._services = services
        self._translate = translate

    async def answer(self) -> Response:
        """Make the job, or find it, and answer with its transcript when it is there.

        Raises:
            TooManyWaits: As many as may wait do so with this key already.
            HTTPException: 504, it takes longer than we wait.
            JobWithoutResult: It was cancelled.
            ClientDisconnect: Nobody waits any more; the job goes on.
            ServiceError: See ``Submission.receive``.
        """
        respond_async = _prefers_async(self._request)
        if not respond_async:
            # before a byte of the body is read
            self._services.hub.require_room(self._principal)
        form = OpenAIForm(
            Defaults.of(self._services.settings),
            self._principal,
            translate=self._translate,
            respond_async=respond_async,
        )
        added = await self._receive(form)
        asked, job_id = form.asked(added.fields), added.shown.id
        self._name_job(job_id)
        if added.lane is not None and not added.shown.queue_paused:
            await run_in_threadpool(self._services.publish, job_id, added.lane)
        if asked.respond_async:
            body = added.shown.model_dump(mode="json")
            return JSONResponse(body, HTTPStatus.ACCEPTED, dict(added.headers))
        if asked.stream:
            tell = functools.partial(self._tell, job_id)
            return EventStream(self._services.hub, job_id, self._principal, tell)
        await self._wait(job_id)
        return await run_in_threadpool(self._result, job_id, asked)

    async def _receive(self, form: OpenAIForm) -> Added:
        key = idempotency.key_of(self._request.headers)
        with self._services.under_way.hold(self._principal.owner_id, key):
            submission = Submission(
                self._request, self._principal, self._services, form, key, known_by_content=True
            )
            return await submission.receive()

    def _name_job(self, job_id: uuid.UUID) -> None:
        """Have the answer name the job, whatever becomes of it."""
        state: dict[str, Any] = self._request.scope["state"]
        state[ANSWER_HEADERS] = {**state.get(ANSWER_HEADERS, {}), JOB_HEADER: str(job_id)}

    async def _wait(self, job_id: uuid.UUID) -> None:
        """Wait until the job has ended, for as long as we do."""
        services = self._services
        with (
            services.hub.follow(job_id, self._principal) as follower,
            follower.listening(self._request.receive),
        ):
            standing = (await run_in_threadpool(services.standings, [job_id]))[job_id]
            if standing.ended or await follower.end(services.settings.openai_wait_seconds):
                return
            if follower.left and not follower.dismissed:
                raise ClientDisconnect

    async def _tell(self, job_id: uuid.UUID, follower: Follower) -> AsyncGenerator[str, None]:
        """Stream the transcript, as windows are done."""
        most = self._services.settings.openai_wait_seconds
        quiet = min(most, QUIET_SECONDS)
        story = Story(
            self._services, job_id, follower, self._principal, self._by, quiet_seconds=quiet
        )
        deltas, heard_at = openai_stream.Deltas(), time.monotonic()
        async for news in story.tell():
            if news is not None:
                heard_at = time.monotonic()
            elif time.monotonic() - heard_at >= most:
                break
            if isinstance(news, WindowView) and (text := deltas.of(news)):
                yield openai_stream.delta(text)
            else:
                yield COMMENT
        if follower.stopping:
            yield openai_stream.failed(self._stopping())
        elif not follower.left:
            yield await run_in_threadpool(self._last, job_id)

    def _last(self, job_id: uuid.UUID) -> str:
        scope = self._request.scope
        try:
            found = self._find(job_id)
        except HTTPException:
            return openai_stream.failed(problem(scope, 504, "still_transcribing", LATER))
        except ServiceError as error:
            return openai_stream.failed(response_of(scope, error))
        if isinstance(found, Transcript):
            return openai_stream.done(found)
        return openai_stream.failed(found)

    def _stopping(self) -> Response:
        detail = "The service is stopping, and the job goes on: send the request again."
        return problem(self._request.scope, 503, "unavailable", detail)

    def _result(self, job_id: uuid.UUID, asked: Asked) -> Response:
        found = self._find(job_id)
        if isinstance(found, Response):
            return found
        text = openai_formats.render(
            found,
            asked.response_format,
            granularities=asked.granularities,
            translated=self._translate,
        )
        return Response(text, media_type=openai_formats.FORMATS[asked.response_format])

    def _find(self, job_id: uuid.UUID) -> Transcript | Response:
        """Read the transcript, or say why there is none."""
        with self._services.transaction() as session:
            # they may have waited for long
            auth.require_still(session, self._principal, Scope.JOBS_READ)
            job = jobs.find(session, job_id, self._principal).job
            if job.status not in FINAL:
                raise HTTPException(HTTPStatus.GATEWAY_TIMEOUT, LATER)
            transcript = queries.transcript(session, job_id)
            if job.status != JobStatus.COMPLETED or transcript is None:
                return self._failure(job)
            self._services.trail.read(session, self._by, AuditAction.TRANSCRIPT_READ, job_id)
        return transcript

    def _failure(self, job: TranscriptionJob) -> Response:
        """Say why there is no transcript; the queue has tried again already, as often as it may."""
        if job.status != JobStatus.FAILED:
            raise JobWithoutResult(job_status=job.status)
        theirs = job.failure_reason in INPUT_FAULTS
        status = HTTPStatus.BAD_REQUEST if theirs else HTTPStatus.INTERNAL_SERVER_ERROR
        return problem(
            self._request.scope,
            status,
            job.failure_reason or "internal_error",
            job.error_message or "The job failed.",
            headers={"x-should-retry": "false"},
        )


def _prefers_async(request: Request) -> bool:
    """Read ``Prefer`` (RFC 7240)."""
    preferences = ",".join(request.headers.getlist("prefer"))
    words = {word.partition(";")[0].strip().lower() for word in preferences.split(",")}
    return "respond-async" in words
