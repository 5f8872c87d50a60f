"""Audit events of several processes at once make one chain, which verifies."""

import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest
from sqlalchemy import func, select

import keys
from audit import chain
from keys import Grant
from models import AuditEvent, Scope
from tests.stack.conftest import Stack, wait_for

pytestmark = pytest.mark.stack

JOBS = 40
CLIENTS = 8


@pytest.fixture
def urls(stack: Stack) -> list[str]:
    started = [stack.web() for _ in range(2)]

    def all_serve() -> bool:
        return all(process.said("Uvicorn running") for process, _ in started)

    wait_for(all_serve, "both web processes serve")
    return [url for _, url in started]


@pytest.fixture
def make_key(stack: Stack) -> Callable[..., dict[str, str]]:
    def make(owner: str, **values: object) -> dict[str, str]:
        with stack.sessions.begin() as session:
            return {"X-API-Key": keys.create(session, Grant(owner=owner, **values))[0]}  # type: ignore[arg-type]

    return make


def counts(stack: Stack) -> Counter[str]:
    with stack.sessions() as session:
        rows = session.execute(
            select(AuditEvent.action, func.sum(AuditEvent.count)).group_by(AuditEvent.action)
        )
        return Counter({action: int(count) for action, count in rows})


def verdict(stack: Stack) -> chain.Verdict:
    with stack.sessions() as session:
        return chain.verify(session)


def run_cli(stack: Stack, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "cli.py", *arguments],
        cwd=stack.code,
        env=stack.environment,
        capture_output=True,
        text=True,
    )


def test_two_webs_and_two_maintenances_one_of_them_killed_make_one_chain(
    stack: Stack, urls: list[str], make_key: Callable[..., dict[str, str]]
) -> None:
    doomed, _ = (stack.maintenance() for _ in range(2))
    alice, admin = make_key("alice"), make_key("root", scopes=tuple(Scope))

    def live(number: int) -> None:
        """Submit, ask, be refused, cancel, and have another process delete it."""
        with httpx2.Client(base_url=urls[number % 2], timeout=120) as client:
            files = {"file": ("a.mp3", b"sound")}
            job = client.post("/transcribe", files=files, headers=alice).json()["id"]
            client.get(f"/jobs/{job}", headers=alice)
            client.get(f"/jobs/{job}", headers={"X-API-Key": "unknown-but-long-enough"})
            client.post(f"/jobs/{job}/cancel", headers=alice)
        with httpx2.Client(base_url=urls[1 - number % 2], timeout=120) as client:
            assert client.delete(f"/jobs/{job}", headers=admin).status_code == 204

    with ThreadPoolExecutor(CLIENTS) as threads:
        lives = threads.map(live, range(JOBS))
        next(lives)
        doomed.kill()
        list(lives)
    for process in stack.processes[:2]:
        process.popen.terminate()
        process.wait()
    wait_for(lambda: verdict(stack).waiting == 0, "all events are sealed")
    found = counts(stack)

    assert found["job_submitted"] == found["job_cancelled"] == found["job_deleted"] == JOBS
    assert found["denied"] == JOBS
    # two keys, two processes, and again in each minute that it takes
    assert 4 <= found["key_used"] < JOBS
    assert verdict(stack).broken is None
    assert run_cli(stack, "audit", "verify").returncode == 0


@pytest.mark.security("audit", "the end cut off, beside the head in the log")
def test_an_end_that_was_cut_off_shows_beside_the_head_in_the_log(stack: Stack) -> None:
    for _ in range(3):
        assert run_cli(stack, "queues", "resume", "high").returncode == 0
    maintenance = stack.maintenance()
    wait_for(lambda: maintenance.said("audit events sealed"), "the head is in the log")
    (line,) = [
        line
        for line in maintenance.log.read_text("utf-8").splitlines()
        if "audit events sealed" in line
    ]
    head = line.partition("head=")[2].split()[0]
    assert run_cli(stack, "audit", "verify", "--head", head).returncode == 0
    maintenance.kill()
    with stack.sessions.begin() as session:
        connection = session.connection()
        connection.exec_driver_sql("ALTER TABLE audit_events DISABLE TRIGGER USER")
        connection.exec_driver_sql("DELETE FROM audit_events WHERE position = 3")
        connection.exec_driver_sql("ALTER TABLE audit_events ENABLE TRIGGER USER")

    assert run_cli(stack, "audit", "verify").returncode == 0
    assert run_cli(stack, "audit", "verify", "--head", head).returncode == 1
