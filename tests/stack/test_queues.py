"""Pausing queues while the service works, its parts restarted: nothing starts that should not."""

import signal
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from tests.recordings import PROJECT_DIR, SAMPLES, repeated, sample
from tests.stack.conftest import Process, Stack, wait_for

pytestmark = [pytest.mark.stack, pytest.mark.model]

SHORT = SAMPLES / "digits-en.wav"
#: What a worker says of a message for a job that it may not start.
IGNORED = "nothing to do for this message"


def cli(stack: Stack, *arguments: str) -> None:
    subprocess.run(
        [sys.executable, "cli.py", *arguments],
        cwd=PROJECT_DIR,
        env=stack.environment,
        check=True,
        capture_output=True,
    )


def never_began(stack: Stack, job_ids: list[uuid.UUID]) -> bool:
    jobs = [stack.job(job_id) for job_id in job_ids]
    return all((job.status, job.lease_epoch) == ("pending", 0) for job in jobs)


def ignored(worker: Process) -> int:
    return worker.log.read_text("utf-8").count(IGNORED)


def test_messages_of_a_paused_queue_start_no_job_until_it_is_resumed(stack: Stack) -> None:
    waiting = [stack.submit(SHORT) for _ in range(3)]
    cli(stack, "queues", "pause", "normal")
    stack.maintenance()
    worker = stack.worker()
    wait_for(lambda: ignored(worker) >= len(waiting), "the worker has taken the messages")
    # the other queues go on
    stack.wait_for_status(stack.submit(SHORT, priority="high"), "completed")

    assert never_began(stack, waiting)
    cli(stack, "queues", "resume", "normal")
    for job_id in waiting:
        assert stack.wait_for_status(job_id, "completed", "failed").lease_epoch == 1


def test_a_queue_stays_paused_whatever_is_restarted(stack: Stack) -> None:
    maintenance, worker = stack.maintenance(), stack.worker()
    cli(stack, "queues", "pause", "all")
    waiting = [stack.submit(SHORT), stack.submit(SHORT, priority="high")]
    worker.signal(signal.SIGTERM)
    maintenance.signal(signal.SIGTERM)
    assert (worker.wait(), maintenance.wait()) == (0, 0)
    stack.redis.flushdb()
    stack.maintenance()
    worker = stack.worker()
    # by hand: nothing of ours publishes what is paused
    stack.ring(waiting[0], "normal")
    stack.ring(waiting[1], "high")
    wait_for(lambda: ignored(worker) >= len(waiting), "the worker has taken the messages")

    assert never_began(stack, waiting)
    cli(stack, "queues", "resume", "all")
    for job_id in waiting:
        stack.wait_for_status(job_id, "completed")


def test_what_runs_when_its_queue_is_paused_runs_to_its_end(stack: Stack, tmp_path: Path) -> None:
    stack.maintenance()
    stack.worker(CELERY_CONCURRENCY="1")
    running = stack.submit(repeated("digits-en.wav", 30, tmp_path / "long.wav"))
    stack.wait_for_windows(running, 1)
    cli(stack, "queues", "pause", "normal")
    # it would step aside for this one, and never come back
    urgent = stack.submit(SHORT, priority="high")

    assert stack.wait_for_status(running, "completed", "failed").preempt_count == 0
    stack.wait_for_status(urgent, "completed")
    result = stack.result(running)
    assert result is not None
    assert result.text.split() == 30 * sample("digits-en.wav").text.split()
