"""Sessions of the page: a browser that once sent a key is known by a cookie from then on.

The cookie holds a random token that is good for nothing else, so the key itself stays nowhere in
the browser. Only the token's SHA-256 is stored, beside that of the key which it stands for: what
ends the key ends the session.
"""

from __future__ import annotations

import re
import secrets
from datetime import datetime
from typing import Final

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

import auth
from auth import Principal
from models import PageSession

PREFIX: Final = "stt_page_"
TOKEN_BYTES: Final = 32
TOKEN: Final = re.compile(rf"{PREFIX}[0-9A-Za-z_-]{{43}}")
#: Of one key; one more ends the oldest.
MAX_SESSIONS: Final = 100


def start(session: Session, principal: Principal, *, seconds: float) -> tuple[str, datetime]:
    """Begin a session for whoever holds a key; returns its token, and when it ends."""
    token = PREFIX + secrets.token_urlsafe(TOKEN_BYTES)
    row = PageSession(
        token_sha256=auth.sha256(token),
        key_id=principal.key_id,
        key_sha256=principal.key_sha256,
        expires_at=func.now() + func.make_interval(0, 0, 0, 0, 0, 0, seconds),
    )
    session.add(row)
    session.flush()
    kept = (
        select(PageSession.token_sha256)
        .where(PageSession.key_id == principal.key_id)
        .order_by(PageSession.expires_at.desc())
        .limit(MAX_SESSIONS)
    )
    session.execute(
        delete(PageSession).where(
            PageSession.key_id == principal.key_id, PageSession.token_sha256.not_in(kept)
        )
    )
    return token, row.expires_at


def authenticate(session: Session, token: str) -> Principal:
    """Find out whose session it is.

    Raises:
        NotAuthenticated: It is over, or its key is no good any more; only the log says which.
    """
    row = _find(session, token)
    if row is None:
        raise auth.refused("session")
    return auth.authenticate_sha256(session, row.key_sha256)


def expires_at(session: Session, token: str) -> datetime | None:
    """When a session ends; None when it is over."""
    row = _find(session, token)
    return None if row is None else row.expires_at


def end(session: Session, token: str) -> bool:
    """End a session; returns whether there was one."""
    gone = delete(PageSession).where(PageSession.token_sha256 == auth.sha256(token))
    return bool(session.execute(gone.returning(PageSession.key_id)).first())


def forget_expired(session: Session) -> int:
    """Delete the rows of sessions that are over; returns how many."""
    over = delete(PageSession).where(PageSession.expires_at <= func.now())
    return len(session.execute(over.returning(PageSession.key_id)).all())


def _find(session: Session, token: str) -> PageSession | None:
    if not TOKEN.fullmatch(token):
        return None
    return session.scalar(
        select(PageSession).where(
            PageSession.token_sha256 == auth.sha256(token), PageSession.expires_at > func.now()
        )
    )
