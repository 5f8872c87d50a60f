"""API keys: made, stored as their SHA-256, checked, and what whoever holds one may do.

A key that we make holds 256 random bits, so its hash needs no salt. Keys of the setting
``API_KEYS`` are the operator's own words; they mirror the setting and come and go with it.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import re
import secrets
import shlex
import sys
import uuid
import zlib
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

from sqlalchemy import delete, func, or_, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session
from uuid_utils.compat import uuid7

from errors import InvalidRequest, NotAllowed, NotAuthenticated, NotFound, SettingsError
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
#: Owner of jobs sent without a key where AUTH_REQUIRED is off.
ANONYMOUS: Final = "anonymous"
#: What a key may do unless it was made for more. Where AUTH_REQUIRED is off, what may be done
#: without one: /admin asks for a key even then.
JOB_SCOPES: Final = (Scope.JOBS_WRITE, Scope.JOBS_READ, Scope.JOBS_DELETE)

USED_RESOLUTION: Final = timedelta(minutes=1)
#: Held while the first keys are entered: two web processes may start at once.
FIRST_KEYS_LOCK: Final = 0x5354_5401
_DIGITS: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """Who is calling, and what they may do."""

    owner_id: uuid.UUID
    #: The key's shown name; None without a key.
    key_prefix: str | None
    scopes: frozenset[str]
    may_use_high: bool = True

    def require(self, scope: Scope) -> None:
        """Do nothing, or refuse.

        Raises:
            NotAllowed: The key lacks the scope. ``admin`` reads everything.
        """
        if scope in self.scopes or (scope is Scope.JOBS_READ and self.is_admin):
            return
        raise NotAllowed(f"This needs a key with the scope {scope}.", scope=str(scope))

    @property
    def is_admin(self) -> bool:
        return Scope.ADMIN in self.scopes

    @property
    def reach(self) -> uuid.UUID | None:
        """Whose jobs are within reach: one owner's, or everybody's (None)."""
        return None if self.is_admin else self.owner_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What a new key is to be."""

    owner: str
    scopes: Collection[str] = JOB_SCOPES
    may_use_high: bool = True
    valid_days: float | None = None
    note: str | None = None


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
        raise _refused("malformed")
    digest = _sha256(key)
    row = session.execute(
        select(
            ApiKey,
            func.coalesce(ApiKey.expires_at <= func.now(), False).label("expired"),
            func.coalesce(ApiKey.last_used_at < func.now() - USED_RESOLUTION, True).label("stale"),
        ).where(ApiKey.key_sha256 == digest)
    ).first()
    if row is None or not hmac.compare_digest(row.ApiKey.key_sha256, digest):
        raise _refused("unknown")
    found: ApiKey = row.ApiKey
    if found.revoked_at is not None:
        raise _refused("revoked", found)
    if row.expired:
        raise _refused("expired", found)
    if row.stale:
        session.execute(update(ApiKey).where(ApiKey.id == found.id).values(last_used_at=func.now()))
    return Principal(
        owner_id=found.owner_id,
        key_prefix=found.prefix,
        scopes=frozenset(found.scopes),
        may_use_high=found.may_use_high,
    )


def anonymous(session: Session) -> Principal:
    """Whoever calls without a key, where that is allowed."""
    return Principal(
        owner_id=owner_id(session, ANONYMOUS), key_prefix=None, scopes=frozenset(JOB_SCOPES)
    )


def owner_id(session: Session, name: str) -> uuid.UUID:
    """Find the owner of that name, or add one."""
    find = select(Owner.id).where(Owner.name == name)
    found = session.scalar(find)
    if found is None:
        session.execute(insert(Owner).values(id=uuid7(), name=name).on_conflict_do_nothing())
        found = session.scalars(find).one()
    return found


def create(session: Session, grant: Grant) -> tuple[str, ApiKey]:
    """Make a key. It is returned this once, and only its hash is kept."""
    key = mint()
    valid = None if grant.valid_days is None else timedelta(days=grant.valid_days)
    row = ApiKey(
        owner_id=owner_id(session, grant.owner),
        prefix=key[: len(PREFIX) + SHOWN_CHARS],
        key_sha256=_sha256(key),
        scopes=sorted(Scope(scope) for scope in grant.scopes),
        may_use_high=grant.may_use_high,
        note=grant.note,
        expires_at=None if valid is None else func.now() + valid,
    )
    session.add(row)
    session.flush()
    session.refresh(row)
    return key, row


def everyone(session: Session) -> Sequence[ApiKey]:
    """All keys, oldest first, with their owners."""
    return session.scalars(select(ApiKey).join(ApiKey.owner).order_by(ApiKey.id)).all()


def revoke(session: Session, which: str) -> ApiKey:
    """Make a key useless from now on.

    Args:
        which: Its id, its shown prefix, or the beginning of one.

    Raises:
        NotFound: No key that still works is called so.
        InvalidRequest: Several are.
    """
    named = ApiKey.prefix.startswith(which, autoescape=True)
    with suppress(ValueError):
        named = or_(named, ApiKey.id == uuid.UUID(which))
    found = session.scalars(select(ApiKey).where(ApiKey.revoked_at.is_(None), named)).all()
    if not which or not found:
        raise NotFound("No working key has that prefix or id.")
    if len(found) > 1:
        raise InvalidRequest(f"{len(found)} keys begin like that; give more characters.")
    session.execute(update(ApiKey).where(ApiKey.id == found[0].id).values(revoked_at=func.now()))
    return found[0]


class FirstKeys:
    """Enters the keys that a new installation needs, as soon as PostgreSQL answers.

    Args:
        api_keys: The setting API_KEYS.
        key_file: Where the first admin key is left, for the operator to read.
        show_with: The command that shows it, where the file is not on the operator's own machine.
    """

    def __init__(
        self, api_keys: Iterable[str], key_file: Path, *, show_with: str | None = None
    ) -> None:
        self._api_keys = tuple(api_keys)
        self._show_with = show_with or f"cat {shlex.quote(str(key_file))}"
        self._key_file = key_file
        self._entered = False
        for key in self._api_keys:
            if not is_well_formed(key):
                raise SettingsError(
                    "API_KEYS: a key should be 16 to 256 printable ASCII characters, and one that"
                    f" begins with {PREFIX} should be complete"
                )

    def ensure(self, transaction: Callable[[], AbstractContextManager[Session]]) -> None:
        """Mirror API_KEYS, and where there is no key at all, make one for the operator.

        Done once in a process; doing it again, or in two at once, changes nothing.

        Raises:
            SettingsError: The operator's key cannot be written to its file.
        """
        if self._entered:
            return
        with transaction() as session:
            session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": FIRST_KEYS_LOCK})
            self._mirror_setting(session)
            key = self._make_first(session)
        self._entered = True
        if key is not None:
            _announce(key, self._key_file, self._show_with)

    def _make_first(self, session: Session) -> str | None:
        if session.scalar(select(ApiKey.id).limit(1)) is not None:
            return None
        key, _ = create(
            session, Grant(owner=ADMIN, scopes=tuple(Scope), note="made at the first start")
        )
        write_secret(self._key_file, key)
        return key

    def _mirror_setting(self, session: Session) -> None:
        digests = {_sha256(key) for key in self._api_keys}
        removed = session.scalars(
            delete(ApiKey)
            .where(
                ApiKey.prefix.startswith(FROM_SETTING, autoescape=True),
                ApiKey.key_sha256.not_in(digests),
            )
            .returning(ApiKey.prefix)
        ).all()
        for prefix in removed:
            logger.info("key left the setting API_KEYS", extra={"key": prefix})
        if not digests:
            return
        owner = owner_id(session, ADMIN)
        rows = [
            {
                "id": uuid7(),
                "owner_id": owner,
                "prefix": FROM_SETTING + digest.hex()[:SHOWN_CHARS],
                "key_sha256": digest,
                "scopes": sorted(Scope),
                "note": "from API_KEYS",
            }
            for digest in digests
        ]
        session.execute(insert(ApiKey).values(rows).on_conflict_do_nothing())


def write_secret(path: Path, secret: str) -> None:
    """Put a secret into a file that only its owner may read.

    Raises:
        SettingsError: It cannot be written there.
    """
    part = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(fd, "w") as file:
            file.write(f"{secret}\n")
        part.replace(path)
    except OSError as error:
        raise SettingsError(f"STATE_DIR: cannot write {path}: {error.strerror}") from error


def _announce(key: str, path: Path, show_with: str) -> None:
    # Logs are kept and shipped; a terminal is read once, by whoever started us.
    if sys.stdout.isatty():
        sys.stdout.write(f"\nYour API key (also in {path}): {key}\n\n")
        sys.stdout.flush()
    logger.info("first API key made", extra={"show_it_with": show_with})


def _refused(reason: str, key: ApiKey | None = None) -> NotAuthenticated:
    logger.info("key refused", extra={"reason": reason, "key": key.prefix if key else None})
    return NotAuthenticated()


def _sha256(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def _checksum(key: str) -> str:
    return _base62(zlib.crc32(key.encode()), CHECKSUM_CHARS)


def _base62(number: int, digits: int) -> str:
    values = (number // 62**place % 62 for place in reversed(range(digits)))
    return "".join(_DIGITS[value] for value in values)
