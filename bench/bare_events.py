"""Server-sent events and nothing else, by uvicorn as it comes: what a listener costs at least."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

QUIET_SECONDS = 15.0


async def follow(request: Request) -> StreamingResponse:
    async def tell() -> AsyncIterator[str]:
        yield "event: progress\ndata: {}\n\n"
        while True:
            await asyncio.sleep(QUIET_SECONDS)
            yield ":\n\n"

    return StreamingResponse(tell(), media_type="text/event-stream")


app = Starlette(routes=[Route("/{path:path}", follow)])
