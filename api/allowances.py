"""What a caller may take, and refusing what is more: requests, and what a new job would use.

Requests are counted when the caller is known. What a job uses is looked at twice: before a byte of
its body is read, and exactly, with its row, when it is added.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary

from sqlalchemy.orm import Session

from api.multipart import MAX_OVERHEAD_BYTES
from api.rates import REQUEST_COST, Rate, RequestLimiter, SharedCounts, Transaction
from auth import Allowance, Principal
from config import Settings
from errors import RateLimited
from jobs import quotas
from jobs.quotas import Quotas
from models import ApiKey


def default_allowance(settings: Settings) -> Allowance:
    """What a key may take that has no limits of its own."""
    return Allowance(
        requests=settings.rate_limit_requests if settings.rate_limit_enabled else 0,
        audio_seconds_per_hour=settings.key_audio_seconds_per_hour,
        jobs_at_once=settings.key_jobs_at_once,
        bytes_stored=settings.key_stored_mb * 2**20,
    )


class Turns:
    """Lets what has the same name pass one after the other, within this process.

    Whoever waits here waits with nothing in hand: no thread, and no connection to PostgreSQL.
    """

    def __init__(self) -> None:
        # a lock is there for as long as somebody has it or waits for it
        self._locks: WeakValueDictionary[uuid.UUID, asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def wait(self, name: uuid.UUID) -> AsyncIterator[None]:
        lock = self._locks.setdefault(name, asyncio.Lock())
        async with lock:
            yield


class Allowances:
    """Holds callers to what they may take."""

    def __init__(self, settings: Settings, shared: SharedCounts, transaction: Transaction) -> None:
        self.default = default_allowance(settings)
        self.window_seconds = settings.rate_limit_window
        self._transaction = transaction
        self._turns = Turns()
        self._limiter = RequestLimiter(shared, transaction, window_seconds=self.window_seconds)

    def of(self, own: Allowance) -> Allowance:
        """What somebody may take for whom this was set; 0 is any amount."""
        return own.within(self.default)

    def count(self, principal: Principal, *, cost: int = REQUEST_COST) -> Rate | None:
        """Count a request; None where they are not limited."""
        limit = self.of(principal.allowance).requests
        return self._limiter.hit(principal.key_id, limit, cost=cost) if limit else None

    def look(self, key: ApiKey) -> Rate | None:
        """Where a key stands with its requests, without counting; None where nobody knows."""
        limit = self.of(Allowance.of(key)).requests
        return self._limiter.look(key.id, limit) if limit else None

    def require_room(self, principal: Principal, *, body_bytes: int) -> None:
        """Refuse a submission of which nothing was read yet, if it cannot be taken.

        Args:
            body_bytes: Of the whole body; 0 when it is not told.

        Raises:
            QuotaExceeded: It would be too many or too much.
            DatabaseUnavailable: That cannot be looked up now.
        """
        if wanted := self._quotas(principal):
            at_least = max(1, body_bytes - MAX_OVERHEAD_BYTES)
            with self._transaction() as session:
                quotas.require_room(session, principal.key_id, wanted, upload_bytes=at_least)

    @asynccontextmanager
    async def turn(self, principal: Principal) -> AsyncIterator[None]:
        """Wait for this key's other submissions in this process, if they are to be counted."""
        if not self._quotas(principal):
            yield
            return
        async with self._turns.wait(principal.key_id):
            yield

    def take_room(self, session: Session, principal: Principal, *, upload_bytes: int) -> None:
        """Make sure that there is room for a job that is added in the same transaction.

        Until it ends no other job of the key is added, so of many at once no more than allowed are.

        Raises:
            QuotaExceeded: It would be too many or too much.
        """
        if wanted := self._quotas(principal):
            quotas.hold(session, principal.key_id)
            quotas.require_room(session, principal.key_id, wanted, upload_bytes=upload_bytes)

    def _quotas(self, principal: Principal) -> Quotas:
        allowed = self.of(principal.allowance)
        return Quotas(
            audio_seconds_per_hour=allowed.audio_seconds_per_hour or None,
            jobs_at_once=allowed.jobs_at_once or None,
            bytes_stored=allowed.bytes_stored or None,
        )


def refusal(rate: Rate) -> RateLimited:
    """The error of a caller who asks too often."""
    return RateLimited(
        limit=rate.limit,
        window_seconds=rate.window_seconds,
        retry_after_seconds=rate.reset_seconds,
    )
