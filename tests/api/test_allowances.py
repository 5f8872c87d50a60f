"""What a key may take: requests, and what a submission would use."""

import pytest
import redis
from sqlalchemy import select
from starlette.testclient import TestClient

from app import create_app
from models import ApiKey
from tests.api.conftest import Jobs, connected, read_all, serving, stored

FILE = {"file": ("a.mp3", b"sound")}


@pytest.fixture
def make_client(make_settings):
    """A client of an app with other limits."""
    clients = []

    def make(**values):
        client = TestClient(create_app(make_settings(**values)), raise_server_exceptions=False)
        clients.append(client)
        return client.__enter__()

    yield make
    for client in clients:
        client.__exit__(None, None, None)


@pytest.fixture
def limit(client, admin, sessions):
    """Give the key of some headers limits of its own."""

    def limit(headers, **limits):
        with sessions() as session:
            prefix = headers["X-API-Key"][:17]
            key_id = session.scalar(select(ApiKey.id).where(ApiKey.prefix == prefix))
        answer = client.patch(f"/admin/keys/{key_id}", json={"limits": limits}, headers=admin)
        assert answer.status_code == 200, answer.text
        return key_id

    return limit


def submit(client, headers, size=5):
    return client.post("/transcribe", files={"file": ("a.mp3", b"s" * size)}, headers=headers)


# Requests


def test_a_job_can_be_asked_after_more_often(make_client, alice):
    client = make_client(rate_limit_requests=2)
    status = submit(client, alice).headers["location"]
    answers = [client.get(status, headers=alice).status_code for _ in range(11)]

    assert answers == [200] * 10 + [429]


@pytest.mark.security("resources", "one request too many in a minute")
def test_a_request_too_many_is_refused_and_says_when_to_come_back(make_client, alice):
    client = make_client(rate_limit_requests=2)
    *_, last = (client.get("/jobs", headers=alice) for _ in range(3))

    assert (last.status_code, last.json()["code"]) == (429, "rate_limited")
    assert (last.json()["limit"], last.json()["window_seconds"]) == (2, 60)
    assert 1 <= int(last.headers["retry-after"]) <= 60


def test_a_refusal_has_the_headers_too(make_client, alice):
    client = make_client(rate_limit_requests=1)
    *_, last = (client.get("/jobs", headers=alice) for _ in range(2))

    assert last.headers["ratelimit-policy"] == '"req";q=1;w=60'
    assert last.headers["ratelimit"] == f'"req";r=0;t={last.headers["retry-after"]}'


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("get", "/jobs", 200), ("get", "/jobs/x", 404), ("get", "/admin/health", 403)],
)
def test_every_answer_to_a_key_says_how_many_are_left(client, alice, method, path, status):
    answer = client.request(method, path, headers=alice)

    assert answer.status_code == status
    assert answer.headers["ratelimit-policy"] == '"req";q=100;w=60'
    assert answer.headers["ratelimit"].startswith('"req";r=99;t=')


@pytest.mark.parametrize("path", ["/jobs", "/health", "/limits"])
def test_who_is_nobody_is_told_of_no_limit(client, path):
    assert "ratelimit" not in client.get(path).headers


def test_requests_need_not_be_limited(make_client, alice):
    client = make_client(rate_limit_enabled=False, rate_limit_requests=1)
    answers = [client.get("/jobs", headers=alice) for _ in range(3)]

    assert [answer.status_code for answer in answers] == [200] * 3
    assert "ratelimit" not in answers[0].headers


def test_two_keys_of_one_owner_do_not_share(make_client, make_key):
    client = make_client(rate_limit_requests=1)
    keys = [make_key("alice"), make_key("alice")]

    assert [client.get("/jobs", headers=key).status_code for key in keys] == [200, 200]


def test_a_key_can_have_a_limit_of_its_own(client, alice, bob, limit):
    limit(alice, requests=1)
    told = [client.get("/jobs", headers=key).status_code for key in (alice, alice, bob, bob)]

    assert told == [200, 429, 200, 200]


def test_a_key_can_be_without_limit(make_client, admin, alice, limit):
    limit(alice, requests=0)
    client = make_client(rate_limit_requests=1)

    assert {client.get("/jobs", headers=alice).status_code for _ in range(3)} == {200}


@pytest.mark.security("resources", "another X-Forwarded-For with every request")
def test_where_a_request_says_it_comes_from_changes_nothing(make_client, alice):
    client = make_client(rate_limit_requests=1)
    told = [
        client.get("/jobs", headers={**alice, "X-Forwarded-For": f"198.51.100.{n}"}).status_code
        for n in range(3)
    ]

    assert told == [200, 429, 429]


def test_while_redis_is_away_requests_are_counted_all_the_same(make_client, alice):
    client = make_client(
        redis_url="redis://127.0.0.1:1/0", rate_limit_window=86_400, rate_limit_requests=2
    )
    told = [client.get("/jobs", headers=alice).status_code for _ in range(3)]

    assert told == [200, 200, 429]


def test_a_rotated_key_goes_on_with_its_count(make_client, admin, alice, limit):
    key_id = limit(alice, requests=2)
    client = make_client()
    client.get("/jobs", headers=alice)
    new = client.post(f"/admin/keys/{key_id}/rotate", headers=admin).json()["key"]
    told = [client.get("/jobs", headers={"X-API-Key": new}).status_code for _ in range(2)]

    assert told == [200, 429]


def test_redis_that_forgot_everything_is_no_fault(client, alice, redis_url):
    client.get("/jobs", headers=alice)
    with redis.Redis.from_url(redis_url) as server:
        server.flushdb()

    assert client.get("/jobs", headers=alice).headers["ratelimit"].startswith('"req";r=99')


# What a submission would use


@pytest.mark.security("resources", "one job too many")
def test_a_job_too_many_is_refused(client, alice, limit, jobs: Jobs):
    limit(alice, jobs_at_once=2)
    told = [submit(client, alice) for _ in range(3)]

    assert [answer.status_code for answer in told] == [202, 202, 429]
    assert told[-1].json()["code"] == "quota_exceeded"
    assert told[-1].json()["quota"] == "jobs_at_once"
    assert int(told[-1].headers["retry-after"]) > 0
    assert jobs.count() == 2


def test_a_job_that_ends_makes_room(client, alice, limit):
    limit(alice, jobs_at_once=1)
    job = submit(client, alice).json()
    client.post(f"/jobs/{job['id']}/cancel", headers=alice)

    assert submit(client, alice).status_code == 202


@pytest.mark.security("resources", "more bytes than the quota")
def test_a_byte_too_many_is_refused_and_nothing_of_it_is_kept(client, alice, limit, settings):
    limit(alice, bytes_stored=1000)
    told = [submit(client, alice, size).status_code for size in (600, 400, 1)]

    assert told == [202, 202, 429]
    assert len(stored(settings)) == 2


def test_what_is_deleted_makes_room(client, alice, limit):
    limit(alice, bytes_stored=1000)
    job = submit(client, alice, 1000).json()
    client.delete(f"/jobs/{job['id']}", headers=alice)

    assert submit(client, alice, 1000).status_code == 202


@pytest.mark.security("resources", "more audio than the quota")
def test_audio_is_taken_until_the_hour_is_used_up(client, alice, limit):
    limit(alice, audio_seconds_per_hour=2)
    # of 32 kB a second and a half is guessed
    told = [submit(client, alice, 24_000) for _ in range(3)]

    assert [answer.status_code for answer in told] == [202, 202, 429]
    assert told[-1].json()["quota"] == "audio_seconds_per_hour"


def test_quotas_of_the_service_hold_for_keys_without_their_own(make_client, alice, limit):
    client = make_client(key_jobs_at_once=1)

    assert [submit(client, alice).status_code for _ in range(2)] == [202, 429]
    limit(alice, jobs_at_once=0)
    assert submit(client, alice).status_code == 202


@pytest.mark.security("resources", "a body that was refused before it was sent")
def test_a_submission_is_refused_before_a_byte_of_its_body_is_read(settings, alice, limit):
    limit(alice, jobs_at_once=1)
    head = (
        "POST /transcribe HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n"
        f"X-API-Key: {alice['X-API-Key']}\r\n"
        "Content-Type: multipart/form-data; boundary=XX\r\n\r\n"
    )
    with serving(settings) as port:
        with TestClient(create_app(settings)) as client:
            submit(client, alice)
        with connected(port) as connection:
            connection.sendall(head.encode())
            answer = read_all(connection)

    assert answer.startswith(b"HTTP/1.1 429 ")
    assert b"quota_exceeded" in answer
