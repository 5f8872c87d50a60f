"""Requests of a key in a while, counted exactly across processes.

Redis counts, with the library ``limits``. While it is away PostgreSQL does, beginning from none.
"""

from __future__ import annotations

import logging
import math
import time
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final, TypeVar

import redis
from limits import RateLimitItem, RateLimitItemPerSecond
from limits.storage import RedisStorage
from limits.strategies import SlidingWindowCounterRateLimiter
from redis.backoff import NoBackoff
from redis.retry import Retry
from sqlalchemy.orm import Session

import request_counts

logger = logging.getLogger(__name__)

#: Redis has so long to answer: what it counts can be counted elsewhere.
TIMEOUT_SECONDS: Final = 0.25
#: After it did not, it is not asked for so long.
BREAKER_SECONDS: Final = 5.0
KEY_PREFIX: Final = "transcription:limits"
#: The policy's name in the headers.
POLICY: Final = "req"
#: What a request costs, and what asking after a job does: clients do that again and again, as they
#: are told to, and it is one row by its key.
REQUEST_COST: Final = 10
POLL_COST: Final = 1

T = TypeVar("T")
Transaction = Callable[[], AbstractContextManager[Session]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """Where a key stands with its requests."""

    allowed: bool
    limit: int
    window_seconds: int
    remaining: int
    #: When this window ends; for a request that is refused, when there is room for one.
    reset_seconds: int

    @property
    def headers(self) -> dict[str, str]:
        """As the IETF's draft on RateLimit fields has them."""
        return {
            "RateLimit-Policy": f'"{POLICY}";q={self.limit};w={self.window_seconds}',
            "RateLimit": f'"{POLICY}";r={self.remaining};t={self.reset_seconds}',
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A sliding window: what was spent in this one, and in the one before."""

    previous: int
    current: int
    #: Until this one ends; the one before has left it evenly until then.
    left_seconds: float

    def rate(
        self, limit: int, window_seconds: int, *, cost: int = REQUEST_COST, allowed: bool = True
    ) -> Rate:
        """Tell where somebody stands.

        Args:
            limit: In requests.
            cost: Of the request that was asked for.
        """
        carried = math.floor(self.previous * self.left_seconds / window_seconds)
        room = limit * REQUEST_COST - carried - self.current
        remaining = max(0, room // REQUEST_COST)
        wait = self.left_seconds
        fits_below = limit * REQUEST_COST - self.current - cost + 1
        if not allowed and fits_below > 0:
            # not until this window ends, but until so many of the one before have left that there
            # is room
            wait -= fits_below * window_seconds / max(1, self.previous)
        return Rate(
            allowed=allowed,
            limit=limit,
            window_seconds=window_seconds,
            remaining=remaining if allowed else 0,
            reset_seconds=max(1, math.ceil(wait)),
        )


class CountsAway(Exception):
    """Redis does not count now."""


class SharedCounts:
    """Sliding windows in Redis; after it failed it is left alone for a while."""

    def __init__(self, url: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._pool = redis.ConnectionPool.from_url(
            url,
            socket_timeout=TIMEOUT_SECONDS,
            socket_connect_timeout=TIMEOUT_SECONDS,
            retry=Retry(NoBackoff(), 0),
        )
        self._storage = RedisStorage("redis://", connection_pool=self._pool, key_prefix=KEY_PREFIX)
        self._limiter = SlidingWindowCounterRateLimiter(self._storage)
        self._clock = clock
        self._closed_until = float("-inf")

    def close(self) -> None:
        self._pool.disconnect()

    def hit(self, item: RateLimitItem, name: str, *, cost: int = 1) -> tuple[bool, Window]:
        """Count something if there is room; returns whether there was, and how it is now.

        Raises:
            CountsAway: Redis does not answer, or did not a moment ago.
        """
        return self._asked(
            lambda: (self._limiter.hit(item, name, cost=cost), self._window(item, name))
        )

    def look(self, item: RateLimitItem, name: str) -> Window:
        """How it is, without counting.

        Raises:
            CountsAway: Redis does not answer, or did not a moment ago.
        """
        return self._asked(lambda: self._window(item, name))

    def _window(self, item: RateLimitItem, name: str) -> Window:
        seconds = item.get_expiry()
        previous, _, current, expires_in = self._storage.get_sliding_window(
            item.key_for(name), seconds
        )
        # a window's key is kept for two
        left = expires_in - seconds if current or previous else seconds
        return Window(previous=previous, current=current, left_seconds=max(0.0, left))

    def _asked(self, ask: Callable[[], T]) -> T:
        if self._clock() < self._closed_until:
            raise CountsAway
        try:
            return ask()
        except redis.RedisError as error:
            self._closed_until = self._clock() + BREAKER_SECONDS
            logger.warning(
                "redis does not count requests",
                extra={"error": type(error).__name__, "pause_seconds": BREAKER_SECONDS},
            )
            raise CountsAway from error


class RequestLimiter:
    """Counts requests of keys."""

    def __init__(
        self, shared: SharedCounts, transaction: Transaction, *, window_seconds: int
    ) -> None:
        self._shared = shared
        self._transaction = transaction
        self._window_seconds = window_seconds

    def hit(self, key_id: uuid.UUID, limit: int, *, cost: int = REQUEST_COST) -> Rate:
        """Count a request if there is room for it.

        Args:
            limit: In requests of ``REQUEST_COST``.

        Raises:
            DatabaseUnavailable: Neither Redis nor PostgreSQL counts.
        """
        try:
            allowed, window = self._shared.hit(self._item(limit), str(key_id), cost=cost)
        except CountsAway:
            allowed, window = self._hit_in_postgresql(key_id, limit, cost)
        return window.rate(limit, self._window_seconds, cost=cost, allowed=allowed)

    def look(self, key_id: uuid.UUID, limit: int) -> Rate | None:
        """Where a key stands, without counting; None while Redis is away."""
        try:
            window = self._shared.look(self._item(limit), str(key_id))
        except CountsAway:
            return None
        return window.rate(limit, self._window_seconds)

    def _item(self, limit: int) -> RateLimitItem:
        return RateLimitItemPerSecond(limit * REQUEST_COST, self._window_seconds)

    def _hit_in_postgresql(self, key_id: uuid.UUID, limit: int, cost: int) -> tuple[bool, Window]:
        with self._transaction() as session:
            count = request_counts.hit(
                session,
                key_id,
                limit=limit * REQUEST_COST,
                window_seconds=self._window_seconds,
                cost=cost,
            )
        window = Window(
            previous=count.previous, current=count.current, left_seconds=count.left_seconds
        )
        return count.allowed, window
