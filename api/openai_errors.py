"""Errors of ``/v1/``, as OpenAI tells of them: a status, an envelope, and whether to try again.

What goes wrong there is what goes wrong elsewhere; only the words are other ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.types import Scope

import errors
from api.root_path import route_path

PREFIX: Final = "/v1/"
#: Obeyed by OpenAI's own clients, which would otherwise go by the status alone.
RETRY_HEADER: Final = "x-should-retry"
#: OpenAI's clients wait no longer than this; a longer ``Retry-After`` is for people.
MAX_PAUSE_SECONDS: Final = 60
#: What OpenAI calls by another name.
CODES: Final = {
    errors.NotAuthenticated.code: "invalid_api_key",
    errors.UnknownModel.code: "model_not_found",
    errors.RateLimited.code: "rate_limit_exceeded",
    errors.QuotaExceeded.code: "insufficient_quota",
}
FIELDS: Final = {
    "model_size": "model",
    "initial_prompt": "prompt",
    "word_timestamps": "timestamp_granularities[]",
}
TEMPORARY: Final = frozenset({408, 429, 500, 503, 504, 507})


class Fault(BaseModel):
    """What is wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class Envelope(BaseModel):
    """Every error of ``/v1/``."""

    error: Fault


def speaks(scope: Scope) -> bool:
    """Tell whether a request is one of OpenAI's; its path may begin with a proxy's."""
    return route_path(scope).startswith(PREFIX)


def status_of(status: int, code: str) -> int:
    if code == errors.UnknownModel.code:
        return HTTPStatus.NOT_FOUND
    # OpenAI knows no 422, and its clients have a class of its own for it
    return HTTPStatus.BAD_REQUEST if status == HTTPStatus.UNPROCESSABLE_ENTITY else status


def envelope(
    status: int, code: str, detail: str, headers: Mapping[str, str], members: Mapping[str, Any]
) -> JSONResponse:
    """Build the body of every error from what a problem would be made of."""
    status = status_of(status, code)
    fields = members.get("errors") or [{}]
    message, param = detail, None
    if pointer := fields[0].get("pointer", "").removeprefix("#/"):
        param = FIELDS.get(pointer, pointer)
        message = f"{param}: {fields[0]['message']}"
    fault = Fault(message=message, type=_type(status), param=param, code=CODES.get(code, code))
    advice = {RETRY_HEADER: "true" if _will_pass(status, code, headers) else "false"}
    return JSONResponse(Envelope(error=fault).model_dump(), status, {**advice, **headers})


def _type(status: int) -> str:
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return "requests"
    server = status >= HTTPStatus.INTERNAL_SERVER_ERROR
    return "server_error" if server else "invalid_request_error"


def _will_pass(status: int, code: str, headers: Mapping[str, str]) -> bool:
    pause = int(headers.get("Retry-After", "0"))
    temporary = status in TEMPORARY or code == errors.SubmissionUnderWay.code
    return temporary and pause <= MAX_PAUSE_SECONDS
