"""Signing in on the page: what the cookie is good for, from where, and until when."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select, update
from sqlalchemy.orm import Session, sessionmaker
from starlette.testclient import TestClient

import keys
import page_sessions
from api import cookies
from app import create_app
from config import Settings
from models import ApiKey, AuditAction, AuditEvent, PageSession
from tests.api.conftest import MakeKey

OWN = {"Origin": "http://testserver"}
KEPT = re.compile(rf"{cookies.NAME}=({page_sessions.PREFIX}[\w-]+)")


def sign_in(client: TestClient, headers: dict[str, str]) -> str:
    """Sign in as a browser does, and find the token that it keeps."""
    answer = client.post("/session", headers={**headers, **OWN})
    assert answer.status_code == 201, answer.text
    kept = KEPT.match(answer.headers["set-cookie"])
    assert kept is not None
    return kept[1]


def status(client: TestClient, path: str = "/jobs", **headers: str) -> int:
    return client.get(path, headers=headers).status_code


@pytest.fixture
def signed_in(client: TestClient, alice: dict[str, str]) -> TestClient:
    sign_in(client, alice)
    return client


def test_who_sent_a_key_once_need_not_send_it_again(
    client: TestClient, alice: dict[str, str]
) -> None:
    assert status(client) == 401
    sign_in(client, alice)

    assert status(client) == 200
    told = client.get("/session").json()
    assert told["key"] in alice["X-API-Key"]
    assert told["anonymous"] is False
    assert datetime.fromisoformat(told["expires_at"]) > datetime.now(UTC) + timedelta(days=6.9)


def test_no_script_reads_the_cookie_and_no_other_site_has_it_sent(
    client: TestClient, alice: dict[str, str]
) -> None:
    said = client.post("/session", headers=alice).headers["set-cookie"]

    assert {"HttpOnly", "SameSite=Strict", "Path=/", "Max-Age=604800"} < set(said.split("; "))
    assert "Secure" not in said


def test_over_tls_the_cookie_is_bound_to_it(settings: Settings, alice: dict[str, str]) -> None:
    with TestClient(create_app(settings), base_url="https://testserver") as client:
        said = client.post("/session", headers=alice).headers["set-cookie"]

        assert said.startswith(f"{cookies.SECURE_NAME}=")
        assert said.endswith("; Secure")
        assert status(client) == 200
        # what a plain connection could have planted is not looked at
        client.cookies.clear()
        token = said.partition("=")[2].partition(";")[0]
        assert status(client, Cookie=f"{cookies.NAME}={token}") == 401


def test_neither_the_key_nor_the_token_is_stored(
    client: TestClient, alice: dict[str, str], sessions: sessionmaker[Session]
) -> None:
    token = sign_in(client, alice)
    with sessions() as session:
        row = session.scalars(select(PageSession)).one()

    assert alice["X-API-Key"] not in token
    assert token.encode() not in row.token_sha256 + row.key_sha256


def test_signing_out_ends_the_session_everywhere(client: TestClient, alice: dict[str, str]) -> None:
    token = sign_in(client, alice)
    answer = client.delete("/session", headers=OWN)

    assert answer.status_code == 204
    assert "Max-Age=0" in answer.headers["set-cookie"]
    client.cookies.clear()
    assert status(client, Cookie=f"{cookies.NAME}={token}") == 401


def test_a_cookie_that_is_no_good_any_more_is_forgotten(client: TestClient) -> None:
    stale = f"{cookies.NAME}={page_sessions.PREFIX}{'a' * 43}"
    answer = client.get("/jobs", headers={"Cookie": stale})

    assert answer.status_code == 401
    assert answer.headers["set-cookie"].startswith(f"{cookies.NAME}=;")


@pytest.mark.parametrize("token", ["", "x", f"{page_sessions.PREFIX}{'a' * 42}", "a" * 5000])
def test_what_is_no_token_is_nobodys(client: TestClient, token: str) -> None:
    assert status(client, Cookie=f"{cookies.NAME}={token}") == 401


# What ends a key ends its sessions


def revoke(session: Session, key: ApiKey) -> None:
    keys.revoke(session, key)


def expire(session: Session, key: ApiKey) -> None:
    key.expires_at = datetime.now(UTC) - timedelta(seconds=1)


def rotate(session: Session, key: ApiKey) -> None:
    keys.rotate(session, key, grace=timedelta(0))


def remove(session: Session, key: ApiKey) -> None:
    session.delete(key)


def outlive(session: Session, key: ApiKey) -> None:
    past = datetime.now(UTC) - timedelta(seconds=1)
    session.execute(update(PageSession).values(expires_at=past))


@pytest.mark.parametrize("end", [revoke, expire, rotate, remove, outlive])
def test_a_session_ends_with_its_key_and_with_its_time(
    signed_in: TestClient, sessions: sessionmaker[Session], end: Callable[[Session, ApiKey], None]
) -> None:
    with sessions.begin() as session:
        key_id = session.scalars(select(PageSession.key_id)).one()
        end(session, session.get_one(ApiKey, key_id))

    assert status(signed_in) == 401


def test_a_session_may_no_more_than_its_key(client: TestClient, make_key: MakeKey) -> None:
    sign_in(client, make_key("reader", scopes=["jobs:read"]))

    assert status(client) == 200
    assert client.post("/transcribe", files={"file": b"x"}, headers=OWN).status_code == 403


def test_a_session_is_not_begun_with_another(signed_in: TestClient) -> None:
    assert signed_in.post("/session", headers=OWN).status_code == 401


def test_who_sends_a_key_means_that_one(signed_in: TestClient, bob: dict[str, str]) -> None:
    told = signed_in.get("/session", headers=bob).json()

    assert told["key"] in bob["X-API-Key"]
    assert status(signed_in, **{"X-API-Key": "stt_live_of-somebody"}) == 401


# Which pages may use it


@pytest.mark.parametrize(
    ("headers", "reads", "writes"),
    [
        ({"Sec-Fetch-Site": "same-origin"}, True, True),
        # typed into the address bar
        ({"Sec-Fetch-Site": "none"}, True, False),
        ({"Sec-Fetch-Site": "same-site"}, False, False),
        ({"Sec-Fetch-Site": "cross-site"}, False, False),
        ({"Sec-Fetch-Site": "same-site", "Origin": "http://testserver"}, False, False),
        # over plain HTTP in a local network, browsers say nothing but the origin
        ({}, True, False),
        ({"Origin": "http://testserver"}, True, True),
        ({"Origin": "http://testserver:81"}, False, False),
        ({"Origin": "http://evil.test"}, False, False),
        ({"Origin": "null"}, False, False),
    ],
)
def test_only_our_own_page_may_use_the_cookie(
    signed_in: TestClient, headers: dict[str, str], *, reads: bool, writes: bool
) -> None:
    assert (status(signed_in, **headers) == 200) is reads
    ended = signed_in.delete("/session", headers=headers)
    assert (ended.status_code == 204) is writes
    # nor can it sign anybody out
    assert (status(signed_in) == 401) is writes


def test_no_other_page_may_have_the_cookie_sent(make_settings: Callable[..., Settings]) -> None:
    app = create_app(make_settings(cors_origins="https://app.test"))
    with TestClient(app) as client:
        answer = client.options(
            "/jobs", headers={"Origin": "https://app.test", "Access-Control-Request-Method": "GET"}
        )

        assert "access-control-allow-credentials" not in answer.headers


# Without keys


@contextmanager
def open_to_all(make_settings: Callable[..., Settings]) -> Iterator[TestClient]:
    with TestClient(create_app(make_settings(auth_required=False))) as client:
        yield client


def test_where_no_key_is_needed_nobody_has_to_sign_in(
    make_settings: Callable[..., Settings], alice: dict[str, str]
) -> None:
    with open_to_all(make_settings) as client:
        told = client.get("/session").json()
        assert (told["anonymous"], told["expires_at"]) == (True, None)
        assert client.post("/session", headers=OWN).status_code == 401

        sign_in(client, alice)
        assert client.get("/session").json()["anonymous"] is False


# Rows


def test_sessions_of_a_key_are_bounded(
    client: TestClient,
    alice: dict[str, str],
    sessions: sessionmaker[Session],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(page_sessions, "MAX_SESSIONS", 2)
    tokens = [sign_in(client, alice) for _ in range(3)]

    client.cookies.clear()
    good = [status(client, Cookie=f"{cookies.NAME}={token}") == 200 for token in tokens]
    assert good == [False, True, True]


def test_rows_of_sessions_that_are_over_are_deleted(
    signed_in: TestClient, alice: dict[str, str], sessions: sessionmaker[Session]
) -> None:
    with sessions.begin() as session:
        past = datetime.now(UTC) - timedelta(seconds=1)
        session.execute(update(PageSession).values(expires_at=past))
    sign_in(signed_in, alice)

    with sessions.begin() as session:
        assert page_sessions.forget_expired(session) == 1
    assert status(signed_in) == 200


def test_signing_in_and_out_are_told(
    signed_in: TestClient, sessions: sessionmaker[Session]
) -> None:
    signed_in.delete("/session", headers=OWN)
    acts: Any = [AuditAction.SIGNED_IN, AuditAction.SIGNED_OUT]
    with sessions() as session:
        found = session.scalars(
            select(AuditEvent.action).where(AuditEvent.action.in_(acts)).order_by(AuditEvent.id)
        ).all()

    assert found == acts
