"""Following jobs: told by PostgreSQL, or found out without it."""

import asyncio
import threading
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing

import pytest
from sqlalchemy import Engine, NullPool, create_engine, text

from api.hub import Hub
from auth import Principal
from celery_app import LANES
from errors import TooManyWaits
from jobs import backlog, lifecycle, standings
from jobs.standings import Standing
from models import Scope
from tests.api.conftest import Jobs

PATIENCE_SECONDS = 60.0
#: So long that nobody in a test finds anything out by himself.
NEVER_SECONDS = 3600.0
End = Callable[[Jobs, uuid.UUID], object]


def somebody() -> Principal:
    return Principal(
        owner_id=uuid.uuid4(),
        key_id=uuid.uuid4(),
        key_prefix="stt",
        key_sha256=b"\1" * 32,
        scopes=frozenset({Scope.JOBS_READ}),
    )


ALICE = somebody()


def nobody(principals: Collection[Principal]) -> Collection[Principal]:
    return ()


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
    with closing(Hub(alone, rows, nobody, sweep_seconds=NEVER_SECONDS)) as hub:
        yield hub


def heard(hub: Hub, job_id: uuid.UUID, end: Callable[[], object], rows: Rows) -> bool:
    """Wait for a job, and end it when somebody listens; tells whether that was heard."""

    async def wait() -> bool:
        with hub.follow(job_id, ALICE) as follower:
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
    with closing(Hub(nowhere, rows, nobody, sweep_seconds=0.05)) as hub:
        assert heard(hub, job_id, lambda: jobs.finish(job_id), rows)


# Keys


def test_whose_key_is_good_no_more_is_dismissed(engine: Engine, jobs: Jobs, rows: Rows) -> None:
    alone, bob = create_engine(engine.url, poolclass=NullPool), somebody()
    job_id = jobs.submit()

    async def wait(hub: Hub) -> tuple[bool, bool]:
        with hub.follow(job_id, ALICE) as hers, hub.follow(job_id, bob) as his:
            await hers.end(PATIENCE_SECONDS)
            return hers.dismissed, his.dismissed

    with closing(Hub(alone, rows, lambda _: {ALICE}, sweep_seconds=0.05)) as hub:
        assert asyncio.run(wait(hub)) == (True, False)


def test_so_many_may_follow_with_one_key_and_no_more(
    engine: Engine, jobs: Jobs, rows: Rows
) -> None:
    alone = create_engine(engine.url, poolclass=NullPool)

    async def follow(hub: Hub) -> None:
        with hub.follow(jobs.submit(), ALICE), hub.follow(jobs.submit(), ALICE):
            with pytest.raises(TooManyWaits), hub.follow(jobs.submit(), ALICE):
                pass
            with hub.follow(jobs.submit(), somebody()):
                pass
        # who left has made room
        with hub.follow(jobs.submit(), ALICE), hub.follow(jobs.submit(), ALICE):
            pass

    with closing(Hub(alone, rows, nobody, most_per_key=2, sweep_seconds=NEVER_SECONDS)) as hub:
        asyncio.run(follow(hub))
