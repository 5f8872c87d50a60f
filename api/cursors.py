"""Cursors: where a page of a list ends, in a form that only fits the list it came from."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import struct
import uuid
from datetime import UTC, datetime, timedelta
from typing import Final
from urllib.parse import urlencode

from starlette.requests import Request

from errors import BadCursor
from jobs.paging import Place

TAG_BYTES: Final = 8
#: Microseconds since the epoch, as PostgreSQL counts them, and an id.
PLACE: Final = struct.Struct(">q16s")
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND: Final = timedelta(microseconds=1)


def encode(last: Place, *, of: str) -> str:
    """Make the cursor of the page after ``last``.

    Args:
        of: Names the list: its owner and its filter. A cursor for another one is no cursor.
    """
    raw = PLACE.pack((last.at - EPOCH) // MICROSECOND, last.id.bytes)
    return base64.urlsafe_b64encode(raw + _tag(raw, of)).decode().rstrip("=")


def decode(cursor: str | None, *, of: str) -> Place | None:
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
    place, tag = raw[: PLACE.size], raw[PLACE.size :]
    if not hmac.compare_digest(tag, _tag(place, of)):
        raise BadCursor
    microseconds, job_id = PLACE.unpack(place)
    try:
        return Place(EPOCH + microseconds * MICROSECOND, uuid.UUID(bytes=job_id))
    except OverflowError:
        raise BadCursor from None


def next_link(request: Request, cursor: str) -> str:
    """The address of the next page, as a Link header has it."""
    query = {**request.query_params, "cursor": cursor}
    return f'<{request.url.path}?{urlencode(query)}>; rel="next"'


def _tag(place: bytes, of: str) -> bytes:
    # no secret: the owner is part of every query, so a forged cursor finds nobody else's jobs
    return hashlib.blake2b(place + of.encode(), digest_size=TAG_BYTES).digest()
