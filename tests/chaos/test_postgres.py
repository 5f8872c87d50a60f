"""PostgreSQL that restarts, crashes, cuts connections and locks: work is kept, nobody is reaped."""

from pathlib import Path

import pytest
from sqlalchemy import NullPool, create_engine, text

from local_servers import PostgresServer
from tests.chaos.conftest import HEARTBEAT, LEASE, LONG_TEXT, WINDOW, WRITTEN, Chaos, words_of
from tests.stack.conftest import wait_for

pytestmark = [pytest.mark.chaos, pytest.mark.model]


@pytest.mark.fault("F26", "PostgreSQL is restarted in mid-job")
def test_a_restart_costs_no_lease(
    broken: Chaos, postgres: PostgresServer, long_recording: Path
) -> None:
    broken.stack.maintenance()
    broken.worker()
    job_id = broken.submit(long_recording)
    broken.stack.wait_for_windows(job_id, 1)
    postgres.stop()
    postgres.start()
    with broken.recovery(WRITTEN + WINDOW):
        broken.goes_on(job_id)
    done = broken.end_of(job_id)

    assert (done.status, done.attempt, done.crash_count) == ("completed", 1, 0)
    assert done.lease_epoch == 1
    assert words_of(broken.stack, job_id) == LONG_TEXT
    broken.check()


@pytest.mark.fault("F27", "PostgreSQL is killed (SIGKILL) and stays away longer than a lease")
def test_an_outage_longer_than_a_lease_reaps_nobody(
    broken: Chaos, postgres: PostgresServer, long_recording: Path
) -> None:
    broken.stack.maintenance()
    worker = broken.worker()
    job_id = broken.submit(long_recording)
    broken.stack.wait_for_windows(job_id, 1)
    assert postgres.pid is not None
    postgres.stop()
    wait_for(lambda: worker.said("database is away"), "the worker noticed")
    before = broken.ticks.count
    wait_for(lambda: broken.ticks.count > before + 2 * LEASE / HEARTBEAT, "two leases pass")
    postgres.start()
    with broken.recovery(WRITTEN + WINDOW):
        broken.goes_on(job_id)
    done = broken.end_of(job_id)

    assert (done.status, done.attempt, done.crash_count) == ("completed", 1, 0)
    assert done.lease_epoch == 1
    assert words_of(broken.stack, job_id) == LONG_TEXT
    broken.check()


@pytest.mark.fault("F27b", "processes start while PostgreSQL is away")
def test_processes_that_start_while_postgresql_is_away_wait_for_it(
    broken: Chaos, postgres: PostgresServer
) -> None:
    postgres.stop()
    worker, maintenance = broken.worker(), broken.stack.maintenance()
    wait_for(lambda: worker.said("heartbeat failed"), "the worker noticed")
    wait_for(lambda: maintenance.said("heartbeat failed"), "maintenance noticed")
    postgres.start()
    job_id = broken.submit(ring=False)
    done = broken.end_of(job_id)

    assert (done.status, done.attempt) == ("completed", 1)
    assert not any(process.said("Traceback") for process in (worker, maintenance))
    broken.check()


@pytest.mark.fault("F28", "every session of PostgreSQL is ended, again and again")
def test_cut_connections_cost_no_attempt(
    broken: Chaos, postgres: PostgresServer, long_recording: Path
) -> None:
    broken.stack.maintenance()
    broken.worker()
    job_id = broken.submit(long_recording)
    engine = create_engine(postgres.url, poolclass=NullPool)
    for count in range(1, 5):
        broken.stack.wait_for_windows(job_id, count)
        with engine.begin() as connection:
            connection.execute(
                text(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
            )
        with broken.recovery(WRITTEN + WINDOW):
            broken.goes_on(job_id)
    done = broken.end_of(job_id)

    assert (done.status, done.attempt, done.crash_count) == ("completed", 1, 0)
    assert words_of(broken.stack, job_id) == LONG_TEXT
    broken.check()


@pytest.mark.fault("F29", "the table of jobs is locked for longer than a lease")
def test_a_locked_table_reaps_nobody(
    broken: Chaos, postgres: PostgresServer, long_recording: Path
) -> None:
    broken.stack.maintenance()
    broken.worker()
    job_id = broken.submit(long_recording)
    broken.stack.wait_for_windows(job_id, 1)
    engine = create_engine(postgres.url, poolclass=NullPool)
    with engine.begin() as connection:
        connection.execute(text("LOCK TABLE transcription_jobs IN ACCESS EXCLUSIVE MODE"))
        before = broken.ticks.count
        wait_for(lambda: broken.ticks.count > before + 1.5 * LEASE / HEARTBEAT, "a lease passes")
    with broken.recovery(WRITTEN + WINDOW):
        broken.goes_on(job_id)
    done = broken.end_of(job_id)

    assert (done.status, done.attempt) == ("completed", 1)
    assert words_of(broken.stack, job_id) == LONG_TEXT
    broken.check()


@pytest.mark.fault("F30", "attempts wait for the only connection of their pool, for over a lease")
def test_heartbeats_do_not_wait_for_the_pool(chaos: Chaos) -> None:
    chaos.stack.maintenance()
    chaos.worker(CELERY_CONCURRENCY="3", DATABASE_POOL_SIZE="1", DATABASE_MAX_OVERFLOW="0")
    jobs = [chaos.submit_null(8, 0.2) for _ in range(3)]
    for job_id in jobs:
        chaos.stack.wait_for_windows(job_id, 1)
    with chaos.stack.sessions.begin() as session:
        # whoever keeps a window holds the connection until the lock is given up
        session.execute(text("LOCK TABLE transcription_windows IN ACCESS EXCLUSIVE MODE"))
        before = [chaos.stack.job(job_id).heartbeat_seq for job_id in jobs]
        ticks = chaos.ticks.count
        wait_for(lambda: chaos.ticks.count > ticks + 1.5 * LEASE / HEARTBEAT, "a lease passes")
        meanwhile = [chaos.stack.job(job_id).heartbeat_seq for job_id in jobs]
    done = [chaos.end_of(job_id) for job_id in jobs]

    assert all(later > sooner for sooner, later in zip(before, meanwhile, strict=True))
    assert [(job.status, job.lease_epoch, job.attempt) for job in done] == [("completed", 1, 1)] * 3
    chaos.check()
