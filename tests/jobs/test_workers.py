"""What processes say of themselves, on real PostgreSQL."""

from dataclasses import replace

import pytest
from sqlalchemy import select, text
from sqlalchemy.orm import Session, sessionmaker

from jobs import workers
from jobs.workers import FORGET_SECONDS, SILENT_SECONDS, WorkerState
from models import Worker

Sessions = sessionmaker[Session]
STATE = WorkerState(
    name="host:1:ab", role="worker", version="3.0.0", queues=("high", "normal"), slots=2
)


def announce(sessions: Sessions, *states: WorkerState) -> None:
    for state in states:
        with sessions.begin() as session:
            workers.announce(session, state)


def names(sessions: Sessions) -> list[str]:
    with sessions() as session:
        return list(session.scalars(select(Worker.name).order_by(Worker.name)))


def live_slots(sessions: Sessions) -> int:
    with sessions() as session:
        return workers.live_slots(session)


def silence(sessions: Sessions, seconds: float) -> None:
    with sessions.begin() as session:
        session.execute(
            text("UPDATE workers SET seen_at = now() - make_interval(secs => :seconds)"),
            {"seconds": seconds},
        )


def test_a_process_is_listed_as_it_says(sessions: Sessions) -> None:
    announce(sessions, replace(STATE, running=1, pool={"hits": 3}))
    with sessions() as session:
        row = session.scalars(select(Worker)).one()

    assert (row.name, row.role, row.queues) == ("host:1:ab", "worker", ["high", "normal"])
    assert (row.slots, row.running, row.draining_since, row.pool) == (2, 1, None, {"hits": 3})


def test_saying_it_again_renews_what_changes_and_keeps_the_start(sessions: Sessions) -> None:
    announce(sessions, STATE)
    silence(sessions, 30)
    with sessions() as session:
        before = session.scalars(select(Worker)).one()
    announce(sessions, replace(STATE, running=2, draining=True, pool={"hits": 4}))
    with sessions() as session:
        after = session.scalars(select(Worker)).one()

    assert (after.running, after.pool) == (2, {"hits": 4})
    assert after.draining_since is not None
    assert after.started_at == before.started_at
    assert after.seen_at > before.seen_at


def test_slots_of_all_living_workers_count(sessions: Sessions) -> None:
    announce(sessions, STATE, replace(STATE, name="host:2:cd", slots=3))

    assert live_slots(sessions) == 5


def test_without_workers_there_are_no_slots(sessions: Sessions) -> None:
    assert live_slots(sessions) == 0


@pytest.mark.parametrize(
    "state", [replace(STATE, draining=True), replace(STATE, role="maintenance")]
)
def test_slots_that_take_no_jobs_do_not_count(state: WorkerState, sessions: Sessions) -> None:
    announce(sessions, state)

    assert live_slots(sessions) == 0


# -7200: PostgreSQL's clock was set back by two hours since it was seen


@pytest.mark.parametrize(("off", "slots"), [(-10, 2), (10, 0), (-7200, 0)])
def test_a_silent_worker_stops_counting(off: float, slots: int, sessions: Sessions) -> None:
    announce(sessions, STATE)
    silence(sessions, SILENT_SECONDS + off)

    assert live_slots(sessions) == slots


def test_who_takes_leave_stops_counting(sessions: Sessions) -> None:
    announce(sessions, replace(STATE, running=1), replace(STATE, name="host:2:cd", slots=3))
    with sessions.begin() as session:
        workers.leave(session, STATE.name)
        row = session.get_one(Worker, STATE.name)

    assert live_slots(sessions) == 3
    assert row.left_at is not None
    assert row.running == 0


@pytest.mark.parametrize(("off", "left"), [(-60, 1), (60, 0), (-7200, 0)])
def test_who_is_gone_is_forgotten_after_a_while(off: float, left: int, sessions: Sessions) -> None:
    announce(sessions, STATE)
    silence(sessions, FORGET_SECONDS + off)
    with sessions.begin() as session:
        workers.forget_silent(session)

    assert len(names(sessions)) == left
