"""What uvicorn answers by itself, before there is a request: as a problem too."""

from __future__ import annotations

import uuid
from http import HTTPStatus
from typing import Final

from starlette.datastructures import MutableHeaders
from starlette.responses import Response
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from api.errors import problem
from api.middleware import add_headers
from errors import ClientError

UNREADABLE: Final = "The request is not HTTP that can be read."


class ProblemProtocol(HttpToolsProtocol):
    """Refuses what is not HTTP with a problem, and ignores requests for another protocol."""

    def send_400_response(self, msg: str) -> None:
        """Refuse what could not be read, and close."""
        answering = self.cycle and self.cycle.response_started and not self.cycle.response_complete
        if not answering:
            self.transport.write(_written(_refusal(), self.server_state.default_headers))
        # else half of another answer is on its way, and this would be taken for the rest of it
        self.transport.close()

    def _unsupported_upgrade_warning(self) -> None:
        # The request is answered as any other. What may follow it in this connection was not
        # read, so its sender should not wait for more; and the log need not know of it.
        self.cycle.keep_alive = False


def _refusal() -> Response:
    request_id = uuid.uuid4().hex
    # a request's path is unknown; an empty reference stands for this answer itself
    scope = {"path": "", "state": {"request_id": request_id}}
    response = problem(scope, HTTPStatus.BAD_REQUEST, ClientError.code, UNREADABLE)
    headers = MutableHeaders(raw=response.raw_headers)
    add_headers(headers, request_id)
    headers["Connection"] = "close"
    return response


def _written(response: Response, more: list[tuple[bytes, bytes]]) -> bytes:
    headers = [b"%s: %s\r\n" % header for header in (*more, *response.raw_headers)]
    return b"".join([STATUS_LINE[response.status_code], *headers, b"\r\n", bytes(response.body)])
