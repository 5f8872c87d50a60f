"""One verb done to many failed jobs: a batch in each transaction, the last to fail first.

A sweep passes by what the verb cannot be done to, and says why; what is in quarantine it does not
see. Jobs that fail while it is under way lie behind it, so it comes to an end.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Final

from sqlalchemy.orm import Session

from audit.events import Actor, record_each
from errors import JobNotFailed, UploadMissing
from jobs import dead_letters, lifecycle
from jobs.dead_letters import Wanted
from jobs.lifecycle import Redrive
from jobs.paging import Place
from models import AuditAction, TranscriptionJob

#: Rows that one statement changes and locks.
BATCH: Final = 200

#: Begins one transaction, and commits it at its end.
Transaction = Callable[[], AbstractContextManager[Session]]
#: Tells by a code why a verb cannot be done to a job; None if it can.
Obstacle = Callable[[TranscriptionJob], str | None]
#: Does the verb, and returns the jobs that it was done to.
Verb = Callable[[Session, Sequence[uuid.UUID]], set[uuid.UUID]]


@dataclass(frozen=True, slots=True)
class PassedBy:
    """A job that was left as it is, and by a code why."""

    job_id: uuid.UUID
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Swept:
    """What came of a sweep."""

    done: Sequence[uuid.UUID]
    passed_by: Sequence[PassedBy]
    #: Where to go on; None when there was no more.
    rest: Place | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Broom:
    """Goes over failed jobs, a bounded number of them at a time."""

    transaction: Transaction
    #: Who sweeps, for audit events.
    actor: Actor
    wanted: Wanted
    #: How many are looked at, at most.
    limit: int
    #: Where the sweep before this one ended.
    before: Place | None = None
    #: Change nothing, and tell what would be done.
    dry_run: bool = False

    def retry(self, how: Redrive, *, unfit: Obstacle) -> Swept:
        """Send them round again.

        Args:
            unfit: Tells which jobs cannot be done in that way, such as with its model.
        """

        def obstacle(job: TranscriptionJob) -> str | None:
            return UploadMissing.code if job.upload_deleted_at is not None else unfit(job)

        def verb(session: Session, ids: Sequence[uuid.UUID]) -> set[uuid.UUID]:
            retried = {*lifecycle.redrive(session, ids, how)}
            record_each(session, self.actor, AuditAction.ERROR_RETRIED, retried)
            return retried

        return self._sweep(self.wanted, verb, obstacle)

    def resolve(self, *, by: str | None, notes: str | None) -> Swept:
        """Note that they were dealt with; those that were before are left out."""

        def verb(session: Session, ids: Sequence[uuid.UUID]) -> set[uuid.UUID]:
            resolved = dead_letters.resolve(session, ids, by=by, notes=notes)
            record_each(session, self.actor, AuditAction.ERROR_RESOLVED, resolved)
            return resolved

        return self._sweep(replace(self.wanted, resolved=False), verb)

    def _sweep(self, wanted: Wanted, verb: Verb, obstacle: Obstacle = lambda _: None) -> Swept:
        done: list[uuid.UUID] = []
        passed_by: list[PassedBy] = []
        place, left = self.before, self.limit
        while left:
            size = min(BATCH, left)
            with self.transaction() as session:
                # one more than wanted tells whether there is a rest
                found = dead_letters.jobs(session, wanted, before=place, limit=size + 1)
                batch = found[:size]
                reasons = {job.id: obstacle(job) for job in batch}
                free = [job_id for job_id, reason in reasons.items() if reason is None]
                changed = set(free) if self.dry_run else verb(session, free)
                place = dead_letters.place_of(batch[-1]) if len(found) > size else None
            for job_id, reason in reasons.items():
                if job_id in changed:
                    done.append(job_id)
                else:
                    # what changed between the two statements is no business of ours any more
                    passed_by.append(PassedBy(job_id, reason or JobNotFailed.code))
            if place is None:
                break
            left -= size
        return Swept(done=done, passed_by=passed_by, rest=place)
