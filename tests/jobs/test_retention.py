"""What is deleted when, and what never, on real PostgreSQL and a real disk."""

import os
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker
from uuid_utils.compat import uuid7

from errors import StorageUnavailable, UploadMissing
from jobs import dead_letters, lifecycle, retention
from jobs.lifecycle import Redrive
from jobs.retention import ORPHAN_SECONDS
from jobs.uploads import UploadStore
from models import TranscriptionJob
from tests.jobs.conftest import MakeJob, read

Sessions = sessionmaker[Session]
FINAL = ("completed", "failed", "cancelled")
WEEK = 7 * 86_400.0


@pytest.fixture
def store(tmp_path: Path) -> UploadStore:
    store = UploadStore(tmp_path, max_bytes=100, min_free_bytes=0)
    store.prepare()
    return store


def put(store: UploadStore, job_id: uuid.UUID, *, age_seconds: float = 0.0) -> None:
    with store.writer(job_id) as writer:
        writer.write(b"x")
        path = writer.finish().path
    then = time.time() - age_seconds
    os.utime(path, (then, then))


def is_there(store: UploadStore, job_id: uuid.UUID) -> bool:
    try:
        return store.find(job_id).exists()
    except UploadMissing:
        return False


def end_long_ago(sessions: Sessions, job_id: uuid.UUID) -> None:
    with sessions.begin() as session:
        session.get_one(TranscriptionJob, job_id).completed_at = text("now() - interval '8 d'")  # type: ignore[assignment]


def purge(sessions: Sessions, store: UploadStore) -> int:
    with sessions.begin() as session:
        return retention.purge_uploads(session, store, older_than_seconds=WEEK)


def orphans(sessions: Sessions, store: UploadStore) -> set[uuid.UUID]:
    with sessions() as session:
        batches = retention.stored_long_ago(store)
        return {orphan for batch in batches for orphan in retention.orphans(session, batch)}


# Uploads of jobs that ended


@pytest.mark.parametrize("status", FINAL)
def test_the_upload_of_a_job_that_ended_long_ago_is_deleted(
    status: str, make_job: MakeJob, sessions: Sessions, store: UploadStore
) -> None:
    job = make_job(status)
    put(store, job.id)
    end_long_ago(sessions, job.id)

    assert purge(sessions, store) == 1
    assert not is_there(store, job.id)
    assert read(sessions, job.id).upload_deleted_at is not None


@pytest.mark.parametrize("status", FINAL)
def test_the_upload_of_a_job_that_has_just_ended_is_kept(
    status: str, make_job: MakeJob, sessions: Sessions, store: UploadStore
) -> None:
    job = make_job(status)
    put(store, job.id, age_seconds=2 * WEEK)

    assert purge(sessions, store) == 0
    assert is_there(store, job.id)


@pytest.mark.parametrize("status", ["pending", "delayed", "processing", "cancelling"])
def test_the_upload_of_a_job_that_has_not_ended_is_kept_however_old(
    status: str, make_job: MakeJob, sessions: Sessions, store: UploadStore
) -> None:
    job = make_job(status)
    put(store, job.id, age_seconds=2 * WEEK)
    with sessions.begin() as session:
        session.execute(text("UPDATE transcription_jobs SET created_at = now() - interval '1 y'"))

    assert (purge(sessions, store), orphans(sessions, store)) == (0, set())
    assert is_there(store, job.id)


def test_the_upload_of_a_job_in_quarantine_is_kept_however_long(
    make_job: MakeJob, sessions: Sessions, store: UploadStore
) -> None:
    job = make_job("failed")
    put(store, job.id, age_seconds=2 * WEEK)
    end_long_ago(sessions, job.id)
    with sessions.begin() as session:
        dead_letters.quarantine(session, job.id, by=None)

    assert (purge(sessions, store), orphans(sessions, store)) == (0, set())
    assert is_there(store, job.id)


def test_the_upload_of_a_released_job_is_kept_as_if_it_had_just_ended(
    make_job: MakeJob, sessions: Sessions, store: UploadStore
) -> None:
    job = make_job("failed")
    put(store, job.id)
    end_long_ago(sessions, job.id)
    with sessions.begin() as session:
        dead_letters.quarantine(session, job.id, by=None)
        dead_letters.release(session, job.id)
    at_once = purge(sessions, store)
    with sessions.begin() as session:
        session.get_one(TranscriptionJob, job.id).released_at = text("now() - interval '8 d'")  # type: ignore[assignment]
    later = purge(sessions, store)

    assert (at_once, later) == (0, 1)


def test_an_upload_is_deleted_once(
    make_job: MakeJob, sessions: Sessions, store: UploadStore
) -> None:
    end_long_ago(sessions, make_job("completed").id)

    assert [purge(sessions, store) for _ in range(2)] == [1, 0]


def test_what_cannot_be_deleted_is_not_said_to_be(
    make_job: MakeJob, sessions: Sessions, tmp_path: Path
) -> None:
    job = make_job("completed")
    end_long_ago(sessions, job.id)
    store = UploadStore(tmp_path / "file", max_bytes=100, min_free_bytes=0)
    store.root.touch()  # no folder at all

    with pytest.raises(StorageUnavailable):
        purge(sessions, store)

    assert read(sessions, job.id).upload_deleted_at is None


def test_a_job_that_is_being_redriven_keeps_its_upload(
    make_job: MakeJob, sessions: Sessions, store: UploadStore
) -> None:
    job = make_job("failed")
    put(store, job.id)
    end_long_ago(sessions, job.id)
    with sessions.begin() as session:
        assert lifecycle.redrive(session, [job.id], Redrive(max_attempts=3))
        assert purge(sessions, store) == 0

    assert is_there(store, job.id)
    assert read(sessions, job.id).status == "pending"


def test_of_purge_and_redrive_one_wins_and_the_file_says_which(
    make_job: MakeJob, sessions: Sessions, store: UploadStore
) -> None:
    def redrive(job_id: uuid.UUID) -> bool:
        with sessions.begin() as session:
            return bool(lifecycle.redrive(session, [job_id], Redrive(max_attempts=3)))

    for _ in range(20):
        job = make_job("failed")
        put(store, job.id)
        end_long_ago(sessions, job.id)
        with ThreadPoolExecutor(2) as executor:
            purged = executor.submit(purge, sessions, store)
            redriven = executor.submit(redrive, job.id)

        assert is_there(store, job.id) is redriven.result()
        assert purged.result() == (0 if redriven.result() else 1)


# Uploads that no job has


def test_an_upload_that_no_job_has_is_an_orphan_after_a_while(
    sessions: Sessions, owner_id: uuid.UUID, store: UploadStore
) -> None:
    old, new = uuid7(), uuid7()
    put(store, old, age_seconds=ORPHAN_SECONDS + 60)
    put(store, new)

    assert orphans(sessions, store) == {old}


def test_a_file_that_outlived_its_jobs_purge_is_an_orphan(
    make_job: MakeJob, sessions: Sessions, store: UploadStore
) -> None:
    job = make_job("completed")
    end_long_ago(sessions, job.id)
    purge(sessions, store)
    put(store, job.id, age_seconds=ORPHAN_SECONDS + 60)

    assert orphans(sessions, store) == {job.id}


@pytest.mark.parametrize("status", [*FINAL, "pending", "processing"])
def test_an_upload_that_a_job_has_is_no_orphan(
    status: str, make_job: MakeJob, sessions: Sessions, store: UploadStore
) -> None:
    job = make_job(status)
    put(store, job.id, age_seconds=2 * WEEK)

    assert orphans(sessions, store) == set()


def test_orphans_are_looked_for_in_batches(store: UploadStore) -> None:
    for _ in range(5):
        put(store, uuid7(), age_seconds=ORPHAN_SECONDS + 60)

    assert [len(ids) for ids in retention.stored_long_ago(store, batch=2)] == [2, 2, 1]
