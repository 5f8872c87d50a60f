"""Probes: no key, no details."""

import pytest
from starlette.testclient import TestClient

from app import create_app
from config import VERSION


def test_health_keeps_the_first_versions_keys(client):
    assert client.get("/health").json() == {"status": "healthy", "version": VERSION}


@pytest.mark.parametrize("path", ["/health", "/health/", "/ready", "/ready/"])
def test_probes_need_no_key(client, path):
    assert client.get(path).status_code == 200


@pytest.mark.parametrize("path", ["/health", "/ready"])
def test_probes_may_ask_for_headers_alone(client, path):
    assert client.head(path).status_code == 200


def test_a_service_without_disk_is_not_ready(make_settings):
    settings = make_settings(min_free_disk_mb=2**24)
    with TestClient(create_app(settings)) as client:
        answer = client.get("/ready")

    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")


def test_a_service_that_is_not_ready_tells_no_details(make_settings):
    settings = make_settings(min_free_disk_mb=2**24)
    with TestClient(create_app(settings)) as client:
        assert "disk" not in client.get("/ready").text


def test_the_root_keeps_the_first_versions_answer(client):
    assert client.get("/").json()["status"] == "healthy"


def test_the_root_leads_to_the_documentation(client):
    assert client.get(client.get("/").json()["docs"]).status_code == 200
