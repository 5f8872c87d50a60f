"""The leases that one process holds, and the thread that keeps them.

Heartbeats go over a connection of their own: a request that exhausts the pool must not kill
leases. A database that is away reaps nobody (the reaper is blind then too), so the thread only
tries again. Python cannot stop a thread, so stopping is cooperative: ``Hold.check`` raises.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from errors import CancelRequested, DeadlineExceeded, Draining, LeaseLost, ServiceError
from jobs import lifecycle
from jobs.lifecycle import Beat, Lease

logger = logging.getLogger(__name__)

Clock = Callable[[], float]


class Announce(Protocol):
    """Writes what this process says of itself; called after each heartbeat, in its transaction."""

    def __call__(self, session: Session, *, running: int, begun: int) -> None: ...


class Refused(Exception):
    """No attempt may begin: the process is ending, or every slot is taken."""


class Hold:
    """One lease in this process: what its attempt says, and what it is told."""

    def __init__(self, lease: Lease, clock: Clock) -> None:
        self.lease = lease
        self._clock = clock
        self._lock = threading.Lock()
        self._progress = 0.0
        self._step: str | None = None
        self._sign_at = clock()
        self._deadline_at: float | None = None
        self._stop: ServiceError | None = None

    def sign(self, *, progress: float | None = None, step: str | None = None) -> None:
        """Show that work goes on; the next heartbeat tells progress (0 to 1) and step."""
        with self._lock:
            self._sign_at = self._clock()
            self._progress = self._progress if progress is None else progress
            self._step = step or self._step

    def start_deadline(self, seconds: float) -> None:
        """Begin to count: what came before, such as a download, was not the job's fault."""
        with self._lock:
            self._deadline_at = self._clock() + seconds

    def stop(self, reason: ServiceError) -> None:
        """Ask the attempt to stop; a lost lease outranks whatever was asked before."""
        with self._lock:
            if self._stop is None or isinstance(reason, LeaseLost):
                self._stop = reason

    def check(self) -> None:
        """Do nothing, or raise why the attempt must stop.

        Raises:
            LeaseLost, CancelRequested, Draining, DeadlineExceeded
        """
        with self._lock:
            reason, deadline_at = self._stop, self._deadline_at
        if reason is not None:
            raise reason
        if deadline_at is not None and self._clock() > deadline_at:
            raise DeadlineExceeded

    def beat(self) -> Beat:
        with self._lock:
            return Beat(lease=self.lease, progress=self._progress, step=self._step)

    @property
    def silent_seconds(self) -> float:
        with self._lock:
            return self._clock() - self._sign_at


class LeaseKeeper:
    """Keeps all leases of one process alive with one statement per heartbeat."""

    def __init__(
        self,
        sessions: sessionmaker[Session],
        *,
        heartbeat_seconds: float,
        stall_seconds: float,
        announce: Announce,
        on_stall: Callable[[Hold], None],
        clock: Clock = time.monotonic,
    ) -> None:
        self._sessions = sessions
        self._heartbeat_seconds = heartbeat_seconds
        self._stall_seconds = stall_seconds
        self._announce = announce
        self._on_stall = on_stall
        self._clock = clock
        self._holds: dict[uuid.UUID, Hold] = {}
        self._attempts = 0
        self._begun = 0
        self._refusing = False
        self._draining = False
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Stop beating. Leases still held are found by the reaper."""
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join(timeout=self._heartbeat_seconds)

    @contextmanager
    def admitted(self, slots: int) -> Iterator[None]:
        """Count an attempt, from before its claim to after its end.

        Args:
            slots: How many may be under way at once.

        Raises:
            Refused
        """
        with self._lock:
            if self._refusing or self._attempts >= slots:
                raise Refused
            self._attempts += 1
        try:
            yield
        finally:
            with self._lock:
                self._attempts -= 1

    def refuse(self) -> None:
        """Admit no further attempt."""
        with self._lock:
            self._refusing = True

    @property
    def attempts(self) -> int:
        """How many attempts are under way, claimed or about to be."""
        with self._lock:
            return self._attempts

    @contextmanager
    def hold(self, lease: Lease) -> Iterator[Hold]:
        """Keep a lease alive for the length of the block."""
        hold = Hold(lease, self._clock)
        with self._lock:
            before = self._holds.get(lease.job_id)
            self._holds[lease.job_id] = hold
            self._begun += 1
            if self._draining:  # claimed while the others were told
                hold.stop(Draining())
        if before is not None:
            # the job came back to us while a thread of ours still worked under its old lease
            before.stop(LeaseLost())
        try:
            yield hold
        finally:
            self.release(hold)

    def release(self, hold: Hold) -> None:
        with self._lock:
            if self._holds.get(hold.lease.job_id) is hold:
                del self._holds[hold.lease.job_id]

    @property
    def holds(self) -> list[Hold]:
        with self._lock:
            return list(self._holds.values())

    def drain(self) -> None:
        """Ask every attempt to stop at its next window and hand its job back."""
        with self._lock:
            self._refusing = self._draining = True
            holds = list(self._holds.values())
        for hold in holds:
            hold.stop(Draining())

    def beat(self) -> None:
        """Renew every lease, say how this process is, and tell the attempts what came back.

        Raises:
            SQLAlchemyError: The database did not answer; nothing is lost by that.
        """
        self._drop_stalled()
        holds = self.holds
        with self._sessions.begin() as session:
            beats = [hold.beat() for hold in holds]
            answers = lifecycle.heartbeat(session, beats) if beats else {}
            self._say(session, running=len(holds))
        for hold in holds:
            cancel_requested = answers.get(hold.lease.job_id)
            if cancel_requested is None:
                self._lost(hold)
            elif cancel_requested:
                hold.stop(CancelRequested())

    def _say(self, session: Session, *, running: int) -> None:
        session.connection()  # that the database is away is said by what this raises
        # leases must not be lost over statistics
        try:
            with session.begin_nested():
                self._announce(session, running=running, begun=self._begun)
        except Exception:
            logger.exception("process not announced")

    def _lost(self, hold: Hold) -> None:
        # released while the statement ran: its end was written by the attempt itself
        if hold not in self.holds:
            return
        logger.warning("lease lost", extra={"job_id": str(hold.lease.job_id)})
        hold.stop(LeaseLost())

    def _drop_stalled(self) -> None:
        for hold in self.holds:
            if hold.silent_seconds > self._stall_seconds:
                logger.error("attempt shows no progress", extra={"job_id": str(hold.lease.job_id)})
                hold.stop(Draining())
                self._on_stall(hold)

    def _run(self) -> None:
        # the first at once: the dispatcher should know of these slots
        while not self._closed.is_set():
            try:
                self.beat()
            except SQLAlchemyError as error:
                logger.warning("heartbeat failed", extra={"error": type(error).__name__})
            except Exception:
                logger.exception("heartbeat failed")
            self._closed.wait(self._heartbeat_seconds)
