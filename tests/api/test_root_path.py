"""Served under a path, behind a proxy that keeps it or takes it off."""

from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from api.documentation import ASSETS
from app import create_app
from errors import SettingsError

ROOT = "/tools/stt"
KEPT_OR_TAKEN_OFF = pytest.mark.parametrize("sent", [ROOT, ""], ids=["kept", "taken off"])


@pytest.fixture
def under(make_settings) -> Iterator[TestClient]:
    with TestClient(create_app(make_settings(root_path=ROOT))) as client:
        yield client


@KEPT_OR_TAKEN_OFF
def test_links_lead_through_the_proxy(under, alice, jobs, sent):
    job_id = jobs.submit()
    job = under.get(f"{sent}/jobs/{job_id}", headers=alice).json()

    assert job["links"]["self"] == f"{ROOT}/jobs/{job_id}"
    assert under.get(job["links"]["self"], headers=alice).json()["id"] == str(job_id)


@KEPT_OR_TAKEN_OFF
def test_the_next_page_leads_through_the_proxy(under, alice, jobs, sent):
    newest = [str(jobs.submit()) for _ in range(2)][-1]
    page = under.get(f"{sent}/jobs/?limit=1", headers=alice)
    link = page.links["next"]["url"]

    assert page.json()["jobs"][0]["id"] == newest
    assert link.startswith(f"{ROOT}/jobs?")
    assert under.get(link, headers=alice).json()["jobs"][0]["id"] != newest


@KEPT_OR_TAKEN_OFF
def test_where_a_job_was_made_is_behind_the_proxy(under, alice, sent):
    answer = under.post(f"{sent}/transcribe/", files={"file": b"RIFF"}, headers=alice)

    assert answer.status_code == 202
    assert answer.headers["location"].startswith(f"{ROOT}/jobs/")


@KEPT_OR_TAKEN_OFF
def test_openais_errors_keep_their_form(under, alice, sent):
    assert "error" in under.get(f"{sent}/v1/models/none", headers=alice).json()
    assert under.get(f"{sent}/jobs/none", headers=alice).json()["code"] == "not_found"


@KEPT_OR_TAKEN_OFF
def test_an_error_names_the_whole_path(under, alice, sent):
    problem = under.get(f"{sent}/nothing", headers=alice).json()

    assert (problem["status"], problem["instance"]) == (404, f"{ROOT}/nothing")


def test_the_description_says_where_we_are(under):
    assert under.get("/openapi.json").json()["servers"] == [{"url": ROOT}]
    page = under.get(f"{ROOT}/docs").text
    assert all(f"{ROOT}{path}" in page for path in ("/openapi.json", *ASSETS))
    assert all(under.get(f"{ROOT}{path}").is_success for path in ASSETS)


@KEPT_OR_TAKEN_OFF
@pytest.mark.parametrize("limits", [{"force_https": True}, {"trusted_hosts": ("else.example",)}])
def test_probes_are_answered_whatever_else_is_refused(make_settings, limits, sent):
    with TestClient(create_app(make_settings(root_path=ROOT, **limits))) as client:
        answers = [client.get(f"{sent}/{name}").status_code for name in ("health", "ready")]

    assert answers == [200, 200]


def test_the_way_to_https_keeps_the_path(make_settings):
    settings = make_settings(root_path=ROOT, force_https=True)
    with TestClient(create_app(settings), follow_redirects=False) as client:
        answer = client.get(f"{ROOT}/limits")

    assert answer.headers["location"] == f"https://testserver{ROOT}/limits"


def test_a_path_that_only_begins_alike_is_another(under, alice):
    assert under.get(f"{ROOT}s/jobs", headers=alice).status_code == 404


@pytest.mark.parametrize("path", ["/jobs", "/v1", "/v1/audio", "/admin"])
def test_no_path_of_our_own_can_be_the_proxys(make_settings, path):
    with pytest.raises(SettingsError, match=f"ROOT_PATH={path}: Input should be no path"):
        create_app(make_settings(root_path=path))
