"""What a job costs beside its transcription: beside a bare Celery task with the same commits."""

from __future__ import annotations

import hashlib
import statistics
import time
import uuid
from collections.abc import Callable

from sqlalchemy import Engine, create_engine, text
from sqlalchemy.orm import Session, sessionmaker
from uuid_utils.compat import uuid7

from bench.instant_worker import BARE
from bench.service import Service, service
from celery_app import TRANSCRIBE, make_celery, send
from jobs import lifecycle
from jobs.lifecycle import NewJob
from jobs.uploads import UploadStore
from models import Owner
from rig.processes import wait_for

JOBS = 200
ROUNDS = 5
CONCURRENCY = 4
MAX_RATIO = 3.0
UPLOAD = b"x"


class Bench:
    """Rows and messages for both kinds of work."""

    def __init__(self, place: Service) -> None:
        self.engine: Engine = create_engine(place.settings.require_database_url())
        self.sessions = sessionmaker(self.engine)
        self.app = make_celery(place.settings)
        self.uploads = UploadStore(place.settings.uploads_path, max_bytes=2**20, min_free_bytes=0)
        self.uploads.prepare()
        with self.sessions.begin() as session:
            session.execute(text("CREATE TABLE bare (id uuid PRIMARY KEY, n int NOT NULL)"))
            owner = Owner(name="bench")
            session.add(owner)
            session.flush()
            self.owner_id = owner.id

    def jobs(self, count: int) -> list[uuid.UUID]:
        ids = [uuid7() for _ in range(count)]
        for job_id in ids:
            with self.uploads.writer(job_id) as writer:
                writer.write(UPLOAD)
                writer.finish()
        with self.sessions.begin() as session:
            for job_id in ids:
                self._submit(session, job_id)
        return ids

    def _submit(self, session: Session, job_id: uuid.UUID) -> None:
        job = NewJob(
            id=job_id,
            owner_id=self.owner_id,
            engine_name="openai-whisper",
            model_name="demo",
            client_filename="a.wav",
            upload_bytes=1,
            upload_sha256=hashlib.sha256(UPLOAD).digest(),
            max_attempts=1,
        )
        lifecycle.submit(session, job)

    def rows(self, count: int) -> list[uuid.UUID]:
        ids = [uuid7() for _ in range(count)]
        with self.sessions.begin() as session:
            session.execute(text("INSERT INTO bare VALUES (:id, 0)"), [{"id": i} for i in ids])
        return ids

    def timed(self, task: str, ids: list[uuid.UUID], done: str) -> float:
        """Wall time from the first message to the last result."""
        began = time.perf_counter()
        for job_id in ids:
            send(self.app, task, job_id, "normal")
        wait_for(lambda: self.scalar(done) == len(ids), "all of it is done")
        return time.perf_counter() - began

    def scalar(self, statement: str) -> int:
        with self.engine.connect() as connection:
            return int(connection.execute(text(statement)).scalar_one())

    def clear(self) -> None:
        with self.sessions.begin() as session:
            session.execute(text("TRUNCATE transcription_jobs, bare CASCADE"))


def measure(bench: Bench) -> tuple[float, float]:
    done_jobs = "SELECT count(*) FROM transcription_jobs WHERE status = 'completed'"
    # a bare task has made its commits when its row says so
    done_bare = "SELECT count(*) FROM bare WHERE n = 4"
    rounds: list[tuple[Callable[[int], list[uuid.UUID]], str, str, list[float]]] = [
        (bench.jobs, TRANSCRIBE, done_jobs, []),
        (bench.rows, BARE, done_bare, []),
    ]
    for _ in range(ROUNDS):
        for make, task, done, times in rounds:
            times.append(bench.timed(task, make(JOBS), done))
            bench.clear()
    ours, bare = (statistics.median(times) for *_, times in rounds)
    return ours, bare


def main() -> bool:
    with service() as place:
        place.worker(
            "-m",
            "bench.instant_worker",
            CELERY_CONCURRENCY=str(CONCURRENCY),
            COUNT_STATEMENTS="",
        )
        bench = Bench(place)
        bench.timed(TRANSCRIBE, bench.jobs(20), "SELECT count(*) FROM transcription_results")
        bench.clear()
        ours, bare = measure(bench)
    statements = statements_per_job()
    ratio = ours / bare
    print(f"a job / a bare task with its commits: {ratio:.2f} (at most {MAX_RATIO})")
    print(f"SQL statements a job, in the worker: {statements:.1f}")
    return ratio <= MAX_RATIO


def statements_per_job(count: int = 50) -> float:
    with service() as place:
        place.worker("-m", "bench.instant_worker", CELERY_CONCURRENCY="1", COUNT_STATEMENTS="1")
        bench = Bench(place)
        bench.timed(TRANSCRIBE, bench.jobs(count), "SELECT count(*) FROM transcription_results")
        return int((place.folder / "state" / "statements").read_text()) / count
