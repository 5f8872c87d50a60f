"""Fetches what is due, several recordings at once.

Several fetchers at once are safe; each takes what no other has.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from database import Sessions, get_db_session
from errors import ServiceError
from fetching.attempts import Attempt, Rules, Workplace
from jobs import sources
from jobs.sources import Source
from jobs.uploads import UploadStore
from outgoing import Limits, Outgoing

logger = logging.getLogger(__name__)

#: Recordings at once, and of those of one owner: servers that drip are no reason for others to
#: wait.
SLOTS: Final = 12
EACH: Final = 3
#: How long a server may be silent; a try that is not told of for longer than this is lost.
LIMITS: Final = Limits(connect_seconds=10, headers_seconds=30, idle_seconds=30)
#: Nothing is taken before one of them has ended, or this has passed.
POLL_SECONDS: Final = 0.5


def limits_of(rules: Rules) -> Limits:
    """How long one call may take."""
    return Limits(
        connect_seconds=LIMITS.connect_seconds,
        headers_seconds=LIMITS.headers_seconds,
        idle_seconds=LIMITS.idle_seconds,
        total_seconds=rules.longest_seconds,
    )


class Fetcher:
    """Tries uploads in threads of its own."""

    def __init__(
        self, sessions: Sessions, outgoing: Outgoing, uploads: UploadStore, rules: Rules
    ) -> None:
        self._stopping = threading.Event()
        self._place = Workplace(sessions, outgoing, uploads, rules, self._stopping)
        self._pool = ThreadPoolExecutor(SLOTS, thread_name_prefix="fetch")
        self._ended = threading.Condition()
        #: Tries under way, by owner.
        self._tries: Counter[uuid.UUID] = Counter()

    def run(self) -> None:
        """Take and try what is due until nothing is.

        Raises:
            DatabaseUnavailable, StorageUnavailable: Try again later.
        """
        self._prune()
        while self._has_room():
            if not self._take():
                return

    def close(self, timeout_seconds: float) -> None:
        """Take nothing new, and wait until what is under way was handed back."""
        until = time.monotonic() + timeout_seconds
        self._stopping.set()
        with self._ended:
            self._ended.notify_all()
            while self._tries and (left := until - time.monotonic()) > 0:
                self._ended.wait(left)
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _prune(self) -> None:
        with get_db_session(self._place.sessions) as session:
            for job_id in sources.prune(session):
                self._place.uploads.discard_part(job_id)

    def _has_room(self) -> bool:
        with self._ended:
            if self._tries.total() >= SLOTS:
                self._ended.wait(POLL_SECONDS)
            return not self._stopping.is_set() and self._tries.total() < SLOTS

    def _take(self) -> bool:
        with self._ended:
            busy = [owner_id for owner_id, tries in self._tries.items() if tries >= EACH]
        with get_db_session(self._place.sessions) as session:
            source = sources.claim(session, busy=busy)
        if source is None:
            return False
        with self._ended:
            self._tries[source.owner_id] += 1
        self._pool.submit(self._try, source)
        return True

    def _try(self, source: Source) -> None:
        try:
            Attempt(self._place, source).run()
        except ServiceError as error:
            # it is tried again, when its time is over
            said = {"job_id": str(source.job_id), "error": error.code}
            logger.warning("fetch not noted", extra=said)
        except Exception:
            logger.exception("fetch failed", extra={"job_id": str(source.job_id)})
        finally:
            with self._ended:
                self._tries[source.owner_id] -= 1
                self._tries += Counter()  # without those at 0
                self._ended.notify_all()
