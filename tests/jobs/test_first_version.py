"""The first version's own schema, filled as its code filled it, copied into ours."""

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import Connection, create_engine, select, text
from sqlalchemy.orm import Session, sessionmaker

from errors import SettingsError
from jobs.first_version import Imported, Importer
from jobs.uploads import UploadStore
from models import ErrorLog, TranscriptionJob, TranscriptionResult
from speech.transcript import Segment

#: As its migrations 5e05da7b7d89 and a1b2c3d4e5f6 left it, without the audit log.
SCHEMA = """
CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY);
INSERT INTO alembic_version VALUES ('a1b2c3d4e5f6');
CREATE TABLE transcription_jobs (
    id uuid PRIMARY KEY, status varchar(50) NOT NULL, priority integer,
    model_size varchar(20) NOT NULL, language varchar(10), original_filename varchar(500) NOT NULL,
    file_path text NOT NULL, file_size_bytes bigint, worker_id varchar(100), retry_count integer,
    max_retries integer, created_at timestamp NOT NULL, started_at timestamp,
    completed_at timestamp, error_message text, error_type varchar(100), progress_percent float,
    current_step varchar(200));
CREATE TABLE error_logs (
    id uuid PRIMARY KEY, job_id uuid NOT NULL REFERENCES transcription_jobs (id),
    error_type varchar(100) NOT NULL, error_message text NOT NULL, stack_trace text, context jsonb,
    created_at timestamp NOT NULL, resolved boolean, resolved_at timestamp,
    resolved_by varchar(100), resolution_notes text);
CREATE TABLE transcription_results (
    id uuid PRIMARY KEY, job_id uuid NOT NULL UNIQUE REFERENCES transcription_jobs (id),
    transcription_text text NOT NULL, detected_language varchar(10), duration_seconds float,
    confidence_score float, segments jsonb, output_file_path text, created_at timestamp NOT NULL);
"""
IDS = {name: uuid.uuid4() for name in ("done", "broken", "gone", "cancelled", "waiting", "lost")}
JOB = """
INSERT INTO transcription_jobs
       (id, status, model_size, original_filename, file_path, file_size_bytes, created_at,
        started_at, completed_at, error_type, error_message)
VALUES (:id, :status, 'large', 'talk.mp3', :path, 12, '2025-12-30 10:00', '2025-12-30 10:01',
        :completed_at, :error_type, 'boom')
"""
ROWS = {
    "done": ("completed", None),
    "broken": ("completed", None),  # its result was never stored
    "gone": ("failed", "CorruptAudioFile"),
    "cancelled": ("cancelled", None),
    "waiting": ("pending", None),
    "lost": ("retry", None),
}


@pytest.fixture
def source(empty_database_url: str, tmp_path: Path) -> Iterator[Connection]:
    engine = create_engine(empty_database_url)
    (tmp_path / "talk.mp3").write_bytes(b"old upload")
    with engine.connect() as connection:
        connection.execute(text(SCHEMA))
        for name, (status, error_type) in ROWS.items():
            values = {
                "id": IDS[name],
                "status": status,
                "path": str(tmp_path / ("missing" if name == "lost" else "talk.mp3")),
                "completed_at": None if name in {"waiting", "lost"} else datetime(2025, 12, 30, 11),  # noqa: DTZ001 - as it stored them
                "error_type": error_type,
            }
            connection.execute(text(JOB), values)
        connection.execute(
            text("""
            INSERT INTO transcription_results VALUES
            (gen_random_uuid(), :id, ' hello there', 'en', NULL, NULL,
             '[{"id": 0, "start": 0.0, "end": 2.5, "text": " hello there", "tokens": [1, 2],
                "temperature": 0.0, "avg_logprob": -0.2, "compression_ratio": 1.1,
                "no_speech_prob": 0.01}]', '/out.txt', '2025-12-30 11:00')"""),
            {"id": IDS["done"]},
        )
        connection.execute(
            text("""
            INSERT INTO error_logs VALUES
            (gen_random_uuid(), :id, 'CorruptAudioFile', 'boom', 'Traceback', '{"try": 3}',
             '2025-12-30 11:00', false, NULL, NULL, NULL)"""),
            {"id": IDS["gone"]},
        )
        connection.commit()
        yield connection
    engine.dispose()


@pytest.fixture
def imported(
    source: Connection, sessions: sessionmaker[Session], owner_id: uuid.UUID, tmp_path: Path
) -> Imported:
    return run(source, sessions, owner_id, tmp_path)


def run(
    source: Connection, sessions: sessionmaker[Session], owner_id: uuid.UUID, folder: Path
) -> Imported:
    uploads = UploadStore(folder / "uploads", max_bytes=1000, min_free_bytes=0)
    uploads.prepare()
    with sessions.begin() as session:
        return Importer(
            source=source,
            session=session,
            uploads=uploads,
            owner_id=owner_id,
            max_attempts=4,
            engine_name="openai-whisper",
            resolve_model=lambda name: {"large": "large-v3"}.get(name, name),
        ).run()


def test_everything_is_counted(imported: Imported) -> None:
    assert imported == Imported(jobs=6, results=1, errors=1, resubmitted=1, given_up=1)


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


def test_a_second_import_copies_nothing_twice(
    imported: Imported,
    source: Connection,
    sessions: sessionmaker[Session],
    owner_id: uuid.UUID,
    tmp_path: Path,
) -> None:
    again = run(source, sessions, owner_id, tmp_path)

    assert again == Imported(skipped=6)


def test_another_database_is_refused(
    empty_database_url: str,
    sessions: sessionmaker[Session],
    owner_id: uuid.UUID,
    tmp_path: Path,
) -> None:
    engine = create_engine(empty_database_url)
    with engine.connect() as connection, pytest.raises(SettingsError, match="version 2"):
        run(connection, sessions, owner_id, tmp_path)
    engine.dispose()
