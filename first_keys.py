"""The keys that a new installation needs: those of the setting API_KEYS, or one for the operator.

Keys of the setting are the operator's own words; they mirror it, and come and go with it.
"""

from __future__ import annotations

import logging
import os
import secrets
import shlex
import sys
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path

from sqlalchemy import delete, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session
from uuid_utils.compat import uuid7

import auth
import keys
from audit.events import WEB, record
from auth import ADMIN, ANONYMOUS, FROM_SETTING, PREFIX, SHOWN_CHARS
from errors import SettingsError
from keys import Grant
from models import ApiKey, AuditAction, Scope

logger = logging.getLogger(__name__)


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
            if not auth.is_well_formed(key):
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
            keys.lock(session)
            self._mirror_setting(session)
            key = self._make_first(session)
        self._entered = True
        if key is not None:
            _announce(key, self._key_file, self._show_with)

    def _make_first(self, session: Session) -> str | None:
        if session.scalar(select(ApiKey.id).where(ApiKey.prefix != ANONYMOUS).limit(1)):
            return None
        key, row = keys.create(
            session, Grant(owner=ADMIN, scopes=tuple(Scope), note="made at the first start")
        )
        record(session, WEB, AuditAction.KEY_CREATED, key_id=row.id, detail={"scopes": row.scopes})
        write_secret(self._key_file, key)
        return key

    def _mirror_setting(self, session: Session) -> None:
        digests = {auth.sha256(key) for key in self._api_keys}
        removed = session.scalars(
            delete(ApiKey)
            .where(
                ApiKey.prefix.startswith(FROM_SETTING, autoescape=True),
                ApiKey.key_sha256.not_in(digests),
            )
            .returning(ApiKey)
        ).all()
        for key in removed:
            logger.info("key left the setting API_KEYS", extra={"key": key.prefix})
            record(session, WEB, AuditAction.KEY_REMOVED, key_id=key.id)
        if not digests:
            return
        owner = auth.owner_id(session, ADMIN)
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
        entered = insert(ApiKey).values(rows).on_conflict_do_nothing().returning(ApiKey.id)
        for key_id in session.scalars(entered).all():
            record(session, WEB, AuditAction.KEY_CREATED, key_id=key_id, detail={"setting": True})


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
