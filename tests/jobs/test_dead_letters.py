"""What operators note of failed jobs, on real PostgreSQL; the filters are tried over HTTP."""

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import IntegrityError, InvalidRequestError
from sqlalchemy.orm import Session, sessionmaker

from jobs import dead_letters
from jobs.dead_letters import Wanted
from models import ErrorLog
from tests.jobs.conftest import MakeJob, read

Sessions = sessionmaker[Session]
OTHERS = ("pending", "delayed", "processing", "cancelling", "completed", "cancelled")


def resolve(sessions: Sessions, *ids: object, notes: str | None = None) -> set[object]:
    with sessions.begin() as session:
        return {*dead_letters.resolve(session, ids, by="stt_live_ab", notes=notes)}  # type: ignore[arg-type]


def quarantine(sessions: Sessions, job_id: object) -> bool:
    with sessions.begin() as session:
        return dead_letters.quarantine(session, job_id, by="stt_live_ab")  # type: ignore[arg-type]


def test_resolving_marks_the_job_and_its_errors(make_job: MakeJob, sessions: Sessions) -> None:
    job = make_job("failed")

    assert resolve(sessions, job.id, notes="told the client") == {job.id}
    after = read(sessions, job.id)
    assert after.resolved_at is not None
    assert (after.resolved_by, after.resolution_notes) == ("stt_live_ab", "told the client")
    with sessions() as session:
        log = session.scalars(select(ErrorLog)).one()
    assert (log.resolved, log.resolution_notes) == (True, "told the client")


def test_what_is_resolved_stays_as_it_was(make_job: MakeJob, sessions: Sessions) -> None:
    job = make_job("failed")
    resolve(sessions, job.id, notes="first")

    assert resolve(sessions, job.id, notes="second") == set()
    assert read(sessions, job.id).resolution_notes == "first"


@pytest.mark.parametrize("status", OTHERS)
def test_only_what_failed_can_be_resolved_or_set_aside(
    status: str, make_job: MakeJob, sessions: Sessions
) -> None:
    job = make_job(status)

    assert resolve(sessions, job.id) == set()
    assert not quarantine(sessions, job.id)
    assert read(sessions, job.id).quarantined_at is None


def test_what_is_set_aside_is_not_resolved(make_job: MakeJob, sessions: Sessions) -> None:
    job = make_job("failed")
    quarantine(sessions, job.id)

    assert resolve(sessions, job.id) == set()


def test_releasing_tells_whether_it_did(make_job: MakeJob, sessions: Sessions) -> None:
    job = make_job("failed")
    quarantine(sessions, job.id)
    told = []
    for _ in range(2):
        with sessions.begin() as session:
            told.append(dead_letters.release(session, job.id))

    assert told == [True, False]
    assert read(sessions, job.id).released_at is not None


@pytest.mark.parametrize("column", ["resolved_at", "quarantined_at"])
def test_the_database_keeps_marks_off_jobs_that_did_not_fail(
    column: str, make_job: MakeJob, sessions: Sessions
) -> None:
    make_job("completed")
    with (
        pytest.raises(IntegrityError, match="dead_letter_when_failed"),
        sessions.begin() as session,
    ):
        session.execute(text(f"UPDATE transcription_jobs SET {column} = now()"))


def test_a_page_reads_no_tracebacks(make_job: MakeJob, sessions: Sessions) -> None:
    make_job("failed")
    with sessions() as session:
        (letter,) = dead_letters.page(session, Wanted(), limit=5)

        with pytest.raises(InvalidRequestError):
            _ = letter.attempts[0].traceback


@pytest.mark.parametrize(
    ("wanted", "everything"),
    [
        (Wanted(), True),
        (Wanted(resolved=True, permanent=True), True),
        (Wanted(code="deadline"), False),
        (Wanted(key="alice"), False),
    ],
)
def test_a_filter_knows_whether_it_narrows_down(wanted: Wanted, everything: bool) -> None:
    assert wanted.is_everything == everything
