"""What operators see and do."""

import shutil
from contextlib import ExitStack

import pytest
import redis
from sqlalchemy import text
from starlette.testclient import TestClient

from app import create_app
from jobs.dead_letters import INPUT_FAULTS
from jobs.lifecycle import Failure
from jobs.uploads import MARKER

POOL = {
    "hits": 3,
    "misses": 1,
    "evictions": 2,
    "fallbacks": 1,
    "bytes": 100,
    "models": [{"key": {"engine": "openai-whisper", "model": "tiny"}, "instances": 2}],
}
BAD_INPUT = Failure(code="not_audio", message="No audio.")


@pytest.fixture
def add_worker(engine):
    def add(
        name="host:1:x",
        role="worker",
        seconds=0,
        pool='{"hits": 3, "misses": 1}',
        version="3.0.0",
        ahead=0,
    ):
        with engine.begin() as connection:
            connection.execute(
                text(
                    "INSERT INTO workers (name, role, version, queues, slots, pool, seen_at,"
                    " clock_ahead_seconds) VALUES (:name, :role, :version, '{high,normal}', 2,"
                    " CAST(:pool AS jsonb), now() - make_interval(secs => :seconds), :ahead)"
                ),
                {
                    "name": name,
                    "role": role,
                    "version": version,
                    "seconds": seconds,
                    "pool": pool,
                    "ahead": ahead,
                },
            )

    return add


@pytest.fixture
def alive(add_worker):
    """A service of which all that must run does."""
    add_worker("maintenance:1:x", role="maintenance")
    add_worker("worker:1:x")


@pytest.fixture
def long_ago(engine):
    """Move what is written about jobs into the past; PostgreSQL may have just started, too."""

    def move(column, seconds):
        with engine.begin() as connection:
            connection.exec_driver_sql(
                f"UPDATE transcription_jobs SET {column} = {column} - interval '{seconds} s'"
            )

    return move


def health(client, admin, query=""):
    return client.get(f"/admin/health{query}", headers=admin).json()


def codes(client, admin):
    return [condition["code"] for condition in health(client, admin)["conditions"]]


def test_health_keeps_the_first_versions_keys(client, admin, alive):
    seen = health(client, admin)

    assert (seen["status"], seen["database"]) == ("healthy", "connected")
    assert (seen["queues"]["pending"], seen["queues"]["processing"]) == (0, 0)
    assert (seen["error_rate_1h"], seen["unresolved_errors"]) == ("0.00%", 0)
    assert "hits" in str(seen["model_pool"]) or "hit_rate" in seen["model_pool"]


def test_health_counts_what_waits_and_runs(client, admin, jobs):
    jobs.submit(priority="high")
    jobs.submit("bob")
    jobs.processing()
    queues = health(client, admin)["queues"]

    assert (queues["pending"], queues["processing"]) == (2, 1)
    assert (queues["high"]["waiting"], queues["normal"]["waiting"]) == (1, 1)


def test_health_tells_how_long_the_oldest_has_waited(client, admin, jobs, engine):
    jobs.submit()
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "UPDATE transcription_jobs SET not_before = now() - interval '100 s'"
        )

    assert health(client, admin)["queues"]["normal"]["oldest_seconds"] >= 100


def test_health_counts_messages(client, admin, redis_url):
    with redis.Redis.from_url(redis_url) as broker:
        broker.rpush("dlq", "a", "b")

    assert health(client, admin)["queues"]["dlq"]["messages"] == 2


def test_health_shows_every_process(client, admin, add_worker):
    add_worker("host:1:x")
    add_worker("host:2:y", role="maintenance")

    assert {worker["name"] for worker in health(client, admin)["workers"]} == {
        "host:1:x",
        "host:2:y",
    }


def test_health_tells_the_silent_from_the_living(client, admin, add_worker):
    add_worker("living", seconds=1)
    add_worker("silent", seconds=1000)
    alive = {worker["name"]: worker["alive"] for worker in health(client, admin)["workers"]}

    assert alive == {"living": True, "silent": False}


def test_health_adds_the_pools_up(client, admin, add_worker):
    import json

    add_worker("one", pool=json.dumps(POOL))
    add_worker("two", pool=json.dumps(POOL))
    add_worker("dead", pool=json.dumps(POOL), seconds=1000)
    pool = health(client, admin)["model_pool"]

    assert (pool["hits"], pool["evictions"], pool["oom_fallbacks"]) == (6, 4, 2)
    assert (pool["total_loaded"], pool["models_by_size"]) == (4, {"tiny": 4})
    assert pool["hit_rate"] == 0.75


def test_health_tells_the_error_rate(client, admin, jobs):
    jobs.completed()
    jobs.completed()
    jobs.failed()

    assert health(client, admin)["error_rate_1h"] == "33.33%"


def test_one_failure_is_a_dead_letter_and_no_degraded_service(client, admin, jobs, alive):
    jobs.failed()
    seen = health(client, admin)

    assert (seen["status"], codes(client, admin)) == ("healthy", ["dead_letters"])


@pytest.mark.parametrize(
    ("completed", "status"), [(9, "degraded"), (1, "healthy")], ids=["of ten", "of two"]
)
def test_many_errors_are_a_degraded_service(client, admin, jobs, alive, completed, status):
    jobs.failed()
    for _ in range(completed):
        jobs.completed()

    assert health(client, admin)["status"] == status


def test_bad_input_is_not_the_services_error(client, admin, jobs, alive):
    for _ in range(10):
        jobs.failed(failure=BAD_INPUT)
    seen = health(client, admin)

    assert (seen["status"], seen["conditions"]) == ("healthy", [])
    assert (seen["error_rate_1h"], seen["unresolved_errors"]) == ("0.00%", 0)


def test_what_failed_long_ago_is_no_recent_error(client, admin, jobs, engine):
    jobs.failed()
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "UPDATE transcription_jobs SET completed_at = now() - interval '2 hours'"
        )
    seen = health(client, admin)

    assert (seen["error_rate_1h"], seen["unresolved_errors"]) == ("0.00%", 1)


def test_health_tells_the_disk(client, admin):
    assert health(client, admin)["disk"]["free_bytes"] > 0


def test_health_tells_the_connections(client, admin):
    assert health(client, admin)["database_pool"]["size"] == 10


# Conditions: the rules themselves are tested in tests/jobs/test_conditions.py


def test_a_service_of_which_all_runs_is_healthy(client, admin, jobs, alive):
    jobs.submit()
    jobs.processing()
    jobs.completed()
    seen = health(client, admin)

    assert (seen["status"], seen["conditions"]) == ("healthy", [])


def test_a_condition_says_what_to_do_and_since_when(client, admin, alive):
    client.post("/admin/queues/normal/pause", headers=admin)
    (condition,) = health(client, admin)["conditions"]

    assert (condition["code"], condition["severity"]) == ("queue_paused", "warning")
    assert "normal" in condition["message"]
    assert "cli.py queues resume" in condition["remedy"]
    assert condition["since"]


def test_a_disk_at_its_floor_is_told(make_settings, admin, alive):
    with TestClient(create_app(make_settings(min_free_disk_mb=2**24))) as client:
        assert codes(client, admin) == ["disk_full"]


def test_a_disk_without_room_for_the_largest_upload_is_told(make_settings, admin, alive, tmp_path):
    free_mb = shutil.disk_usage(tmp_path).free // 2**20
    # the space is everybody's: it may change by as much while this runs
    settings = make_settings(min_free_disk_mb=free_mb // 2, max_upload_size_mb=free_mb)
    with TestClient(create_app(settings)) as client:
        assert codes(client, admin) == ["disk_low"]


def test_a_store_that_is_not_mounted_is_told(client, admin, alive, settings):
    (settings.uploads_path / MARKER).unlink()
    seen = health(client, admin)

    assert [condition["code"] for condition in seen["conditions"]] == ["storage_unavailable"]
    assert seen["disk"] is None


@pytest.mark.parametrize(("held", "found"), [(8, []), (9, ["database_pool_busy"])])
def test_connections_that_run_out_are_told(make_settings, admin, alive, held, found):
    app = create_app(make_settings(database_pool_size=10, database_max_overflow=0))
    with TestClient(app) as client, ExitStack() as connections:
        for _ in range(held):
            connections.enter_context(app.state.services.engine.connect())

        assert codes(client, admin) == found


@pytest.mark.parametrize(
    ("revision", "found"),
    [(None, ["migrations_behind"]), ("fffffffffff0", [])],
    ids=["of an earlier version", "of a later version"],
)
def test_a_database_is_behind_but_never_too_new(client, admin, alive, engine, revision, found):
    with engine.begin() as connection:
        before = connection.scalar(text("SELECT version_num FROM alembic_version"))
        connection.execute(text("DELETE FROM alembic_version"))
        if revision:
            connection.execute(text("INSERT INTO alembic_version VALUES (:r)"), {"r": revision})
    seen = codes(client, admin)
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM alembic_version"))
        connection.execute(text("INSERT INTO alembic_version VALUES (:r)"), {"r": before})

    assert seen == found


def test_clocks_that_differ_are_told(client, admin, alive, add_worker):
    add_worker("off", ahead=-90)
    (condition,) = health(client, admin)["conditions"]

    assert condition["code"] == "clocks_differ"
    assert condition["message"] == "worker off is 90 s behind the database."


def test_versions_that_differ_are_told(client, admin, alive, add_worker):
    add_worker("old", version="2.9.0")

    assert codes(client, admin) == ["versions_differ"]


def test_a_lease_that_stands_still_is_shown_with_its_job(client, admin, alive, jobs, long_ago):
    job_id = jobs.processing()
    before = health(client, admin)["still_leases"]
    long_ago("heartbeat_at", 40)
    (lease,) = health(client, admin)["still_leases"]

    assert before == []
    assert (lease["job_id"], lease["worker"]) == (str(job_id), "worker:1")
    assert lease["still_seconds"] >= 40
    assert lease["since"]


def test_who_took_leave_is_not_shown(client, admin, add_worker, engine):
    add_worker("gone")
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE workers SET left_at = now()")

    assert health(client, admin)["workers"] == []


def test_a_queue_whose_key_holds_something_else_is_no_redis_that_is_away(
    client, admin, alive, redis_url
):
    with redis.Redis.from_url(redis_url) as broker:
        broker.set("normal", "x")
    seen = health(client, admin)

    assert (seen["redis"], seen["status"]) == ("connected", "healthy")
    assert seen["queues"]["normal"]["messages"] is None


# Monitors


@pytest.mark.parametrize(
    ("fault", "asked", "status"),
    [
        ("none", "unhealthy", 200),
        ("none", "degraded", 200),
        ("degraded", "unhealthy", 200),
        ("degraded", "degraded", 503),
        ("unhealthy", "degraded", 503),
        ("unhealthy", "unhealthy", 503),
    ],
)
def test_a_monitor_is_told_by_the_status_alone(
    client, admin, alive, jobs, settings, fault, asked, status
):
    if fault == "degraded":
        jobs.failed()
        for _ in range(9):
            jobs.completed()
    if fault == "unhealthy":
        (settings.uploads_path / MARKER).unlink()
    answer = client.get(f"/admin/health?fail_on={asked}", headers=admin)

    assert answer.status_code == status
    if status == 503:
        assert answer.json()["code"] == "unhealthy"
        assert answer.json()["conditions"][0]["severity"] == fault
    assert client.get("/admin/health", headers=admin).status_code == 200


def test_a_monitor_that_asks_for_something_else_is_refused(client, admin):
    assert client.get("/admin/health?fail_on=warning", headers=admin).status_code == 422


@pytest.mark.parametrize("code", ["upload_missing", "upload_altered"])
def test_uploads_that_did_not_stay_as_they_were_are_the_operators_business(code):
    assert code not in INPUT_FAULTS
    assert "not_audio" in INPUT_FAULTS
