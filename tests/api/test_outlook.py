"""What is known of the backlog, and refusing what would be too much."""

import pytest
from sqlalchemy import text
from starlette.testclient import TestClient

from api.outlook import LEAST_SECONDS, LONGEST_SECONDS, UNKNOWN_SECONDS, Outlook
from app import create_app
from errors import QueueFull
from jobs import workers
from jobs.workers import WorkerState
from tests.fakes import FakeClock

HOUR = 3600.0
FILE = {"file": ("a.mp3", b"sound")}


@pytest.fixture
def make_outlook():
    def make(budget_hours=0.0, clock=None):
        return Outlook(budget_seconds=budget_hours * HOUR, clock=clock or FakeClock())

    return make


@pytest.fixture
def session(sessions):
    with sessions.begin() as session:
        yield session


def refused(outlook, session):
    """The pause that a refusal asks for, or None."""
    try:
        outlook.require_room(session)
    except QueueFull as error:
        return error.data["retry_after_seconds"]
    return None


def test_one_look_serves_for_a_while(make_outlook, session, jobs):
    clock = FakeClock()
    outlook = make_outlook(clock=clock)
    first = outlook.backlog(session)
    jobs.submit()
    clock.advance(LEAST_SECONDS / 2)
    second = outlook.backlog(session)
    clock.advance(LEAST_SECONDS)
    third = outlook.backlog(session)

    assert first is second
    assert third.queued_seconds == 30.0


def test_without_a_budget_everything_is_taken(make_outlook, session, jobs):
    jobs.submit(audio_seconds=10**9)

    assert refused(make_outlook(), session) is None


def test_past_the_budget_nothing_is_taken(make_outlook, session, jobs):
    jobs.submit(audio_seconds=HOUR)

    assert refused(make_outlook(1.5), session) is None
    assert refused(make_outlook(1.0), session) is not None


def test_what_this_process_added_counts_at_once(make_outlook, session):
    outlook = make_outlook(1.0)
    before = refused(outlook, session)
    outlook.add(HOUR)

    assert before is None
    assert refused(outlook, session) is not None


def test_what_was_seen_does_not_count_twice(make_outlook, session, jobs):
    clock = FakeClock()
    outlook = make_outlook(1.5, clock)
    outlook.backlog(session)
    jobs.submit(audio_seconds=HOUR)
    outlook.add(HOUR)
    clock.advance(2 * LEAST_SECONDS)

    assert refused(outlook, session) is None


def announce(session, slots):
    state = WorkerState(name="w1", role="worker", queues=["normal"], slots=slots, version="1")
    workers.announce(session, state)


def learn(jobs, session):
    """Let a job be done: half a minute of audio, in ten seconds."""
    jobs.completed()
    session.execute(
        text("UPDATE transcription_jobs SET started_at = completed_at - interval '10 s'")
    )


def test_the_pause_is_as_long_as_working_the_excess_off_takes(make_outlook, session, jobs):
    learn(jobs, session)
    announce(session, 2)
    jobs.submit(audio_seconds=HOUR + 600)
    pause = refused(make_outlook(1.0), session)

    # 600 s, of which two slots do 6 in a second; a fifth of it is chance
    assert 80 <= pause <= 120


@pytest.mark.parametrize("slots", [0, 1])
def test_where_nobody_knows_the_pause_is_a_minute(make_outlook, session, jobs, slots):
    if slots:
        announce(session, slots)
    jobs.submit(audio_seconds=HOUR)
    pause = refused(make_outlook(1.0), session)

    assert 0.8 * UNKNOWN_SECONDS <= pause <= 1.2 * UNKNOWN_SECONDS + 1


def test_no_pause_is_longer_than_an_hour(make_outlook, session, jobs):
    learn(jobs, session)
    announce(session, 1)
    jobs.submit(audio_seconds=10**9)

    assert refused(make_outlook(1.0), session) == LONGEST_SECONDS


# Over HTTP


@pytest.mark.security("resources", "more than the queue may hold")
def test_a_full_queue_is_told_with_a_pause_and_leaves_nothing(make_settings, alice, jobs):
    jobs.submit("bob", audio_seconds=HOUR)
    app = create_app(make_settings(max_queued_audio_hours=1))
    with TestClient(app, raise_server_exceptions=False) as client:
        answer = client.post("/transcribe", files=FILE, headers=alice)

    assert (answer.status_code, answer.json()["code"]) == (503, "queue_full")
    assert int(answer.headers["retry-after"]) > 0
    assert jobs.count() == 1


def test_a_submission_that_is_sent_again_is_answered_though_the_queue_is_full(make_settings, alice):
    headers = {**alice, "Idempotency-Key": "k"}
    app = create_app(make_settings(max_queued_audio_hours=1e-9))
    with TestClient(app, raise_server_exceptions=False) as client:
        first, again, other = (
            client.post("/transcribe", files=FILE, headers=sent)
            for sent in (headers, headers, alice)
        )

    assert (first.status_code, again.status_code, other.status_code) == (202, 202, 503)
    assert again.json()["id"] == first.json()["id"]


def test_a_job_is_told_when_it_will_be_done(client, alice, jobs, sessions):
    with sessions.begin() as session:
        announce(session, 1)
        learn(jobs, session)
    submitted = client.post("/transcribe", files=FILE, headers=alice).json()
    asked = client.get(f"/jobs/{submitted['id']}", headers=alice).json()

    assert submitted["eta_seconds"] == asked["eta_seconds"] == 1
    assert asked["queue_position"] == 1


def test_nobody_is_told_what_nobody_knows(client, alice):
    submitted = client.post("/transcribe", files=FILE, headers=alice).json()

    assert submitted["eta_seconds"] is None


def test_while_its_queue_is_paused_nobody_can_tell(client, alice, admin, jobs, sessions):
    with sessions.begin() as session:
        announce(session, 1)
        learn(jobs, session)
    client.post("/admin/queues/normal/pause", headers=admin)
    submitted = client.post("/transcribe", files=FILE, headers=alice).json()

    assert submitted["eta_seconds"] is None
    assert submitted["queue_position"] == 1
