"""What of PostgreSQL is in a backup, and that its rows come out and in again as they are."""

from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from backups import tables
from backups.files import Packed
from backups.manifest import TABLES, Table, table_path
from backups.tables import LEFT_OUT, Snapshot
from errors import BackupDamaged, DatabaseUnavailable
from models import Base
from tests.backups.conftest import Service

#: What text can hold that a file of rows might mistake for its own.
HOSTILE = "tab\t newline\n return\r backslash\\ \\N \\. quote' \" null-ish é 漢 \U0001f399 end"


def dump(service: Service, folder: Path, name: str) -> Table:
    (folder / TABLES).mkdir(parents=True, exist_ok=True)
    with Snapshot.of(service.engine) as snapshot:
        return snapshot.dump(folder, name)


def test_every_table_is_in_a_backup_or_left_out_by_name(service: Service) -> None:
    query = (
        "SELECT relname FROM pg_class"
        " WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')"
    )
    there = {row.relname for row in service.execute(query)} - {"alembic_version"}

    assert there == {*tables.kept()} | LEFT_OUT.keys()
    assert not {*tables.kept()} & LEFT_OUT.keys()


def test_nothing_but_tables_holds_anything(service: Service) -> None:
    """A sequence's next value, or a large object, would be in no backup."""
    query = (
        "SELECT relname FROM pg_class WHERE relkind = 'S' AND relnamespace = 'public'::regnamespace"
    )

    assert service.execute(query) == []
    assert service.execute("SELECT oid FROM pg_largeobject_metadata") == []


def test_a_table_comes_after_those_that_it_refers_to() -> None:
    order = tables.kept()
    for table in Base.metadata.sorted_tables:
        for key in table.foreign_keys:
            if table.name in order:
                assert order.index(key.column.table.name) < order.index(table.name)


def test_columns_that_are_computed_are_not_kept(service: Service, folder: Path) -> None:
    assert "lane" not in dump(service, folder, "transcription_jobs").columns


@pytest.mark.parametrize("level", ["'iso, dmy'", "'german'", "'sql, mdy'"])
def test_rows_are_the_same_afterwards_whatever_the_server_prefers(
    level: str, service: Service, folder: Path
) -> None:
    service.submit(client_filename=HOSTILE, client_metadata={"said": HOSTILE.replace("\\", "/")})
    name = service.execute("SELECT current_database() AS name")[0].name
    for setting in (f"datestyle = {level}", "timezone = 'Asia/Kathmandu'",
                    "extra_float_digits = -15", "bytea_output = 'escape'"):  # fmt: skip
        service.execute(f"ALTER DATABASE {name} SET {setting}")
    before = service.rows()
    dumped = [dump(service, folder, table) for table in ("owners", "transcription_jobs")]
    service.execute("TRUNCATE owners, transcription_jobs CASCADE")
    with service.engine.begin() as connection:
        tables.set_form(connection)
        for table in dumped:
            tables.fill(connection, folder, table)
        # it is counted that they came
        connection.execute(text("DELETE FROM tallies WHERE name = 'jobs_submitted'"))
    before["tallies"] = []

    assert service.rows() == before


def test_a_snapshot_sees_nothing_that_comes_later(service: Service, folder: Path) -> None:
    service.submit()
    (folder / TABLES).mkdir(parents=True)
    with Snapshot.of(service.engine) as snapshot:
        service.submit()
        dumped = snapshot.dump(folder, "transcription_jobs")
        needed = list(snapshot.needed_uploads())

    assert (dumped.rows, len(needed)) == (1, 1)


def test_a_snapshot_lets_nobody_change_the_tables(service: Service) -> None:
    alter = "SET LOCAL lock_timeout = '100ms'; ALTER TABLE transcription_jobs ADD tone text"
    with (
        Snapshot.of(service.engine),
        pytest.raises(OperationalError, match="lock timeout"),
    ):
        service.execute(alter)


def test_a_snapshot_writes_nothing(service: Service) -> None:
    with Snapshot.of(service.engine) as snapshot, pytest.raises(Exception, match="read-only"):
        snapshot._connection.execute(text("DELETE FROM owners"))


def test_a_session_that_is_ended_is_told_of(service: Service, folder: Path) -> None:
    (folder / TABLES).mkdir(parents=True)

    def dump_without_a_session() -> None:
        with Snapshot.of(service.engine) as snapshot:
            service.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE pid <> pg_backend_pid() AND datname = current_database()"
            )
            snapshot.dump(folder, "owners")

    with pytest.raises(DatabaseUnavailable):
        dump_without_a_session()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"rubbish\n", "cannot be filled"),
        (b"00000000-0000-0000-0000-000000000000\tbob\tno time\n", "cannot be filled"),
        (b"", "has 0 rows in it, and should have 1"),
    ],
)
def test_what_are_no_rows_of_the_table_is_refused(
    content: bytes, told: str, service: Service, folder: Path
) -> None:
    table = dump(service, folder, "owners")
    path = table_path(folder, "owners")
    path.unlink()
    with Packed(path) as file:
        file.stream.write(content)
        file.finish()
    expected = Table(name=table.name, columns=table.columns, rows=1, file=table.file)

    with pytest.raises(BackupDamaged, match=told), service.engine.begin() as connection:
        tables.fill(connection, folder, expected)
    assert service.rows()["owners"] == []
