"""Making, changing, rotating and revoking API keys, for the command line and for /admin/keys.

Whatever changes here holds from the next call on: nothing of a key is remembered anywhere else.
A change that would leave nobody with a working key of the scope ``admin`` has to be forced.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import ColumnElement, Select, and_, func, literal, or_, select, text, tuple_, update
from sqlalchemy.orm import Session, contains_eager

import auth
from auth import ANONYMOUS, JOB_SCOPES, PREFIX, SHOWN_CHARS, Allowance
from errors import ConflictError, InvalidRequest, LastAdminKey, NotFound
from models import ApiKey, Owner, Scope

NOT_FOUND: Final = "There is no such key."
#: How long a secret works after it was rotated, unless told otherwise.
GRACE: Final = timedelta(days=1)
#: A key's share of the workers beside another's.
MIN_WEIGHT: Final = 0.01
MAX_WEIGHT: Final = 100.0
#: Held while keys change: of two operators who revoke each other's key, the second is refused.
LOCK: Final = 0x5354_5401


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What a new key is to be."""

    owner: str
    scopes: Collection[str] = JOB_SCOPES
    may_use_high: bool = True
    expires_at: datetime | None = None
    note: str | None = None
    allowance: Allowance = field(default_factory=Allowance)
    weight: float = 1.0
    #: How long what its jobs hold is kept; None is the service's default, 0 for ever.
    audio_retention_seconds: float | None = None
    transcript_retention_seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnerView:
    """An owner, and how many keys of theirs work."""

    name: str
    created_at: datetime
    working_keys: int


def create(session: Session, grant: Grant) -> tuple[str, ApiKey]:
    """Make a key. Its secret is returned this once, and only its hash is kept."""
    secret = auth.mint()
    key = ApiKey(
        owner_id=auth.owner_id(session, grant.owner),
        prefix=_shown(secret),
        key_sha256=auth.sha256(secret),
        scopes=_stored(grant.scopes),
        may_use_high=grant.may_use_high,
        note=grant.note,
        expires_at=grant.expires_at,
        weight=grant.weight,
        audio_retention_seconds=grant.audio_retention_seconds,
        transcript_retention_seconds=grant.transcript_retention_seconds,
        **columns(asdict(grant.allowance)),
    )
    session.add(key)
    session.flush()
    session.refresh(key)
    return secret, key


def columns(allowance: Mapping[str, Any]) -> dict[str, Any]:
    """The columns that hold some or all parts of an allowance, by its names."""
    return {f"max_{name}": value for name, value in allowance.items()}


def everyone(session: Session, *, owner: str | None = None) -> Sequence[ApiKey]:
    """All keys, or one owner's, oldest first."""
    return session.scalars(_keys(owner).order_by(ApiKey.id)).all()


def page(
    session: Session, *, owner: str | None, before: tuple[datetime, uuid.UUID] | None, limit: int
) -> Sequence[ApiKey]:
    """Keys, newest first.

    Args:
        before: When the last key of the page before this one was made, and its id.
    """
    query = _keys(owner).order_by(ApiKey.created_at.desc(), ApiKey.id.desc()).limit(limit)
    if before is not None:
        query = query.where(tuple_(ApiKey.created_at, ApiKey.id) < tuple_(*map(literal, before)))
    return session.scalars(query).all()


def count(session: Session, *, owner: str | None) -> int:
    return session.scalars(select(func.count()).select_from(_keys(owner).subquery())).one()


def owners(session: Session) -> list[OwnerView]:
    """All owners, by name."""
    working = func.count(ApiKey.id).filter(_works())
    rows = session.execute(
        select(Owner.name, Owner.created_at, working)
        .outerjoin(ApiKey, ApiKey.owner_id == Owner.id)
        .group_by(Owner.id)
        .order_by(Owner.name)
    )
    return [OwnerView(name=name, created_at=at, working_keys=n) for name, at, n in rows]


def find(session: Session, key_id: uuid.UUID) -> ApiKey:
    """Look a key up.

    Raises:
        NotFound: There is none.
    """
    key = session.scalar(_keys(None).where(ApiKey.id == key_id))
    if key is None:
        raise NotFound(NOT_FOUND)
    return key


def find_working(session: Session, which: str) -> ApiKey:
    """Look up a key that was not revoked.

    Args:
        which: Its id, its shown prefix, or the beginning of one.

    Raises:
        NotFound: No key that still works is called so.
        InvalidRequest: Several are.
    """
    named = or_(
        ApiKey.prefix.startswith(which, autoescape=True),
        ApiKey.previous_prefix.startswith(which, autoescape=True),
    )
    with suppress(ValueError):
        named = or_(named, ApiKey.id == uuid.UUID(which))
    found = session.scalars(_keys(None).where(ApiKey.revoked_at.is_(None), named)).all()
    if not which or not found:
        raise NotFound("No working key has that prefix or id.")
    if len(found) > 1:
        raise InvalidRequest(f"{len(found)} keys begin like that; give more characters.")
    return found[0]


def revoke(session: Session, key: ApiKey, *, force: bool = False) -> None:
    """Make a key useless from now on, with the secret it had before; twice is as good as once.

    Raises:
        LastAdminKey: No other key could undo it, and it was not forced.
    """
    _write(session, key, {"revoked_at": func.coalesce(ApiKey.revoked_at, func.now())}, force=force)


def change(
    session: Session, key: ApiKey, values: Mapping[str, Any], *, force: bool = False
) -> None:
    """Set columns of a key.

    Raises:
        LastAdminKey: No other key could undo it, and it was not forced.
    """
    if "scopes" in values:
        values = {**values, "scopes": _stored(values["scopes"])}
    _write(session, key, values, force=force)


def rotate(session: Session, key: ApiKey, *, grace: timedelta = GRACE) -> str:
    """Give a key a new secret, which is returned this once. All else of the key stays.

    Args:
        grace: So long the secret that it had works beside the new one. One from before that is
            useless at once: a key has two at most.

    Raises:
        ConflictError: It is not one that we made, or it works no longer.
    """
    lock(session)
    session.refresh(key)
    if not key.prefix.startswith(PREFIX):
        raise ConflictError("This key was not made here, so it cannot be rotated here.")
    if not session.scalar(select(_works()).where(ApiKey.id == key.id)):
        raise ConflictError("This key works no longer; make another one.")
    secret = auth.mint()
    _set(
        session,
        key,
        {
            "prefix": _shown(secret),
            "key_sha256": auth.sha256(secret),
            "previous_prefix": key.prefix,
            "previous_sha256": key.key_sha256,
            "previous_expires_at": func.now() + grace,
            "previous_used_at": None,
        },
    )
    return secret


def _write(session: Session, key: ApiKey, values: Mapping[str, Any], *, force: bool) -> None:
    lock(session)
    session.refresh(key)
    could_undo, until = _administers(session, key), key.expires_at
    _set(session, key, values)
    if force or not could_undo:
        return
    shortened = key.expires_at is not None and (until is None or key.expires_at < until)
    if (shortened or not _administers(session, key)) and not _others_administer(session, key):
        raise LastAdminKey


def _set(session: Session, key: ApiKey, values: Mapping[str, Any]) -> None:
    session.execute(
        update(ApiKey)
        .where(ApiKey.id == key.id)
        .values(dict(values))
        .execution_options(synchronize_session=False)
    )
    session.refresh(key)


def _administers(session: Session, key: ApiKey) -> bool:
    return bool(session.scalar(_ADMINISTERING.where(ApiKey.id == key.id)))


def _others_administer(session: Session, key: ApiKey) -> bool:
    return bool(session.scalar(_ADMINISTERING.where(ApiKey.id != key.id).limit(1)))


def _works() -> ColumnElement[bool]:
    return and_(
        ApiKey.revoked_at.is_(None),
        or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > func.now()),
        ApiKey.prefix != ANONYMOUS,
    )


#: Keys that can undo what is done to others.
_ADMINISTERING: Final = select(ApiKey.id).where(_works(), ApiKey.scopes.contains([Scope.ADMIN]))


def _keys(owner: str | None) -> Select[ApiKey]:
    query = select(ApiKey).join(ApiKey.owner).options(contains_eager(ApiKey.owner))
    return query if owner is None else query.where(Owner.name == owner)


def lock(session: Session) -> None:
    """Wait for whoever else changes keys, until the end of the transaction."""
    session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK})


def _stored(scopes: Collection[str]) -> list[str]:
    return sorted({Scope(scope) for scope in scopes})


def _shown(secret: str) -> str:
    return secret[: len(PREFIX) + SHOWN_CHARS]
