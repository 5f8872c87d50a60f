"""Queues and messages on a real broker, and the doorbell when the broker fails."""

import base64
import contextlib
import functools
import json
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis
from celery import Celery
from celery.app.utils import find_app
from celery.exceptions import QueueNotFound
from kombu.exceptions import ContentDisallowed
from pydantic import SecretStr

import celery_app
from celery_app import (
    BREAKER_SECONDS,
    CONFIGURATION,
    DEFAULT_WINDOW,
    DLQ,
    LANES,
    TRANSCRIBE,
    WINDOW_KEY,
    Doorbell,
    Threads,
    make_celery,
    make_redis,
    send,
    send_if_room,
)
from config import PROJECT_DIR, Settings
from local_servers import ValkeyServer
from tests.fakes import FakeClock, Gate, eventually

JOB_ID = uuid.UUID("01950000-0000-7000-8000-000000000001")
PATIENT_SECONDS = 20.0


def settings_of(url: str) -> Settings:
    return Settings(redis_url=SecretStr(url), _env_file=None)  # type: ignore[call-arg]


@pytest.fixture
def app(redis_url: str) -> Iterator[Celery]:
    """Celery on a broker on which all queues are declared, as a worker declares them."""
    app = make_celery(settings_of(redis_url))
    with app.connection_for_write() as connection:
        for queue in app.amqp.queues.values():
            queue(connection.default_channel).declare()
    yield app
    app.close()


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with contextlib.closing(make_redis(settings_of(redis_url))) as client:
        yield client


def depths(client: redis.Redis) -> dict[str, int]:
    return {name: int(client.llen(name)) for name in (*LANES, DLQ) if client.llen(name)}


def messages(client: redis.Redis, queue: str) -> list[dict[str, Any]]:
    return [json.loads(message) for message in client.lrange(queue, 0, -1)]


# Queues


@pytest.mark.parametrize("queue", [*LANES, DLQ])
def test_a_message_arrives_in_its_own_queue_and_in_no_other(
    queue: str, app: Celery, client: redis.Redis
) -> None:
    send(app, TRANSCRIBE, JOB_ID, queue)

    assert depths(client) == {queue: 1}


@pytest.mark.parametrize("queue", [*LANES, DLQ])
def test_what_is_sent_to_a_queues_exchange_reaches_that_queue_alone(
    queue: str, app: Celery, client: redis.Redis
) -> None:
    with app.connection_for_write() as connection, connection.channel() as channel:
        app.amqp.Producer(channel).publish({}, exchange=queue, routing_key=queue)

    assert depths(client) == {queue: 1}


def test_a_message_says_which_job_and_nothing_else(app: Celery, client: redis.Redis) -> None:
    send(app, TRANSCRIBE, JOB_ID, "high")
    (message,) = messages(client, "high")
    args, kwargs, _ = json.loads(base64.b64decode(message["body"]))

    assert (args, kwargs) == ([str(JOB_ID)], {})
    assert message["content-type"] == "application/json"
    assert message["headers"]["task"] == TRANSCRIBE
    assert message["headers"]["eta"] is None


def test_a_queue_that_nobody_knows_is_refused(app: Celery, client: redis.Redis) -> None:
    with pytest.raises(QueueNotFound):
        send(app, TRANSCRIBE, JOB_ID, "urgent")

    assert client.exists("urgent") == 0


def take(app: Celery, queue: str) -> Any:
    """Take one message as a worker does, and return what was in it."""
    taken: list[Any] = []
    with (
        app.connection_for_write() as connection,
        connection.channel() as channel,
        app.amqp.TaskConsumer(
            channel, [app.amqp.queues[queue]], callbacks=[lambda body, _: taken.append(body)]
        ),
    ):
        connection.drain_events(timeout=PATIENT_SECONDS)
    (body,) = taken
    return body


def test_json_is_unpacked(app: Celery) -> None:
    send(app, TRANSCRIBE, JOB_ID, "high")
    args, *_ = take(app, "high")

    assert args == [str(JOB_ID)]


def test_nothing_but_json_is_unpacked(app: Celery) -> None:
    with app.connection_for_write() as connection, connection.channel() as channel:
        app.amqp.Producer(channel).publish(
            pickle.dumps([]),
            exchange="high",
            routing_key="high",
            content_type="application/x-python-serialize",
            content_encoding="binary",
        )

    with pytest.raises(ContentDisallowed):
        take(app, "high")


def test_workers_take_from_queues_in_the_order_of_urgency() -> None:
    assert [queue.name for queue in CONFIGURATION["task_queues"]] == [*LANES, DLQ]
    assert LANES == ("high", "normal", "retry")


def test_the_celery_command_finds_the_instance_by_the_modules_name(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CELERY_BROKER_URL", redis_url)
    celery_app._from_environment.cache_clear()
    found = find_app("celery_app")
    celery_app._from_environment.cache_clear()

    assert (found.main, found.conf.broker_url) == ("transcription", redis_url)


def test_a_bad_setting_is_one_line_of_the_celery_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "celery", "-A", "celery_app", "report"],
        cwd=PROJECT_DIR,
        env={"PATH": os.environ["PATH"], "REDIS_URL": "redis://h", "PORT": "http"},
        capture_output=True,
        text=True,
    )

    line = "PORT=http: Input should be a whole number\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", line)


# The window of messages in a lane


@pytest.fixture
def bell(app: Celery, client: redis.Redis) -> Iterator[Doorbell]:
    bell = Doorbell.of(app, client, budget_seconds=PATIENT_SECONDS)
    yield bell
    bell.close()


def test_a_message_goes_where_there_is_room(bell: Doorbell, client: redis.Redis) -> None:
    client.set(WINDOW_KEY, 2)
    rung = [bell.ring(TRANSCRIBE, uuid.uuid4(), "normal") for _ in range(3)]

    assert rung == [True, True, False]
    assert depths(client) == {"normal": 2}


def test_a_full_lane_closes_no_other(bell: Doorbell, client: redis.Redis) -> None:
    client.set(WINDOW_KEY, 1)
    rung = [bell.ring(TRANSCRIBE, JOB_ID, lane) for lane in ("normal", "normal", "high")]

    assert rung == [True, False, True]


def test_the_window_is_small_before_a_dispatcher_has_spoken(bell: Doorbell) -> None:
    rung = [bell.ring(TRANSCRIBE, uuid.uuid4(), "high") for _ in range(DEFAULT_WINDOW + 1)]

    assert rung == [*[True] * DEFAULT_WINDOW, False]


def test_many_may_ring_at_once(bell: Doorbell, client: redis.Redis) -> None:
    client.set(WINDOW_KEY, 1000)
    with ThreadPoolExecutor(8) as executor:
        rung = list(executor.map(lambda _: bell.ring(TRANSCRIBE, JOB_ID, "high"), range(64)))

    assert all(rung)
    assert depths(client) == {"high": 64}


# A broker that fails


@pytest.fixture
def valkey() -> Iterator[ValkeyServer]:
    """A server of the test's own, to stop and to freeze."""
    with tempfile.TemporaryDirectory(prefix="servers-") as name:
        folder = Path(name).resolve()
        folder.chmod(0o711)  # as root the server runs as somebody else, who must be able to pass
        server = ValkeyServer(folder / "valkey", fast=True, spare_folder=folder / "spare")
        server.start()
        yield server
        if server.pid is not None:
            os.kill(server.pid, signal.SIGCONT)
        server.stop()


class Porter:
    """A doorbell on a server of its own, with a clock of the test's, counting what it tries."""

    def __init__(self, server: ValkeyServer, *, budget_seconds: float) -> None:
        settings = settings_of(server.url)
        self.clock = FakeClock()
        self.tried = 0
        self._send = functools.partial(
            send_if_room, make_celery(settings), make_redis(settings), TRANSCRIBE
        )
        self.bell = Doorbell(self._try, budget_seconds=budget_seconds, clock=self.clock)

    def ring(self) -> bool:
        return self.bell.ring(TRANSCRIBE, JOB_ID, "high")

    def ring_after_the_pause(self) -> bool:
        self.clock.advance(BREAKER_SECONDS)
        return self.ring()

    def _try(self, task: str, job_id: uuid.UUID, queue: str) -> None:
        self.tried += 1
        self._send(job_id, queue)


def test_a_broker_that_is_down_is_left_alone_for_a_while_and_then_rung_again(
    valkey: ValkeyServer,
) -> None:
    porter = Porter(valkey, budget_seconds=PATIENT_SECONDS)
    assert porter.ring()
    valkey.stop()
    down = [porter.ring() for _ in range(3)]
    tried = porter.tried
    valkey.start()
    back = porter.ring_after_the_pause()

    assert down == [False, False, False]
    assert tried == 2  # the good one, and one that failed
    assert back


def test_a_frozen_broker_holds_up_nobody_and_is_rung_again_when_it_thaws(
    valkey: ValkeyServer,
) -> None:
    porter = Porter(valkey, budget_seconds=0.05)
    eventually(porter.ring_after_the_pause)  # the first connection takes its time
    pid = valkey.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    frozen = [porter.ring() for _ in range(3)]
    hanging = porter.ring_after_the_pause()
    status = psutil.Process(pid).status()
    os.kill(pid, signal.SIGCONT)

    assert frozen == [False, False, False]
    assert not hanging  # it still waits for an answer to the one before
    assert status == psutil.STATUS_STOPPED
    eventually(porter.ring_after_the_pause)


def test_nothing_queues_up_behind_a_ring_that_hangs() -> None:
    gate, clock = Gate(), FakeClock()
    tried: list[str] = []

    def hang(task: str, _job_id: uuid.UUID, queue: str) -> None:
        tried.append(queue)
        gate()

    bell = Doorbell(hang, budget_seconds=0.01, clock=clock)

    def ring(queue: str) -> bool:
        clock.advance(BREAKER_SECONDS)
        return bell.ring(TRANSCRIBE, JOB_ID, queue)

    answers = [ring(queue) for queue in ("high", "normal", "retry")]
    gate.open()
    eventually(lambda: ring(DLQ))
    bell.close()

    assert answers == [False, False, False]
    assert {*tried} == {"high", DLQ}


def test_a_closed_doorbell_rings_for_nobody(bell: Doorbell, client: redis.Redis) -> None:
    bell.close()

    assert not bell.ring(TRANSCRIBE, JOB_ID, "high")
    assert depths(client) == {}


def test_a_mistake_of_ours_is_not_taken_for_an_outage() -> None:
    def fail(*_: object) -> None:
        raise TypeError

    bell = Doorbell(fail, budget_seconds=PATIENT_SECONDS)
    with pytest.raises(TypeError):
        bell.ring(TRANSCRIBE, JOB_ID, "high")
    bell.close()


def test_all_threads_of_a_worker_are_there_before_its_first_job() -> None:
    pool = Threads(3)
    pool.start()
    threads = [t for t in threading.enumerate() if t in pool.executor._threads]
    pool.stop()

    assert len(threads) == 3


def test_a_worker_that_is_refused_a_thread_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start
    started: list[threading.Thread] = []

    def refuse_the_second(thread: threading.Thread) -> None:
        if started:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    pool = Threads(2)
    monkeypatch.setattr(threading.Thread, "start", refuse_the_second)
    with pytest.raises(RuntimeError, match="new thread"):
        pool.start()
    pool.executor.shutdown()

    assert not started[0].is_alive()
