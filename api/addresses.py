"""Addresses that a client wants called: refused as a field of the request."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from sqlalchemy.orm import Session

from api.errors import invalid
from errors import AddressRefused, OutgoingFailed
from outgoing import Outgoing
from webhooks import endpoints

logger = logging.getLogger(__name__)

UNSIGNED: Final = "Nothing would sign it: make a secret first, by POST /webhooks without a url."


@contextmanager
def told_of(name: str) -> Iterator[None]:
    """Answer an address that may not be called with a 422 that names the field.

    Raises:
        InvalidRequest: It may not be called.
    """
    try:
        yield
    except AddressRefused as error:
        raise invalid(name, error.code, error.message) from None


def require_secret(session: Session, owner_id: uuid.UUID) -> None:
    """Make sure that something signs what goes to an owner's ``callback_url``.

    Raises:
        InvalidRequest: Nothing does, or it is disabled.
    """
    callbacks = endpoints.callbacks(session, owner_id)
    if callbacks is None:
        raise invalid("callback_url", "no_secret", UNSIGNED)
    if callbacks.disabled_at is not None:
        raise invalid("callback_url", "disabled", "The webhook for callbacks is disabled.")


def require_callable(outgoing: Outgoing, url: str, name: str) -> str:
    """Return an address's canonical form if it may be called, as far as that is known here.

    Its name may not be known here and now, as where the web process has no way out; every call
    judges again.

    Raises:
        InvalidRequest: It may not be called.
    """
    with told_of(name):
        try:
            return outgoing.check(url)
        except AddressRefused:
            raise
        except OutgoingFailed:
            logger.info("an address is not known here")
            return outgoing.read(url)
