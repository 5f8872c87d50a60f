"""API keys: what they look like, whose they are, and what whoever holds one may do.

Only the SHA-256 of a key is stored: one that we make holds 256 random bits, so it needs no salt.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import secrets
import uuid
import zlib
from collections.abc import Collection
from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta
from typing import Any, Final

from sqlalchemy import Row, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session
from uuid_utils.compat import uuid7

from errors import NotAllowed, NotAuthenticated
from models import ApiKey, Owner, Scope

logger = logging.getLogger(__name__)

PREFIX: Final = "stt_live_"
#: What a key of ours looks like: for secret scanners too.
KEY_PATTERN: Final = re.compile(r"stt_live_[0-9A-Za-z]{49}")
RANDOM_BYTES: Final = 32
#: Base 62 digits that hold so many bytes.
RANDOM_CHARS: Final = 43
CHECKSUM_CHARS: Final = 6
#: Of a key's random part, shown in lists.
SHOWN_CHARS: Final = 8
#: Of any key, also the operator's own.
MIN_KEY_CHARS: Final = 16
MAX_KEY_CHARS: Final = 256

#: Begins the shown name of keys from the setting API_KEYS, of which no character is shown.
FROM_SETTING: Final = "env_"
#: Owner of the first key and of those in API_KEYS.
ADMIN: Final = "admin"
#: Owner of jobs sent without a key where AUTH_REQUIRED is off, and shown name of the key that
#: stands for none.
ANONYMOUS: Final = "anonymous"
#: Stored as that key's hash: nobody knows what has it.
NO_SHA256: Final = bytes(32)
#: What a key may do unless it was made for more. Where AUTH_REQUIRED is off, what may be done
#: without one: /admin asks for a key even then.
JOB_SCOPES: Final = (Scope.JOBS_WRITE, Scope.JOBS_READ, Scope.JOBS_DELETE)

USED_RESOLUTION: Final = timedelta(minutes=1)
_DIGITS: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """What a key may take. 0 is any amount; None is the service's default."""

    #: In each RATE_LIMIT_WINDOW.
    requests: int | None = None
    audio_seconds_per_hour: float | None = None
    #: Pending or processing.
    jobs_at_once: int | None = None
    #: Of uploads that are kept.
    bytes_stored: int | None = None

    @classmethod
    def of(cls, key: ApiKey) -> Allowance:
        """What was set for a key."""
        return cls(
            requests=key.max_requests,
            audio_seconds_per_hour=key.max_audio_seconds_per_hour,
            jobs_at_once=key.max_jobs_at_once,
            bytes_stored=key.max_bytes_stored,
        )

    def within(self, default: Allowance) -> Allowance:
        """Fill in what was not set."""
        own = asdict(self)
        return replace(default, **{k: v for k, v in own.items() if v is not None})


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """Who is calling, and what they may do."""

    owner_id: uuid.UUID
    key_id: uuid.UUID
    #: The key's shown name.
    key_prefix: str
    #: Of the key as it was sent: when it was rotated meanwhile, another one is the right one.
    key_sha256: bytes = field(repr=False)
    scopes: frozenset[str]
    may_use_high: bool = True
    allowance: Allowance = field(default_factory=Allowance)

    def require(self, scope: Scope) -> None:
        """Do nothing, or refuse.

        Raises:
            NotAllowed: The key lacks the scope. ``admin`` reads everything.
        """
        if scope in self.scopes or (scope is Scope.JOBS_READ and self.may_read):
            return
        raise NotAllowed(f"This needs a key with the scope {scope}.", scope=str(scope))

    @property
    def is_admin(self) -> bool:
        return Scope.ADMIN in self.scopes

    @property
    def may_read(self) -> bool:
        """Whether transcripts may be shown."""
        return Scope.JOBS_READ in self.scopes or self.is_admin

    @property
    def reach(self) -> uuid.UUID | None:
        """Whose jobs are within reach: one owner's, or everybody's (None)."""
        return None if self.is_admin else self.owner_id


def mint() -> str:
    """Make a new key."""
    number = int.from_bytes(secrets.token_bytes(RANDOM_BYTES))
    key = PREFIX + _base62(number, RANDOM_CHARS)
    return key + _checksum(key)


def is_well_formed(key: str) -> bool:
    """Whether a key can be right at all; looked at before anything is hashed."""
    if not MIN_KEY_CHARS <= len(key) <= MAX_KEY_CHARS or not (key.isascii() and key.isprintable()):
        return False
    if not key.startswith(PREFIX):
        return True
    body, checksum = key[:-CHECKSUM_CHARS], key[-CHECKSUM_CHARS:]
    return KEY_PATTERN.fullmatch(key) is not None and _checksum(body) == checksum


def authenticate(session: Session, key: str) -> Principal:
    """Find out who holds a key.

    Raises:
        NotAuthenticated: It is malformed, unknown, revoked or expired; only the log says which.
    """
    if not is_well_formed(key):
        raise refused("malformed")
    return authenticate_sha256(session, sha256(key))


def authenticate_sha256(session: Session, digest: bytes) -> Principal:
    """Find out who holds the key with this SHA-256.

    Raises:
        NotAuthenticated: See ``authenticate``.
    """
    row = session.execute(_by_hash([digest])).first()
    if row is None:
        raise refused("unknown")
    found: ApiKey = row.ApiKey
    previous = _is_previous(found, digest)
    _require_valid(row, previous=previous)
    if row.stale_previous if previous else row.stale:
        used = {"previous_used_at" if previous else "last_used_at": func.now()}
        session.execute(update(ApiKey).where(ApiKey.id == found.id).values(used))
    return _principal(found, digest)


def lapsed(
    session: Session, principals: Collection[Principal], scope: Scope
) -> dict[Principal, NotAuthenticated]:
    """Find those whose key was good when a long answer began, and is not any more, and why.

    It was revoked, has expired, was rotated away, or lost the scope.
    """
    rows: dict[bytes | None, Row[Any]] = {}
    for row in session.execute(_by_hash({principal.key_sha256 for principal in principals})):
        rows[row.ApiKey.key_sha256] = rows[row.ApiKey.previous_sha256] = row
    found = {}
    for principal in set(principals):
        try:
            _require_still(rows.get(principal.key_sha256), principal, scope)
        except NotAuthenticated as error:
            found[principal] = error
    return found


def require_still(session: Session, principal: Principal, scope: Scope) -> None:
    """Do nothing, or refuse a key that was good when a long answer began, and is not any more.

    Raises:
        NotAuthenticated: See ``lapsed``.
    """
    for error in lapsed(session, [principal], scope).values():
        raise error


def anonymous(session: Session) -> Principal:
    """Whoever calls without a key, where that is allowed.

    They have a key's row all the same, so that what holds for keys holds for them.

    Raises:
        NotAuthenticated: That row was revoked.
    """
    row = session.execute(_by_hash([NO_SHA256])).first()
    if row is None:
        values = {"id": uuid7(), "prefix": ANONYMOUS, "key_sha256": NO_SHA256}
        values |= {"owner_id": owner_id(session, ANONYMOUS), "scopes": sorted(JOB_SCOPES)}
        session.execute(insert(ApiKey).values(values).on_conflict_do_nothing())
        row = session.execute(_by_hash([NO_SHA256])).one()
    _require_valid(row, previous=False)
    return _principal(row.ApiKey, NO_SHA256)


def _by_hash(digests: Collection[bytes]) -> Any:
    """The keys whose secrets have these hashes, or had them; with what the server's clock says."""

    def stale(used_at: Any) -> Any:
        return func.coalesce(used_at < func.now() - USED_RESOLUTION, True)

    return select(
        ApiKey,
        func.coalesce(ApiKey.expires_at <= func.now(), False).label("expired"),
        func.coalesce(ApiKey.previous_expires_at <= func.now(), False).label("rotated"),
        stale(ApiKey.last_used_at).label("stale"),
        stale(ApiKey.previous_used_at).label("stale_previous"),
    ).where(or_(ApiKey.key_sha256.in_(digests), ApiKey.previous_sha256.in_(digests)))


def _is_previous(key: ApiKey, digest: bytes) -> bool:
    """Whether that is the hash of what the key was before it was rotated."""
    return not hmac.compare_digest(key.key_sha256, digest)


def _require_still(row: Row[Any] | None, principal: Principal, scope: Scope) -> None:
    if row is None:
        raise refused("unknown")
    _require_valid(row, previous=_is_previous(row.ApiKey, principal.key_sha256))
    if not {scope, Scope.ADMIN} & set(row.ApiKey.scopes):
        raise refused("scope", row.ApiKey)


def _require_valid(row: Row[Any], *, previous: bool) -> None:
    key: ApiKey = row.ApiKey
    if key.revoked_at is not None:
        raise refused("revoked", key)
    if row.expired:
        raise refused("expired", key)
    if previous and row.rotated:
        raise refused("rotated", key)


def _principal(key: ApiKey, digest: bytes) -> Principal:
    scopes = frozenset(key.scopes)
    return Principal(
        owner_id=key.owner_id,
        key_id=key.id,
        key_prefix=key.prefix,
        key_sha256=digest,
        # without a key nobody is an operator, whatever was written into that row
        scopes=scopes & set(JOB_SCOPES) if key.prefix == ANONYMOUS else scopes,
        may_use_high=key.may_use_high,
        allowance=Allowance.of(key),
    )


def owner_id(session: Session, name: str) -> uuid.UUID:
    """Find the owner of that name, or add one."""
    find = select(Owner.id).where(Owner.name == name)
    found = session.scalar(find)
    if found is None:
        session.execute(insert(Owner).values(id=uuid7(), name=name).on_conflict_do_nothing())
        found = session.scalars(find).one()
    return found


def refused(reason: str, key: ApiKey | None = None) -> NotAuthenticated:
    """The one error of a caller who is not let in; log and audit events alone say why."""
    logger.info("key refused", extra={"reason": reason, "key": key.prefix if key else None})
    error = NotAuthenticated(reason=reason)
    if key is not None:
        error.key = (key.id, key.prefix, key.owner_id)
    return error


def sha256(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def _checksum(key: str) -> str:
    return _base62(zlib.crc32(key.encode()), CHECKSUM_CHARS)


def _base62(number: int, digits: int) -> str:
    values = (number // 62**place % 62 for place in reversed(range(digits)))
    return "".join(_DIGITS[value] for value in values)
