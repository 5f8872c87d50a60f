"""Every error is a problem, and tells nothing that it should not."""

import asyncio
import json
import logging
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict
from starlette.testclient import TestClient

import errors
from api.errors import STATUS, ProblemMiddleware, status_of
from app import create_app
from errors import ServiceError

SECRET = "postgresql://user:password@host/db"


class Problem(BaseModel):
    model_config = ConfigDict(strict=True)

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    request_id: str


def subclasses(cls: type[ServiceError]) -> list[type[ServiceError]]:
    return [cls, *(below for child in cls.__subclasses__() for below in subclasses(child))]


@pytest.mark.parametrize("cls", subclasses(ServiceError))
def test_every_error_has_a_status(cls):
    assert 400 <= status_of(cls) <= 599


@pytest.mark.parametrize(
    ("cls", "status"),
    [
        (errors.BadCursor, 400),
        (errors.NotAuthenticated, 401),
        (errors.NotAllowed, 403),
        (errors.NotFound, 404),
        (errors.JobFinished, 409),
        (errors.UploadMissing, 410),
        (errors.UploadTooLarge, 413),
        (errors.UnknownModel, 422),
        (errors.EmptyFile, 422),
        (errors.LeaseLost, 500),
        (errors.DatabaseUnavailable, 503),
        (errors.DiskFull, 507),
    ],
)
def test_an_error_has_its_status(cls, status):
    assert status_of(cls) == status


def test_the_table_names_our_errors_only():
    assert set(STATUS) <= set(subclasses(ServiceError))


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "not_found"),
        ("GET", "/jobs//", 404, "not_found"),
        ("PUT", "/jobs", 405, "method_not_allowed"),
        ("TRACE", "/jobs", 405, "method_not_allowed"),
        ("POST", "/health", 405, "method_not_allowed"),
        ("GET", "/jobs", 401, "not_authenticated"),
    ],
)
def test_the_routers_errors_are_problems(client, method, path, status, code):
    answer = client.request(method, path)

    assert answer.headers["content-type"] == "application/problem+json"
    assert Problem(**answer.json()).code == code
    assert answer.status_code == answer.json()["status"] == status


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/jobs", "GET"),
        ("/jobs/x", "DELETE, GET, PATCH"),
        ("/transcribe/x", "DELETE, GET"),
        ("/jobs/x/audio", "GET, HEAD"),
    ],
)
def test_a_method_that_is_not_allowed_is_told_those_that_are(client, path, allowed):
    assert client.put(path).headers["allow"] == allowed


@pytest.fixture
def broken(settings):
    """A client of an app with routes that fail."""

    def crash() -> None:
        raise RuntimeError(SECRET)

    def fail() -> None:
        raise errors.LeaseLost(SECRET)

    def refuse() -> None:
        raise errors.CapacityError("Busy.", retry_after_seconds=7)

    app = create_app(settings)
    for route in (crash, fail, refuse):
        app.add_api_route(f"/{route.__name__}", route)
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


@pytest.mark.parametrize("path", ["/crash", "/fail"])
def test_what_nobody_expected_is_told_to_nobody(broken, path):
    answer = broken.get(path)

    assert (answer.status_code, Problem(**answer.json()).code) == (500, "internal_error")
    assert "password" not in answer.text


def test_what_nobody_expected_is_in_the_log(broken, caplog):
    broken.get("/crash")

    (record,) = [r for r in caplog.records if r.exc_info and r.levelno == logging.ERROR]
    assert SECRET in str(record.exc_info)


def test_an_error_has_the_headers_of_every_answer(broken):
    assert broken.get("/crash").headers["x-content-type-options"] == "nosniff"


def test_an_error_can_say_when_to_try_again(broken):
    answer = broken.get("/refuse")

    assert (answer.status_code, answer.headers["retry-after"]) == (503, "7")
    assert "retry_after_seconds" not in answer.json()


async def stopped(app: Any) -> list[dict[str, Any]]:
    """What is sent when the server stops waiting for an app."""
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "path": "/jobs", "state": {}}
    task = asyncio.create_task(ProblemMiddleware(app)(scope, receive, send))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    return sent


async def receive() -> Any:
    await asyncio.Event().wait()


async def hang(scope: Any, receive: Any, send: Any) -> None:
    await receive()


async def begin_and_hang(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await receive()


def test_who_waits_when_the_server_stops_is_told():
    start, body = asyncio.run(stopped(hang))

    assert (start["status"], json.loads(body["body"])["code"]) == (503, "unavailable")


def test_an_answer_that_was_begun_is_not_followed_by_another():
    assert [message["type"] for message in asyncio.run(stopped(begin_and_hang))] == [
        "http.response.start"
    ]
