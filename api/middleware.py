"""What surrounds every request: an id, a line in the log, headers, and how connections end."""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from contextlib import suppress
from http import HTTPStatus
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import telemetry
from api.origins import PROBES
from api.root_path import route_path
from tallies import Tallies

logger = logging.getLogger(__name__)

#: Where a request keeps headers that its answer is to have, whatever becomes of it.
ANSWER_HEADERS: Final = "answer_headers"
#: Where it keeps what is to be called when it is over.
AT_END: Final = "at_end"
#: What is counted as such; and where no route was found.
METHODS: Final = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})
NO_ROUTE: Final = "none"
#: What a client may call its request; anything else gets an id of ours.
REQUEST_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}")

SECURITY_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; sandbox",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "X-Frame-Options": "DENY",
}
STRICT_TRANSPORT: Final = "max-age=31536000"

#: How slowly a body may arrive, and by how much it may be late at any time.
LEAST_BYTES_PER_SECOND: Final = 500.0
GRACE_SECONDS: Final = 60.0

#: How long the rest of a body is read and thrown away after it was refused. Closing at once
#: would reset the connection, and a client that is still sending would never see the answer.
LINGER_SECONDS: Final = 5.0
TOO_SLOW: Final = "The body stopped arriving, or arrives too slowly."


class RequestMiddleware:
    """Gives each request an id and its answer the headers that every answer has, and logs both."""

    def __init__(self, app: ASGIApp, *, https_only: bool, tallies: Tallies | None = None) -> None:
        self._app = app
        self._https_only = https_only
        self._tallies = tallies or Tallies()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(scope)
        scope.setdefault("state", {})["request_id"] = request_id
        started_at = time.perf_counter()
        status = 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                self._add_headers(MutableHeaders(scope=message), scope, request_id)
            await send(message)

        with telemetry.bind(request_id=request_id):
            try:
                await self._app(scope, receive, send_with_headers)
            finally:
                if at_end := scope["state"].get(AT_END):
                    at_end()
                took_seconds = time.perf_counter() - started_at
                _log(scope, status, took_seconds)
                self._count(scope, status, took_seconds)

    def _count(self, scope: Scope, status: int, took_seconds: float) -> None:
        # names of ours alone: what a client makes up would be a series each
        route = getattr(scope.get("route"), "path", NO_ROUTE)
        method = scope["method"] if scope["method"] in METHODS else "other"
        said = str(status) if status else "none"
        self._tallies.add("http_requests", method=method, route=route, status=said)
        self._tallies.observe("http_request_seconds", took_seconds, route=route)

    def _add_headers(self, headers: MutableHeaders, scope: Scope, request_id: str) -> None:
        add_headers(headers, request_id)
        headers.update(scope["state"].get(ANSWER_HEADERS, {}))
        if self._https_only and scope["scheme"] == "https":  # RFC 6797, section 7.2
            headers.setdefault("Strict-Transport-Security", STRICT_TRANSPORT)


def add_headers(headers: MutableHeaders, request_id: str) -> None:
    """Add what every answer has, unless it has it already."""
    headers["X-Request-ID"] = request_id
    for name, value in SECURITY_HEADERS.items():
        headers.setdefault(name, value)


def _request_id(scope: Scope) -> str:
    sent = Headers(scope=scope).get("x-request-id", "")
    return sent if REQUEST_ID.fullmatch(sent) else uuid.uuid4().hex


def _log(scope: Scope, status: int, elapsed_seconds: float) -> None:
    # the path of the route, not of the request: ids are bound elsewhere, and a path that leads
    # nowhere may hold anything
    route = scope.get("route")
    level = logging.DEBUG if route_path(scope) in PROBES else logging.INFO
    logger.log(
        level,
        "request answered",
        extra={
            "method": scope["method"],
            "route": getattr(route, "path", None),
            "status": status,
            "elapsed_ms": round(elapsed_seconds * 1000, 1),
        },
    )


class LingerMiddleware:
    """Answers a body that was not read, then reads on for a while before it closes.

    The connection cannot be used again: the rest of the body would be taken for a request.
    """

    def __init__(self, app: ASGIApp, *, linger_seconds: float = LINGER_SECONDS) -> None:
        self._app = app
        self._linger_seconds = linger_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not _has_body(scope):
            await self._app(scope, receive, send)
            return
        unread = True

        async def receive_noting() -> Message:
            nonlocal unread
            message = await receive()
            unread = message["type"] == "http.request" and message.get("more_body", False)
            return message

        async def send_lingering(message: Message) -> None:
            if not unread:
                await send(message)
            elif message["type"] == "http.response.start":
                MutableHeaders(scope=message)["Connection"] = "close"
                await send(message)
            elif message.get("more_body", False):
                await send(message)
            else:
                await send({**message, "more_body": True})
                await self._drain(receive)
                await send({"type": "http.response.body", "body": b"", "more_body": False})

        await self._app(scope, receive_noting, send_lingering)

    async def _drain(self, receive: Receive) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(self._linger_seconds):
                while (await receive()).get("more_body", False):
                    pass


def _has_body(scope: Scope) -> bool:
    headers = Headers(scope=scope)
    return "transfer-encoding" in headers or headers.get("content-length", "0") != "0"


class PaceMiddleware:
    """Gives up bodies that stop arriving, or arrive in drops; counts only the waiting for them.

    Args:
        idle_seconds: How long nothing may come.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        idle_seconds: float,
        grace_seconds: float = GRACE_SECONDS,
        least_bytes_per_second: float = LEAST_BYTES_PER_SECOND,
    ) -> None:
        self._app = app
        self._idle_seconds = idle_seconds
        self._grace_seconds = grace_seconds
        self._least_bytes_per_second = least_bytes_per_second

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not _has_body(scope):
            await self._app(scope, receive, send)
            return
        left_seconds = self._grace_seconds
        more = True

        async def receive_in_time() -> Message:
            nonlocal left_seconds, more
            if not more:
                return await receive()
            started_at = time.monotonic()
            try:
                async with asyncio.timeout(min(self._idle_seconds, left_seconds)):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(HTTPStatus.REQUEST_TIMEOUT, TOO_SLOW) from None
            earned = len(message.get("body", b"")) / self._least_bytes_per_second
            left_seconds += earned - (time.monotonic() - started_at)
            left_seconds = min(left_seconds, self._grace_seconds)
            more = message.get("more_body", False)
            return message

        await self._app(scope, receive_in_time, send)


class SlashMiddleware:
    """Answers ``/jobs/`` as ``/jobs``: a redirect would lose a body that is on its way."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and route_path(scope) != "/" and scope["path"].endswith("/"):
            scope["path"] = scope["path"][:-1]
        await self._app(scope, receive, send)
