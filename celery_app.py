"""The Celery instance ``celery``, its queues, the names of the tasks, and how to ring for a worker.

A message carries a job's id and nothing else. Losing one delays its job, repeating one does
nothing: the row in PostgreSQL is the truth. ``celery`` is built when it is first asked for, from
the environment, so importing this module connects to nothing.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from queue import Empty
from typing import Any, Final

import redis
from celery import Celery
from celery.concurrency.thread import TaskPool
from kombu import Exchange, Queue
from kombu.exceptions import OperationalError
from kombu.transport import TRANSPORT_ALIASES
from kombu.transport import redis as redis_transport

from config import QUEUES, Settings
from errors import SettingsError

logger = logging.getLogger(__name__)

TRANSCRIBE: Final = "tasks.transcribe"
DEAD_LETTER: Final = "tasks.dead_letter"

#: In the order in which a worker takes from them.
LANES: Final = QUEUES
DLQ: Final = "dlq"

#: After a publish that failed, the next ones are not tried for so long.
BREAKER_SECONDS = 5.0

#: Where the dispatcher says how many messages it keeps in a lane: enough to keep every worker
#: busy, and so few that a newly urgent or another owner's job does not wait behind a backlog.
WINDOW_KEY: Final = "transcription:window"
DEFAULT_WINDOW: Final = 8

#: How Redis begins its answer when somebody else uses a queue's key; pause before asking again.
WRONG_TYPE: Final = "WRONGTYPE"
WRONG_TYPE_SECONDS: Final = 1.0

#: What reading rubbish raises: no JSON, no text, no fields, no object.
UNREADABLE: Final = (ValueError, KeyError, TypeError, AttributeError)

TRANSPORT_OPTIONS: Final[dict[str, Any]] = {
    # kombu's default, round_robin, knows no priority at all; `priority` keeps the order of the
    # worker's queues, in kombu 5.7 and later (kombu PR 2464)
    "queue_order_strategy": "priority",
    "priority_steps": [0],
    # with early acknowledgement a message is unacknowledged for milliseconds only
    "visibility_timeout": 300,
    "unacked_restore_throttle": 1,
    "socket_timeout": 5,
    "socket_connect_timeout": 2,
    "socket_keepalive": True,
    "health_check_interval": 10,
    "client_name": "transcription",
}

CONFIGURATION: Final[dict[str, Any]] = {
    "task_queues": [
        # one exchange and key each: written as Queue("high") alone, one message reaches all four
        Queue(name, Exchange(name, type="direct"), routing_key=name)
        for name in (*LANES, DLQ)
    ],
    "task_default_queue": "normal",
    "task_default_exchange": "normal",
    "task_default_routing_key": "normal",
    "task_create_missing_queues": False,
    # Acknowledge early, reserve nothing. Late acknowledgement on Redis runs jobs again at every
    # connection blip and waits hours after a kill; the lease in PostgreSQL makes early safe.
    "task_acks_late": False,
    "worker_disable_prefetch": True,
    "worker_prefetch_multiplier": 1,
    "task_reject_on_worker_lost": False,
    "task_ignore_result": True,
    "result_backend": None,
    "task_serializer": "json",
    "accept_content": ["json"],
    "task_publish_retry": False,
    "broker_connection_retry": True,
    "broker_connection_retry_on_startup": True,
    "broker_connection_max_retries": None,
    "broker_channel_error_retry": True,
    "broker_transport_options": TRANSPORT_OPTIONS,
    "worker_cancel_long_running_tasks_on_connection_loss": False,
    "worker_soft_shutdown_timeout": 0,
    "worker_send_task_events": True,
    "worker_hijack_root_logger": False,
    "worker_redirect_stdouts": False,
    "enable_utc": True,
}


class Channel(redis_transport.Channel):
    """Kombu's, which drops what it cannot read.

    What is not a message of Celery's (by hand, by mistake, by another program) would otherwise end
    kombu's loop, and the worker with it.
    """

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)  # type: ignore[misc] # untyped
        except UNREADABLE as error:
            logger.warning("unreadable message dropped", extra={"error": type(error).__name__})
            raise Empty from None
        except redis.ResponseError as error:
            if WRONG_TYPE not in str(error):
                raise
            # kombu would connect anew and ask again, many times a second
            logger.error("a queue's key in redis is no list")  # noqa: TRY400 - says it all
            time.sleep(WRONG_TYPE_SECONDS)
            raise Empty from None


class Transport(redis_transport.Transport):
    """Redis, through such channels."""

    Channel = Channel


class Threads(TaskPool):
    """Celery's threads, all started at once.

    Started when first needed, one may be refused by the kernel (no memory, too many processes), and
    Celery's consumer ends of that, while the attempts beside it could go on.
    """

    executor: ThreadPoolExecutor  # unknown to Celery's types

    def on_start(self) -> None:
        gate = threading.Barrier(self.limit + 1)
        try:
            for _ in range(self.limit):
                self.executor.submit(gate.wait)  # none is idle before all are there
            gate.wait()
        except RuntimeError:  # a broken barrier is one, too
            gate.abort()
            raise


def make_celery(settings: Settings) -> Celery:
    """Build the Celery instance; it connects when first used."""
    for scheme in ("redis", "rediss"):
        TRANSPORT_ALIASES[scheme] = "celery_app:Transport"
    app = Celery("transcription", broker=settings.require_broker_url(), include=["tasks"])
    app.conf.update(CONFIGURATION)
    return app


def make_redis(settings: Settings) -> redis.Redis:
    """A client of the queues' own Redis, with short time limits; it connects when first used."""
    return redis.Redis.from_url(
        settings.require_broker_url(),
        socket_timeout=2,
        socket_connect_timeout=2,
        decode_responses=True,
    )


def send(app: Celery, task: str, job_id: uuid.UUID, queue: str) -> None:
    """Publish one message.

    Raises:
        OperationalError: Redis did not take it.
    """
    app.send_task(task, args=[str(job_id)], queue=queue, retry=False, ignore_result=True)


class LaneFull(Exception):
    """Enough messages lie in the lane already; the dispatcher sends this one when there is room."""


def send_if_room(
    app: Celery, client: redis.Redis, task: str, job_id: uuid.UUID, queue: str
) -> None:
    """Publish one message unless its lane holds a window full of them.

    Raises:
        LaneFull: It does.
        OperationalError, redis.RedisError: Redis did not answer.
    """
    pipeline = client.pipeline(transaction=False)
    pipeline.llen(queue)
    pipeline.get(WINDOW_KEY)
    depth, window = pipeline.execute()
    if depth >= int(window or DEFAULT_WINDOW):
        raise LaneFull
    send(app, task, job_id, queue)


class Doorbell:
    """Rings for a worker within a time budget, and not at all while Redis is known to be away.

    Whoever rings has committed already, so failing is harmless: the dispatcher rings again.
    """

    def __init__(
        self,
        ring: Callable[[str, uuid.UUID, str], None],
        *,
        budget_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ring = ring
        self._budget_seconds = budget_seconds
        self._clock = clock
        # One thread: a ring that hangs on a frozen Redis holds up nobody but itself.
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="doorbell")
        self._lock = threading.Lock()
        self._closed_until = 0.0
        self._hanging: Future[None] | None = None

    @classmethod
    def of(cls, app: Celery, client: redis.Redis, *, budget_seconds: float) -> Doorbell:
        return cls(functools.partial(send_if_room, app, client), budget_seconds=budget_seconds)

    def ring(self, task: str, job_id: uuid.UUID, queue: str) -> bool:
        """Publish; returns whether the message is known to have been sent."""
        if not self._open():
            return False
        try:
            future = self._executor.submit(self._ring, task, job_id, queue)
        except RuntimeError:  # closed: the process is ending
            return False
        try:
            future.result(self._budget_seconds)
        except LaneFull:
            return False
        except FutureTimeoutError:
            self._trip("redis does not answer in time", future)
            return False
        except (OperationalError, redis.RedisError, OSError) as error:
            self._trip("redis refused a message", None, error=type(error).__name__)
            return False
        return True

    def close(self) -> None:
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _open(self) -> bool:
        with self._lock:
            if self._hanging is not None and not self._hanging.done():
                return False
            return self._clock() >= self._closed_until

    def _trip(self, message: str, hanging: Future[None] | None, **data: str) -> None:
        with self._lock:
            self._closed_until = self._clock() + BREAKER_SECONDS
            self._hanging = hanging
        logger.warning(message, extra={"pause_seconds": BREAKER_SECONDS, **data})


@functools.cache
def _from_environment() -> Celery:
    return make_celery(Settings.from_env())


def __getattr__(name: str) -> Celery:
    # for `celery -A celery_app ...`, which looks for the attribute `celery`
    if name != "celery":
        raise AttributeError(name)
    try:
        return _from_environment()
    except SettingsError as error:
        # whoever starts us reads one line, not a traceback
        raise SystemExit(error.message) from None
