"""PostgreSQL and Redis away: what still works, what says so, and how it comes back."""

import os
import signal
from collections.abc import Iterator

import pytest
from sqlalchemy.engine import make_url
from starlette.testclient import TestClient

from app import create_app
from local_servers import ValkeyServer
from tests.api.conftest import ADMIN_KEY, stored
from tests.conftest import administration, servers_folder

KEY = {"X-API-Key": ADMIN_KEY}
NOWHERE = "127.0.0.1:1"


def submit(client):
    return client.post("/transcribe/", headers=KEY, files={"file": ("a.mp3", b"sound")})


@pytest.fixture
def without_database(make_settings):
    settings = make_settings(database_url=f"postgresql://{NOWHERE}/x")
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        yield client


def test_without_postgresql_the_process_lives(without_database):
    assert without_database.get("/health").status_code == 200


def test_without_postgresql_it_is_not_ready(without_database):
    assert without_database.get("/ready").status_code == 503


@pytest.mark.parametrize("path", ["/jobs", "/admin/health", "/jobs/x", "/transcribe/x"])
def test_without_postgresql_it_says_so(without_database, path):
    answer = without_database.get(path, headers=KEY)

    assert (answer.status_code, answer.json()["code"]) == (503, "database_unavailable")
    assert int(answer.headers["retry-after"]) > 0


def test_without_postgresql_it_tells_no_address(without_database):
    assert NOWHERE.split(":", maxsplit=1)[0] not in without_database.get("/jobs", headers=KEY).text


def test_without_postgresql_no_key_is_no_key(without_database):
    assert without_database.get("/jobs").status_code == 401


def test_without_postgresql_nothing_is_taken(without_database, settings):
    assert submit(without_database).status_code == 503
    assert stored(settings) == []


@pytest.fixture
def away(postgres_server, database_url):
    """Functions that take a database away and bring it back."""
    name = make_url(database_url).database

    class Away:
        def leave(self) -> None:
            with administration(postgres_server) as execute:
                execute(f"ALTER DATABASE {name} RENAME TO {name}_away")
                execute(
                    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                    f" WHERE datname = '{name}_away'"
                )

        def come_back(self) -> None:
            with administration(postgres_server) as execute:
                execute(f"ALTER DATABASE {name}_away RENAME TO {name}")

    return Away()


def test_keys_are_entered_when_postgresql_comes(make_settings, database_url, away):
    away.leave()
    with TestClient(create_app(make_settings(database_url=database_url))) as client:
        before = client.get("/jobs", headers=KEY).status_code
        away.come_back()

        assert (before, client.get("/jobs", headers=KEY).status_code) == (503, 200)


def test_it_recovers_by_itself(client, engine):
    first = submit(client).status_code
    with engine.connect() as connection:
        connection.exec_driver_sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )

    assert (first, submit(client).status_code) == (202, 202)


def test_a_database_that_is_not_migrated_is_away(make_settings, empty_database_url):
    settings = make_settings(database_url=empty_database_url)
    with TestClient(create_app(settings)) as client:
        answers = [client.get("/ready").status_code, client.get("/jobs", headers=KEY).status_code]

    assert answers == [503, 503]


@pytest.fixture
def without_redis(make_settings) -> Iterator[TestClient]:
    settings = make_settings(redis_url=f"redis://{NOWHERE}/0")
    with TestClient(create_app(settings)) as client:
        yield client


def test_without_redis_jobs_are_taken(without_redis, jobs):
    answer = submit(without_redis)

    assert answer.status_code == 202
    assert jobs.row(answer.json()["id"]).status == "pending"


def test_without_redis_a_job_stays_due(without_redis, jobs):
    row = jobs.row(submit(without_redis).json()["id"])

    assert (row.dispatch_count, row.dispatch_due_at) == (0, row.created_at)


def test_without_redis_it_is_ready(without_redis):
    assert without_redis.get("/ready").status_code == 200


def test_without_redis_operators_see_it(without_redis):
    seen = without_redis.get("/admin/health", headers=KEY).json()

    # nothing runs but the web process, which in time is worse
    severities = {condition["code"]: condition["severity"] for condition in seen["conditions"]}
    assert (seen["redis"], severities["redis_unavailable"]) == ("disconnected", "degraded")
    assert seen["queues"]["normal"]["messages"] is None


@pytest.fixture
def frozen_redis(pytestconfig, worker_number) -> Iterator[str]:
    """A server that takes connections and never answers."""
    server = ValkeyServer(pytestconfig.stash[servers_folder] / f"frozen{worker_number}", fast=True)
    server.start()
    assert server.pid is not None
    os.kill(server.pid, signal.SIGSTOP)
    yield server.url
    os.kill(server.pid, signal.SIGCONT)
    server.stop()


def test_a_frozen_redis_keeps_nobody_waiting(make_settings, frozen_redis, jobs):
    with TestClient(
        create_app(make_settings(redis_url=frozen_redis, publish_budget_ms=50))
    ) as client:
        answers = [submit(client) for _ in range(5)]

    assert [answer.status_code for answer in answers] == [202] * 5
    assert [jobs.row(answer.json()["id"]).dispatch_count for answer in answers] == [0] * 5
