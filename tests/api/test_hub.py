"""Following jobs: told by PostgreSQL, or found out without it."""

import asyncio
import threading
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing

import pytest
from sqlalchemy import Engine, NullPool, create_engine, text

from api.hub import Hub
from celery_app import LANES
from jobs import backlog, lifecycle, standings
from jobs.standings import Standing
from tests.api.conftest import Jobs

PATIENCE_SECONDS = 60.0
#: So long that nobody in a test finds anything out by himself.
NEVER_SECONDS = 3600.0
End = Callable[[Jobs, uuid.UUID], object]


class Rows:
    """What the rows say, and whether anybody has asked."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        self.asked = threading.Event()

    def __call__(self, job_ids: Collection[uuid.UUID]) -> Mapping[uuid.UUID, Standing]:
        with self._jobs.sessions() as session:
            found = standings.read(session, job_ids, backlog.read, lanes=LANES)
        self.asked.set()
        return found


@pytest.fixture
def rows(jobs: Jobs) -> Rows:
    return Rows(jobs)


@pytest.fixture
def hub(engine: Engine, rows: Rows) -> Iterator[Hub]:
    alone = create_engine(engine.url, poolclass=NullPool)
    with closing(Hub(alone, rows, sweep_seconds=NEVER_SECONDS)) as hub:
        yield hub


def heard(hub: Hub, job_id: uuid.UUID, end: Callable[[], object], rows: Rows) -> bool:
    """Wait for a job, and end it when somebody listens; tells whether that was heard."""

    async def wait() -> bool:
        with hub.follow(job_id) as follower:
            assert await asyncio.to_thread(rows.asked.wait, PATIENCE_SECONDS)
            await asyncio.to_thread(end)
            return await follower.end(PATIENCE_SECONDS)

    return asyncio.run(wait())


def cancel(jobs: Jobs, job_id: uuid.UUID) -> None:
    with jobs.sessions.begin() as session:
        lifecycle.cancel(session, job_id, owner_id=None)


def delete(jobs: Jobs, job_id: uuid.UUID) -> None:
    with jobs.sessions.begin() as session:
        session.execute(text("DELETE FROM transcription_jobs WHERE id = :id"), {"id": job_id})


def fail(jobs: Jobs, job_id: uuid.UUID) -> None:
    jobs.fail(jobs.claim(job_id))


@pytest.mark.parametrize("end", [Jobs.finish, fail, cancel, delete])
def test_whoever_waits_hears_of_every_end(hub: Hub, rows: Rows, jobs: Jobs, end: End) -> None:
    job_id = jobs.submit()

    assert heard(hub, job_id, lambda: end(jobs, job_id), rows)


def test_what_anybody_else_says_on_the_channel_is_passed_over(
    hub: Hub, rows: Rows, jobs: Jobs
) -> None:
    job_id = jobs.submit()

    def shout() -> None:
        with jobs.sessions.begin() as session:
            session.execute(text("NOTIFY job_changed, 'nonsense'"))
        jobs.finish(job_id)

    assert heard(hub, job_id, shout, rows)


def test_without_a_connection_the_rows_are_asked(jobs: Jobs, rows: Rows) -> None:
    nowhere = create_engine("postgresql+psycopg2://127.0.0.1:1/nowhere", poolclass=NullPool)
    job_id = jobs.submit()
    with closing(Hub(nowhere, rows, sweep_seconds=0.05)) as hub:
        assert heard(hub, job_id, lambda: jobs.finish(job_id), rows)
