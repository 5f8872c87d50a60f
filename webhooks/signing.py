"""The secrets of webhooks, and the headers that they sign.

No secret is stored: each is derived from one key of the service's, the webhook's id and how often
it was rotated. Who reads the database, or a backup of it, can sign nothing.

Source: Standard Webhooks 1.0, https://github.com/standard-webhooks/standard-webhooks
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import secrets
import uuid
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from standardwebhooks import Webhook as Signer

from errors import SettingsError

PREFIX: Final = "whsec_"
#: Where the service's key lies in STATE_DIR, if no setting has it.
KEY_FILE: Final = "webhook.key"
_KEY_BYTES: Final = 32


class Secrets:
    """The secrets of all webhooks."""

    def __init__(self, key: str) -> None:
        self._key = key.encode()

    def of(self, webhook_id: uuid.UUID, generation: int) -> str:
        """The secret of a webhook, as its owner is shown it."""
        named = f"webhook {webhook_id} {generation}".encode()
        digest = hmac.new(self._key, named, hashlib.sha256).digest()
        return PREFIX + base64.b64encode(digest).decode()


def headers(
    message_id: uuid.UUID, body: str, signed_by: Iterable[str], *, at: datetime | None = None
) -> dict[str, str]:
    """The headers that let a receiver know who sent a body, and when.

    Args:
        signed_by: Secrets; more than one while a receiver may still have the one before.
        at: When it is sent; now.
    """
    at = at or datetime.now(UTC)
    name = str(message_id)
    return {
        "webhook-id": name,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": " ".join(Signer(secret).sign(name, at, body) for secret in signed_by),
    }


def key_in(path: Path) -> str:
    """Read the service's key from its file; whoever comes first makes it.

    Raises:
        SettingsError: It can neither be read nor made there.
    """
    part = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            with os.fdopen(fd, "w") as file:
                file.write(f"{secrets.token_hex(_KEY_BYTES)}\n")
            with suppress(FileExistsError):
                # unlike a rename, it leaves the one of who was faster
                path.hardlink_to(part)
            part.unlink()
        return path.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it should be ASCII text"
        raise SettingsError(f"STATE_DIR: cannot read or make {path}: {why}") from error
