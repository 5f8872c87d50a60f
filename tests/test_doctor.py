"""``cli.py doctor``: each of its findings is brought about, on real servers and real folders."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import redis
from pydantic import SecretStr
from sqlalchemy import Engine, NullPool, create_engine, make_url, text
from sqlalchemy.orm import Session
from uuid_utils.compat import uuid7

import auth
import cli
from commands import server_checks
from commands.findings import Level
from config import SERVERS_FILE, Settings
from jobs import lifecycle, queues, workers
from jobs.lifecycle import Failure, NewJob
from jobs.uploads import MARKER, PART_DIR, UploadStore
from jobs.workers import WorkerState
from local_servers import ValkeyServer
from tests.recordings import PROJECT_DIR

Found = dict[str, list[dict[str, str]]]
NOWHERE = "127.0.0.1:1"


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    """A server whose settings a test may change."""
    folder = tmp_path_factory.mktemp("doctor")
    folder.chmod(0o711)
    folder.parent.chmod(0o711)
    server = ValkeyServer(folder / "valkey")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def broker(valkey: ValkeyServer) -> Iterator[redis.Redis]:
    with closing(redis.Redis.from_url(valkey.url)) as client:
        client.flushall()
        yield client
        for name, value in {
            "maxmemory": "0",
            "maxmemory-policy": "noeviction",
            "appendonly": "yes",
        }.items():
            client.config_set(name, value)


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    engine = create_engine(database_url, poolclass=NullPool)
    yield engine
    engine.dispose()


@pytest.fixture
def session(engine: Engine) -> Iterator[Session]:
    with Session(engine) as session:
        yield session


@pytest.fixture
def uploads(tmp_path: Path) -> Path:
    store = UploadStore(tmp_path / "uploads", max_bytes=2**20, min_free_bytes=0)
    store.prepare()
    return store.root


Look = Callable[..., tuple[int, Found]]


@pytest.fixture
def look(
    database_url: str,
    broker: redis.Redis,
    valkey: ValkeyServer,
    uploads: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Look:
    """Ask the doctor about a service of which all is well, but for these variables."""
    well = {
        "DATABASE_URL": database_url,
        "REDIS_URL": valkey.url,
        "STATE_DIR": str(tmp_path),
        "WHISPER_MODEL_SIZE": "demo",
        "MIN_FREE_DISK_MB": "0",
        "MAX_UPLOAD_SIZE_MB": "1",
        "MAX_AUDIO_HOURS": "0.1",
    }

    def ask(**variables: str | Path) -> tuple[int, Found]:
        for name, value in {**well, **variables}.items():
            monkeypatch.setenv(name, str(value))
        with pytest.raises(SystemExit) as ended:
            cli.main(["doctor", "--json"])
        told = json.loads(capsys.readouterr().out)
        found: Found = {}
        for check in told["checks"]:
            found.setdefault(check["check"], []).append(check)
        assert isinstance(ended.value.code, int)
        assert (ended.value.code == 1) == (told["status"] == "fail")
        return ended.value.code, found

    return ask


def announce(session: Session, role: str = "worker", **values: Any) -> None:
    state = WorkerState(
        name=f"host:1:{role}",
        role=role,
        version="3.0.0",
        queues=("high", "normal", "retry"),
        slots=2,
        **values,
    )
    workers.announce(session, state)
    session.commit()


def faults(found: Found) -> dict[str, str]:
    """What is wrong, by check: the worst of each."""
    return {
        name: level
        for name, checks in found.items()
        for level in ("fail", "warn")
        if any(check["level"] == level for check in checks)
        and not (level == "warn" and any(check["level"] == "fail" for check in checks))
    }


def wrong(found: Found, check: str) -> dict[str, str]:
    """The one finding of a check that is wrong."""
    (finding,) = [f for f in found[check] if f["level"] in {"warn", "fail"}]
    return finding


def remedy(found: Found, check: str) -> str:
    return wrong(found, check)["remedy"]


def test_where_all_is_well_nothing_is_wrong(look: Look, session: Session) -> None:
    announce(session)
    announce(session, "maintenance")
    status, found = look()

    assert (status, faults(found)) == (0, {})
    assert list(found) == [
        "settings", "versions", "uploads", "scratch", "model", "models",
        "database", "migrations", "redis", "queues", "processes", "clock",
    ]  # fmt: skip


def test_whatever_is_wrong_has_a_remedy_and_what_is_right_has_none(look: Look) -> None:
    _, found = look(DATABASE_URL=f"postgresql://{NOWHERE}/x", REDIS_URL=f"redis://{NOWHERE}")
    findings = [finding for checks in found.values() for finding in checks]

    assert all(
        bool(finding["remedy"]) == (finding["level"] in {"warn", "fail"}) for finding in findings
    )


def test_a_bad_setting_is_told_and_the_rest_is_not_guessed(look: Look) -> None:
    status, found = look(MAX_RETRIES="many")

    assert (status, list(found)) == (1, ["settings"])
    assert "MAX_RETRIES=many" in wrong(found, "settings")["message"]


# PostgreSQL


def test_without_postgresql_all_else_is_still_told(look: Look) -> None:
    status, found = look(DATABASE_URL=f"postgresql://{NOWHERE}/x")

    assert status == 1
    assert faults(found) == dict.fromkeys(
        ("database", "migrations", "queues", "processes", "clock"), "fail"
    )
    assert "Connection refused" in wrong(found, "database")["message"]
    assert "docker compose up -d postgres" in remedy(found, "database")


def test_no_password_is_told(look: Look) -> None:
    _, found = look(DATABASE_URL=f"postgresql://me:hunter2hunter2@{NOWHERE}/x")

    assert "hunter2" not in str(found)


def test_servers_that_never_answer_hold_up_nobody(
    look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(64)
        place = f"127.0.0.1:{deaf.getsockname()[1]}"
        status, found = look(DATABASE_URL=f"postgresql://{place}/x", REDIS_URL=f"redis://{place}")

    assert status == 1
    assert {"database", "redis", "queues", "processes", "clock"} <= faults(found).keys()
    assert "uploads" not in faults(found)


def test_a_user_without_rights_is_told(look: Look, engine: Engine) -> None:
    role = f"weak_{uuid7().hex}"
    with engine.begin() as connection:
        connection.execute(text(f"CREATE ROLE {role} LOGIN"))
        connection.execute(text(f"GRANT SELECT, INSERT ON ALL TABLES IN SCHEMA public TO {role}"))
    try:
        url = make_url(str(engine.url)).set(username=role)
        _, found = look(DATABASE_URL=url.render_as_string(hide_password=False))
    finally:
        with engine.begin() as connection:
            connection.execute(text(f"DROP OWNED BY {role}"))
            connection.execute(text(f"DROP ROLE {role}"))

    assert wrong(found, "database")["message"] == "Its user may not DELETE, UPDATE."
    assert "GRANT" in remedy(found, "database")


def test_a_database_that_cannot_hold_every_letter_is_told(look: Look, engine: Engine) -> None:
    name = f"ascii_{uuid7().hex}"
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(
            text(f"CREATE DATABASE {name} ENCODING SQL_ASCII LOCALE 'C' TEMPLATE template0")
        )
        try:
            url = make_url(str(engine.url)).set(database=name)
            _, found = look(DATABASE_URL=url.render_as_string(hide_password=False))
        finally:
            connection.execute(text(f"DROP DATABASE {name}"))

    assert "SQL_ASCII" in wrong(found, "database")["message"]
    assert "UTF8" in remedy(found, "database")


# using them up would keep other tests from the server
@pytest.mark.parametrize(("used", "level"), [(80, Level.OK), (81, Level.WARN)])
def test_a_server_without_connections_to_spare_is_told(used: int, level: Level) -> None:
    assert server_checks.connections(used, 100).level is level


@pytest.mark.parametrize("empty", [True, False])
def test_a_database_that_is_not_migrated_is_told(
    look: Look, empty_database_url: str, session: Session, *, empty: bool
) -> None:
    if empty:
        _, found = look(DATABASE_URL=empty_database_url)
    else:
        session.execute(text("DELETE FROM alembic_version"))
        session.commit()
        _, found = look()

    assert wrong(found, "migrations")["level"] == "fail"
    assert "alembic upgrade head" in remedy(found, "migrations")


def test_a_database_of_a_later_version_is_a_warning(look: Look, session: Session) -> None:
    announce(session)
    announce(session, "maintenance")
    session.execute(text("UPDATE alembic_version SET version_num = 'ffff'"))
    session.commit()
    status, found = look()

    assert (status, faults(found)) == (0, {"migrations": "warn"})


def test_where_nothing_is_set_it_says_how_to_begin(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "cli.py", "doctor"],
        cwd=PROJECT_DIR,
        env={"PATH": os.environ["PATH"], "STATE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )

    assert (done.returncode, done.stderr) == (1, "")
    assert "DATABASE_URL is not set" in done.stdout
    assert "`make run`" in done.stdout
    assert list(tmp_path.iterdir()) == []


# Redis


def test_without_redis_all_else_is_still_told(look: Look, session: Session) -> None:
    # a test's server may have run for longer than the service may be without processes
    announce(session)
    announce(session, "maintenance")
    status, found = look(REDIS_URL=f"redis://{NOWHERE}")

    assert status == 1
    assert {name for name, level in faults(found).items() if level == "fail"} == {
        "redis",
        "queues",
        "clock",
    }
    assert "docker compose up -d redis" in remedy(found, "redis")


@pytest.mark.parametrize(("maxmemory", "level"), [("100mb", "fail"), ("0", "warn")])
def test_a_redis_that_throws_messages_away_is_told(
    look: Look, broker: redis.Redis, maxmemory: str, level: str
) -> None:
    broker.config_set("maxmemory", maxmemory)
    broker.config_set("maxmemory-policy", "allkeys-lru")
    _, found = look()

    assert wrong(found, "redis")["level"] == level
    assert "noeviction" in remedy(found, "redis")


def test_a_redis_that_is_nearly_full_is_told(look: Look, broker: redis.Redis) -> None:
    used: int = broker.info()["used_memory"]
    broker.config_set("maxmemory", str(int(used * 1.1)))
    _, found = look()

    assert "maxmemory" in wrong(found, "redis")["message"]


def test_a_redis_without_persistence_is_a_warning(look: Look, broker: redis.Redis) -> None:
    broker.config_set("appendonly", "no")
    _, found = look()

    assert wrong(found, "redis")["level"] == "warn"
    assert "appendonly" in remedy(found, "redis")


def test_a_queue_whose_name_another_program_uses_is_told(look: Look, broker: redis.Redis) -> None:
    broker.set("normal", "x")
    _, found = look()

    assert wrong(found, "queues")["level"] == "fail"
    assert "redis-cli DEL normal" in remedy(found, "queues")


def test_far_more_messages_than_are_needed_are_told(look: Look, broker: redis.Redis) -> None:
    broker.rpush("high", *["x"] * 100)
    _, found = look()

    assert wrong(found, "queues")["message"].startswith("high: 0 jobs wait, 100 messages")


# Processes


def test_where_no_process_runs_it_says_how_to_start_them(look: Look) -> None:
    _, found = look()

    told = [f["remedy"] for f in found["processes"] if f["level"] != "ok"]
    assert len(told) == 2
    assert "python worker.py" in told[0]
    assert "--role maintenance" in told[1]


def test_a_worker_that_takes_nothing_new_does_not_count(look: Look, session: Session) -> None:
    announce(session, draining=True)
    announce(session, "maintenance")
    _, found = look()

    assert wrong(found, "processes")["message"] == "No worker process runs."


def fail_one(session: Session) -> None:
    job = lifecycle.submit(
        session,
        NewJob(
            id=uuid7(),
            owner_id=auth.owner_id(session, "alice"),
            engine_name="openai-whisper",
            model_name="tiny",
            client_filename="speech.mp3",
            upload_bytes=5,
            upload_sha256=b"\1" * 32,
            max_attempts=2,
        ),
    )
    claimed = lifecycle.claim(session, job.id, "worker:1")
    assert claimed is not None
    lifecycle.fail(session, claimed.lease, Failure(code="engine_error", message="No."))


def test_what_is_wrong_with_the_service_is_told_as_to_monitors(
    look: Look, session: Session
) -> None:
    announce(session)
    announce(session, "maintenance")
    queues.pause(session, ["retry"], paused_by="cli", note=None)
    session.commit()
    status, paused = look()
    for _ in range(10):
        fail_one(session)
    session.commit()
    failing_status, failing = look()

    assert (status, wrong(paused, "processes")["level"]) == (0, "warn")
    assert failing_status == 1
    assert "/admin/errors" in str([f for f in failing["processes"] if f["level"] == "fail"])


# Clocks


@pytest.mark.parametrize("off", [-3600.0, 3600.0])
def test_our_clock_is_held_beside_those_of_the_servers(
    database_url: str, valkey: ValkeyServer, off: float
) -> None:
    settings = Settings(  # type: ignore[call-arg]
        database_url=SecretStr(database_url), redis_url=SecretStr(valkey.url), _env_file=None
    )
    found = list(server_checks.clocks(settings, clock=lambda: time.time() + off))

    assert [finding.level for finding in found] == [Level.WARN, Level.WARN]
    assert all("NTP" in finding.remedy for finding in found)
    assert all(("ahead" if off > 0 else "behind") in finding.message for finding in found)


def test_the_clock_of_another_machine_is_held_beside_them_too(look: Look, session: Session) -> None:
    announce(session)
    session.execute(text("UPDATE workers SET clock_ahead_seconds = 99"))
    session.commit()
    _, found = look()

    assert "+99 s" in wrong(found, "clock")["message"]


# Folders


def test_a_store_that_is_not_there_is_told(look: Look, tmp_path: Path) -> None:
    _, found = look(UPLOAD_DIR=tmp_path / "nowhere")

    assert wrong(found, "uploads")["level"] == "fail"
    assert "UPLOAD_DIR" in remedy(found, "uploads")


def test_an_empty_place_is_no_store(look: Look, uploads: Path) -> None:
    (uploads / MARKER).unlink()
    _, found = look()

    assert wrong(found, "uploads")["level"] == "fail"


def test_a_store_that_cannot_be_written_is_told(look: Look, uploads: Path) -> None:
    (uploads / PART_DIR).rmdir()
    (uploads / PART_DIR).touch()
    _, found = look()

    assert "cannot be written" in wrong(found, "uploads")["message"]


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no second filesystem is known")  # noqa: S108
def test_a_store_on_two_filesystems_is_told(
    look: Look, uploads: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = Path("/dev/shm") / f"doctor-{uuid7().hex}"  # noqa: S108 - removed below
    elsewhere.mkdir()
    (uploads / PART_DIR).rmdir()
    (uploads / PART_DIR).symlink_to(elsewhere)
    try:
        _, found = look()
    finally:
        elsewhere.rmdir()

    assert "filesystem" in wrong(found, "uploads")["message"]


@pytest.mark.parametrize(
    ("variable", "level"), [("MIN_FREE_DISK_MB", "fail"), ("MAX_UPLOAD_SIZE_MB", "warn")]
)
def test_a_disk_without_space_is_told(look: Look, variable: str, level: str) -> None:
    _, found = look(**{variable: str(2**24)})

    assert wrong(found, "uploads")["level"] == level
    assert "Free space" in remedy(found, "uploads")


def test_a_scratch_folder_that_cannot_be_made_is_told(look: Look, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    _, found = look(SCRATCH_DIR=tmp_path / "file" / "scratch")

    assert wrong(found, "scratch")["level"] == "fail"


def test_too_little_room_for_decoded_audio_is_told(look: Look) -> None:
    _, found = look(MAX_AUDIO_HOURS="48", CELERY_CONCURRENCY="1000")

    assert wrong(found, "scratch")["level"] == "warn"


# Models


def test_a_model_that_there_is_not_is_told(look: Look) -> None:
    _, found = look(WHISPER_MODEL_SIZE="huge")

    assert "large-v3" in remedy(found, "model")


@pytest.mark.parametrize("engine", ["openai-whisper", "faster-whisper"])
@pytest.mark.parametrize(("download", "level"), [("false", "fail"), ("true", "warn")])
def test_a_model_that_is_not_here_is_told(
    look: Look, engine: str, download: str, level: str
) -> None:
    _, found = look(WHISPER_MODEL_SIZE="tiny", WHISPER_ENGINE=engine, MODEL_DOWNLOAD=download)

    assert wrong(found, "model")["level"] == level
    assert "cli.py models pull tiny" in remedy(found, "model")


def test_a_damaged_model_is_told(look: Look, tmp_path: Path) -> None:
    (tmp_path / "tiny.pt").write_bytes(b"half of it")
    _, found = look(WHISPER_MODEL_SIZE="tiny", MODEL_CACHE_DIR=tmp_path)

    assert "damaged" in wrong(found, "model")["message"]


def test_the_models_folder_has_to_be_one(look: Look, tmp_path: Path) -> None:
    (tmp_path / "models").touch()
    _, found = look()

    assert wrong(found, "models")["level"] == "fail"


# As a process


def test_the_doctor_loads_no_engine_and_needs_none(
    look: Look, session: Session, tmp_path: Path
) -> None:
    announce(session)
    announce(session, "maintenance")
    script = (
        "import sys, cli\n"
        "sys.modules.update(dict.fromkeys(('torch', 'ctranslate2')))\n"
        "cli.main(['doctor'])\n"
    )
    look()
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=PROJECT_DIR,
        env={**os.environ, "PYTHONPATH": str(PROJECT_DIR)},
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "ok    model" in done.stdout


def test_the_service_of_make_run_is_found(
    look: Look,
    database_url: str,
    valkey: ValkeyServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chosen = {"DATABASE_URL": database_url, "REDIS_URL": valkey.url, "WHISPER_MODEL_SIZE": "demo"}
    (tmp_path / SERVERS_FILE).write_text(json.dumps(chosen))
    _, found = look(DATABASE_URL="", REDIS_URL="", WHISPER_MODEL_SIZE="")

    assert not {"database", "redis", "model"} & faults(found).keys()
