"""Answers that go on: server-sent events about a job, until there is no more to tell."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from http import HTTPStatus
from typing import Any, Final

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from api.hub import Follower, Hub
from api.stopping import when_stopping
from auth import Principal
from speech.formats import typography

#: Passed over by readers; keeps the connection.
COMMENT: Final = ":\n\n"

#: What the document says of each event; as FastAPI has it, and OpenAPI from 3.2 on.
EVENT: Final[Mapping[str, Any]] = {
    "type": "object",
    "required": ["data"],
    "properties": {
        "data": {"type": "string"},
        "event": {"type": "string"},
        "id": {"type": "string"},
        "retry": {"type": "integer", "minimum": 0},
    },
}

Tell = Callable[[Follower], AsyncGenerator[str, None]]


def event(data: Mapping[str, Any], *, name: str | None = None, id: str | None = None) -> str:  # noqa: A002 - the field's name
    """Write an event (HTML, section 9.2); JSON has no line ends."""
    lines = [f"{key}: {value}\n" for key, value in (("event", name), ("id", id)) if value]
    return f"{''.join(lines)}data: {written(data)}\n\n"


def written(data: Mapping[str, Any]) -> str:
    return typography.well_formed(json.dumps(data, ensure_ascii=False, separators=(",", ":")))


class EventStream(Response):
    """Follows a job, and sends what is told of it as it comes; ends when its client leaves."""

    media_type = "text/event-stream"

    def __init__(self, hub: Hub, job_id: uuid.UUID, principal: Principal, tell: Tell) -> None:
        self._hub = hub
        self._job_id = job_id
        self._principal = principal
        self._tell = tell
        self.status_code = HTTPStatus.OK
        self.background = None
        # nginx would collect what is to be sent
        self.init_headers({"X-Accel-Buffering": "no"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start = {"status": self.status_code, "headers": self.raw_headers}
        # to be refused that is answered as any error: nothing was sent yet
        with self._hub.follow(self._job_id, self._principal) as follower:
            await send({"type": "http.response.start", **start})
            await self._send_all(scope, receive, send, follower)
        await send(_body("", more=False))

    async def _send_all(
        self, scope: Scope, receive: Receive, send: Send, follower: Follower
    ) -> None:
        with follower.listening(receive):
            when_stopping(scope, follower.stop)
            async with aclosing(self._tell(follower)) as events:
                async for text in events:
                    await send(_body(text, more=True))
                    if follower.left:
                        break


def _body(text: str, *, more: bool) -> dict[str, Any]:
    return {"type": "http.response.body", "body": text.encode(), "more_body": more}
