"""The story of a job, told to somebody who follows it: its windows in order, and how it stands."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

import auth
from api.hub import Follower
from api.services import Services
from audit.events import Actor
from auth import Principal
from celery_app import LANES
from errors import NotAuthenticated, ServiceError
from jobs import queries, standings
from jobs.queries import WindowView
from jobs.standings import Standing
from models import AuditAction, JobStatus, Scope

#: Read at once.
WINDOWS: Final = 100
#: A connection over which nothing goes is cut by whoever stands in between, sooner or later.
QUIET_SECONDS: Final = 15.0
#: When to ask again after PostgreSQL could not be asked.
PAUSE_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class Place:
    """How far somebody has heard a job's windows."""

    #: See ``Standing.run``.
    run: int = 0
    windows: int = 0


class Story:
    """What becomes of one job from some place on.

    Args:
        principal: Reads its transcript, as long as their key is good.
    """

    def __init__(  # noqa: PLR0913 - who is told, of what, and how
        self,
        services: Services,
        job_id: uuid.UUID,
        follower: Follower,
        principal: Principal,
        by: Actor,
        *,
        after: Place | None = None,
        quiet_seconds: float = QUIET_SECONDS,
    ) -> None:
        self._services = services
        self._job_id = job_id
        self._follower = follower
        self._principal = principal
        self._by = by
        self.place = after or Place()
        self._quiet_seconds = quiet_seconds
        self._told: Standing | None = None
        self._read = False
        self._segments: int | None = None

    async def tell(self) -> AsyncIterator[WindowView | Standing | None]:
        """Give what is new, and None where nothing was for a while.

        Ends when the job has, after how it stands then, and when its follower left or must: he
        knows which.
        """
        while not self._over:
            found = await self._look()
            for window in found or ():
                yield window
            if found is None or len(found) == WINDOWS:
                yield None
                continue
            yield self._told
            if self._told is not None and self._told.ended:
                return
            async for standing in self._wait():
                yield standing

    @property
    def _over(self) -> bool:
        return self._follower.left or self._follower.stopping

    async def _look(self) -> list[WindowView] | None:
        """Read further; None when PostgreSQL cannot be asked."""
        try:
            return await run_in_threadpool(self._read_on)
        except NotAuthenticated:
            # not told any more; who asks again hears why
            self._follower.dismiss()
        except ServiceError:
            await self._follower.news(PAUSE_SECONDS)
        return None

    def _read_on(self) -> list[WindowView]:
        with self._services.transaction() as session:
            auth.require_still(session, self._principal, Scope.JOBS_READ)
            # before its windows: when it has ended, there will be no more
            backlog = self._services.outlook.backlog
            found = standings.read(session, [self._job_id], backlog, lanes=LANES)[self._job_id]
            if found.run != self.place.run:
                self.place, self._segments = Place(run=found.run), 0
            windows = self._windows(session, found)
            if windows and not self._read:
                action = AuditAction.TRANSCRIPT_READ
                self._services.trail.read(session, self._by, action, self._job_id)
        self._told, self._read = found, self._read or bool(windows)
        if windows:
            last = windows[-1]
            self.place = Place(run=found.run, windows=last.index + 1)
            self._segments = last.segments_before + len(last.segments)
        return windows

    def _windows(self, session: Session, found: Standing) -> list[WindowView]:
        first = self.place.windows
        if found.windows:
            if self._segments is None:
                self._segments = queries.count_segments(session, self._job_id, before=first)
            return queries.windows(
                session,
                self._job_id,
                first=first,
                segments_before=self._segments,
                limit=WINDOWS,
            )
        if found.status != JobStatus.COMPLETED or first:
            return []
        # of the first version, which kept none
        whole = queries.transcript(session, self._job_id)
        if whole is None:
            return []
        length = whole.audio_seconds
        only = WindowView(
            index=0,
            segments_before=0,
            start_seconds=0.0,
            end_seconds=length,
            segments=whole.segments,
        )
        return [only]

    async def _wait(self) -> AsyncIterator[Standing | None]:
        """Give how the job stands, until there is more to read."""
        while not self._over:
            await self._follower.news(self._quiet_seconds)
            now = self._follower.standing
            if now is None or now == self._told:
                yield None
            elif now.ended or (now.run, now.windows) != (self.place.run, self.place.windows):
                return
            else:
                self._told = now
                yield now
