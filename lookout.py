"""Looks for due jobs while Redis is away: messages only ring, and the rows say the same.

A worker that nobody can ring for takes what is due from PostgreSQL, in the order of its queues, and
goes on until Redis is back. Slots are counted by the worker's ``LeaseKeeper``, whoever fills them:
Celery's consumer fetches a message only while one is free.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any, Final, Protocol

import redis
from celery import Celery, bootsteps
from celery.worker.consumer import Tasks

logger = logging.getLogger(__name__)

#: Redis has to be away for so long; Celery connects again after a blip by itself.
AWAY_SECONDS: Final = 5.0
#: Pause between two looks, where the last one found nothing.
LOOK_SECONDS: Final = 1.0
PROBE_KEY: Final = "transcription:lookout"
PROBE_KEPT_SECONDS: Final = 60


class Take(Protocol):
    """Makes an attempt at the job that is due first: ``tasks.take_next``."""

    def __call__(self, *, claimed: Callable[[], object]) -> bool:
        """Return, after the attempt, whether there was a job; ``claimed`` is called before it."""


class Lookout:
    """Fills a worker's free slots while Redis is away.

    Args:
        take: Called in threads of their own, one for each slot that is filled.
        has_room: Whether a slot is free.
    """

    def __init__(
        self,
        client: redis.Redis,
        take: Take,
        has_room: Callable[[], bool],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._take = take
        self._has_room = has_room
        self._clock = clock
        #: Whether Celery's consumer has a connection. It tries anew only every half minute.
        self.connected = threading.Event()
        self._away_since: float | None = None
        self._asked_at = float("-inf")
        self._looking = False
        self._closed = threading.Event()
        #: A look found something, so that the next one need not wait.
        self._found = threading.Event()

    def start(self) -> None:
        threading.Thread(target=self._run, name="lookout", daemon=True).start()

    def close(self) -> None:
        """Take nothing more. What was taken goes on."""
        self._closed.set()
        self._looking = False
        self._found.set()

    def look(self) -> None:
        """Find out about Redis, and fill one slot where it is away and one is free."""
        self._ask()
        if self._looking and self._has_room():
            threading.Thread(target=self._fill_slot, name="unrung", daemon=True).start()

    def _run(self) -> None:
        while not self._closed.is_set():
            self._found.clear()
            try:
                self.look()
            except Exception:
                logger.exception("look failed")
            self._found.wait(LOOK_SECONDS)

    def _fill_slot(self) -> None:
        # one slot after the other: an idle worker asks one question at a time
        while self._looking and self._take(claimed=self._found.set):
            pass

    def _ask(self) -> None:
        """Find out about Redis, but not at each look: one that is frozen takes seconds to ask."""
        if self._closed.is_set() or self._clock() - self._asked_at < LOOK_SECONDS:
            return
        away = not (self.connected.is_set() and self._answers())
        now = self._asked_at = self._clock()
        if not away:
            self._away_since = None
        elif self._away_since is None:
            self._away_since = now
        self._decide(self._away_since is not None and now - self._away_since >= AWAY_SECONDS)

    def _decide(self, looking: bool) -> None:
        if looking != self._looking:
            logger.warning("redis is away: looking for jobs" if looking else "redis is back")
        self._looking = looking

    def _answers(self) -> bool:
        """Whether Redis takes a key: one that is full, or a replica, answers and takes nothing."""
        try:
            return bool(self._client.set(PROBE_KEY, "", ex=PROBE_KEPT_SECONDS))
        except redis.RedisError:
            return False


def attach(app: Celery, lookout: Lookout, has_room: Callable[[], bool]) -> None:
    """Tell a lookout whether Celery's consumer is connected, and let that take turns with it."""

    class Turns(bootsteps.StartStopStep):
        """Started and stopped with each connection of the consumer."""

        requires = (Tasks,)

        def start(self, consumer: Any) -> None:
            qos = consumer.task_consumer.channel.qos
            celerys = qos.can_consume
            qos.can_consume = lambda: has_room() and celerys()
            lookout.connected.set()

        def stop(self, consumer: Any) -> None:
            lookout.connected.clear()

    app.steps["consumer"].add(Turns)
