"""Engines, sessions and what is made of PostgreSQL's errors, on a real server."""

import socket
import threading
from collections.abc import Callable, Iterator

import pytest
from pydantic import SecretStr
from sqlalchemy import Engine, text
from sqlalchemy.exc import IntegrityError, ProgrammingError
from sqlalchemy.orm import Session

from config import Settings
from database import (
    ConnectionPoolStats,
    Sessions,
    explained,
    get_db,
    get_db_session,
    make_engine,
    make_sessions,
    ping,
    pool_stats,
)
from errors import DatabaseUnavailable, NotFound
from local_servers import PostgresServer
from tests.conftest import fresh_database

MakeEngine = Callable[..., Engine]


@pytest.fixture(scope="module")
def url(postgres_server: PostgresServer) -> Iterator[str]:
    with fresh_database(postgres_server, "template1") as url:
        yield url


@pytest.fixture
def build(url: str) -> Iterator[MakeEngine]:
    """Make engines that are disposed of after the test."""
    engines: list[Engine] = []

    def make(url: str = url, *, pooled: bool = True, **settings: object) -> Engine:
        values = {"database_url": SecretStr(url), "_env_file": None, **settings}
        engines.append(make_engine(Settings(**values), pooled=pooled, name="test"))  # type: ignore[arg-type]
        return engines[-1]

    yield make
    for engine in engines:
        engine.dispose()


@pytest.fixture
def engine(build: MakeEngine) -> Engine:
    return build()


@pytest.fixture
def sessions(engine: Engine) -> Sessions:
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE IF EXISTS notes"))
        connection.execute(text("CREATE TABLE notes (id int PRIMARY KEY, body text)"))
    return make_sessions(engine)


def bodies(sessions: Sessions) -> list[str]:
    with sessions() as session:
        return list(session.scalars(text("SELECT body FROM notes ORDER BY id")))


def run(sessions: Sessions, *statements: str) -> None:
    """Run statements in one session of ours."""
    with get_db_session(sessions) as session:
        for statement in statements:
            session.execute(text(statement))


def pid_of(session: Session) -> int:
    return int(session.scalar(text("SELECT pg_backend_pid()")) or 0)


def terminate(sessions: Sessions, pid: int) -> None:
    """End a connection from the server's side, and wait until it is gone."""
    with sessions() as other:
        assert other.scalar(text("SELECT pg_terminate_backend(:pid, 10000)"), {"pid": pid})


# Engines


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("application_name", "test"),
        ("statement_timeout", "15s"),
        ("lock_timeout", "5s"),
        ("idle_in_transaction_session_timeout", "30s"),
    ],
)
def test_every_connection_has_its_name_and_limits(setting: str, value: str, engine: Engine) -> None:
    with engine.connect() as connection:
        assert connection.scalar(text(f"SHOW {setting}")) == value


@pytest.mark.parametrize(
    ("query", "setting", "value"),
    [
        ("application_name=mine", "application_name", "mine"),
        ("options=-csearch_path%3Dfoo", "search_path", "foo"),
        ("options=-csearch_path%3Dfoo", "lock_timeout", "5s"),
        ("options=-clock_timeout%3D7s", "lock_timeout", "7s"),
        ("options=-cjit%3Doff&options=-csearch_path%3Dfoo", "search_path", "foo"),
    ],
)
def test_what_the_url_says_of_itself_wins(
    query: str, setting: str, value: str, url: str, build: MakeEngine
) -> None:
    joint = "&" if "?" in url else "?"
    with build(f"{url}{joint}{query}").connect() as connection:
        assert connection.scalar(text(f"SHOW {setting}")) == value


@pytest.mark.parametrize(("query", "seconds"), [("", "3"), ("connect_timeout=9", "9")])
def test_a_connection_is_given_up_after_the_urls_seconds_or_ours(
    query: str, seconds: str, url: str, build: MakeEngine
) -> None:
    joint = "&" if "?" in url else "?"
    with build(f"{url}{joint}{query}").connect() as connection:
        told = connection.connection.driver_connection.get_dsn_parameters()  # type: ignore[union-attr]

    assert told["connect_timeout"] == seconds


def test_nothing_is_connected_before_it_is_used(build: MakeEngine) -> None:
    assert pool_stats(build("postgresql://nobody@127.0.0.1:1/none")).checked_out == 0


def test_an_engine_without_a_pool_connects_afresh_each_time(build: MakeEngine) -> None:
    sessions = make_sessions(build(pooled=False))
    pids = set()
    for _ in range(2):
        with sessions() as session:
            pids.add(pid_of(session))

    assert len(pids) == 2


def test_a_pooled_connection_that_died_unseen_is_replaced(build: MakeEngine) -> None:
    sessions = make_sessions(build())
    with get_db_session(sessions) as session:
        pid = pid_of(session)
    terminate(make_sessions(build()), pid)

    with get_db_session(sessions) as session:
        assert pid_of(session) != pid


# Sessions


def test_a_session_commits_at_its_end(sessions: Sessions) -> None:
    run(sessions, "INSERT INTO notes VALUES (1, 'kept')")

    assert bodies(sessions) == ["kept"]


def test_a_session_that_ends_in_an_error_leaves_nothing(sessions: Sessions) -> None:
    with pytest.raises(ProgrammingError):
        run(sessions, "INSERT INTO notes VALUES (1, 'lost')", "SELECT FROM WHERE")

    assert bodies(sessions) == []


def test_the_generator_for_fastapi_commits_too(sessions: Sessions) -> None:
    generator = get_db(sessions)
    next(generator).execute(text("INSERT INTO notes VALUES (1, 'kept')"))
    assert bodies(sessions) == []
    with pytest.raises(StopIteration):
        next(generator)

    assert bodies(sessions) == ["kept"]


def test_the_generator_for_fastapi_rolls_back_on_an_error(sessions: Sessions) -> None:
    generator = get_db(sessions)
    next(generator).execute(text("INSERT INTO notes VALUES (1, 'lost')"))
    with pytest.raises(KeyError):
        generator.throw(KeyError())  # type: ignore[attr-defined]

    assert bodies(sessions) == []


# Errors: "try later" becomes ours, mistakes stay what they are


def test_a_server_that_is_away_is_unavailable(build: MakeEngine) -> None:
    sessions = make_sessions(build("postgresql://nobody@127.0.0.1:1/none"))

    with pytest.raises(DatabaseUnavailable), get_db_session(sessions) as session:
        session.execute(text("SELECT 1"))


def test_a_server_that_takes_calls_and_says_nothing_is_unavailable(build: MakeEngine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        sessions = make_sessions(build(f"postgresql://x@127.0.0.1:{mute.getsockname()[1]}/x"))

        with pytest.raises(DatabaseUnavailable), get_db_session(sessions) as session:
            session.execute(text("SELECT 1"))


def test_a_connection_that_is_cut_in_mid_transaction_is_unavailable(
    build: MakeEngine, sessions: Sessions
) -> None:
    others = make_sessions(build())

    def use(session: Session) -> None:
        terminate(others, pid_of(session))
        session.execute(text("SELECT 1"))

    with pytest.raises(DatabaseUnavailable), get_db_session(sessions) as session:
        use(session)


def test_a_connection_that_is_cut_before_the_commit_is_unavailable(
    build: MakeEngine, sessions: Sessions
) -> None:
    others = make_sessions(build())

    def use(session: Session) -> None:
        session.execute(text("INSERT INTO notes VALUES (1, 'lost')"))
        terminate(others, pid_of(session))

    with pytest.raises(DatabaseUnavailable), get_db_session(sessions) as session:
        use(session)

    assert bodies(sessions) == []


def test_a_pool_without_a_free_connection_is_unavailable(build: MakeEngine) -> None:
    sessions = make_sessions(
        build(database_pool_size=1, database_max_overflow=0, database_pool_timeout_seconds=0.05)
    )
    with get_db_session(sessions) as first:
        pid_of(first)
        with pytest.raises(DatabaseUnavailable, match="free"), get_db_session(sessions) as second:
            pid_of(second)


def test_a_statement_that_takes_too_long_is_unavailable(sessions: Sessions) -> None:
    with pytest.raises(DatabaseUnavailable):
        run(sessions, "SET LOCAL statement_timeout = '20ms'", "SELECT pg_sleep(30)")


def test_a_lock_that_takes_too_long_is_unavailable(sessions: Sessions) -> None:
    with get_db_session(sessions) as holder:
        holder.execute(text("LOCK TABLE notes"))
        with pytest.raises(DatabaseUnavailable):
            run(sessions, "SET LOCAL lock_timeout = '20ms'", "SELECT * FROM notes")


def test_the_victim_of_a_deadlock_is_unavailable(sessions: Sessions) -> None:
    run(sessions, "INSERT INTO notes VALUES (1, ''), (2, '')")
    both_hold = threading.Barrier(2)
    ends: list[str] = []

    def cross(first: int, second: int) -> None:
        try:
            with get_db_session(sessions) as session:
                session.execute(text("SET LOCAL deadlock_timeout = '50ms'"))
                session.execute(text("UPDATE notes SET body = 'x' WHERE id = :id"), {"id": first})
                both_hold.wait(20)
                session.execute(text("UPDATE notes SET body = 'x' WHERE id = :id"), {"id": second})
        except DatabaseUnavailable:
            ends.append("unavailable")
        else:
            ends.append("done")

    threads = [threading.Thread(target=cross, args=ids) for ids in ((1, 2), (2, 1))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert sorted(ends) == ["done", "unavailable"]


def test_a_server_that_only_reads_is_unavailable(sessions: Sessions) -> None:
    with pytest.raises(DatabaseUnavailable):
        run(sessions, "SET TRANSACTION READ ONLY", "INSERT INTO notes VALUES (1, 'lost')")


def test_a_wrong_statement_is_our_mistake(sessions: Sessions) -> None:
    with pytest.raises(ProgrammingError):
        run(sessions, "SELECT FROM WHERE")


@pytest.mark.parametrize("statement", ["SELECT * FROM nowhere", "SELECT title FROM notes"])
def test_a_database_that_is_not_migrated_yet_is_unavailable(
    statement: str, sessions: Sessions
) -> None:
    with pytest.raises(DatabaseUnavailable) as caught:
        run(sessions, statement)

    assert caught.value.message == "The database is not migrated yet."
    assert explained(caught.value) == "The database is not migrated: run alembic upgrade head."


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql://nobody@127.0.0.1:1/none", "Connection refused"),
        ("postgresql://127.0.0.1/none?sslmode=bogus", 'invalid sslmode value: "bogus"'),
        ("nowhere", 'database "nowhere" does not exist'),
    ],
)
def test_operators_read_what_postgresql_said_and_clients_do_not(
    url: str, said: str, build: MakeEngine, postgres_server: PostgresServer
) -> None:
    url = url if "://" in url else postgres_server.url_of(url)
    with (
        pytest.raises(DatabaseUnavailable) as caught,
        get_db_session(make_sessions(build(url))) as session,
    ):
        session.execute(text("SELECT 1"))

    assert caught.value.message == "The database cannot be reached."
    assert explained(caught.value).startswith("The database cannot be reached: ")
    assert said in explained(caught.value)
    assert "\n" not in explained(caught.value)


def test_what_postgresql_said_nothing_of_is_explained_by_itself() -> None:
    assert explained(NotFound("There is no such job.")) == "There is no such job."


def test_a_value_that_cannot_be_sent_is_our_mistake(sessions: Sessions) -> None:
    with pytest.raises(ProgrammingError), get_db_session(sessions) as session:
        session.execute(text("SELECT :value"), {"value": object()})


def test_an_error_shows_no_values(sessions: Sessions) -> None:
    statement = text("INSERT INTO notes VALUES (1, 'a'), (1, :body)")
    with pytest.raises(IntegrityError) as caught, get_db_session(sessions) as session:
        session.execute(statement, {"body": "what somebody said"})

    assert "what somebody said" not in str(caught.value)


# Health


def test_ping_tells_whether_the_server_answers(build: MakeEngine) -> None:
    assert ping(build())
    assert not ping(build("postgresql://nobody@127.0.0.1:1/none"))


def test_the_log_says_why_the_server_does_not_answer(
    build: MakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    ping(build("postgresql://nobody@127.0.0.1:1/none"))

    (record,) = caplog.records
    assert "Connection refused" in record.__dict__["cause"]


def test_the_pool_counts_its_connections(build: MakeEngine) -> None:
    engine = build(database_pool_size=1, database_max_overflow=1)
    with engine.connect(), engine.connect():
        busy = pool_stats(engine)
    idle = pool_stats(engine)

    assert busy == ConnectionPoolStats(size=1, checked_out=2, checked_in=0, overflow=1)
    assert idle == ConnectionPoolStats(size=1, checked_out=0, checked_in=1, overflow=0)


def test_an_engine_without_a_pool_has_nothing_to_count(build: MakeEngine) -> None:
    assert pool_stats(build(pooled=False)) == ConnectionPoolStats(
        size=0, checked_out=0, checked_in=0, overflow=0
    )
