"""Engines, sessions and the health of PostgreSQL. Nothing is connected at import."""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from sqlalchemy import URL, Engine, create_engine, make_url, text
from sqlalchemy.exc import (
    DBAPIError,
    InterfaceError,
    OperationalError,
    ProgrammingError,
    SQLAlchemyError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.pool import NullPool, QueuePool

from config import PROJECT_DIR, Settings
from errors import DatabaseUnavailable, ServiceError

logger = logging.getLogger(__name__)

Sessions = sessionmaker[Session]

#: Server-side limits of every connection: nothing of ours waits for ever on a lock or a statement.
TIMEOUTS = {
    "statement_timeout": "15s",
    "lock_timeout": "5s",
    "idle_in_transaction_session_timeout": "30s",
}
#: The same of whoever reads or fills whole tables, and still waits for no lock.
PATIENT_TIMEOUTS = {
    "statement_timeout": "0",
    "lock_timeout": "10s",
    "idle_in_transaction_session_timeout": "0",
}
#: libpq's limits, so that a dead server or a cut cable is noticed within seconds.
CONNECTION = {
    "connect_timeout": 3,
    "keepalives": 1,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
#: A server that takes in a table pauses now and then, which is no cut cable.
PATIENT_CONNECTION = {"tcp_user_timeout": 0}
#: SQLSTATEs, or classes of them, that mean "try later", not "this statement is wrong".
UNAVAILABLE = (
    "08",  # connection
    "25006",  # the server has become a replica
    "25P03",  # the transaction was idle for too long
    "40",  # deadlock
    "53",  # resources
    "55P03",  # lock timeout
    "57",  # operator, statement timeout
)
#: SQLSTATEs of a database that the migrations have not reached yet: no such table, no such column.
NOT_MIGRATED = ("42P01", "42703")

#: Any number, as long as it stays the same: processes that change tables at once take turns.
MIGRATION_LOCK: Final = 0x7472616E73
MIGRATIONS: Final = PROJECT_DIR / "migrations" / "versions"
#: How Alembic writes what a migration is, and what it follows.
_REVISION: Final = re.compile(r"^revision: str = '(\w+)'", re.MULTILINE)
_DOWN_REVISION: Final = re.compile(r"^down_revision: .* = '(\w+)'", re.MULTILINE)


def make_engine(
    settings: Settings,
    *,
    pooled: bool = True,
    name: str = "transcription",
    patient: bool = False,
) -> Engine:
    """Build an engine; it connects when first used. What DATABASE_URL says of itself wins.

    Args:
        pooled: False gives a fresh connection each time: for the heartbeat, which must not wait
            behind requests for one of the pool.
        name: What ``pg_stat_activity`` shows.
        patient: A statement may take as long as it likes, and the server pause in the middle of
            one: for backups.
    """
    url = make_url(settings.require_database_url())
    pool: dict[str, Any] = {"poolclass": NullPool}
    if pooled:
        pool = {
            "poolclass": QueuePool,
            "pool_size": settings.database_pool_size,
            "max_overflow": settings.database_max_overflow,
            "pool_timeout": settings.database_pool_timeout_seconds,
            "pool_pre_ping": True,
            "pool_recycle": 1800,
        }
    return create_engine(
        url,
        connect_args=_connect_args(url, name, patient=patient),
        hide_parameters=True,
        **pool,
    )


def _connect_args(url: URL, name: str, *, patient: bool) -> dict[str, Any]:
    """What libpq is told beside the URL, which would win over it."""
    ours = {**CONNECTION, **(PATIENT_CONNECTION if patient else {}), "application_name": name}
    timeouts = PATIENT_TIMEOUTS if patient else TIMEOUTS
    limits = (f"-c {key}={value}" for key, value in timeouts.items())
    # of two values of one setting the server takes the last
    options = " ".join([*limits, *url.normalized_query.get("options", ())])
    return {
        **{key: value for key, value in ours.items() if key not in url.query},
        "options": options,
    }


def make_sessions(engine: Engine) -> Sessions:
    return sessionmaker(engine, expire_on_commit=False)


@contextmanager
def translated_errors() -> Iterator[None]:
    """Turn "the database cannot answer now" into our own error; leave our mistakes alone.

    Raises:
        DatabaseUnavailable: It is away, starting, full, or out of connections.
    """
    try:
        yield
    except PoolTimeoutError as error:
        raise DatabaseUnavailable("No database connection became free in time.") from error
    except DBAPIError as error:
        if is_unavailable(error):
            raise DatabaseUnavailable from error
        raise


def explained(error: ServiceError) -> str:
    """Return the message with what PostgreSQL said: for operators and logs, never for clients."""
    cause = error.__cause__
    if not isinstance(cause, DBAPIError):
        return error.message
    if _is_not_migrated(cause):
        return "The database is not migrated: run alembic upgrade head."
    return f"{error.message.rstrip('.')}: {_first_line(cause)}."


def _first_line(error: DBAPIError) -> str:
    return str(error.orig).strip().partition("\n")[0]


def _is_not_migrated(error: DBAPIError) -> bool:
    return getattr(error.orig, "pgcode", None) in NOT_MIGRATED


def is_unavailable(error: DBAPIError) -> bool:
    if error.connection_invalidated:
        return True
    state = getattr(error.orig, "pgcode", None)
    if state is None:
        # libpq gives none when the server cannot be reached or cut the connection, and psycopg2
        # gives none when it refuses by itself, such as a value that it cannot send
        return isinstance(error, OperationalError | InterfaceError)
    return str(state).startswith(UNAVAILABLE)


@contextmanager
def get_db_session(sessions: Sessions) -> Iterator[Session]:
    """One transaction: committed at the end, rolled back on an error.

    Raises:
        DatabaseUnavailable: See ``translated_errors``; or it is not migrated yet.
    """
    try:
        with translated_errors(), sessions.begin() as session:
            yield session
    except ProgrammingError as error:
        if _is_not_migrated(error):
            raise DatabaseUnavailable("The database is not migrated yet.") from error
        raise


def get_db(sessions: Sessions) -> Iterator[Session]:
    """The same as a generator, for FastAPI's dependencies."""
    with get_db_session(sessions) as session:
        yield session


def ping(engine: Engine) -> bool:
    """Whether PostgreSQL answers."""
    try:
        with engine.connect() as connection:
            connection.execute(text("SELECT 1"))
    except SQLAlchemyError as error:
        cause = _first_line(error) if isinstance(error, DBAPIError) else None
        logger.warning(
            "database does not answer", extra={"error": type(error).__name__, "cause": cause}
        )
        return False
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionPoolStats:
    """Connections of one process."""

    #: Kept open at most, without overflow.
    size: int
    checked_out: int
    checked_in: int
    overflow: int


def pool_stats(engine: Engine) -> ConnectionPoolStats:
    pool = engine.pool
    if not isinstance(pool, QueuePool):
        return ConnectionPoolStats(size=0, checked_out=0, checked_in=0, overflow=0)
    return ConnectionPoolStats(
        size=pool.size(),
        checked_out=pool.checkedout(),
        checked_in=pool.checkedin(),
        overflow=max(0, pool.overflow()),
    )


class Migrated(StrEnum):
    """Where a database stands beside this version of the service."""

    CURRENT = "current"
    BEHIND = "behind"  #: Migrations have to be run.
    AHEAD = "ahead"  #: It was migrated for a later version, which this one goes on to work with.


@dataclass(frozen=True, slots=True, kw_only=True)
class Revisions:
    """The migrations that this version brings."""

    known: frozenset[str]
    head: str

    @classmethod
    @functools.cache
    def of(cls, folder: Path = MIGRATIONS) -> Revisions:
        """Read them from their files: asking Alembic would load all of it into every process."""
        texts = [file.read_text("utf-8") for file in folder.glob("*.py")]
        known = frozenset(revision for text in texts for revision in _REVISION.findall(text))
        followed = {revision for text in texts for revision in _DOWN_REVISION.findall(text)}
        (head,) = known - followed
        return cls(known=known, head=head)

    def judge(self, found: str | None) -> Migrated:
        if found == self.head:
            return Migrated.CURRENT
        return Migrated.BEHIND if found is None or found in self.known else Migrated.AHEAD


def revision(session: Session) -> str | None:
    """Look up which migration the database is at; None before the first."""
    if session.scalar(text("SELECT to_regclass('alembic_version')")) is None:
        return None
    found: str | None = session.scalar(text("SELECT version_num FROM alembic_version"))
    return found
