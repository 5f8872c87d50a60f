"""Watching the chain as it grows: what was its end stays in it, and each seal follows the last.

A page at a time, so that a round costs the same however long the chain is. Once it was all gone
through, what is added is followed as it comes, and all of it again an hour later.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from sqlalchemy.orm import Session

from audit import chain
from audit.chain import BEGINNING, Broken, Fault, Head

#: Followed in one look.
EVENTS: Final = 1000
#: From one beginning to the next; longer where the chain is so long that a look takes no end.
AGAIN_SECONDS: Final = 3600.0


class Watch:
    """What one process has seen of the chain.

    Args:
        may_be_pruned: Whether its front may go.
    """

    def __init__(self, *, may_be_pruned: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self._may_be_pruned = may_be_pruned
        self._clock = clock
        self._start: Head | None = None
        self._head = BEGINNING
        #: The last event that was followed.
        self._at = BEGINNING
        self._again_at = clock() + AGAIN_SECONDS

    def look(self, session: Session) -> Broken | None:
        """Look once; returns what is wrong.

        Args:
            session: At the beginning of its transaction, of which one moment has to be seen: else
                what somebody prunes meanwhile would be missed.
        """
        session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
        start, head = chain.start(session), chain.head(session)
        broken = self._outline(session, start, head) or self._follow(session, start, head)
        self._start, self._head = start, head
        return broken

    def _outline(self, session: Session, start: Head, head: Head) -> Broken | None:
        """What shows without following it: the triggers, where it begins and where it ended."""
        if not chain.is_guarded(session):
            return Broken(fault=Fault.UNGUARDED, position=0)
        if not self._may_be_pruned and self._start not in {None, start}:
            return Broken(fault=Fault.PRUNED, position=start.position)
        if head.position < self._head.position or not chain.has(session, self._head, start):
            return Broken(fault=Fault.CUT, position=self._head.position)
        if not chain.begins_after(session, start):
            return Broken(fault=Fault.MISSING, position=start.position + 1)
        return None

    def _follow(self, session: Session, start: Head, head: Head) -> Broken | None:
        done = self._at.position == head.position
        if self._at.position < start.position or (done and self._clock() >= self._again_at):
            self._at = start
            self._again_at = self._clock() + AGAIN_SECONDS
        self._at, broken = chain.follow(session, self._at, limit=EVENTS)
        return broken
