"""Real PostgreSQL and Valkey for the tests: one of each a session, shared by xdist's workers.

`database_url` and `redis_url` give each test a database of its own in them.
"""

import contextlib
import fcntl
import importlib.util
import itertools
import os
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

import pytest
import redis
import sqlalchemy
from alembic import command
from alembic.config import Config as AlembicConfig
from sqlalchemy import Engine

from errors import LocalServerFailed
from local_servers import PostgresServer, ValkeyServer
from local_servers.server import LocalServer, remove
from models import Base

PROJECT_DIR = Path(__file__).resolve().parent.parent
FOLDER_PREFIX = "transcription-tests-"
SERVERS = {"postgres": PostgresServer, "valkey": ValkeyServer}
#: Numbered databases of Valkey that each xdist worker takes turns in.
DATABASES_EACH = 64
WORKERS_MAX = 64
#: Who the service is where it does not own its tables, by the settings' default.
SERVICE_ROLE = "transcription_service"

servers_folder = pytest.StashKey[Path]()
session_lock = pytest.StashKey[IO[bytes]]()


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput"):
        config.stash[servers_folder] = Path(config.workerinput["servers_folder"])
        return
    sweep()
    # Held before it gets the name that another session's sweep looks for.
    new = Path(tempfile.mkdtemp(prefix=f"new-{FOLDER_PREFIX}"))
    config.stash[session_lock] = hold(new)
    # As root the servers run as somebody else, who must be able to pass.
    new.chmod(0o711)
    config.stash[servers_folder] = new.rename(new.with_name(new.name.removeprefix("new-")))


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    node.workerinput["servers_folder"] = str(node.config.stash[servers_folder])


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stop and delete everything, whatever became of the tests and of xdist's workers."""
    if session_lock in config.stash:
        clear(config.stash[servers_folder])
        config.stash[session_lock].close()


def hold(folder: Path) -> IO[bytes]:
    """Mark a folder as in use until the returned file is closed.

    Raises:
        BlockingIOError: another session uses it.
    """
    lock = (folder / "session").open("ab")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise
    return lock


def sweep() -> None:
    """Clear what sessions left that were killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{FOLDER_PREFIX}*"):
        with contextlib.suppress(OSError, LocalServerFailed), hold(folder):
            clear(folder)


def clear(folder: Path) -> None:
    for name, server in SERVERS.items():
        if (folder / name).exists():
            server(folder / name).stop()
    remove(folder)


def started(server: LocalServer) -> Iterator[None]:
    """Run a server; without its wheel, skip at home and fail where CI is set."""
    if not os.environ.get("CI") and importlib.util.find_spec(server.package) is None:
        pytest.skip(f"{server.distribution} is not installed")
    server.start()
    yield
    server.stop()


@pytest.fixture(scope="session")
def postgres_server(pytestconfig: pytest.Config) -> Iterator[PostgresServer]:
    server = PostgresServer(pytestconfig.stash[servers_folder] / "postgres", fast=True)
    with contextlib.contextmanager(started)(server):
        yield server


@pytest.fixture(scope="session")
def valkey_server(pytestconfig: pytest.Config) -> Iterator[ValkeyServer]:
    folder = pytestconfig.stash[servers_folder] / "valkey"
    server = ValkeyServer(folder, fast=True, databases=DATABASES_EACH * WORKERS_MAX)
    with contextlib.contextmanager(started)(server):
        yield server


@contextlib.contextmanager
def administration(server: PostgresServer) -> Iterator[Callable[..., Any]]:
    """Give a function that runs one statement and returns its first value."""
    engine = sqlalchemy.create_engine(
        server.url_of("postgres"), poolclass=sqlalchemy.NullPool, isolation_level="AUTOCOMMIT"
    )
    with engine.connect() as connection:

        def execute(statement: str) -> Any:
            result = connection.execute(sqlalchemy.text(statement))
            return result.scalar() if result.returns_rows else None

        yield execute


@pytest.fixture(scope="session")
def migrated_database(postgres_server: PostgresServer) -> str:
    """The name of a database at the newest migration, for others to be copied from."""
    with administration(postgres_server) as execute:
        execute("SELECT pg_advisory_lock(1)")  # one worker makes it, the others wait
        if not execute("SELECT count(*) FROM pg_database WHERE datname = 'migrated'"):
            execute("DROP DATABASE IF EXISTS migrating")
            if not execute(f"SELECT to_regrole('{SERVICE_ROLE}')"):
                execute(f"CREATE ROLE {SERVICE_ROLE} LOGIN")
            execute("CREATE DATABASE migrating")
            migrate(postgres_server.url_of("migrating"))
            execute("ALTER DATABASE migrating RENAME TO migrated")
    return "migrated"


def as_service(url: str) -> str:
    """The same database for the role that owns nothing in it."""
    parts = urlsplit(url)
    netloc = f"{SERVICE_ROLE}@{parts.netloc.rpartition('@')[2]}"
    return parts._replace(netloc=netloc).geturl()


def migrate(url: str) -> None:
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
    alembic = AlembicConfig(PROJECT_DIR / "alembic.ini")
    with engine.begin() as connection:
        alembic.attributes["connection"] = connection
        command.upgrade(alembic, "head")


@contextlib.contextmanager
def fresh_database(server: PostgresServer, template: str) -> Iterator[str]:
    name = f"test_{uuid.uuid4().hex}"
    with administration(server) as execute:
        execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    try:
        yield server.url_of(name)
    finally:
        with administration(server) as execute:
            execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def shared_engine(postgres_server: PostgresServer, migrated_database: str) -> Iterator[Engine]:
    with fresh_database(postgres_server, migrated_database) as url:
        # tests take connections away, also this engine's own
        engine = sqlalchemy.create_engine(url, pool_pre_ping=True)
        yield engine
        engine.dispose()


@pytest.fixture
def emptied_engine(shared_engine: Engine) -> Engine:
    """Empty tables: emptying them is ten times quicker than a database for each test."""
    names = ", ".join(table.name for table in Base.metadata.sorted_tables)
    with shared_engine.begin() as connection:
        # as a superuser may: audit events refuse to be emptied
        connection.execute(sqlalchemy.text("SET LOCAL session_replication_role = replica"))
        connection.execute(sqlalchemy.text(f"TRUNCATE {names}"))
    return shared_engine


@pytest.fixture
def database_url(postgres_server: PostgresServer, migrated_database: str) -> Iterator[str]:
    """A database at the newest migration, for one test."""
    with fresh_database(postgres_server, migrated_database) as url:
        yield url


@pytest.fixture
def empty_database_url(postgres_server: PostgresServer) -> Iterator[str]:
    """A database without any table, for one test."""
    with fresh_database(postgres_server, "template1") as url:
        yield url


@pytest.fixture(scope="session")
def redis_numbers(worker_number: int) -> Iterator[int]:
    """This worker's numbered databases, round and round: a test's stragglers meet no other."""
    first = worker_number * DATABASES_EACH
    return itertools.cycle(range(first, first + DATABASES_EACH))


@pytest.fixture(scope="session")
def worker_number() -> int:
    """The number of this xdist worker: 0 without xdist."""
    return int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))


@pytest.fixture
def redis_url(valkey_server: ValkeyServer, redis_numbers: Iterator[int]) -> Iterator[str]:
    """An empty numbered database, for one test. FLUSHDB is the test's, FLUSHALL everybody's."""
    url = valkey_server.url_of(next(redis_numbers))
    with contextlib.closing(redis.Redis.from_url(url)) as client:
        client.flushdb()
        yield url
        client.flushdb()
