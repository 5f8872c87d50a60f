"""When a job's turn comes, worked out as the dispatcher takes turns."""

import uuid
from collections.abc import Callable

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker

import keys
from jobs import backlog, workers
from jobs.backlog import Backlog, Estimate
from jobs.workers import WorkerState
from keys import Grant
from models import TranscriptionJob
from tests.jobs.conftest import MakeJob, claim, read

Sessions = sessionmaker[Session]
LANES = ("high", "normal", "retry")
MINUTE = 60.0


@pytest.fixture
def make_key(sessions: Sessions, owner_id: uuid.UUID) -> Callable[..., uuid.UUID]:
    def make(weight: float = 1.0) -> uuid.UUID:
        with sessions.begin() as session:
            return keys.create(session, Grant(owner="alice", weight=weight))[1].id

    return make


@pytest.fixture
def look(sessions: Sessions) -> Callable[[], Backlog]:
    def look() -> Backlog:
        with sessions.begin() as session:
            return backlog.read(session)

    return look


@pytest.fixture
def ask(sessions: Sessions, look) -> Callable[[TranscriptionJob], Estimate]:
    def ask(job: TranscriptionJob) -> Estimate:
        with sessions.begin() as session:
            found = session.get_one(TranscriptionJob, job.id)
            return backlog.estimate(session, found, look(), lanes=LANES)

    return ask


@pytest.fixture
def make_slots(sessions: Sessions) -> Callable[[int], None]:
    def make(slots: int) -> None:
        with sessions.begin() as session:
            state = WorkerState(name="w1", role="worker", queues=LANES, slots=slots, version="1")
            workers.announce(session, state)

    return make


@pytest.fixture
def learn(make_job: MakeJob, sessions: Sessions) -> Callable[[float], None]:
    """Let a job have been done: a minute of audio, in so many seconds."""

    def learn(took_seconds: float) -> None:
        job = make_job("completed")
        change(
            sessions,
            job,
            "audio_seconds = 60,"
            f" started_at = completed_at - make_interval(secs => {took_seconds})",
        )

    return learn


def change(sessions: Sessions, job: TranscriptionJob, assignment: str) -> None:
    with sessions.begin() as session:
        session.execute(
            text(f"UPDATE transcription_jobs SET {assignment} WHERE id = :id"), {"id": job.id}
        )


def test_of_one_key_the_jobs_before_go_first(make_job, make_key, ask):
    key = make_key()
    jobs = [make_job(api_key_id=key) for _ in range(3)]

    assert [ask(job).position for job in jobs] == [1, 2, 3]


def test_a_flood_of_another_key_is_not_waited_for(make_job, make_key, ask):
    flood, other = make_key(), make_key()
    for _ in range(20):
        make_job(api_key_id=flood)
    one = make_job(api_key_id=other)

    # one turn of the other key's, and then it
    assert ask(one).position == 2


def test_a_heavier_key_is_waited_for_longer(make_job, make_key, ask):
    heavy, light = make_key(3), make_key()
    for _ in range(20):
        make_job(api_key_id=heavy)
    one = make_job(api_key_id=light)

    assert ask(one).position == 4


def test_what_another_key_has_running_were_turns_of_its(make_job, make_key, ask, sessions):
    busy, idle = make_key(), make_key()
    claim(sessions, make_job(api_key_id=busy).id)
    for _ in range(20):
        make_job(api_key_id=busy)

    assert ask(make_job(api_key_id=idle)).position == 1


def test_everything_in_a_better_lane_goes_first(make_job, make_key, ask):
    first, second = make_key(), make_key()
    for _ in range(5):
        make_job(api_key_id=first, priority="high")
    one = make_job(api_key_id=second)

    assert ask(one).position == 6


def test_what_is_not_due_has_no_place(make_job, ask):
    assert ask(make_job("delayed")) == Estimate()


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled"])
def test_what_has_ended_has_no_place_and_no_time(make_job, ask, make_slots, learn, status):
    make_slots(1)
    learn(30)

    assert ask(make_job(status)) == Estimate()


# Time


def test_nobody_can_tell_before_anything_was_done(make_job, ask, make_slots):
    make_slots(1)

    assert ask(make_job(audio_seconds=MINUTE)).eta_seconds is None


def test_nobody_can_tell_without_a_worker(make_job, ask, learn):
    learn(30)

    assert ask(make_job(audio_seconds=MINUTE)).eta_seconds is None


def test_a_job_for_which_a_slot_is_free_takes_its_own_time(make_job, ask, make_slots, learn):
    make_slots(2)
    learn(30)

    # twice as fast as it is spoken
    assert ask(make_job(audio_seconds=MINUTE)).eta_seconds == 30


def test_a_job_waits_for_the_audio_before_it(make_job, make_key, ask, make_slots, learn):
    make_slots(1)
    learn(30)
    key = make_key()
    for _ in range(3):
        make_job(api_key_id=key, audio_seconds=MINUTE)
    last = make_job(api_key_id=key, audio_seconds=2 * MINUTE)

    assert ask(last).eta_seconds == 3 * 30 + 60


def test_more_slots_do_it_sooner(make_job, make_key, ask, make_slots, learn):
    make_slots(2)
    learn(30)
    key = make_key()
    for _ in range(4):
        make_job(api_key_id=key, audio_seconds=MINUTE)
    last = make_job(api_key_id=key, audio_seconds=MINUTE)

    assert ask(last).eta_seconds == 4 * 30 / 2 + 30


def test_what_is_left_of_running_jobs_is_waited_for(
    make_job, make_key, ask, make_slots, learn, sessions
):
    make_slots(1)
    learn(30)
    running = make_job(audio_seconds=MINUTE)
    claim(sessions, running.id)
    change(sessions, running, "progress = 0.5")
    waiting = make_job(audio_seconds=MINUTE)

    assert ask(read(sessions, running.id)).eta_seconds == 15
    assert ask(waiting).eta_seconds == 15 + 30


def test_the_speed_is_that_of_jobs_done_in_one_go(make_job, look, learn, sessions):
    learn(30)
    resumed = make_job("completed")
    change(
        sessions,
        resumed,
        "audio_seconds = 60, started_at = completed_at - interval '1 h', interrupt_count = 1",
    )

    assert look().speed == pytest.approx(2.0)


def test_the_speed_of_yesterday_is_forgotten(look, learn, sessions):
    learn(30)
    with sessions.begin() as session:
        session.execute(
            text("UPDATE transcription_jobs SET completed_at = now() - interval '25 hours'")
        )

    assert look().speed is None


def test_the_queue_holds_what_waits_due_or_not(make_job, look):
    make_job(audio_seconds=MINUTE)
    make_job("delayed", audio_seconds=MINUTE)
    make_job("processing", audio_seconds=MINUTE)

    assert look().queued_seconds == 2 * MINUTE
