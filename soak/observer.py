"""What PostgreSQL saw, whoever says what: triggers that note who wrote what, and when.

Every process connects under a name of its own, so a write by a worker that has lost its lease is
known as that worker's, however well its row looks.
"""

from __future__ import annotations

import uuid
from collections import defaultdict
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Engine, text

FINAL: Final = ("completed", "failed", "cancelled")

EVENTS: Final = """
CREATE SCHEMA soak;
CREATE TABLE soak.events (
    number bigserial PRIMARY KEY,
    at double precision NOT NULL DEFAULT extract(epoch FROM clock_timestamp()),
    writer text NOT NULL DEFAULT current_setting('application_name'),
    what text NOT NULL,
    job_id uuid NOT NULL,
    epoch bigint,
    before text,
    after text,
    due double precision
);
CREATE INDEX ON soak.events (job_id);
CREATE FUNCTION soak.note_result() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO soak.events (what, job_id, after) VALUES ('result', NEW.job_id, TG_OP);
    RETURN NULL;
END $$;
"""

#: The triggers and views of the service's own tables.
OURS: Final = """
CREATE FUNCTION soak.note_job() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO soak.events (what, job_id, after) VALUES ('status', NEW.id, NEW.status);
    ELSIF OLD.status <> NEW.status THEN
        INSERT INTO soak.events (what, job_id, epoch, before, after, due)
        VALUES ('status', NEW.id, NEW.lease_epoch, OLD.status, NEW.status,
                extract(epoch FROM NEW.not_before));
    ELSIF NEW.dispatch_count > OLD.dispatch_count THEN
        INSERT INTO soak.events (what, job_id) VALUES ('dispatched', NEW.id);
    ELSIF NEW.dispatch_count < OLD.dispatch_count THEN
        INSERT INTO soak.events (what, job_id) VALUES ('due', NEW.id);
    END IF;
    RETURN NULL;
END $$;
CREATE FUNCTION soak.note_window() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO soak.events (what, job_id, epoch) VALUES ('window', NEW.job_id, NEW.lease_epoch);
    RETURN NULL;
END $$;
CREATE TRIGGER soak AFTER INSERT OR UPDATE OF status, dispatch_count ON transcription_jobs
   FOR EACH ROW EXECUTE FUNCTION soak.note_job();
CREATE TRIGGER soak AFTER INSERT OR UPDATE ON transcription_results
   FOR EACH ROW EXECUTE FUNCTION soak.note_result();
CREATE TRIGGER soak AFTER INSERT OR UPDATE ON transcription_windows
   FOR EACH ROW EXECUTE FUNCTION soak.note_window();
CREATE VIEW soak.jobs AS
SELECT id, status, failure_reason, attempt, max_attempts, lease_epoch AS epoch, crash_count,
       split_part(worker_name, ':', 2) AS pid, model_name = 'tiny' AS is_null, progress
  FROM transcription_jobs;
CREATE VIEW soak.progress AS SELECT job_id, epoch FROM soak.events WHERE what = 'window';
CREATE VIEW soak.results AS SELECT job_id, lease_epoch AS epoch, text FROM transcription_results;
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One write, as PostgreSQL saw it."""

    at: float
    #: The name of the process that wrote.
    writer: str
    #: ``status``, ``dispatched``, ``window``, ``result``; ``due`` is what was published in vain.
    what: str
    job_id: uuid.UUID
    epoch: int | None = None
    #: Statuses; of a result, ``INSERT`` or ``UPDATE``.
    before: str | None = None
    after: str | None = None
    #: When a job that waits may start.
    due: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRow:
    """A job, as its row says at the end."""

    id: uuid.UUID
    status: str
    failure_reason: str | None
    attempt: int
    max_attempts: int
    epoch: int
    crash_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultRow:
    """A result, as it is stored."""

    job_id: uuid.UUID
    epoch: int
    text: str


class Observer:
    """Asks PostgreSQL, beside the service."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def install(self, triggers: str) -> None:
        with self._engine.begin() as connection:
            connection.exec_driver_sql(EVENTS + triggers)

    def unfinished(self) -> int:
        return self._count("SELECT count(*) FROM soak.jobs WHERE status <> ALL(:final)")

    def open_jobs(self) -> list[str]:
        """Jobs that have no end, and what their rows say of them."""
        query = """
            SELECT format('%s %s, epoch %s, crashes %s', id, status, epoch, crash_count)
              FROM soak.jobs
             WHERE status <> ALL(:final)
             ORDER BY id"""
        with self._engine.connect() as connection:
            return [*connection.execute(text(query), {"final": list(FINAL)}).scalars()]

    def running(self) -> int:
        return self._count("SELECT count(*) FROM soak.jobs WHERE status = 'processing'")

    def holds(self, job_id: uuid.UUID, epoch: int) -> bool:
        """Whether a lease lasts."""
        query = "SELECT 1 FROM soak.jobs WHERE id = :id AND epoch = :epoch AND pid IS NOT NULL"
        return bool(self._count(query, id=job_id, epoch=epoch))

    def goes_on(self, job_id: uuid.UUID, epoch: int) -> bool:
        """Whether work on a job was done under a later lease, or will never be."""
        query = """
            SELECT count(*)
              FROM soak.jobs
             WHERE id = :id
               AND (status = ANY(:final)
                    OR EXISTS (SELECT FROM soak.progress WHERE job_id = :id AND epoch > :epoch))"""
        return bool(self._count(query, id=job_id, epoch=epoch))

    def half_done(self) -> list[tuple[uuid.UUID, int, int]]:
        """Null jobs that run and have most of their work before them: id, epoch, process."""
        query = """
            SELECT id, epoch, CAST(pid AS int) AS pid
              FROM soak.jobs
             WHERE status = 'processing' AND is_null AND progress BETWEEN 0.01 AND 0.3
             ORDER BY id DESC"""
        with self._engine.connect() as connection:
            return [tuple(row) for row in connection.execute(text(query))]

    def jobs(self) -> dict[uuid.UUID, JobRow]:
        names = ", ".join(JobRow.__slots__)
        with self._engine.connect() as connection:
            rows = connection.execute(text(f"SELECT {names} FROM soak.jobs"))
            return {row["id"]: JobRow(**row) for row in rows.mappings()}

    def results(self) -> dict[uuid.UUID, list[ResultRow]]:
        found: dict[uuid.UUID, list[ResultRow]] = defaultdict(list)
        with self._engine.connect() as connection:
            rows = connection.execute(text("SELECT job_id, epoch, text FROM soak.results"))
            for row in rows.mappings():
                found[row["job_id"]].append(ResultRow(**row))
        return found

    def events(self) -> list[Event]:
        names = ", ".join(Event.__slots__)
        with self._engine.connect() as connection:
            rows = connection.execute(text(f"SELECT {names} FROM soak.events ORDER BY at, number"))
            return [Event(**row) for row in rows.mappings()]

    def sessions(self) -> list[str]:
        """By name, who is connected beside us."""
        query = """
            SELECT application_name
              FROM pg_stat_activity
             WHERE datname = current_database() AND pid <> pg_backend_pid()
               AND backend_type = 'client backend'"""
        with self._engine.connect() as connection:
            return list(connection.execute(text(query)).scalars())

    def workers(self) -> list[str]:
        """The names of the service's processes, as its own table has them."""
        with self._engine.connect() as connection:
            return list(connection.execute(text("SELECT name FROM workers")).scalars())

    def cut(self) -> None:
        """End every session but ours."""
        query = """
            SELECT pg_terminate_backend(pid)
              FROM pg_stat_activity
             WHERE datname = current_database() AND pid <> pg_backend_pid()"""
        with self._engine.begin() as connection:
            connection.execute(text(query))

    def execute(self, statement: str, **values: object) -> None:
        with self._engine.begin() as connection:
            connection.execute(text(statement), values)

    def _count(self, query: str, **values: object) -> int:
        with self._engine.connect() as connection:
            found = connection.execute(text(query), {"final": list(FINAL), **values}).scalar()
            return int(found or 0)
