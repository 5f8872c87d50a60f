"""Seals audit events, watches their chain, notes its head elsewhere, and prunes.

A loop of ``maintenance``; two at once are safe, since whoever seals or prunes holds a lock.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Final

from audit import chain, pruning
from audit.chain import BEGINNING, Broken, Head
from audit.watch import Watch
from database import Sessions, get_db_session

logger = logging.getLogger(__name__)

#: Pause between two rounds: so long an event waits for its seal.
AUDITOR_SECONDS: Final = 5.0
#: The log gets a head that has grown once in so long: what is cut off later shows from there on.
NOTE_SECONDS: Final = 300.0
PRUNE_SECONDS: Final = 3600.0


class Auditor:
    """Seals what waits, looks whether the chain is whole, and deletes what is too old.

    Args:
        keep: How long events are kept; None is for ever.
    """

    def __init__(
        self,
        sessions: Sessions,
        *,
        keep: timedelta | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sessions = sessions
        self._keep = keep
        self._clock = clock
        self._noted = BEGINNING
        self._note_at = self._prune_at = float("-inf")
        self._watch = Watch(may_be_pruned=keep is not None, clock=clock)
        #: The first that was found wrong with the chain: it stays wrong, whatever comes later.
        self.broken: Broken | None = None

    def run(self) -> None:
        """One round.

        Raises:
            DatabaseUnavailable: Try again later.
        """
        head = self._seal()
        if head != self._noted and self._clock() >= self._note_at:
            logger.info("audit events sealed", extra={"head": str(head)})
            self._noted, self._note_at = head, self._clock() + NOTE_SECONDS
        if self.broken is None:
            self._look()
        if self._keep is not None and self._clock() >= self._prune_at:
            self._prune(self._keep)
            self._prune_at = self._clock() + PRUNE_SECONDS

    def _look(self) -> None:
        with get_db_session(self._sessions) as session:
            self.broken = broken = self._watch.look(session)
        if broken is not None:
            logger.error(
                "audit chain is broken",
                extra={
                    "fault": broken.fault,
                    "position": broken.position,
                    "event_id": str(broken.event_id),
                },
            )

    def _seal(self) -> Head:
        while True:
            with get_db_session(self._sessions) as session:
                sealed = chain.seal(session)
                if sealed < chain.BATCH:
                    return chain.head(session)

    def _prune(self, keep: timedelta) -> None:
        with get_db_session(self._sessions) as session:
            if not pruning.may_prune(session):
                logger.error(
                    "old audit events may not be deleted: run alembic upgrade head as the owner,"
                    " with this AUDIT_RETENTION_DAYS"
                )
                return
        pruned = pruning.BATCH
        while pruned == pruning.BATCH:
            with get_db_session(self._sessions) as session:
                pruned = pruning.prune(session, keep=keep)
            if pruned:
                logger.info("old audit events deleted", extra={"events": pruned})
