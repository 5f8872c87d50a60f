"""What OpenAI's clients ask for: transcripts in the answer, with a job behind each."""

from __future__ import annotations

import functools
import time
import uuid
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Path, Request, Response
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from api import openai_form, openai_formats, openai_stream
from api.calls import JOB_HEADER, LATER, Call, accepted
from api.dependencies import By, Reader, ServicesDep, Writer, single_values
from api.documentation import Responses, openai_body, refusals
from api.errors import problem, response_of
from api.event_stream import COMMENT, EVENT, EventStream
from api.hub import Follower
from api.openai_form import MODELS, Asked, OpenAIForm
from api.schemas import JobDetail
from api.story import QUIET_SECONDS, Story
from api.submission import Defaults
from errors import ServiceError, UnknownModel
from jobs.queries import WindowView
from speech.transcript import Transcript

router = APIRouter(prefix="/v1", tags=["openai"], dependencies=[Depends(single_values)])

#: When Whisper was published; OpenAI's clients expect a time of each model.
CREATED: Final = 1_663_718_400

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
    call = _Call(request=request, principal=principal, by=by, services=services, translate=False)
    return await call.answer()


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
    call = _Call(request=request, principal=principal, by=by, services=services, translate=True)
    return await call.answer()


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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call(Call):
    """One request for a transcript."""

    translate: bool

    @property
    def wait_seconds(self) -> float:
        return self.services.settings.openai_wait_seconds

    async def answer(self) -> Response:
        """Make the job, or find it, and answer with its transcript when it is there.

        Raises:
            ServiceError, HTTPException, ClientDisconnect: See ``Call``.
        """
        form = OpenAIForm(
            Defaults.of(self.services.settings),
            self.principal,
            translate=self.translate,
            respond_async=self.prefers_async,
        )
        added = await self.submit(form, waits=not self.prefers_async)
        asked, job_id = form.asked(added.fields), added.shown.id
        if asked.respond_async:
            return accepted(added)
        if asked.stream:
            tell = functools.partial(self._tell, job_id)
            return EventStream(self.services.hub, job_id, self.principal, tell)
        await self.wait(job_id)
        return await run_in_threadpool(self._result, job_id, asked)

    async def _tell(self, job_id: uuid.UUID, follower: Follower) -> AsyncGenerator[str, None]:
        """Stream the transcript, as windows are done."""
        most = self.wait_seconds
        quiet = min(most, QUIET_SECONDS)
        story = Story(self.services, job_id, follower, self.principal, self.by, quiet_seconds=quiet)
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
        scope = self.request.scope
        try:
            found = self.find(job_id)
        except HTTPException:
            return openai_stream.failed(problem(scope, 504, "still_transcribing", LATER))
        except ServiceError as error:
            return openai_stream.failed(response_of(scope, error))
        if isinstance(found, Transcript):
            return openai_stream.done(found)
        return openai_stream.failed(found)

    def _stopping(self) -> Response:
        detail = "The service is stopping, and the job goes on: send the request again."
        return problem(self.request.scope, 503, "unavailable", detail)

    def _result(self, job_id: uuid.UUID, asked: Asked) -> Response:
        found = self.find(job_id)
        if isinstance(found, Response):
            return found
        text = openai_formats.render(
            found,
            asked.response_format,
            granularities=asked.granularities,
            translated=self.translate,
        )
        return Response(text, media_type=openai_formats.FORMATS[asked.response_format])
