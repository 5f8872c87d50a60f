"""Every status and every verb, on real PostgreSQL; races with two sessions and real locks."""

import contextlib
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import Engine, event, func, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, sessionmaker
from uuid_utils.compat import uuid7

from errors import CancelRequested, LeaseLost, Occupied
from jobs import dead_letters, dispatching, lifecycle, queues
from jobs.lifecycle import Backoff, Beat, Failure, Lease, Redrive, StillLease
from models import (
    WISHES_VERSION,
    ErrorLog,
    JobStatus,
    Owner,
    TranscriptionJob,
    TranscriptionResult,
    TranscriptionWindow,
)
from retries import Course, Policy
from speech.transcript import ResumeState, Segment
from tests.jobs.conftest import (
    FAILURE,
    NO_PAUSE,
    OUTCOME,
    TRANSCRIPT,
    WINDOW,
    MakeJob,
    claim,
    read,
)

Sessions = sessionmaker[Session]
STATES = (
    "pending", "fetching", "delayed", "processing", "cancelling", "completed", "failed",
    "cancelled",
)  # fmt: skip
NOTHING = "nothing"
LONG = Backoff(base_seconds=36_000, cap_seconds=36_000)
AGAIN = Redrive(max_attempts=3)


def lease_of(job: TranscriptionJob) -> Lease:
    return Lease(job_id=job.id, epoch=job.lease_epoch, worker_name="w1", attempt=job.attempt)


def still(job: TranscriptionJob) -> StillLease:
    return StillLease(job_id=job.id, epoch=job.lease_epoch, heartbeat=job.heartbeat_seq)


@dataclass(frozen=True)
class Verb:
    """One verb, and the status it leads to from each state; NOTHING where it must not act."""

    act: Callable[[Session, TranscriptionJob], object]
    leads_to: dict[str, str]


def reap(session: Session, job: TranscriptionJob) -> object:
    return lifecycle.reap(session, [still(job)], max_crashes=3, backoff=NO_PAUSE)


def put_off(session: Session, job: TranscriptionJob) -> object:
    return lifecycle.put_off(
        session, lease_of(job), FAILURE, Backoff(base_seconds=10, cap_seconds=3600)
    )


def step_aside(session: Session, job: TranscriptionJob, *, most: int = 3) -> bool:
    return lifecycle.step_aside(session, lease_of(job), most=most, patience_seconds=0)


def crash(session: Session, job: TranscriptionJob) -> object:
    return lifecycle.crash(
        session, lease_of(job), FAILURE, max_solo_crashes=2, max_crashes=3, backoff=NO_PAUSE
    )


def fail_fetch(session: Session, job: TranscriptionJob) -> object:
    return lifecycle.fail_fetch(session, job.id, job.id, FAILURE, reason=FAILURE.code)


VERBS = {
    "claim": Verb(lambda s, j: lifecycle.claim(s, j.id, "w2"), {"pending": "processing"}),
    "heartbeat": Verb(
        lambda s, j: lifecycle.heartbeat(s, [Beat(lease=lease_of(j), progress=0.5)]),
        {"processing": "processing", "cancelling": "processing"},
    ),
    "report": Verb(
        lambda s, j: lifecycle.report(s, lease_of(j), "reading"), {"processing": "processing"}
    ),
    "save_window": Verb(
        lambda s, j: lifecycle.save_window(
            s, lease_of(j), 0, WINDOW, progress=0.5, model_used="openai-whisper/demo/cpu/float32"
        ),
        {"processing": "processing"},
    ),
    "complete": Verb(
        lambda s, j: lifecycle.complete(s, lease_of(j), TRANSCRIPT, OUTCOME),
        {"processing": "completed"},
    ),
    "retry": Verb(
        lambda s, j: lifecycle.retry(s, lease_of(j), FAILURE, NO_PAUSE),
        {"processing": "pending", "cancelling": "cancelled"},
    ),
    "fail": Verb(
        lambda s, j: lifecycle.fail(s, lease_of(j), FAILURE),
        {"processing": "failed", "cancelling": "cancelled"},
    ),
    "fail_fetch": Verb(fail_fetch, {"fetching": "failed"}),
    "hand_back": Verb(
        lambda s, j: lifecycle.hand_back(s, lease_of(j)),
        {"processing": "pending", "cancelling": "cancelled"},
    ),
    "put_off": Verb(put_off, {"processing": "pending", "cancelling": "cancelled"}),
    "step_aside": Verb(step_aside, {}),
    "call_suspect": Verb(lambda s, _: lifecycle.call_suspect(s), {}),
    "crash": Verb(crash, {"processing": "pending", "cancelling": "cancelled"}),
    "cancel": Verb(
        lambda s, j: lifecycle.cancel(s, j.id),
        {
            "pending": "cancelled",
            "fetching": "cancelled",
            "delayed": "cancelled",
            "processing": "processing",
            "cancelling": "processing",
        },
    ),
    "acknowledge_cancel": Verb(
        lambda s, j: lifecycle.acknowledge_cancel(s, lease_of(j)), {"cancelling": "cancelled"}
    ),
    "reap": Verb(reap, {"processing": "pending", "cancelling": "cancelled"}),
    "dispatch": Verb(
        lambda s, j: dispatching.dispatch(s, "normal", room=5, redispatch_seconds=60),
        {"pending": "pending"},
    ),
    "redrive": Verb(lambda s, j: lifecycle.redrive(s, [j.id], AGAIN), {"failed": "pending"}),
    "void": Verb(
        lambda s, _: lifecycle.void(s),
        {
            "pending": "pending",
            "fetching": "pending",
            "delayed": "pending",
            "processing": "pending",
            "cancelling": "cancelled",
            "failed": "failed",
        },
    ),
    "note_dead_letter": Verb(
        lambda s, j: lifecycle.note_dead_letter(s, j.id), {"failed": "failed"}
    ),
}


def row_of(sessions: Sessions, job_id: uuid.UUID) -> dict[str, object]:
    with sessions() as session:
        row = session.execute(
            select(TranscriptionJob.__table__).where(TranscriptionJob.id == job_id)
        ).one()
        return dict(row._mapping)


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("name", VERBS)
def test_each_verb_acts_only_where_it_may(
    name: str, state: str, make_job: MakeJob, sessions: Sessions
) -> None:
    job = make_job(state)
    before = row_of(sessions, job.id)
    verb = VERBS[name]

    with contextlib.suppress(LeaseLost, CancelRequested), sessions.begin() as session:
        verb.act(session, job)

    after = row_of(sessions, job.id)
    expected = verb.leads_to.get(state, NOTHING)
    if expected is NOTHING:
        assert after == before
    else:
        assert after["status"] == expected
        assert after != before or name == "cancel"


@pytest.mark.parametrize(
    "name",
    [
        "report",
        "save_window",
        "complete",
        "retry",
        "fail",
        "hand_back",
        "put_off",
        "crash",
        "acknowledge_cancel",
    ],
)
def test_a_worker_whose_lease_is_old_changes_nothing(
    name: str, make_job: MakeJob, sessions: Sessions
) -> None:
    zombie = lease_of(make_job("processing"))
    with sessions.begin() as session:
        lifecycle.reap(
            session, [still(read(sessions, zombie.job_id))], max_crashes=9, backoff=NO_PAUSE
        )
    claim(sessions, zombie.job_id, "w2")
    if name == "acknowledge_cancel":
        with sessions.begin() as session:
            lifecycle.cancel(session, zombie.job_id)
    before = row_of(sessions, zombie.job_id)
    stale = TranscriptionJob(id=zombie.job_id, lease_epoch=zombie.epoch, attempt=zombie.attempt)

    with pytest.raises(LeaseLost), sessions.begin() as session:
        VERBS[name].act(session, stale)

    assert row_of(sessions, zombie.job_id) == before
    with sessions() as session:
        assert session.scalar(select(func.count()).select_from(TranscriptionWindow)) == 0
        assert session.scalar(select(func.count()).select_from(TranscriptionResult)) == 0
        # the reaper's own
        assert session.scalar(select(func.count()).select_from(ErrorLog)) == 1


def test_a_heartbeat_says_which_leases_are_lost_and_which_jobs_are_cancelled(
    make_job: MakeJob, sessions: Sessions
) -> None:
    good, cancelling, lost = make_job("processing"), make_job("cancelling"), make_job("processing")
    beats = [Beat(lease=lease_of(job), progress=0.25) for job in (good, cancelling, lost)]
    beats[2] = Beat(lease=replace(beats[2].lease, epoch=99), progress=0.25)

    with sessions.begin() as session:
        answers = lifecycle.heartbeat(session, beats)

    assert answers == {good.id: False, cancelling.id: True}


def test_progress_never_falls(make_job: MakeJob, sessions: Sessions) -> None:
    lease = lease_of(make_job("processing"))
    for progress in (0.6, 0.2):
        with sessions.begin() as session:
            lifecycle.heartbeat(session, [Beat(lease=lease, progress=progress)])

    assert read(sessions, lease.job_id).progress == pytest.approx(0.6)


def test_a_failed_attempt_waits_longer_each_time(make_job: MakeJob, sessions: Sessions) -> None:
    job = make_job(max_attempts=5)
    backoff = Backoff(base_seconds=100.0, cap_seconds=300.0)
    pauses = []
    for _ in range(4):
        lease = claim(sessions, job.id).lease
        with sessions.begin() as session:
            lifecycle.retry(session, lease, FAILURE, backoff)
            pauses.append(
                session.scalar(
                    text(
                        "SELECT EXTRACT(EPOCH FROM not_before - now())::float"
                        "  FROM transcription_jobs"
                    )
                )
            )
            session.execute(text("UPDATE transcription_jobs SET not_before = now()"))

    for pause, full in zip(pauses, (100, 200, 300, 300), strict=True):
        assert 0 <= pause <= full


def test_what_failed_together_comes_back_spread_over_all_of_the_pause(
    make_job: MakeJob, sessions: Sessions
) -> None:
    backoff = Backoff(base_seconds=100.0, cap_seconds=1000.0)
    leases = [lease_of(make_job("processing")) for _ in range(100)]
    with sessions.begin() as session:
        for lease in leases:
            lifecycle.retry(session, lease, FAILURE, backoff)
        pauses = session.scalars(
            text("SELECT extract(epoch FROM not_before - now())::float FROM transcription_jobs")
        ).all()

    # of a hundred, all in the same four fifths: once in five billion times
    assert 0 <= min(pauses) < 20
    assert 80 < max(pauses) <= 100


def test_a_pause_is_scaled_by_the_policy_of_the_error() -> None:
    policy = Policy(Course.RETRY, pause=6, longest=0.5)

    assert Backoff.of(policy, base_seconds=10.0, cap_seconds=600.0) == Backoff(
        base_seconds=60.0, cap_seconds=300.0
    )


def test_a_job_waiting_for_its_next_attempt_is_not_claimed_early(
    make_job: MakeJob, sessions: Sessions
) -> None:
    job = make_job("processing")
    with sessions.begin() as session:
        lifecycle.retry(
            session, lease_of(job), FAILURE, Backoff(base_seconds=60.0, cap_seconds=60.0)
        )
    with sessions.begin() as session:
        assert lifecycle.claim(session, job.id, "w2") is None


def test_a_job_that_only_a_newer_version_understands_is_left_to_it(
    make_job: MakeJob, sessions: Sessions
) -> None:
    job = make_job(wishes_version=WISHES_VERSION + 1)
    with sessions.begin() as session:
        assert lifecycle.claim(session, job.id, "w1") is None


def test_the_last_failed_attempt_fails_the_job_and_every_attempt_left_its_error(
    make_job: MakeJob, sessions: Sessions
) -> None:
    job = make_job(max_attempts=2)
    ends = []
    for _ in range(2):
        lease = claim(sessions, job.id).lease
        with sessions.begin() as session:
            ends.append(lifecycle.retry(session, lease, FAILURE, NO_PAUSE))

    assert ends == [JobStatus.PENDING, JobStatus.FAILED]
    assert read(sessions, job.id).failure_reason == "attempts_exhausted"
    with sessions() as session:
        logs = session.scalars(select(ErrorLog).order_by(ErrorLog.attempt)).all()
    assert [(log.attempt, log.error_code, log.context) for log in logs] == [
        (1, "engine_error", {"a": 1}),
        (2, "engine_error", {"a": 1}),
    ]


def test_a_deadline_that_used_up_the_attempts_is_named(
    make_job: MakeJob, sessions: Sessions
) -> None:
    job = make_job("processing", max_attempts=1)
    with sessions.begin() as session:
        lifecycle.retry(session, lease_of(job), replace(FAILURE, code="deadline"), NO_PAUSE)

    assert read(sessions, job.id).failure_reason == "deadline"


def test_handing_back_returns_the_attempt_but_never_the_epoch(
    make_job: MakeJob, sessions: Sessions
) -> None:
    job = make_job("processing")
    with sessions.begin() as session:
        lifecycle.hand_back(session, lease_of(job))

    after = read(sessions, job.id)
    assert (after.attempt, after.interrupt_count, after.lease_epoch) == (0, 1, job.lease_epoch)
    assert after.lane == "normal"


def test_the_third_crash_is_poison_and_crashes_use_up_no_attempt(
    make_job: MakeJob, sessions: Sessions
) -> None:
    job = make_job()
    ends = []
    for _ in range(3):
        claim(sessions, job.id)
        with sessions.begin() as session:
            reaped = lifecycle.reap(
                session, [still(read(sessions, job.id))], max_crashes=3, backoff=NO_PAUSE
            )
        ends.append((reaped[0].status, read(sessions, job.id).attempt))

    assert ends == [("pending", 0), ("pending", 0), ("failed", 0)]
    after = read(sessions, job.id)
    assert (after.failure_reason, after.crash_count, after.isolate) == ("poison", 3, True)
    with sessions() as session:
        codes = session.scalars(select(ErrorLog.error_code)).all()
    assert codes == ["worker_lost"] * 3


# Claiming without being told which


def claim_next(sessions: Sessions, *lanes: str) -> uuid.UUID | None:
    with sessions.begin() as session:
        claimed = lifecycle.claim_next(session, lanes or ("high", "normal", "retry"), "w1")
    return None if claimed is None else claimed.lease.job_id


def test_the_job_that_is_due_first_is_claimed_lane_by_lane(
    make_job: MakeJob, sessions: Sessions
) -> None:
    tried = make_job("processing")
    with sessions.begin() as session:
        lifecycle.retry(session, lease_of(tried), FAILURE, NO_PAUSE)
    jobs = [make_job().id, make_job().id, make_job(priority="high").id]

    order = [claim_next(sessions) for _ in range(5)]

    assert order == [jobs[2], jobs[0], jobs[1], tried.id, None]
    claimed = read(sessions, jobs[0])
    assert (claimed.status, claimed.attempt, claimed.lease_epoch) == ("processing", 1, 1)


def test_a_worker_claims_from_its_own_queues_alone(make_job: MakeJob, sessions: Sessions) -> None:
    make_job()

    assert claim_next(sessions, "high", "retry") is None


def test_of_two_owners_the_one_with_fewer_running_is_next(
    make_job: MakeJob, sessions: Sessions
) -> None:
    other = Owner(name="bob")
    with sessions.begin() as session:
        session.add(other)
    first, second, late = make_job().id, make_job().id, make_job(owner_id=other.id).id

    assert [claim_next(sessions) for _ in range(3)] == [first, late, second]


@pytest.mark.parametrize("status", ["delayed", "processing", "completed", "failed", "cancelled"])
def test_what_is_not_due_is_not_claimed(status: str, make_job: MakeJob, sessions: Sessions) -> None:
    make_job(status)

    assert claim_next(sessions) is None


def test_nothing_is_claimed_from_a_paused_queue(make_job: MakeJob, sessions: Sessions) -> None:
    make_job()
    with sessions.begin() as session:
        queues.pause(session, ["normal"], paused_by=None, note=None)

    assert claim_next(sessions) is None


def test_what_only_a_newer_version_understands_is_passed_over(
    make_job: MakeJob, sessions: Sessions
) -> None:
    make_job(wishes_version=WISHES_VERSION + 1)
    known = make_job()

    assert claim_next(sessions) == known.id


def test_a_job_that_somebody_else_is_claiming_is_passed_over(
    make_job: MakeJob, sessions: Sessions
) -> None:
    first, second = make_job(), make_job()
    with sessions.begin() as session:
        session.get_one(TranscriptionJob, first.id, with_for_update=True)

        assert claim_next(sessions) == second.id


def test_workers_that_claim_at_once_claim_each_job_once(
    make_job: MakeJob, sessions: Sessions
) -> None:
    jobs = {make_job().id for _ in range(8)}
    with ThreadPoolExecutor(8) as threads:
        claimed = set(threads.map(lambda _: claim_next(sessions), range(8)))

    assert claimed == jobs


# Stepping aside


def test_a_job_steps_aside_for_an_urgent_one_and_keeps_its_place(
    make_job: MakeJob, sessions: Sessions
) -> None:
    job, urgent = make_job("processing"), make_job(priority="high")
    with sessions.begin() as session:
        aside = step_aside(session, job)

    after = read(sessions, job.id)
    assert aside
    assert (after.status, after.attempt, after.preempt_count) == ("pending", 0, 1)
    assert (after.not_before, after.lane) == (job.not_before, "normal")
    assert read(sessions, urgent.id).room_made_at is not None


def test_no_more_jobs_step_aside_than_urgent_ones_wait(
    make_job: MakeJob, sessions: Sessions
) -> None:
    jobs = [make_job("processing") for _ in range(4)]
    for _ in range(2):
        make_job(priority="high")
    asides = []
    for job in jobs:
        with sessions.begin() as session:
            asides.append(step_aside(session, job))

    assert asides == [True, True, False, False]


def test_nobody_steps_aside_for_a_job_that_he_does_not_understand(
    make_job: MakeJob, sessions: Sessions
) -> None:
    job = make_job("processing")
    make_job(priority="high", wishes_version=WISHES_VERSION + 1)
    with sessions.begin() as session:
        assert not step_aside(session, job)


def test_two_jobs_at_once_do_not_step_aside_for_the_same_urgent_one(
    make_job: MakeJob, sessions: Sessions
) -> None:
    for _ in range(10):
        first, second = make_job("processing"), make_job("processing")
        make_job(priority="high")

        def side(job: TranscriptionJob) -> Callable[[], object]:
            def act() -> object:
                with sessions.begin() as session:
                    return step_aside(session, job)

            return act

        assert sorted(map(bool, race(side(first), side(second)))) == [False, True]


def test_a_worker_whose_lease_is_old_makes_no_room(make_job: MakeJob, sessions: Sessions) -> None:
    job = make_job("processing")
    make_job(priority="high")
    stale = TranscriptionJob(id=job.id, lease_epoch=job.lease_epoch - 1, attempt=1)
    with sessions.begin() as session:
        assert not step_aside(session, stale)

    assert read(sessions, job.id).status == "processing"


def test_a_job_steps_aside_only_so_often(make_job: MakeJob, sessions: Sessions) -> None:
    job = make_job("processing")
    make_job(priority="high")
    with sessions.begin() as session:
        assert not step_aside(session, job, most=0)


def test_an_urgent_job_that_has_just_come_is_left_to_a_free_slot(
    make_job: MakeJob, sessions: Sessions
) -> None:
    job = make_job("processing")
    make_job(priority="high")
    with sessions.begin() as session:
        assert not lifecycle.step_aside(session, lease_of(job), most=3, patience_seconds=60)


def test_the_second_death_alone_is_poison_and_uses_up_no_attempt(
    make_job: MakeJob, sessions: Sessions
) -> None:
    job = make_job()
    with sessions.begin() as session:
        session.get_one(TranscriptionJob, job.id).isolate = True
    ends = []
    for _ in range(2):
        claim(sessions, job.id)
        with sessions.begin() as session:
            status = crash(session, read(sessions, job.id))
        ends.append((status, read(sessions, job.id).attempt))

    assert ends == [("pending", 0), ("failed", 0)]
    after = read(sessions, job.id)
    assert (after.failure_reason, after.solo_crash_count, after.crash_count) == ("poison", 2, 0)
    with sessions() as session:
        assert session.scalars(select(ErrorLog.error_code)).all() == [FAILURE.code] * 2


def test_the_suspect_that_was_submitted_first_is_called_of_those_that_wait_for_their_turn(
    make_job: MakeJob, sessions: Sessions
) -> None:
    """Neither one that waits for something else is, nor one that is no suspect or is cancelled."""
    occupied = Failure(code=Occupied.code, message="")
    jobs = [make_job() for _ in range(5)]
    other, _, cancelled, first, second = jobs
    with sessions.begin() as session:
        for job in (other, cancelled, first, second):
            session.get_one(TranscriptionJob, job.id).isolate = True
    failures = {job.id: occupied for job in reversed(jobs)} | {other.id: FAILURE}
    for job, failure in ((read(sessions, job_id), why) for job_id, why in failures.items()):
        claim(sessions, job.id)
        with sessions.begin() as session:
            lifecycle.put_off(session, lease_of(read(sessions, job.id)), failure, LONG)
    with sessions.begin() as session:
        lifecycle.cancel(session, cancelled.id)
    called = []
    for _ in range(3):
        with sessions.begin() as session:
            called.append(lifecycle.call_suspect(session))

    assert called == [first.id, second.id, None]
    with sessions.begin() as session:
        due = [job.id for job in jobs if lifecycle.claim(session, job.id, "w2")]
    assert due == called[:2]


def test_a_job_that_hung_beside_others_is_a_suspect(make_job: MakeJob, sessions: Sessions) -> None:
    job = make_job("processing")
    with sessions.begin() as session:
        status = crash(session, job)

    after = read(sessions, job.id)
    assert (status, after.isolate) == ("pending", True)
    assert (after.crash_count, after.solo_crash_count) == (1, 0)


def test_a_job_that_is_put_off_waits_longer_each_time_and_loses_no_attempt(
    make_job: MakeJob, sessions: Sessions
) -> None:
    job = make_job()
    pauses = []
    for _ in range(4):
        make_due(sessions, job.id)
        claim(sessions, job.id)
        with sessions.begin() as session:
            put_off(session, read(sessions, job.id))
            assert lifecycle.claim(session, job.id, "w2") is None
            pauses.append(
                session.scalar(
                    text("SELECT extract(epoch FROM not_before - now()) FROM transcription_jobs")
                )
            )

    after = read(sessions, job.id)
    assert (after.attempt, after.put_off_count, after.error_code) == (0, 4, FAILURE.code)
    for count, pause in enumerate(pauses):
        assert 0 <= pause <= 10 * 2**count


def test_a_job_that_got_on_is_put_off_for_a_short_while_again(
    make_job: MakeJob, sessions: Sessions
) -> None:
    job = make_job("processing")
    with sessions.begin() as session:
        put_off(session, job)
    make_due(sessions, job.id)
    lease = claim(sessions, job.id).lease
    with sessions.begin() as session:
        lifecycle.save_window(session, lease, 0, WINDOW, progress=0.5, model_used="m")

    assert read(sessions, job.id).put_off_count == 0


def make_due(sessions: Sessions, job_id: uuid.UUID) -> None:
    with sessions.begin() as session:
        session.get_one(TranscriptionJob, job_id).not_before = datetime(2026, 1, 1, tzinfo=UTC)


def test_what_postgresql_cannot_hold_does_not_keep_a_failure_from_being_written(
    make_job: MakeJob, sessions: Sessions
) -> None:
    job = make_job("processing")
    strange = Failure(
        code="engine_error",
        message="a\0b\ud800",
        traceback="\0",
        context={"loss": float("nan"), "where": "\0"},
    )
    with sessions.begin() as session:
        lifecycle.fail(session, lease_of(job), strange)

    with sessions() as session:
        log = session.scalars(select(ErrorLog)).one()
    assert (log.error_message, log.traceback) == ("ab?", "")
    assert log.context == {"loss": None, "where": ""}


def test_a_lease_that_beat_since_it_was_seen_is_not_reaped(
    make_job: MakeJob, sessions: Sessions
) -> None:
    job = make_job("processing")
    with sessions.begin() as session:
        lifecycle.heartbeat(session, [Beat(lease=lease_of(job), progress=0.1)])

    with sessions.begin() as session:
        reaped = lifecycle.reap(session, [still(job)], max_crashes=3, backoff=NO_PAUSE)

    assert reaped == []
    assert read(sessions, job.id).status == "processing"


def test_complete_stores_the_result_once_and_may_be_said_twice(
    make_job: MakeJob, sessions: Sessions
) -> None:
    job = make_job("processing")
    for _ in range(2):
        with sessions.begin() as session:
            lifecycle.complete(session, lease_of(job), TRANSCRIPT, OUTCOME)

    with sessions() as session:
        result = session.scalars(select(TranscriptionResult)).one()
    assert (result.text, result.word_count, result.language) == ("one two", 2, "en")
    assert tuple(Segment.from_json(s) for s in result.segments) == TRANSCRIPT.segments
    after = read(sessions, job.id)
    assert (after.progress, after.warnings) == (1.0, ["demo_model"])
    assert after.model_used == "openai-whisper/demo/cpu/float32"


def test_a_cancel_that_came_first_keeps_the_result_out(
    make_job: MakeJob, sessions: Sessions
) -> None:
    job = make_job("cancelling")
    with pytest.raises(CancelRequested), sessions.begin() as session:
        lifecycle.complete(session, lease_of(job), TRANSCRIPT, OUTCOME)
    with sessions.begin() as session:
        lifecycle.acknowledge_cancel(session, lease_of(job))

    assert read(sessions, job.id).status == "cancelled"
    with sessions() as session:
        assert session.scalars(select(TranscriptionResult)).all() == []


def test_windows_come_back_as_they_were_kept(make_job: MakeJob, sessions: Sessions) -> None:
    job = make_job("processing")
    with sessions.begin() as session:
        lifecycle.save_window(
            session, lease_of(job), 0, WINDOW, progress=0.93, model_used="openai-whisper/demo/cpu/f"
        )

    with sessions() as session:
        kept = session.scalars(select(TranscriptionWindow)).one()
    assert ResumeState.from_json(kept.resume) == WINDOW.resume
    assert tuple(Segment.from_json(s) for s in kept.segments) == WINDOW.segments
    assert read(sessions, job.id).progress == pytest.approx(0.93)


def test_a_window_that_is_done_again_replaces_the_first(
    make_job: MakeJob, sessions: Sessions
) -> None:
    job = make_job("processing")
    for end in (28.0, 29.0):
        with sessions.begin() as session:
            lifecycle.save_window(
                session,
                lease_of(job),
                0,
                replace(WINDOW, end_seconds=end),
                progress=0.5,
                model_used="m",
            )

    with sessions() as session:
        assert session.scalars(select(TranscriptionWindow.end_seconds)).all() == [29.0]


def keep_window(sessions: Sessions, job_id: uuid.UUID) -> None:
    lease = claim(sessions, job_id).lease
    with sessions.begin() as session:
        lifecycle.save_window(session, lease, 0, WINDOW, progress=0.5, model_used="e/demo/cpu/f")
    with sessions.begin() as session:
        lifecycle.fail(session, lease, FAILURE)


@pytest.mark.parametrize(
    ("other", "kept"),
    [
        ({}, 1),
        ({"priority": "high"}, 1),
        ({"model_name": "demo"}, 1),
        ({"model_name": "tiny"}, 0),
        ({"engine_name": "openai-whisper"}, 1),
        ({"engine_name": "faster-whisper"}, 0),
    ],
)
def test_a_redrive_keeps_the_windows_unless_the_model_or_engine_changes(
    other: dict[str, Any], kept: int, make_job: MakeJob, sessions: Sessions
) -> None:
    job = make_job()
    keep_window(sessions, job.id)
    with sessions.begin() as session:
        lifecycle.redrive(session, [job.id], replace(AGAIN, **other))

    with sessions() as session:
        assert len(session.scalars(select(TranscriptionWindow)).all()) == kept
    after = read(sessions, job.id)
    assert (after.status, after.attempt, after.lane) == ("pending", 0, after.priority)
    assert after.progress == pytest.approx(0.5 * kept)
    asked = {"model_name": "demo", "engine_name": "openai-whisper", "priority": "normal", **other}
    assert {name: getattr(after, name) for name in asked} == asked


@pytest.mark.parametrize(
    ("other", "warnings"),
    [
        ({}, ["demo_model"]),
        ({"engine_name": "faster-whisper"}, ["demo_model"]),
        ({"model_name": "tiny", "model_warnings": ()}, []),
        ({"model_name": "tiny", "model_warnings": ("w",)}, ["w"]),
    ],
)
def test_a_redriven_job_warns_of_what_its_new_model_does(
    other: dict[str, Any], warnings: list[str], make_job: MakeJob, sessions: Sessions
) -> None:
    job = make_job("failed", warnings=["demo_model"])
    with sessions.begin() as session:
        lifecycle.redrive(session, [job.id], replace(AGAIN, **other))

    assert read(sessions, job.id).warnings == warnings


def test_a_redriven_job_begins_anew_and_a_poisonous_one_alone(
    make_job: MakeJob, sessions: Sessions
) -> None:
    plain, poison = make_job("failed"), make_job("failed")
    with sessions.begin() as session:
        row = session.get_one(TranscriptionJob, poison.id)
        row.failure_reason = "poison"
        row.crash_count, row.solo_crash_count, row.preempt_count, row.put_off_count = 1, 2, 3, 4
        row.resolved_at, row.resolved_by, row.resolution_notes = row.completed_at, "x", "y"
    with sessions.begin() as session:
        lifecycle.redrive(session, [plain.id, poison.id], replace(AGAIN, max_attempts=7))

    assert not read(sessions, plain.id).isolate
    after = read(sessions, poison.id)
    assert after.isolate
    counts = (after.crash_count, after.solo_crash_count, after.preempt_count, after.put_off_count)
    assert (counts, after.max_attempts) == ((0, 0, 0, 0), 7)
    assert (after.resolved_at, after.resolved_by, after.resolution_notes) == (None, None, None)


def test_many_are_redriven_by_one_statement_and_only_those_that_may_be(
    make_job: MakeJob, sessions: Sessions
) -> None:
    good = [make_job("failed", priority=priority) for priority in ("high", "normal")]
    aside, pending = make_job("failed"), make_job()
    with sessions.begin() as session:
        dead_letters.quarantine(session, aside.id, by=None)
    with sessions.begin() as session:
        lanes = lifecycle.redrive(session, [job.id for job in (*good, aside, pending)], AGAIN)

    assert lanes == {good[0].id: "high", good[1].id: "normal"}


def test_of_two_operators_one_redrives(make_job: MakeJob, sessions: Sessions) -> None:
    ids = [make_job("failed").id for _ in range(20)]

    def side() -> object:
        with sessions.begin() as session:
            return lifecycle.redrive(session, ids, AGAIN)

    first, second = race(side, side)

    assert sorted(map(len, (first, second))) == [0, 20]  # type: ignore[arg-type]


def test_a_redrive_resolves_the_errors_before_it(make_job: MakeJob, sessions: Sessions) -> None:
    job = make_job("failed")
    with sessions.begin() as session:
        lifecycle.redrive(session, [job.id], replace(AGAIN, by="stt_live_ab"))

    with sessions() as session:
        log = session.scalars(select(ErrorLog)).one()
    assert (log.resolved, log.resolved_by) == (True, "stt_live_ab")


def test_a_job_whose_upload_is_gone_cannot_be_redriven(
    make_job: MakeJob, sessions: Sessions
) -> None:
    job = make_job("failed")
    with sessions.begin() as session:
        session.execute(text("UPDATE transcription_jobs SET upload_deleted_at = now()"))

    with sessions.begin() as session:
        assert lifecycle.redrive(session, [job.id], AGAIN) == {}


def test_cancelling_takes_the_owner_into_account(make_job: MakeJob, sessions: Sessions) -> None:
    job = make_job()
    with sessions.begin() as session:
        assert lifecycle.cancel(session, job.id, owner_id=uuid7()) is None

    assert read(sessions, job.id).status == "pending"


def test_a_dispatched_job_is_not_due_again_soon(make_job: MakeJob, sessions: Sessions) -> None:
    job = make_job()
    found = []
    for _ in range(2):
        with sessions.begin() as session:
            due = dispatching.dispatch(session, "normal", room=4, redispatch_seconds=60)
            found.append([d.job_id for d in due])

    assert found == [[job.id], []]


def test_what_could_not_be_sent_is_due_again(make_job: MakeJob, sessions: Sessions) -> None:
    job = make_job()
    with sessions.begin() as session:
        dispatching.dispatch(session, "normal", room=4, redispatch_seconds=60)
    with sessions.begin() as session:
        dispatching.undispatch(session, [job.id])

    with sessions.begin() as session:
        assert len(dispatching.dispatch(session, "normal", room=4, redispatch_seconds=60)) == 1


def test_losing_redis_makes_everything_that_waits_due(
    make_job: MakeJob, sessions: Sessions
) -> None:
    waiting = [make_job().id for _ in range(3)]
    make_job("delayed")
    make_job("completed")
    with sessions.begin() as session:
        dispatching.dispatch(session, "normal", room=9, redispatch_seconds=60)

    with sessions.begin() as session:
        assert dispatching.redispatch_all(session).count == 3
        due = dispatching.dispatch(session, "normal", room=9, redispatch_seconds=60)
    assert {d.job_id for d in due} == set(waiting)


def test_lanes_are_kept_apart(make_job: MakeJob, sessions: Sessions) -> None:
    high = make_job(priority="high")
    tried = make_job("processing", priority="high")
    with sessions.begin() as session:
        lifecycle.retry(session, lease_of(tried), FAILURE, NO_PAUSE)

    lanes = {}
    for lane in ("high", "normal", "retry"):
        with sessions.begin() as session:
            due = dispatching.dispatch(session, lane, room=4, redispatch_seconds=60)
            lanes[lane] = [d.job_id for d in due]
    assert lanes == {"high": [high.id], "normal": [], "retry": [tried.id]}


def test_a_failed_job_is_noted_once(make_job: MakeJob, sessions: Sessions) -> None:
    job = make_job("failed")
    with sessions.begin() as session:
        found = lifecycle.unnoted_dead_letters(session, older_than_seconds=-1, limit=5)
        first = lifecycle.note_dead_letter(session, job.id)
        second = lifecycle.note_dead_letter(session, job.id)
        left = lifecycle.unnoted_dead_letters(session, older_than_seconds=-1, limit=5)

    assert found == [job.id]
    assert first is not None
    assert second is None
    assert left == []


@pytest.mark.parametrize(
    "change",
    [
        "status = 'queued'",
        "status = 'processing'",
        "worker_name = 'w'",
        "status = 'completed'",
        "status = 'failed', completed_at = now()",
        "status = 'cancelled', completed_at = now()",
        "attempt = 99",
        "progress = 1.5",
        "priority = 'urgent'",
        "failure_reason = 'poison'",
    ],
)
def test_the_database_refuses_rows_that_break_the_rules(
    change: str, make_job: MakeJob, sessions: Sessions
) -> None:
    make_job()
    with pytest.raises(IntegrityError), sessions.begin() as session:
        session.execute(text(f"UPDATE transcription_jobs SET {change}"))


# Races: both sides run at once, over and over; PostgreSQL decides.


def race(*sides: Callable[[], object]) -> list[object]:
    """Run all sides from one start; an expected refusal is a side's answer."""
    start = threading.Barrier(len(sides))

    def run(side: Callable[[], object]) -> object:
        start.wait()
        try:
            return side()
        except (LeaseLost, CancelRequested) as error:
            return error

    with ThreadPoolExecutor(len(sides)) as executor:
        return list(executor.map(run, sides))


def test_of_many_workers_that_claim_one_job_one_wins(make_job: MakeJob, sessions: Sessions) -> None:
    def side(job_id: uuid.UUID, worker: str) -> Callable[[], object]:
        def run() -> object:
            with sessions.begin() as session:
                return lifecycle.claim(session, job_id, worker)

        return run

    for _ in range(20):
        job = make_job()
        answers = race(*(side(job.id, f"w{n}") for n in range(4)))
        winners = [a for a in answers if a is not None]
        assert len(winners) == 1
        assert read(sessions, job.id).worker_name == winners[0].lease.worker_name  # type: ignore[attr-defined]
        assert read(sessions, job.id).attempt == 1


def test_of_cancel_and_complete_one_wins_and_the_row_says_which(
    make_job: MakeJob, sessions: Sessions
) -> None:
    ends = set()
    for _ in range(40):
        job = make_job("processing")

        def complete(job: TranscriptionJob = job) -> object:
            with sessions.begin() as session:
                lifecycle.complete(session, lease_of(job), TRANSCRIPT, OUTCOME)
            return "completed"

        def cancel(job: TranscriptionJob = job) -> object:
            with sessions.begin() as session:
                return lifecycle.cancel(session, job.id)

        completed, cancelled = race(complete, cancel)
        if isinstance(completed, CancelRequested):
            with sessions.begin() as session:
                lifecycle.acknowledge_cancel(session, lease_of(job))
        after = read(sessions, job.id)
        with sessions() as session:
            stored = session.get(TranscriptionResult, job.id) is not None
        ends.add(after.status)
        assert (completed == "completed") == (after.status == "completed") == stored
        assert (cancelled is None) == (after.status == "completed")
    assert ends <= {"completed", "cancelled"}


def test_of_two_reapers_one_counts_the_crash(make_job: MakeJob, sessions: Sessions) -> None:
    for _ in range(20):
        job = make_job("processing")

        def side(job: TranscriptionJob = job) -> object:
            with sessions.begin() as session:
                return lifecycle.reap(session, [still(job)], max_crashes=3, backoff=NO_PAUSE)

        answers = race(side, side)
        assert sum(len(a) for a in answers if isinstance(a, list)) == 1
        assert read(sessions, job.id).crash_count == 1


def test_two_dispatchers_never_take_the_same_job(make_job: MakeJob, sessions: Sessions) -> None:
    jobs = {make_job().id for _ in range(30)}

    def side() -> object:
        taken = []
        for _ in range(20):
            with sessions.begin() as session:
                due = dispatching.dispatch(session, "normal", room=3, redispatch_seconds=60)
                taken += [d.job_id for d in due]
        return taken

    first, second = race(side, side)
    assert isinstance(first, list)
    assert isinstance(second, list)
    assert sorted(first + second) == sorted(jobs)


@pytest.mark.parametrize("name", [name for name, verb in VERBS.items() if verb.leads_to])
def test_a_transition_is_one_statement(
    name: str, make_job: MakeJob, sessions: Sessions, engine: Engine
) -> None:
    job = make_job(next(iter(VERBS[name].leads_to)))
    seen: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda *args: seen.append(args[2]))

    with sessions.begin() as session:
        VERBS[name].act(session, job)

    assert len(seen) == 1
