"""Maintenance that is doubled, killed and absent."""

import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from jobs import lifecycle
from tests.chaos.conftest import DISPATCH, REAPED, SHORT, TOLD, WINDOW, Chaos
from tests.stack.conftest import wait_for

pytestmark = [pytest.mark.chaos, pytest.mark.model]


def is_published(chaos: Chaos, job_id: uuid.UUID) -> bool:
    return chaos.stack.job(job_id).dispatch_count > 0


@pytest.mark.fault("F34", "two maintenance processes, one killed again and again")
def test_two_maintenance_processes_do_no_harm(chaos: Chaos) -> None:
    chaos.stack.maintenance()
    chaos.worker()
    jobs = []
    for _ in range(3):
        other = chaos.stack.maintenance()
        jobs += [chaos.submit(ring=False) for _ in range(2)]
        other.kill()
        with chaos.recovery(2 * DISPATCH):
            wait_for(lambda: all(is_published(chaos, j) for j in jobs), "they are published")  # noqa: B023

    assert [chaos.end_of(job_id).status for job_id in jobs] == ["completed"] * 6
    assert [chaos.stack.job(job_id).lease_epoch for job_id in jobs] == [1] * 6
    chaos.check()


@pytest.mark.fault("F35", "no maintenance process at all")
def test_without_maintenance_jobs_that_were_rung_for_are_done(chaos: Chaos) -> None:
    chaos.worker()
    rung, waiting = chaos.submit(), chaos.submit(ring=False)
    done = chaos.end_of(rung)
    before = chaos.stack.job(waiting).status
    chaos.stack.maintenance()
    with chaos.recovery(2 * DISPATCH):
        wait_for(lambda: is_published(chaos, waiting), "it is published")

    assert (done.status, before) == ("completed", "pending")
    assert chaos.end_of(waiting).status == "completed"
    chaos.check()


@pytest.mark.fault("F36", "jobs are cancelled at random moments")
def test_a_cancelled_job_never_has_a_result(chaos: Chaos, long_recording: Path) -> None:
    chaos.stack.maintenance()
    chaos.worker()
    chaos.end_of(chaos.submit())  # a model that is being loaded hears of nothing
    jobs = [chaos.submit(long_recording if n % 2 else SHORT) for n in range(12)]

    def cancel(number: int) -> None:
        time.sleep(0.4 * number)
        with chaos.stack.sessions.begin() as session:
            lifecycle.cancel(session, jobs[number])

    with ThreadPoolExecutor(len(jobs)) as threads:
        list(threads.map(cancel, range(len(jobs))))
    with chaos.recovery(TOLD + WINDOW):
        for job_id in jobs:
            chaos.end_of(job_id)
    ends = {chaos.end_of(job_id).status for job_id in jobs}

    assert "cancelled" in ends
    assert ends <= {"cancelled", "completed"}
    chaos.check()


@pytest.mark.fault("N1", "a worker is stopped and started under the same name and place")
def test_a_worker_that_comes_back_is_not_taken_for_its_former_self(
    chaos: Chaos, long_recording: Path
) -> None:
    chaos.stack.maintenance()
    job_id = chaos.submit(long_recording)
    first = chaos.worker()
    chaos.stack.wait_for_windows(job_id, 1)
    name = chaos.stack.job(job_id).worker_name
    first.kill()
    chaos.worker()
    with chaos.recovery(REAPED):
        chaos.is_taken(job_id)
    again = chaos.stack.job(job_id).worker_name
    done = chaos.end_of(job_id)

    assert name != again
    assert done.status == "completed"
    chaos.check()
