"""Refusals as audit events: counted, so that a flood of them is a few rows.

Whoever is refused need not wait for a row, and a transaction that failed leaves none. So refusals
are noted in memory, those that are alike together, and a thread writes them: the first of a kind
within a second, how many more came when its minute is over.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from api.rates import Transaction
from audit.events import Actor, record
from errors import NotFound, ServiceError
from models import AuditAction, DeletedJob, TranscriptionJob

logger = logging.getLogger(__name__)

#: So long refusals that are alike are counted together.
WINDOW_SECONDS: Final = 60.0
#: How soon the first of them is written.
PROMPT_SECONDS: Final = 1.0
#: Kinds that are told apart at a time; those beyond are counted as one of each outcome. A process
#: writes no more than twice as many rows in a minute, and a few.
MAX_KINDS: Final = 100
#: Jobs asked for and not found of which it is not known yet whether they are somebody's.
MAX_UNKNOWN: Final = 1000
#: Stands for all that was not told apart.
OTHERS: Final = "others"
NOBODY: Final = Actor(name=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Denial:
    """A kind of refusal: all of it is alike, but the request's id."""

    #: Without the request's id; an IPv6 network of 64 bits is one address.
    actor: Actor
    #: The error's code.
    outcome: str
    reason: str | None = None
    #: Somebody else's.
    job_id: uuid.UUID | None = None


@dataclass(slots=True)
class _Count:
    """How often something was refused since it was last written."""

    until: float
    request_id: str | None
    pending: int = 1
    written: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """What is to be written."""

    denial: Denial
    request_id: str | None
    count: int


class Tally:
    """Counts refusals by their kind; may be asked from any thread."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._kinds: dict[Denial, _Count] = {}
        #: Asked for and not found: if somebody's, it is a refusal.
        self._unknown: OrderedDict[Denial, str | None] = OrderedDict()

    def note(self, denial: Denial, request_id: str | None, *, count: int = 1) -> None:
        with self._lock:
            self._note(denial, request_id, count)

    def suspect(self, denial: Denial, request_id: str | None) -> None:
        """Note that a job was asked for which the caller does not have; maybe nobody does."""
        with self._lock:
            if denial in self._unknown or len(self._unknown) < MAX_UNKNOWN:
                self._unknown[denial] = request_id
            else:
                self._note(_others(denial.outcome), None, 1)

    def suspects(self) -> dict[Denial, str | None]:
        with self._lock:
            found, self._unknown = dict(self._unknown), OrderedDict()
        return found

    def due(self, *, everything: bool = False) -> list[Row]:
        """Take what is to be written now: kinds that are new, and those whose window is over."""
        with self._lock:
            now, rows = self._clock(), []
            for denial, count in list(self._kinds.items()):
                over = everything or now >= count.until
                if count.pending and (over or not count.written):
                    rows.append(Row(denial, count.request_id, count.pending))
                    count.pending, count.written = 0, True
                if over:
                    del self._kinds[denial]
        return rows

    def put_back(self, rows: list[Row]) -> None:
        """Count again what could not be written."""
        with self._lock:
            for row in rows:
                self._note(row.denial, row.request_id, row.count)

    def _note(self, denial: Denial, request_id: str | None, count: int) -> None:
        found = self._kinds.get(denial)
        if found is None and len(self._kinds) >= MAX_KINDS:
            denial, request_id = _others(denial.outcome), None
            found = self._kinds.get(denial)
        if found is None:
            until = self._clock() + WINDOW_SECONDS
            self._kinds[denial] = _Count(until=until, request_id=request_id, pending=count)
        else:
            found.pending += count


class Denials:
    """Writes what is refused; while PostgreSQL is away it goes on counting."""

    def __init__(
        self, transaction: Transaction, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._transaction = transaction
        self._tally = Tally(clock=clock)
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        self._fails = False

    def start(self) -> None:
        self._closed.clear()
        self._thread = threading.Thread(target=self._run, name="denials", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Write what is left, once."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join(2 * PROMPT_SECONDS)
        self.write(everything=True)

    def note(
        self, actor: Actor, error: ServiceError, reason: str | None, job_id: uuid.UUID | None
    ) -> None:
        """Note that somebody was refused.

        Args:
            job_id: The job that they asked for and that was not found.
        """
        denial = Denial(
            actor=dataclasses.replace(actor, request_id=None),
            outcome=error.code,
            reason=reason,
            job_id=job_id,
        )
        if isinstance(error, NotFound):
            self._tally.suspect(denial, actor.request_id)
        else:
            self._tally.note(denial, actor.request_id)

    def write(self, *, everything: bool = False) -> None:
        """Write what is due; what cannot be written is kept for the next time."""
        suspects = self._tally.suspects()
        rows: list[Row] = []
        try:
            with self._transaction() as session:
                for denial in _somebodys(session, suspects):
                    self._tally.note(denial, suspects[denial])
                suspects = {}
                rows = self._tally.due(everything=everything)
                for row in rows:
                    _write(session, row)
        except Exception as error:  # noqa: BLE001 - whatever it is, refusals go on and are counted
            self._tally.put_back(rows)
            for denial, request_id in suspects.items():
                self._tally.suspect(denial, request_id)
            self._say(error)
        else:
            self._fails = False

    def _say(self, error: Exception) -> None:
        # once, not at every round of an outage
        if not self._fails:
            logger.warning("refusals are not written", extra={"error": type(error).__name__})
        self._fails = True

    def _run(self) -> None:
        while not self._closed.wait(PROMPT_SECONDS):
            self.write()


def _others(outcome: str) -> Denial:
    return Denial(actor=NOBODY, outcome=outcome, reason=OTHERS)


def _somebodys(session: Session, suspects: dict[Denial, Any]) -> list[Denial]:
    """Those that asked for somebody else's job.

    Looked up here, so that their answer took no longer than that of an id which is nobody's.
    """
    if not suspects:
        return []
    ids = {denial.job_id for denial in suspects}
    owners = {
        row.id: row.owner_id
        for table in (TranscriptionJob, DeletedJob)
        for row in session.execute(select(table.id, table.owner_id).where(table.id.in_(ids)))
    }
    return [each for each in suspects if owners.get(each.job_id) not in {None, each.actor.owner_id}]


def _write(session: Session, row: Row) -> None:
    denial = row.denial
    record(
        session,
        dataclasses.replace(denial.actor, request_id=row.request_id),
        AuditAction.DENIED,
        job_id=denial.job_id,
        outcome=denial.outcome,
        count=row.count,
        detail={} if denial.reason is None else {"reason": denial.reason},
    )
