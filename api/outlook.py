"""When a job's turn comes, and whether another can be taken: by looking at what waits, rarely."""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable
from typing import Final

from sqlalchemy.orm import Session

from celery_app import LANES
from errors import QueueFull
from jobs import backlog
from jobs.backlog import Backlog, Estimate
from models import TranscriptionJob

#: One look holds for so long, or for so many times as long as it took: a large backlog must not
#: keep PostgreSQL busy.
LEAST_SECONDS: Final = 1.0
SPARING: Final = 20.0
#: When to come back to a full queue, where nobody knows how fast it is worked off.
UNKNOWN_SECONDS: Final = 60
LONGEST_SECONDS: Final = 3600
#: So that those who were sent away together do not come back together.
JITTER: Final = 0.2


class Outlook:
    """What is known of the backlog.

    Args:
        budget_seconds: Audio that may wait; 0 is any amount.
    """

    def __init__(
        self,
        *,
        budget_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._budget_seconds = budget_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._looking = threading.Lock()
        self._seen: Backlog | None = None
        self._until = float("-inf")
        #: Audio of jobs that this process has added since.
        self._added_seconds = 0.0

    @property
    def has_budget(self) -> bool:
        return self._budget_seconds > 0

    def backlog(self, session: Session) -> Backlog:
        """What waits, as it was a moment ago."""
        seen = self._seen
        if seen is not None and self._clock() < self._until:
            return seen
        # whoever comes while somebody looks takes what was seen before, if anything was
        if not self._looking.acquire(blocking=seen is None) and seen is not None:
            return seen
        try:
            if self._seen is not None and self._clock() < self._until:
                return self._seen
            return self._look(session)
        finally:
            self._looking.release()

    def estimate(self, session: Session, job: TranscriptionJob, *, paused: bool) -> Estimate:
        """When a job's turn comes; while its queue is paused nobody can tell when it is done."""
        found = backlog.estimate(session, job, self.backlog(session), lanes=LANES)
        return Estimate(position=found.position) if paused else found

    def require_room(self, session: Session) -> None:
        """Do nothing, or refuse one more job because too much waits already.

        Raises:
            QueueFull: The budget is used up. Other web processes may have added jobs for a moment
                that this one does not know of.
        """
        if not self.has_budget:
            return
        seen = self.backlog(session)
        excess = seen.queued_seconds + self._added_seconds - self._budget_seconds
        if excess >= 0:
            raise QueueFull(retry_after_seconds=_wait(excess, seen.rate))

    def add(self, audio_seconds: float) -> None:
        """Note a job that was added, until it is seen among the others."""
        with self._lock:
            self._added_seconds += audio_seconds

    def _look(self, session: Session) -> Backlog:
        began = self._clock()
        with self._lock:
            noted = self._added_seconds
        seen = backlog.read(session)
        now = self._clock()
        with self._lock:
            self._added_seconds -= noted
        self._seen = seen
        self._until = now + max(LEAST_SECONDS, SPARING * (now - began))
        return seen


def _wait(excess_seconds: float, rate: float | None) -> int:
    wait = float(UNKNOWN_SECONDS) if rate is None else excess_seconds / rate
    wait *= random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311 - no secret
    return max(1, min(math.ceil(wait), LONGEST_SECONDS))
