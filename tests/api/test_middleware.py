"""What every answer has, and who is not answered at all."""

import asyncio
import json
import logging
import re
from typing import Any

import pytest
from starlette.exceptions import HTTPException

from api.middleware import PaceMiddleware
from telemetry import configure_logging


def test_an_answer_carries_the_requests_own_id(client):
    answer = client.get("/jobs", headers={"X-Request-ID": "mine-1.2:3"})

    assert (answer.headers["x-request-id"], answer.json()["request_id"]) == (
        "mine-1.2:3",
        "mine-1.2:3",
    )


@pytest.mark.parametrize("sent", ["", "a b", "x" * 65, "<script>", "é", "-x", "a\tb"])
def test_an_id_that_is_none_is_replaced(client, sent):
    answer = client.get("/health", headers={"X-Request-ID": sent.encode()})

    assert re.fullmatch(r"[0-9a-f]{32}", answer.headers["x-request-id"])


def test_the_log_knows_the_requests_id(client, alice, capfd):
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    configure_logging("INFO", "json")
    try:
        client.get("/jobs", headers={**alice, "X-Request-ID": "mine"})
    finally:
        logging.captureWarnings(capture=False)
        root.handlers[:], root.level = handlers, level
    line = json.loads(capfd.readouterr().err.splitlines()[-1])

    assert (line["message"], line["request_id"]) == ("request answered", "mine")


def test_the_log_names_the_route_and_not_the_address(client, alice, caplog, jobs):
    caplog.set_level(logging.INFO)
    client.get(f"/jobs/{jobs.submit()}?canary=1", headers=alice)
    fields = caplog.records[-1].__dict__

    assert (fields["method"], fields["route"], fields["status"]) == ("GET", "/jobs/{job_id}", 200)
    assert "canary" not in str(fields)


def test_no_log_line_holds_key_name_or_prompt(client, alice, caplog):
    caplog.set_level(logging.DEBUG)
    client.post(
        "/transcribe/",
        headers=alice,
        files={"file": ("canary-name.mp3", b"sound")},
        data={"initial_prompt": "canary-prompt"},
    )
    ours = [
        str(record.__dict__)
        for record in caplog.records
        if record.name.split(".")[0] in {"api", "auth", "jobs", "celery_app", "database"}
    ]

    assert ours
    assert "canary" not in str(ours)
    assert alice["X-API-Key"] not in str(ours)


@pytest.mark.parametrize("path", ["/jobs/", "/transcribe/", "/health/", "/admin/health/"])
def test_a_slash_at_the_end_is_no_redirect(client, path):
    assert client.get(path, follow_redirects=False).status_code in {200, 401, 405}


# Bodies that arrive in drops


class Drops:
    """Gives a body byte by byte, with a pause before each."""

    def __init__(self, *, count: int, pause_seconds: float) -> None:
        self._left = count
        self._pause_seconds = pause_seconds

    async def __call__(self) -> dict[str, Any]:
        await asyncio.sleep(self._pause_seconds)
        self._left -= 1
        return {"type": "http.request", "body": b"x", "more_body": self._left > 0}


def received(drops: Drops, **pace: float) -> int:
    """How much of a body gets past the pace."""
    count = 0

    async def read(scope: Any, receive: Any, send: Any) -> None:
        nonlocal count
        more = True
        while more:
            message = await receive()
            count += len(message["body"])
            more = message["more_body"]

    async def send(message: Any) -> None: ...

    scope = {"type": "http", "headers": [(b"transfer-encoding", b"chunked")]}
    asyncio.run(PaceMiddleware(read, **pace)(scope, drops, send))
    return count


@pytest.mark.security("upload", "a body that arrives in drops")
def test_a_body_that_arrives_in_drops_is_given_up():
    drops = Drops(count=10_000, pause_seconds=0.001)

    with pytest.raises(HTTPException) as caught:
        received(drops, idle_seconds=60, grace_seconds=0.05, least_bytes_per_second=1e6)
    assert caught.value.status_code == 408


def test_a_body_that_arrives_fast_enough_is_taken():
    drops = Drops(count=100, pause_seconds=0.001)

    # every byte earns as much time as there is at all
    assert received(drops, idle_seconds=60, grace_seconds=60, least_bytes_per_second=0.01) == 100


def test_time_that_we_take_ourselves_does_not_count():
    async def read(scope: Any, receive: Any, send: Any) -> None:
        for _ in range(40):
            await receive()
            await asyncio.sleep(0.05)

    async def send(message: Any) -> None: ...

    scope = {"type": "http", "headers": [(b"transfer-encoding", b"chunked")]}
    pace = PaceMiddleware(read, idle_seconds=60, grace_seconds=0.5, least_bytes_per_second=1e9)
    # four times as long as there is for waiting
    asyncio.run(pace(scope, Drops(count=100, pause_seconds=0), send))
