"""What a worker promises, seen from outside: processes, signals, and the rows they leave."""

import signal
import uuid
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import select, text

from models import ErrorLog, TranscriptionJob
from tests.recordings import SAMPLES, repeated, sample
from tests.stack.conftest import Stack, wait_for

pytestmark = [pytest.mark.stack, pytest.mark.model]

SHORT = SAMPLES / "digits-en.wav"


@pytest.fixture
def long_recording(tmp_path: Path) -> Path:
    """Some minutes: many windows, so that something can happen in the middle."""
    return repeated("digits-en.wav", 60, tmp_path / "long.wav")


def test_a_job_is_transcribed(stack: Stack) -> None:
    stack.worker()
    job_id = stack.submit(SHORT)

    job = stack.wait_for_status(job_id, "completed", "failed")

    result = stack.result(job_id)
    assert job.status == "completed", job.error_message
    assert result is not None
    assert result.text == sample("digits-en.wav").text
    assert (result.language, job.progress, job.attempt) == ("en", 1.0, 1)
    assert job.model_used == "openai-whisper/demo/cpu/float32"
    assert not list((stack.folder / "scratch").iterdir())


def test_a_high_job_starts_before_the_normal_ones_that_wait(stack: Stack, tmp_path: Path) -> None:
    recording = repeated("digits-en.wav", 6, tmp_path / "a.wav")
    stack.maintenance()
    waiting = [stack.submit(recording) for _ in range(20)]
    stack.worker(CELERY_CONCURRENCY="2")
    wait_for(
        lambda: sum(stack.job(job_id).status == "processing" for job_id in waiting) == 2,
        "both threads are busy",
    )

    urgent = stack.submit(recording, priority="high")
    for job_id in [urgent, *waiting]:
        stack.wait_for_status(job_id, "completed")

    jobs = [stack.job(job_id) for job_id in [urgent, *waiting]]
    begun_before = [job for job in jobs if started(job) < jobs[0].created_at]
    order = sorted(jobs, key=started)
    assert len(begun_before) >= 2
    assert order.index(jobs[0]) == len(begun_before)
    assert len(begun_before) < 15


def started(job: TranscriptionJob) -> datetime:
    return job.started_at or datetime.max.replace(tzinfo=UTC)


def test_sigterm_lets_a_short_job_finish(stack: Stack, long_recording: Path) -> None:
    worker = stack.worker(DRAIN_SECONDS="100")
    job_id = stack.submit(long_recording)
    stack.wait_for_windows(job_id, 1)

    worker.signal(signal.SIGTERM)
    wait_for(lambda: worker.said("draining"), "the worker drains")
    running = stack.job(job_id).status

    assert worker.wait() == 0
    assert (running, stack.job(job_id).status) == ("processing", "completed")


def test_a_draining_worker_leaves_new_messages_to_others(
    stack: Stack, long_recording: Path
) -> None:
    worker = stack.worker(DRAIN_SECONDS="100")
    first = stack.submit(long_recording)
    stack.wait_for_windows(first, 1)
    worker.signal(signal.SIGTERM)
    wait_for(lambda: worker.said("draining"), "the worker drains")
    second = stack.submit(SHORT)

    assert worker.wait() == 0
    assert (stack.job(second).status, stack.job(second).lease_epoch) == ("pending", 0)


def test_cancelling_a_running_job_stops_it_and_stores_no_result(
    stack: Stack, long_recording: Path
) -> None:
    stack.worker()
    job_id = stack.submit(long_recording)
    stack.wait_for_windows(job_id, 1)

    with stack.sessions.begin() as session:
        session.execute(
            text("UPDATE transcription_jobs SET cancel_requested_at = now() WHERE id = :id"),
            {"id": job_id},
        )
    stack.wait_for_status(job_id, "cancelled")

    assert stack.result(job_id) is None
    assert not list((stack.folder / "scratch").iterdir())


def test_a_file_that_is_no_audio_fails_at_once_and_is_noted(stack: Stack) -> None:
    stack.maintenance()
    stack.worker()
    job_id = stack.submit(Path(__file__))

    job = stack.wait_for_status(job_id, "failed")
    noted = wait_for(lambda: stack.job(job_id).dead_letter_noted_at, "it is noted")

    assert (job.failure_reason, job.error_code, job.attempt) == ("not_audio", "not_audio", 1)
    assert noted
    with stack.sessions() as session:
        (log,) = session.scalars(select(ErrorLog)).all()
    assert (log.error_code, log.attempt) == ("not_audio", 1)
    assert log.traceback
    assert "NotAudio" in log.traceback


def test_a_model_that_cannot_be_had_fails_the_job_and_says_what_to_put_where(stack: Stack) -> None:
    stack.worker()
    job_id = stack.submit(SHORT, model_name="tiny")

    job = stack.wait_for_status(job_id, "failed")

    assert job.failure_reason == "model_unavailable"
    assert job.error_message
    assert "tiny.pt" in job.error_message


@pytest.mark.parametrize("busy", [False, True])
def test_a_worker_takes_leave_when_it_ends(
    stack: Stack, long_recording: Path, *, busy: bool
) -> None:
    worker = stack.worker()
    if busy:
        stack.wait_for_windows(stack.submit(long_recording), 1)
    there = "SELECT count(*) FROM workers WHERE left_at IS NULL"
    with stack.sessions() as session:
        assert session.scalar(text(there)) == 1
    worker.signal(signal.SIGTERM)

    assert worker.wait() == 0
    with stack.sessions() as session:
        assert session.scalar(text(there)) == 0


def test_maintenance_never_takes_an_empty_place_for_the_store(stack: Stack, tmp_path: Path) -> None:
    empty = tmp_path / "not-mounted"
    empty.mkdir()
    maintenance = stack.start(
        "maintenance", "worker.py", "--role", "maintenance", UPLOAD_DIR=str(empty)
    )
    wait_for(lambda: maintenance.said("loop waits for what it needs"), "the janitor noticed")

    assert list(empty.iterdir()) == []


@pytest.mark.parametrize(
    ("variable", "value"), [("WHISPER_MODEL_SIZE", "huge"), ("MAX_RETRIES", "many")]
)
def test_a_bad_setting_stops_the_start_with_one_line(
    stack: Stack, variable: str, value: str
) -> None:
    worker = stack.worker(ready=False, **{variable: value})

    assert worker.wait() != 0
    said = worker.log.read_text().strip().splitlines()
    assert len(said) == 1
    assert value in said[0]


def words_of(stack: Stack, job_id: uuid.UUID) -> list[str]:
    result = stack.result(job_id)
    assert result is not None
    return result.text.split()
