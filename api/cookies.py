"""The page's cookie: what it is called, how it is kept, and from which pages it is taken."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

from starlette.requests import Request

#: Over TLS its name binds it to this host alone, and to TLS (RFC 6265bis, section 4.1.3.2).
SECURE_NAME: Final = "__Host-transcription-session"
NAME: Final = "transcription-session"
READING: Final = frozenset({"GET", "HEAD"})


def name_of(request: Request) -> str:
    return SECURE_NAME if request.url.scheme == "https" else NAME


def read(request: Request) -> str | None:
    """Find the token that a request carries; None without one."""
    return request.cookies.get(name_of(request))


def written(request: Request, token: str, *, seconds: float) -> str:
    """Tell a browser to keep a token for so long.

    No script can read it, and no other site's page has it sent.
    """
    secure = "; Secure" if request.url.scheme == "https" else ""
    return (
        f"{name_of(request)}={token}; Path=/; Max-Age={seconds:.0f};"
        f" HttpOnly; SameSite=Strict{secure}"
    )


def forgotten(request: Request) -> str:
    """Tell a browser to forget its token."""
    return written(request, "", seconds=0)


def is_own_page(request: Request) -> bool:
    """Whether a request that carries the cookie was made by our own page, or by hand.

    Pages of the same site, on another port or a neighbouring host, have the cookie sent as well:
    only what the browser says of the request's origin tells them from ours. Over plain HTTP, and
    not on this machine, it says so of changes alone; what is only read, those pages cannot see.
    """
    reading = request.method in READING
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site == "same-origin" or (site == "none" and reading)
    origin = request.headers.get("origin")
    if origin is None:
        return reading
    return urlsplit(origin).netloc == request.headers.get("host")
