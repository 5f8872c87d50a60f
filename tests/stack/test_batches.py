"""A worker whose jobs share batches, on real processes: every job is done as if it were alone."""

import signal
from pathlib import Path
from typing import Any

import pytest

from tests.recordings import SAMPLES, repeated, sample
from tests.stack.conftest import Stack

pytestmark = [pytest.mark.stack, pytest.mark.model]

ENGINE: dict[str, Any] = {"engine_name": "batch-whisper"}
BATCHING: dict[str, Any] = {"WHISPER_ENGINE": "batch-whisper", "CELERY_CONCURRENCY": "8"}
NAMES = ("digits-en.wav", "digits-es.wav", "digits-de.wav")


def test_many_jobs_at_once_get_each_its_own_text(stack: Stack) -> None:
    stack.maintenance()
    stack.worker(**BATCHING)
    jobs = [(stack.submit(SAMPLES / name, **ENGINE), name) for name in NAMES * 8]
    for job_id, name in jobs:
        job = stack.wait_for_status(job_id, "completed", "failed")
        result = stack.result(job_id)

        assert result is not None, job.error_message
        assert result.text == sample(name).text
        assert (job.attempt, job.degraded) == (1, False)
        assert (job.model_used or "").startswith("batch-whisper/demo/cpu/int8")


@pytest.mark.parametrize("mode", ["exact", "fast"])
def test_jobs_that_shared_a_batch_go_on_after_their_worker_was_killed(
    stack: Stack, tmp_path: Path, mode: str
) -> None:
    stack.maintenance()
    worker = stack.worker(**BATCHING, WHISPER_MODE=mode)
    recording = repeated("digits-en.wav", 40, tmp_path / "long.wav")
    jobs = [stack.submit(recording, **ENGINE) for _ in range(4)]
    for job_id in jobs:
        stack.wait_for_windows(job_id, 2)

    worker.signal(signal.SIGKILL)
    worker.wait()
    # what was begun in one mode is not ended in another
    stack.worker(**BATCHING, WHISPER_MODE="exact")

    for job_id in jobs:
        job = stack.wait_for_status(job_id, "completed")
        result = stack.result(job_id)
        assert result is not None
        assert result.text.split() == 40 * sample("digits-en.wav").text.split()
        assert job.mode == mode


@pytest.mark.parametrize(("times", "mode"), [(1, "exact"), (16, "fast")])
def test_a_long_recording_is_worked_on_in_all_its_parts(
    stack: Stack, tmp_path: Path, times: int, mode: str
) -> None:
    stack.worker(**BATCHING)
    job_id = stack.submit(repeated("digits-en.wav", times, tmp_path / "a.wav"), **ENGINE)
    job = stack.wait_for_status(job_id, "completed")
    result = stack.result(job_id)

    assert job.mode == mode
    assert result is not None
    assert result.text.split() == times * sample("digits-en.wav").text.split()
