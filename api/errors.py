"""Errors as ``application/problem+json`` (RFC 9457): one table from class to status, one body.

A body never holds what the client sent, nor the text of an exception that is not ours.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final, cast

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic_core import ErrorDetails
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import errors
from api import openai_errors
from errors import InvalidRequest, ServiceError

logger = logging.getLogger(__name__)

MEDIA_TYPE: Final = "application/problem+json"

#: The status of a class is its own, or that of its nearest ancestor here.
STATUS: Final[Mapping[type[ServiceError], int]] = {
    errors.ServiceError: 500,
    errors.ClientError: 400,
    errors.InvalidRequest: 422,
    errors.EmptyFile: 422,
    errors.UnknownModel: 422,
    errors.UploadTooLarge: 413,
    errors.NotAuthenticated: 401,
    errors.NotAllowed: 403,
    errors.HTTPSRequired: 403,
    errors.IdempotencyMismatch: 422,
    errors.JobDeleted: 410,
    errors.NotFound: 404,
    errors.UnknownHost: 421,
    errors.RateLimited: 429,
    errors.QuotaExceeded: 429,
    errors.TooManyConnections: 429,
    errors.TooManyWaits: 429,
    errors.TooManyAtOnce: 429,
    errors.TusVersion: 412,
    errors.UploadBusy: 423,
    errors.ChecksumMismatch: 460,
    errors.UploadMissing: 410,
    errors.ConflictError: 409,
    errors.CapacityError: 503,
    errors.DiskFull: 507,
    errors.Unhealthy: 503,
}
#: Codes of errors that HTTP itself knows; any other is ``bad_request`` or ``internal_error``.
HTTP_CODES: Final = {
    401: errors.NotAuthenticated.code,
    403: errors.NotAllowed.code,
    404: errors.NotFound.code,
    405: "method_not_allowed",
    406: "not_acceptable",
    408: "request_timeout",
    413: "body_too_large",
    414: "uri_too_long",
    415: "unsupported_media_type",
    416: "range_not_satisfiable",
    431: "headers_too_large",
    503: "unavailable",
    504: "still_transcribing",
}
METHODS: Final = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")
#: Names of statuses that HTTP itself does not know.
PHRASES: Final = {460: "Checksum Mismatch"}
#: When to try again, in seconds, where the error itself does not know.
RETRY_AFTER: Final = {423: 5, 429: 5, 503: 5, 504: 5, 507: 60}
#: Sent to nobody: the client is gone. The number is nginx's.
CLIENT_CLOSED_REQUEST: Final = 499


class ProblemResponse(JSONResponse):
    """An answer that says what is wrong."""

    media_type = MEDIA_TYPE


def invalid(field: str, code: str, message: str) -> InvalidRequest:
    """An error about one field of a form, a query or a JSON body."""
    return InvalidRequest(f"{field}: {message}", errors=[field_error(field, code, message)])


def field_error(field: str, code: str, message: str) -> dict[str, str]:
    return {"pointer": f"#/{field}", "code": code, "message": message}


def problem(
    scope: Scope,
    status: int,
    code: str,
    detail: str,
    *,
    headers: Mapping[str, str] | None = None,
    members: Mapping[str, Any] | None = None,
) -> JSONResponse:
    """Build the body of every error."""
    headers = dict(headers or {})
    if status in RETRY_AFTER:
        headers.setdefault("Retry-After", str(RETRY_AFTER[status]))
    if status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    if openai_errors.speaks(scope):
        return openai_errors.envelope(status, code, detail, headers, members or {})
    body = {
        "type": "about:blank",
        "title": PHRASES.get(status) or HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "instance": scope["path"],
        "code": code,
        "request_id": scope.get("state", {}).get("request_id"),
    }
    body = {**body, **(members or {}), **body}
    return ProblemResponse(body, status, headers)


def status_of(error: type[ServiceError]) -> int:
    return next(STATUS[cls] for cls in error.__mro__ if cls in STATUS)


def install(app: FastAPI) -> None:
    """Let every error that a route raises become a problem."""
    app.add_exception_handler(ServiceError, _service_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(ClientDisconnect, _disconnect)


async def _service_error(request: Request, error: Exception) -> Response:
    return response_of(request.scope, cast("ServiceError", error))


def response_of(scope: Scope, error: ServiceError) -> JSONResponse:
    """Tell a client of an error; one that is our own fault is raised again."""
    _note_refusal(scope, error)
    status = status_of(type(error))
    if status == HTTPStatus.INTERNAL_SERVER_ERROR:
        raise error
    if status > HTTPStatus.INTERNAL_SERVER_ERROR:
        logger.warning("cannot serve", extra={"code": error.code, "cause": _cause(error)})
    members = dict(error.data)
    headers = {}
    if (seconds := members.pop("retry_after_seconds", None)) is not None:
        headers["Retry-After"] = str(seconds)
    return problem(scope, status, error.code, error.message, headers=headers, members=members)


def _note_refusal(scope: Scope, error: ServiceError) -> None:
    """Have a refusal told among the audit events; only the whole service has those."""
    services = getattr(scope["app"].state, "services", None) if "app" in scope else None
    if services is not None:
        services.trail.refused(scope, error)


def _cause(error: Exception) -> str | None:
    """The first line of what a library said: an outage is no place for tracebacks."""
    lines = str(error.__cause__).splitlines() if error.__cause__ else []
    return lines[0] if lines else None


async def _validation_error(request: Request, error: Exception) -> Response:
    details = cast("RequestValidationError", error).errors()
    return problem(
        request.scope,
        HTTPStatus.UNPROCESSABLE_ENTITY,
        InvalidRequest.code,
        "Some fields have values that are not allowed.",
        members={"errors": field_errors(details, skip=1)},
    )


def field_errors(details: Sequence[ErrorDetails], *, skip: int = 0) -> list[dict[str, str]]:
    """Say what pydantic found, without the values that it found.

    Args:
        skip: Leading parts of a location that are not the field's: FastAPI's ``query``.
    """
    found = [_field_error(detail, detail["loc"][skip:]) for detail in details]
    return [error for number, error in enumerate(found) if error not in found[:number]]


def _field_error(detail: ErrorDetails, location: Sequence[int | str]) -> dict[str, str]:
    message = detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "extra_forbidden":
        # the field's name is the client's
        location, message = location[:-1], "There is a field that does not exist."
    return field_error("/".join(map(str, location)), detail["type"], message)


async def _http_error(request: Request, error: Exception) -> Response:
    error = cast("HTTPException", error)
    headers = dict(error.headers or {})
    detail = str(error.detail)
    if error.status_code == HTTPStatus.NOT_FOUND:
        detail = errors.NotFound().message
    elif error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        # the router itself only names the methods of the first route that matched
        headers["Allow"] = ", ".join(_allowed_methods(request))
        detail = f"{request.method} is not allowed here."
    return problem(
        request.scope, error.status_code, _http_code(error.status_code), detail, headers=headers
    )


async def _disconnect(request: Request, error: Exception) -> Response:
    logger.info("client went away")
    return Response(status_code=CLIENT_CLOSED_REQUEST)


def _http_code(status: int) -> str:
    default = "bad_request" if status < HTTPStatus.INTERNAL_SERVER_ERROR else "internal_error"
    return HTTP_CODES.get(status, default)


def _allowed_methods(request: Request) -> list[str]:
    def is_allowed(method: str) -> bool:
        scope = {**request.scope, "method": method}
        return any(route.matches(scope)[0] is Match.FULL for route in request.app.routes)

    return [method for method in METHODS if is_allowed(method)]


class ProblemMiddleware:
    """The net under everything: errors from whatever is below leave as problems.

    That is exceptions that nobody expected, and the plain-text errors of Starlette's own parts.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answer = _Answer(scope, receive, send)
        try:
            await self._app(scope, receive, answer.send)
        except asyncio.CancelledError:
            # the server stops, and has waited for long enough
            if not answer.started:
                await answer.give_up()
            raise
        except Exception:
            logger.exception("request failed")
            if answer.started:
                raise
            await answer.fail()


class _Answer:
    """One answer on its way out; an error that is no problem yet is made one."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._replaced = False
        self.started = False

    async def send(self, message: Message) -> None:
        if self._replaced:
            return
        if message["type"] == "http.response.start":
            self.started = True
            headers = dict(Headers(raw=message["headers"]))
            if _is_foreign_error(message["status"], headers):
                self._replaced = True
                await self._replace(message["status"], headers)
                return
        await self._send(message)

    async def fail(self) -> None:
        await self._say(500, "The service failed; its log knows more.")

    async def give_up(self) -> None:
        await self._say(503, "The service is stopping.")

    async def _say(self, status: int, detail: str) -> None:
        response = problem(self._scope, status, _http_code(status), detail)
        await response(self._scope, self._receive, self._send)

    async def _replace(self, status: int, headers: dict[str, str]) -> None:
        kept = {name: value for name, value in headers.items() if not name.startswith("content-")}
        if "content-range" in headers:
            kept["content-range"] = headers["content-range"]
        phrase = HTTPStatus(status).phrase
        response = problem(self._scope, status, _http_code(status), f"{phrase}.", headers=kept)
        await response(self._scope, self._receive, self._send)


def _is_foreign_error(status: int, headers: Mapping[str, str]) -> bool:
    if status < HTTPStatus.BAD_REQUEST or status == CLIENT_CLOSED_REQUEST:
        return False
    if openai_errors.RETRY_HEADER in headers:
        return False
    return not headers.get("content-type", "").startswith(MEDIA_TYPE)
