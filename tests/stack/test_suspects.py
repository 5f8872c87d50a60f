"""Suspects that wait for their turn to run alone are called, and need not be lucky."""

from pathlib import Path
from typing import Any

import pytest

from models import TranscriptionJob
from tests.recordings import SAMPLES, repeated, sample
from tests.stack.conftest import Stack, wait_for

pytestmark = [pytest.mark.stack, pytest.mark.model]

SHORT = SAMPLES / "digits-en.wav"
#: A job that is put off asks again after hours.
SLOW: dict[str, Any] = {"RETRY_BASE_SECONDS": "36000", "RETRY_CAP_SECONDS": "864000"}


def test_each_is_called_when_the_turn_before_ends(stack: Stack, tmp_path: Path) -> None:
    long = repeated("digits-en.wav", 20, tmp_path / "long.wav")
    first, *others = [stack.submit(path, ring=False) for path in (long, *[SHORT] * 3)]
    with stack.sessions.begin() as session:
        for job_id in (first, *others):
            session.get_one(TranscriptionJob, job_id).isolate = True
    stack.worker(CELERY_CONCURRENCY="4", **SLOW)
    stack.ring(first, "normal")
    stack.wait_for_windows(first, 1)
    for job_id in reversed(others):
        stack.ring(job_id, "normal")
    wait_for(
        lambda: {stack.job(job_id).error_code for job_id in others} == {"occupied"},
        "all of them are put off",
    )
    stack.maintenance(**SLOW)
    jobs = [stack.wait_for_status(job_id, "completed") for job_id in (first, *others)]

    ends = [job.completed_at for job in jobs if job.completed_at is not None]
    assert ends == sorted(ends)
    # its first claim found that another had the turn, its second had it
    assert [(job.attempt, job.lease_epoch) for job in jobs] == [(1, 1), *[(1, 2)] * 3]
    for job_id in others:
        result = stack.result(job_id)
        assert result is not None
        assert result.text == sample("digits-en.wav").text
