"""Webhooks: addresses that are told of jobs' ends, and what became of telling them."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Query, Request, Response

from api import addresses, cursors
from api.dependencies import (
    By,
    DeliveryId,
    Hooker,
    ServicesDep,
    WebhookId,
    json_body,
    single_values,
)
from api.documentation import json_request, problems
from api.errors import invalid
from api.jobs import Page
from api.services import Services
from api.webhook_schemas import (
    Delivery,
    DeliveryList,
    NewWebhook,
    Webhook,
    WebhookList,
    WebhookPatch,
    WebhookRotation,
    WebhookWithSecret,
)
from audit.events import record
from auth import Principal
from jobs.paging import Place
from models import AuditAction, DeliveryStatus
from models import Webhook as Row
from webhooks import deliveries, endpoints

logger = logging.getLogger(__name__)

router = APIRouter(prefix="/webhooks", tags=["webhooks"], dependencies=[Depends(single_values)])

#: Read by hand, so FastAPI does not see them.
BODIES: Final = (NewWebhook, WebhookPatch, WebhookRotation)


class DeliveryFilter(Page):
    """Which deliveries are wanted."""

    status: DeliveryStatus | None = Query(None)


@router.get(
    "",
    operation_id="list_webhooks",
    summary="List webhooks, newest first",
    responses=problems(400, 401, 403, 503),
)
def index(
    request: Request,
    response: Response,
    principal: Hooker,
    services: ServicesDep,
    wanted: Annotated[Page, Query()],
) -> WebhookList:
    of = f"webhooks/{principal.reach}"
    before = cursors.decode(wanted.cursor, of=of)
    with services.transaction() as session:
        total = endpoints.count(session, principal.reach)
        found = endpoints.page(
            session, owner_id=principal.reach, before=before, limit=wanted.limit + 1
        )
    shown = [Webhook.of(row) for row in found[: wanted.limit]]
    cursor = _next(request, response, found, wanted.limit, of)
    return WebhookList(webhooks=shown, total=total, next_cursor=cursor)


@router.post(
    "",
    status_code=201,
    operation_id="create_webhook",
    summary="Make a webhook",
    description=(
        "Its secret is in the answer, and nowhere else ever after. Events are signed as Standard"
        " Webhooks has it, and sent until they come through, for three days."
    ),
    responses=problems(401, 403, 409, 503),
    openapi_extra=json_request(NewWebhook.__name__, required=True),
)
def create(
    request: Request,
    response: Response,
    principal: Hooker,
    by: By,
    services: ServicesDep,
    wanted: Annotated[NewWebhook, Depends(json_body(NewWebhook))],
) -> WebhookWithSecret:
    values = wanted.wanted
    if wanted.url is not None:
        # before the transaction: looking a name up takes its time
        url = addresses.require_callable(services.outgoing, wanted.url, "url")
        values = endpoints.NewWebhook(url=url, events=values.events, description=values.description)
    with services.transaction() as session:
        row = endpoints.create(session, principal.owner_id, values)
        detail = {"events": row.events}
        record(session, by, AuditAction.WEBHOOK_CREATED, webhook_id=row.id, detail=detail)
        made = _with_secret(services, row)
    response.headers["Location"] = f"{request.scope.get('root_path', '')}/webhooks/{made.id}"
    _note("webhook made", made, principal)
    return made


@router.get(
    "/{webhook_id}",
    operation_id="get_webhook",
    summary="Look at a webhook",
    responses=problems(401, 403, 404, 503),
)
def show(webhook_id: WebhookId, principal: Hooker, services: ServicesDep) -> Webhook:
    with services.transaction() as session:
        return Webhook.of(endpoints.find(session, webhook_id, owner_id=principal.reach))


@router.patch(
    "/{webhook_id}",
    operation_id="change_webhook",
    summary="Change or disable a webhook, or enable it again",
    description="Holds for what is tried from now on.",
    responses=problems(401, 403, 404, 503),
    openapi_extra=json_request(WebhookPatch.__name__, required=True),
)
def change(
    webhook_id: WebhookId,
    principal: Hooker,
    by: By,
    services: ServicesDep,
    wanted: Annotated[WebhookPatch, Depends(json_body(WebhookPatch))],
) -> Webhook:
    values = wanted.values
    if "url" in values:
        values["url"] = addresses.require_callable(services.outgoing, wanted.url, "url")
    with services.transaction() as session:
        row = endpoints.find(session, webhook_id, owner_id=principal.reach)
        if "url" in values and row.url is None:
            raise invalid("url", "no_url", "The webhook for callbacks has none of its own.")
        endpoints.change(session, row, values)
        detail = {"fields": sorted(values)}
        record(session, by, AuditAction.WEBHOOK_CHANGED, webhook_id=webhook_id, detail=detail)
        changed = Webhook.of(row)
    _note("webhook changed", changed, principal, fields=sorted(values))
    return changed


@router.delete(
    "/{webhook_id}",
    status_code=204,
    operation_id="delete_webhook",
    summary="Delete a webhook, and what was to be sent to it",
    responses=problems(401, 403, 404, 503),
)
def delete(webhook_id: WebhookId, principal: Hooker, by: By, services: ServicesDep) -> None:
    with services.transaction() as session:
        row = endpoints.find(session, webhook_id, owner_id=principal.reach)
        # before it is gone, and with it whose it was
        record(session, by, AuditAction.WEBHOOK_DELETED, webhook_id=webhook_id)
        endpoints.delete(session, row)


@router.post(
    "/{webhook_id}/rotate",
    operation_id="rotate_webhook",
    summary="Give a webhook a new secret",
    description=(
        "The new secret is in the answer, and nowhere else ever after. For `grace_seconds` the one"
        " before signs as well, so that a receiver may change at its leisure."
    ),
    responses=problems(401, 403, 404, 503),
    openapi_extra=json_request(WebhookRotation.__name__, required=False),
)
def rotate(
    webhook_id: WebhookId,
    principal: Hooker,
    by: By,
    services: ServicesDep,
    wanted: Annotated[WebhookRotation, Depends(json_body(WebhookRotation, optional=True))],
) -> WebhookWithSecret:
    with services.transaction() as session:
        row = endpoints.find(session, webhook_id, owner_id=principal.reach)
        endpoints.rotate(session, row, grace=timedelta(seconds=wanted.grace_seconds))
        detail = {"grace_seconds": wanted.grace_seconds}
        record(session, by, AuditAction.WEBHOOK_ROTATED, webhook_id=webhook_id, detail=detail)
        rotated = _with_secret(services, row)
    _note("webhook rotated", rotated, principal)
    return rotated


@router.post(
    "/{webhook_id}/test",
    status_code=202,
    operation_id="test_webhook",
    summary="Send an event that means nothing",
    description="Its type is `webhook.test`; what becomes of it stands among the deliveries.",
    responses=problems(401, 403, 404, 409, 503),
)
def test(webhook_id: WebhookId, principal: Hooker, by: By, services: ServicesDep) -> Delivery:
    with services.transaction() as session:
        row = endpoints.find(session, webhook_id, owner_id=principal.reach)
        delivery = deliveries.test(session, row)
        record(session, by, AuditAction.WEBHOOK_SENT, webhook_id=webhook_id)
        return Delivery.of(delivery)


@router.get(
    "/{webhook_id}/deliveries",
    operation_id="list_deliveries",
    summary="What became of events, newest first",
    description="Those that ended are kept for 30 days.",
    responses=problems(400, 401, 403, 404, 503),
)
def log(
    request: Request,
    response: Response,
    webhook_id: WebhookId,
    principal: Hooker,
    services: ServicesDep,
    wanted: Annotated[DeliveryFilter, Query()],
) -> DeliveryList:
    of = f"deliveries/{webhook_id}/{wanted.status}"
    before = cursors.decode(wanted.cursor, of=of)
    with services.transaction() as session:
        endpoints.find(session, webhook_id, owner_id=principal.reach)
        total = deliveries.count(session, webhook_id, status=wanted.status)
        found = deliveries.page(
            session, webhook_id, status=wanted.status, before=before, limit=wanted.limit + 1
        )
    shown = [Delivery.of(row) for row in found[: wanted.limit]]
    cursor = _next(request, response, found, wanted.limit, of)
    return DeliveryList(deliveries=shown, total=total, next_cursor=cursor)


@router.post(
    "/{webhook_id}/deliveries/{delivery_id}/resend",
    status_code=202,
    operation_id="resend_delivery",
    summary="Send an event again",
    description="At once, and under the same id; whatever became of it before.",
    responses=problems(401, 403, 404, 409, 503),
)
def resend(
    webhook_id: WebhookId,
    delivery_id: DeliveryId,
    principal: Hooker,
    by: By,
    services: ServicesDep,
) -> Delivery:
    with services.transaction() as session:
        row = endpoints.find(session, webhook_id, owner_id=principal.reach)
        delivery = deliveries.resend(session, row, delivery_id)
        detail = {"delivery": str(delivery_id)}
        record(session, by, AuditAction.WEBHOOK_SENT, webhook_id=webhook_id, detail=detail)
        return Delivery.of(delivery)


def _with_secret(services: Services, row: Row) -> WebhookWithSecret:
    secret = services.webhook_secrets.of(row.id, row.generation)
    return WebhookWithSecret.of(row, secret=secret)


def _next(request: Request, response: Response, found: Any, limit: int, of: str) -> str | None:
    """The cursor of the next page, also as a header; None on the last."""
    if len(found) <= limit:
        return None
    last = found[limit - 1]
    cursor = cursors.encode(Place(last.created_at, last.id), of=of)
    response.headers["Link"] = cursors.next_link(request, cursor)
    return cursor


def _note(message: str, webhook: Webhook, by: Principal, **data: Any) -> None:
    """Say in the log who did what to which webhook; its address may hold a secret."""
    logger.info(message, extra={"webhook_id": str(webhook.id), "by": by.key_prefix, **data})
