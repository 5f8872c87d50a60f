"""What leases, heartbeats and kept windows cost: in a one-hour file, and with 1,000 running jobs.

The windows of an hour run through the null engine alone, and through a real worker, by turns; what
the worker takes longer is the cost. The beats of 1,000 jobs are compared with those of none.
"""

from __future__ import annotations

import functools
import statistics
import time
import uuid
from pathlib import Path

import psutil
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session, sessionmaker
from uuid_utils.compat import uuid7

from bench.service import Service, service
from celery_app import TRANSCRIBE, make_celery, send
from jobs import lifecycle
from jobs.lifecycle import NewJob
from jobs.uploads import UploadStore
from models import Owner
from rig.engines import NullEngine, Script, null_upload
from rig.processes import wait_for
from speech.engines import ModelKey
from speech.transcript import TranscribeOptions

NULL_MODEL = "tiny"
WINDOWS = 120
WINDOW_SECONDS = 0.1
ROUNDS = 3
#: An hour of audio in six minutes. A faster engine spends a larger share on what is kept.
SPEED = 10.0
MAX_SHARE = 0.01

RUNNING = 1000
KEEPERS = 10
WATCH_SECONDS = 60.0
MAX_CORE = 0.05


class Jobs:
    """Null jobs, submitted as the web process does."""

    def __init__(self, place: Service) -> None:
        self.engine = create_engine(place.settings.require_database_url())
        self.sessions = sessionmaker(self.engine)
        self.uploads = UploadStore(place.settings.uploads_path, max_bytes=2**20, min_free_bytes=0)
        self.uploads.prepare()
        with self.sessions.begin() as session:
            owner = Owner(name="bench")
            session.add(owner)
            session.flush()
            self.owner_id = owner.id

    def submit(self, session: Session, script: Script) -> uuid.UUID:
        job_id = uuid7()
        with self.uploads.writer(job_id) as writer:
            writer.write(null_upload(script))
            upload = writer.finish()
        job = NewJob(
            id=job_id,
            owner_id=self.owner_id,
            engine_name="openai-whisper",
            model_name=NULL_MODEL,
            client_filename="a.wav",
            upload_bytes=upload.size_bytes,
            upload_sha256=upload.sha256,
            max_attempts=1,
            initial_prompt=str(script),
        )
        lifecycle.submit(session, job)
        return job_id

    def completed(self, job_id: uuid.UUID) -> bool:
        query = text("SELECT status = 'completed' FROM transcription_jobs WHERE id = :id")
        with self.engine.connect() as connection:
            return bool(connection.execute(query, {"id": job_id}).scalar())


def bare(script: Script) -> float:
    """The windows alone."""
    engine = NullEngine(ModelKey("openai-whisper", NULL_MODEL, "cpu", "float32"))
    began = time.perf_counter()
    for _ in engine.transcribe(None, TranscribeOptions(initial_prompt=str(script))):
        pass
    return time.perf_counter() - began


def commits(jobs: Jobs) -> float:
    """The ceiling: as many bare rows, each on the disk before the next."""
    with jobs.engine.begin() as connection:
        connection.execute(text("CREATE TABLE IF NOT EXISTS ceiling (n int)"))
    began = time.perf_counter()
    for number in range(WINDOWS):
        with jobs.engine.begin() as connection:
            connection.execute(text("INSERT INTO ceiling VALUES (:n)"), {"n": number})
    return time.perf_counter() - began


def cpu_seconds(processes: list[psutil.Process]) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def postgres_cpu(place: Service) -> float:
    """Of the server and of all that it ever ran and has collected."""
    server = psutil.Process(place.postgres.pid)
    ended = server.cpu_times()
    return cpu_seconds([server, *server.children()]) + ended.children_user + ended.children_system


def hour() -> bool:
    script = Script(windows=WINDOWS, seconds=WINDOW_SECONDS, tag="hour")
    with service() as place:
        worker = place.worker("-m", "rig.worker", CELERY_CONCURRENCY="1", NULL_MODEL=NULL_MODEL)
        jobs, app = Jobs(place), make_celery(place.settings)
        served, alone, bare_commits, cpu = [], [], [], []
        for _ in range(ROUNDS):  # by turns, so that the machine is the same for both
            alone.append(bare(script))
            bare_commits.append(commits(jobs))
            with jobs.sessions.begin() as session:
                job_id = jobs.submit(session, script)
            before, began = cpu_seconds([worker]), time.perf_counter()
            send(app, TRANSCRIBE, job_id, "normal")
            wait_for(functools.partial(jobs.completed, job_id), "the job is done")
            served.append(time.perf_counter() - began)
            cpu.append(cpu_seconds([worker]) - before)
    extra = statistics.median(ours - theirs for ours, theirs in zip(served, alone, strict=True))
    share = extra / (3600 / SPEED)
    print(
        f"{WINDOWS} windows: {extra:.2f} s more than alone, {statistics.median(cpu):.2f} s of CPU;"
        f" as many bare commits: {statistics.median(bare_commits):.2f} s"
    )
    print(
        f"of an hour transcribed {SPEED:g} times as fast as it was spoken: {100 * share:.2f} %"
        f" (at most {100 * MAX_SHARE:g} %); 1 % at {3600 * MAX_SHARE / extra:.0f} times"
    )
    return share <= MAX_SHARE


def watch(place: Service, keepers: psutil.Process) -> tuple[float, float]:
    """Shares of a core that the keepers and PostgreSQL take."""
    before, began = (cpu_seconds([keepers]), postgres_cpu(place)), time.perf_counter()
    time.sleep(WATCH_SECONDS)
    seconds = time.perf_counter() - began
    return (
        (cpu_seconds([keepers]) - before[0]) / seconds,
        (postgres_cpu(place) - before[1]) / seconds,
    )


def thousand() -> bool:
    script = Script(windows=1, tag="held")
    with service() as place:
        jobs = Jobs(place)
        with jobs.sessions.begin() as session:
            for _ in range(RUNNING):
                jobs.submit(session, script)
        go = Path(place.folder / "go")
        process = place.start("-m", "bench.keepers", KEEPERS=str(KEEPERS), GO=str(go))
        wait_for(lambda: process.said("ready"), "the keepers beat")
        keepers = psutil.Process(process.pid)
        idle = watch(place, keepers)
        go.touch()
        wait_for(lambda: process.said("holding"), "all jobs are held")
        busy = watch(place, keepers)
        with jobs.engine.connect() as connection:
            held = connection.execute(
                text("SELECT count(*) FROM transcription_jobs WHERE status = 'processing'")
            ).scalar_one()
    for what, none, all_of_them in zip(("keepers, reaper", "PostgreSQL"), idle, busy, strict=True):
        print(
            f"{what}: {100 * all_of_them:.2f} % of a core with {held} running jobs,"
            f" {100 * none:.2f} % with none (at most {100 * MAX_CORE:g} % more)"
        )
    more = [with_jobs - none for none, with_jobs in zip(idle, busy, strict=True)]
    return held == RUNNING and max(more) <= MAX_CORE


def main() -> bool:
    return all([hour(), thousand()])
