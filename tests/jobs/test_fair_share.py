"""Keys take turns, by their weight and by what they have in hand already."""

import uuid
from collections import Counter
from collections.abc import Callable

import pytest
from sqlalchemy import update
from sqlalchemy.orm import Session, sessionmaker

import keys
from jobs import dispatching
from keys import Grant
from models import TranscriptionJob
from tests.jobs.conftest import MakeJob, claim

Sessions = sessionmaker[Session]
MakeKey = Callable[..., uuid.UUID]
#: Dispatches; returns how many of each key, and of None.
Share = Callable[..., dict[uuid.UUID | None, int]]


@pytest.fixture
def make_key(sessions: Sessions, owner_id: uuid.UUID) -> MakeKey:
    def make(weight: float = 1.0) -> uuid.UUID:
        with sessions.begin() as session:
            return keys.create(session, Grant(owner="alice", weight=weight))[1].id

    return make


@pytest.fixture
def share(sessions: Sessions) -> Share:
    def dispatch(room: int, *, window: int = 8) -> dict[uuid.UUID | None, int]:
        with sessions.begin() as session:
            due = dispatching.dispatch(
                session, "normal", room=room, redispatch_seconds=60, window=window
            )
            chosen = [session.get_one(TranscriptionJob, job.job_id) for job in due]
            return Counter(job.api_key_id for job in chosen)

    return dispatch


def test_keys_take_turns_however_much_one_has_waiting(
    make_job: MakeJob, make_key: MakeKey, share: Share
) -> None:
    flood, other = make_key(), make_key()
    for _ in range(20):
        make_job(api_key_id=flood)
    for _ in range(2):
        make_job(api_key_id=other)

    assert share(4) == {flood: 2, other: 2}


def test_a_key_takes_what_the_others_leave(
    make_job: MakeJob, make_key: MakeKey, share: Share
) -> None:
    flood, other = make_key(), make_key()
    for _ in range(5):
        make_job(api_key_id=flood)
    make_job(api_key_id=other)

    assert share(4) == {flood: 3, other: 1}


def test_of_one_key_the_oldest_goes_first(
    make_job: MakeJob, make_key: MakeKey, sessions: Sessions
) -> None:
    key = make_key()
    oldest, *_ = [make_job(api_key_id=key).id for _ in range(3)]
    with sessions.begin() as session:
        due = dispatching.dispatch(session, "normal", room=1, redispatch_seconds=60)

    assert [job.job_id for job in due] == [oldest]


@pytest.mark.parametrize(("weight", "heavy", "light"), [(1, 3, 3), (2, 4, 2), (5, 5, 1)])
def test_a_heavier_key_gets_more(
    make_job: MakeJob, make_key: MakeKey, share: Share, weight: float, heavy: int, light: int
) -> None:
    first, second = make_key(), make_key(weight)
    for _ in range(10):
        make_job(api_key_id=first)
        make_job(api_key_id=second)

    assert share(6) == {first: light, second: heavy}


def test_what_a_key_has_running_counts_as_turns_it_had(
    make_job: MakeJob, make_key: MakeKey, share: Share, sessions: Sessions
) -> None:
    busy, idle = make_key(), make_key()
    for _ in range(2):
        claim(sessions, make_job(api_key_id=busy).id)
    for _ in range(5):
        make_job(api_key_id=busy)
        make_job(api_key_id=idle)

    assert share(4) == {busy: 1, idle: 3}


def test_messages_of_a_key_that_lie_in_the_lane_count_too(
    make_job: MakeJob, make_key: MakeKey, share: Share
) -> None:
    early, late = make_key(), make_key()
    for _ in range(10):
        make_job(api_key_id=early)
    share(2)
    for _ in range(10):
        make_job(api_key_id=late)

    assert share(4) == {early: 1, late: 3}


def test_jobs_without_a_key_take_turns_as_one_key_does(
    make_job: MakeJob, make_key: MakeKey, share: Share
) -> None:
    key = make_key()
    for _ in range(5):
        make_job()
        make_job(api_key_id=key)

    assert share(4) == {None: 2, key: 2}


def test_keys_of_one_owner_take_turns_too(
    make_job: MakeJob, make_key: MakeKey, share: Share, sessions: Sessions
) -> None:
    first, second = make_key(), make_key()
    for _ in range(9):
        make_job(api_key_id=first)
    job = make_job(api_key_id=second)

    assert share(2) == {first: 1, second: 1}
    assert job.owner_id is not None


def test_what_waits_for_lost_messages_does_not_keep_the_rest_of_its_key(
    make_job: MakeJob, make_key: MakeKey, share: Share
) -> None:
    key = make_key()
    for _ in range(40):
        make_job(api_key_id=key)
    for _ in range(9):
        share(4, window=1)

    assert share(4, window=1) == {key: 4}


def test_a_job_that_is_not_due_takes_no_turn(
    make_job: MakeJob, make_key: MakeKey, share: Share, sessions: Sessions
) -> None:
    key = make_key()
    later, now = (make_job(api_key_id=key).id for _ in range(2))
    with sessions.begin() as session:
        not_before = TranscriptionJob.not_before + keys.GRACE
        session.execute(
            update(TranscriptionJob)
            .where(TranscriptionJob.id == later)
            .values(not_before=not_before)
        )
        due = dispatching.dispatch(session, "normal", room=4, redispatch_seconds=60)

    assert [job.job_id for job in due] == [now]
