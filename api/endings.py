"""Waiting for jobs to end: one connection that PostgreSQL tells of them, for a whole process.

A trigger sends each job's id on a channel as it ends. That is a hint and no more: what became of
it stands in its row. Lost ones, of a connection that died or a pooler that passes none on, are
made up for by one question after all that are waited for, now and then.
"""

from __future__ import annotations

import asyncio
import logging
import select
import socket
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

import psycopg2
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import PoolProxiedConnection

from errors import ServiceError

logger = logging.getLogger(__name__)

#: On which the trigger of the first migration sends.
CHANNEL: Final = "job_ended"
#: How long an ending may go unnoticed that nobody was told of.
SWEEP_SECONDS: Final = 5.0
_FAILURES: Final = (psycopg2.Error, SQLAlchemyError, OSError)

#: Which of these jobs have ended, or are no more.
Ended = Callable[[Collection[uuid.UUID]], set[uuid.UUID]]
Waiter = tuple[asyncio.AbstractEventLoop, asyncio.Event]


class Endings:
    """Wakes coroutines when their jobs end. Connects when the first one waits.

    Args:
        engine: Gives a connection that nobody else uses.
        ended: Asks the rows.
    """

    def __init__(
        self, engine: Engine, ended: Ended, *, sweep_seconds: float = SWEEP_SECONDS
    ) -> None:
        self._engine = engine
        self._ended = ended
        self._sweep_seconds = sweep_seconds
        self._lock = threading.Lock()
        self._waiters: dict[uuid.UUID, list[Waiter]] = {}
        self._thread: threading.Thread | None = None
        self._closed = threading.Event()
        #: Closed when it is time to end; the thread has the other end.
        self._ringer: socket.socket | None = None
        self._connection: PoolProxiedConnection | None = None
        #: psycopg2's own, of that.
        self._driver: Any = None
        self._fails = False

    @contextmanager
    def expect(self, job_id: uuid.UUID) -> Iterator[asyncio.Event]:
        """Give an event that is set when the job has ended, or may have.

        Only of what ends from now on: look at the row after this, and then wait.
        """
        waiter = (asyncio.get_running_loop(), asyncio.Event())
        with self._lock:
            self._waiters.setdefault(job_id, []).append(waiter)
            self._start()
        try:
            yield waiter[1]
        finally:
            with self._lock:
                left = [other for other in self._waiters[job_id] if other is not waiter]
                self._waiters[job_id] = left
                if not left:
                    del self._waiters[job_id]

    def close(self) -> None:
        self._closed.set()
        if self._thread is not None and self._ringer is not None:
            self._ringer.close()
            self._thread.join(self._sweep_seconds)

    def _start(self) -> None:
        if self._thread is None and not self._closed.is_set():
            bell, self._ringer = socket.socketpair()
            self._thread = threading.Thread(
                target=self._run, args=(bell,), name="endings", daemon=True
            )
            self._thread.start()

    def _run(self, bell: socket.socket) -> None:
        with bell:
            while not self._closed.is_set():
                self._round(bell)
            self._hang_up()

    def _round(self, bell: socket.socket) -> None:
        try:
            self._listen()
            # whatever ended while nobody listened
            self._sweep()
            self._attend(bell, time.monotonic() + self._sweep_seconds)
            self._fails = False
        except Exception as error:  # noqa: BLE001 - whatever it is, somebody waits
            self._hang_up()
            self._say(error)
            self._sweep()
            self._closed.wait(self._sweep_seconds)

    def _listen(self) -> None:
        if self._connection is not None:
            return
        self._connection = self._engine.raw_connection()
        self._driver = self._connection.driver_connection
        self._driver.set_session(autocommit=True)
        with self._driver.cursor() as cursor:
            cursor.execute(f"LISTEN {CHANNEL}")

    def _attend(self, bell: socket.socket, until: float) -> None:
        """Wake whoever's job ended, until it is time to ask."""
        while not self._closed.is_set() and (left := until - time.monotonic()) > 0:
            select.select([self._driver, bell], [], [], left)
            self._driver.poll()
            while self._driver.notifies:
                with suppress(ValueError):  # anybody may send anything
                    self._wake(uuid.UUID(self._driver.notifies.pop(0).payload))

    def _sweep(self) -> None:
        with self._lock:
            expected = list(self._waiters)
        if not expected:
            return
        try:
            ended = self._ended(expected)
        except ServiceError:
            return  # told of by whoever asks first
        for job_id in ended:
            self._wake(job_id)

    def _wake(self, job_id: uuid.UUID) -> None:
        with self._lock:
            waiters = list(self._waiters.get(job_id, ()))
        for loop, event in waiters:
            with suppress(RuntimeError):  # its loop is closed
                loop.call_soon_threadsafe(event.set)

    def _hang_up(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(*_FAILURES):
                connection.invalidate()

    def _say(self, error: Exception) -> None:
        # once, not at every round of an outage
        if not self._fails:
            logger.warning("endings are looked up", extra={"error": type(error).__name__})
        self._fails = True
