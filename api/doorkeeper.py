"""Whoever is refused too often is not listened to for a while: so nobody tries many keys."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final

from limits import RateLimitItemPerMinute

import auth
from api.rates import CountsAway, SharedCounts
from errors import RateLimited

logger = logging.getLogger(__name__)

WINDOW_SECONDS: Final = 60
#: Addresses and keys that one process remembers.
MAX_REMEMBERED: Final = 10_000


class Doorkeeper:
    """Counts the refusals of an address, in all processes together.

    Each process learns at its own next refusal that an address has had too many. While Redis is
    away each counts by itself.

    Args:
        limit: Refusals in a minute; 0 is any number.
    """

    def __init__(
        self, shared: SharedCounts, *, limit: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._shared = shared
        self._limit = limit
        self._clock = clock
        self._lock = threading.Lock()
        #: Until when an address is not listened to.
        self._sent_away: OrderedDict[str, float] = OrderedDict()
        #: Hashes of keys that worked not long ago: their holders are let pass where a neighbour
        #: behind the same address guesses. The key itself is looked up all the same.
        self._known: OrderedDict[bytes, None] = OrderedDict()
        #: While Redis is away: when an address's minute ends, and its refusals in it.
        self._own: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def admit(self, address: str, key: str | None) -> None:
        """Do nothing, or refuse to look at what an address sends.

        Raises:
            RateLimited: It was refused too often, and its key is not one that worked before.
        """
        with self._lock:
            until = self._sent_away.get(address)
            if until is None or (key is not None and auth.sha256(key) in self._known):
                return
            left = until - self._clock()
            if left <= 0:
                del self._sent_away[address]
                return
        raise _too_many(left)

    def remember(self, key: str) -> None:
        """Note that a key works."""
        if not self._limit:
            return
        digest = auth.sha256(key)
        with self._lock:
            self._known[digest] = None
            self._known.move_to_end(digest)
            _trim(self._known)

    def count_refusal(self, address: str) -> None:
        """Note that an address was refused.

        Raises:
            RateLimited: That was once too often.
        """
        if not self._limit:
            return
        try:
            item = RateLimitItemPerMinute(self._limit)
            allowed, window = self._shared.hit(item, address)
            left = window.left_seconds
        except CountsAway:
            allowed, left = self._count_alone(address)
        if allowed:
            return
        with self._lock:
            self._sent_away[address] = self._clock() + left
            _trim(self._sent_away)
        logger.warning("address refused too often", extra={"address": address})
        raise _too_many(left)

    def _count_alone(self, address: str) -> tuple[bool, float]:
        with self._lock:
            now = self._clock()
            until, count = self._own.get(address, (0.0, 0))
            if until <= now:
                until, count = now + WINDOW_SECONDS, 0
            self._own[address] = (until, count + 1)
            _trim(self._own)
            return count < self._limit, until - now


def _too_many(seconds: float) -> RateLimited:
    return RateLimited(
        "There were too many calls without a valid key from this address.",
        retry_after_seconds=max(1, math.ceil(seconds)),
    )


def _trim(remembered: OrderedDict[Any, Any]) -> None:
    while len(remembered) > MAX_REMEMBERED:
        remembered.popitem(last=False)
