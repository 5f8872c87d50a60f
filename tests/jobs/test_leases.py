"""Leases and the thread that keeps them, on real PostgreSQL."""

import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import pytest
from sqlalchemy import Engine, NullPool, create_engine, event, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from errors import CancelRequested, DeadlineExceeded, Draining, LeaseLost, ServiceError
from jobs import lifecycle, workers
from jobs.leases import Hold, LeaseKeeper, Refused
from jobs.lifecycle import Lease, StillLease
from jobs.workers import WorkerState
from local_servers import PostgresServer
from models import Worker
from tests.conftest import administration
from tests.fakes import FakeClock, eventually
from tests.jobs.conftest import NO_PAUSE, OUTCOME, TRANSCRIPT, MakeJob, claim, read

Sessions = sessionmaker[Session]
STATE = WorkerState(name="w1", role="worker", version="3.0.0", queues=("high",), slots=2)
STALL_SECONDS = 100.0
SLOTS = 3


@dataclass
class Process:
    """One process's keeper, and what it told the process."""

    sessions: Sessions
    clock: FakeClock = field(default_factory=FakeClock)
    announced: list[int] = field(default_factory=list)
    stalled: list[Hold] = field(default_factory=list)
    #: Called in the middle of each beat.
    at_beat: Callable[[], object] = lambda: None
    #: Called when an attempt stands still.
    at_stall: Callable[[Hold], object] = lambda _: None

    def keeper(self, *, heartbeat_seconds: float = 5.0) -> LeaseKeeper:
        return LeaseKeeper(
            self.sessions,
            heartbeat_seconds=heartbeat_seconds,
            stall_seconds=STALL_SECONDS,
            announce=self.announce,
            on_stall=self.stall,
            clock=self.clock,
        )

    def announce(self, session: Session, *, running: int, begun: int) -> None:
        self.at_beat()
        self.announced.append(running)
        workers.announce(session, STATE)

    def stall(self, hold: Hold) -> None:
        self.stalled.append(hold)
        self.at_stall(hold)


@pytest.fixture
def process(sessions: Sessions) -> Process:
    return Process(sessions)


@pytest.fixture
def keeper(process: Process) -> LeaseKeeper:
    return process.keeper()


@pytest.fixture
def lease(make_job: MakeJob, sessions: Sessions) -> Lease:
    return claim(sessions, make_job().id).lease


def seq(sessions: Sessions, job_id: uuid.UUID) -> int:
    return read(sessions, job_id).heartbeat_seq


def reap(sessions: Sessions, job_id: uuid.UUID) -> None:
    job = read(sessions, job_id)
    still = StillLease(job_id=job.id, epoch=job.lease_epoch, heartbeat=job.heartbeat_seq)
    with sessions.begin() as session:
        assert lifecycle.reap(session, [still], max_crashes=9, backoff=NO_PAUSE)


def cancel(sessions: Sessions, job_id: uuid.UUID) -> None:
    with sessions.begin() as session:
        lifecycle.cancel(session, job_id)


# A beat


def test_a_beat_renews_the_lease_and_tells_how_far_it_is(
    keeper: LeaseKeeper, lease: Lease, sessions: Sessions
) -> None:
    before = seq(sessions, lease.job_id)
    with keeper.hold(lease) as hold:
        hold.sign(progress=0.5, step="transcribing")
        keeper.beat()
        hold.check()
    job = read(sessions, lease.job_id)

    assert job.heartbeat_seq == before + 1
    assert (job.progress, job.current_step) == (0.5, "transcribing")


def test_all_leases_are_renewed_by_one_statement(
    keeper: LeaseKeeper, make_job: MakeJob, sessions: Sessions, engine: Engine
) -> None:
    leases = [claim(sessions, make_job().id).lease for _ in range(5)]
    seen: list[str] = []
    with ExitStack() as stack:
        for lease in leases:
            stack.enter_context(keeper.hold(lease))
        event.listen(engine, "before_cursor_execute", lambda *args: seen.append(args[2]))
        keeper.beat()

    assert len([statement for statement in seen if "heartbeat_seq" in statement]) == 1
    assert {read(sessions, lease.job_id).heartbeat_seq for lease in leases} == {2}


def test_a_beat_says_how_many_jobs_run_even_when_none_does(
    process: Process, keeper: LeaseKeeper, lease: Lease, sessions: Sessions
) -> None:
    keeper.beat()
    with keeper.hold(lease):
        keeper.beat()

    assert process.announced == [0, 1]
    with sessions() as session:
        assert session.get(Worker, "w1") is not None


def test_a_lease_outside_its_block_is_not_renewed(
    keeper: LeaseKeeper, lease: Lease, sessions: Sessions
) -> None:
    with pytest.raises(KeyError), keeper.hold(lease):
        raise KeyError
    before = seq(sessions, lease.job_id)
    keeper.beat()

    assert keeper.holds == []
    assert seq(sessions, lease.job_id) == before


def test_leases_are_renewed_whatever_the_process_fails_to_say_of_itself(
    process: Process, keeper: LeaseKeeper, lease: Lease, sessions: Sessions
) -> None:
    process.at_beat = lambda: 1 / 0
    before = seq(sessions, lease.job_id)
    with keeper.hold(lease) as hold:
        keeper.beat()
        hold.check()

    assert seq(sessions, lease.job_id) == before + 1


# What an attempt is told


def test_an_attempt_whose_job_was_taken_from_it_learns_so(
    keeper: LeaseKeeper, lease: Lease, sessions: Sessions
) -> None:
    with keeper.hold(lease) as hold:
        reap(sessions, lease.job_id)
        claim(sessions, lease.job_id, "w2")
        keeper.beat()
        with pytest.raises(LeaseLost):
            hold.check()


def test_an_attempt_learns_that_its_client_cancelled_and_goes_on_beating(
    keeper: LeaseKeeper, lease: Lease, sessions: Sessions
) -> None:
    with keeper.hold(lease) as hold:
        cancel(sessions, lease.job_id)
        before = seq(sessions, lease.job_id)
        for _ in range(2):
            keeper.beat()
        with pytest.raises(CancelRequested):
            hold.check()

    assert seq(sessions, lease.job_id) == before + 2


def test_an_attempt_that_ends_during_a_beat_has_not_lost_its_lease(
    process: Process, keeper: LeaseKeeper, lease: Lease, sessions: Sessions
) -> None:
    with keeper.hold(lease) as hold:
        with sessions.begin() as session:
            lifecycle.complete(session, lease, TRANSCRIPT, OUTCOME)
        process.at_beat = lambda: keeper.release(hold)
        keeper.beat()
        hold.check()


def test_a_job_that_comes_back_to_the_same_process_ends_the_attempt_before(
    keeper: LeaseKeeper, lease: Lease, sessions: Sessions
) -> None:
    with keeper.hold(lease) as old:
        reap(sessions, lease.job_id)
        with keeper.hold(claim(sessions, lease.job_id).lease) as new:
            with pytest.raises(LeaseLost):
                old.check()
            keeper.release(old)
            assert keeper.holds == [new]
            keeper.beat()
            new.check()


def test_draining_asks_every_attempt_to_stop(
    keeper: LeaseKeeper, make_job: MakeJob, sessions: Sessions
) -> None:
    with ExitStack() as stack:
        holds = [
            stack.enter_context(keeper.hold(claim(sessions, make_job().id).lease)) for _ in range(2)
        ]
        keeper.drain()
        for hold in holds:
            with pytest.raises(Draining):
                hold.check()


@pytest.mark.parametrize(
    ("asked", "raised"),
    [
        ([Draining(), CancelRequested()], Draining),
        ([CancelRequested(), Draining()], CancelRequested),
        ([Draining(), LeaseLost()], LeaseLost),
        ([LeaseLost(), Draining()], LeaseLost),
    ],
)
def test_the_first_reason_to_stop_counts_but_a_lost_lease_outranks_it(
    asked: list[ServiceError], raised: type[ServiceError], lease: Lease
) -> None:
    hold = Hold(lease, FakeClock())
    for reason in asked:
        hold.stop(reason)

    with pytest.raises(raised):
        hold.check()


def test_a_deadline_counts_from_when_it_is_started(lease: Lease) -> None:
    clock = FakeClock()
    hold = Hold(lease, clock)
    clock.advance(1000)
    hold.start_deadline(10)
    clock.advance(10)
    hold.check()
    clock.advance(0.1)

    with pytest.raises(DeadlineExceeded):
        hold.check()


def test_a_sign_keeps_what_it_does_not_say_anew(lease: Lease) -> None:
    hold = Hold(lease, FakeClock())
    hold.sign(progress=0.5, step="transcribing")
    hold.sign()
    beat = hold.beat()

    assert (beat.progress, beat.step) == (0.5, "transcribing")


# An attempt that stands still


def test_an_attempt_that_shows_no_sign_for_too_long_is_given_up(
    process: Process, keeper: LeaseKeeper, lease: Lease
) -> None:
    with keeper.hold(lease) as hold:
        process.clock.advance(STALL_SECONDS + 1)
        keeper.beat()

        assert process.stalled == [hold]
        with pytest.raises(Draining):
            hold.check()


def test_an_attempt_that_shows_signs_is_not_given_up(
    process: Process, keeper: LeaseKeeper, lease: Lease
) -> None:
    with keeper.hold(lease) as hold:
        for _ in range(5):
            process.clock.advance(STALL_SECONDS - 1)
            hold.sign()
            keeper.beat()
        hold.check()

    assert process.stalled == []


def test_a_lease_that_is_let_go_for_its_stall_is_renewed_no_more(
    process: Process, keeper: LeaseKeeper, lease: Lease, sessions: Sessions
) -> None:
    before = seq(sessions, lease.job_id)
    process.at_stall = keeper.release
    with keeper.hold(lease):
        process.clock.advance(STALL_SECONDS + 1)
        for _ in range(2):
            keeper.beat()

    assert len(process.stalled) == 1
    assert seq(sessions, lease.job_id) == before


# The end


def test_a_process_that_drains_admits_no_attempt(keeper: LeaseKeeper) -> None:
    keeper.refuse()

    with pytest.raises(Refused), keeper.admitted(SLOTS):
        pass


def test_attempts_count_from_before_their_claim(keeper: LeaseKeeper) -> None:
    with keeper.admitted(SLOTS):
        assert keeper.attempts == 1

    assert keeper.attempts == 0


def test_an_attempt_that_claims_while_the_others_are_told_is_told_too(
    keeper: LeaseKeeper, lease: Lease
) -> None:
    keeper.drain()

    with keeper.hold(lease) as hold, pytest.raises(Draining):
        hold.check()


# The thread


@contextmanager
def beating(keeper: LeaseKeeper) -> Iterator[None]:
    keeper.start()
    try:
        yield
    finally:
        keeper.close()


def test_the_thread_beats_until_it_is_closed(process: Process) -> None:
    keeper = process.keeper(heartbeat_seconds=0.01)
    with beating(keeper):
        eventually(lambda: len(process.announced) >= 3)

    eventually(lambda: all(thread.name != "heartbeat" for thread in threading.enumerate()))


def test_the_first_beat_comes_at_once(process: Process) -> None:
    with beating(process.keeper(heartbeat_seconds=1000.0)):
        eventually(lambda: len(process.announced) == 1)


def test_a_keeper_that_never_started_can_be_closed(keeper: LeaseKeeper) -> None:
    keeper.close()


def test_the_thread_survives_what_should_not_happen(process: Process, lease: Lease) -> None:
    keeper = process.keeper(heartbeat_seconds=0.01)
    with keeper.hold(lease) as hold:
        process.clock.advance(STALL_SECONDS + 1)
        process.at_stall = lambda _: 1 / 0
        with beating(keeper):
            eventually(lambda: len(process.stalled) >= 1)
            hold.sign()
            eventually(lambda: len(process.announced) >= 1)


@pytest.fixture
def own_database(database_url: str) -> Sessions:
    """A database that the test may close to everybody, through connections made afresh."""
    return sessionmaker(create_engine(database_url, poolclass=NullPool), expire_on_commit=False)


def unknown_lease() -> Lease:
    return Lease(job_id=uuid.uuid4(), epoch=1, worker_name="w1", attempt=1)


@contextmanager
def away(server: PostgresServer, sessions: Sessions) -> Iterator[None]:
    """Let the database refuse every connection for the length of the block."""
    with sessions() as session:
        name = session.scalar(text("SELECT current_database()"))
    with administration(server) as execute:
        execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        try:
            yield
        finally:
            execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")


@pytest.mark.parametrize("jobs", [0, 1])
def test_a_beat_says_that_the_database_is_away(
    jobs: int, own_database: Sessions, postgres_server: PostgresServer
) -> None:
    keeper = Process(own_database).keeper()
    with ExitStack() as stack:
        for _ in range(jobs):
            stack.enter_context(keeper.hold(unknown_lease()))
        stack.enter_context(away(postgres_server, own_database))
        with pytest.raises(SQLAlchemyError):
            keeper.beat()


def test_a_database_that_is_away_stops_no_work_and_leases_go_on_afterwards(
    own_database: Sessions, postgres_server: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    process = Process(own_database)
    keeper = process.keeper(heartbeat_seconds=0.01)
    with keeper.hold(unknown_lease()) as hold:
        with away(postgres_server, own_database):
            with beating(keeper):
                eventually(lambda: caplog.messages.count("heartbeat failed") >= 2)
            hold.check()
        keeper.beat()

    assert process.announced == [1]
