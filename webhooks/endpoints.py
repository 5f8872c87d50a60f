"""Webhooks themselves: made, changed, rotated, disabled and deleted. Nothing here commits.

An owner is part of every query: somebody else's webhook is as good as none.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, Literal

from sqlalchemy import Select, func, literal, select, text, tuple_, update
from sqlalchemy.orm import Session

from errors import ConflictError, NotFound
from jobs.paging import Place
from models import WANTED_EVENTS, Webhook

#: Of one owner, so that nobody's every job makes calls without end.
MOST: Final = 50
NOT_FOUND: Final = "There is no such webhook."
#: How long the secret before a rotation signs as well, unless told otherwise.
GRACE: Final = timedelta(days=1)

Reason = Literal["client", "gone", "failing"]

#: What was to be sent to it is dropped with it.
DISABLE: Final = text("""
WITH disabled AS (
    UPDATE webhooks
       SET disabled_at = now(),
           disabled_reason = :reason
     WHERE id = :id
       AND disabled_at IS NULL
    RETURNING id
)
UPDATE webhook_deliveries
   SET status = 'dropped',
       ended_at = now()
  FROM disabled
 WHERE webhook_id = disabled.id
   AND status = 'pending'
""")


@dataclass(frozen=True, slots=True, kw_only=True)
class NewWebhook:
    """What a webhook is to be."""

    #: None for the one that signs what goes to the ``callback_url`` of jobs.
    url: str | None
    events: Sequence[str] = WANTED_EVENTS
    description: str | None = None


def create(session: Session, owner_id: uuid.UUID, wanted: NewWebhook) -> Webhook:
    """Make a webhook.

    Raises:
        ConflictError: The owner has as many as they may, or the one for callbacks.
    """
    # of two at once, the second sees the first
    session.execute(
        text("SELECT pg_advisory_xact_lock(hashtextextended(:owner, 0))"),
        {"owner": f"webhooks {owner_id}"},
    )
    if count(session, owner_id) >= MOST:
        raise ConflictError(f"An owner may have {MOST} webhooks.")
    if wanted.url is None and callbacks(session, owner_id) is not None:
        raise ConflictError("There is a webhook for callbacks already; rotate it for a new secret.")
    webhook = Webhook(
        owner_id=owner_id,
        url=wanted.url,
        events=sorted(wanted.events),
        description=wanted.description,
    )
    session.add(webhook)
    session.flush()
    session.refresh(webhook)
    return webhook


def find(session: Session, webhook_id: uuid.UUID, *, owner_id: uuid.UUID | None) -> Webhook:
    """Look a webhook up.

    Args:
        owner_id: Whose it must be; None for anybody's.

    Raises:
        NotFound: There is none, or it is somebody else's.
    """
    webhook = session.scalar(_of(owner_id).where(Webhook.id == webhook_id))
    if webhook is None:
        raise NotFound(NOT_FOUND)
    return webhook


def callbacks(session: Session, owner_id: uuid.UUID) -> Webhook | None:
    """The webhook that signs what goes to the ``callback_url`` of an owner's jobs, if any."""
    return session.scalar(_of(owner_id).where(Webhook.url.is_(None)))


def page(
    session: Session, *, owner_id: uuid.UUID | None, before: Place | None, limit: int
) -> Sequence[Webhook]:
    """Webhooks, newest first."""
    query = _of(owner_id).order_by(Webhook.created_at.desc(), Webhook.id.desc()).limit(limit)
    if before is not None:
        here = tuple_(literal(before.at), literal(before.id))
        query = query.where(tuple_(Webhook.created_at, Webhook.id) < here)
    return session.scalars(query).all()


def count(session: Session, owner_id: uuid.UUID | None) -> int:
    return session.scalars(select(func.count()).select_from(_of(owner_id).subquery())).one()


def change(session: Session, webhook: Webhook, values: Mapping[str, Any]) -> None:
    """Set columns of a webhook; ``enabled`` turns it on or off."""
    values = dict(values)
    enabled = values.pop("enabled", None)
    if values:
        _set(session, webhook, values)
    if enabled is True:
        _set(session, webhook, {"disabled_at": None, "disabled_reason": None})
    elif enabled is False:
        disable(session, webhook.id, reason="client")
        session.refresh(webhook)


def rotate(session: Session, webhook: Webhook, *, grace: timedelta) -> None:
    """Give a webhook a new secret; for ``grace`` the one before signs as well."""
    values = {"generation": Webhook.generation + 1, "previous_until": func.now() + grace}
    _set(session, webhook, values)


def disable(session: Session, webhook_id: uuid.UUID, *, reason: Reason) -> None:
    """Send nothing more to a webhook, until somebody enables it."""
    session.execute(DISABLE, {"id": webhook_id, "reason": reason})


def delete(session: Session, webhook: Webhook) -> None:
    """Delete a webhook with its deliveries."""
    session.delete(webhook)
    session.flush()


def _set(session: Session, webhook: Webhook, values: Mapping[str, Any]) -> None:
    session.execute(
        update(Webhook)
        .where(Webhook.id == webhook.id)
        .values(dict(values))
        .execution_options(synchronize_session=False)
    )
    session.refresh(webhook)


def _of(owner_id: uuid.UUID | None) -> Select[Webhook]:
    query = select(Webhook)
    return query if owner_id is None else query.where(Webhook.owner_id == owner_id)
