"""Keys that are remembered with their jobs, and files that were transcribed before."""

import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import text, update
from sqlalchemy.orm import Session, sessionmaker
from uuid_utils.compat import uuid7

from jobs import submissions
from jobs.lifecycle import NewJob
from jobs.submissions import Memory
from models import Owner, TranscriptionJob

DAY = 86_400.0


@pytest.fixture
def other_owner(sessions: sessionmaker[Session]) -> uuid.UUID:
    owner = Owner(name="bob")
    with sessions.begin() as session:
        session.add(owner)
    return owner.id


def memory(fingerprint: bytes = b"one") -> Memory:
    return Memory(fingerprint=fingerprint, job_id=uuid7())


def remember(sessions, owner_id, key="k", found=None, keep_seconds=DAY) -> bool:
    with sessions.begin() as session:
        return submissions.remember(
            session, owner_id, key, found or memory(), keep_seconds=keep_seconds
        )


def recall(sessions, owner_id, key="k", keep_seconds=DAY) -> Memory | None:
    with sessions.begin() as session:
        return submissions.recall(session, owner_id, key, keep_seconds=keep_seconds)


def age(sessions, seconds: float) -> None:
    with sessions.begin() as session:
        session.execute(
            text("UPDATE idempotency_keys SET created_at = now() - make_interval(secs => :s)"),
            {"s": seconds},
        )


def test_a_key_is_remembered_with_its_job(sessions, owner_id):
    first = memory()

    assert remember(sessions, owner_id, found=first)
    assert recall(sessions, owner_id) == first


def test_an_unknown_key_is_new(sessions, owner_id):
    assert recall(sessions, owner_id) is None


def test_the_second_changes_nothing(sessions, owner_id):
    first = memory()
    remember(sessions, owner_id, found=first)

    assert not remember(sessions, owner_id, found=memory(b"two"))
    assert recall(sessions, owner_id) == first


def test_what_is_rolled_back_is_not_remembered(sessions, owner_id):
    with sessions() as session:
        submissions.remember(session, owner_id, "k", memory(), keep_seconds=DAY)
        session.rollback()

    assert recall(sessions, owner_id) is None


@pytest.mark.security("idempotency", "fifty at once with one key")
def test_of_many_at_once_one_wins(sessions, owner_id):
    with ThreadPoolExecutor(16) as executor:
        won = list(executor.map(lambda _: remember(sessions, owner_id), range(50)))

    assert sum(won) == 1


def test_the_keys_of_two_owners_are_strangers(sessions, owner_id, other_owner):
    remember(sessions, owner_id)

    assert recall(sessions, other_owner) is None
    assert remember(sessions, other_owner)


def test_a_key_is_forgotten_when_its_time_is_over(sessions, owner_id):
    remember(sessions, owner_id)
    age(sessions, DAY + 60)
    second = memory(b"two")

    assert recall(sessions, owner_id) is None
    assert remember(sessions, owner_id, found=second)
    assert recall(sessions, owner_id) == second


@pytest.mark.parametrize(("seconds", "left"), [(DAY - 60, 1), (DAY + 60, 0)])
def test_old_keys_are_deleted(sessions, owner_id, seconds, left):
    remember(sessions, owner_id)
    age(sessions, seconds)
    with sessions.begin() as session:
        submissions.forget(session, keep_seconds=DAY)

    with sessions.begin() as session:
        assert session.scalar(text("SELECT count(*) FROM idempotency_keys")) == left


# Files that were transcribed before


def twin(sessions, owner_id, **values: Any) -> uuid.UUID | None:
    asked = {
        "id": uuid7(),
        "owner_id": owner_id,
        "engine_name": "openai-whisper",
        "model_name": "demo",
        "client_filename": "another name.wav",
        "upload_bytes": 10,
        "upload_sha256": b"\0" * 32,
        "max_attempts": 3,
        **values,
    }
    with sessions.begin() as session:
        return submissions.twin(session, NewJob(**asked))


def test_a_finished_job_of_the_same_file_is_found(sessions, owner_id, make_job):
    assert twin(sessions, owner_id) is None
    done = make_job("completed")

    assert twin(sessions, owner_id) == done.id


def test_the_newest_is_found(sessions, owner_id, make_job):
    make_job("completed")
    newest = make_job("completed")

    assert twin(sessions, owner_id, priority="high") == newest.id


@pytest.mark.parametrize("status", ["pending", "processing", "failed", "cancelled"])
def test_what_is_not_finished_is_not_found(sessions, owner_id, make_job, status):
    make_job(status)

    assert twin(sessions, owner_id) is None


@pytest.mark.parametrize(
    "values",
    [
        {"upload_sha256": b"\1" * 32},
        {"upload_bytes": 11},
        {"engine_name": "faster-whisper"},
        {"model_name": "tiny"},
        {"language": "en"},
        {"translate": True},
        {"initial_prompt": "Names"},
        {"word_timestamps": True},
        {"track": 1},
        {"start_seconds": 0.5},
        {"end_seconds": 9.5},
        {"client_metadata": {"episode": 2}},
    ],
    ids=lambda values: next(iter(values)),
)
def test_another_file_or_wish_is_another_job(sessions, owner_id, make_job, values):
    make_job("completed")

    assert twin(sessions, owner_id, **values) is None
    assert twin(sessions, owner_id) is not None


@pytest.mark.security("idempotency", "another owner's file")
def test_another_owners_job_is_not_found(sessions, other_owner, make_job):
    make_job("completed")

    assert twin(sessions, other_owner) is None


def test_what_was_done_with_less_is_not_found(sessions, owner_id, make_job):
    job = make_job("completed")
    with sessions.begin() as session:
        session.execute(
            update(TranscriptionJob).where(TranscriptionJob.id == job.id).values(degraded=True)
        )

    assert twin(sessions, owner_id) is None


def test_a_job_whose_result_is_gone_is_not_found(sessions, owner_id, make_job):
    make_job("completed")
    with sessions.begin() as session:
        session.execute(text("DELETE FROM transcription_results"))

    assert twin(sessions, owner_id) is None
