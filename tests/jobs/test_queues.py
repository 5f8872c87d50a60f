"""What a paused queue keeps back, and what it does not, on real PostgreSQL."""

import uuid
from datetime import timedelta
from typing import get_args

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, sessionmaker

from jobs import dispatching, lifecycle, queues
from jobs.lifecycle import Lane, Lease
from models import PausedQueue, TranscriptionJob
from tests.jobs.conftest import FAILURE, NO_PAUSE, MakeJob, claim, read

Sessions = sessionmaker[Session]
LANES = get_args(Lane)


def pause(sessions: Sessions, *names: str, by: str = "cli", note: str | None = None) -> None:
    with sessions.begin() as session:
        queues.pause(session, names, paused_by=by, note=note)


def resume(sessions: Sessions, *names: str) -> None:
    with sessions.begin() as session:
        queues.resume(session, names)


def may_start(sessions: Sessions, job: TranscriptionJob) -> bool:
    with sessions() as session:
        found = lifecycle.claim(session, job.id, "w1") is not None
        session.rollback()
    return found


def wait_since(sessions: Sessions, job_id: uuid.UUID, seconds: float) -> None:
    with sessions.begin() as session:
        job = session.get_one(TranscriptionJob, job_id)
        job.not_before -= timedelta(seconds=seconds)


def failed_once(sessions: Sessions, make_job: MakeJob, priority: str = "high") -> TranscriptionJob:
    lease = claim(sessions, make_job(priority=priority).id).lease
    with sessions.begin() as session:
        lifecycle.retry(session, lease, FAILURE, NO_PAUSE)
    return read(sessions, lease.job_id)


@pytest.mark.parametrize("name", LANES)
def test_of_a_paused_queue_no_job_is_claimed_and_of_the_others_each(
    sessions: Sessions, make_job: MakeJob, name: str
) -> None:
    waiting = {
        "high": make_job(priority="high"),
        "normal": make_job(),
        "retry": failed_once(sessions, make_job),
    }
    pause(sessions, name)

    assert {job: may_start(sessions, waiting[job]) for job in LANES} == {
        job: job != name for job in LANES
    }


@pytest.mark.parametrize("name", LANES)
def test_of_a_paused_queue_no_job_is_dispatched(
    sessions: Sessions, make_job: MakeJob, name: Lane
) -> None:
    make_job(priority="high")
    make_job()
    failed_once(sessions, make_job)
    pause(sessions, name)

    with sessions.begin() as session:
        found = {
            lane: len(dispatching.dispatch(session, lane, room=5, redispatch_seconds=60))
            for lane in ("high", "normal", "retry")
        }
    assert found == {lane: int(lane != name) for lane in LANES}


def test_nobody_overtakes_out_of_a_paused_queue(sessions: Sessions, make_job: MakeJob) -> None:
    wait_since(sessions, make_job().id, 1000)
    pause(sessions, "normal")
    with sessions.begin() as session:
        found = dispatching.overtake(session, "normal", too_long_seconds=1, redispatch_seconds=60)

    assert found is None


def test_who_overtakes_into_a_paused_queue_is_of_another_and_may_start(
    sessions: Sessions, make_job: MakeJob
) -> None:
    job = make_job()
    wait_since(sessions, job.id, 1000)
    pause(sessions, "high")
    with sessions.begin() as session:
        found = dispatching.overtake(session, "normal", too_long_seconds=1, redispatch_seconds=60)

    assert found is not None
    assert may_start(sessions, job)


def step_aside(sessions: Sessions, job: TranscriptionJob) -> bool:
    lease = Lease(job_id=job.id, epoch=job.lease_epoch, worker_name="w1", attempt=job.attempt)
    with sessions.begin() as session:
        return lifecycle.step_aside(session, lease, most=3, patience_seconds=0)


def test_nobody_steps_aside_for_a_job_that_may_not_start(
    sessions: Sessions, make_job: MakeJob
) -> None:
    running = make_job("processing")
    make_job(priority="high")
    pause(sessions, "high")

    assert not step_aside(sessions, running)
    resume(sessions, "high")
    assert step_aside(sessions, running)


def test_nobody_steps_aside_into_a_paused_queue(sessions: Sessions, make_job: MakeJob) -> None:
    running = make_job("processing")
    make_job(priority="high")
    pause(sessions, "normal")

    assert not step_aside(sessions, running)
    resume(sessions, "normal")
    assert step_aside(sessions, running)


def test_what_runs_is_not_touched(sessions: Sessions, make_job: MakeJob) -> None:
    running = make_job("processing")
    pause(sessions, *LANES)

    assert read(sessions, running.id).status == "processing"


def test_what_was_published_is_due_at_once_when_its_queue_is_resumed(
    sessions: Sessions, make_job: MakeJob
) -> None:
    job = make_job()
    with sessions.begin() as session:
        dispatching.dispatch(session, "normal", room=5, redispatch_seconds=60)
    pause(sessions, "normal")
    resume(sessions, "normal")

    with sessions.begin() as session:
        due = dispatching.dispatch(session, "normal", room=5, redispatch_seconds=60)
    assert [found.job_id for found in due] == [job.id]


def test_resuming_hurries_neither_what_is_not_due_nor_what_was_not_paused(
    sessions: Sessions, make_job: MakeJob
) -> None:
    later, published = make_job("delayed"), make_job(priority="high")
    with sessions.begin() as session:
        session.execute(text("UPDATE transcription_jobs SET dispatch_due_at = not_before"))
        dispatching.dispatch(session, "high", room=5, redispatch_seconds=60)
    before = [read(sessions, job.id).dispatch_due_at for job in (later, published)]
    pause(sessions, "normal")
    resume(sessions, *LANES)

    assert [read(sessions, job.id).dispatch_due_at for job in (later, published)] == before


def paused(sessions: Sessions) -> dict[str, PausedQueue]:
    with sessions() as session:
        return queues.paused(session)


def test_pausing_again_keeps_who_was_first_and_takes_a_new_note(sessions: Sessions) -> None:
    pause(sessions, "high", by="alice", note="disk is full")
    first = paused(sessions)["high"]
    pause(sessions, *LANES, by="bob")
    second = paused(sessions)["high"]
    pause(sessions, "high", by="carol", note="still full")

    assert (second.paused_at, second.paused_by, second.note) == (
        first.paused_at,
        "alice",
        "disk is full",
    )
    assert paused(sessions)["high"].note == "still full"
    assert paused(sessions).keys() == set(LANES)


def test_pausing_what_was_resumed_begins_anew(sessions: Sessions) -> None:
    pause(sessions, "high", by="alice", note="disk is full")
    first = paused(sessions)["high"]
    resume(sessions, "high")
    between = paused(sessions)
    pause(sessions, "high", by="bob")
    second = paused(sessions)["high"]

    assert between == {}
    assert second.paused_at > first.paused_at
    assert (second.paused_by, second.note) == ("bob", None)


def test_there_are_no_other_queues(sessions: Sessions) -> None:
    with pytest.raises(IntegrityError):
        pause(sessions, "dlq")
