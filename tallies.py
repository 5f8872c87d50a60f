"""How often things happened: counted where they do, added up in PostgreSQL, read by ``metrics``.

What happens to jobs and deliveries is counted by triggers, in the transaction in which it does.
Everything else a process counts in memory, and a thread of its own adds it to the table every few
seconds: no request and no attempt waits for that, nothing is lost while PostgreSQL is away, and
a process that is killed takes a few seconds of counts with it. So what was counted outlives who
counted it, and never falls; it is all in one place however many processes there are.
"""

from __future__ import annotations

import logging
import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import bindparam, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from database import Sessions, get_db_session
from errors import ServiceError

logger = logging.getLogger(__name__)

WRITE_SECONDS: Final = 5.0
#: Fewer rows than that are read in no time, and not worth folding.
FOLD_FROM: Final = 1000

Labels = Mapping[str, str]
#: Of what is counted: its name in the table, and its labels with their values, by name.
Key = tuple[str, tuple[tuple[str, str | int], ...]]


@dataclass(frozen=True, slots=True)
class Counted:
    """Something that is counted: ``transcription_NAME_total``, or a histogram if it has bounds."""

    means: str
    labels: tuple[str, ...] = ()
    #: Upper ends of a histogram's buckets; values are observed, and counted by bucket.
    bounds: tuple[float, ...] = ()
    #: Labels that are shown before the first of them, at 0: Prometheus sees no rise from nothing.
    known: Sequence[Labels] = ()


#: As long as a job waits; the migration's trigger has the same bounds.
WAITS: Final = (1, 5, 15, 60, 300, 900, 3600, 14400)
_MODEL: Final = ("engine", "model", "device")

COUNTED: Final[Mapping[str, Counted]] = {
    "jobs_submitted": Counted(
        "Jobs that were submitted.",
        ("priority",),
        known=({"priority": "high"}, {"priority": "normal"}),
    ),
    "jobs_ended": Counted(
        "Jobs that ended. `reason` is that of a failed one; of a cancelled one `deleted` where it"
        " was deleted before its end.",
        ("status", "reason"),
        known=(
            {"status": "completed", "reason": ""},
            {"status": "cancelled", "reason": ""},
            {"status": "cancelled", "reason": "deleted"},
            *({"status": "failed", "reason": r} for r in ("attempts_exhausted", "poison")),
        ),
    ),
    "jobs_redriven": Counted("Failed jobs that an operator or a batch sent round again."),
    "wait_seconds": Counted(
        "How long jobs had been due when an attempt at them began.", ("lane",), WAITS
    ),
    "attempts": Counted(
        "Attempts that ended. `outcome`: `completed`, `failed`, `cancelled`, `retried` (failed, and"
        " tried again), `crashed` (its worker or its own process died, or it hung), `handed_back`,"
        " `stepped_aside`, `put_off`; `code` is the error's.",
        ("outcome", "code"),
        known=(
            *({"outcome": o, "code": ""} for o in ("completed", "cancelled", "handed_back")),
            {"outcome": "stepped_aside", "code": ""},
            *({"outcome": "crashed", "code": code} for code in ("worker_lost", "stalled")),
            {"outcome": "retried", "code": "out_of_memory"},
        ),
    ),
    "transcribed_audio_seconds": Counted("Audio that models went through.", _MODEL),
    "transcribing_seconds": Counted(
        "Time that models took for it, of each attempt by itself; by it, divided by the audio, is"
        " the real-time factor.",
        _MODEL,
    ),
    "fences": Counted(
        "Attempts that were abandoned because their lease was another's: they wrote nothing more."
    ),
    "out_of_memory_steps": Counted(
        "Steps down after running out of memory, by the model that did not fit and what it was"
        " about to do: `load` or `transcribe`.",
        ("model", "reason"),
    ),
    "model_loads": Counted("Models that were loaded."),
    "model_load_seconds": Counted("Time that loading took."),
    "model_load_failures": Counted("Loads that failed."),
    "model_evictions": Counted("Models closed to make room for others."),
    "model_unloads": Counted("Models closed because nobody used them for MODEL_IDLE_SECONDS."),
    "model_discards": Counted("Models closed because they failed at work."),
    "model_waits": Counted("Attempts that had to wait for a model that others used."),
    "model_wait_seconds": Counted("Time that they waited."),
    "model_wait_timeouts": Counted("Of these, such as gave up."),
    "webhook_deliveries": Counted(
        "Webhooks' deliveries that ended.",
        ("status",),
        known=tuple({"status": status} for status in ("delivered", "failed", "dropped")),
    ),
    "webhook_tries": Counted(
        "Calls of webhooks, by the class of the answer, such as `2xx`; `none` if none came.",
        ("result",),
        known=tuple({"result": result} for result in ("2xx", "4xx", "5xx", "none")),
    ),
    "webhook_try_seconds": Counted("How long they took.", (), (0.1, 0.5, 1, 5, 15)),
    "http_requests": Counted(
        "Requests that the web processes answered. `route` is the route's own path, `none` where"
        " there is none; `status` is `none` where the client left first.",
        ("method", "route", "status"),
    ),
    "http_request_seconds": Counted(
        "How long they took, to the end of the answer: `/events` and whatever waits for a job take"
        " as long as that.",
        ("route",),
        (0.01, 0.05, 0.25, 1, 5, 30, 300),
    ),
}
#: What the pool of models counts, by the name that its own statistics have.
POOL: Final = {
    "loads": "model_loads",
    "load_seconds": "model_load_seconds",
    "load_failures": "model_load_failures",
    "evictions": "model_evictions",
    "unloads": "model_unloads",
    "discards": "model_discards",
    "waits": "model_waits",
    "wait_seconds": "model_wait_seconds",
    "timeouts": "model_wait_timeouts",
}

_WRITE: Final = text("""
INSERT INTO tallies (name, labels, value)
SELECT name, labels, value
  FROM jsonb_to_recordset(:rows) AS counted (name text, labels jsonb, value double precision)
""").bindparams(bindparam("rows", type_=JSONB))

_READ: Final = text("""
SELECT name, labels, sum(value) AS value
  FROM tallies
 GROUP BY name, labels
""")

#: Whoever reads meanwhile sees the rows from before or those from after, and the same sums.
_FOLD: Final = text("""
WITH folded AS (
    DELETE FROM tallies
     WHERE id IN (SELECT id FROM tallies FOR UPDATE SKIP LOCKED)
       AND (SELECT count(*) FROM tallies) >= :least
    RETURNING name, labels, value
)
INSERT INTO tallies (name, labels, value)
SELECT name, labels, sum(value)
  FROM folded
 GROUP BY name, labels
""")


class Tallies:
    """What one process counted and has not written yet. Every method may be called by any thread.

    As large as there are kinds, whatever happens and however long PostgreSQL is away.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[Key, float] = {}

    def add(self, name: str, amount: float = 1.0, **labels: str) -> None:
        """Count something of ``COUNTED``, with all of its labels and no others."""
        self._add((name, _in_order(name, labels)), amount)

    def observe(self, name: str, value: float, **labels: str) -> None:
        """Note a value for a histogram of ``COUNTED``."""
        ordered = _in_order(name, labels)
        bucket = bisect_left(COUNTED[name].bounds, value)
        self._add((f"{name}_bucket", (*ordered, ("bucket", bucket))), 1.0)
        self._add((f"{name}_sum", ordered), value)

    def take(self) -> dict[Key, float]:
        """What was counted since this was last asked for."""
        with self._lock:
            taken, self._counts = self._counts, {}
        return taken

    def put_back(self, taken: Mapping[Key, float]) -> None:
        """Keep what could not be written."""
        for key, amount in taken.items():
            self._add(key, amount)

    def _add(self, key: Key, amount: float) -> None:
        with self._lock:
            self._counts[key] = self._counts.get(key, 0.0) + amount


def _in_order(name: str, labels: Labels) -> tuple[tuple[str, str], ...]:
    wanted = COUNTED[name].labels
    if labels.keys() != set(wanted):
        raise ValueError(f"{name} is counted by {wanted}, not by {tuple(labels)}")
    return tuple((label, labels[label]) for label in wanted)


class Rises:
    """Counts what somebody else counts since its start: by how much it rose since the last look."""

    def __init__(self, tallies: Tallies, look: Callable[[], Mapping[str, float]]) -> None:
        self._tallies = tallies
        self._look = look
        self._seen: Mapping[str, float] = {}

    def __call__(self) -> None:
        found = self._look()
        for name, value in found.items():
            if rise := value - self._seen.get(name, 0.0):
                self._tallies.add(name, rise)
        self._seen = found


class Writer:
    """Writes what a process counted into the table, in a thread of its own.

    Where PostgreSQL took it and its answer was lost, it is written once more.
    """

    def __init__(
        self,
        tallies: Tallies,
        sessions: Sessions,
        *,
        before: Callable[[], object] = lambda: None,
        pause_seconds: float = WRITE_SECONDS,
    ) -> None:
        """Begin with nothing written.

        Args:
            before: Called before each time, to count what is not counted as it happens.
        """
        self._tallies = tallies
        self._sessions = sessions
        self._before = before
        self._pause_seconds = pause_seconds
        self._closed = threading.Event()
        self._failed = False
        self._thread = threading.Thread(target=self._run, name="tallies", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Write what is left, if PostgreSQL is there to take it."""
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join(self._pause_seconds)

    def _run(self) -> None:
        while not self._closed.wait(self._pause_seconds):
            self.write()
        self.write()

    def write(self) -> None:
        """Write once; what cannot be written is kept for the next time."""
        try:
            self._before()
        except Exception:
            logger.exception("not counted")
        taken = self._tallies.take()
        if not taken:
            return
        try:
            with get_db_session(self._sessions) as session:
                write(session, taken)
        except (ServiceError, SQLAlchemyError) as error:
            self._tallies.put_back(taken)
            if not self._failed:  # said once, not every few seconds of an outage
                logger.warning("counts are kept back", extra={"error": type(error).__name__})
            self._failed = True
        else:
            self._failed = False


def write(session: Session, counts: Mapping[Key, float]) -> None:
    """Add counts to the table."""
    rows = [
        {"name": name, "labels": dict(labels), "value": amount}
        for (name, labels), amount in counts.items()
    ]
    session.execute(_WRITE, {"rows": rows})


def read(session: Session) -> dict[Key, float]:
    """All that was ever counted; a name that this version does not know is another's."""
    found: dict[Key, float] = {}
    for name, labels, value in session.execute(_READ):
        if (key := _key(name, labels)) is not None:
            found[key] = value
    return found


def _key(name: str, labels: Mapping[str, Any]) -> Key | None:
    base = name.removesuffix("_bucket").removesuffix("_sum")
    counted = COUNTED.get(name) or COUNTED.get(base)
    if counted is None or labels.keys() - {"bucket"} != set(counted.labels):
        return None
    bucket: Iterable[tuple[str, int]] = [("bucket", labels["bucket"])] if "bucket" in labels else ()
    return name, (*((label, str(labels[label])) for label in counted.labels), *bucket)


def fold(session: Session, *, least: int = FOLD_FROM) -> None:
    """Make one row of all that are alike, where there are ``least`` rows or more."""
    session.execute(_FOLD, {"least": least})
