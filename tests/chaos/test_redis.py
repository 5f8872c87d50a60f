"""Redis that repeats, forgets and cuts: messages only ring; no job is lost or done twice."""

import os
import signal
import uuid
from datetime import datetime

import pytest

from local_servers import ValkeyServer
from maintenance import MIN_WINDOW
from models import TranscriptionJob
from tests.chaos.conftest import (
    DISPATCH,
    NOTICED,
    REDISPATCH,
    SHORT_TEXT,
    WINDOW,
    Chaos,
    drained,
    words_of,
)
from tests.stack.conftest import wait_for

pytestmark = [pytest.mark.chaos, pytest.mark.model]


@pytest.mark.fault("F25", "a queue is deleted")
def test_a_message_that_is_lost_is_sent_again(chaos: Chaos) -> None:
    chaos.stack.maintenance()
    job_id = chaos.submit(ring=False)
    wait_for(lambda: chaos.stack.redis.llen("normal") == 1, "the dispatcher published")
    chaos.stack.redis.delete("normal")
    with chaos.recovery(REDISPATCH + DISPATCH):
        wait_for(lambda: chaos.stack.redis.llen("normal") == 1, "it is published again")
    chaos.worker()
    done = chaos.end_of(job_id)

    assert (done.status, done.attempt) == ("completed", 1)
    assert chaos.errors_of(job_id) == []
    chaos.check()


@pytest.mark.fault("F17", "one message is delivered ten times")
def test_a_message_that_comes_ten_times_runs_its_job_once(chaos: Chaos) -> None:
    job_id = chaos.submit(ring=False)
    for _ in range(10):
        chaos.stack.ring(job_id, "normal")
    worker = chaos.worker()
    chaos.end_of(job_id)
    wait_for(lambda: worker.log.read_text().count("nothing to do") == 9, "nine messages are stale")

    assert (chaos.stack.job(job_id).attempt, chaos.stack.job(job_id).lease_epoch) == (1, 1)
    chaos.check()


@pytest.mark.fault("F18", "messages for no job, a finished one, a cancelled one")
def test_a_message_for_a_job_that_is_not_there_to_be_had_does_nothing(chaos: Chaos) -> None:
    worker = chaos.worker()
    job_id = chaos.submit()
    before = chaos.end_of(job_id)
    chaos.stack.ring(uuid.uuid4(), "normal")
    chaos.stack.ring(job_id, "high")
    wait_for(lambda: worker.log.read_text().count("nothing to do") == 2, "both did nothing")

    assert chaos.stack.job(job_id).lease_epoch == before.lease_epoch
    chaos.check()


@pytest.mark.fault("F19", "malformed and foreign messages")
def test_rubbish_on_the_queue_does_not_stop_a_worker(chaos: Chaos) -> None:
    chaos.stack.redis.rpush("normal", b"\x80rubbish", b'{"body": "x"}')
    chaos.worker()
    job_id = chaos.submit()

    assert chaos.end_of(job_id).status == "completed"
    chaos.check()


@pytest.mark.fault("F20", "everything in Redis is deleted (FLUSHALL), and more jobs wait than fit")
def test_losing_everything_in_redis_loses_no_job(chaos: Chaos) -> None:
    for _ in range(2):
        chaos.stack.maintenance()
    jobs = [chaos.submit_null(1, ring=False) for _ in range(MIN_WINDOW + 4)]
    wait_for(lambda: lane_is_full(chaos), "the dispatchers published")
    chaos.stack.redis.flushdb()
    with chaos.recovery(NOTICED):
        wait_for(lambda: lane_is_full(chaos), "it is full again")
    chaos.worker()
    ends = [chaos.end_of(job_id) for job_id in jobs]

    assert [(job.status, job.lease_epoch) for job in ends] == [("completed", 1)] * len(jobs)
    assert [chaos.errors_of(job_id) for job_id in jobs] == [[]] * len(jobs)
    chaos.check()


def lane_is_full(chaos: Chaos) -> bool:
    return int(chaos.stack.redis.llen("normal")) >= MIN_WINDOW


@pytest.mark.fault("F10", "SIGTERM while Redis is frozen")
def test_a_worker_ends_even_if_redis_is_frozen(broken: Chaos, valkey: ValkeyServer) -> None:
    worker = broken.worker(DRAIN_FORCE_SECONDS="2")
    assert valkey.pid is not None
    os.kill(valkey.pid, signal.SIGSTOP)
    worker.signal(signal.SIGTERM)

    with broken.recovery(drained(1, 2)):
        assert worker.wait() == 0
    assert worker.said("draining")


@pytest.mark.usefixtures("valkey")
@pytest.mark.fault("F23", "every connection to Redis is cut, again and again")
def test_no_job_runs_twice_while_connections_are_cut(broken: Chaos) -> None:
    broken.stack.maintenance()
    worker = broken.worker()
    jobs = [broken.submit() for _ in range(8)]
    for job_id in jobs:
        broken.stack.redis.client_kill_filter(_type="normal", skipme=True)
        with broken.recovery(REDISPATCH + DISPATCH + WINDOW):
            broken.end_of(job_id)

    assert [broken.stack.job(job_id).lease_epoch for job_id in jobs] == [1] * 8
    assert worker.popen.poll() is None
    broken.check()


@pytest.mark.usefixtures("valkey")
@pytest.mark.fault("F25b", "a queue's key holds something else")
def test_a_queue_of_another_type_is_survived(broken: Chaos) -> None:
    broken.stack.maintenance()
    worker = broken.worker()
    broken.stack.redis.set("normal", "not a list")
    job_id = broken.submit(ring=False)
    wait_for(lambda: worker.said("a queue's key in redis is no list"), "the worker meets it")
    broken.stack.redis.delete("normal")
    with broken.recovery(REDISPATCH + DISPATCH):
        broken.is_taken(job_id, 1)
    done = broken.end_of(job_id)

    assert (done.status, words_of(broken.stack, job_id)) == ("completed", SHORT_TEXT)
    broken.check()


def started(job: TranscriptionJob) -> datetime:
    assert job.started_at is not None
    return job.started_at


@pytest.mark.usefixtures("valkey")
@pytest.mark.fault("F39", "urgent jobs come while every connection to Redis is cut again and again")
def test_urgent_jobs_go_first_while_connections_are_cut(broken: Chaos) -> None:
    broken.stack.maintenance()
    worker = broken.worker(CELERY_CONCURRENCY="1", PREEMPTION="false")
    normal = [broken.submit_null(1, 0.4) for _ in range(14)]
    urgent = []
    for _ in range(4):
        broken.stack.redis.client_kill_filter(_type="normal", skipme=True)
        urgent.append(broken.submit_null(1, priority="high"))
        broken.stack.redis.client_kill_filter(_type="normal", skipme=True)
        with broken.recovery(REDISPATCH + DISPATCH):
            broken.end_of(urgent[-1])
    starts = [started(broken.end_of(job_id)) for job_id in normal]

    for job in map(broken.stack.job, urgent):
        # one may have been on its way from Redis when the urgent one came
        assert sum(job.created_at < start < started(job) for start in starts) <= 1
    assert [broken.stack.job(job_id).lease_epoch for job_id in normal + urgent] == [1] * 18
    assert worker.popen.poll() is None
    broken.check()
