"""Signing in on the page: a key is sent once, and a cookie stands for it from then on."""

from __future__ import annotations

import uuid
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from pydantic import Field

import auth
import page_sessions
from api import cookies
from api.dependencies import START_SESSION, By, Caller, ServicesDep, single_values
from api.documentation import problems
from api.schemas import Answer, Time
from audit.events import record
from auth import Principal
from models import AuditAction, Scope

router = APIRouter(tags=["page"], dependencies=[Depends(single_values)])


class PageUser(Answer):
    """Who has signed in."""

    key: str = Field(description="The key's shown name.")
    owner_id: uuid.UUID
    scopes: list[Scope]
    may_use_high: bool
    anonymous: bool = Field(description="True where nobody has signed in, and nobody has to.")
    expires_at: Annotated[
        Time | None, Field(description="When to sign in again; null without a session.")
    ]


@router.post(
    "/session",
    operation_id=START_SESSION,
    status_code=201,
    summary="Sign in",
    description="With a key, as any request carries one. The answer sets a cookie that stands for"
    " it in requests of our own page; no script can read it.",
    responses=problems(401, 503),
)
def start(
    request: Request, response: Response, caller: Caller, by: By, services: ServicesDep
) -> PageUser:
    if caller.key_sha256 == auth.NO_SHA256:
        raise auth.refused("missing")
    seconds = services.settings.session_seconds
    with services.transaction() as session:
        token, expires_at = page_sessions.start(session, caller, seconds=seconds)
        record(session, by, AuditAction.SIGNED_IN)
    response.headers.append("Set-Cookie", cookies.written(request, token, seconds=seconds))
    return _user(caller, expires_at)


@router.get(
    "/session",
    operation_id="get_session",
    summary="Who has signed in",
    description="Any key may ask, whatever its scopes.",
    responses=problems(401, 503),
)
def show(request: Request, caller: Caller, services: ServicesDep) -> PageUser:
    token = cookies.read(request)
    expires_at = None
    if token is not None:
        with services.transaction() as session:
            expires_at = page_sessions.expires_at(session, token)
    return _user(caller, expires_at)


@router.delete(
    "/session",
    operation_id="end_session",
    status_code=204,
    summary="Sign out",
    responses=problems(401, 503),
)
def end(
    request: Request, response: Response, _caller: Caller, by: By, services: ServicesDep
) -> None:
    token = cookies.read(request)
    if token is not None:
        with services.transaction() as session:
            if page_sessions.end(session, token):
                record(session, by, AuditAction.SIGNED_OUT)
    response.headers.append("Set-Cookie", cookies.forgotten(request))


def _user(principal: Principal, expires_at: Time | None) -> PageUser:
    return PageUser(
        key=principal.key_prefix,
        owner_id=principal.owner_id,
        scopes=sorted(Scope(scope) for scope in principal.scopes),
        may_use_high=principal.may_use_high,
        anonymous=principal.key_sha256 == auth.NO_SHA256,
        expires_at=expires_at,
    )
