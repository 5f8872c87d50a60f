"""The page: what a browser is given at ``/``, all of it from here.

Its files have the digest of them all in their path, so that they may be kept for ever, and a new
version is a new path. The page itself is never kept.
"""

from __future__ import annotations

import hashlib
import html
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fastapi import APIRouter, Request
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, Response

from api import cookies
from config import VERSION

FOLDER: Final = Path(__file__).parent.parent / "page"
INDEX: Final = "index.html"
ASSETS: Final = "/page"
MEDIA_TYPES: Final = {
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
FOR_EVER: Final = "public, max-age=31536000, immutable"
#: Where the page is, answers to a browser; programs get what the first version answered there.
HTML: Final = "text/html"


@dataclass(frozen=True, slots=True)
class _Files:
    """The page's files, by their paths."""

    index: str
    assets: dict[str, bytes]
    digest: str


router = APIRouter()


def load(folder: Path = FOLDER) -> _Files:
    """Read all files of the page."""
    assets = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.suffix in MEDIA_TYPES
    }
    index = (folder / INDEX).read_text(encoding="utf-8")
    digest = hashlib.sha256()
    for name, content in assets.items():
        digest.update(f"{name} {len(content)}\n".encode() + content)
    return _Files(index, assets, digest.hexdigest()[:16])


_files: Final = load()


def is_wanted(request: Request) -> bool:
    """Whether whoever asks for ``/`` is a browser."""
    return HTML in request.headers.get("accept", "")


def show(request: Request, *, auth_required: bool) -> HTMLResponse:
    """The page; only its own scripts run, and it calls nobody but us."""
    known = not auth_required or cookies.read(request) is not None
    root = request.scope.get("root_path", "")
    nonce = secrets.token_urlsafe(16)
    values = {
        "root": root,
        "assets": f"{root}{ASSETS}/{_files.digest}",
        "nonce": nonce,
        "known": str(known).lower(),
        "version": VERSION,
    }
    text = _files.index
    for name, value in values.items():
        text = text.replace(f"{{{{{name}}}}}", html.escape(value))
    policy = (
        "default-src 'none'; script-src 'self'; connect-src 'self'; media-src 'self';"
        f" img-src 'self' data:; style-src 'self' 'nonce-{nonce}'; base-uri 'none';"
        " form-action 'none'; frame-ancestors 'none'"
    )
    return HTMLResponse(text, headers={"Content-Security-Policy": policy, "Vary": "Accept"})


@router.get(ASSETS + "/{digest}/{name:path}", include_in_schema=False)
def asset(digest: str, name: str) -> Response:
    """One of the page's files."""
    content = _files.assets.get(name)
    if content is None:
        raise HTTPException(404)
    # of another version's, while two run side by side, is ours now and not for ever
    kept = FOR_EVER if digest == _files.digest else "no-store"
    return Response(
        content, media_type=MEDIA_TYPES[Path(name).suffix], headers={"Cache-Control": kept}
    )
