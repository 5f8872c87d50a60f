"""The usual recipe, to show what it loses: status in a table, late acknowledgement on Redis.

``python -m soak.naive web`` and ``… worker``. It has what is commonly advised: publish after the
commit and try again, ``acks_late``, ``reject_on_worker_lost``, a prefetch of one, a visibility
timeout longer than the longest job, retries of the task. It has no lease, no fence and no sweeper.
"""

from __future__ import annotations

import os
import sys
import time
import uuid
from pathlib import Path
from typing import Any, Final

import uvicorn
from celery import Celery
from celery.signals import worker_ready
from fastapi import FastAPI
from sqlalchemy import create_engine, text

from config import Settings
from rig.engines import Script
from rig.ledger import Ledger
from soak.plan import PlannedJob

TASK: Final = "naive.transcribe"
SLOTS: Final = 4
#: Longer than the longest job, and short: common advice is an hour.
VISIBILITY_SECONDS: Final = 20
TRIES: Final = 3

SCHEMA: Final = """
CREATE TABLE naive_jobs (
    id uuid PRIMARY KEY,
    prompt text NOT NULL,
    status text NOT NULL DEFAULT 'pending',
    starts bigint NOT NULL DEFAULT 0,
    worker_pid text,
    started_at timestamptz
);
CREATE TABLE naive_results (id bigserial PRIMARY KEY, job_id uuid NOT NULL, text text NOT NULL);
"""
#: The triggers and views that ``soak.observer`` wants.
TRIGGERS: Final = """
CREATE FUNCTION soak.note_job() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO soak.events (what, job_id, after) VALUES ('status', NEW.id, NEW.status);
    ELSE
        INSERT INTO soak.events (what, job_id, epoch, before, after)
        VALUES ('status', NEW.id, NEW.starts, OLD.status, NEW.status);
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER soak AFTER INSERT OR UPDATE ON naive_jobs
   FOR EACH ROW EXECUTE FUNCTION soak.note_job();
CREATE TRIGGER soak AFTER INSERT ON naive_results
   FOR EACH ROW EXECUTE FUNCTION soak.note_result();
CREATE VIEW soak.jobs AS
SELECT id, status, NULL AS failure_reason, least(starts, 1)::int AS attempt, 1 AS max_attempts,
       starts AS epoch, 0 AS crash_count, worker_pid AS pid, true AS is_null,
       -- a job is fit for a duel while it is young
       CASE WHEN started_at > now() - interval '1 second' THEN 0.1 ELSE 1 END AS progress
  FROM naive_jobs;
CREATE VIEW soak.progress AS SELECT id AS job_id, starts AS epoch FROM naive_jobs;
CREATE VIEW soak.results AS
SELECT job_id, starts AS epoch, text FROM naive_results JOIN naive_jobs ON naive_jobs.id = job_id;
"""


def as_json(job: PlannedJob) -> dict[str, Any]:
    """What its web process is sent."""
    return {"json": {"prompt": str(job.script), "priority": job.priority}}


def make_celery(settings: Settings) -> Celery:
    app = Celery("naive", broker=settings.require_broker_url())
    app.conf.update(
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        worker_prefetch_multiplier=1,
        task_default_queue="normal",
        task_ignore_result=True,
        broker_connection_retry_on_startup=True,
        worker_hijack_root_logger=False,
        broker_transport_options={
            "visibility_timeout": VISIBILITY_SECONDS,
            "unacked_restore_interval": 1,
            "unacked_restore_throttle": 1,
            "priority_steps": [0],
        },
    )
    return app


def web() -> None:
    settings = Settings.from_env(env_file=None)
    engine = create_engine(settings.require_database_url(), pool_pre_ping=True)
    celery = make_celery(settings)
    app = FastAPI()

    @app.post("/transcribe", status_code=202)
    def transcribe(body: dict[str, str]) -> dict[str, str]:
        job_id = uuid.uuid4()
        with engine.begin() as connection:
            connection.execute(
                text("INSERT INTO naive_jobs (id, prompt) VALUES (:id, :prompt)"),
                {"id": job_id, "prompt": body["prompt"]},
            )
        celery.send_task(
            TASK, args=[str(job_id)], queue=body["priority"], retry=True,
            retry_policy={"max_retries": 3},
        )  # fmt: skip
        return {"job_id": str(job_id)}

    uvicorn.run(app, port=settings.port, log_level="info")


def worker() -> None:
    settings = Settings.from_env(env_file=None)
    engine = create_engine(settings.require_database_url(), pool_pre_ping=True)
    ledger = Ledger(Path(os.environ["LEDGER"]))
    app = make_celery(settings)

    @app.task(name=TASK, autoretry_for=(Exception,), max_retries=TRIES, default_retry_delay=1)
    def transcribe(job_id: str) -> None:
        with engine.begin() as connection:
            prompt = connection.execute(
                text(
                    "UPDATE naive_jobs SET status = 'processing', starts = starts + 1,"
                    " worker_pid = :pid, started_at = now() WHERE id = :id RETURNING prompt"
                ),
                {"id": job_id, "pid": os.getpid()},
            ).scalar_one()
        script = Script.of(prompt) or Script()
        for index in range(script.windows):
            time.sleep(script.seconds)
            ledger.note("window", tag=script.tag, start=30.0 * index)
        with engine.begin() as connection:
            connection.execute(
                text("INSERT INTO naive_results (job_id, text) VALUES (:id, :text)"),
                {"id": job_id, "text": script.text},
            )
            connection.execute(
                text("UPDATE naive_jobs SET status = 'completed' WHERE id = :id"), {"id": job_id}
            )

    def say_ready(**_: object) -> None:
        print("ready", flush=True)

    worker_ready.connect(say_ready)
    app.Worker(
        pool_cls="threads", concurrency=SLOTS, queues=["high", "normal"], loglevel="INFO",
        without_gossip=True, without_mingle=True, quiet=True,
    ).start()  # fmt: skip


if __name__ == "__main__":
    {"web": web, "worker": worker}[sys.argv[1]]()
