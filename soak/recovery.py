"""How long it took after each fault until things were well again, beside the promised bounds.

The bounds are the formulas of docs/what-survives-what.md. Faults that come while others last make
a recovery longer: what each of those may add is counted apart.
"""

from __future__ import annotations

import bisect
import uuid
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from soak.faults import Injected
from soak.observer import FINAL, Event

#: Celery's longest pause between two tries to reach Redis.
RECONNECT_SECONDS: Final = 32.0
#: Celery's own end, at most: ``worker.EXIT_SECONDS``.
EXIT_SECONDS: Final = 10.0
#: What the dispatcher needs to notice that Redis is back: its socket's time limit, twice.
NOTICE_SECONDS: Final = 4.0
#: What a process needs to notice that PostgreSQL is back: its longest pause, and a heartbeat.
WRITTEN_SECONDS: Final = 6.0
#: Machines that run this are busy: a bound holds if it holds within so many times its length …
ALLOWANCE: Final = 2.0
#: … and so much more, for which a process may simply not be scheduled.
HICCUP_SECONDS: Final = 3.0

# What a fault disturbs: somebody's jobs, messages, everything for a while, clients.
TAKEN_OVER: Final = frozenset({"worker-kill", "worker-freeze", "worker-duel"})
#: With the bound that is promised.
RUNG_AGAIN: Final = {
    "redis-flush": "noticed",
    "redis-delete": "redispatched",
    "redis-wipe": "reconnected",
}
REDIS_OUTAGES: Final = frozenset({"redis-kill", "redis-wipe", "redis-freeze"})
POSTGRES_OUTAGES: Final = frozenset({"postgres-restart", "postgres-kill", "postgres-cut"})
GOES_ON: Final = REDIS_OUTAGES | POSTGRES_OUTAGES | {"redis-cut"}
ANSWERS: Final = frozenset({"web-kill", "web-term"})
#: After these the reaper gives every lease its full time again.
BLINDING: Final = POSTGRES_OUTAGES | {"maintenance-kill", "maintenance-freeze"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """The names of docs/what-survives-what.md, in seconds."""

    reaped: float
    redispatched: float
    noticed: float
    reconnected: float
    drained: float

    @classmethod
    def of(cls, settings: Mapping[str, str]) -> Bounds:
        lease, dispatch = float(settings["LEASE_SECONDS"]), float(settings["DISPATCH_SECONDS"])
        redispatched = float(settings["REDISPATCH_SECONDS"]) + dispatch
        drain = float(settings["DRAIN_SECONDS"]) + float(settings["DRAIN_FORCE_SECONDS"])
        base = float(settings["RETRY_BASE_SECONDS"])
        return cls(
            reaped=lease + 2 * min(5.0, lease / 6) + base + 2 * dispatch,
            redispatched=redispatched,
            noticed=3 * dispatch,
            reconnected=RECONNECT_SECONDS + redispatched,
            drained=drain + EXIT_SECONDS,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """One worker's time with one job."""

    job_id: uuid.UUID
    holder: str
    began: float
    #: What ended it; None while it lasts.
    end: Event | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """One thing that a fault disturbed, and when that was over."""

    kind: str
    seconds: float
    #: None where nothing is promised.
    bound: float | None
    #: What faults of the same time may have added to the bound.
    added: float = 0.0

    @property
    def late(self) -> bool:
        if self.bound is None:
            return False
        return self.seconds > ALLOWANCE * (self.bound + self.added) + HICCUP_SECONDS


class History:
    """The events of a soak, by job."""

    def __init__(self, events: Sequence[Event]) -> None:
        self.of: dict[uuid.UUID, list[Event]] = defaultdict(list)
        for event in events:
            self.of[event.job_id].append(event)
        self.leases = [lease for job_id in self.of for lease in self._leases(job_id)]
        self._claims = sorted(lease.began for lease in self.leases)

    def _leases(self, job_id: uuid.UUID) -> Iterator[Lease]:
        claim: Event | None = None
        for event in self.of[job_id]:
            if event.what != "status":
                continue
            if claim is not None:
                yield Lease(job_id=job_id, holder=claim.writer, began=claim.at, end=event)
            claim = event if event.after == "processing" else None
        if claim is not None:
            yield Lease(job_id=job_id, holder=claim.writer, began=claim.at, end=None)

    def held(self, life: str, at: float) -> list[Lease]:
        """The leases of one process at one moment."""
        return [
            lease
            for lease in self.leases
            if lease.holder == life
            and lease.began <= at
            and (lease.end is None or lease.end.at > at)
        ]

    def moved(self, job_id: uuid.UUID, after: float) -> float | None:
        """When a job was next published, claimed or ended."""
        return next((e.at for e in self.of[job_id] if e.at > after and _moves(e)), None)

    def due_again(self, job_id: uuid.UUID, after: float) -> float | None:
        """When somebody noticed that a job's message was lost, or it moved all the same."""
        found = (e.at for e in self.of[job_id] if e.at > after and (e.what == "due" or _moves(e)))
        return next(found, None)

    def waits(self, job_id: uuid.UUID, at: float) -> bool:
        """Whether a job is pending, and may start."""
        before = [e for e in self.of[job_id] if e.what == "status" and e.at <= at]
        return bool(before) and before[-1].after == "pending" and (before[-1].due or 0) <= at

    def published(self, job_id: uuid.UUID, at: float) -> int:
        """How often it was published since it began to wait."""
        count = 0
        for event in self.of[job_id]:
            if event.at > at:
                break
            count = count + 1 if event.what == "dispatched" else 0
        return count

    def next_claim(self, at: float) -> float | None:
        place = bisect.bisect_right(self._claims, at)
        return self._claims[place] if place < len(self._claims) else None


def _moves(event: Event) -> bool:
    return event.what == "dispatched" or (
        event.what == "status" and (event.after == "processing" or event.after in FINAL)
    )


def recoveries(
    faults: Sequence[Injected], history: History, bounds: Bounds, accepted_at: Sequence[float]
) -> list[Recovery]:
    """Find what each fault disturbed.

    Args:
        accepted_at: When clients were told 202, sorted.
    """
    found = _Found(faults, history, bounds, accepted_at)
    return [recovery for fault in faults if not fault.in_vain for recovery in found.of(fault)]


class _Found:
    def __init__(
        self,
        faults: Sequence[Injected],
        history: History,
        bounds: Bounds,
        accepted_at: Sequence[float],
    ) -> None:
        self._faults = faults
        self._history = history
        self._bounds = bounds
        self._accepted_at = accepted_at

    def of(self, fault: Injected) -> Iterator[Recovery]:
        if fault.kind in TAKEN_OVER:
            yield from self._taken_over(fault)
        if fault.kind in RUNG_AGAIN:
            yield from self._rung_again(fault, getattr(self._bounds, RUNG_AGAIN[fault.kind]))
        if fault.kind in GOES_ON:
            bound = self._bounds.reconnected if fault.kind in REDIS_OUTAGES else None
            yield from self._goes_on(fault, bound)
        if fault.kind == "worker-term":
            yield self._recovery(fault, fault.began, fault.ended, self._bounds.drained)
        if fault.kind in ANSWERS:
            yield from self._answers(fault)

    def _taken_over(self, fault: Injected) -> Iterator[Recovery]:
        """From the fault until somebody else may have the job."""
        for life in fault.lives:
            for lease in self._history.held(life, fault.began):
                if lease.end is None or lease.end.writer == life:
                    continue
                moved = self._history.moved(lease.job_id, max(lease.end.at, fault.began) - 1e-6)
                if moved is not None:
                    yield self._recovery(fault, fault.began, moved, self._bounds.reaped)

    def _rung_again(self, fault: Injected, bound: float) -> Iterator[Recovery]:
        """From the loss of a message until the next one.

        Where everything was lost, until it is known that this one was: the lane has room for a
        window of messages, and whose turn it is among more jobs than that is not for us to say.
        """
        due = self._history.due_again if fault.kind == "redis-flush" else self._history.moved
        for job_id in dict.fromkeys(fault.jobs):
            if not self._history.waits(job_id, fault.began):
                continue
            moved = due(job_id, fault.began)
            times = self._history.published(job_id, fault.began)
            if fault.kind == "redis-delete":
                # whoever was rung for in vain is rung for later each time
                bound = self._bounds.redispatched * 2 ** max(0, times - 1)
            if moved is not None:
                yield self._recovery(fault, fault.ended, max(moved, fault.ended), bound)

    def _goes_on(self, fault: Injected, bound: float | None) -> Iterator[Recovery]:
        """From the end of an outage until a job that waited is started."""
        claim = self._history.next_claim(fault.ended)
        waited = any(self._history.waits(job_id, fault.ended) for job_id in self._history.of)
        if claim is not None and waited:
            yield self._recovery(fault, fault.ended, claim, bound)

    def _answers(self, fault: Injected) -> Iterator[Recovery]:
        """From the death of the web process until a client is answered again."""
        place = bisect.bisect_right(self._accepted_at, fault.ended)
        if place < len(self._accepted_at):
            yield self._recovery(fault, fault.began, self._accepted_at[place], None)

    def _recovery(
        self, fault: Injected, began: float, ended: float, bound: float | None
    ) -> Recovery:
        added = 0.0
        for other in sorted(self._faults, key=lambda other: other.began):
            adds = self._may_add(other, fault)
            met = other is not fault and not other.in_vain and other.ended + adds > began
            # what comes when a recovery is late already is no excuse for it
            allowed = ALLOWANCE * ((bound or 0.0) + added) + HICCUP_SECONDS
            until = ended if bound is None else min(ended, began + allowed)
            if met and other.began < until:
                added += adds
        return Recovery(kind=fault.kind, seconds=ended - began, bound=bound, added=added)

    def _may_add(self, other: Injected, fault: Injected) -> float:
        """What another fault may add to the recovery from a fault that it comes into."""
        lasted = other.ended - other.began
        if other.kind in REDIS_OUTAGES:
            return lasted + NOTICE_SECONDS
        if other.kind in BLINDING:
            # only who waits for the reaper waits for a lease's full time again
            return lasted + (self._bounds.reaped if fault.kind in TAKEN_OVER else WRITTEN_SECONDS)
        return 0.0
