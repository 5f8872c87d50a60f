"""A database of the first version: its own schema, filled as its code filled it."""

import uuid
from datetime import datetime
from pathlib import Path

from sqlalchemy import Connection, text

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
RESULT = """
INSERT INTO transcription_results
VALUES (gen_random_uuid(), :id, ' hello there', 'en', NULL, NULL,
        '[{"id": 0, "start": 0.0, "end": 2.5, "text": " hello there", "tokens": [1, 2],
           "temperature": 0.0, "avg_logprob": -0.2, "compression_ratio": 1.1,
           "no_speech_prob": 0.01}]', '/out.txt', '2025-12-30 11:00')
"""
ERROR = """
INSERT INTO error_logs
VALUES (gen_random_uuid(), :id, 'CorruptAudioFile', 'boom', 'Traceback', '{"try": 3}',
        '2025-12-30 11:00', false, NULL, NULL, NULL)
"""
ROWS = {
    "done": ("completed", None),
    "broken": ("completed", None),  # its result was never stored
    "gone": ("failed", "CorruptAudioFile"),
    "cancelled": ("cancelled", None),
    "waiting": ("pending", None),
    "lost": ("retry", None),
}


def fill(connection: Connection, folder: Path | str) -> None:
    """Make the tables, and a job of every status, whose file would be in ``folder``."""
    connection.execute(text(SCHEMA))
    for name, (status, error_type) in ROWS.items():
        values = {
            "id": IDS[name],
            "status": status,
            "path": f"{folder}/{'missing' if name == 'lost' else 'talk'}.mp3",
            "completed_at": None if name in {"waiting", "lost"} else datetime(2025, 12, 30, 11),  # noqa: DTZ001 - as it stored them
            "error_type": error_type,
        }
        connection.execute(text(JOB), values)
    connection.execute(text(RESULT), {"id": IDS["done"]})
    for name in ("gone", "lost"):
        connection.execute(text(ERROR), {"id": IDS[name]})
    connection.commit()
