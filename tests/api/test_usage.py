"""What a key has used, and what holds for everybody."""

import pytest
from sqlalchemy import select
from starlette.testclient import TestClient

from app import create_app
from models import ApiKey, Scope

LIMITS = {
    "rate_limit_requests": 50,
    "key_audio_seconds_per_hour": 3600,
    "key_jobs_at_once": 10,
    "key_stored_mb": 100,
    "key_requests_at_once": 9,
    "key_waits_at_once": 7,
}


@pytest.fixture
def limited(make_settings):
    with TestClient(create_app(make_settings(**LIMITS))) as client:
        yield client


def test_everybody_is_told_the_limits(limited):
    assert limited.get("/limits").json() == {
        "requests": {"limit": 50, "window_seconds": 60},
        "audio_seconds_per_hour": 3600.0,
        "jobs_at_once": 10,
        "bytes_stored": 100 * 2**20,
        "requests_at_once": 9,
        "waits_at_once": 7,
        "max_upload_bytes": 2**20,
        "source_urls": False,
        "max_audio_seconds": 6 * 3600.0,
        "queued_audio_seconds": None,
        "audio_retention_seconds": 7 * 86_400.0,
        "transcript_retention_seconds": None,
    }


def test_what_is_not_limited_is_null(make_settings):
    settings = make_settings(
        rate_limit_enabled=False,
        audio_retention="forever",
        key_waits_at_once=0,
        key_requests_at_once=0,
    )
    with TestClient(create_app(settings)) as client:
        told = client.get("/limits").json()

    assert {name for name, value in told.items() if value is not None} == {
        "max_upload_bytes",
        "source_urls",
        "max_audio_seconds",
    }


@pytest.mark.parametrize("scope", Scope)
def test_every_key_may_ask_what_it_has_used(client, make_key, scope):
    assert client.get("/usage", headers=make_key("alice", scopes=[scope])).status_code == 200


def test_a_key_is_told_what_it_has_used_of_what(limited, alice, jobs):
    limited.post("/transcribe", files={"file": ("a.mp3", b"s" * 16_000)}, headers=alice)
    told = limited.get("/usage", headers=alice).json()

    assert told["key"] == alice["X-API-Key"][:17]
    assert told["requests"]["remaining"] == 48
    assert told["jobs_at_once"] == {"used": 1, "limit": 10}
    assert told["audio_seconds_per_hour"] == {"used": 1.0, "limit": 3600.0}
    assert told["bytes_stored"] == {"used": 16_000, "limit": 100 * 2**20}


def test_a_key_is_told_nothing_of_another_one(client, make_key):
    mine, other = make_key("alice"), make_key("alice")
    client.post("/transcribe", files={"file": ("a.mp3", b"sound")}, headers=other)

    assert client.get("/usage", headers=mine).json()["jobs_at_once"]["used"] == 0


def test_what_is_not_limited_is_told_without_a_limit(client, alice):
    assert client.get("/usage", headers=alice).json()["bytes_stored"] == {"used": 0, "limit": None}


def test_an_operator_sees_what_any_key_has_used(limited, alice, admin, sessions):
    limited.post("/transcribe", files={"file": ("a.mp3", b"sound")}, headers=alice)
    with sessions() as session:
        prefix = alice["X-API-Key"][:17]
        key_id = session.scalar(select(ApiKey.id).where(ApiKey.prefix == prefix))
    told = limited.get(f"/admin/keys/{key_id}/usage", headers=admin).json()

    assert (told["key"], told["jobs_at_once"]["used"]) == (prefix, 1)
    assert told["requests"]["remaining"] == 49


def test_usage_is_told_while_redis_is_away(make_settings, alice):
    settings = make_settings(redis_url="redis://127.0.0.1:1/0")
    with TestClient(create_app(settings)) as client:
        assert client.get("/usage", headers=alice).json()["requests"]["remaining"] == 99
