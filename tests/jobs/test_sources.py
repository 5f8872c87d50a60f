"""Jobs whose upload is not here yet: passed by, whoever looks for jobs or for files."""

import uuid
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import func, text, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, sessionmaker

from backups.tables import _NEEDED
from jobs import clock, dispatching, lifecycle, retention, sources, vitals
from jobs.lifecycle import Backoff, Redrive
from jobs.uploads import UploadStore
from maintenance import UNPROBED
from models import NOT_YET, UploadFetch
from tests.jobs.conftest import FAILURE, MakeJob, read

Sessions = sessionmaker[Session]
PAUSE = Backoff(base_seconds=1.0, cap_seconds=10.0)


@pytest.fixture
def old(make_job: MakeJob, sessions: Sessions) -> uuid.UUID:
    """A job that has waited for its upload for an hour."""
    job_id = make_job("fetching").id
    with sessions.begin() as session:
        session.execute(
            text("UPDATE transcription_jobs SET created_at = now() - interval '1 hour'")
        )
    return job_id


def test_nobody_publishes_it(old: uuid.UUID, sessions: Sessions) -> None:
    with sessions.begin() as session:
        due = dispatching.dispatch(session, "normal", room=5, redispatch_seconds=60)
        overtaking = dispatching.overtake(
            session, "normal", too_long_seconds=0, redispatch_seconds=60
        )
        lost = dispatching.redispatch_all(session)

    assert (due, overtaking, lost.count) == ([], None, 0)


def test_its_wait_is_not_taken_for_a_clock_that_was_set_back(
    old: uuid.UUID, sessions: Sessions
) -> None:
    with sessions.begin() as session:
        shortened = clock.shorten_waits(session, lanes=["normal"], longest=PAUSE)

    assert shortened == 0
    assert read(sessions, old).not_before == NOT_YET


def test_after_a_restore_it_still_waits(old: uuid.UUID, sessions: Sessions) -> None:
    with sessions.begin() as session:
        lifecycle.void(session)
        claimed = lifecycle.claim(session, old, "w1")

    assert claimed is None


def test_the_database_itself_refuses_to_have_it_begun(old: uuid.UUID, sessions: Sessions) -> None:
    with sessions.begin() as session:
        session.execute(text("UPDATE transcription_jobs SET not_before = now()"))
        claims = [
            lifecycle.claim(session, old, "w1"),
            lifecycle.claim_next(session, ["normal"], "w1"),
        ]
    begin = "UPDATE transcription_jobs SET status = 'processing', worker_name = 'w1'"
    with pytest.raises(IntegrityError, match="awaited_before_begun"), sessions.begin() as session:
        session.execute(text(begin))

    assert claims == [None, None]


def test_its_upload_is_not_missed(old: uuid.UUID, sessions: Sessions, tmp_path: Path) -> None:
    store = UploadStore(tmp_path, max_bytes=10, min_free_bytes=0)
    store.prepare()
    with sessions.begin() as session:
        looked_for = [
            *retention.should_be_stored(session, retention.WAITING, after=uuid.UUID(int=0)),
            *session.scalars(UNPROBED),
            *session.scalars(_NEEDED),
        ]

    assert looked_for == []


def test_one_that_nobody_wants_any_more_is_an_orphan(old: uuid.UUID, sessions: Sessions) -> None:
    with sessions.begin() as session:
        before = retention.orphans(session, [old])
        lifecycle.cancel(session, old)
        after = retention.orphans(session, [old])

    assert (before, after) == (set(), {old})


def test_sent_round_again_it_is_fetched_from_now(old: uuid.UUID, sessions: Sessions) -> None:
    with sessions.begin() as session:
        source = sources.claim(session)
        assert source is not None
        lifecycle.fail_fetch(session, old, source.holder, FAILURE, reason="attempts_exhausted")
    with sessions.begin() as session:
        none = sources.claim(session)
        lifecycle.redrive(session, [old], Redrive(max_attempts=3))
    with sessions.begin() as session:
        again = sources.claim(session)

    assert none is None
    assert again is not None
    assert (again.failures, again.here_bytes) == (0, 0)
    assert again.age_seconds < 60


@pytest.mark.parametrize("hours", [-1, 100])
def test_one_that_is_due_is_taken_whatever_its_clock_says(
    old: uuid.UUID, sessions: Sessions, hours: int
) -> None:
    with sessions.begin() as session:
        session.execute(update(UploadFetch).values(due_at=func.now() + timedelta(hours=hours)))
        taken = sources.claim(session)

    assert taken is not None


def test_one_that_waits_is_left(old: uuid.UUID, sessions: Sessions) -> None:
    with sessions.begin() as session:
        session.execute(update(UploadFetch).values(due_at=func.now() + timedelta(minutes=1)))
        taken = sources.claim(session)

    assert taken is None


def test_somebody_is_missed_who_would_fetch_it(old: uuid.UUID, sessions: Sessions) -> None:
    with sessions.begin() as session:
        session.execute(update(UploadFetch).values(due_at=func.now() - timedelta(minutes=5)))
        due_since = session.scalar(vitals._CALL_DUE)
        lifecycle.cancel(session, old)
        unwanted = session.scalar(vitals._CALL_DUE)

    assert due_since is not None
    assert unwanted is None
