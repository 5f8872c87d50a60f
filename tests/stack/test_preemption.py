"""An urgent job starts within a window though every thread is busy, and nobody starves by it."""

from datetime import datetime
from pathlib import Path

import pytest

from models import TranscriptionJob
from tests.recordings import repeated, sample
from tests.stack.conftest import Stack, wait_for

pytestmark = [pytest.mark.stack, pytest.mark.model]

TIMES = 30


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """Eight windows."""
    return repeated("digits-en.wav", TIMES, tmp_path / "long.wav")


def started(job: TranscriptionJob) -> datetime:
    assert job.started_at is not None
    return job.started_at


def ended(job: TranscriptionJob) -> datetime:
    assert job.completed_at is not None
    return job.completed_at


def text_of(stack: Stack, job: TranscriptionJob) -> list[str]:
    result = stack.result(job.id)
    assert result is not None
    return result.text.split()


def test_one_job_steps_aside_for_one_urgent_job_and_resumes(stack: Stack, recording: Path) -> None:
    stack.maintenance()
    worker = stack.worker(CELERY_CONCURRENCY="2", WHISPER_ENGINE="openai-whisper")
    normal = [stack.submit(recording) for _ in range(2)]
    for job_id in normal:
        stack.wait_for_windows(job_id, 1)
    urgent = stack.submit(recording, priority="high")
    done = [stack.wait_for_status(job_id, "completed") for job_id in [*normal, urgent]]

    assert sorted(job.preempt_count for job in done) == [0, 0, 1]
    assert [(job.attempt, job.crash_count) for job in done] == [(1, 0)] * 3
    assert started(done[2]) < min(ended(job) for job in done[:2])
    assert worker.said("job stepped aside for an urgent one")
    for job in done:
        assert text_of(stack, job) == TIMES * sample("digits-en.wav").text.split()


def test_it_can_be_switched_off(stack: Stack, recording: Path) -> None:
    stack.maintenance()
    stack.worker(CELERY_CONCURRENCY="1", PREEMPTION="false")
    normal = stack.submit(recording)
    stack.wait_for_windows(normal, 1)
    urgent = stack.submit(recording, priority="high")
    done = [stack.wait_for_status(job_id, "completed") for job_id in (normal, urgent)]

    assert started(done[1]) >= ended(done[0])


def test_a_job_that_stepped_aside_often_enough_is_left_to_finish(
    stack: Stack, recording: Path
) -> None:
    stack.maintenance()
    stack.worker(CELERY_CONCURRENCY="1", MAX_PREEMPTIONS="1")
    normal = stack.submit(recording)
    stack.wait_for_windows(normal, 1)
    first = stack.submit(recording, priority="high")
    stack.wait_for_status(first, "processing")
    stack.wait_for_status(first, "completed")
    wait_for(lambda: stack.job(normal).status == "processing", "it goes on")
    second = stack.submit(recording, priority="high")
    done = [stack.wait_for_status(job_id, "completed") for job_id in (normal, second)]

    assert done[0].preempt_count == 1
    assert started(done[1]) >= ended(done[0])
