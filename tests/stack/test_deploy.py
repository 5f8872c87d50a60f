"""A deployment: every worker is replaced by a new one while jobs run, and nobody notices."""

import signal
import uuid
from pathlib import Path

import pytest
from sqlalchemy import func, select

from models import ErrorLog, TranscriptionResult
from tests.recordings import repeated, sample
from tests.stack.conftest import Stack

pytestmark = [pytest.mark.stack, pytest.mark.model]

#: How often each recording says its text: the first ones fill every slot and last the deployment.
TIMES = [20] * 4 + [3] * 18

Windows = dict[tuple[uuid.UUID, int], int]


def kept(stack: Stack, jobs: list[uuid.UUID]) -> Windows:
    """Each window that is kept, and the lease that it was written under."""
    return {
        (job_id, window.index): window.lease_epoch
        for job_id in jobs
        for window in stack.windows(job_id)
    }


def test_workers_are_replaced_while_jobs_run_and_no_work_is_lost_or_done_twice(
    stack: Stack, tmp_path: Path
) -> None:
    # leases that last though the machine is busy: nobody is to be reaped here
    stack.environment["LEASE_SECONDS"] = "60"
    recordings = {
        times: repeated("digits-en.wav", times, tmp_path / f"{times}.wav") for times in set(TIMES)
    }
    stack.maintenance()
    workers = [stack.worker() for _ in range(2)]
    jobs = [stack.submit(recordings[times], ring=False) for times in TIMES]
    for job_id in jobs[:4]:
        stack.wait_for_windows(job_id, 1)
    seen: Windows = {}
    for old in workers:
        stack.worker()
        old.signal(signal.SIGTERM)
        assert old.wait() == 0
        seen |= kept(stack, jobs)
    # what was handed back waits behind the rest
    for job_id in reversed(jobs):
        stack.wait_for_status(job_id, "completed", "failed", "cancelled")
    ended = [stack.job(job_id) for job_id in jobs]
    handed_back = [job for job in ended if job.interrupt_count]

    assert {job.status for job in ended} == {"completed"}
    assert {(job.attempt, job.crash_count) for job in ended} == {(1, 0)}
    assert handed_back
    # a job that began anew would have written its windows again, under its new lease
    last = kept(stack, jobs)
    assert {window: last[window] for window in seen} == seen
    assert any(last[job.id, 0] < job.lease_epoch for job in handed_back)
    for job_id, times in zip(jobs, TIMES, strict=True):
        result = stack.result(job_id)
        assert result is not None
        assert result.text.split() == times * sample("digits-en.wav").text.split()
    with stack.sessions() as session:
        assert session.scalar(select(func.count()).select_from(TranscriptionResult)) == len(jobs)
        assert session.scalar(select(func.count()).select_from(ErrorLog)) == 0
