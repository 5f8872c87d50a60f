"""API keys, for operators: made, shown, changed, rotated and revoked."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response

import keys
from api import cursors
from api.dependencies import Admin, By, KeyId, ServicesDep, json_body, single_values
from api.documentation import json_request, problems
from api.errors import invalid
from api.jobs import Page
from api.key_schemas import (
    Key,
    KeyList,
    KeyPatch,
    KeyWithSecret,
    NewKey,
    OwnerList,
    OwnerOfKeys,
    Revocation,
    Rotation,
)
from api.schemas import Text
from audit.events import record
from auth import Principal
from jobs.paging import Place
from models import AuditAction

logger = logging.getLogger(__name__)

router = APIRouter(prefix="/admin", tags=["keys"], dependencies=[Depends(single_values)])


class KeyFilter(Page):
    """Which keys are wanted."""

    owner: Text | None = Query(None, description="Only keys of this owner.")


@router.get(
    "/keys",
    operation_id="list_keys",
    summary="List keys, newest first",
    responses=problems(400, 401, 403, 503),
)
def index(
    request: Request,
    response: Response,
    _principal: Admin,
    services: ServicesDep,
    wanted: Annotated[KeyFilter, Query()],
) -> KeyList:
    of = f"keys/{wanted.owner}"
    place = cursors.decode(wanted.cursor, of=of)
    before = None if place is None else (place.at, place.id)
    with services.transaction() as session:
        total = keys.count(session, owner=wanted.owner)
        found = keys.page(session, owner=wanted.owner, before=before, limit=wanted.limit + 1)
        shown = [Key.of(key) for key in found[: wanted.limit]]
    cursor = None
    if len(found) > wanted.limit:
        last = found[wanted.limit - 1]
        cursor = cursors.encode(Place(last.created_at, last.id), of=of)
        response.headers["Link"] = cursors.next_link(request, cursor)
    return KeyList(keys=shown, total=total, next_cursor=cursor)


@router.post(
    "/keys",
    status_code=201,
    operation_id="create_key",
    summary="Make a key",
    description="Its secret is in the answer, and nowhere else ever after.",
    responses=problems(401, 403, 503),
    openapi_extra=json_request(NewKey.__name__, required=True),
)
def create(
    request: Request,
    response: Response,
    principal: Admin,
    by: By,
    services: ServicesDep,
    wanted: Annotated[NewKey, Depends(json_body(NewKey))],
) -> KeyWithSecret:
    _require_future(wanted.expires_at)
    with services.transaction() as session:
        secret, key = keys.create(session, wanted.grant)
        made = KeyWithSecret.of(key, key=secret)
        detail = {"scopes": made.scopes}
        record(session, by, AuditAction.KEY_CREATED, key_id=key.id, detail=detail)
    response.headers["Location"] = f"{request.scope.get('root_path', '')}/admin/keys/{made.id}"
    _note("key made", made, principal)
    return made


@router.get(
    "/keys/{key_id}",
    operation_id="get_key",
    summary="Look at a key",
    responses=problems(401, 403, 404, 503),
)
def show(key_id: KeyId, _principal: Admin, services: ServicesDep) -> Key:
    with services.transaction() as session:
        return Key.of(keys.find(session, key_id))


@router.patch(
    "/keys/{key_id}",
    operation_id="change_key",
    summary="Change what a key may do",
    description="Holds from the next call on.",
    responses=problems(401, 403, 404, 409, 503),
    openapi_extra=json_request(KeyPatch.__name__, required=True),
)
def change(
    key_id: KeyId,
    principal: Admin,
    by: By,
    services: ServicesDep,
    wanted: Annotated[KeyPatch, Depends(json_body(KeyPatch))],
) -> Key:
    values = wanted.values
    _require_future(wanted.expires_at)
    with services.transaction() as session:
        key = keys.find(session, key_id)
        if values:
            keys.change(session, key, values, force=wanted.force)
            detail = {"fields": sorted(values)}
            record(session, by, AuditAction.KEY_CHANGED, key_id=key_id, detail=detail)
        changed = Key.of(key)
    _note("key changed", changed, principal, fields=sorted(values))
    return changed


@router.post(
    "/keys/{key_id}/rotate",
    operation_id="rotate_key",
    summary="Give a key a new secret",
    description=(
        "The new secret is in the answer, and nowhere else ever after. The one before works on for"
        " `grace_seconds`, a day unless told otherwise; one from before that stops at once. All"
        " else of the key stays: its id, its jobs, what it may do and has used."
    ),
    responses=problems(401, 403, 404, 409, 503),
    openapi_extra=json_request(Rotation.__name__, required=False),
)
def rotate(
    key_id: KeyId,
    principal: Admin,
    by: By,
    services: ServicesDep,
    wanted: Annotated[Rotation, Depends(json_body(Rotation, optional=True))],
) -> KeyWithSecret:
    with services.transaction() as session:
        key = keys.find(session, key_id)
        secret = keys.rotate(session, key, grace=timedelta(seconds=wanted.grace_seconds))
        rotated = KeyWithSecret.of(key, key=secret)
        detail = {"grace_seconds": wanted.grace_seconds}
        record(session, by, AuditAction.KEY_ROTATED, key_id=key_id, detail=detail)
    _note("key rotated", rotated, principal, grace_seconds=wanted.grace_seconds)
    return rotated


@router.post(
    "/keys/{key_id}/revoke",
    operation_id="revoke_key",
    summary="Make a key useless from now on",
    description="Its owner's jobs stay. Twice is as good as once.",
    responses=problems(401, 403, 404, 409, 503),
    openapi_extra=json_request(Revocation.__name__, required=False),
)
def revoke(
    key_id: KeyId,
    principal: Admin,
    by: By,
    services: ServicesDep,
    wanted: Annotated[Revocation, Depends(json_body(Revocation, optional=True))],
) -> Key:
    with services.transaction() as session:
        key = keys.find(session, key_id)
        keys.revoke(session, key, force=wanted.force)
        record(session, by, AuditAction.KEY_REVOKED, key_id=key_id)
        revoked = Key.of(key)
    _note("key revoked", revoked, principal)
    return revoked


@router.get(
    "/owners",
    operation_id="list_owners",
    summary="Whom jobs belong to",
    responses=problems(401, 403, 503),
)
def owners(_principal: Admin, services: ServicesDep) -> OwnerList:
    with services.transaction() as session:
        found = keys.owners(session)
    return OwnerList(owners=[OwnerOfKeys.model_validate(owner) for owner in found])


def _require_future(expires_at: datetime | None) -> None:
    if expires_at is not None and expires_at <= datetime.now(UTC):
        raise invalid("expires_at", "past", "It should lie in the future.")


def _note(message: str, key: Key, by: Principal, **data: Any) -> None:
    """Say in the log who did what to which key."""
    logger.info(message, extra={"key": key.prefix, "by": by.key_prefix, **data})
