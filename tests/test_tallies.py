"""What is counted: in memory, written, added up, folded; and by triggers, whoever changes a job."""

import re
import threading
from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import Engine, NullPool, create_engine, func, select
from sqlalchemy.orm import Session, sessionmaker

import tallies
from models import Tally
from tallies import COUNTED, POOL, WAITS, Rises, Tallies, Writer
from tests.recordings import PROJECT_DIR

KEY = ("jobs_submitted", (("priority", "high"),))


@pytest.fixture
def sessions(emptied_engine: Engine) -> sessionmaker[Session]:
    return sessionmaker(emptied_engine, expire_on_commit=False)


@pytest.fixture
def session(sessions: sessionmaker[Session]) -> Iterator[Session]:
    with sessions.begin() as session:
        yield session


def counted(sessions: sessionmaker[Session]) -> dict[tallies.Key, float]:
    with sessions() as session:
        return tallies.read(session)


def test_what_is_counted_is_added_up(sessions: sessionmaker[Session]) -> None:
    counts = Tallies()
    writer = Writer(counts, sessions)
    counts.add("jobs_submitted", priority="high")
    counts.add("jobs_submitted", 2, priority="high")
    writer.write()
    counts.add("jobs_submitted", priority="high")
    writer.write()

    assert counted(sessions) == {KEY: 4}


def test_a_value_is_counted_in_the_bucket_that_it_is_in_and_no_other(
    sessions: sessionmaker[Session],
) -> None:
    counts = Tallies()
    for value in (0.05, 0.1, 3, 99):
        counts.observe("webhook_try_seconds", value)
    Writer(counts, sessions).write()

    assert counted(sessions) == {
        ("webhook_try_seconds_bucket", (("bucket", 0),)): 2,
        ("webhook_try_seconds_bucket", (("bucket", 3),)): 1,
        ("webhook_try_seconds_bucket", (("bucket", 5),)): 1,
        ("webhook_try_seconds_sum", ()): pytest.approx(102.15),
    }


@pytest.mark.parametrize("labels", [{}, {"priority": "high", "owner": "alice"}])
def test_labels_that_nobody_knows_are_refused(labels: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="is counted by"):
        Tallies().add("jobs_submitted", **labels)  # type: ignore[arg-type]


def test_nothing_is_lost_while_postgresql_is_away(sessions: sessionmaker[Session]) -> None:
    away = sessionmaker(
        create_engine("postgresql+psycopg2://nobody@127.0.0.1:1/none", poolclass=NullPool)
    )
    counts = Tallies()
    counts.add("fences")
    Writer(counts, away).write()
    counts.add("fences")
    Writer(counts, sessions).write()

    assert counted(sessions) == {("fences", ()): 2}


def test_a_writer_writes_what_is_left_at_its_end(sessions: sessionmaker[Session]) -> None:
    counts = Tallies()
    writer = Writer(counts, sessions, pause_seconds=60)
    writer.start()
    counts.add("fences")
    writer.close()

    assert counted(sessions) == {("fences", ()): 1}


def test_what_somebody_else_counts_is_counted_by_its_rise() -> None:
    counts, found = Tallies(), {"model_loads": 3.0}
    look = Rises(counts, lambda: dict(found))
    look()
    look()
    found["model_loads"] = 5.0
    look()

    assert counts.take() == {("model_loads", ()): 5}


def test_folding_keeps_every_sum_whoever_counts_meanwhile(sessions: sessionmaker[Session]) -> None:
    counts = Tallies()
    writer = Writer(counts, sessions)
    sums: list[float] = []

    def count(times: int) -> None:
        for _ in range(times):
            own = Tallies()
            own.add("fences")
            Writer(own, sessions).write()
            sums.append(counted(sessions)[("fences", ())])

    def fold(times: int) -> None:
        for _ in range(times):
            with sessions.begin() as session:
                tallies.fold(session, least=1)

    counts.add("fences")
    writer.write()
    jobs: list[tuple[Callable[[int], None], int]] = [
        (count, 20),
        (count, 20),
        (fold, 30),
        (fold, 30),
    ]
    threads = [threading.Thread(target=target, args=(times,)) for target, times in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    fold(1)

    assert counted(sessions) == {("fences", ()): 41}
    assert min(sums) >= 2
    with sessions() as session:
        assert session.scalar(select(func.count()).select_from(Tally)) == 1


def test_few_rows_are_left_alone(session: Session) -> None:
    for _ in range(2):
        tallies.write(session, {("fences", ()): 1.0})
    tallies.fold(session)

    assert session.scalar(select(func.count()).select_from(Tally)) == 2


def test_what_another_version_counts_is_passed_by(session: Session) -> None:
    tallies.write(session, {("not_yet_known", ()): 1.0, ("fences", (("label", "new"),)): 1.0})

    assert tallies.read(session) == {}


def test_the_trigger_has_the_bounds_that_are_shown() -> None:
    (migration,) = (PROJECT_DIR / "migrations/versions").glob("*first_schema.py")
    (said,) = re.findall(r"ARRAY\[([\d, ]+)\]::double precision", migration.read_text("utf-8"))

    assert tuple(map(int, said.split(", "))) == WAITS == COUNTED["wait_seconds"].bounds


def test_known_labels_are_labels() -> None:
    for counted_one in COUNTED.values():
        assert all(set(labels) == set(counted_one.labels) for labels in counted_one.known)
        assert list(counted_one.bounds) == sorted(counted_one.bounds)


def test_what_the_pool_counts_is_counted() -> None:
    assert COUNTED.keys() >= set(POOL.values())
