"""What is deleted when, and what never, on real PostgreSQL and a real disk."""

import os
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import select, text
from sqlalchemy.orm import Session, sessionmaker
from uuid_utils.compat import uuid7

import keys
from errors import StorageUnavailable, UploadMissing
from janitor import FIRST, Janitor
from jobs import dead_letters, lifecycle, retention
from jobs.lifecycle import Redrive
from jobs.retention import ORPHAN_SECONDS, TOO_MANY, Retention
from jobs.uploads import UploadStore
from keys import Grant
from models import DeletedJob, ErrorLog, TranscriptionJob
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


def change(sessions: Sessions, job_id: uuid.UUID, values: str) -> None:
    with sessions.begin() as session:
        statement = text(f"UPDATE transcription_jobs SET {values} WHERE id = :id")
        session.execute(statement, {"id": job_id})


def end_long_ago(sessions: Sessions, job_id: uuid.UUID) -> None:
    change(
        sessions,
        job_id,
        "created_at = now() - interval '9 d', completed_at = now() - interval '8 d'",
    )


def purge(sessions: Sessions, store: UploadStore) -> int:
    with sessions.begin() as session:
        return retention.purge_uploads(session, store, keep_seconds=WEEK)


def orphans(sessions: Sessions, store: UploadStore) -> set[uuid.UUID]:
    with sessions() as session:
        batches = retention.stored_long_ago(store)
        return {orphan for batch in batches for orphan in retention.orphans(session, batch)}


# Uploads of jobs that ended


@pytest.mark.parametrize("status", ["completed", "cancelled"])
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
    change(sessions, job.id, "failure_reason = 'not_audio'")
    with sessions.begin() as session:
        dead_letters.quarantine(session, job.id, by=None)
        dead_letters.release(session, job.id)
    at_once = purge(sessions, store)
    change(sessions, job.id, "released_at = now() - interval '8 d'")
    later = purge(sessions, store)

    assert (at_once, later) == (0, 1)


def resolve(sessions: Sessions, job_id: uuid.UUID) -> None:
    with sessions.begin() as session:
        assert dead_letters.resolve(session, [job_id], by=None, notes=None)


def test_the_upload_of_a_failure_is_kept_until_it_is_resolved_and_so_long_after(
    make_job: MakeJob, sessions: Sessions, store: UploadStore
) -> None:
    job = make_job("failed")
    put(store, job.id)
    end_long_ago(sessions, job.id)
    unresolved = purge(sessions, store)
    resolve(sessions, job.id)
    at_once = purge(sessions, store)
    change(sessions, job.id, "resolved_at = now() - interval '8 d'")

    assert (unresolved, at_once, purge(sessions, store)) == (0, 0, 1)
    assert not is_there(store, job.id)


def test_the_upload_of_a_failure_that_lies_in_the_input_waits_for_nobody(
    make_job: MakeJob, sessions: Sessions, store: UploadStore
) -> None:
    job = make_job("failed")
    end_long_ago(sessions, job.id)
    change(sessions, job.id, "failure_reason = 'not_audio'")

    assert purge(sessions, store) == 1


# What keys say for themselves


def own_key(sessions: Sessions, job_id: uuid.UUID, **values: float) -> uuid.UUID:
    with sessions.begin() as session:
        key = keys.create(session, Grant(owner="alice", **values))[1]  # type: ignore[arg-type]
        session.get_one(TranscriptionJob, job_id).api_key_id = key.id
        return key.id


@pytest.mark.parametrize(
    ("own", "service", "deleted"),
    [(30 * 86_400.0, WEEK, 0), (86_400.0, 0.0, 1), (0.0, WEEK, 0), (86_400.0, 4 * WEEK, 1)],
)
def test_a_keys_own_retention_wins(
    own: float,
    service: float,
    deleted: int,
    make_job: MakeJob,
    sessions: Sessions,
    store: UploadStore,
) -> None:
    job = make_job("completed")
    end_long_ago(sessions, job.id)
    own_key(sessions, job.id, audio_retention_seconds=own, transcript_retention_seconds=own)
    with sessions.begin() as session:
        audio = retention.purge_uploads(session, store, keep_seconds=service)
        jobs = retention.purge_jobs(session, store, keep_seconds=service)

    assert (audio, jobs) == (deleted, deleted)


def test_what_a_key_says_now_holds_for_what_it_submitted_before(
    make_job: MakeJob, sessions: Sessions, store: UploadStore
) -> None:
    job = make_job("completed")
    end_long_ago(sessions, job.id)
    key_id = own_key(sessions, job.id, audio_retention_seconds=0.0)
    before = purge(sessions, store)
    with sessions.begin() as session:
        keys.change(session, keys.find(session, key_id), {"audio_retention_seconds": 60.0})

    assert (before, purge(sessions, store)) == (0, 1)


# Jobs whose transcript's time is over


def purge_jobs(sessions: Sessions, store: UploadStore, keep_seconds: float = WEEK) -> int:
    with sessions.begin() as session:
        return retention.purge_jobs(session, store, keep_seconds=keep_seconds)


def test_a_job_whose_time_is_over_goes_whole_and_leaves_figures(
    make_job: MakeJob, sessions: Sessions, store: UploadStore
) -> None:
    job = make_job("completed")
    put(store, job.id)
    end_long_ago(sessions, job.id)

    assert purge_jobs(sessions, store) == 1
    assert not is_there(store, job.id)
    with sessions() as session:
        assert session.get(TranscriptionJob, job.id) is None
        left = session.get_one(DeletedJob, job.id)
    assert (left.status, left.deleted_by) == ("completed", "retention")
    assert left.upload_bytes == job.upload_bytes


@pytest.mark.parametrize(
    ("status", "keep_seconds"), [("completed", 0.0), ("completed", 4 * WEEK), ("failed", WEEK)]
)
def test_a_job_that_is_kept_for_ever_or_longer_or_waits_for_somebody_stays(
    status: str, keep_seconds: float, make_job: MakeJob, sessions: Sessions, store: UploadStore
) -> None:
    end_long_ago(sessions, make_job(status).id)

    assert purge_jobs(sessions, store, keep_seconds) == 0


def test_of_two_processes_that_delete_each_job_is_deleted_by_one(
    make_job: MakeJob, sessions: Sessions, store: UploadStore
) -> None:
    for _ in range(20):
        end_long_ago(sessions, make_job("completed").id)
    with ThreadPoolExecutor(2) as executor:
        counts = executor.map(lambda _: purge_jobs(sessions, store), range(2))

    assert sum(counts) == 20


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
    change(sessions, job.id, "resolved_at = now() - interval '8 d'")
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
        change(sessions, job.id, "resolved_at = now() - interval '8 d'")
        with ThreadPoolExecutor(2) as executor:
            purged = executor.submit(purge, sessions, store)
            redriven = executor.submit(redrive, job.id)

        assert is_there(store, job.id) is redriven.result()
        assert purged.result() == (0 if redriven.result() else 1)


# Rows whose upload is gone


def look(sessions: Sessions, store: UploadStore) -> None:
    Janitor(sessions, store, keep=Retention(), keep_keys_seconds=60).run()


def test_a_job_that_waits_for_an_upload_that_is_gone_fails_before_anybody_begins_it(
    make_job: MakeJob, sessions: Sessions, store: UploadStore
) -> None:
    gone, there, just_now = make_job("pending"), make_job("pending"), make_job("pending")
    for job in (gone, there):
        change(sessions, job.id, "created_at = now() - interval '1 h'")
    put(store, there.id)
    look(sessions, store)

    failed = read(sessions, gone.id)
    assert (failed.status, failed.failure_reason) == ("failed", "upload_missing")
    assert [read(sessions, job.id).status for job in (there, just_now)] == ["pending", "pending"]
    with sessions() as session:
        codes = session.scalars(select(ErrorLog.error_code).where(ErrorLog.job_id == gone.id))
        assert codes.all() == ["upload_missing"]


def test_a_job_that_has_ended_says_that_its_upload_is_gone(
    make_job: MakeJob, sessions: Sessions, store: UploadStore
) -> None:
    ended, failed = make_job("completed"), make_job("failed")
    for job in (ended, failed):
        change(sessions, job.id, "created_at = now() - interval '1 h'")
    look(sessions, store)

    assert read(sessions, ended.id).upload_deleted_at is not None
    # which may be put back and sent round again
    assert read(sessions, failed.id).upload_deleted_at is None


def test_where_no_upload_is_there_at_all_nothing_is_said_to_be_gone(
    make_job: MakeJob, sessions: Sessions, store: UploadStore
) -> None:
    jobs = [make_job("pending") for _ in range(TOO_MANY)]
    for job in jobs:
        change(sessions, job.id, "created_at = now() - interval '1 h'")
    look(sessions, store)

    assert {read(sessions, job.id).status for job in jobs} == {"pending"}


def test_rows_are_gone_through_in_batches_and_from_the_first_again(
    make_job: MakeJob, sessions: Sessions, store: UploadStore
) -> None:
    ids = [make_job("completed").id for _ in range(3)]
    with sessions.begin() as session:
        session.execute(text("UPDATE transcription_jobs SET created_at = now() - interval '1 h'"))
        first = retention.should_be_stored(session, retention.ENDED, after=FIRST, limit=2)
        rest = retention.should_be_stored(session, retention.ENDED, after=first[-1], limit=2)

    assert [*first, *rest] == sorted(ids)


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
