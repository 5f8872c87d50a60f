"""A point in time that several waits share."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True)
class Deadline:
    """When to give up, on the monotonic clock."""

    at: float

    @classmethod
    def after(cls, seconds: float) -> Self:
        return cls(time.monotonic() + seconds)

    def sooner(self, seconds: float) -> Deadline:
        """The same, or so many seconds from now if that comes first."""
        return Deadline(min(self.at, time.monotonic() + seconds))

    def left(self) -> float:
        """Seconds until then, more than none.

        Raises:
            TimeoutError: There are none.
        """
        if (seconds := self.at - time.monotonic()) <= 0:
            raise TimeoutError
        return seconds
