"""The reaper: ends the leases of workers that are gone, and of no others.

Whatever keeps heartbeats from being written must reap nobody: a clock that is set, a database that
is away, frozen, full, locked or read-only.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Row, select

from config import Settings
from database import Sessions, get_db_session
from errors import DatabaseUnavailable, WorkerLost
from jobs import lifecycle
from jobs.lifecycle import Backoff, StillLease
from models import JobStatus, TranscriptionJob
from retries import policy_of

logger = logging.getLogger(__name__)

LOOK_SECONDS: Final = 5.0


def pause_between_looks(settings: Settings) -> float:
    """Seconds; several fit into half of any lease, since a longer gap counts as an outage."""
    return min(LOOK_SECONDS, settings.lease_seconds / 6)


@dataclass(frozen=True, slots=True)
class _Sight:
    """A heartbeat, and for how long it was seen to stand still."""

    lease: StillLease
    still_seconds: float


class Stillness:
    """Judges leases by heartbeats that stand still on our own monotonic clock.

    No two clocks are compared, so a step of any clock reaps nobody. Time in which nothing was
    seen does not count: after an outage of the database every lease has its full time again.
    """

    def __init__(self, *, lease_seconds: float, clock: Callable[[], float]) -> None:
        self._lease_seconds = lease_seconds
        self._clock = clock
        self._seen: dict[uuid.UUID, _Sight] = {}
        self._looked_at: float | None = None

    def look(self, leases: Iterable[StillLease]) -> None:
        """Take in what is held now."""
        now = self._clock()
        elapsed = 0.0 if self._looked_at is None else now - self._looked_at
        blind = elapsed > self._lease_seconds / 2
        self._looked_at = now
        self._seen = {
            lease.job_id: _Sight(lease, 0.0 if blind else self._still(lease, elapsed))
            for lease in leases
        }

    @property
    def suspicious(self) -> list[StillLease]:
        """Leases that stood still for longer than a pause between two heartbeats explains."""
        return self._still_for(self._lease_seconds / 2)

    @property
    def over(self) -> list[StillLease]:
        """Leases that stood still for too long."""
        return self._still_for(self._lease_seconds)

    def excuse(self, leases: Iterable[StillLease]) -> None:
        """Take it that what kept these from moving is not their worker's death.

        They are suspicious still, and have half of their time to move.
        """
        for lease in leases:
            self._seen[lease.job_id] = _Sight(lease, self._lease_seconds / 2)

    def _still(self, lease: StillLease, elapsed: float) -> float:
        before = self._seen.get(lease.job_id)
        if before is None or before.lease != lease:
            return 0.0
        return before.still_seconds + elapsed

    def _still_for(self, seconds: float) -> list[StillLease]:
        return [sight.lease for sight in self._seen.values() if sight.still_seconds >= seconds]


class Reaper:
    """Ends the leases of workers that are gone."""

    def __init__(
        self, sessions: Sessions, settings: Settings, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._sessions = sessions
        self._stillness = Stillness(lease_seconds=settings.lease_seconds, clock=clock)
        self._max_crashes = settings.max_crashes
        self._backoff = Backoff.of(
            policy_of(WorkerLost),
            base_seconds=settings.retry_base_seconds,
            cap_seconds=settings.retry_cap_seconds,
        )

    def run(self) -> None:
        """One round.

        Raises:
            DatabaseUnavailable: Try again later.
        """
        with get_db_session(self._sessions) as session:
            rows = session.execute(HELD).all()
        self._stillness.look(map(_held, rows))
        self._excuse_unwritable(self._stillness.suspicious)
        if still := self._stillness.over:
            self._reap(still)

    def _excuse_unwritable(self, leases: Collection[StillLease]) -> None:
        """Blame no worker for a heartbeat that could not be written: we try to write it ourselves.

        Reading goes on while the disk is full, a table or a row is locked, the server read-only.
        """
        if not leases:
            return
        try:
            with get_db_session(self._sessions) as session:
                written = lifecycle.touch(session, leases)
        except DatabaseUnavailable:
            self._stillness.excuse(leases)
            raise
        self._stillness.excuse(lease for lease in leases if lease.job_id not in written)

    def _reap(self, still: Collection[StillLease]) -> None:
        with get_db_session(self._sessions) as session:
            reaped = lifecycle.reap(
                session, still, max_crashes=self._max_crashes, backoff=self._backoff
            )
        for job in reaped:
            logger.warning(
                "worker lost: job taken from it",
                extra={"job_id": str(job.job_id), "worker": job.worker_name, "status": job.status},
            )


HELD: Final = select(
    TranscriptionJob.id, TranscriptionJob.lease_epoch, TranscriptionJob.heartbeat_seq
).where(TranscriptionJob.status == JobStatus.PROCESSING)


def _held(row: Row[uuid.UUID, int, int]) -> StillLease:
    return StillLease(job_id=row.id, epoch=row.lease_epoch, heartbeat=row.heartbeat_seq)
