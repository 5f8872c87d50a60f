"""Looking events up."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, or_, select
from sqlalchemy.orm import Session, aliased

from models import AuditAction, AuditEvent, Owner


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which events are meant; None means any."""

    action: AuditAction | None = None
    #: When it happened: from, and before.
    since: datetime | None = None
    until: datetime | None = None
    #: Name of the owner who did it, or whose job or key it was done to.
    owner: str | None = None
    #: Beginning of the shown name of whoever did it, or a key's id: that did it, or it was done to.
    key: str | None = None
    job_id: uuid.UUID | None = None
    address: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """An event, with the names of the owners that it speaks of."""

    event: AuditEvent
    owner: str | None
    target_owner: str | None


def latest(session: Session, wanted: Wanted, *, limit: int) -> Sequence[Found]:
    """Events, the latest first."""
    acting, target = aliased(Owner), aliased(Owner)
    query = (
        select(AuditEvent, acting.name, target.name)
        .outerjoin(acting, acting.id == AuditEvent.owner_id)
        .outerjoin(target, target.id == AuditEvent.target_owner_id)
        .order_by(AuditEvent.at.desc(), AuditEvent.id.desc())
        .limit(limit)
    )
    for column, value in (
        (AuditEvent.action, wanted.action),
        (AuditEvent.job_id, wanted.job_id),
        (AuditEvent.address, wanted.address),
    ):
        if value is not None:
            query = query.where(column == value)
    if wanted.since is not None:
        query = query.where(AuditEvent.at >= wanted.since)
    if wanted.until is not None:
        query = query.where(AuditEvent.at < wanted.until)
    if wanted.owner is not None:
        query = query.where(or_(acting.name == wanted.owner, target.name == wanted.owner))
    if wanted.key is not None:
        query = query.where(or_(*_of_key(wanted.key)))
    rows = session.execute(query)
    return [Found(event=event, owner=owner, target_owner=of) for event, owner, of in rows]


def _of_key(key: str) -> list[ColumnElement[bool]]:
    try:
        key_id = uuid.UUID(key)
    except ValueError:
        return [AuditEvent.actor.startswith(key, autoescape=True)]
    return [AuditEvent.key_id == key_id, AuditEvent.target_key_id == key_id]
