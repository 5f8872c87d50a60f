"""Waits that a clock which was set back left in the future, on real PostgreSQL."""

import uuid

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker

from celery_app import LANES
from jobs import clock
from jobs.lifecycle import Backoff
from tests.jobs.conftest import MakeJob, read

Sessions = sessionmaker[Session]
BACKOFF = Backoff(base_seconds=10.0, cap_seconds=60.0)


def put(sessions: Sessions, job_id: uuid.UUID, change: str) -> None:
    with sessions.begin() as session:
        session.execute(
            text(f"UPDATE transcription_jobs SET {change} WHERE id = :id"), {"id": job_id}
        )


def waits_until(sessions: Sessions, job_id: uuid.UUID, seconds: float) -> None:
    """As if its wait ended so many seconds from now, and its message were lost 60 s later."""
    then = f"now() + interval '{seconds} s'"
    put(sessions, job_id, f"not_before = {then}, dispatch_due_at = {then} + interval '60 s'")


def shorten(sessions: Sessions) -> int:
    with sessions.begin() as session:
        return clock.shorten_waits(session, lanes=LANES, longest=BACKOFF)


def seconds_to_wait(sessions: Sessions, job_id: uuid.UUID) -> tuple[int, int]:
    """Until it may begin, and until it is published."""
    query = """
        SELECT round(EXTRACT(EPOCH FROM not_before - now()))::int AS begins,
               round(EXTRACT(EPOCH FROM dispatch_due_at - now()))::int AS published
          FROM transcription_jobs WHERE id = :id"""
    with sessions() as session:
        row = session.execute(text(query), {"id": job_id}).one()
    return row.begins, row.published


def test_a_job_that_was_never_tried_is_due_at_once(make_job: MakeJob, sessions: Sessions) -> None:
    job_id = make_job().id
    waits_until(sessions, job_id, 7200)

    assert shorten(sessions) == 1
    assert seconds_to_wait(sessions, job_id) == (0, 0)


@pytest.mark.parametrize(
    ("faults", "longest"),
    [
        ("attempt = 1", 10),
        ("attempt = 2", 20),
        ("attempt = 1, put_off_count = 1", 20),
        ("crash_count = 1, solo_crash_count = 1", 20),
        ("put_off_count = 1000", 60),
    ],
)
def test_a_job_that_was_tried_waits_no_longer_than_its_longest_pause(
    faults: str, longest: int, make_job: MakeJob, sessions: Sessions
) -> None:
    job_id = make_job().id
    put(sessions, job_id, faults)
    waits_until(sessions, job_id, 7200)

    assert shorten(sessions) == 1
    assert seconds_to_wait(sessions, job_id) == (longest, longest)


def test_a_pause_that_may_have_been_given_is_left_alone(
    make_job: MakeJob, sessions: Sessions
) -> None:
    job_id = make_job().id
    put(sessions, job_id, "attempt = 1")
    waits_until(sessions, job_id, 9)

    assert shorten(sessions) == 0
    assert seconds_to_wait(sessions, job_id) == (9, 69)


def test_a_clock_that_is_nudged_changes_nothing(make_job: MakeJob, sessions: Sessions) -> None:
    job_id = make_job().id
    before = read(sessions, job_id).not_before
    put(sessions, job_id, "not_before = not_before + interval '0.5 s'")

    assert shorten(sessions) == 0
    assert (read(sessions, job_id).not_before - before).total_seconds() == 0.5


def test_messages_that_are_lost_two_hours_from_now_are_due_again(
    make_job: MakeJob, sessions: Sessions
) -> None:
    published, waiting = make_job().id, make_job().id
    put(sessions, published, "dispatch_due_at = now() + interval '2 h', dispatch_count = 3")
    waits_until(sessions, waiting, 7200)
    shorten(sessions)

    assert seconds_to_wait(sessions, published) == (0, 0)


def test_jobs_that_do_not_wait_are_left_alone(make_job: MakeJob, sessions: Sessions) -> None:
    jobs = [make_job(status).id for status in ("processing", "completed", "failed", "cancelled")]
    for job_id in jobs:
        waits_until(sessions, job_id, 7200)

    assert shorten(sessions) == 0
    assert [seconds_to_wait(sessions, job_id)[0] for job_id in jobs] == [7200] * 4
