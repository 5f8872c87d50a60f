"""How a process lets others know that it is there: its name, its row, its file."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace

from sqlalchemy.exc import SQLAlchemyError

from audit.chain import Broken
from config import VERSION, Settings
from database import Sessions, get_db_session
from errors import ServiceError
from jobs import workers
from jobs.workers import WorkerState

logger = logging.getLogger(__name__)


class Presence:
    """The row of a process that transcribes nothing, renewed in a thread of its own."""

    def __init__(
        self,
        settings: Settings,
        sessions: Sessions,
        *,
        role: str,
        queues: Sequence[str] = (),
        audit_broken: Callable[[], Broken | None] = lambda: None,
    ) -> None:
        """Begin with nothing said.

        Args:
            audit_broken: What it found wrong with the chain of audit events by now.
        """
        self.name = process_name()
        self._settings = settings
        self._sessions = sessions
        self._state = WorkerState(
            name=self.name, role=role, version=VERSION, queues=queues, slots=0
        )
        self._audit_broken = audit_broken
        self._closed = threading.Event()

    def start(self) -> None:
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()

    def close(self) -> None:
        self._closed.set()
        leave(self._sessions, self.name)

    def _beat(self) -> None:
        while not self._closed.is_set():
            try:
                with get_db_session(self._sessions) as session:
                    workers.announce(session, self._now())
                touch_alive(self._settings)
            except (ServiceError, SQLAlchemyError):
                logger.warning("heartbeat failed")
            self._closed.wait(self._settings.heartbeat_seconds)

    def _now(self) -> WorkerState:
        broken = self._audit_broken()
        return replace(self._state, audit_broken=None if broken is None else str(broken))


def process_name() -> str:
    # a pid comes again after a restart; the random part tells two lives apart
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}"


def leave(sessions: Sessions, name: str) -> None:
    """Note that a process stops, and in good order, if the database is there to tell."""
    try:
        with get_db_session(sessions) as session:
            workers.leave(session, name)
    except (ServiceError, SQLAlchemyError):
        logger.warning("left without taking leave of the database")


def touch_alive(settings: Settings) -> None:
    if settings.alive_file is None:
        return
    try:
        settings.alive_file.touch()
    except OSError as error:
        # a health check that cannot be told is no reason to lose leases
        logger.warning("ALIVE_FILE cannot be touched", extra={"error": type(error).__name__})
