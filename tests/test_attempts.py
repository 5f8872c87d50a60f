"""How an attempt that fails ends, on real PostgreSQL: what the table says comes to pass."""

import errno
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, func, select
from sqlalchemy.orm import Session, sessionmaker
from uuid_utils.compat import uuid7

import errors
import retries
from api import codes
from attempts import Attempt, AttemptFailed
from celery_app import make_celery
from config import Settings
from errors import ServiceError
from jobs import lifecycle
from jobs.leases import Hold
from jobs.lifecycle import ClaimedJob, NewJob
from models import ErrorLog, Owner, TranscriptionJob
from retries import Course, policy_of
from worker import ModelWorker, make_uploads

BASE_SECONDS = 100.0
CAP_SECONDS = 400.0


@dataclass
class Bench:
    """A worker's parts, whose decoder raises what it is given."""

    settings: Settings
    sessions: sessionmaker[Session]
    error: BaseException | None = None

    def decode(self, *_: Any, **__: Any) -> Any:
        assert self.error is not None
        raise self.error

    def claim(self) -> ClaimedJob:
        job_id = uuid7()
        uploads = make_uploads(self.settings)
        uploads.prepare()
        with uploads.writer(job_id) as writer:
            writer.write(b"x")
            upload = writer.finish()
        with self.sessions.begin() as session:
            owner = Owner(name="alice")
            session.add(owner)
            session.flush()
            lifecycle.submit(
                session,
                NewJob(
                    id=job_id,
                    owner_id=owner.id,
                    engine_name="openai-whisper",
                    model_name="demo",
                    client_filename="talk.wav",
                    upload_bytes=upload.size_bytes,
                    upload_sha256=upload.sha256,
                    max_attempts=3,
                ),
            )
        with self.sessions.begin() as session:
            job = lifecycle.claim(session, job_id, "w1")
        assert job is not None
        return job

    def fail(self, error: BaseException) -> str | None:
        """Make an attempt that meets an error; returns what Flower will show, None for success."""
        self.error = error
        job = self.claim()
        app = make_celery(self.settings)
        process = ModelWorker(self.settings, app, decode=self.decode)
        try:
            Attempt(process.bench, job, Hold(job.lease, time.monotonic)).run()
        except AttemptFailed as failed:
            return str(failed)
        finally:
            process.bench.doorbell.close()
            app.close()
        return None

    def after(self) -> tuple[TranscriptionJob, float, int]:
        """The job, how long it waits, and how many errors it has."""
        with self.sessions() as session:
            pause = func.extract("epoch", TranscriptionJob.not_before - func.now())
            job, seconds = session.execute(select(TranscriptionJob, pause)).one()
            count = session.scalar(select(func.count()).select_from(ErrorLog))
        assert count is not None
        return job, float(seconds), count


@pytest.fixture
def bench(database_url: str, redis_url: str, tmp_path: Path) -> Iterator[Bench]:
    engine = create_engine(database_url)
    given: dict[str, Any] = {
        "_env_file": None,
        "database_url": database_url,
        "redis_url": redis_url,
        "state_dir": tmp_path,
        "retry_base_seconds": BASE_SECONDS,
        "retry_cap_seconds": CAP_SECONDS,
        "min_free_disk_mb": 0,
    }
    yield Bench(Settings(**given), sessionmaker(engine, expire_on_commit=False))
    engine.dispose()


def met_by_attempts(course: Course) -> list[type[ServiceError]]:
    """What an attempt may meet that leads to a course; the reaper alone finds workers lost."""
    found = {cls for cls in all_below(ServiceError) if cls.code in codes.ATTEMPTS}
    found -= {errors.WorkerLost}
    return sorted(
        (cls for cls in found if policy_of(cls).course is course), key=lambda cls: cls.code
    )


def all_below(cls: type[ServiceError]) -> Iterator[type[ServiceError]]:
    yield cls
    for kind in cls.__subclasses__():
        yield from all_below(kind)


@pytest.mark.parametrize("kind", met_by_attempts(Course.GIVE_UP))
def test_what_no_attempt_can_mend_ends_the_job_at_once(
    kind: type[ServiceError], bench: Bench
) -> None:
    shown = bench.fail(kind())
    job, _, logs = bench.after()

    assert (job.status, job.failure_reason, job.error_code) == ("failed", kind.code, kind.code)
    assert (shown, job.attempt, logs) == (kind.code, 1, 1)


@pytest.mark.parametrize("kind", met_by_attempts(Course.RETRY))
def test_what_may_go_away_is_tried_again_later_in_the_queue_retry(
    kind: type[ServiceError], bench: Bench
) -> None:
    shown = bench.fail(kind())
    job, seconds, logs = bench.after()

    assert (job.status, job.attempt, job.lane) == ("pending", 1, "retry")
    assert (shown, job.error_code, logs) == (kind.code, kind.code, 1)
    assert seconds <= min(policy_of(kind).pause * BASE_SECONDS, CAP_SECONDS)


@pytest.mark.parametrize("kind", met_by_attempts(Course.ISOLATE))
def test_a_death_makes_a_suspect_and_uses_up_no_attempt(
    kind: type[ServiceError], bench: Bench
) -> None:
    shown = bench.fail(kind())
    job, _, logs = bench.after()

    assert (job.status, job.attempt, job.lane, job.isolate) == ("pending", 0, "retry", True)
    assert (shown, job.error_code, logs) == (kind.code, kind.code, 1)


@pytest.mark.parametrize("kind", met_by_attempts(Course.WAIT))
def test_trouble_of_ours_uses_up_no_attempt_and_is_none_of_the_jobs_errors(
    kind: type[ServiceError], bench: Bench
) -> None:
    shown = bench.fail(kind())
    job, seconds, logs = bench.after()
    policy = policy_of(kind)

    assert (job.status, job.attempt, job.lane) == ("pending", 0, "normal")
    assert (shown, job.error_code, logs) == (None, kind.code, 0)
    assert seconds <= min(policy.pause * BASE_SECONDS, policy.longest * CAP_SECONDS)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (MemoryError(), "out_of_memory"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "out_of_memory"),
        (RuntimeError("unforeseen"), "internal_error"),
        (SystemExit(3), "internal_error"),
    ],
)
def test_what_is_no_error_of_ours_counts_as_one(
    error: BaseException, code: str, bench: Bench
) -> None:
    assert bench.fail(error) == code
    assert bench.after()[0].error_code == code


def test_every_course_is_taken_by_some_error() -> None:
    assert all(met_by_attempts(course) for course in Course)


def test_every_class_of_the_table_says_something_of_its_own() -> None:
    above = {cls: policy_of(cls.__mro__[1]) for cls in retries.TABLE if cls is not ServiceError}

    assert {cls for cls, policy in above.items() if policy == retries.TABLE[cls]} == set()
