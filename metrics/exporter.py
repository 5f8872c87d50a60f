"""Answers Prometheus, on a port of its own: ``GET /metrics``.

What was read holds for a few seconds, for however many ask. One thread reads, and whoever asks
waits a moment for it and no longer: while PostgreSQL hangs the answer says ``transcription_up 0``.
"""

from __future__ import annotations

import logging
import shutil
import socket
import socketserver
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import redis
from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.utils import floatToGoString
from sqlalchemy.exc import SQLAlchemyError

from celery_app import LANES
from config import VERSION, Settings
from database import Sessions, get_db_session
from errors import ServiceError
from jobs.conditions import DiskFacts
from metrics import reading
from metrics.gauges import GAUGES, PREFIX, kind_of
from metrics.reading import Sample
from tallies import COUNTED, Key

logger = logging.getLogger(__name__)

#: What was read is shown for so long before it is read again, ...
FRESH_SECONDS: Final = 4.0
#: ... for which whoever asks waits at most so long, and takes what was read before, ...
PATIENCE_SECONDS: Final = 3.0
#: ... unless it is older than this: then nobody knows how things are.
STALE_SECONDS: Final = 20.0
#: A connection on which nothing comes is closed after.
IDLE_SECONDS: Final = 10.0
PATH: Final = "/metrics"


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What was read at one moment."""

    #: By the monotonic clock.
    at: float
    took_seconds: float
    #: Whether PostgreSQL answered.
    up: bool
    samples: list[Sample] = field(default_factory=list)
    counts: dict[Key, float] = field(default_factory=dict)


class Looker:
    """Reads what is shown, in a thread of its own, when somebody asks for it."""

    def __init__(
        self, look: Callable[[], Seen], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._look = look
        self._clock = clock
        self._changed = threading.Condition()
        self._asked = False
        self._closed = False
        self._seen: Seen | None = None
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def seen(self) -> tuple[Seen | None, float]:
        """What was read last and how many seconds ago; None where that is too long."""
        with self._changed:
            if self._age() > FRESH_SECONDS:
                self._asked = True
                self._changed.notify_all()
                self._changed.wait_for(lambda: not self._asked, PATIENCE_SECONDS)
            age = self._age()
            return (None if age > STALE_SECONDS else self._seen), age

    def _age(self) -> float:
        return float("inf") if self._seen is None else self._clock() - self._seen.at

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._asked or self._closed)
                if self._closed:
                    return
            found = self._safely()
            with self._changed:
                self._seen = found or self._seen
                self._asked = False
                self._changed.notify_all()

    def _safely(self) -> Seen | None:
        try:
            return self._look()
        except Exception:
            logger.exception("metrics cannot be read")
            return None


class Look:
    """One look at PostgreSQL, Redis and the disk, of which each may be away."""

    def __init__(self, settings: Settings, sessions: Sessions, client: redis.Redis) -> None:
        self._settings = settings
        self._sessions = sessions
        self._redis = client
        self._uploads = settings.uploads_path

    def __call__(self) -> Seen:
        began = time.monotonic()
        messages = self._messages()
        disk, own = self._disk()
        samples = [Sample("redis_up", bool(messages)), *own, *messages]
        try:
            with get_db_session(self._sessions) as session:
                found = reading.read(
                    session,
                    lanes=LANES,
                    redis=bool(messages),
                    disk=disk,
                    lease_seconds=self._settings.lease_seconds,
                )
                counts = reading.counts(session)
        except (ServiceError, SQLAlchemyError):
            return self._seen(began, up=False, samples=samples)
        return self._seen(began, up=True, samples=[*samples, *found], counts=counts)

    @staticmethod
    def _seen(began: float, **values: Any) -> Seen:
        now = time.monotonic()
        return Seen(at=now, took_seconds=now - began, **values)

    def _messages(self) -> list[Sample]:
        try:
            return [
                Sample("queue_messages", int(self._redis.llen(lane)), (lane,)) for lane in LANES
            ]
        except redis.RedisError:
            return []

    def _disk(self) -> tuple[DiskFacts | None, list[Sample]]:
        try:
            usage = shutil.disk_usage(self._uploads)
        except OSError:
            return None, []
        facts = DiskFacts(
            free_bytes=usage.free,
            floor_bytes=self._settings.min_free_bytes,
            largest_upload_bytes=self._settings.max_upload_bytes,
        )
        return facts, [
            Sample("upload_disk_free_bytes", usage.free),
            Sample("upload_disk_size_bytes", usage.total),
        ]


class Collector:
    """What was seen, as the client's library writes it."""

    def __init__(self, looker: Looker) -> None:
        self._looker = looker

    def collect(self) -> Iterable[Metric]:
        seen, age_seconds = self._looker.seen()
        samples = [Sample("up", bool(seen and seen.up)), Sample("info", 1, (VERSION,))]
        if seen is not None:
            samples += [
                Sample("read_seconds", seen.took_seconds),
                Sample("read_age_seconds", age_seconds),
                *seen.samples,
            ]
        yield from _gauges(samples)
        if seen is not None and seen.up:
            yield from _counted(seen.counts)


def _gauges(samples: Iterable[Sample]) -> Iterator[Metric]:
    by_name: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        by_name[sample.name].append(sample)
    for name, gauge in GAUGES.items():
        if name in by_name:
            family = GaugeMetricFamily(f"{PREFIX}{name}", gauge.means, labels=gauge.labels)
            for sample in by_name[name]:
                family.add_metric(sample.labels, float(sample.value))
            yield family


def _counted(counts: dict[Key, float]) -> Iterator[Metric]:
    for name in COUNTED:
        yield _histogram(name, counts) if kind_of(name) == "histogram" else _counter(name, counts)


def _counter(name: str, counts: dict[Key, float]) -> Metric:
    counted = COUNTED[name]
    family = CounterMetricFamily(f"{PREFIX}{name}", counted.means, labels=counted.labels)
    known = counted.known or (() if counted.labels else ({},))
    values = {tuple(labels[label] for label in counted.labels): 0.0 for labels in known}
    for (found, labels), value in counts.items():
        if found == name:
            values[tuple(str(said) for _, said in labels)] = value
    for said, value in values.items():
        family.add_metric(said, value)
    return family


def _histogram(name: str, counts: dict[Key, float]) -> Metric:
    counted = COUNTED[name]
    family = HistogramMetricFamily(f"{PREFIX}{name}", counted.means, labels=counted.labels)
    ends = [*map(floatToGoString, counted.bounds), "+Inf"]
    buckets: dict[tuple[str, ...], list[float]] = defaultdict(lambda: [0.0] * len(ends))
    sums: dict[tuple[str, ...], float] = defaultdict(float)
    for (found, labels), value in counts.items():
        said = tuple(str(v) for label, v in labels if label != "bucket")
        if found == f"{name}_bucket":
            place = int(dict(labels)["bucket"])
            buckets[said][min(place, len(ends) - 1)] += value
        elif found == f"{name}_sum":
            sums[said] = value
    for said, each in buckets.items():
        up_to = [sum(each[: place + 1]) for place in range(len(ends))]
        family.add_metric(said, list(zip(ends, up_to, strict=True)), sums[said])
    return family


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    """A thread for each connection, none of which keeps the process from ending."""

    daemon_threads = True

    def server_bind(self) -> None:
        """Bind; the inherited one would ask for the host's name, and wait where nobody answers."""
        if ":" in str(self.server_address[0]):
            self.socket.close()
            self.address_family = socket.AF_INET6
            self.socket = socket.socket(self.address_family, self.socket_type)
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = map(self.server_address.__getitem__, (0, 1))  # type: ignore[assignment]
        self.setup_environ()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing: whoever asked has left."""


class _Handler(WSGIRequestHandler):
    timeout = IDLE_SECONDS

    def log_message(self, *_: Any, **__: Any) -> None:
        """Nothing: a scrape is no news."""


class Exporter:
    """The port that Prometheus asks at; nothing where METRICS_PORT is 0."""

    def __init__(self, settings: Settings, sessions: Sessions, client: redis.Redis) -> None:
        self._settings = settings
        self._looker = Looker(Look(settings, sessions, client))
        self._server: WSGIServer | None = None

    def start(self) -> None:
        """Listen. That the port cannot be had is told, and is no reason to keep jobs waiting."""
        host, port = self._settings.metrics_host, self._settings.metrics_port
        if not port:
            return
        registry = CollectorRegistry()
        registry.register(Collector(self._looker))
        try:
            self._server = make_server(
                host, port, _only_path(make_wsgi_app(registry)), _Server, _Handler
            )
        except OSError as error:
            logger.warning("METRICS_PORT cannot be had", extra={"error": error.strerror})
            return
        self._looker.start()
        threading.Thread(
            target=self._server.serve_forever, name="metrics-port", daemon=True
        ).start()
        logger.info("metrics are served", extra={"host": host, "port": self._server.server_port})

    def close(self) -> None:
        self._looker.close()
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()


def _only_path(app: Callable[..., Any]) -> Callable[..., Any]:
    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        if environ["PATH_INFO"] == PATH:
            return app(environ, start_response)
        status = HTTPStatus.NOT_FOUND
        start_response(f"{status.value} {status.phrase}", [("Content-Type", "text/plain")])
        return [f"It is at {PATH}.\n".encode()]

    return answer
