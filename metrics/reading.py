"""Reads what is shown, in few queries; that of a large queue costs most, some 0.1 s a 100,000."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import text
from sqlalchemy.orm import Session

import tallies
from jobs import vitals
from jobs.conditions import KINDS, DiskFacts, judge
from jobs.vitals import Outside, Vitals
from jobs.workers import SILENT_SECONDS
from models import Worker

#: Judged by each web process of itself.
UNKNOWN_HERE: Final = frozenset({"database_pool_busy"})
STATES: Final = ("due", "later", "fetching", "processing")

_QUEUE: Final = text("""
SELECT lane,
       CASE WHEN status = 'processing' THEN 'processing'
            WHEN upload_awaited THEN 'fetching'
            WHEN not_before <= now() THEN 'due'
            ELSE 'later' END AS state,
       count(*) AS jobs,
       COALESCE(sum(audio_seconds * CASE WHEN status = 'processing' THEN 1 - progress ELSE 1 END),
                0) AS audio_seconds
  FROM transcription_jobs
 WHERE status IN ('pending', 'processing')
 GROUP BY 1, 2
""")

_REST: Final = text("""
SELECT (SELECT count(*) FROM webhook_deliveries WHERE status = 'pending') AS deliveries,
       pg_database_size(current_database()) AS size_bytes,
       (SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()) AS connections,
       CAST(current_setting('max_connections') AS integer) AS connections_max,
       (SELECT EXTRACT(EPOCH FROM max(at))
          FROM audit_events
         WHERE action = 'backup_taken') AS backup_at
""")


@dataclass(frozen=True, slots=True)
class Sample:
    """A value of a gauge, with its labels' values in their order."""

    name: str
    value: float
    labels: tuple[str, ...] = ()


def read(
    session: Session,
    *,
    lanes: Sequence[str],
    redis: bool,
    disk: DiskFacts | None,
    lease_seconds: float,
) -> list[Sample]:
    """How things are now."""
    outside = Outside(redis=redis, pool_used=0, pool_size=0, disk=disk)
    seen = vitals.read(session, outside, lane_names=lanes, lease_seconds=lease_seconds)
    return [
        *_queue(session, lanes),
        *_waiting(seen),
        *_processes(seen),
        *_models(seen),
        *_conditions(seen),
        *_rest(session),
    ]


def counts(session: Session) -> dict[tallies.Key, float]:
    """What was counted, by everybody, ever."""
    return tallies.read(session)


def _queue(session: Session, lanes: Sequence[str]) -> Iterator[Sample]:
    rows = {(row.lane, row.state): row for row in session.execute(_QUEUE)}
    for place in ((lane, state) for lane in lanes for state in STATES):
        row = rows.get(place)
        yield Sample("jobs", row.jobs if row else 0, place)
        yield Sample("audio_seconds", row.audio_seconds if row else 0.0, place)


def _waiting(seen: Vitals) -> Iterator[Sample]:
    for lane in seen.lanes:
        yield Sample("oldest_due_seconds", lane.oldest_seconds or 0.0, (lane.lane,))
        yield Sample("queue_paused", lane.lane in seen.paused, (lane.lane,))
    yield Sample("oldest_processing_seconds", seen.figures.oldest_processing_seconds or 0.0)
    yield Sample("dead_letters", seen.figures.unresolved_errors)
    due_since = seen.facts.call_due_since
    waited = seen.facts.seconds_since(due_since) if due_since else 0.0
    yield Sample("webhook_due_seconds", max(0.0, waited))


def _living(seen: Vitals) -> list[Worker]:
    return [view.worker for view in seen.workers if view.silent_seconds < SILENT_SECONDS]


def _processes(seen: Vitals) -> Iterator[Sample]:
    living = _living(seen)
    for role in ("maintenance", "webhooks", "worker"):
        yield Sample("processes", sum(process.role == role for process in living), (role,))
    workers = [process for process in living if process.role == "worker"]
    open_to_jobs = [worker for worker in workers if worker.draining_since is None]
    yield Sample("slots", sum(worker.slots for worker in open_to_jobs))
    yield Sample("slots_busy", sum(worker.running for worker in workers))
    yield Sample("workers_draining", len(workers) - len(open_to_jobs))


def _models(seen: Vitals) -> Iterator[Sample]:
    found: dict[tuple[str, ...], list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
    for worker in _living(seen):
        for model in worker.pool.get("models", ()):
            sums, said = found[_named(model["key"])], ("instances", "bytes", "borrowers")
            for place, what in enumerate(said):
                sums[place] += model.get(what, 0)
    for labels, (instances, size, borrowers) in found.items():
        yield Sample("loaded_models", instances, labels)
        yield Sample("loaded_model_bytes", size, labels)
        yield Sample("loaded_models_in_use", borrowers, labels)


def _named(key: dict[str, Any]) -> tuple[str, ...]:
    return tuple(str(key.get(part, "")) for part in ("engine", "model", "device"))


def _conditions(seen: Vitals) -> Iterator[Sample]:
    hold = {condition.code for condition in judge(seen.facts)}
    for code, kind in KINDS.items():
        if code not in UNKNOWN_HERE:
            yield Sample("condition", code in hold, (code, kind.severity.value))


def _rest(session: Session) -> Iterator[Sample]:
    row = session.execute(_REST).one()
    yield Sample("webhook_deliveries_pending", row.deliveries)
    yield Sample("database_size_bytes", row.size_bytes)
    yield Sample("database_connections", row.connections)
    yield Sample("database_connections_max", row.connections_max)
    if row.backup_at is not None:
        yield Sample("last_backup_timestamp_seconds", float(row.backup_at))
