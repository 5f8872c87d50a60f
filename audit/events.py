"""Writing events. Nothing here commits: an event belongs to the transaction of its act."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, UUID
from sqlalchemy.orm import Session
from sqlalchemy.types import Text
from uuid_utils.compat import uuid7

from models import AuditAction

DONE: Final = "done"

#: One event, or one for each of many jobs, with whose they are: before they are gone.
RECORD: Final = text("""
INSERT INTO audit_events
       (id, action, outcome, actor, key_id, owner_id, address, request_id, route,
        job_id, target_key_id, target_owner_id, count, detail)
SELECT event.id, :action, :outcome, :actor, :key_id, :owner_id, :address, :request_id, :route,
       event.job_id, :target_key_id,
       COALESCE((SELECT jobs.owner_id FROM transcription_jobs AS jobs WHERE jobs.id = event.job_id),
                (SELECT gone.owner_id FROM deleted_jobs AS gone WHERE gone.id = event.job_id),
                (SELECT keys.owner_id FROM api_keys AS keys WHERE keys.id = :target_key_id),
                (SELECT hooks.owner_id FROM webhooks AS hooks WHERE hooks.id = :webhook_id),
                (SELECT batch.owner_id FROM batches AS batch WHERE batch.id = :batch_id),
                (SELECT part.owner_id FROM resumable_uploads AS part WHERE part.id = :upload_id)),
       :count, :detail
  FROM unnest(:ids, :job_ids) AS event (id, job_id)
""").bindparams(
    *(
        bindparam(name, type_=UUID(as_uuid=True))
        for name in ("key_id", "owner_id", "target_key_id", "webhook_id", "batch_id", "upload_id")
    ),
    *(bindparam(name, type_=ARRAY(UUID(as_uuid=True))) for name in ("ids", "job_ids")),
    *(bindparam(name, type_=Text) for name in ("actor", "address", "request_id", "route")),
    bindparam("detail", type_=JSONB),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """Who does something, and from where. None of it is a client's own text."""

    #: Shown name of the API key, or the part of the service.
    name: str | None
    key_id: uuid.UUID | None = None
    owner_id: uuid.UUID | None = None
    address: str | None = None
    request_id: str | None = None
    #: Method and path of the route.
    route: str | None = None


#: Whoever is at the command line, and what the service does by itself.
CLI: Final = Actor(name="cli")
WEB: Final = Actor(name="web")
MAINTENANCE: Final = Actor(name="maintenance")
WEBHOOKS: Final = Actor(name="webhooks")


def record(  # noqa: PLR0913 - one for each thing that an event tells
    session: Session,
    actor: Actor,
    action: AuditAction,
    *,
    job_id: uuid.UUID | None = None,
    key_id: uuid.UUID | None = None,
    webhook_id: uuid.UUID | None = None,
    batch_id: uuid.UUID | None = None,
    upload_id: uuid.UUID | None = None,
    outcome: str = DONE,
    count: int = 1,
    detail: Mapping[str, Any] | None = None,
) -> None:
    """Add an event.

    Args:
        job_id: The job that it was done to.
        key_id: The key that it was done to.
        webhook_id: The webhook that it was done to; told in ``detail``.
        batch_id: The batch that it was done to; told there, too.
        upload_id: The resumable upload that it was done to; told there, too.
        count: How often it happened.
        detail: Texts of ours, whole numbers, lists of them: nothing that a client wrote.
    """
    _insert(
        session,
        actor,
        job_ids=[job_id],
        action=action,
        target_key_id=key_id,
        webhook_id=webhook_id,
        batch_id=batch_id,
        upload_id=upload_id,
        outcome=outcome,
        count=count,
        detail={
            **({"webhook": str(webhook_id)} if webhook_id else {}),
            **({"batch": str(batch_id)} if batch_id else {}),
            **({"upload": str(upload_id)} if upload_id else {}),
            **(detail or {}),
        },
    )


def record_each(
    session: Session, actor: Actor, action: AuditAction, job_ids: Collection[uuid.UUID]
) -> None:
    """Add an event for each of many jobs."""
    if job_ids:
        _insert(
            session,
            actor,
            job_ids=list(job_ids),
            action=action,
            target_key_id=None,
            webhook_id=None,
            batch_id=None,
            upload_id=None,
            outcome=DONE,
            count=1,
            detail={},
        )


def _insert(
    session: Session, actor: Actor, *, job_ids: Sequence[uuid.UUID | None], **values: Any
) -> None:
    session.execute(
        RECORD,
        {
            "ids": [uuid7() for _ in job_ids],
            "job_ids": list(job_ids),
            "actor": actor.name,
            "key_id": actor.key_id,
            "owner_id": actor.owner_id,
            "address": actor.address,
            "request_id": actor.request_id,
            "route": actor.route,
            **values,
        },
    )
