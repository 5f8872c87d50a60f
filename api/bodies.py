"""What holds for every body that comes."""

from __future__ import annotations

from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.requests import Request


def require_plain(request: Request) -> None:
    """Do nothing, or refuse a body that would have to be unpacked first.

    Raises:
        HTTPException: 415, it would.
    """
    encodings = request.headers.getlist("content-encoding")
    if any(encoding.strip().lower() != "identity" for encoding in encodings):
        raise HTTPException(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "The body should have no Content-Encoding."
        )
