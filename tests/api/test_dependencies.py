"""The key that a request carries, and the caller behind it."""

import logging

import pytest
from sqlalchemy import text
from starlette.datastructures import Headers
from starlette.testclient import TestClient

from api.dependencies import sent_key
from app import create_app
from errors import NotAuthenticated
from tests.api.conftest import ADMIN_KEY, connected, read_all


def headers(*pairs: tuple[str, str]) -> Headers:
    return Headers(raw=[(name.encode(), value.encode()) for name, value in pairs])


def test_no_header_is_no_key():
    assert sent_key(headers()) is None


@pytest.mark.parametrize(
    "pair",
    [("x-api-key", "k"), ("authorization", "Bearer k"), ("authorization", "bearer  k ")],
)
def test_both_headers_carry_the_key(pair):
    assert sent_key(headers(pair)) == "k"


@pytest.mark.security("authentication", "two credentials, or credentials of another kind")
@pytest.mark.parametrize(
    "pairs",
    [
        [("x-api-key", "k"), ("authorization", "Bearer k")],
        [("x-api-key", "k"), ("x-api-key", "k")],
        [("authorization", "Bearer k"), ("authorization", "Bearer k")],
        [("x-api-key", "k"), ("authorization", "Bearer other")],
        [("x-api-key", "k"), ("x-api-key", "other")],
        [("authorization", "Bearer k"), ("authorization", "Bearer other")],
        [("authorization", "Basic k")],
        [("authorization", "k")],
        [("x-api-key", "k"), ("authorization", "Basic k")],
    ],
)
def test_other_credentials_are_refused(pairs):
    with pytest.raises(NotAuthenticated):
        sent_key(headers(*pairs))


@pytest.mark.parametrize("sent", ["Basic YTpr", "basic  YTpr", "Basic Oms="])
def test_where_it_may_be_a_password_it_is_found_there(sent):
    assert sent_key(headers(("authorization", sent)), basic=True) == "k"


def test_where_it_may_be_a_password_bearer_works_as_well():
    assert sent_key(headers(("authorization", "Bearer k")), basic=True) == "k"


def test_bearer_works_as_well(client, alice):
    bearer = {"Authorization": f"Bearer {alice['X-API-Key']}"}

    assert client.get("/jobs", headers=bearer).status_code == 200


def test_blanks_around_a_key_are_no_part_of_it(port, alice):
    head = b"GET /usage HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
    with connected(port) as connection:
        connection.sendall(head + b"X-API-Key:  %s \t\r\n\r\n" % alice["X-API-Key"].encode())

        assert read_all(connection).startswith(b"HTTP/1.1 200")


@pytest.mark.security("authentication", "a key in the address")
@pytest.mark.parametrize("name", ["api_key", "key", "access_token", "X-API-Key"])
def test_a_key_in_the_address_is_no_key(client, name):
    assert client.get(f"/jobs?{name}={ADMIN_KEY}").status_code == 401


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ({}, "missing"),
        ({"Authorization": "Basic dXNlcjpwYXNz"}, "not a bearer"),
        ({"Authorization": "Bearer x", "X-API-Key": "x"}, "several"),
        ({"X-API-Key": "x"}, "malformed"),
        ({"X-API-Key": "unknown-but-long-enough"}, "unknown"),
    ],
)
def test_the_log_says_why_nobody_is_let_in(client, caplog, headers, reason):
    caplog.set_level(logging.INFO)
    client.get("/jobs", headers=headers)
    (refusal,) = [record for record in caplog.records if record.message == "key refused"]

    assert refusal.__dict__["reason"] == reason


def test_a_revoked_key_is_refused_at_its_next_call(client, alice, engine):
    assert client.get("/jobs", headers=alice).status_code == 200
    with engine.begin() as connection:
        connection.execute(text("UPDATE api_keys SET revoked_at = now()"))

    assert client.get("/jobs", headers=alice).status_code == 401


@pytest.mark.security("authentication", "a key that is no ASCII, or a megabyte")
@pytest.mark.parametrize("key", [b"\xc3\xa9" * 20, b"\xff" * 20, b"k" * 10**6])
def test_a_strange_key_is_refused(client, key):
    assert client.get("/jobs", headers={"X-API-Key": key}).status_code == 401


@pytest.fixture
def open_client(make_settings):
    settings = make_settings(auth_required=False)
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        yield client


def test_without_keys_everybody_may_submit(open_client):
    answer = open_client.post("/transcribe/", files={"file": ("a.mp3", b"sound")})

    assert answer.status_code == 202


def test_without_keys_everybody_sees_what_everybody_sent(open_client):
    open_client.post("/transcribe/", files={"file": ("a.mp3", b"sound")})

    assert open_client.get("/jobs/").json()["total"] == 1


def test_without_keys_nobody_sees_jobs_that_have_an_owner(open_client, jobs):
    assert open_client.get(f"/jobs/{jobs.submit('alice')}").status_code == 404


def test_without_keys_nobody_is_an_operator(open_client):
    assert open_client.get("/admin/health").status_code == 403


def test_without_keys_a_key_still_counts(open_client):
    assert open_client.get("/admin/health", headers={"X-API-Key": ADMIN_KEY}).status_code == 200


def test_without_keys_a_wrong_key_is_still_wrong(open_client):
    assert open_client.get("/jobs", headers={"X-API-Key": "wrong" * 5}).status_code == 401
