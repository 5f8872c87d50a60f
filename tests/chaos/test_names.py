"""Workers that cannot be told apart by where they run: each is its own, and so are its leases."""

import functools
import shutil
import subprocess

import pytest
from sqlalchemy import select

from models import Worker
from tests.chaos.conftest import REAPED, Chaos, words_of
from tests.chaos.contained_worker import CONTAINED
from tests.stack.conftest import Process, wait_for

pytestmark = [pytest.mark.chaos, pytest.mark.model]


@pytest.fixture
def twins(chaos: Chaos) -> list[Process]:
    """Two workers, each process 1 of a host of the same name."""
    if shutil.which(CONTAINED[0]) is None or subprocess.run([*CONTAINED, "true"]).returncode:
        pytest.skip("no process may have a namespace of its own here")
    chaos.stack.maintenance()
    started = [
        chaos.stack.start("worker", "-m", "tests.chaos.contained_worker", CELERY_CONCURRENCY="1")
        for _ in range(2)
    ]
    for process in started:
        wait_for(functools.partial(process.said, "ready"), "a worker is ready")
    return started


def names(chaos: Chaos) -> list[str]:
    with chaos.stack.sessions() as session:
        return list(session.scalars(select(Worker.name).where(Worker.role == "worker")))


@pytest.mark.fault("N2", "two workers of one host name and one process id, as in containers")
def test_two_workers_of_one_name_hold_their_own_leases(chaos: Chaos, twins: list[Process]) -> None:
    jobs = [chaos.submit_null(20, 0.3) for _ in range(2)]
    for job_id in jobs:
        chaos.stack.wait_for_windows(job_id, 1)
    visible = names(chaos)
    holders = [chaos.stack.job(job_id).worker_name for job_id in jobs]
    (victim,) = [twin for twin in twins if twin.said(str(holders[0]))]
    victim.kill()
    with chaos.recovery(REAPED):
        wait_for(lambda: chaos.stack.job(jobs[0]).crash_count == 1, "its lease is reaped")
    lost, kept = [chaos.end_of(job_id) for job_id in jobs]

    assert sorted(visible) == sorted(map(str, holders))
    assert len({name.rpartition(":")[0] for name in visible}) == 1
    assert (lost.status, lost.attempt, lost.lease_epoch) == ("completed", 1, 2)
    assert (kept.status, kept.attempt, kept.lease_epoch, kept.crash_count) == ("completed", 1, 1, 0)
    assert [chaos.errors_of(job_id) for job_id in jobs] == [["worker_lost"], []]
    assert [len(words_of(chaos.stack, job_id)) for job_id in jobs] == [20, 20]
    chaos.check()
