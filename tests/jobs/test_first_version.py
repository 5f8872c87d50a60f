"""The first version's own schema, filled as its code filled it, copied into ours."""

import os
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import Connection, Engine, NullPool, create_engine, select, text
from sqlalchemy.orm import Session, sessionmaker

from errors import ConflictError, DiskFull, SettingsError, StorageUnavailable
from jobs.first_version import Imported, Importer
from jobs.uploads import PART_DIR, UploadStore, UploadWriter
from models import ErrorLog, TranscriptionJob, TranscriptionResult
from speech.transcript import Segment
from tests.first_version import IDS, fill
from tests.jobs.conftest import claim

Run = Callable[..., Imported]


@pytest.fixture
def source(empty_database_url: str, tmp_path: Path) -> Iterator[Connection]:
    engine = create_engine(empty_database_url)
    (tmp_path / "talk.mp3").write_bytes(b"old upload")
    with engine.connect() as connection:
        fill(connection, tmp_path)
        yield connection
    engine.dispose()


def make_store(folder: Path, *, max_bytes: int = 1000, min_free_bytes: int = 0) -> UploadStore:
    store = UploadStore(folder / "uploads", max_bytes=max_bytes, min_free_bytes=min_free_bytes)
    store.prepare()
    return store


@pytest.fixture
def run(
    source: Connection, sessions: sessionmaker[Session], owner_id: uuid.UUID, tmp_path: Path
) -> Run:
    """Import, with other values where they are given."""

    def importer(**values: object) -> Imported:
        usual: dict[str, object] = {
            "source": source,
            "transaction": sessions.begin,
            "uploads": make_store(tmp_path),
            "files": tmp_path,
            "owner_id": owner_id,
            "max_attempts": 4,
            "engine_name": "openai-whisper",
            "resolve_model": lambda name: {"large": "large-v3"}.get(name, name),
        }
        return Importer(**{**usual, **values}).run()  # type: ignore[arg-type]

    return importer


@pytest.fixture
def imported(run: Run) -> Imported:
    return run()


def job_of(sessions: sessionmaker[Session], name: str) -> TranscriptionJob:
    with sessions() as session:
        return session.get_one(TranscriptionJob, IDS[name])


def errors_of(sessions: sessionmaker[Session], name: str) -> list[ErrorLog]:
    query = select(ErrorLog).where(ErrorLog.job_id == IDS[name]).order_by(ErrorLog.attempt)
    with sessions() as session:
        return list(session.scalars(query))


def test_everything_is_counted(imported: Imported) -> None:
    assert imported == Imported(jobs=6, results=1, errors=2, resubmitted=1, given_up=1)


def test_a_result_is_found_under_its_old_id(
    imported: Imported, sessions: sessionmaker[Session]
) -> None:
    with sessions() as session:
        job = session.get_one(TranscriptionJob, IDS["done"])
        result = session.get_one(TranscriptionResult, IDS["done"])

    assert (job.status, job.model_name, job.client_filename) == (
        "completed",
        "large-v3",
        "talk.mp3",
    )
    assert job.created_at == datetime(2025, 12, 30, 10, tzinfo=UTC)
    assert (result.text, result.word_count, result.audio_seconds) == ("hello there", 2, 2.5)
    assert Segment.from_json(result.segments[0]).tokens == (1, 2)


def test_jobs_end_as_they_ended(imported: Imported, sessions: sessionmaker[Session]) -> None:
    with sessions() as session:
        rows = {job.id: job for job in session.scalars(select(TranscriptionJob))}

    assert {name: rows[job_id].status for name, job_id in IDS.items()} == {
        "done": "completed",
        "broken": "failed",
        "gone": "failed",
        "cancelled": "cancelled",
        "waiting": "pending",
        "lost": "failed",
    }
    assert rows[IDS["gone"]].failure_reason == "corrupt_audio_file"
    assert rows[IDS["lost"]].failure_reason == "upload_missing"


def test_a_waiting_job_waits_here_with_its_file(
    imported: Imported, sessions: sessionmaker[Session], tmp_path: Path
) -> None:
    store = UploadStore(tmp_path / "uploads", max_bytes=1000, min_free_bytes=0)

    assert store.find(IDS["waiting"]).read_bytes() == b"old upload"
    with sessions() as session:
        job = session.get_one(TranscriptionJob, IDS["waiting"])
    assert (job.upload_bytes, job.upload_deleted_at) == (10, None)


def test_errors_come_along(imported: Imported, sessions: sessionmaker[Session]) -> None:
    with sessions() as session:
        (log,) = session.scalars(select(ErrorLog).where(ErrorLog.job_id == IDS["gone"]))

    assert (log.error_code, log.traceback, log.context) == (
        "corrupt_audio_file",
        "Traceback",
        {"try": 3},
    )


def test_a_second_import_copies_nothing_twice(imported: Imported, run: Run) -> None:
    assert run() == Imported(skipped=5, given_up=1)


def test_failed_jobs_are_in_the_dead_letter_queue_while_an_error_of_theirs_is_unresolved(
    imported: Imported, sessions: sessionmaker[Session]
) -> None:
    # "broken" had no error there: it is old news
    resolved = {
        name: job_of(sessions, name).resolved_at is not None for name in ("gone", "broken", "lost")
    }

    assert resolved == {"gone": False, "broken": True, "lost": False}


# Files


def test_a_job_that_was_given_up_is_submitted_when_its_file_is_there(
    imported: Imported, run: Run, sessions: sessionmaker[Session], tmp_path: Path
) -> None:
    (tmp_path / "missing.mp3").write_bytes(b"found again")
    again = run()

    assert again == Imported(skipped=5, resubmitted=1)
    job = job_of(sessions, "lost")
    assert (job.status, job.failure_reason, job.error_code) == ("pending", None, None)
    assert (job.upload_bytes, job.upload_deleted_at) == (11, None)
    assert make_store(tmp_path).find(job.id).read_bytes() == b"found again"


def test_what_was_logged_of_a_job_that_was_given_up_is_resolved_with_it(
    imported: Imported, run: Run, sessions: sessionmaker[Session], tmp_path: Path
) -> None:
    before = [(log.error_code, log.resolved) for log in errors_of(sessions, "lost")]
    (tmp_path / "missing.mp3").write_bytes(b"found again")
    run()

    assert before == [("upload_missing", False), ("corrupt_audio_file", False)]
    assert all(log.resolved_by == "import-v1" for log in errors_of(sessions, "lost"))


def test_a_job_that_ran_here_is_not_submitted_again(
    imported: Imported, run: Run, sessions: sessionmaker[Session], tmp_path: Path
) -> None:
    claimed = claim(sessions, IDS["waiting"])
    run()

    assert job_of(sessions, "waiting").lease_epoch == claimed.lease.epoch
    assert job_of(sessions, "waiting").status == "processing"


@pytest.mark.parametrize("folder", [".", "./work/uploads"])
def test_a_relative_path_is_meant_from_the_folder_of_files(
    folder: str, run: Run, source: Connection, sessions: sessionmaker[Session], tmp_path: Path
) -> None:
    place = tmp_path / "elsewhere" / folder
    place.mkdir(parents=True)
    (place / "talk.mp3").write_bytes(b"from there")
    source.execute(
        text("UPDATE transcription_jobs SET file_path = :p"), {"p": f"{folder}/talk.mp3"}
    )
    source.commit()
    run(files=tmp_path / "elsewhere")

    assert make_store(tmp_path).find(IDS["waiting"]).read_bytes() == b"from there"


@pytest.mark.parametrize("path", ["talk.mp3/x", ".", "pipe"])
def test_what_is_no_file_is_missing(
    path: str, run: Run, source: Connection, sessions: sessionmaker[Session], tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "pipe")
    source.execute(text("UPDATE transcription_jobs SET file_path = :path"), {"path": path})
    source.commit()
    run()

    assert job_of(sessions, "waiting").failure_reason == "upload_missing"


@pytest.mark.parametrize(
    ("content", "code"), [(b"x" * 1001, "upload_too_large"), (b"", "empty_file")]
)
def test_a_file_that_is_no_upload_of_ours_fails_its_job_for_what_it_is(
    content: bytes, code: str, run: Run, sessions: sessionmaker[Session], tmp_path: Path
) -> None:
    (tmp_path / "talk.mp3").write_bytes(content)
    run()

    assert job_of(sessions, "waiting").failure_reason == code
    assert [log.error_code for log in errors_of(sessions, "waiting")] == [code]


def test_a_file_that_was_too_large_is_taken_where_more_is_allowed(
    run: Run, sessions: sessionmaker[Session], tmp_path: Path
) -> None:
    run(uploads=make_store(tmp_path, max_bytes=5))
    run()

    assert job_of(sessions, "waiting").status == "pending"


def test_a_full_disk_ends_the_import_and_gives_no_job_up(
    run: Run, sessions: sessionmaker[Session], tmp_path: Path
) -> None:
    with pytest.raises(DiskFull):
        run(uploads=make_store(tmp_path, min_free_bytes=2**62))
    again = run()

    assert again.resubmitted == 1
    assert job_of(sessions, "waiting").status == "pending"


def test_a_store_that_is_away_ends_the_import_and_gives_no_job_up(
    run: Run, sessions: sessionmaker[Session], tmp_path: Path
) -> None:
    away = UploadStore(tmp_path / "away", max_bytes=1000, min_free_bytes=0)
    with pytest.raises(StorageUnavailable):
        run(uploads=away)

    assert run().resubmitted == 1


def test_half_a_file_of_an_import_that_was_killed_is_not_in_the_way(
    run: Run, sessions: sessionmaker[Session], tmp_path: Path
) -> None:
    store = make_store(tmp_path)
    (store.root / PART_DIR / str(IDS["waiting"])).write_bytes(b"ol")
    run()

    assert store.find(IDS["waiting"]).read_bytes() == b"old upload"


class Watched(UploadStore):
    """Looks, while a file is copied, at who keeps a transaction open."""

    urls: tuple[str, ...] = ()
    open_transactions = -1

    def writer(self, job_id: uuid.UUID, *, expected_bytes: int = 0) -> UploadWriter:
        self.open_transactions = 0
        for url in self.urls:
            engine = create_engine(url, poolclass=NullPool)
            with engine.connect() as connection:
                self.open_transactions += connection.scalar(OPEN_TRANSACTIONS) or 0
        return super().writer(job_id, expected_bytes=expected_bytes)


OPEN_TRANSACTIONS = text("""
SELECT count(*)
  FROM pg_stat_activity
 WHERE datname = current_database()
   AND state LIKE 'idle in transaction%'
""")


def test_no_transaction_is_open_while_a_file_is_copied(
    run: Run, engine: Engine, empty_database_url: str, tmp_path: Path
) -> None:
    make_store(tmp_path)
    watched = Watched(tmp_path / "uploads", max_bytes=1000, min_free_bytes=0)
    watched.urls = (empty_database_url, engine.url.render_as_string(hide_password=False))
    run(uploads=watched)

    assert watched.open_transactions == 0


# Where it comes from


def test_two_imports_from_one_database_are_not_under_way_at_once(
    run: Run, empty_database_url: str
) -> None:
    other = create_engine(empty_database_url, poolclass=NullPool)
    with other.connect() as first:
        run(source=first)
        with pytest.raises(ConflictError):
            run()

    assert run().skipped == 5


def test_a_database_that_was_made_without_migrations_is_known(run: Run, source: Connection) -> None:
    source.execute(text("DROP TABLE alembic_version"))
    source.commit()

    assert run().jobs == 6


@pytest.mark.parametrize(
    "statement",
    [
        "DROP TABLE alembic_version, error_logs, transcription_results, transcription_jobs",
        "UPDATE alembic_version SET version_num = 'another'",
    ],
)
def test_another_database_is_refused(statement: str, run: Run, source: Connection) -> None:
    source.execute(text(statement))
    source.commit()

    with pytest.raises(SettingsError, match="version 2"):
        run()
