"""The facts that conditions are judged by, as PostgreSQL tells them."""

import time
import uuid
from dataclasses import replace
from datetime import datetime

import pytest
from sqlalchemy import func, select, text
from sqlalchemy.orm import Session, sessionmaker

from jobs import dispatching, lifecycle, queues, vitals, workers
from jobs.conditions import Facts, LaneFacts, ProcessFacts
from jobs.lifecycle import Beat, Lease
from jobs.queries import LATE_SECONDS, PUBLISHED_AGAIN
from jobs.vitals import Outside
from jobs.workers import WorkerState
from models import TranscriptionJob, Webhook, WebhookDelivery
from tests.jobs.conftest import WINDOW, MakeJob, claim

Sessions = sessionmaker[Session]
OUTSIDE = Outside(redis=True, pool_used=0, pool_size=20, disk=None)
STATE = WorkerState(
    name="host:1:ab", role="worker", version="3.0.0", queues=("high", "normal"), slots=2
)


def look(sessions: Sessions) -> Facts:
    with sessions() as session:
        return vitals.read(
            session, OUTSIDE, lane_names=("high", "normal", "retry"), lease_seconds=60
        ).facts


def normal(sessions: Sessions) -> LaneFacts:
    return look(sessions).lanes[1]


def let_pass(sessions: Sessions, seconds: float) -> None:
    """Move all that is written about jobs and workers into the past."""
    with sessions.begin() as session:
        for table, columns in {
            "transcription_jobs": ("not_before", "dispatch_due_at", "heartbeat_at"),
            "workers": ("seen_at", "idle_since", "draining_since", "left_at"),
        }.items():
            changes = ", ".join(f"{name} = {name} - :passed" for name in columns)
            session.execute(
                text(f"UPDATE {table} SET {changes}".replace(":passed", f"interval '{seconds} s'"))
            )


def publish(sessions: Sessions) -> None:
    with sessions.begin() as session:
        dispatching.dispatch(session, "normal", room=10, redispatch_seconds=1)


# Lanes


def test_where_nothing_waits_nothing_is_due(sessions: Sessions, make_job: MakeJob) -> None:
    make_job("processing")
    make_job("delayed")

    assert (normal(sessions).due_since, normal(sessions).left_since) == (None, None)


def test_the_one_that_waits_longest_is_told(sessions: Sessions, make_job: MakeJob) -> None:
    job = make_job()
    make_job()

    assert normal(sessions).due_since == job.not_before


def test_a_job_that_nobody_publishes_was_left(sessions: Sessions, make_job: MakeJob) -> None:
    make_job()
    let_pass(sessions, LATE_SECONDS - 5)
    before = normal(sessions).left_since
    let_pass(sessions, 10)

    assert (before, normal(sessions).left_since is not None) == (None, True)


def test_a_job_that_is_published_again_and_again_was_left(
    sessions: Sessions, make_job: MakeJob
) -> None:
    make_job()
    seen = []
    for _ in range(PUBLISHED_AGAIN):
        let_pass(sessions, 100)
        publish(sessions)
        seen.append(normal(sessions).left_since is not None)

    assert seen == [False] * (PUBLISHED_AGAIN - 1) + [True]


def test_when_a_queue_was_paused_and_resumed_is_told(sessions: Sessions) -> None:
    with sessions.begin() as session:
        queues.pause(session, ["normal"], paused_by=None, note=None)
    paused = normal(sessions)
    with sessions.begin() as session:
        queues.resume(session, ["normal"])
    resumed = normal(sessions)

    assert paused.paused_at is not None
    assert resumed.resumed_at is not None
    assert (paused.resumed_at, resumed.paused_at) == (None, None)


# Workers


def announce(sessions: Sessions, state: WorkerState) -> ProcessFacts:
    with sessions.begin() as session:
        workers.announce(session, state)
    (process,) = look(sessions).processes
    return process


def test_a_worker_is_idle_since_it_had_a_slot_and_began_nothing(sessions: Sessions) -> None:
    first = announce(sessions, STATE).idle_since
    second = announce(sessions, replace(STATE, running=1)).idle_since

    assert first is not None
    assert second == first


@pytest.mark.parametrize("change", [{"running": 1, "begun": 1}, {"begun": 1}])
def test_a_worker_that_began_something_was_not_idle_until_then(
    sessions: Sessions, change: dict[str, int]
) -> None:
    before = announce(sessions, STATE).idle_since
    after = announce(sessions, replace(STATE, **change)).idle_since  # type: ignore[arg-type]

    assert before is not None
    assert after is not None
    assert after > before


def test_a_worker_without_a_free_slot_is_not_idle(sessions: Sessions) -> None:
    announce(sessions, STATE)
    busy = announce(sessions, replace(STATE, running=2, begun=2)).idle_since
    free = announce(sessions, replace(STATE, running=1, begun=2)).idle_since

    assert busy is None
    assert free is not None


def test_draining_is_told_since_when_it_began(sessions: Sessions) -> None:
    first = announce(sessions, replace(STATE, draining=True)).draining_since
    second = announce(sessions, replace(STATE, draining=True)).draining_since

    assert first is not None
    assert second == first


def test_who_took_leave_is_known_for_a_while(sessions: Sessions) -> None:
    announce(sessions, STATE)
    with sessions.begin() as session:
        workers.leave(session, STATE.name)
    (process,) = look(sessions).processes

    assert process.left_at is not None


# Leases


def still_since(sessions: Sessions) -> list[datetime]:
    return [lease.since for lease in look(sessions).still]


def lease_of(job: TranscriptionJob) -> Lease:
    return Lease(job_id=job.id, epoch=job.lease_epoch, worker_name="w1", attempt=1)


def test_a_lease_without_heartbeats_is_seen_with_its_job_and_worker(
    sessions: Sessions, make_job: MakeJob
) -> None:
    lease = claim(sessions, make_job().id, "w7").lease
    before = still_since(sessions)
    let_pass(sessions, 31)
    (found,) = look(sessions).still

    assert before == []
    assert (found.job_id, found.worker_name) == (lease.job_id, "w7")


@pytest.mark.parametrize("sign", ["heartbeat", "window"])
def test_a_lease_that_shows_signs_of_life_is_not_still(
    sessions: Sessions, make_job: MakeJob, sign: str
) -> None:
    lease = lease_of(make_job("processing"))
    let_pass(sessions, 1000)
    with sessions.begin() as session:
        if sign == "heartbeat":
            lifecycle.heartbeat(session, [Beat(lease=lease, progress=0.1)])
        else:
            lifecycle.save_window(session, lease, 0, WINDOW, progress=0.1, model_used="m")

    assert still_since(sessions) == []


# The chain of audit events


def test_what_maintenance_found_broken_is_told_with_when(sessions: Sessions) -> None:
    for broken in (None, "changed at 3", "changed at 3"):
        with sessions.begin() as session:
            workers.announce(session, replace(STATE, audit_broken=broken))
    (process,) = look(sessions).processes

    assert process.audit_broken == "changed at 3"
    assert process.audit_broken_since is not None
    assert process.started_at < process.audit_broken_since < process.seen_at


# Clocks


@pytest.mark.parametrize("off", [-3600.0, 0.0, 3600.0])
def test_our_clock_is_held_beside_the_databases(sessions: Sessions, off: float) -> None:
    with sessions() as session:
        found = vitals.clock_ahead_seconds(session, clock=lambda: time.time() + off)

    assert found == pytest.approx(off, abs=60)


@pytest.mark.parametrize("off", [-3600.0, 0.0, 3600.0])
def test_a_workers_clock_is_held_beside_the_databases(sessions: Sessions, off: float) -> None:
    with sessions.begin() as session:
        workers.announce(session, STATE, clock=lambda: time.time() + off)
    (process,) = look(sessions).processes

    assert process.clock_ahead_seconds == pytest.approx(off, abs=60)


# Webhooks


def test_since_when_the_first_webhook_is_to_be_called_is_told(
    sessions: Sessions, owner_id: uuid.UUID, make_job: MakeJob
) -> None:
    with sessions.begin() as session:
        webhook = Webhook(owner_id=owner_id, url="https://receiver.test/", events=["job.completed"])
        session.add(webhook)
    before = look(sessions).call_due_since
    make_job("completed")
    make_job("completed")
    with sessions() as session:
        first = session.scalar(select(func.min(WebhookDelivery.not_before)))
    due = look(sessions).call_due_since
    with sessions.begin() as session:
        found = session.get_one(Webhook, webhook.id)
        found.disabled_at, found.disabled_reason = first, "client"

    assert (before, due) == (None, first)
    assert look(sessions).call_due_since is None
