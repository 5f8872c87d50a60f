"""How, for which host and from which pages requests may come; probes may come anyhow."""

from __future__ import annotations

from collections.abc import Collection
from http import HTTPStatus
from typing import Final

from starlette.datastructures import URL, Headers, MutableHeaders
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import METHODS, response_of
from api.root_path import route_path
from errors import HTTPSRequired, UnknownHost

#: Asked by load balancers and container engines, over plain HTTP and by address.
PROBES: Final = frozenset({"/health", "/ready"})
#: What a page may send beside what every page may.
SENT: Final = (
    "Authorization", "Content-Type", "Idempotency-Key", "Range", "Tus-Resumable",
    "Upload-Checksum", "Upload-Length", "Upload-Metadata", "Upload-Offset", "X-API-Key",
    "X-Request-ID",
)  # fmt: skip
#: What a page may read of an answer beside its body.
SHOWN: Final = (
    "Accept-Ranges", "Content-Disposition", "Content-Length", "Content-Range",
    "Idempotency-Replayed", "Link", "Location", "Retry-After", "Transcript-Complete",
    "Tus-Checksum-Algorithm", "Tus-Extension", "Tus-Max-Size", "Tus-Resumable", "Tus-Version",
    "Upload-Expires", "Upload-Length", "Upload-Metadata", "Upload-Offset", "X-Request-ID",
    "x-job-id", "x-should-retry",
)  # fmt: skip
#: How long a browser may remember what it was told.
PREFLIGHT_SECONDS: Final = 600


class HTTPSMiddleware:
    """Redirects who comes by plain HTTP and gives nothing away; refuses everybody else.

    To redirect a request with a key would hide that the key went over the wire in clear, and
    would have it sent, with the whole of an upload, for a second time.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # the scheme is what a trusted proxy says it was asked by: uvicorn has seen to that
        if scope["type"] != "http" or route_path(scope) in PROBES or scope["scheme"] == "https":
            await self._app(scope, receive, send)
            return
        await self._answer(scope)(scope, receive, send)

    def _answer(self, scope: Scope) -> Response:
        headers = Headers(scope=scope)
        is_secret = "authorization" in headers or "x-api-key" in headers
        if is_secret or scope["method"] not in {"GET", "HEAD"}:
            return response_of(scope, HTTPSRequired())
        url = URL(scope=scope).replace(scheme="https")
        return RedirectResponse(str(url), HTTPStatus.PERMANENT_REDIRECT)


class HostMiddleware:
    """Refuses requests for other hosts than ours.

    Args:
        hosts: Names as they stand in requests, without port; ``*.`` stands for any beginning.
    """

    def __init__(self, app: ASGIApp, *, hosts: Collection[str]) -> None:
        self._app = app
        self._names = frozenset(host for host in hosts if not host.startswith("*."))
        self._endings = tuple(host[1:] for host in hosts if host.startswith("*."))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or route_path(scope) in PROBES or self._is_ours(scope):
            await self._app(scope, receive, send)
            return
        await response_of(scope, UnknownHost())(scope, receive, send)

    def _is_ours(self, scope: Scope) -> bool:
        host = Headers(scope=scope).get("host", "").lower()
        # the colons of an IPv6 address stand between brackets
        name = host.partition("]")[0] + "]" if host.startswith("[") else host.partition(":")[0]
        return "*" in self._names or name in self._names or name.endswith(self._endings)


class CrossOriginMiddleware:
    """Lets pages of other origins call us; without it a browser lets none.

    Keys are in headers that a page sets itself, so no page is ever allowed to send what the
    browser keeps (cookies, passwords): there is nothing that it could misuse.

    Args:
        origins: As browsers write them: ``https://app.example.com``.
    """

    def __init__(self, app: ASGIApp, *, origins: Collection[str]) -> None:
        self._app = app
        self._origins = frozenset(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        allowed = origin if origin in self._origins else None

        async def send_allowing(message: Message) -> None:
            if message["type"] == "http.response.start":
                _allow(MutableHeaders(scope=message), allowed)
            await send(message)

        if allowed and scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
            await _preflight()(scope, receive, send_allowing)
        else:
            await self._app(scope, receive, send_allowing)


def _allow(headers: MutableHeaders, origin: str | None) -> None:
    headers.add_vary_header("Origin")
    if origin is not None:
        headers["Access-Control-Allow-Origin"] = origin
        headers["Access-Control-Expose-Headers"] = ", ".join(SHOWN)


def _preflight() -> Response:
    allowed = {
        "Access-Control-Allow-Methods": ", ".join(METHODS),
        "Access-Control-Allow-Headers": ", ".join(SENT),
        "Access-Control-Max-Age": str(PREFLIGHT_SECONDS),
    }
    return Response(status_code=HTTPStatus.NO_CONTENT, headers=allowed)
