"""The rounds that delete what nobody needs any more, and set right what rows and files differ in.

A round does a bounded number of each, and says in the log what it did.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable
from typing import Final

from sqlalchemy import TextClause
from sqlalchemy.orm import Session

import page_sessions
import request_counts
from database import Sessions, get_db_session
from jobs import batches, lifecycle, resumable, retention, submissions, workers
from jobs.parts import Parts
from jobs.retention import DELETE_BATCH, TOO_MANY, Retention
from jobs.uploads import UploadStore
from webhooks import deliveries
from webhooks.deliveries import PRUNE_BATCH

logger = logging.getLogger(__name__)

#: Batches of one kind that a round deletes at most.
BATCHES: Final = 100
#: So many orphans at once are no accidents of single uploads, and are kept for so long.
MANY_SECONDS: Final = 7 * 86400.0
#: Batches of rows whose files are looked for in a round.
LOOKS: Final = 4
FIRST: Final = uuid.UUID(int=0)

Purge = Callable[..., int]
Note = Callable[[Session, list[uuid.UUID]], int]


class Janitor:
    """Deletes uploads and jobs whose time is over, orphans, and rows of no use any more."""

    def __init__(
        self,
        sessions: Sessions,
        uploads: UploadStore,
        *,
        keep: Retention,
        keep_keys_seconds: float,
    ) -> None:
        self._sessions = sessions
        self._uploads = uploads
        self._keep = keep
        self._keep_keys_seconds = keep_keys_seconds
        #: Uploads that no job had when we last looked.
        self._orphans: set[uuid.UUID] = set()
        self._parts = Parts(uploads)
        self._place = FIRST
        self._waiting = Missing(retention.WAITING, lifecycle.lose, sessions, uploads)
        self._ended = Missing(retention.ENDED, retention.note_gone, sessions, uploads)

    def run(self) -> None:
        """One round.

        Raises:
            DatabaseUnavailable, StorageUnavailable: Try again later.
        """
        with get_db_session(self._sessions) as session:
            workers.forget_silent(session)
            submissions.forget(session, keep_seconds=self._keep_keys_seconds)
            request_counts.forget_old(session)
            page_sessions.forget_expired(session)
            batches.forget_empty(session)
        self._prune_deliveries()
        jobs = self._purge(retention.purge_jobs, self._keep.transcript_seconds)
        if jobs:
            logger.info("jobs deleted", extra={"jobs": jobs})
        purged = self._purge(retention.purge_uploads, self._keep.audio_seconds)
        expired = self._expire()
        orphans = self._delete_orphans() + self._delete_parts()
        swept = self._uploads.sweep()
        unfinished = swept + expired
        if purged or orphans or unfinished:
            logger.info(
                "uploads deleted",
                extra={"old": purged, "orphans": orphans, "unfinished": unfinished},
            )
        self._forget_lost()
        lost, gone = self._waiting.look(), self._ended.look()
        if lost or gone:
            logger.warning("uploads are missing", extra={"failed": lost, "ended": gone})

    def _purge(self, purge: Purge, keep_seconds: float) -> int:
        """Delete until nothing is left to delete, or it is enough for a round."""
        total = 0
        for _ in range(BATCHES):
            with get_db_session(self._sessions) as session:
                purged = purge(session, self._uploads, keep_seconds=keep_seconds)
            total += purged
            if purged < DELETE_BATCH:
                break
        return total

    def _prune_deliveries(self) -> None:
        for _ in range(BATCHES):
            with get_db_session(self._sessions) as session:
                if deliveries.prune(session) < PRUNE_BATCH:
                    break

    # Resumable uploads

    def _expire(self) -> int:
        """Delete those whose time is over; returns how many there were."""
        total = 0
        for _ in range(BATCHES):
            with get_db_session(self._sessions) as session:
                expired = resumable.expire(session)
            for upload_id in expired:
                self._parts.delete(upload_id)
            total += len(expired)
            if len(expired) < resumable.BATCH:
                break
        return total

    def _delete_parts(self) -> int:
        """Delete the parts that nothing was written to for long and no row needs."""
        old = set(self._parts.touched_before(time.time() - retention.ORPHAN_SECONDS))
        if not old:
            return 0
        with get_db_session(self._sessions) as session:
            orphans = resumable.orphans(session, old)
        if len(orphans) >= TOO_MANY:
            # a database that was restored may not know them: spare the younger ones
            orphans &= set(self._parts.touched_before(time.time() - MANY_SECONDS))
        for upload_id in orphans:
            self._parts.delete(upload_id)
        return len(orphans)

    def _forget_lost(self) -> None:
        """Forget uploads whose parts are gone, some in each round: nobody can go on with them."""
        with get_db_session(self._sessions) as session:
            ids = resumable.should_be_there(session, after=self._place)
        self._place = ids[-1] if ids else FIRST
        lost = [upload_id for upload_id in ids if not self._parts.is_there(upload_id)]
        if len(lost) == len(ids) >= TOO_MANY:
            logger.error("no part is where it should be", extra={"looked_for": len(ids)})
        elif lost:
            with get_db_session(self._sessions) as session:
                resumable.forget(session, lost)
            logger.warning("parts are missing", extra={"uploads": len(lost)})

    # Orphans

    def _delete_orphans(self) -> int:
        """Delete the uploads that nobody had in the last round either; returns how many.

        One look is not enough: a clock that is set forward makes an upload look old whose row is
        just being written.
        """
        found: set[uuid.UUID] = set()
        for job_ids in retention.stored_long_ago(self._uploads):
            # a transaction each: walking the folder may take longer than one may stand idle
            with get_db_session(self._sessions) as session:
                found |= retention.orphans(session, job_ids)
        again = found & self._orphans
        if len(again) >= TOO_MANY:
            again = self._old_ones(again)
        for job_id in again:
            self._uploads.delete(job_id)
        self._orphans = found - again
        return len(again)

    def _old_ones(self, orphans: set[uuid.UUID]) -> set[uuid.UUID]:
        """Spare the younger of many orphans: a database that was restored may not know them."""
        stored = retention.stored_long_ago(self._uploads, MANY_SECONDS)
        old = {job_id for ids in stored for job_id in ids}
        spared = orphans - old
        if spared:
            logger.error("many uploads have no job", extra={"uploads": len(spared)})
        return orphans & old


class Missing:
    """Looks for the uploads of jobs, some in each round and then from the first again."""

    def __init__(
        self, which: TextClause, note: Note, sessions: Sessions, uploads: UploadStore
    ) -> None:
        self._which = which
        self._note = note
        self._sessions = sessions
        self._uploads = uploads
        self._place = FIRST

    def look(self) -> int:
        """Note what is missing; returns of how many jobs."""
        noted = 0
        for _ in range(LOOKS):
            noted += self._look()
            if self._place == FIRST:
                break
        return noted

    def _look(self) -> int:
        with get_db_session(self._sessions) as session:
            ids = retention.should_be_stored(session, self._which, after=self._place)
        self._place = ids[-1] if ids else FIRST
        missing = retention.missing(self._uploads, ids)
        if not missing:
            return 0
        if len(missing) == len(ids) >= TOO_MANY:
            logger.error("no upload is where it should be", extra={"looked_for": len(ids)})
            return 0
        with get_db_session(self._sessions) as session:
            return self._note(session, missing)
