"""What routes ask for: the services, the caller with the scope they need, a job's id, a body.

The caller is made out from headers alone, before a byte of the body is read.
"""

from __future__ import annotations

import base64
import functools
import re
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Final, TypeVar

from fastapi import Depends, Path, Request, Security
from fastapi.security import APIKeyHeader, HTTPBearer
from pydantic import BaseModel, ValidationError
from sqlalchemy.orm import Session
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException

import auth
import keys
import page_sessions
from api import cookies, plain_json
from api.allowances import refusal
from api.bodies import require_plain
from api.connections import party
from api.errors import field_errors
from api.examples import JOB_ID, KEY_ID
from api.middleware import ANSWER_HEADERS, AT_END
from api.plain_json import NotPlain, NotStorable
from api.rates import POLL_COST, REQUEST_COST
from api.services import Services
from api.trail import ACTOR, known_as
from audit.events import Actor
from auth import Principal
from errors import ClientError, InvalidRequest, NotAuthenticated, NotFound
from jobs import batches, parts
from models import Scope
from webhooks import deliveries, endpoints

#: Only the upload is larger, and it does not come this way.
MAX_JSON_BYTES: Final = 64 * 1024
NOT_STORABLE: Final = "The body holds NUL, half a surrogate pair, or no number."
UUID_TEXT: Final = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")

MAX_ADDRESS_CHARS: Final = 64
#: The operations that clients call again and again.
POLLED: Final = "get_job"
FOLLOWED: Final = "get_job_events"
ASR: Final = "asr"
DETECT_LANGUAGE: Final = "detect_language"
START_SESSION: Final = "start_session"
#: The operations that a key may be sent to as the password of HTTP's basic credentials: Bazarr
#: can send nothing else. None of them asks for such credentials, so no browser comes to keep some
#: and to send them along with what another site has it send.
BASIC: Final = frozenset({ASR, DETECT_LANGUAGE})

# Only for the documentation: FastAPI's own reading of the headers is not used.
_bearer = HTTPBearer(auto_error=False, scheme_name="Bearer", description="An API key.")
_key_header = APIKeyHeader(
    name="X-API-Key", auto_error=False, scheme_name="ApiKey", description="An API key."
)

ModelT = TypeVar("ModelT", bound=BaseModel)


async def services(request: Request) -> Services:
    found: Services = request.app.state.services
    return found


ServicesDep = Annotated[Services, Depends(services)]


def sent_key(headers: Headers, *, basic: bool = False) -> str | None:
    """Find the key that a request carries; None when it carries none.

    Args:
        basic: Whether it may be a password.

    Raises:
        NotAuthenticated: It carries another kind of credentials, or more than one.
    """
    # blanks around a value are no part of it (RFC 9110, section 5.5)
    sent = [value.strip() for value in headers.getlist("x-api-key")]
    for value in headers.getlist("authorization"):
        scheme, _, key = value.partition(" ")
        if basic and scheme.lower() == "basic":
            sent.append(_password(key.strip()))
        elif scheme.lower() == "bearer":
            sent.append(key.strip())
        else:
            raise auth.refused("not a bearer")
    if len(sent) > 1:
        # each reader would take another one
        raise auth.refused("several")
    return sent[0] if sent else None


def _password(credentials: str) -> str:
    """Read the password of basic credentials (RFC 7617); whoever it is of does not matter."""
    try:
        _user, colon, password = base64.b64decode(credentials, validate=True).partition(b":")
        if not colon:
            raise auth.refused("not a bearer")
        return password.decode()
    except ValueError:
        raise auth.refused("not a bearer") from None


# Not a coroutine: FastAPI runs it in a thread, since it asks the database.
def caller(
    request: Request,
    services: ServicesDep,
    _bearer: Annotated[object, Security(_bearer)] = None,
    _key: Annotated[object, Security(_key_header)] = None,
) -> Principal:
    """Find out who is calling.

    Raises:
        NotAuthenticated: They carry no key, or not a good one.
        RateLimited: They ask too often, or their address was refused too often.
        TooManyAtOnce: So many of their requests are under way already.
    """
    address = _address(request)
    try:
        principal = _identify(request, services, address)
    except NotAuthenticated:
        if address is not None:
            services.doorkeeper.count_refusal(address)
        raise
    _count(request, services, principal)
    services.crowd.enter(principal.key_id)
    request.scope["state"][AT_END] = functools.partial(services.crowd.leave, principal.key_id)
    return principal


def _address(request: Request) -> str | None:
    """Who counts as one in refusals; None for a socket in the file system."""
    if request.client is None:
        return None
    try:
        return party(request.client.host)
    except ValueError:
        # a proxy that we trust may say anything
        return request.client.host[:MAX_ADDRESS_CHARS]


def _identify(request: Request, services: Services, address: str | None) -> Principal:
    key = sent_key(request.headers, basic=_operation(request) in BASIC)
    # who sends a key means that one, whatever their browser keeps
    token = _token(request) if key is None else None
    secret = key or token
    if address is not None:
        services.doorkeeper.admit(address, secret)
    if secret is None and services.settings.auth_required:
        raise auth.refused("missing")
    services.first_keys.ensure(services.transaction)
    with services.transaction() as session:
        principal = _principal(request, session, key, token)
        actor = known_as(services.trail.whence(request.scope), principal)
        services.trail.used(session, actor)
    request.scope["state"][ACTOR] = actor
    if secret is not None:
        services.doorkeeper.remember(secret)
    return principal


def _principal(request: Request, session: Session, key: str | None, token: str | None) -> Principal:
    if key is not None:
        return auth.authenticate(session, key)
    if token is None:
        return auth.anonymous(session)
    try:
        return page_sessions.authenticate(session, token)
    except NotAuthenticated:
        # no script can have the browser forget it
        request.scope["state"][ANSWER_HEADERS] = {"Set-Cookie": cookies.forgotten(request)}
        raise


def _token(request: Request) -> str | None:
    """The page's cookie; a session is not begun with another one.

    Raises:
        NotAuthenticated: Another page has it sent.
    """
    token = cookies.read(request)
    if token is None or _operation(request) == START_SESSION:
        return None
    if not cookies.is_own_page(request):
        raise auth.refused("another page's")
    return token


def _operation(request: Request) -> str | None:
    """The operation's name: what holds for it is decided before any route's own code runs."""
    name: str | None = request.scope["route"].operation_id
    return name


def _count(request: Request, services: Services, principal: Principal) -> None:
    """Count the request, and let its answer say how many are left."""
    polled = _operation(request) in {POLLED, FOLLOWED}
    rate = services.allowances.count(principal, cost=POLL_COST if polled else REQUEST_COST)
    request.state.rate = rate
    if rate is not None:
        state = request.scope["state"]
        state[ANSWER_HEADERS] = {**state.get(ANSWER_HEADERS, {}), **rate.headers}
        if not rate.allowed:
            raise refusal(rate)


Caller = Annotated[Principal, Depends(caller)]


async def by(request: Request, _caller: Caller) -> Actor:
    """Who calls, for audit events."""
    actor: Actor = request.scope["state"][ACTOR]
    return actor


By = Annotated[Actor, Depends(by)]


@dataclass(frozen=True)
class Needs:
    """A dependency that lets only callers with a scope pass; the documentation names it too."""

    scope: Scope

    async def __call__(self, principal: Annotated[Principal, Depends(caller)]) -> Principal:
        principal.require(self.scope)
        return principal


Reader = Annotated[Principal, Depends(Needs(Scope.JOBS_READ))]
Writer = Annotated[Principal, Depends(Needs(Scope.JOBS_WRITE))]
Deleter = Annotated[Principal, Depends(Needs(Scope.JOBS_DELETE))]
Admin = Annotated[Principal, Depends(Needs(Scope.ADMIN))]
Hooker = Annotated[Principal, Depends(Needs(Scope.WEBHOOKS))]


async def job_id(
    job_id: Annotated[
        str,
        Path(
            description="The job's id, as the submission answered it.",
            json_schema_extra={"format": "uuid"},
            examples=[JOB_ID],
        ),
    ],
    _caller: Annotated[Principal, Depends(caller)],
) -> uuid.UUID:
    """Read the id from the path, once it is known who asks; what cannot be one is nobody's job.

    Raises:
        NotFound: It is no UUID.
    """
    return _uuid(job_id, NotFound())


async def key_id(
    key_id: Annotated[
        str,
        Path(
            description="The key's id, as the list of keys shows it.",
            json_schema_extra={"format": "uuid"},
            examples=[KEY_ID],
        ),
    ],
    _caller: Annotated[Principal, Depends(caller)],
) -> uuid.UUID:
    """Read the id from the path, once it is known who asks.

    Raises:
        NotFound: It is no UUID.
    """
    return _uuid(key_id, NotFound(keys.NOT_FOUND))


async def webhook_id(
    webhook_id: Annotated[
        str,
        Path(
            description="The webhook's id, as the list of webhooks shows it.",
            json_schema_extra={"format": "uuid"},
            examples=[KEY_ID],
        ),
    ],
    _caller: Annotated[Principal, Depends(caller)],
) -> uuid.UUID:
    """Read the id from the path, once it is known who asks.

    Raises:
        NotFound: It is no UUID.
    """
    return _uuid(webhook_id, NotFound(endpoints.NOT_FOUND))


async def delivery_id(
    delivery_id: Annotated[
        str,
        Path(
            description="The delivery's id, which is its `webhook-id`.",
            json_schema_extra={"format": "uuid"},
            examples=[KEY_ID],
        ),
    ],
    _caller: Annotated[Principal, Depends(caller)],
) -> uuid.UUID:
    """Read the id from the path, once it is known who asks.

    Raises:
        NotFound: It is no UUID.
    """
    return _uuid(delivery_id, NotFound(deliveries.NOT_FOUND))


async def batch_id(
    batch_id: Annotated[
        str,
        Path(
            description="The batch's id, as it was made with.",
            json_schema_extra={"format": "uuid"},
            examples=[JOB_ID],
        ),
    ],
    _caller: Annotated[Principal, Depends(caller)],
) -> uuid.UUID:
    """Read the id from the path, once it is known who asks.

    Raises:
        NotFound: It is no UUID.
    """
    return _uuid(batch_id, NotFound(batches.NOT_FOUND))


async def upload_id(
    upload_id: Annotated[
        str,
        Path(
            description="The upload's id, as its announcement answered it.",
            json_schema_extra={"format": "uuid"},
            examples=[JOB_ID],
        ),
    ],
    _caller: Annotated[Principal, Depends(caller)],
) -> uuid.UUID:
    """Read the id from the path, once it is known who asks.

    Raises:
        NotFound: It is no UUID.
    """
    return _uuid(upload_id, NotFound(parts.NOT_FOUND))


JobId = Annotated[uuid.UUID, Depends(job_id)]
BatchId = Annotated[uuid.UUID, Depends(batch_id)]
WebhookId = Annotated[uuid.UUID, Depends(webhook_id)]
DeliveryId = Annotated[uuid.UUID, Depends(delivery_id)]
KeyId = Annotated[uuid.UUID, Depends(key_id)]
UploadId = Annotated[uuid.UUID, Depends(upload_id)]


def _uuid(text: str, nobody: NotFound) -> uuid.UUID:
    if not UUID_TEXT.fullmatch(text):  # Python takes other spellings of one, too
        raise nobody
    return uuid.UUID(text)


async def single_values(request: Request) -> None:
    """Refuse parameters that are given twice: each reader would take another one.

    Raises:
        InvalidRequest: One is.
    """
    names = [name for name, _ in request.query_params.multi_items()]
    for name in names:
        if names.count(name) > 1:
            # what a client calls its parameters is not repeated back
            raise InvalidRequest("A parameter is given more than once.")


def json_body(model: type[ModelT], *, optional: bool = False) -> Callable[..., Awaitable[ModelT]]:
    """Make a dependency that reads a small JSON body, after whoever sends it is known.

    FastAPI would read it first and ask for the key then.

    Args:
        optional: No body at all is as good as ``{}``.
    """

    async def read(request: Request, _caller: Annotated[Principal, Depends(caller)]) -> ModelT:
        require_plain(request)
        body = await _small_body(request)
        if optional and not body:
            return model()
        if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            raise HTTPException(415, "The body should be application/json.")
        return _parse(model, body)

    return read


async def _small_body(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_JSON_BYTES:
            raise HTTPException(413, f"The body may have {MAX_JSON_BYTES} bytes.")
    return bytes(body)


def _parse(model: type[ModelT], body: bytes) -> ModelT:
    try:
        plain_json.loads(body)
    except NotStorable:
        raise InvalidRequest(NOT_STORABLE) from None
    except NotPlain as error:
        raise ClientError(f"The body cannot be read. {error}") from None
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        details = error.errors(include_url=False, include_context=False, include_input=False)
        raise InvalidRequest(
            "Some fields have values that are not allowed.", errors=field_errors(details)
        ) from None
