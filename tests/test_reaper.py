"""The reaper: whose leases it ends and whose never, on real PostgreSQL."""

import contextlib
import uuid
from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import Engine, create_engine, select, text

from config import Settings
from database import Sessions, make_sessions
from errors import DatabaseUnavailable
from jobs import lifecycle
from jobs.lifecycle import Beat, Lease, StillLease
from models import ErrorLog, TranscriptionJob
from reaper import Reaper, Stillness, pause_between_looks
from tests.fakes import FakeClock
from tests.jobs import conftest as jobs_conftest
from tests.jobs.conftest import MakeJob, claim, read

engine = jobs_conftest.engine
sessions = jobs_conftest.sessions
owner_id = jobs_conftest.owner_id
make_job = jobs_conftest.make_job

LEASE_SECONDS = 60.0


def settings_of(**values: object) -> Settings:
    return Settings(_env_file=None, **values)  # type: ignore[arg-type, call-arg]


# Stillness: pure, on a clock of the test's own


def lease(number: int = 1, *, epoch: int = 1, heartbeat: int = 1) -> StillLease:
    return StillLease(job_id=uuid.UUID(int=number), epoch=epoch, heartbeat=heartbeat)


class Watch:
    """Looks at leases at times of the test's own."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self._stillness = Stillness(lease_seconds=LEASE_SECONDS, clock=self.clock)
        self.excuse = self._stillness.excuse

    def look(self, *leases: StillLease, after: float = 5.0) -> list[StillLease]:
        self.clock.advance(after)
        self._stillness.look(leases)
        return self._stillness.over


def test_a_lease_that_stands_still_is_found_after_its_time_and_not_before() -> None:
    watch = Watch()
    found = [bool(watch.look(lease())) for _ in range(14)]

    # the first look begins to count: 12 steps of 5 s
    assert found == [False] * 12 + [True] * 2


def test_a_lease_that_moves_is_never_found() -> None:
    watch = Watch()

    assert not any(watch.look(lease(heartbeat=n)) for n in range(50))


def test_a_lease_that_moves_late_has_its_full_time_again() -> None:
    watch = Watch()
    early = [watch.look(lease(heartbeat=1)) for _ in range(12)]
    late = [watch.look(lease(heartbeat=2)) for _ in range(12)]

    assert not any(early + late)
    assert watch.look(lease(heartbeat=2)) == [lease(heartbeat=2)]


def test_a_job_under_a_new_lease_has_its_full_time_again() -> None:
    watch = Watch()
    for _ in range(12):
        watch.look(lease(epoch=1))

    assert watch.look(lease(epoch=2)) == []


def test_time_in_which_nothing_was_seen_does_not_count() -> None:
    watch = Watch()
    for _ in range(12):
        watch.look(lease())

    assert watch.look(lease(), after=3600.0) == []
    assert not any(watch.look(lease()) for _ in range(11))
    assert watch.look(lease()) == [lease()]


@pytest.mark.parametrize(("after", "found"), [(LEASE_SECONDS / 2, True), (31.0, False)])
def test_a_gap_of_half_a_lease_is_the_longest_that_counts(after: float, found: bool) -> None:
    watch = Watch()
    for _ in range(7):
        watch.look(lease())  # 30 s by now

    assert bool(watch.look(lease(), after=after)) is found


def test_a_lease_that_was_gone_in_between_has_its_full_time_again() -> None:
    watch = Watch()
    for _ in range(12):
        watch.look(lease())
    watch.look()

    assert watch.look(lease()) == []


def test_each_lease_is_judged_by_itself() -> None:
    watch = Watch()
    for n in range(12):
        watch.look(lease(1), lease(2, heartbeat=n))

    assert watch.look(lease(1), lease(2, heartbeat=12), lease(3)) == [lease(1)]


def test_a_lease_that_was_excused_has_half_of_its_time_to_move() -> None:
    watch = Watch()
    for _ in range(12):
        watch.look(lease(1), lease(2))
    watch.excuse([lease(1)])
    found = [watch.look(lease(1), lease(2)) for _ in range(6)]

    assert found == [[lease(2)]] * 5 + [[lease(1), lease(2)]]


# Reaper


class Time:
    """A reaper that looks every five seconds of a clock of the test's own."""

    def __init__(self, sessions: Sessions) -> None:
        self.clock = FakeClock()
        self.reaper = Reaper(
            sessions, settings_of(retry_base_seconds=0.001, max_crashes=2), clock=self.clock
        )

    def passes(self, seconds: float, each: Callable[[], object] = lambda: None) -> None:
        for _ in range(int(seconds // 5)):
            self.clock.advance(5)
            each()
            self.reaper.run()


def test_the_job_of_a_worker_that_is_gone_waits_again(
    make_job: MakeJob, sessions: Sessions, caplog: pytest.LogCaptureFixture
) -> None:
    job = make_job("processing")
    time_ = Time(sessions)
    time_.passes(LEASE_SECONDS)
    before = read(sessions, job.id).status
    time_.passes(10)
    after = read(sessions, job.id)

    assert before == "processing"
    assert (after.status, after.crash_count) == ("pending", 1)
    assert caplog.messages == ["worker lost: job taken from it"]


def test_the_job_of_a_worker_that_beats_is_left_alone(
    make_job: MakeJob, sessions: Sessions
) -> None:
    job = make_job("processing")
    held = Lease(job_id=job.id, epoch=job.lease_epoch, worker_name="w1", attempt=1)

    def beat() -> None:
        with sessions.begin() as session:
            lifecycle.heartbeat(session, [Beat(lease=held, progress=0.5)])

    Time(sessions).passes(3 * LEASE_SECONDS, beat)

    assert read(sessions, job.id).status == "processing"


def test_the_reaper_goes_by_the_settings_crashes(make_job: MakeJob, sessions: Sessions) -> None:
    job = make_job()
    time_ = Time(sessions)
    for _ in range(2):
        set_column(sessions, job.id, "not_before = now()")
        claim(sessions, job.id)
        time_.passes(LEASE_SECONDS + 5)

    assert read(sessions, job.id).failure_reason == "poison"


def test_an_outage_of_the_database_reaps_nobody(make_job: MakeJob, sessions: Sessions) -> None:
    job = make_job("processing")
    time_ = Time(sessions)
    time_.passes(LEASE_SECONDS)
    time_.clock.advance(600)  # in which no look succeeded
    time_.reaper.run()

    assert read(sessions, job.id).status == "processing"


def test_two_reapers_count_one_crash(make_job: MakeJob, sessions: Sessions) -> None:
    job = make_job("processing")
    first, second = Time(sessions), Time(sessions)
    first.passes(LEASE_SECONDS)
    second.passes(LEASE_SECONDS)
    for time_ in (first, second):
        time_.passes(10)

    assert read(sessions, job.id).crash_count == 1
    with sessions() as session:
        assert len(session.scalars(select(ErrorLog)).all()) == 1


# What keeps a worker from writing a heartbeat


@pytest.fixture
def impatient(engine: Engine) -> Iterator[Sessions]:
    """Sessions that wait for no lock."""
    other = create_engine(engine.url, connect_args={"options": "-c lock_timeout=50ms"})
    yield make_sessions(other)
    other.dispose()


def set_column(sessions: Sessions, job_id: uuid.UUID, change: str) -> None:
    with sessions.begin() as session:
        session.execute(
            text(f"UPDATE transcription_jobs SET {change} WHERE id = :id"), {"id": job_id}
        )


def look_in_vain(time_: Time) -> None:
    time_.clock.advance(5)
    with contextlib.suppress(DatabaseUnavailable):
        time_.reaper.run()


def test_a_table_that_can_be_read_and_not_written_reaps_nobody(
    make_job: MakeJob, sessions: Sessions, impatient: Sessions
) -> None:
    job = make_job("processing")
    time_ = Time(impatient)
    time_.passes(LEASE_SECONDS - 10)
    with sessions.begin() as session:
        session.execute(text("LOCK TABLE transcription_jobs IN SHARE MODE"))
        for _ in range(3):
            look_in_vain(time_)
    time_.passes(LEASE_SECONDS / 2 - 5)
    meanwhile = read(sessions, job.id).status
    time_.passes(5)

    assert meanwhile == "processing"
    assert read(sessions, job.id).status == "pending"


def test_a_job_whose_row_is_locked_is_not_reaped_and_others_are(
    make_job: MakeJob, sessions: Sessions, impatient: Sessions
) -> None:
    locked, lost = make_job("processing").id, make_job("processing").id
    time_ = Time(impatient)
    time_.passes(LEASE_SECONDS - 10)
    with sessions.begin() as session:
        session.get_one(TranscriptionJob, locked, with_for_update=True)
        time_.passes(20)
    ends = [read(sessions, job_id).status for job_id in (locked, lost)]

    assert ends == ["processing", "pending"]


def test_a_heartbeat_that_moves_is_not_written_over(make_job: MakeJob, sessions: Sessions) -> None:
    job = make_job("processing")
    seen = StillLease(job_id=job.id, epoch=job.lease_epoch, heartbeat=job.heartbeat_seq)
    set_column(sessions, job.id, "heartbeat_seq = heartbeat_seq + 1")
    with sessions.begin() as session:
        written = lifecycle.touch(session, [seen])

    assert written == set()
    assert read(sessions, job.id).heartbeat_seq == job.heartbeat_seq + 1


@pytest.mark.parametrize("lease_seconds", [1.0, 5.0, 60.0, 3600.0])
def test_the_reaper_looks_often_enough_for_any_lease(lease_seconds: float) -> None:
    settings = settings_of(lease_seconds=lease_seconds, heartbeat_seconds=lease_seconds / 3)

    # a gap of more than half a lease makes it start to count anew
    assert pause_between_looks(settings) < lease_seconds / 2
