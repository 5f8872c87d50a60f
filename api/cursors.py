"""Cursors: where a page of a list ends, in a form that only fits the list it came from."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import uuid
from typing import Final
from urllib.parse import urlencode

from starlette.requests import Request

from errors import BadCursor

TAG_BYTES: Final = 8


def encode(last: uuid.UUID, *, of: str) -> str:
    """Make the cursor of the page after ``last``.

    Args:
        of: Names the list: its owner and its filter. A cursor for another one is no cursor.
    """
    return base64.urlsafe_b64encode(last.bytes + _tag(last.bytes, of)).decode().rstrip("=")


def decode(cursor: str | None, *, of: str) -> uuid.UUID | None:
    """Read a cursor; None is the beginning.

    Raises:
        BadCursor: We did not make it, or not for this list.
    """
    if cursor is None:
        return None
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise BadCursor from None
    last, tag = raw[:16], raw[16:]
    if not hmac.compare_digest(tag, _tag(last, of)):
        raise BadCursor
    return uuid.UUID(bytes=last)


def next_link(request: Request, cursor: str) -> str:
    """The address of the next page, as a Link header has it."""
    query = {**request.query_params, "cursor": cursor}
    path = request.scope.get("root_path", "") + request.url.path
    return f'<{path}?{urlencode(query)}>; rel="next"'


def _tag(last: bytes, of: str) -> bytes:
    # no secret: the owner is part of every query, so a forged cursor finds nobody else's jobs
    return hashlib.blake2b(last + of.encode(), digest_size=TAG_BYTES).digest()
