"""Who calls, for audit events; and which uses of a key and which reads make one.

A client that asks again and again makes no row each time: in each process the same use counts once
in a while. It is remembered when its row is committed, so none is left out.
"""

from __future__ import annotations

import functools
import ipaddress
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Hashable
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

from sqlalchemy import event
from sqlalchemy.orm import Session
from starlette.types import Scope

from api.connections import party
from api.denials import Denials
from api.rates import Transaction
from audit.events import Actor, record
from auth import Principal
from errors import HTTPSRequired, NotAllowed, NotAuthenticated, NotFound, RateLimited, ServiceError
from models import AuditAction
from redaction import Mask

#: A key that is used from an address is told once in so long.
USE_SECONDS: Final = 3600.0
#: The same read of the same job by the same key is.
READ_SECONDS: Final = 60.0
#: Uses that one process remembers.
MAX_REMEMBERED: Final = 10_000
#: Where a request keeps who makes it.
ACTOR: Final = "actor"
REFUSALS: Final = (NotAuthenticated, NotAllowed, HTTPSRequired)


class Recent:
    """What was done not long ago."""

    def __init__(self, seconds: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._until: OrderedDict[Hashable, float] = OrderedDict()

    def __contains__(self, what: Hashable) -> bool:
        with self._lock:
            return self._until.get(what, float("-inf")) > self._clock()

    def add(self, what: Hashable) -> None:
        with self._lock:
            self._until[what] = self._clock() + self._seconds
            self._until.move_to_end(what)
            while len(self._until) > MAX_REMEMBERED:
                self._until.popitem(last=False)


class Trail:
    """What a web process adds to the audit events beside its acts.

    Args:
        mask: Takes out of a request's id what a client should not have put there.
    """

    def __init__(
        self,
        transaction: Transaction,
        *,
        mask: Mask,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.denials = Denials(transaction, clock=clock)
        self._mask = mask
        self._used = Recent(USE_SECONDS, clock=clock)
        self._read = Recent(READ_SECONDS, clock=clock)

    def whence(self, scope: Scope) -> Actor:
        """Tell where a request comes from, before it is known who makes it."""
        route = scope.get("route")
        path = getattr(route, "path", None)
        return Actor(
            name=None,
            address=_address(scope),
            request_id=self._mask(scope.get("state", {}).get("request_id", "")) or None,
            route=None if path is None else f"{scope['method']} {path}",
        )

    def used(self, session: Session, actor: Actor) -> None:
        """Note that a key was used."""
        what = (actor.key_id, _neighbourhood(actor.address))
        if what not in self._used:
            record(session, actor, AuditAction.KEY_USED)
            _when_committed(session, functools.partial(self._used.add, what))

    def read(
        self,
        session: Session,
        actor: Actor,
        action: AuditAction,
        job_id: uuid.UUID | None = None,
    ) -> None:
        """Note that something was read."""
        what = (actor.key_id, action, job_id)
        if what not in self._read:
            record(session, actor, action, job_id=job_id)
            _when_committed(session, functools.partial(self._read.add, what))

    def refused(self, scope: Scope, error: ServiceError) -> None:
        """Note that a request was refused, if that is what the error says."""
        known: Actor | None = scope.get("state", {}).get(ACTOR)
        actor = known or self.whence(scope)
        job_id = None
        if isinstance(error, NotFound):
            job_id = _job_id(scope)
            if known is None or job_id is None or " /admin/" in (actor.route or ""):
                return
        elif isinstance(error, RateLimited) and known is not None:
            return  # asks too often, and is who he says
        elif not isinstance(error, (*REFUSALS, RateLimited)):
            return
        if isinstance(error, NotAuthenticated) and error.key is not None:
            key_id, name, owner_id = error.key
            actor = replace(actor, name=name, key_id=key_id, owner_id=owner_id)
        # refusals are counted, and a subscriber has more addresses than can be told apart
        actor = replace(actor, address=_neighbourhood(actor.address))
        self.denials.note(actor, error, _reason(error), job_id)


def known_as(actor: Actor, principal: Principal) -> Actor:
    """An actor, once it is known who it is."""
    return replace(
        actor, name=principal.key_prefix, key_id=principal.key_id, owner_id=principal.owner_id
    )


def _reason(error: ServiceError) -> str | None:
    if isinstance(error, NotAuthenticated):
        return error.reason
    scope = error.data.get("scope")
    return None if scope is None else f"needs {scope}"


def _job_id(scope: Scope) -> uuid.UUID | None:
    with suppress(ValueError, KeyError):
        return uuid.UUID(scope["path_params"]["job_id"])
    return None


def _address(scope: Scope) -> str | None:
    """The client's address; a proxy that we trust may say anything, which is not taken over."""
    client = scope.get("client")
    if client is None:
        return None
    try:
        found = ipaddress.ip_address(client[0].partition("%")[0])
    except ValueError:
        return "unknown"
    return str(getattr(found, "ipv4_mapped", None) or found)


def _neighbourhood(address: str | None) -> str | None:
    with suppress(ValueError):
        return None if address is None else party(address)
    return address


def _when_committed(session: Session, act: Callable[[], None]) -> None:
    def committed(_: Any) -> None:
        act()

    event.listen(session, "after_commit", committed, once=True)
