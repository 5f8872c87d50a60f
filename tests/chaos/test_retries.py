"""Many that fail at once: they come back spread out, and all come back."""

from functools import partial

import pytest
from sqlalchemy import func, select, update

from models import ErrorLog, TranscriptionJob
from rig.engines import Script
from tests.chaos.conftest import Chaos
from tests.stack.conftest import wait_for

pytestmark = [pytest.mark.chaos]

JOBS = 500
#: Waited for together.
STEP = 50
#: Longest pause before a second attempt.
PAUSE_SECONDS = 10.0
#: Of the jobs, in any tenth of the pause; a tenth of them is to be expected.
MOST_TOGETHER = 0.2


def has_come_to(chaos: Chaos, attempts: int) -> bool:
    with chaos.stack.sessions() as session:
        begun = session.scalar(select(func.sum(TranscriptionJob.lease_epoch)))
        return begun is not None and begun >= attempts


@pytest.mark.timeout(900)
@pytest.mark.fault("F37", "500 jobs fail together")
def test_jobs_that_failed_together_come_back_spread_over_the_pause(chaos: Chaos) -> None:
    chaos.stack.environment |= {"RETRY_BASE_SECONDS": str(PAUSE_SECONDS), "LEASE_SECONDS": "60"}
    for number in range(JOBS):
        script = Script(windows=1, tag=f"T{number}", fault="error", once=True)
        chaos.submit_null(1, ring=False, initial_prompt=str(script))
    with chaos.stack.sessions.begin() as session:
        # they hold no audio, whose length maintenance would look for with a process each
        session.execute(update(TranscriptionJob).values(probed_at=func.now()))
    chaos.stack.maintenance()
    chaos.worker(CELERY_CONCURRENCY="4")
    for steps in range(STEP, 2 * JOBS + 1, STEP):
        wait_for(partial(has_come_to, chaos, steps), f"{steps} attempts have been begun")
    for job_id in chaos.jobs:
        chaos.end_of(job_id)
    with chaos.stack.sessions() as session:
        # written in one transaction, so that now() was the same for both
        pause = func.extract("epoch", TranscriptionJob.not_before - ErrorLog.created_at)
        found = session.scalars(select(pause).join(ErrorLog)).all()
        attempts = session.scalars(select(TranscriptionJob.attempt)).all()

    pauses = sorted(float(seconds) for seconds in found)
    tenths = [int(seconds / PAUSE_SECONDS * 10) for seconds in pauses]
    assert (len(pauses), set(attempts)) == (JOBS, {2})
    assert 0 <= pauses[0] <= pauses[-1] <= PAUSE_SECONDS
    assert pauses[-1] - pauses[0] >= PAUSE_SECONDS / 2
    assert max(tenths.count(tenth) for tenth in range(10)) <= MOST_TOGETHER * JOBS
    chaos.check()
