"""What uvicorn does before there is a request: with limits, and with problems as answers.

uvicorn waits for ever for a head that does not end and for a client that does not read, and takes
heads of any size. Bodies are timed in ``api.middleware``, where only the waiting for them counts.
"""

from __future__ import annotations

import asyncio
import logging
import re
import uuid
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, ClassVar, Final, cast

import httptools
from starlette.datastructures import MutableHeaders
from starlette.responses import Response
from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from api.connections import Door, Limits, Verdict
from api.errors import HTTP_CODES, problem
from api.middleware import add_headers
from api.stopping import stop
from errors import ClientError, TooManyConnections

logger = logging.getLogger(__name__)

#: A head is looked at in pieces of this size, so that one without an end is noticed in time.
PIECE_BYTES: Final = 4096
#: The parser takes 2.0 as well, which is another protocol.
VERSIONS: Final = ("1.0", "1.1")
#: RFC 9110, section 7.2; what may stand there is the application's to judge.
HOST: Final = re.compile(rb"(?:\[[0-9A-Fa-f:.]*\]|[0-9A-Za-z._-]*)(?::[0-9]{0,5})?")


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a request is not read any further."""

    status: int
    code: str
    detail: str

    @classmethod
    def of(cls, status: int, detail: str) -> Fault:
        return cls(status, HTTP_CODES.get(status, ClientError.code), detail)


UNREADABLE: Final = Fault.of(400, "The request is not HTTP that can be read.")
HEAD_TOO_LATE: Final = Fault.of(408, "The request's head took too long.")
TARGET_TOO_LONG: Final = Fault.of(414, "The request's target is too long.")
HEAD_TOO_LARGE: Final = Fault.of(431, "The request's header fields are too many or too long.")
NO_HOST: Final = Fault.of(400, "The request should have one Host, with the name of a host in it.")
VERSION: Final = Fault.of(400, "The request's version of HTTP is not spoken here.")
ENCODING: Final = Fault.of(400, "The only Transfer-Encoding that is understood is chunked.")
TARGET: Final = Fault.of(400, "The request's target should be a path.")
REFUSED: Final = {
    Verdict.FULL: Fault.of(503, "There are too many connections to this service."),
    Verdict.TOO_MANY: Fault(429, TooManyConnections.code, TooManyConnections().message),
}


class _Faulty(Exception):
    """Ends the parser, which is in C and knows our callbacks only."""


class LimitedProtocol(HttpToolsProtocol):
    """Ends what takes too long or too much; answers what is not HTTP, and ignores upgrades."""

    limits: ClassVar[Limits]
    door: ClassVar[Door]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._verdict = Verdict.CUT
        #: Whether what comes next is a request's head, or the rest of one.
        self._in_head = True
        #: Bytes since the last that were of any use: the end of a head, or a part of a body.
        self._useless_bytes = 0
        self._fault: Fault | None = None
        #: Whether everything that still comes is thrown away.
        self._deaf = False
        self._head_timer: asyncio.TimerHandle | None = None
        self._linger_timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None
        #: Bytes of answers that wait to be sent, when last looked at.
        self._left_bytes = 0
        self._drained = False

    # Connections

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self._verdict = self.door.enter(self._address)
        if self._verdict is Verdict.CUT:
            transport.abort()
        elif self._verdict is not Verdict.WELCOME:
            logger.warning("connection refused", extra={"reason": self._verdict.name.lower()})
            self._refuse(REFUSED[self._verdict])
        else:
            self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._head_timer, self._linger_timer, self._stall_timer):
            if timer is not None:
                timer.cancel()
        self.door.leave(self._address, self._verdict)
        super().connection_lost(exc)

    def shutdown(self) -> None:
        super().shutdown()
        if self._is_answering:
            stop(cast("Scope", self.cycle.scope))

    @property
    def _address(self) -> str | None:
        return self.client[0] if self.client else None

    # Reading

    def data_received(self, data: bytes) -> None:
        if self._deaf or self.transport.is_closing():
            return
        self._unset_keepalive_if_required()
        if self._in_head and self._head_timer is None:
            self._await_head()
        try:
            self._feed(data)
        except httptools.HttpParserUpgrade:
            # The request is answered as any other. What may follow it in this connection was not
            # read, so its sender should not wait for more.
            self.cycle.keep_alive = False
            self._deaf = True
        except httptools.HttpParserError:
            self._refuse(self._fault or UNREADABLE)

    def _feed(self, data: bytes) -> None:
        while data and not self._deaf:
            size = PIECE_BYTES if self._in_head else len(data)
            self._useless_bytes += min(size, len(data))
            self.parser.feed_data(data[:size])
            if self._useless_bytes > self.limits.max_head_bytes:
                is_target = self._in_head and not self.headers and self.url
                self._refuse(TARGET_TOO_LONG if is_target else HEAD_TOO_LARGE)
            data = data[size:]

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_head:
            return  # what follows a body does not belong to its head, which was judged already
        super().on_header(name, value)
        if len(self.headers) > self.limits.max_headers:
            self._fail(HEAD_TOO_LARGE)

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._useless_bytes = 0
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        if fault := self._fault_of_head():
            self._fail(fault)
        if len(self.pipeline) >= self.limits.max_pipelined:
            self._stop_reading()
            raise _Faulty
        super().on_headers_complete()

    def _fault_of_head(self) -> Fault | None:
        named = [value for name, value in self.headers if name == b"host"]
        version = self.parser.get_http_version()
        if version not in VERSIONS:
            return VERSION
        is_old = version == "1.0"
        if len(named) > 1 or not (named or is_old) or not all(map(HOST.fullmatch, named)):
            return NO_HOST
        codings = [value for name, value in self.headers if name == b"transfer-encoding"]
        # before 1.1 there was none, so that who is in between may see another end of the body
        if codings and (is_old or [coding.lower() for coding in codings] != [b"chunked"]):
            return ENCODING
        path = httptools.parse_url(self.url).path
        return None if path and path.startswith(b"/") else TARGET

    def on_body(self, body: bytes) -> None:
        self._useless_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_head = True
        self._useless_bytes = 0
        super().on_message_complete()

    def _fail(self, fault: Fault) -> None:
        self._fault = fault
        raise _Faulty

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(self.limits.head_seconds, self._head_is_late)

    def _head_is_late(self) -> None:
        self._head_timer = None
        if self._is_answering:
            self._await_head()  # whoever waits for an answer may take their time
        elif self._useless_bytes:
            self._refuse(HEAD_TOO_LATE)
        else:
            self.transport.close()

    @property
    def _is_answering(self) -> bool:
        return bool(self.cycle and not self.cycle.response_complete)

    # Refusing

    def _refuse(self, fault: Fault) -> None:
        """Say what is wrong, and close when it was read; the answers before it come first."""
        if self._deaf:
            return
        if self._is_answering and not (self.cycle.more_body and not self.cycle.response_started):
            self._stop_reading()
            return
        self._deaf = True
        if self.cycle is not None:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.write(_written(_refusal(fault), self.server_state.default_headers))
        # To close at once would reset the connection, and a client that is still sending would
        # never see why.
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._linger_timer = self.loop.call_later(self.limits.linger_seconds, self.transport.abort)

    def _stop_reading(self) -> None:
        """Answer what was asked already, and then close."""
        self._deaf = True
        self.cycle.keep_alive = False

    # Writing

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_writing()

    def resume_writing(self) -> None:
        self._drained = True
        super().resume_writing()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch_writing()

    def _watch_writing(self) -> None:
        self._left_bytes = self.transport.get_write_buffer_size()
        if self._left_bytes and self._stall_timer is None:
            self._drained = False
            self._stall_timer = self.loop.call_later(self.limits.stall_seconds, self._look_again)

    def _look_again(self) -> None:
        self._stall_timer = None
        taken = self._left_bytes - self.transport.get_write_buffer_size()
        least = self.limits.stall_seconds * self.limits.least_bytes_per_second
        if self._drained or taken >= min(self._left_bytes, least):
            self._watch_writing()
        else:
            logger.info("answer was not taken")
            self.transport.abort()


def protocol(limits: Limits, proxies: Collection[str] = ()) -> type[LimitedProtocol]:
    """Make a protocol with limits, and a door of its own, for one server.

    Args:
        proxies: Addresses and networks that bring many clients.
    """

    class Protocol(LimitedProtocol):
        """uvicorn makes one for each connection, and gives it nothing of ours."""

    Protocol.limits = limits
    Protocol.door = Door(limits, proxies)
    return Protocol


def _refusal(fault: Fault) -> Response:
    request_id = uuid.uuid4().hex
    # a request's path is unknown; an empty reference stands for this answer itself
    scope = {"path": "", "state": {"request_id": request_id}}
    response = problem(scope, fault.status, fault.code, fault.detail)
    headers = MutableHeaders(raw=response.raw_headers)
    add_headers(headers, request_id)
    headers["Connection"] = "close"
    return response


def _written(response: Response, more: list[tuple[bytes, bytes]]) -> bytes:
    headers = [b"%s: %s\r\n" % header for header in (*more, *response.raw_headers)]
    return b"".join([STATUS_LINE[response.status_code], *headers, b"\r\n", bytes(response.body)])
