"""What Prometheus is answered, whatever is away, and how often PostgreSQL is asked for it."""

import socket
import threading
from collections.abc import Callable, Iterator

import httpx2
import pytest
import redis
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import Engine, NullPool, create_engine
from sqlalchemy.orm import Session, sessionmaker

from config import Settings
from jobs import workers
from jobs.workers import WorkerState
from metrics import exporter
from metrics.exporter import Collector, Exporter, Looker, Seen
from metrics.gauges import GAUGES, PREFIX, kind_of
from tallies import COUNTED, Tallies, Writer

Shown = dict[tuple[str, frozenset[tuple[str, str]]], float]
Answer = Callable[..., str]


def shown(text: str) -> Shown:
    return {
        (sample.name.removeprefix(PREFIX), frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(text: str, name: str, **labels: str) -> float | None:
    return shown(text).get((name, frozenset(labels.items())))


@pytest.fixture
def sessions(emptied_engine: Engine) -> sessionmaker[Session]:
    return sessionmaker(emptied_engine, expire_on_commit=False)


@pytest.fixture
def serve(redis_url: str, tmp_path, sessions) -> Iterator[Callable[..., str]]:
    """Start an exporter on a free port; gives its URL."""
    begun: list[Exporter] = []

    def start(sessions: sessionmaker[Session] = sessions, **values: object) -> str:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        said = {"metrics_port": port, "redis_url": redis_url, "upload_dir": tmp_path, **values}
        settings = Settings(_env_file=None, **said)  # type: ignore[call-arg]
        client = redis.Redis.from_url(settings.require_broker_url(), socket_timeout=1)
        begun.append(Exporter(settings, sessions, client))
        begun[-1].start()
        return f"http://127.0.0.1:{settings.metrics_port}/metrics"

    yield start
    for each in begun:
        each.close()


def get(url: str) -> str:
    return httpx2.get(url, timeout=30, trust_env=False).raise_for_status().text


def test_everything_that_is_always_there_is_shown(serve, sessions) -> None:
    with sessions.begin() as session:
        key = {"engine": "openai-whisper", "model": "tiny", "device": "cpu", "compute_type": "x"}
        model = {"key": key, "instances": 1, "borrowers": 1, "bytes": 5, "idle_seconds": 0}
        state = WorkerState(
            name="a", role="worker", version="3", queues=["normal"], slots=2, running=1,
            pool={"models": [model]},
        )  # fmt: skip
        workers.announce(session, state)
    counts = Tallies()
    counts.add("http_requests", method="GET", route="/jobs", status="200")
    counts.observe("http_request_seconds", 0.02, route="/jobs")
    Writer(counts, sessions).write()
    text = get(serve())
    there = {name.removeprefix(PREFIX) for name, _ in shown(text)}
    absent = {
        *(name for name in GAUGES if name not in there),
        *(n for n in COUNTED if kind_of(n) == "counter" and f"{n}_total" not in there),
        *(n for n in COUNTED if kind_of(n) == "histogram" and f"{n}_bucket" not in there),
    }

    # what nobody has done yet, with labels that nobody can know before
    assert absent == {
        "last_backup_timestamp_seconds",
        "out_of_memory_steps",
        "transcribed_audio_seconds",
        "transcribing_seconds",
        "wait_seconds",
        "webhook_try_seconds",
    }
    assert value(text, "up") == 1
    assert value(text, "loaded_models", engine="openai-whisper", model="tiny", device="cpu") == 1
    assert (value(text, "slots"), value(text, "slots_busy")) == (2, 1)
    assert value(text, "jobs_ended_total", status="completed", reason="") == 0
    assert value(text, "http_request_seconds_bucket", route="/jobs", le="0.01") == 0
    assert value(text, "http_request_seconds_bucket", route="/jobs", le="0.05") == 1
    assert value(text, "http_request_seconds_count", route="/jobs") == 1


def test_while_postgresql_is_away_it_says_so_and_what_it_knows(serve) -> None:
    away = sessionmaker(
        create_engine("postgresql+psycopg2://nobody@127.0.0.1:1/none", poolclass=NullPool)
    )
    text = get(serve(away))

    assert (value(text, "up"), value(text, "redis_up")) == (0, 1)
    assert value(text, "jobs", lane="normal", state="due") is None
    assert value(text, "jobs_redriven_total") is None


def test_while_redis_is_away_it_says_so_and_all_else(serve) -> None:
    text = get(serve(redis_url="redis://127.0.0.1:1/0"))

    assert (value(text, "up"), value(text, "redis_up")) == (1, 0)
    assert value(text, "queue_messages", lane="normal") is None
    assert value(text, "condition", condition="redis_unavailable", severity="degraded") == 1


def test_where_uploads_cannot_be_read_it_says_so(serve, tmp_path) -> None:
    text = get(serve(upload_dir=tmp_path / "gone"))

    assert value(text, "upload_disk_free_bytes") is None
    assert value(text, "condition", condition="storage_unavailable", severity="unhealthy") == 1


def test_without_a_port_nobody_listens(redis_url: str, sessions) -> None:
    settings = Settings(_env_file=None, redis_url=redis_url)  # type: ignore[call-arg, arg-type]
    before = threading.active_count()
    nobody = Exporter(settings, sessions, redis.Redis.from_url(redis_url))
    nobody.start()

    assert settings.metrics_port == 0
    assert threading.active_count() == before
    nobody.close()


@pytest.mark.security("authorization", "figures asked for from another machine, by default")
def test_it_is_on_loopback_unless_told_otherwise() -> None:
    assert Settings(_env_file=None).metrics_host == "127.0.0.1"  # type: ignore[call-arg]


def test_a_port_that_somebody_has_is_told_and_stops_nothing(serve, caplog, sessions) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        serve(metrics_port=holder.getsockname()[1])

    assert "METRICS_PORT cannot be had" in caplog.text


@pytest.mark.parametrize("path", ["/", "/jobs", "/metrics/x"])
def test_there_is_nothing_else(path: str, serve) -> None:
    answer = httpx2.get(serve().removesuffix("/metrics") + path, trust_env=False)

    assert answer.status_code == 404


# How often is looked


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def looker(look: Callable[[], Seen], clock: Clock) -> Looker:
    found = Looker(look, clock=clock)
    found.start()
    return found


def test_however_many_ask_one_looks_and_not_again_for_a_while() -> None:
    clock, looks = Clock(), []

    def look() -> Seen:
        looks.append(clock.now)
        return Seen(at=clock.now, took_seconds=0, up=True)

    found = looker(look, clock)
    threads = [threading.Thread(target=found.seen) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    clock.now += exporter.FRESH_SECONDS
    found.seen()
    assert looks == [100.0]

    clock.now += 0.1
    found.seen()
    assert len(looks) == 2
    found.close()


def test_while_a_look_hangs_the_last_one_is_shown_and_then_none(monkeypatch) -> None:
    monkeypatch.setattr(exporter, "PATIENCE_SECONDS", 0.01)
    clock, go_on, looks = Clock(), threading.Event(), []

    def look() -> Seen:
        looks.append(clock.now)
        if len(looks) > 1:
            go_on.wait(60)
        return Seen(at=clock.now, took_seconds=0, up=True)

    found = looker(look, clock)
    monkeypatch.setattr(exporter, "PATIENCE_SECONDS", 60)
    found.seen()
    monkeypatch.setattr(exporter, "PATIENCE_SECONDS", 0.01)
    clock.now += exporter.STALE_SECONDS
    assert found.seen()[0] is not None

    clock.now += 1
    families = {family.name: family for family in Collector(found).collect()}
    assert families[f"{PREFIX}up"].samples[0].value == 0
    assert set(families) == {f"{PREFIX}up", f"{PREFIX}info"}
    go_on.set()
    found.close()


def test_a_look_that_fails_as_nobody_expected_ends_nothing(caplog) -> None:
    clock, looks = Clock(), []

    def look() -> Seen:
        looks.append(1)
        if len(looks) == 1:
            raise RuntimeError("nobody expected that")
        return Seen(at=clock.now, took_seconds=0, up=True)

    found = looker(look, clock)

    assert found.seen()[0] is None
    assert found.seen()[0] is not None
    assert "metrics cannot be read" in caplog.text
    found.close()
