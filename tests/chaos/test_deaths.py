"""Workers that are killed (SIGKILL) at each moment of an attempt: one end, one result."""

import signal
import uuid

import psutil
import pytest

from local_servers import programs
from tests.chaos.conftest import (
    DISPATCH,
    REAPED,
    REDISPATCH,
    SHORT_TEXT,
    Chaos,
    words_of,
)
from tests.stack.conftest import PATIENCE_SECONDS, Process, wait_for

pytestmark = [pytest.mark.chaos, pytest.mark.model]


@pytest.fixture
def heir(chaos: Chaos) -> Process:
    """A worker that takes nothing but what another one left."""
    chaos.stack.maintenance()
    return chaos.worker(CELERY_QUEUES="retry")


def taken_over(chaos: Chaos, job_id: uuid.UUID) -> None:
    """Check that a job whose worker has just died goes on elsewhere, and ends well."""
    with chaos.recovery(REAPED):
        wait_for(lambda: chaos.stack.job(job_id).lease_epoch == 2, "another worker has it")
    done = chaos.end_of(job_id)

    assert (done.status, done.attempt, done.crash_count) == ("completed", 1, 1)
    assert chaos.errors_of(job_id) == ["worker_lost"]


@pytest.mark.fault("F4", "worker killed while it claims, before the COMMIT")
def test_a_claim_that_was_not_committed_is_none(chaos: Chaos) -> None:
    chaos.stack.maintenance()
    first = chaos.worker(DIE_BEFORE="claim")
    job_id = chaos.submit(ring=False)
    assert first.wait() == -signal.SIGKILL
    with chaos.recovery(REDISPATCH + DISPATCH):
        wait_for(lambda: chaos.stack.job(job_id).dispatch_count == 2, "it is published again")
    unclaimed = chaos.stack.job(job_id)
    chaos.worker()
    done = chaos.end_of(job_id)

    assert (unclaimed.status, unclaimed.lease_epoch) == ("pending", 0)
    assert (done.status, done.attempt, done.lease_epoch, done.crash_count) == ("completed", 1, 1, 0)
    assert chaos.errors_of(job_id) == []
    chaos.check()


@pytest.mark.usefixtures("heir")
@pytest.mark.fault("F3", "worker killed between its claim and its first heartbeat")
def test_a_job_that_was_only_claimed_is_given_to_another(chaos: Chaos) -> None:
    first = chaos.worker(DIE_AFTER="claim")
    job_id = chaos.submit()
    assert first.wait() == -signal.SIGKILL

    taken_over(chaos, job_id)
    chaos.check()


@pytest.mark.usefixtures("heir")
@pytest.mark.fault("F45", "worker killed while it decodes")
def test_a_decoder_does_not_outlive_its_worker(chaos: Chaos) -> None:
    first = chaos.worker()
    job_id = chaos.submit()
    decoder = chaos.decoder_of(first)
    decoder.suspend()
    first.kill()

    taken_over(chaos, job_id)
    assert decoder.status() == psutil.STATUS_STOPPED
    decoder.resume()
    assert programs.gone([decoder], PATIENCE_SECONDS)
    assert words_of(chaos.stack, job_id) == SHORT_TEXT
    chaos.check()


@pytest.mark.usefixtures("heir")
@pytest.mark.fault("F46", "worker killed while it loads a model")
def test_a_load_that_was_not_finished_is_made_by_another(chaos: Chaos) -> None:
    first = chaos.worker(NULL_LOAD_SECONDS="1000")
    job_id = chaos.submit_null(2)
    wait_for(lambda: chaos.stack.job(job_id).current_step == "loading model", "it loads")
    first.kill()

    taken_over(chaos, job_id)
    assert words_of(chaos.stack, job_id) == ["T0-0", "T0-1"]
    chaos.check()


@pytest.mark.usefixtures("heir")
@pytest.mark.fault("F47", "worker killed after it wrote the result, before the COMMIT")
def test_a_result_that_was_not_committed_is_written_by_another(chaos: Chaos) -> None:
    first = chaos.worker(DIE_BEFORE="complete")
    job_id = chaos.submit_null(2)
    assert first.wait() == -signal.SIGKILL
    unwritten = chaos.stack.result(job_id)

    taken_over(chaos, job_id)
    assert unwritten is None
    assert [window.lease_epoch for window in chaos.stack.windows(job_id)] == [1, 1]
    assert words_of(chaos.stack, job_id) == ["T0-0", "T0-1"]
    chaos.check()


@pytest.mark.fault("F2", "worker killed after the result's COMMIT, before it hears of it")
def test_a_result_that_was_committed_is_not_made_again(chaos: Chaos) -> None:
    chaos.stack.maintenance()
    first = chaos.worker(DIE_AFTER="complete")
    job_id = chaos.submit_null(2)
    assert first.wait() == -signal.SIGKILL
    at_once = chaos.stack.job(job_id).status
    chaos.stack.ring(job_id, "normal")
    second = chaos.worker()
    wait_for(lambda: second.said("nothing to do"), "the next worker leaves it alone")
    done = chaos.end_of(job_id)

    assert at_once == "completed"
    assert (done.attempt, done.lease_epoch, done.crash_count) == (1, 1, 0)
    assert chaos.errors_of(job_id) == []
    assert words_of(chaos.stack, job_id) == ["T0-0", "T0-1"]
    chaos.check()
