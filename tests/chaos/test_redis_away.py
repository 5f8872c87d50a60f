"""Redis that is dead, frozen or full: workers look for due jobs themselves, in the same order."""

import os
import signal
import uuid
from datetime import datetime
from pathlib import Path

import pytest
from sqlalchemy import select

from local_servers import ValkeyServer
from models import TranscriptionJob
from tests.chaos.conftest import LONG_TEXT, UNRUNG, Chaos, Post, words_of
from tests.stack.conftest import wait_for

pytestmark = [pytest.mark.chaos, pytest.mark.model]


def kill(valkey: ValkeyServer) -> None:
    assert valkey.pid is not None
    os.kill(valkey.pid, signal.SIGKILL)


def started(job: TranscriptionJob) -> datetime:
    assert job.started_at is not None
    return job.started_at


@pytest.mark.fault("F21", "Redis is killed in mid-job, and comes back empty when all is done")
def test_redis_that_dies_holds_up_no_job(
    broken: Chaos, valkey: ValkeyServer, post: Post, long_recording: Path
) -> None:
    broken.stack.maintenance()
    worker = broken.worker()
    running = broken.submit(long_recording)
    broken.stack.wait_for_windows(running, 1)
    kill(valkey)
    meanwhile = [post() for _ in range(3)]
    with broken.recovery(UNRUNG):
        wait_for(lambda: broken.stack.job(meanwhile[0]).lease_epoch, "the next one starts")
    ends = [broken.end_of(job_id) for job_id in (running, *meanwhile)]
    valkey.start()
    later = broken.end_of(post())

    assert [(job.status, job.lease_epoch) for job in (*ends, later)] == [("completed", 1)] * 5
    assert words_of(broken.stack, running) == LONG_TEXT
    assert worker.popen.poll() is None
    broken.check()


@pytest.mark.fault("F21b", "Redis is dead from the start and for the whole run")
def test_without_any_redis_all_jobs_are_done_in_order(broken: Chaos, valkey: ValkeyServer) -> None:
    kill(valkey)
    broken.stack.maintenance(ready=False)
    normal = [broken.submit_null(1, 0.2, ring=False) for _ in range(4)]
    high = [broken.submit_null(1, 0.2, ring=False, priority="high") for _ in range(2)]
    failing = broken.submit_null(1, fault="error after 0 once", ring=False)
    workers = [broken.worker(ready=False, CELERY_CONCURRENCY="1") for _ in range(1)]
    done = [broken.end_of(job_id) for job_id in (*high, *normal, failing)]
    workers[0].signal(signal.SIGTERM)

    assert [job.status for job in done] == ["completed"] * 7
    assert [job.id for job in sorted(done, key=started)] == [job.id for job in done]
    assert [job.lease_epoch for job in done] == [1] * 6 + [2]
    assert workers[0].wait() == 0
    broken.check()


@pytest.mark.fault("F21c", "Redis comes back while workers that look for jobs are busy")
def test_redis_that_returns_starts_no_job_twice_and_none_too_many(
    broken: Chaos, valkey: ValkeyServer
) -> None:
    broken.stack.maintenance()
    workers = [broken.worker(CELERY_CONCURRENCY="2") for _ in range(2)]
    kill(valkey)
    jobs = [broken.submit_null(1, 0.5, ring=False) for _ in range(24)]
    wait_for(lambda: len(with_status(broken, jobs, "completed")) >= 4, "some are done")
    valkey.start()
    most = 0
    while len(with_status(broken, jobs, "completed")) < len(jobs):
        most = max(most, len(with_status(broken, jobs, "processing")))
    wait_for(lambda: all(worker.said("redis is back") for worker in workers), "both noticed")
    rung = broken.end_of(broken.submit_null(1))

    assert most <= 4
    assert [broken.stack.job(job_id).lease_epoch for job_id in jobs] == [1] * len(jobs)
    assert rung.status == "completed"
    broken.check()


def with_status(chaos: Chaos, jobs: list[uuid.UUID], status: str) -> list[uuid.UUID]:
    with chaos.stack.sessions() as session:
        query = select(TranscriptionJob.id).where(
            TranscriptionJob.id.in_(jobs), TranscriptionJob.status == status
        )
        return list(session.scalars(query))


@pytest.mark.fault("F22", "Redis is frozen (SIGSTOP), and thawed when all is done")
def test_redis_that_freezes_holds_up_no_job(
    broken: Chaos, valkey: ValkeyServer, post: Post
) -> None:
    broken.stack.maintenance()
    broken.worker()
    assert valkey.pid is not None
    os.kill(valkey.pid, signal.SIGSTOP)
    jobs = [post() for _ in range(3)]
    with broken.recovery(UNRUNG):
        wait_for(lambda: broken.stack.job(jobs[0]).lease_epoch, "the first one starts")
    ends = [broken.end_of(job_id) for job_id in jobs]
    os.kill(valkey.pid, signal.SIGCONT)
    later = broken.end_of(post())

    assert [(job.status, job.lease_epoch) for job in (*ends, later)] == [("completed", 1)] * 4
    broken.check()


@pytest.mark.fault("F24", "Redis is full (maxmemory) until all is done")
@pytest.mark.usefixtures("valkey")
def test_redis_that_is_full_holds_up_no_job(broken: Chaos, post: Post) -> None:
    broken.stack.maintenance()
    worker = broken.worker()
    broken.stack.redis.config_set("maxmemory", 1)
    jobs = [post() for _ in range(3)]
    with broken.recovery(UNRUNG):
        wait_for(lambda: any(broken.stack.job(j).lease_epoch for j in jobs), "a worker looks")
    ends = [broken.end_of(job_id) for job_id in jobs]
    broken.stack.redis.config_set("maxmemory", 0)
    later = broken.end_of(post())

    assert [(job.status, job.lease_epoch) for job in (*ends, later)] == [("completed", 1)] * 4
    assert worker.popen.poll() is None
    broken.check()
