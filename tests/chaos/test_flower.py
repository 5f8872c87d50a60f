"""Flower, which listens to what workers tell through Redis: jobs do not depend on it."""

import signal
from typing import Any, Final

import pytest

from rig.processes import free_port
from tests.chaos.conftest import Chaos
from tests.stack.conftest import Process, wait_for

pytestmark = [pytest.mark.chaos, pytest.mark.model]

MEGABYTE: Final = 2**20
#: What workers publish their events on, and Flower listens to.
CHANNEL: Final = "/0.celeryev/worker.heartbeat"
LIMIT: Final = "client-output-buffer-limit"


@pytest.fixture
def flower(broken: Chaos) -> Process:
    arguments = ("-m", "celery", "-A", "celery_app", "flower", "--address=127.0.0.1")
    port = free_port()
    process = broken.stack.start(
        "flower", *arguments, f"--port={port}", FLOWER_UNAUTHENTICATED_API="true"
    )
    wait_for(lambda: listeners(broken), "Flower listens")
    return process


def listeners(chaos: Chaos) -> list[Any]:
    clients: Any = chaos.stack.redis.client_list()
    return [client for client in clients if int(client["psub"])]


def flood(chaos: Chaos) -> bool:
    """Publish a thousand events of a usual size; whether anybody still listens to them."""
    pipeline = chaos.stack.redis.pipeline(transaction=False)
    for _ in range(1000):
        pipeline.publish(CHANNEL, bytes(1024))
    return bool(pipeline.execute()[-1])


@pytest.mark.fault("F44", "Flower is frozen (SIGSTOP) and takes no events")
@pytest.mark.usefixtures("valkey")
def test_a_frozen_flower_costs_neither_jobs_nor_memory(broken: Chaos, flower: Process) -> None:
    limits: Any = broken.stack.redis.config_get(LIMIT)
    flower.signal(signal.SIGSTOP)
    broken.stack.maintenance()
    worker = broken.worker()
    jobs = [broken.submit_null(2) for _ in range(4)]
    ends = [broken.end_of(job_id) for job_id in jobs]
    broken.stack.redis.config_set(LIMIT, f"pubsub {MEGABYTE} {MEGABYTE} 1")
    heard = flood(broken)
    wait_for(lambda: not flood(broken), "Redis gave up on who does not read")

    hard_bytes, soft_bytes, _ = map(int, limits[LIMIT].partition("pubsub")[2].split())
    assert heard
    assert min(hard_bytes, soft_bytes) > 0
    assert [(job.status, job.lease_epoch) for job in ends] == [("completed", 1)] * 4
    assert worker.popen.poll() is None
    broken.check()
