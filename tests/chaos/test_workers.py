"""Workers that die, hang, freeze and fail: the work goes on elsewhere, and nobody else suffers."""

import signal
from pathlib import Path

import pytest
from celery.platforms import EX_FAILURE

from tests.chaos.conftest import (
    DISPATCH,
    HEARTBEAT,
    LONG_TEXT,
    REAPED,
    REDISPATCH,
    SHORT_TEXT,
    WINDOW,
    Chaos,
    drained,
    retried,
    words_of,
)
from tests.recordings import repeated
from tests.stack.conftest import wait_for

pytestmark = [pytest.mark.chaos, pytest.mark.model]


@pytest.mark.fault("F1", "worker killed (SIGKILL) in mid-job")
def test_a_killed_workers_job_is_finished_by_another(chaos: Chaos, long_recording: Path) -> None:
    chaos.stack.maintenance()
    first = chaos.worker()
    job_id = chaos.submit(long_recording)
    chaos.stack.wait_for_windows(job_id, 2)
    second = chaos.worker()

    first.kill()
    with chaos.recovery(REAPED):
        wait_for(lambda: chaos.stack.job(job_id).lease_epoch == 2, "another worker has it")
    done = chaos.end_of(job_id)

    assert (done.status, done.attempt, done.crash_count) == ("completed", 1, 1)
    assert chaos.stack.windows(job_id)[0].lease_epoch == 1
    assert second.said("resuming")
    assert words_of(chaos.stack, job_id) == LONG_TEXT
    assert chaos.errors_of(job_id) == ["worker_lost"]
    chaos.check()


@pytest.mark.fault("F7", "SIGTERM with a job that is shorter than the grace")
def test_sigterm_lets_a_short_job_finish(chaos: Chaos) -> None:
    worker = chaos.worker(DRAIN_SECONDS="100")
    job_id = chaos.submit_null(4, 0.5)
    chaos.stack.wait_for_windows(job_id, 1)
    worker.signal(signal.SIGTERM)
    with chaos.recovery(drained(4 * 0.5, 0)):
        status = worker.wait()
    done = chaos.stack.job(job_id)

    assert status == 0
    assert (done.status, done.lease_epoch, done.interrupt_count) == ("completed", 1, 0)
    chaos.check()


@pytest.mark.fault("F8", "SIGTERM with a long job: handed back, resumed elsewhere")
def test_sigterm_hands_a_long_job_back_and_another_worker_goes_on_where_it_was(
    chaos: Chaos, long_recording: Path
) -> None:
    chaos.stack.maintenance()
    first = chaos.worker()
    job_id = chaos.submit(long_recording)
    chaos.stack.wait_for_windows(job_id, 2)

    first.signal(signal.SIGTERM)
    with chaos.recovery(drained(1, 10)):
        assert first.wait() == 0
    handed_back = chaos.stack.job(job_id)
    kept = len(chaos.stack.windows(job_id))
    second = chaos.worker()
    done = chaos.end_of(job_id)

    assert (handed_back.status, handed_back.attempt, handed_back.interrupt_count) == (
        "pending",
        0,
        1,
    )
    assert (done.status, done.attempt, done.crash_count) == ("completed", 1, 0)
    epochs = [window.lease_epoch for window in chaos.stack.windows(job_id)]
    assert epochs[:kept] == [1] * kept
    assert set(epochs[kept:]) == {2}
    assert second.said("resuming")
    assert words_of(chaos.stack, job_id) == LONG_TEXT
    assert chaos.errors_of(job_id) == []
    chaos.check()


@pytest.mark.fault("F9", "SIGTERM with an engine that hangs: handed back, process gone")
def test_a_hanging_thread_does_not_keep_a_worker_from_ending(
    chaos: Chaos, long_recording: Path
) -> None:
    chaos.stack.maintenance()
    first = chaos.worker(DRAIN_SECONDS="1", DRAIN_FORCE_SECONDS="2")
    job_id = chaos.submit(long_recording, fault="hang after 1 once")
    chaos.stack.wait_for_windows(job_id, 1)
    first.signal(signal.SIGTERM)

    with chaos.recovery(drained(1, 2)):
        assert first.wait() == 0
    assert chaos.stack.job(job_id).status == "pending"
    chaos.worker()
    assert chaos.end_of(job_id).status == "completed"
    assert words_of(chaos.stack, job_id) == LONG_TEXT
    chaos.check()


@pytest.mark.fault("F11", "worker frozen (SIGSTOP) for longer than its lease, then SIGCONT")
def test_a_frozen_worker_that_thaws_changes_nothing_more(
    chaos: Chaos, long_recording: Path
) -> None:
    chaos.stack.maintenance()
    zombie = chaos.worker()
    job_id = chaos.submit(long_recording)
    chaos.stack.wait_for_windows(job_id, 1)

    zombie.signal(signal.SIGSTOP)
    with chaos.recovery(REAPED):
        wait_for(lambda: chaos.stack.job(job_id).crash_count == 1, "the lease is reaped")
    chaos.worker()
    wait_for(lambda: chaos.stack.job(job_id).lease_epoch == 2, "another worker has it")
    zombie.signal(signal.SIGCONT)
    done = chaos.end_of(job_id)
    wait_for(lambda: zombie.said("another worker owns the job"), "the zombie noticed")

    assert (done.status, done.lease_epoch) == ("completed", 2)
    assert words_of(chaos.stack, job_id) == LONG_TEXT
    chaos.check()


@pytest.mark.fault("F12", "the engine holds Python's lock for longer than the lease")
def test_a_worker_whose_heartbeat_cannot_run_is_fenced(chaos: Chaos, long_recording: Path) -> None:
    chaos.stack.maintenance()
    zombie = chaos.worker()
    job_id = chaos.submit(long_recording, fault="hold-the-gil after 1 once")
    chaos.stack.wait_for_windows(job_id, 1)
    with chaos.recovery(WINDOW + REAPED):
        wait_for(lambda: chaos.stack.job(job_id).crash_count == 1, "the lease is reaped")
    chaos.worker()
    done = chaos.end_of(job_id)
    wait_for(lambda: zombie.said("another worker owns the job"), "the zombie noticed")

    assert done.status == "completed"
    assert words_of(chaos.stack, job_id) == LONG_TEXT
    chaos.check()


@pytest.mark.fault("F13", "a job kills every process that touches it; others share the first one")
def test_a_job_that_kills_is_poison_and_innocents_that_shared_its_process_survive(
    chaos: Chaos, long_recording: Path
) -> None:
    chaos.stack.maintenance()
    first = chaos.worker(CELERY_CONCURRENCY="2")
    innocent = chaos.submit(long_recording)
    chaos.stack.wait_for_windows(innocent, 1)
    second = chaos.worker(CELERY_CONCURRENCY="2", CELERY_QUEUES="retry")
    guilty = chaos.submit(long_recording, fault="segfault after 1")
    assert first.wait() == -signal.SIGSEGV
    with chaos.recovery(REAPED):
        chaos.is_taken(innocent)
        chaos.is_taken(guilty)
    chaos.fails(guilty, 2)
    with chaos.recovery(retried(2)):
        chaos.is_taken(guilty, 3)
    poison, spared = chaos.end_of(guilty), chaos.end_of(innocent)

    assert (poison.status, poison.failure_reason) == ("failed", "poison")
    assert (poison.crash_count, poison.solo_crash_count, poison.attempt) == (1, 2, 0)
    assert chaos.errors_of(guilty) == ["worker_lost", "process_died", "process_died"]
    assert (spared.status, spared.crash_count, spared.solo_crash_count) == ("completed", 1, 0)
    assert spared.attempt == 1
    assert words_of(chaos.stack, innocent) == LONG_TEXT
    assert second.popen.poll() is None
    wait_for(lambda: chaos.stack.job(guilty).dead_letter_noted_at, "the dead letter is noted")
    chaos.check()


@pytest.mark.fault("F15", "out of memory in mid-job (CUDA's error, MemoryError)")
@pytest.mark.parametrize("kind", ["out-of-memory", "memory-error"])
def test_memory_that_runs_out_costs_no_slot(chaos: Chaos, kind: str) -> None:
    chaos.stack.maintenance()
    worker = chaos.worker(CELERY_CONCURRENCY="1")
    job_id = chaos.submit(fault=f"{kind} after 0", max_attempts=2)
    chaos.fails(job_id)
    with chaos.recovery(retried(pause=6)):
        chaos.is_taken(job_id)
    failed = chaos.end_of(job_id)
    after = chaos.submit()

    assert (failed.status, failed.failure_reason) == ("failed", "attempts_exhausted")
    assert failed.error_code == "out_of_memory"
    assert chaos.errors_of(job_id) == ["out_of_memory"] * 2
    assert chaos.end_of(after).status == "completed"
    assert worker.popen.poll() is None
    chaos.check()


@pytest.mark.fault("F16", "SystemExit, KeyboardInterrupt, an unforeseen error in the engine")
@pytest.mark.parametrize("kind", ["exit", "interrupt", "error"])
def test_whatever_an_engine_raises_costs_no_slot(chaos: Chaos, kind: str) -> None:
    chaos.stack.maintenance()
    worker = chaos.worker(CELERY_CONCURRENCY="1")
    job_id = chaos.submit(fault=f"{kind} after 0 once")
    chaos.fails(job_id)
    with chaos.recovery(retried()):
        chaos.is_taken(job_id)
    done = chaos.end_of(job_id)
    after = chaos.submit()

    assert (done.status, done.attempt) == ("completed", 2)
    assert chaos.errors_of(job_id) == ["internal_error"]
    assert words_of(chaos.stack, job_id) == SHORT_TEXT
    assert chaos.end_of(after).status == "completed"
    assert worker.popen.poll() is None
    chaos.check()


@pytest.mark.fault("F50", "Celery's own loop ends by an error in mid-job")
def test_a_worker_whose_celery_ends_finishes_what_it_has_and_exits(chaos: Chaos) -> None:
    chaos.stack.maintenance()
    room = {"CELERY_CONCURRENCY": "2", "DRAIN_SECONDS": "30"}
    first = chaos.stack.start("worker", "-m", "tests.chaos.ending_worker", **room)
    wait_for(lambda: first.said("ready"), "the worker is ready")
    running = chaos.submit_null(10, 0.3)
    chaos.stack.wait_for_windows(running, 1)
    lost = chaos.submit_null(1)
    wait_for(lambda: first.said("Unrecoverable error"), "Celery ends")
    with chaos.recovery(REDISPATCH + DISPATCH):
        second = chaos.worker()
        chaos.is_taken(lost, epoch=1)
    finished, other = chaos.end_of(running), chaos.end_of(lost)

    assert first.wait() == EX_FAILURE
    assert (finished.status, finished.attempt, finished.lease_epoch) == ("completed", 1, 1)
    assert (other.status, other.attempt) == ("completed", 1)
    assert second.popen.poll() is None
    chaos.check()


@pytest.mark.fault("H1", "an engine hangs: the job goes on elsewhere, the process is replaced")
def test_a_hung_engine_is_left_behind_with_its_process(chaos: Chaos, long_recording: Path) -> None:
    chaos.stack.maintenance()
    first = chaos.worker(STALL_SECONDS="4")
    job_id = chaos.submit(long_recording, fault="hang after 1 once")
    chaos.stack.wait_for_windows(job_id, 1)
    with chaos.recovery(WINDOW + 4 + 2 * HEARTBEAT):
        chaos.fails(job_id)
    status = first.wait()
    chaos.worker()
    done = chaos.end_of(job_id)

    assert status == 70
    assert (done.status, done.crash_count, done.attempt) == ("completed", 1, 1)
    assert chaos.errors_of(job_id) == ["stalled"]
    assert words_of(chaos.stack, job_id) == LONG_TEXT
    chaos.check()


@pytest.mark.fault("H2", "a suspect hangs in its own process: killed, poison, the worker goes on")
def test_a_suspect_that_hangs_is_killed(chaos: Chaos, long_recording: Path) -> None:
    chaos.stack.maintenance()
    first = chaos.worker()
    job_id = chaos.submit(long_recording, fault="hang after 1")
    chaos.stack.wait_for_windows(job_id, 1)
    first.kill()
    second = chaos.worker(STALL_SECONDS="20")
    # it says this window and nothing more
    chaos.stack.wait_for_windows(job_id, 2)
    with chaos.recovery(20.0):
        wait_for(lambda: chaos.stack.job(job_id).solo_crash_count == 1, "its child is killed")
    done = chaos.end_of(job_id)

    assert (done.status, done.failure_reason) == ("failed", "poison")
    assert chaos.errors_of(job_id) == ["worker_lost", "process_died", "process_died"]
    assert second.popen.poll() is None
    chaos.check()


@pytest.mark.fault("R1", "the worker is killed in every window in turn")
def test_a_job_resumes_however_often_its_worker_dies(chaos: Chaos, tmp_path: Path) -> None:
    chaos.stack.maintenance()
    job_id = chaos.submit(repeated("digits-en.wav", 20, tmp_path / "five windows.wav"))
    for count in range(1, 5):
        worker = chaos.worker()
        chaos.stack.wait_for_windows(job_id, count)
        worker.kill()
        with chaos.recovery(REAPED):
            wait_for(lambda: chaos.stack.job(job_id).crash_count == count, "it is reaped")  # noqa: B023
    chaos.worker()
    done = chaos.end_of(job_id)

    assert (done.status, done.attempt, done.crash_count) == ("completed", 1, 4)
    assert words_of(chaos.stack, job_id) == 20 * SHORT_TEXT
    starts = [window.start_seconds for window in chaos.stack.windows(job_id)]
    assert starts == sorted(set(starts))
    chaos.check()
