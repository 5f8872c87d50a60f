"""Who may do what, for every route of the OpenAPI document: a new one cannot be left out."""

import uuid
from typing import Any

import pytest

from app import create_app
from config import Settings
from models import Scope
from tests.api.conftest import NOWHERE

#: What each operation needs. None: no key.
NEEDED = {
    ("get", "/health"): None,
    ("get", "/ready"): None,
    ("post", "/transcribe"): Scope.JOBS_WRITE,
    ("get", "/transcribe/{job_id}"): Scope.JOBS_READ,
    ("delete", "/transcribe/{job_id}"): Scope.JOBS_WRITE,
    ("get", "/jobs"): Scope.JOBS_READ,
    ("get", "/jobs/{job_id}"): Scope.JOBS_READ,
    ("patch", "/jobs/{job_id}"): Scope.JOBS_WRITE,
    ("delete", "/jobs/{job_id}"): Scope.JOBS_DELETE,
    ("post", "/jobs/{job_id}/cancel"): Scope.JOBS_WRITE,
    ("get", "/jobs/{job_id}/result"): Scope.JOBS_READ,
    ("get", "/jobs/{job_id}/audio"): Scope.JOBS_READ,
    ("get", "/admin/health"): Scope.ADMIN,
    ("get", "/admin/queues"): Scope.ADMIN,
    ("post", "/admin/queues/{name}/pause"): Scope.ADMIN,
    ("post", "/admin/queues/{name}/resume"): Scope.ADMIN,
    ("get", "/admin/errors"): Scope.ADMIN,
    ("post", "/admin/errors/{job_id}/retry"): Scope.ADMIN,
    ("post", "/admin/errors/{job_id}/resolve"): Scope.ADMIN,
}


def operations() -> list[tuple[str, str]]:
    paths = create_app(Settings(**NOWHERE)).openapi()["paths"]
    return [(method, path) for path, methods in paths.items() for method in methods]


OPERATIONS = operations()
GUARDED = [operation for operation in OPERATIONS if NEEDED.get(operation, Scope.ADMIN)]
OF_A_JOB = [
    (method, path)
    for method, path in OPERATIONS
    if "{job_id}" in path and not path.startswith("/admin")
]
OF_ANY_JOB = [operation for operation in OPERATIONS if "{job_id}" in operation[1]]


def call(client, operation, headers=None, job_id=None):
    method, path = operation
    body: dict[str, Any] = {"json": {}} if method == "patch" else {}
    if path == "/transcribe":
        body = {"files": {"file": ("a.mp3", b"sound")}}
    url = path.format(job_id=job_id or uuid.uuid4(), name="normal")
    return client.request(method, url, headers=headers, **body)


def told(answer):
    """A problem without what differs between any two."""
    return {k: v for k, v in answer.json().items() if k not in {"instance", "request_id"}}


@pytest.fixture
def failed_job(jobs):
    """A job of Alice's that every operation has something to do with."""
    job_id = jobs.failed()
    jobs.keep(job_id, b"sound")
    return job_id


def test_every_operation_says_what_it_needs():
    assert set(OPERATIONS) == set(NEEDED)


def test_what_is_not_documented_is_the_documentation_and_a_greeting(client):
    routers = [getattr(route, "original_router", None) for route in client.app.routes]
    routes = [
        *client.app.routes,
        *(route for router in routers if router for route in router.routes),
    ]
    paths = {route.path for route in routes if hasattr(route, "path")}

    assert paths - {path for _, path in OPERATIONS} == {"/", "/docs", "/openapi.json"}


@pytest.mark.parametrize("operation", GUARDED)
def test_nothing_is_done_without_a_key(client, failed_job, operation):
    answer = call(client, operation, job_id=failed_job)

    assert (answer.status_code, answer.json()["code"]) == (401, "not_authenticated")
    assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("operation", GUARDED)
@pytest.mark.parametrize("scope", Scope)
def test_a_key_does_what_its_scope_says_and_no_more(client, make_key, failed_job, operation, scope):
    answer = call(client, operation, make_key("alice", scopes=[scope]), failed_job)
    needed = NEEDED[operation]
    allowed = scope == needed or (scope is Scope.ADMIN and needed is Scope.JOBS_READ)

    assert (answer.status_code == 403) == (not allowed)
    if not allowed:
        assert (answer.json()["code"], answer.json()["scope"]) == ("not_allowed", needed)


@pytest.mark.parametrize("operation", OF_A_JOB)
def test_a_strangers_job_is_as_good_as_none(client, bob, failed_job, operation):
    strange = call(client, operation, bob, failed_job)
    random = call(client, operation, bob)

    assert strange.status_code == 404
    assert told(strange) == told(random)


@pytest.mark.parametrize("operation", OF_A_JOB)
def test_a_stranger_changes_nothing(client, bob, failed_job, jobs, operation):
    before = jobs.row(failed_job).__dict__
    call(client, operation, bob, failed_job)
    after = jobs.row(failed_job).__dict__

    assert {**before, "_sa_instance_state": 0} == {**after, "_sa_instance_state": 0}


@pytest.mark.parametrize("operation", OF_A_JOB)
def test_an_owner_gets_at_a_job(client, alice, failed_job, operation):
    # 409: there is such a job, but it has failed
    assert call(client, operation, alice, failed_job).status_code in {200, 204, 409}


@pytest.mark.parametrize("operation", OF_ANY_JOB)
def test_admin_gets_at_everybodys_jobs(client, admin, failed_job, operation):
    assert call(client, operation, admin, failed_job).status_code in {200, 202, 204, 409}


@pytest.mark.parametrize("operation", GUARDED)
@pytest.mark.parametrize(
    "headers",
    [
        {"X-API-Key": "unknown-but-long-enough"},
        {"Authorization": "Bearer unknown-but-long-enough"},
        {"Authorization": "Basic dXNlcjpwYXNz"},
        {"X-API-Key": ""},
    ],
)
def test_every_refused_key_is_answered_alike(client, failed_job, operation, headers):
    assert told(call(client, operation, headers, failed_job)) == told(call(client, operation))
