"""The tables of a backup, and how their rows come out of PostgreSQL and in again: by COPY.

Its text form is the same in every version of PostgreSQL, and needs no program beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import psycopg2
from sqlalchemy import Connection, Engine, text
from sqlalchemy.engine import Row

from backups import files
from backups.files import Packed
from backups.manifest import Table, table_path
from database import translated_errors
from errors import BackupDamaged, DatabaseUnavailable
from models import Base

#: Tables that no backup has, and why nobody misses them.
LEFT_OUT: Final[Mapping[str, str]] = {
    "page_sessions": "who had signed in; a session that was ended would begin anew",
    "request_counts": "what keys asked for in the last minutes, while Redis was away",
    "tallies": "what was counted for /metrics, whose readers know counters that begin anew",
    "workers": "what processes said of themselves while they ran",
}
#: Rows that are read at once, where they are read one by one.
PAGE: Final = 5000

#: How values are written, whatever the server or the role would have it.
FORM: Final = (
    "SET LOCAL client_encoding = 'UTF8'",
    "SET LOCAL datestyle = 'ISO, YMD'",
    "SET LOCAL intervalstyle = 'postgres'",
    "SET LOCAL timezone = 'UTC'",
    "SET LOCAL bytea_output = 'hex'",
    "SET LOCAL extra_float_digits = 1",
    # what DATABASE_URL says of time limits is meant for the service
    "SET LOCAL statement_timeout = 0",
    "SET LOCAL idle_in_transaction_session_timeout = 0",
)

_MOMENT: Final = text("""
SELECT now() AS taken_at,
       current_setting('server_version') AS postgres_version,
       pg_is_in_recovery() AS is_replica,
       (SELECT COALESCE(sum(pg_table_size(to_regclass(name))), 0) FROM unnest(:tables) AS name)
           AS table_bytes
""")
#: Columns that are kept: what is computed from others comes by itself.
_COLUMNS: Final = text("""
SELECT attname
  FROM pg_attribute
 WHERE attrelid = CAST(:table AS regclass)
   AND attnum > 0
   AND NOT attisdropped
   AND attgenerated = ''
 ORDER BY attnum
""")
_NEEDED: Final = text("""
SELECT id, upload_bytes, upload_sha256
  FROM transcription_jobs
 WHERE upload_deleted_at IS NULL
   AND NOT upload_awaited
 ORDER BY id
""")


def kept() -> list[str]:
    """The tables of a backup, each after those that it refers to."""
    return [table.name for table in Base.metadata.sorted_tables if table.name not in LEFT_OUT]


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """When a backup is of, and of what."""

    taken_at: datetime
    postgres_version: str
    is_replica: bool
    #: All tables on the server's disk: more than they take when they are compressed.
    table_bytes: int


class Snapshot:
    """All tables at one moment. Nothing that is committed later is seen; nobody has to wait."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._raw: Any = connection.connection.driver_connection
        set_form(connection)
        # before the first query, which is the moment: what migrates comes before or after
        tables = ", ".join(map(quoted, kept()))
        connection.exec_driver_sql(f"LOCK TABLE {tables} IN ACCESS SHARE MODE")
        self.revision = connection.scalar(text("SELECT version_num FROM alembic_version"))
        row = connection.execute(_MOMENT, {"tables": kept()}).one()
        self.moment = Moment(**row._asdict())

    @classmethod
    @contextmanager
    def of(cls, engine: Engine) -> Iterator[Snapshot]:
        """Begin one, and end it with the block.

        Raises:
            DatabaseUnavailable: PostgreSQL went away, or somebody migrates.
        """
        options = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
        with translated_errors(), engine.connect().execution_options(**options) as connection:
            yield cls(connection)

    def dump(self, folder: Path, name: str) -> Table:
        """Write one table."""
        columns = columns_of(self._connection, name)
        with Packed(table_path(folder, name)) as file:
            with self._raw.cursor() as cursor, _driver_errors():
                cursor.copy_expert(f"COPY {_with(name, columns)} TO STDOUT", file.stream)
                rows = cursor.rowcount
            digest = file.finish()
        return Table(name=name, columns=tuple(columns), rows=rows, file=digest)

    def needed_uploads(self) -> Iterator[Row[Any]]:
        """The uploads that jobs have: ``id``, ``upload_bytes``, ``upload_sha256``."""
        rows = self._connection.execution_options(yield_per=PAGE).execute(_NEEDED)
        yield from rows


def set_form(connection: Connection) -> None:
    """Have values written and read as backups have them, until the transaction's end."""
    for statement in FORM:
        connection.exec_driver_sql(statement)


def columns_of(connection: Connection, table: str) -> list[str]:
    return list(connection.scalars(_COLUMNS, {"table": table}))


def fill(connection: Connection, folder: Path, table: Table) -> None:
    """Add the rows of a backup to an empty table.

    Raises:
        BackupDamaged: They are not rows of that table, or not as many as were written.
    """
    raw: Any = connection.connection.driver_connection
    with (
        files.unpacked(table_path(folder, table.name)) as file,
        raw.cursor() as cursor,
        _driver_errors(),
    ):
        try:
            cursor.copy_expert(f"COPY {_with(table.name, table.columns)} FROM STDIN", file)
        except (psycopg2.DataError, psycopg2.IntegrityError, psycopg2.ProgrammingError) as error:
            why = _first_line(error)
            raise BackupDamaged(f"{table.name} cannot be filled from it: {why}.") from error
        if cursor.rowcount != table.rows:
            raise BackupDamaged(
                f"{table.name} has {cursor.rowcount} rows in it, and should have {table.rows}."
            )
    connection.exec_driver_sql(f"ANALYZE {quoted(table.name)}")


@contextmanager
def _driver_errors() -> Iterator[None]:
    """Translate what comes past SQLAlchemy, which knows nothing of COPY."""
    try:
        yield
    except psycopg2.Error as error:
        raise DatabaseUnavailable(f"PostgreSQL ended it: {_first_line(error)}.") from error


def _first_line(error: psycopg2.Error) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".")


def _with(table: str, columns: Sequence[str]) -> str:
    return f"{quoted(table)} ({', '.join(map(quoted, columns))})"


def quoted(name: str) -> str:
    """A name for a statement, whatever it is."""
    doubled = name.replace('"', '""')
    return f'"{doubled}"'
