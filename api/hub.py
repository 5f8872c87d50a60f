"""Following jobs: one connection that PostgreSQL tells of them, for a whole process, and a thread.

Triggers send a job's id on a channel when it starts, keeps a window, ends or is deleted. That is a
hint and no more: how it stands is asked of its row, for all that changed at once. Lost hints, of a
connection that died or a pooler that passes none on, are made up for by one question after all
that are followed, now and then; so are places in the queue, which move without a hint.
"""

from __future__ import annotations

import asyncio
import logging
import select
import socket
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Final

import psycopg2
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import PoolProxiedConnection
from starlette.types import Receive

from auth import Principal
from errors import ServiceError, TooManyWaits
from jobs.standings import Standing

logger = logging.getLogger(__name__)

#: On which the triggers of the first migration send.
CHANNEL: Final = "job_changed"
#: How long a change may go unnoticed that nobody was told of: of a job, or of a key.
SWEEP_SECONDS: Final = 5.0
#: After all were asked for, nobody is for so many times as long as it took: a large backlog and
#: many followers must not keep PostgreSQL busy.
SPARING: Final = 20.0
#: But not for longer than this: whose key was revoked is still there.
SWEEP_SECONDS_MAX: Final = 60.0
_FAILURES: Final = (psycopg2.Error, SQLAlchemyError, OSError)

#: How these jobs stand.
Look = Callable[[Collection[uuid.UUID]], Mapping[uuid.UUID, Standing]]
#: Whose keys are good no more.
Lapsed = Callable[[Collection[Principal]], Collection[Principal]]


class Follower:
    """One who follows a job, in his event loop."""

    __slots__ = ("_event", "_loop", "dismissed", "left", "principal", "standing", "stopping")

    def __init__(self, principal: Principal) -> None:
        self.principal = principal
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()
        #: How it stood when that was last told; None before.
        self.standing: Standing | None = None
        #: Whether he is told no more: he hung up, or was dismissed.
        self.left = False
        #: Whether his key is good no more.
        self.dismissed = False
        #: Whether the process stops.
        self.stopping = False

    async def news(self, seconds: float) -> None:
        """Wait until there may be something new, and no longer than this."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._event.wait()
        self._event.clear()

    async def end(self, seconds: float) -> bool:
        """Wait until the job has ended; False when that took too long, or nobody waits any more."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not (self.left or self.stopping or self._ended):
                    await self._event.wait()
                    self._event.clear()
        return self._ended

    @property
    def _ended(self) -> bool:
        return self.standing is not None and self.standing.ended

    @contextmanager
    def listening(self, receive: Receive) -> Iterator[None]:
        """Notice meanwhile that the client hangs up."""

        async def listen() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            self.left = True
            self._event.set()

        task = asyncio.create_task(listen())
        try:
            yield
        finally:
            task.cancel()

    def stop(self) -> None:
        """Say in his event loop that the process stops."""
        self.stopping = True
        self._event.set()

    def tell(self, standing: Standing) -> None:
        """Say in any thread how the job stands."""
        if standing != self.standing:
            self.standing = standing
            self._wake()

    def dismiss(self) -> None:
        """Say in any thread that his key is good no more."""
        self.dismissed = self.left = True
        self._wake()

    def _wake(self) -> None:
        with suppress(RuntimeError):  # its loop is closed
            self._loop.call_soon_threadsafe(self._event.set)


class Hub:
    """Tells followers how their jobs stand. Connects when the first one comes.

    Args:
        engine: Gives a connection that nobody else uses.
        look: Asks the rows of jobs.
        lapsed: Asks the rows of keys.
        most_per_key: How many may follow with one key at once; 0 is any number.
    """

    def __init__(
        self,
        engine: Engine,
        look: Look,
        lapsed: Lapsed,
        *,
        most_per_key: int = 0,
        sweep_seconds: float = SWEEP_SECONDS,
    ) -> None:
        self._engine = engine
        self._look = look
        self._lapsed = lapsed
        self._most_per_key = most_per_key
        self._sweep_seconds = sweep_seconds
        self._lock = threading.Lock()
        self._followers: dict[uuid.UUID, set[Follower]] = {}
        self._per_key: Counter[uuid.UUID] = Counter()
        self._thread: threading.Thread | None = None
        self._closed = threading.Event()
        #: Closed when it is time to end; the thread has the other end.
        self._ringer: socket.socket | None = None
        self._connection: PoolProxiedConnection | None = None
        #: psycopg2's own, of that.
        self._driver: Any = None
        self._fails = False

    @contextmanager
    def follow(self, job_id: uuid.UUID, principal: Principal) -> Iterator[Follower]:
        """Give somebody who is told whenever the job stands otherwise.

        Only of what happens from now on: look at the row after this, and then wait.

        Raises:
            TooManyWaits: As many as may do so with one key.
        """
        follower = Follower(principal)
        with self._lock:
            self._require_room(principal)
            self._per_key[principal.key_id] += 1
            self._followers.setdefault(job_id, set()).add(follower)
            self._start()
        try:
            yield follower
        finally:
            with self._lock:
                self._forget(job_id, follower)

    def require_room(self, principal: Principal) -> None:
        """Do nothing, or refuse whoever could not follow a job now.

        Raises:
            TooManyWaits: See ``follow``.
        """
        with self._lock:
            self._require_room(principal)

    def close(self) -> None:
        self._closed.set()
        if self._thread is not None and self._ringer is not None:
            self._ringer.close()
            self._thread.join(self._sweep_seconds)

    def _require_room(self, principal: Principal) -> None:
        if 0 < self._most_per_key <= self._per_key[principal.key_id]:
            raise TooManyWaits(limit=self._most_per_key)

    def _forget(self, job_id: uuid.UUID, follower: Follower) -> None:
        others = self._followers[job_id]
        others.discard(follower)
        if not others:
            del self._followers[job_id]
        key_id = follower.principal.key_id
        self._per_key[key_id] -= 1
        if not self._per_key[key_id]:
            del self._per_key[key_id]

    def _start(self) -> None:
        if self._thread is None and not self._closed.is_set():
            bell, self._ringer = socket.socketpair()
            self._thread = threading.Thread(target=self._run, args=(bell,), name="hub", daemon=True)
            self._thread.start()

    def _run(self, bell: socket.socket) -> None:
        with bell:
            while not self._closed.is_set():
                self._round(bell)
            self._hang_up()

    def _round(self, bell: socket.socket) -> None:
        try:
            self._listen()
            # whatever changed while nobody listened
            self._attend(bell, time.monotonic() + self._sweep())
            self._fails = False
        except Exception as error:  # noqa: BLE001 - whatever it is, somebody waits
            self._hang_up()
            self._say(error)
            self._closed.wait(self._sweep())

    def _listen(self) -> None:
        if self._connection is not None:
            return
        self._connection = self._engine.raw_connection()
        self._driver = self._connection.driver_connection
        self._driver.set_session(autocommit=True)
        with self._driver.cursor() as cursor:
            cursor.execute(f"LISTEN {CHANNEL}")

    def _attend(self, bell: socket.socket, until: float) -> None:
        """Tell of the jobs that change, until it is time to ask after all."""
        while not self._closed.is_set() and (left := until - time.monotonic()) > 0:
            select.select([self._driver, bell], [], [], left)
            self._driver.poll()
            changed = set()
            while self._driver.notifies:
                with suppress(ValueError):  # anybody may send anything
                    changed.add(uuid.UUID(self._driver.notifies.pop(0).payload))
            with self._lock:
                changed &= self._followers.keys()
            self._ask(changed)

    def _sweep(self) -> float:
        """Ask after all; returns for how many seconds nobody has to do so again."""
        with self._lock:
            followed = list(self._followers)
        began = time.monotonic()
        self._dismiss()
        self._ask(followed)
        pause = min(SPARING * (time.monotonic() - began), SWEEP_SECONDS_MAX)
        return max(self._sweep_seconds, pause)

    def _dismiss(self) -> None:
        """Tell no more to whose keys are good no more."""
        with self._lock:
            followers = [one for some in self._followers.values() for one in some]
        try:
            lapsed = self._lapsed({one.principal for one in followers}) if followers else ()
        except ServiceError:
            return  # nobody can be told anything either
        except Exception:
            logger.exception("keys of followers could not be looked up")
            return
        for one in followers:
            if one.principal in lapsed:
                one.dismiss()

    def _ask(self, job_ids: Collection[uuid.UUID]) -> None:
        if not job_ids:
            return
        try:
            standings = self._look(job_ids)
        except ServiceError:
            return  # told of by whoever asks first
        except Exception:
            logger.exception("followed jobs could not be looked up")
            return
        for job_id, standing in standings.items():
            with self._lock:
                followers = list(self._followers.get(job_id, ()))
            for follower in followers:
                follower.tell(standing)

    def _hang_up(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(*_FAILURES):
                connection.invalidate()

    def _say(self, error: Exception) -> None:
        # once, not at every round of an outage
        if not self._fails:
            logger.warning("followed jobs are looked up", extra={"error": type(error).__name__})
        self._fails = True
