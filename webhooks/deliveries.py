"""Deliveries: taken, tried, noted, asked for, listed. Nothing here commits."""

from __future__ import annotations

import json
import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, Row, bindparam, func, literal, select, text, tuple_, update
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, UUID
from sqlalchemy.orm import Session

from errors import ConflictError, NotFound
from jobs.paging import Place
from models import DeliveryStatus, Webhook, WebhookDelivery, WebhookEvent
from webhooks.verdicts import Verdict

NOT_FOUND: Final = "There is no such delivery."
#: A try that has not ended after so long was lost with its sender; calls take less.
TRY_SECONDS: Final = 60
#: Tries that a delivery remembers.
REMEMBERED: Final = 20
KEEP_SECONDS: Final = 30 * 86_400.0
PRUNE_BATCH: Final = 1_000

#: Take what is due, of each webhook a few: a receiver that is slow, and has much to come, is no
#: reason for others to wait.
CLAIM: Final = text("""
WITH due AS (
    SELECT next.id
      FROM webhooks
     CROSS JOIN LATERAL (
           SELECT id, not_before
             FROM webhook_deliveries
            WHERE webhook_id = webhooks.id
              AND status = 'pending'
              AND not_before <= now()
            ORDER BY not_before
            LIMIT :each
              FOR UPDATE SKIP LOCKED) AS next
     WHERE disabled_at IS NULL
       AND webhooks.id <> ALL(:busy)
       AND (CAST(:among AS uuid[]) IS NULL OR webhooks.id = ANY(:among))
     ORDER BY next.not_before
     LIMIT :limit
)
UPDATE webhook_deliveries AS delivery
   SET attempt = attempt + 1,
       round = round + 1,
       not_before = now() + make_interval(secs => :try_seconds)
  FROM due, webhooks AS webhook
 WHERE delivery.id = due.id
   AND webhook.id = delivery.webhook_id
RETURNING delivery.id, webhook_id, delivery.url AS callback_url, webhook.url, event, data,
          delivery.created_at, attempt, round, generation,
          COALESCE(previous_until > now(), false) AS has_previous,
          (SELECT client_metadata FROM transcription_jobs WHERE id = delivery.job_id) AS metadata
""").bindparams(
    bindparam("busy", type_=ARRAY(UUID(as_uuid=True))),
    bindparam("among", type_=ARRAY(UUID(as_uuid=True))),
)

#: Who was taken for lost writes nothing: somebody else has tried since.
NOTE: Final = text("""
UPDATE webhook_deliveries
   SET status = :status,
       not_before = now() + make_interval(secs => :pause),
       ended_at = CASE WHEN :status <> 'pending' THEN now() END,
       tries = CASE WHEN jsonb_array_length(tries) < :remembered THEN tries ELSE tries - 0 END
               || :tried
 WHERE id = :id
   AND attempt = :attempt
   AND status = 'pending'
RETURNING id
""").bindparams(bindparam("tried", type_=JSONB))

#: To the minute, so that a busy webhook's row is not rewritten at each.
CAME_THROUGH: Final = text("""
UPDATE webhooks
   SET delivered_at = now()
 WHERE id = :id
   AND (delivered_at IS NULL OR delivered_at < now() - interval '1 minute')
""")

PRUNE: Final = text("""
DELETE FROM webhook_deliveries
 WHERE id IN (SELECT id FROM webhook_deliveries
               WHERE ended_at < now() - make_interval(secs => :keep)
               LIMIT :limit)
""")


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """A delivery that is to be tried now."""

    id: uuid.UUID
    webhook_id: uuid.UUID
    url: str
    #: Whether that is a job's own address, and not the webhook's.
    is_callback: bool
    event: str
    #: The body.
    body: str
    created_at: datetime
    attempt: int
    #: Which try it is since it was last asked for, from 1.
    round_number: int
    #: Of the secrets that sign it.
    generations: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """How a try ended."""

    at: datetime
    seconds: float
    #: Of the reply; None where none came.
    status: int | None
    #: Why none came: see ``OutgoingFailed``.
    error: str | None = None


def claim(
    session: Session,
    *,
    limit: int,
    each: int,
    busy: Collection[uuid.UUID] = (),
    among: Collection[uuid.UUID] | None = None,
) -> list[Due]:
    """Take what is due; who takes it has ``TRY_SECONDS`` to try.

    Args:
        each: Of one webhook, at most.
        busy: Webhooks to take nothing of.
        among: Webhooks to take something of; None: any.
    """
    values = {
        "limit": limit,
        "each": each,
        "busy": list(busy),
        "among": None if among is None else list(among),
        "try_seconds": TRY_SECONDS,
    }
    return [_due(row) for row in session.execute(CLAIM, values)]


def note(session: Session, due: Due, tried: Tried, verdict: Verdict) -> bool:
    """Write down how a try ended; False where it was taken for lost meanwhile."""
    values = {
        "id": due.id,
        "attempt": due.attempt,
        "status": str(verdict.status),
        "pause": verdict.pause_seconds,
        "remembered": REMEMBERED,
        "tried": [
            {
                "at": tried.at.astimezone(UTC).isoformat(),
                "seconds": round(tried.seconds, 3),
                "status": tried.status,
                "error": tried.error,
            }
        ],
    }
    if session.execute(NOTE, values).first() is None:
        return False
    if verdict.status is DeliveryStatus.DELIVERED:
        session.execute(CAME_THROUGH, {"id": due.webhook_id})
    return True


def test(session: Session, webhook: Webhook) -> WebhookDelivery:
    """Have an event sent that means nothing.

    Raises:
        ConflictError: The webhook is disabled, or has no address of its own.
    """
    _require_enabled(webhook)
    if webhook.url is None:
        raise ConflictError("This webhook has no address; its jobs' callback_url have.")
    delivery = WebhookDelivery(
        webhook_id=webhook.id, event=WebhookEvent.TEST, data={"webhook_id": str(webhook.id)}
    )
    session.add(delivery)
    session.flush()
    session.refresh(delivery)
    return delivery


def resend(session: Session, webhook: Webhook, delivery_id: uuid.UUID) -> WebhookDelivery:
    """Have a delivery tried again, from now and from the first pause, under the same id.

    Raises:
        NotFound: The webhook has no such delivery.
        ConflictError: The webhook is disabled.
    """
    _require_enabled(webhook)
    found = session.scalar(
        update(WebhookDelivery)
        .where(WebhookDelivery.id == delivery_id, WebhookDelivery.webhook_id == webhook.id)
        .values(status=DeliveryStatus.PENDING, not_before=func.now(), round=0, ended_at=None)
        .returning(WebhookDelivery)
        .execution_options(populate_existing=True)
    )
    if found is None:
        raise NotFound(NOT_FOUND)
    return found


def page(
    session: Session,
    webhook_id: uuid.UUID,
    *,
    status: DeliveryStatus | None,
    before: Place | None,
    limit: int,
) -> Sequence[WebhookDelivery]:
    """Deliveries of a webhook, newest first."""
    query = (
        select(WebhookDelivery)
        .where(*_wanted(webhook_id, status))
        .order_by(WebhookDelivery.created_at.desc(), WebhookDelivery.id.desc())
        .limit(limit)
    )
    if before is not None:
        here = tuple_(literal(before.at), literal(before.id))
        query = query.where(tuple_(WebhookDelivery.created_at, WebhookDelivery.id) < here)
    return session.scalars(query).all()


def count(session: Session, webhook_id: uuid.UUID, *, status: DeliveryStatus | None) -> int:
    query = select(func.count(WebhookDelivery.id)).where(*_wanted(webhook_id, status))
    return session.scalars(query).one()


def prune(session: Session) -> int:
    """Delete a batch of those that ended ``KEEP_SECONDS`` ago; returns how many."""
    values = {"keep": KEEP_SECONDS, "limit": PRUNE_BATCH}
    return int(session.execute(PRUNE, values).rowcount)  # type: ignore[attr-defined]


def _due(row: Row[Any]) -> Due:
    data = row.data if row.metadata is None else {**row.data, "metadata": row.metadata}
    at = row.created_at.astimezone(UTC).isoformat()
    body = json.dumps(
        {"type": row.event, "timestamp": at, "data": data},
        ensure_ascii=False,
        separators=(",", ":"),
    )
    generations = (row.generation, row.generation - 1) if row.has_previous else (row.generation,)
    return Due(
        id=row.id,
        webhook_id=row.webhook_id,
        url=row.callback_url or row.url,
        is_callback=row.callback_url is not None,
        event=row.event,
        body=body,
        created_at=row.created_at,
        attempt=row.attempt,
        round_number=row.round,
        generations=generations,
    )


def _wanted(webhook_id: uuid.UUID, status: DeliveryStatus | None) -> list[ColumnElement[bool]]:
    wanted: list[ColumnElement[bool]] = [WebhookDelivery.webhook_id == webhook_id]
    return wanted if status is None else [*wanted, WebhookDelivery.status == status]


def _require_enabled(webhook: Webhook) -> None:
    if webhook.disabled_at is not None:
        raise ConflictError("This webhook is disabled; enable it first.")
