"""What a key has used, counted from the rows."""

import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import text

import keys
from errors import QuotaExceeded
from jobs import deletion, lifecycle, quotas
from jobs.quotas import AUDIO_WINDOW_SECONDS, Quotas
from keys import Grant
from models import DeletedBy

MINUTE = 60.0


@pytest.fixture
def key_id(sessions, owner_id) -> uuid.UUID:
    with sessions.begin() as session:
        return keys.create(session, Grant(owner="alice"))[1].id


@pytest.fixture
def make(make_job, key_id):
    """Submit a job with the key."""

    def make(status="pending", **values):
        return make_job(status, **{"api_key_id": key_id, "audio_seconds": MINUTE, **values})

    return make


@pytest.fixture
def used(sessions, key_id):
    def used():
        with sessions.begin() as session:
            return quotas.used(session, key_id)

    return used


@pytest.fixture
def refused(sessions, key_id):
    """Ask for room; returns what the refusal says, or None."""

    def refused(*, upload_bytes=1, **limits):
        try:
            with sessions.begin() as session:
                quotas.require_room(session, key_id, Quotas(**limits), upload_bytes=upload_bytes)
        except QuotaExceeded as error:
            return error.data
        return None

    return refused


def change(sessions, job, assignment):
    with sessions.begin() as session:
        session.execute(
            text(f"UPDATE transcription_jobs SET {assignment} WHERE id = :id"), {"id": job.id}
        )


def test_a_key_without_jobs_has_used_nothing(used):
    assert (used().audio_seconds, used().jobs, used().bytes_stored) == (0, 0, 0)


@pytest.mark.parametrize(
    ("status", "jobs"),
    [
        ("pending", 1),
        ("delayed", 1),
        ("processing", 1),
        ("cancelling", 1),
        ("completed", 0),
        ("failed", 0),
        ("cancelled", 0),
    ],
)
def test_jobs_at_once_are_those_that_wait_or_run(make, used, status, jobs):
    make(status)

    assert used().jobs == jobs


def test_other_keys_do_not_count_even_of_the_same_owner(make, used, sessions):
    with sessions.begin() as session:
        other = keys.create(session, Grant(owner="alice"))[1].id
    make(api_key_id=other)
    make(api_key_id=None)

    assert (used().audio_seconds, used().jobs, used().bytes_stored) == (0, 0, 0)


def test_stored_bytes_are_those_of_uploads_that_are_kept(make, used, sessions):
    make("completed", upload_bytes=5)
    deleted = make("completed", upload_bytes=7)
    change(sessions, deleted, "upload_deleted_at = now()")

    assert used().bytes_stored == 5


# Audio in the last hour


@pytest.mark.parametrize(
    ("status", "seconds"),
    [("pending", MINUTE), ("processing", MINUTE), ("completed", 30.0), ("cancelled", 0.0)],
)
def test_audio_counts_but_that_of_jobs_that_never_began(make, used, status, seconds):
    make(status)

    assert used().audio_seconds == seconds


def test_audio_of_a_job_that_was_cancelled_while_it_ran_counts(make, used, sessions):
    job = make("cancelling")
    change(sessions, job, "status = 'cancelled', completed_at = now(), worker_name = NULL")

    assert used().audio_seconds == MINUTE


def test_a_length_counts_as_soon_as_it_is_known(make, used, sessions):
    job = make()
    with sessions.begin() as session:
        lifecycle.probed(session, job.id, 10.0, estimated=False)

    assert used().audio_seconds == 10.0


def test_what_failed_before_its_length_was_known_costs_nothing(make, used):
    make("failed")

    assert used().audio_seconds == 0


def test_what_failed_after_its_length_was_known_counts(make, used, sessions):
    change(sessions, make("failed"), "audio_estimated = false")

    assert used().audio_seconds == MINUTE


def test_audio_leaves_after_an_hour(make, used, sessions):
    change(sessions, make(), "created_at = now() - interval '1 hour'")

    assert used().audio_seconds == 0


def delete(sessions, job):
    with sessions.begin() as session:
        assert deletion.delete(session, [job.id], by=DeletedBy.CLIENT)


@pytest.mark.security("resources", "deleting jobs to get their quota back")
@pytest.mark.parametrize(
    ("status", "seconds"),
    [("pending", 0.0), ("processing", MINUTE), ("completed", 30.0), ("failed", 0.0)],
)
def test_a_deleted_job_costs_what_it_cost(make, used, sessions, status, seconds):
    delete(sessions, make(status))

    assert used().audio_seconds == seconds


def test_a_deleted_job_counts_no_longer_than_its_hour(make, used, sessions):
    delete(sessions, make("completed"))
    with sessions.begin() as session:
        session.execute(text("UPDATE deleted_jobs SET submitted_at = now() - interval '1 hour'"))

    assert used().audio_seconds == 0


# Refusing


def test_without_limits_nothing_is_refused(make, refused):
    make()

    assert refused() is None


def test_a_job_too_many_is_refused(make, refused):
    make()
    make("processing")

    assert refused(jobs_at_once=3) is None
    assert refused(jobs_at_once=2)["quota"] == "jobs_at_once"


def test_a_byte_too_many_is_refused(make, refused):
    make(upload_bytes=5)

    assert refused(bytes_stored=10, upload_bytes=5) is None
    assert refused(bytes_stored=10, upload_bytes=6)["quota"] == "bytes_stored"


def test_a_refusal_says_how_much_is_used_of_what(make, refused):
    make(upload_bytes=5)
    told = refused(bytes_stored=5)

    assert (told["limit"], told["used"]) == (5, 5)


def test_audio_is_taken_while_something_is_left(make, refused):
    make()

    assert refused(audio_seconds_per_hour=61.0) is None
    assert refused(audio_seconds_per_hour=60.0)["quota"] == "audio_seconds_per_hour"


def test_who_used_up_the_audio_is_told_when_enough_of_it_leaves(make, refused, sessions):
    for minutes in (50, 30, 10):
        job = make("completed")
        change(
            sessions,
            job,
            f"audio_seconds = 60, created_at = now() - make_interval(mins => {minutes})",
        )
    # with 120 s the oldest leaving will do, with 60 s the one after it has to go too
    waits = [refused(audio_seconds_per_hour=float(limit)) for limit in (180, 120, 60)]

    assert [round(wait["retry_after_seconds"], -1) for wait in waits] == [600, 1800, 3000]


def test_a_guess_is_waited_for_only_until_it_is_settled(make, refused):
    make(audio_seconds=10**6)

    assert refused(audio_seconds_per_hour=60.0)["retry_after_seconds"] < 60


def test_nobody_waits_longer_than_the_hour(make, refused, sessions):
    change(sessions, make("completed"), "created_at = now() + interval '1 minute'")
    told = refused(audio_seconds_per_hour=1.0)

    assert told["retry_after_seconds"] <= AUDIO_WINDOW_SECONDS + 60


def test_of_many_at_once_no_more_than_the_limit_are_taken(sessions, owner_id, key_id):
    def submit(_: int) -> bool:
        try:
            with sessions.begin() as session:
                quotas.hold(session, key_id)
                quotas.require_room(session, key_id, Quotas(jobs_at_once=10), upload_bytes=1)
                lifecycle.submit(session, new_job(owner_id, key_id))
        except QuotaExceeded:
            return False
        return True

    with ThreadPoolExecutor(8) as executor:
        assert sum(executor.map(submit, range(40))) == 10


def new_job(owner_id, key_id):
    return lifecycle.NewJob(
        id=uuid.uuid4(),
        owner_id=owner_id,
        api_key_id=key_id,
        engine_name="openai-whisper",
        model_name="demo",
        client_filename="a.mp3",
        upload_bytes=1,
        upload_sha256=bytes(32),
        max_attempts=1,
        audio_seconds=1.0,
    )
