"""How many requests of one key are under way at once, in this process.

Whoever sends or takes one slowly has a connection for as long: with enough addresses, or behind a
proxy, one key could have them all.
"""

from __future__ import annotations

import threading
import uuid
from collections import Counter

from errors import TooManyAtOnce


class Crowd:
    """Counts the requests of keys that are under way.

    Args:
        most: Of one key; 0 is any number.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._inside: Counter[uuid.UUID] = Counter()

    def enter(self, key_id: uuid.UUID) -> None:
        """Count one more, until ``leave``.

        Raises:
            TooManyAtOnce: There are as many as there may be.
        """
        with self._lock:
            if 0 < self._most <= self._inside[key_id]:
                raise TooManyAtOnce(limit=self._most)
            self._inside[key_id] += 1

    def leave(self, key_id: uuid.UUID) -> None:
        with self._lock:
            self._inside[key_id] -= 1
            if not self._inside[key_id]:
                del self._inside[key_id]
