"""/admin/health of running processes: green while they work, and red for what is true of them."""

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from sqlalchemy import func, select, text

from audit.events import CLI, record
from models import AuditAction, AuditEvent
from tests.recordings import SAMPLES, repeated
from tests.stack.conftest import Stack, wait_for

pytestmark = [pytest.mark.stack, pytest.mark.model]

KEY = "an-operators-own-words"
SHORT = SAMPLES / "digits-en.wav"


@pytest.fixture
def patient(stack: Stack) -> None:
    """Leases that last though the machine is busy."""
    stack.environment["LEASE_SECONDS"] = "60"


@pytest.fixture
def client(stack: Stack) -> Iterator[httpx2.Client]:
    _, url = stack.web(API_KEYS=KEY)
    with httpx2.Client(
        base_url=url, headers={"X-API-Key": KEY}, timeout=30, trust_env=False
    ) as client:
        wait_for(lambda: answers(client), "the web process answers")
        yield client


def answers(client: httpx2.Client) -> bool:
    try:
        return client.get("/ready").status_code == httpx2.codes.OK
    except httpx2.HTTPError:
        return False


def health(client: httpx2.Client) -> dict[str, Any]:
    seen: dict[str, Any] = client.get("/admin/health").raise_for_status().json()
    return seen


def codes(client: httpx2.Client) -> list[str]:
    return [condition["code"] for condition in health(client)["conditions"]]


@pytest.mark.usefixtures("patient")
def test_all_is_well_while_jobs_run_and_a_worker_is_replaced(
    stack: Stack, client: httpx2.Client, tmp_path: Path
) -> None:
    stack.maintenance()
    worker = stack.worker(CELERY_CONCURRENCY="1")
    recording = repeated("digits-en.wav", 6, tmp_path / "a.wav")
    jobs = [stack.submit(recording, ring=False) for _ in range(6)]
    seen: list[str] = []

    def ended(count: int) -> bool:
        seen.extend(codes(client))
        return sum(stack.job(job_id).status == "completed" for job_id in jobs) >= count

    wait_for(lambda: ended(2), "some jobs are done")
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0
    seen.extend(codes(client))
    stack.worker(CELERY_CONCURRENCY="1")
    wait_for(lambda: ended(6), "all jobs are done")

    assert seen == []
    (shown,) = [worker for worker in health(client)["workers"] if worker["role"] == "worker"]
    assert shown["begun"] >= 4
    assert (shown["alive"], shown["version"]) == (True, health(client)["version"])
    assert abs(shown["clock_ahead_seconds"]) < 5


def test_a_job_of_a_frozen_worker_is_seen_until_the_worker_thaws(
    stack: Stack, client: httpx2.Client, tmp_path: Path
) -> None:
    worker = stack.worker()
    job_id = stack.submit(repeated("digits-en.wav", 60, tmp_path / "long.wav"))
    stack.wait_for_windows(job_id, 1)
    worker.signal(signal.SIGSTOP)
    wait_for(lambda: "lease_still" in codes(client), "the lease stands still")
    (lease,) = health(client)["still_leases"]
    told = [c for c in health(client)["conditions"] if c["code"] == "lease_still"]

    assert lease["job_id"] == str(job_id)
    assert lease["worker"] == stack.job(job_id).worker_name
    assert str(job_id) in told[0]["message"]
    assert client.get("/admin/health?fail_on=unhealthy").status_code == 503
    worker.signal(signal.SIGCONT)
    wait_for(lambda: health(client)["still_leases"] == [], "it beats again")


@pytest.mark.security("audit", "the end of the chain cut off by a superuser, shown to operators")
def test_a_chain_of_audit_events_that_was_cut_is_red(stack: Stack, client: httpx2.Client) -> None:
    stack.maintenance()
    with stack.sessions.begin() as session:
        for _ in range(3):
            record(session, CLI, AuditAction.QUEUE_PAUSED)
    wait_for(lambda: sealed(stack) >= 3, "maintenance seals the events")
    with stack.sessions.begin() as session:
        session.execute(text("ALTER TABLE audit_events DISABLE TRIGGER USER"))
        session.execute(text("DELETE FROM audit_events WHERE position > 1"))
        session.execute(text("ALTER TABLE audit_events ENABLE TRIGGER USER"))
    wait_for(lambda: "audit_broken" in codes(client), "the operators are told")
    (told,) = [c for c in health(client)["conditions"] if c["code"] == "audit_broken"]

    assert told["message"].startswith("The chain of audit events is broken: cut at ")
    assert told["since"] is not None
    assert client.get("/admin/health?fail_on=unhealthy").status_code == 503


def sealed(stack: Stack) -> int:
    with stack.sessions() as session:
        return session.scalar(select(func.max(AuditEvent.position))) or 0
