"""Waiting for jobs to end: told by PostgreSQL, or found out without it."""

import asyncio
import threading
import uuid
from collections.abc import Callable, Collection, Iterator
from contextlib import closing

import pytest
from sqlalchemy import Engine, NullPool, create_engine, text

from api.endings import Endings
from jobs import lifecycle, queries
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

    def __call__(self, job_ids: Collection[uuid.UUID]) -> set[uuid.UUID]:
        with self._jobs.sessions() as session:
            ended = set(job_ids) - queries.unfinished(session, job_ids)
        self.asked.set()
        return ended


@pytest.fixture
def rows(jobs: Jobs) -> Rows:
    return Rows(jobs)


@pytest.fixture
def endings(engine: Engine, rows: Rows) -> Iterator[Endings]:
    alone = create_engine(engine.url, poolclass=NullPool)
    with closing(Endings(alone, rows, sweep_seconds=NEVER_SECONDS)) as endings:
        yield endings


def heard(endings: Endings, job_id: uuid.UUID, end: Callable[[], object], rows: Rows) -> bool:
    """Wait for a job, and end it when somebody listens; tells whether that was heard."""

    async def wait() -> bool:
        with endings.expect(job_id) as ended:
            assert await asyncio.to_thread(rows.asked.wait, PATIENCE_SECONDS)
            await asyncio.to_thread(end)
            async with asyncio.timeout(PATIENCE_SECONDS):
                return await ended.wait()

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
def test_whoever_waits_hears_of_every_end(
    endings: Endings, rows: Rows, jobs: Jobs, end: End
) -> None:
    job_id = jobs.submit()

    assert heard(endings, job_id, lambda: end(jobs, job_id), rows)


def test_what_anybody_else_says_on_the_channel_is_passed_over(
    endings: Endings, rows: Rows, jobs: Jobs
) -> None:
    job_id = jobs.submit()

    def shout() -> None:
        with jobs.sessions.begin() as session:
            session.execute(text("NOTIFY job_ended, 'nonsense'"))
        jobs.finish(job_id)

    assert heard(endings, job_id, shout, rows)


def test_without_a_connection_the_rows_are_asked(jobs: Jobs, rows: Rows) -> None:
    nowhere = create_engine("postgresql+psycopg2://127.0.0.1:1/nowhere", poolclass=NullPool)
    job_id = jobs.submit()
    with closing(Endings(nowhere, rows, sweep_seconds=0.05)) as endings:
        assert heard(endings, job_id, lambda: jobs.finish(job_id), rows)
