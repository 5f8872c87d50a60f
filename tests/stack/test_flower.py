"""Flower, beside the service: it shows what the dead letter queue did."""

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.stack.conftest import Stack, wait_for

pytestmark = [pytest.mark.stack, pytest.mark.model]

AUTH = ("admin", "a-password")


@pytest.fixture
def flower(stack: Stack) -> Iterator[httpx2.Client]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    stack.start(
        "flower",
        *("-m", "celery", "-A", "celery_app", "flower", "--address=127.0.0.1", f"--port={port}"),
        FLOWER_BASIC_AUTH=":".join(AUTH),
    )
    with httpx2.Client(
        base_url=f"http://127.0.0.1:{port}", auth=AUTH, timeout=30, trust_env=False
    ) as client:
        wait_for(lambda: tasks(client) is not None, "Flower answers")
        yield client


def tasks(client: httpx2.Client) -> list[dict[str, Any]] | None:
    try:
        answer = client.get("/api/tasks")
    except httpx2.HTTPError:
        return None
    return list(answer.json().values()) if answer.status_code == httpx2.codes.OK else None


def test_flower_shows_the_failed_attempt_and_the_dead_letter(
    stack: Stack, flower: httpx2.Client
) -> None:
    maintenance = stack.maintenance()
    stack.worker()
    wait_for(lambda: len(flower.get("/api/workers?status=true").json()) == 2, "Flower knows both")
    job_id = str(stack.submit(Path(__file__), ring=False))
    wait_for(lambda: maintenance.said("job given up"), "the dead letter is noted")

    def shown() -> dict[str, dict[str, Any]] | None:
        found = {
            task["name"]: task
            for task in tasks(flower) or ()
            if job_id in str(task["args"]) and task["state"] in {"SUCCESS", "FAILURE"}
        }
        return found if len(found) == 2 else None

    found = wait_for(shown, "Flower shows both tasks")
    workers = flower.get("/api/workers", params={"refresh": "true"}).json()
    attempt, dead_letter = found["tasks.transcribe"], found["tasks.dead_letter"]
    queues = [queue["name"] for queue in workers[dead_letter["worker"]]["active_queues"]]
    assert (attempt["state"], attempt["exception"]) == ("FAILURE", "AttemptFailed('not_audio')")
    assert (dead_letter["state"], queues) == ("SUCCESS", ["dlq"])
