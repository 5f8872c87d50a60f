"""What clients of whisper-asr-webservice ask for, with a job behind each call.

Source: ``app/webservice.py`` of ahmetoner/whisper-asr-webservice.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from json import dumps
from typing import Final
from urllib.parse import quote

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool

from api import openai_formats, whisper_asr_form
from api.calls import JOB_HEADER, Call, accepted
from api.dependencies import ASR, DETECT_LANGUAGE, By, ServicesDep, Writer, single_values
from api.documentation import Responses, asr_body, problems
from api.schemas import JobDetail
from api.submission import Defaults
from api.whisper_asr_form import AsrForm
from speech import formats
from speech.engines.languages import LANGUAGES
from speech.formats import FORMATS, typography
from speech.transcript import Transcript

router = APIRouter(tags=["whisper-asr"], dependencies=[Depends(single_values)])

ENGINE_HEADER: Final = "Asr-Engine"
PLAIN: Final = "text/plain; charset=utf-8"

_HEADERS: Final = {JOB_HEADER: {"description": "Its job.", "schema": {"type": "string"}}}
_JOB: Final[Responses] = {
    202: {"description": "The job, where that was asked for.", "model": JobDetail}
}
_REFUSALS: Final = problems(400, 401, 403, 408, 409, 410, 413, 415, 422, 503, 504, 507)
_AUTH: Final = " Takes HTTP's basic credentials, too: the password is the key."


class Detected(BaseModel):
    """The language that is spoken."""

    detected_language: str = Field(description="Its English name.", examples=["english"])
    language_code: str = Field(examples=["en"])
    confidence: float = Field(description="Its probability, 0 to 1.", examples=[0.98])


@router.post(
    "/asr",
    operation_id=ASR,
    summary="Transcribe as whisper-asr-webservice does, and wait for it",
    description="What is sent again finds the job that it made before." + _AUTH,
    response_class=Response,
    responses={
        200: {
            "description": "The transcript, in the format `output`.",
            "content": {"text/plain": {"schema": {"type": "string"}}},
            "headers": {
                **_HEADERS,
                ENGINE_HEADER: {"description": "What did it.", "schema": {"type": "string"}},
            },
        },
        **_JOB,
        **_REFUSALS,
    },
    openapi_extra=asr_body(whisper_asr_form.FILE_FIELD, whisper_asr_form.FIELDS),
)
async def asr(request: Request, principal: Writer, by: By, services: ServicesDep) -> Response:
    call = _Call(request=request, principal=principal, by=by, services=services, detects=False)
    return await call.answer()


@router.post(
    "/detect-language",
    operation_id=DETECT_LANGUAGE,
    summary="Tell the language as whisper-asr-webservice does, and wait for it",
    description="The job behind it transcribes the first 30 seconds." + _AUTH,
    response_class=Response,
    responses={
        200: {
            "description": "The language.",
            "model": Detected,
            "headers": _HEADERS,
        },
        **_JOB,
        **_REFUSALS,
    },
    openapi_extra=asr_body(whisper_asr_form.FILE_FIELD, whisper_asr_form.DETECTION_FIELDS),
)
async def detect_language(
    request: Request, principal: Writer, by: By, services: ServicesDep
) -> Response:
    call = _Call(request=request, principal=principal, by=by, services=services, detects=True)
    return await call.answer()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call(Call):
    """One request for a transcript, or for its language alone."""

    detects: bool

    @property
    def wait_seconds(self) -> float:
        return self.services.settings.asr_wait_seconds

    async def answer(self) -> Response:
        """Make the job, or find it, and answer with what it comes to when it is there.

        Raises:
            ServiceError, HTTPException, ClientDisconnect: See ``Call``.
        """
        form = AsrForm(
            self.request.query_params,
            Defaults.of(self.services.settings),
            self.principal,
            detects=self.detects,
            respond_async=self.prefers_async,
        )
        added = await self.submit(form, waits=not form.asked.respond_async)
        if form.asked.respond_async:
            return accepted(added)
        await self.wait(added.shown.id)
        return await run_in_threadpool(self._result, added.shown, form.asked.output)

    def _result(self, shown: JobDetail, output: str) -> Response:
        found = self.find(uuid.UUID(str(shown.id)))
        if isinstance(found, Response):
            return found
        if self.detects:
            return Response(_detected(found).model_dump_json(), media_type="application/json")
        headers = {
            ENGINE_HEADER: shown.engine,
            "Content-Disposition": f'attachment; filename="{quote(shown.filename)}.{output}"',
        }
        return Response(_written(found, output), headers=headers, media_type=PLAIN)


def _detected(transcript: Transcript) -> Detected:
    code, probability = transcript.language, transcript.language_probability
    return Detected(
        detected_language=LANGUAGES.get(code, code),
        language_code=code,
        # a model that knows one language has no doubt
        confidence=1.0 if probability is None else probability,
    )


def _written(transcript: Transcript, output: str) -> str:
    if output != "json":
        return FORMATS[output].render(transcript)
    document = {
        "language": transcript.language,
        "segments": [
            {**openai_formats.segment_fields(id_, s), **formats.segment_fields(id_, s)}
            for id_, s in enumerate(transcript.segments)
        ],
        "text": transcript.text,
    }
    return typography.well_formed(dumps(document, ensure_ascii=False))
