"""Migrations on real PostgreSQL: up, down, two at once, never over the first version's data."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config as AlembicConfig
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Engine, NullPool, create_engine, make_url, text
from sqlalchemy.orm import Session

from database import Migrated, Revisions, revision
from models import Base
from tests.conftest import PROJECT_DIR

INI = PROJECT_DIR / "alembic.ini"
MIGRATION_LOCK = 0x7472616E73
PATIENCE_SECONDS = 120

#: What the first version's migrations make of a database, as far as names and keys go.
FIRST_VERSION = """
CREATE TABLE transcription_jobs (
    id uuid PRIMARY KEY, status varchar(50) NOT NULL, priority integer,
    model_size varchar(20) NOT NULL, language varchar(10),
    original_filename varchar(500) NOT NULL, file_path text NOT NULL, file_size_bytes bigint,
    worker_id varchar(100), retry_count integer, max_retries integer,
    created_at timestamp NOT NULL, started_at timestamp, completed_at timestamp,
    error_message text, error_type varchar(100), progress_percent float,
    current_step varchar(200));
CREATE INDEX ix_transcription_jobs_status ON transcription_jobs (status);
CREATE TABLE error_logs (
    id uuid PRIMARY KEY, job_id uuid NOT NULL REFERENCES transcription_jobs,
    error_type varchar(100) NOT NULL, error_message text NOT NULL, stack_trace text,
    context jsonb, created_at timestamp NOT NULL, resolved boolean, resolved_at timestamp,
    resolved_by varchar(100), resolution_notes text);
CREATE TABLE transcription_results (
    id uuid PRIMARY KEY, job_id uuid NOT NULL REFERENCES transcription_jobs,
    transcription_text text NOT NULL, detected_language varchar(10), duration_seconds float,
    confidence_score float, segments jsonb, output_file_path text, created_at timestamp NOT NULL);
INSERT INTO transcription_jobs
       (id, status, model_size, original_filename, file_path, created_at)
VALUES (gen_random_uuid(), 'completed', 'tiny', 'talk.mp3', 'work/talk.mp3', now());
"""
VERSION_TABLE = """
CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY);
INSERT INTO alembic_version VALUES ('{revision}');
"""

#: Everything that PostgreSQL knows of our tables, one line each.
SCHEMA = text("""
SELECT 'table ' || relname || ' ' || COALESCE(reloptions::text, '')
  FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'
 UNION ALL
SELECT concat_ws(' ', 'column', relname, attname, format_type(atttypid, atttypmod),
                 CASE WHEN attnotnull THEN 'NOT NULL' END, attgenerated,
                 pg_get_expr(adbin, adrelid))
  FROM pg_attribute
  JOIN pg_class ON pg_class.oid = attrelid
  LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
 WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND attnum > 0
   AND NOT attisdropped
 UNION ALL
SELECT concat_ws(' ', 'constraint', conrelid::regclass, conname, pg_get_constraintdef(oid))
  FROM pg_constraint WHERE connamespace = 'public'::regnamespace
 UNION ALL
SELECT 'index ' || indexdef FROM pg_indexes WHERE schemaname = 'public'
""")


def engine_of(url: str) -> Engine:
    return create_engine(url, poolclass=NullPool)


def schema(url: str) -> set[str]:
    with engine_of(url).connect() as connection:
        return {line for line in connection.scalars(SCHEMA) if "alembic_version" not in line}


def execute(url: str, statements: str) -> None:
    with engine_of(url).begin() as connection:
        connection.exec_driver_sql(statements)


@pytest.fixture
def alembic(empty_database_url: str, monkeypatch: pytest.MonkeyPatch) -> AlembicConfig:
    """Alembic as from its command line, on an empty database."""
    monkeypatch.setenv("DATABASE_URL", empty_database_url)
    return AlembicConfig(INI)


def run_alembic(*arguments: str, cwd: Path, url: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "alembic", "-c", str(INI), *arguments],
        cwd=cwd,
        env={**os.environ, "DATABASE_URL": url},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


# Up and down


def test_upgrading_makes_what_the_models_describe(
    alembic: AlembicConfig, empty_database_url: str
) -> None:
    command.upgrade(alembic, "head")
    migrated = schema(empty_database_url)
    command.downgrade(alembic, "base")
    with engine_of(empty_database_url).begin() as connection:
        Base.metadata.create_all(connection)

    assert migrated == schema(empty_database_url)


def test_alembic_finds_no_difference_either(database_url: str) -> None:
    with engine_of(database_url).connect() as connection:
        options = {"compare_type": True, "compare_server_default": True}
        context = MigrationContext.configure(connection, opts=options)

        assert compare_metadata(context, Base.metadata) == []


def test_downgrading_leaves_nothing_and_upgrading_again_works(
    alembic: AlembicConfig, empty_database_url: str
) -> None:
    command.upgrade(alembic, "head")
    before = schema(empty_database_url)
    command.downgrade(alembic, "base")
    between = schema(empty_database_url)
    command.upgrade(alembic, "head")

    assert between == set()
    assert schema(empty_database_url) == before


def test_upgrading_what_is_new_already_changes_nothing(
    alembic: AlembicConfig, empty_database_url: str
) -> None:
    command.upgrade(alembic, "head")
    execute(empty_database_url, "INSERT INTO owners VALUES (gen_random_uuid(), 'alice')")
    command.upgrade(alembic, "head")

    with engine_of(empty_database_url).connect() as connection:
        assert connection.scalars(text("SELECT name FROM owners")).all() == ["alice"]


def test_there_is_one_newest_migration() -> None:
    assert len(ScriptDirectory.from_config(AlembicConfig(INI)).get_heads()) == 1


# The first version's database


@pytest.mark.parametrize("revision", ["5e05da7b7d89", "a1b2c3d4e5f6", None])
def test_the_first_versions_database_is_refused_before_any_change(
    revision: str | None, alembic: AlembicConfig, empty_database_url: str
) -> None:
    execute(empty_database_url, FIRST_VERSION)
    if revision is not None:
        execute(empty_database_url, VERSION_TABLE.format(revision=revision))
    before = schema(empty_database_url)

    with pytest.raises(CommandError, match=r"^[^\n]*cli\.py import-v1 --from [^\n]*$"):
        command.upgrade(alembic, "head")

    assert schema(empty_database_url) == before
    with engine_of(empty_database_url).connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM transcription_jobs")) == 1


def test_a_database_of_others_is_not_taken_for_the_first_versions(
    alembic: AlembicConfig, empty_database_url: str
) -> None:
    execute(empty_database_url, "CREATE TABLE recipes (id int)")
    command.upgrade(alembic, "head")

    assert any(line.startswith("table owners") for line in schema(empty_database_url))


# A newer version's database


@pytest.fixture
def newer(alembic: AlembicConfig, empty_database_url: str) -> str:
    """A database that a version yet to come has migrated."""
    command.upgrade(alembic, "head")
    execute(empty_database_url, "ALTER TABLE transcription_jobs ADD tone text DEFAULT 'plain'")
    execute(empty_database_url, "UPDATE alembic_version SET version_num = 'yet_to_come'")
    return empty_database_url


def test_a_newer_versions_database_is_left_as_it_is(
    newer: str, alembic: AlembicConfig, caplog: pytest.LogCaptureFixture
) -> None:
    before = schema(newer)
    command.upgrade(alembic, "head")

    assert schema(newer) == before
    assert "A newer version has migrated this database: nothing is changed." in caplog.messages


def test_a_newer_versions_database_that_lacks_what_we_need_is_refused(
    newer: str, alembic: AlembicConfig
) -> None:
    execute(newer, "ALTER TABLE transcription_jobs DROP warnings")

    with pytest.raises(CommandError, match=r"^[^\n]* has no transcription_jobs\.warnings[^\n]*$"):
        command.upgrade(alembic, "head")


@pytest.mark.parametrize("target", ["base", "-1"])
def test_a_newer_versions_database_is_not_downgraded(
    target: str, newer: str, alembic: AlembicConfig
) -> None:
    with pytest.raises(CommandError, match="yet_to_come"):
        command.downgrade(alembic, target)


# The command line


def test_a_refusal_is_one_line_and_no_traceback(empty_database_url: str, tmp_path: Path) -> None:
    execute(empty_database_url, FIRST_VERSION)
    process = run_alembic("upgrade", "head", cwd=tmp_path, url=empty_database_url)
    out, err = process.communicate(timeout=PATIENCE_SECONDS)

    assert process.returncode != 0
    (line,) = (out + err).strip().splitlines()
    assert "This database belongs to version 2" in line


@pytest.mark.parametrize(
    ("url", "line"),
    [
        ("mysql://alice:hunter2@db/x", "DATABASE_URL: Input should be postgresql://"),
        (
            "postgresql://alice:hunter2@127.0.0.1:1/x",
            'The database cannot be reached: connection to server at "127.0.0.1", port 1 failed:',
        ),
    ],
)
def test_what_hinders_a_migration_is_said_in_one_line(
    url: str, line: str, alembic: AlembicConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", url)
    alembic.attributes["patience_seconds"] = 0.0

    with pytest.raises(CommandError, match=f"^{re.escape(line)}[^\n]*$") as caught:
        command.upgrade(alembic, "head")

    assert "hunter2" not in str(caught.value)


def test_a_database_that_is_not_there_yet_is_waited_for(
    empty_database_url: str, database_url: str, tmp_path: Path
) -> None:
    folder = tmp_path / "sockets"
    there = make_url(empty_database_url)
    url = there.update_query_dict({"host": str(folder)}).render_as_string()
    process = run_alembic("upgrade", "head", cwd=tmp_path, url=url)
    assert process.stderr is not None
    said = process.stderr.readline()
    folder.symlink_to(str(there.query["host"]))
    _, err = process.communicate(timeout=PATIENCE_SECONDS)

    assert said.startswith("The database cannot be reached: ")
    assert (process.returncode, err) == (0, "")
    assert schema(empty_database_url) == schema(database_url)


def test_the_sql_that_is_written_offline_makes_the_same_from_any_folder(
    empty_database_url: str, database_url: str, tmp_path: Path
) -> None:
    process = run_alembic("upgrade", "head", "--sql", cwd=tmp_path, url=empty_database_url)
    sql, err = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0, err
    execute(empty_database_url, sql)

    assert schema(empty_database_url) == schema(database_url)


def waiting(url: str) -> int:
    with engine_of(url).connect() as connection:
        statement = text(
            "SELECT count(*) FROM pg_locks JOIN pg_database ON pg_database.oid = database"
            " WHERE datname = current_database() AND locktype = 'advisory' AND NOT granted"
        )
        return int(connection.scalar(statement) or 0)


def test_two_processes_that_migrate_at_once_take_turns(
    empty_database_url: str, database_url: str, tmp_path: Path
) -> None:
    with engine_of(empty_database_url).connect() as first:
        first.execute(text("SELECT pg_advisory_lock(:key)"), {"key": MIGRATION_LOCK})
        processes = [
            run_alembic("upgrade", "head", cwd=tmp_path, url=empty_database_url) for _ in range(2)
        ]
        deadline = time.monotonic() + PATIENCE_SECONDS
        while waiting(empty_database_url) < len(processes):
            assert time.monotonic() < deadline
        before = schema(empty_database_url)
        first.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": MIGRATION_LOCK})
    ends = [process.communicate(timeout=PATIENCE_SECONDS) for process in processes]

    assert before == set()
    assert [process.returncode for process in processes] == [0, 0], ends
    assert schema(empty_database_url) == schema(database_url)


# What a running process makes of them


def test_the_files_say_what_alembic_says() -> None:
    script = ScriptDirectory.from_config(AlembicConfig(INI))
    found = Revisions.of()

    assert found.head == script.get_current_head()
    assert found.known == {revision.revision for revision in script.walk_revisions()}


def test_a_database_is_judged_by_what_this_version_knows(tmp_path: Path) -> None:
    first = (PROJECT_DIR / "migrations" / "script.py.mako").read_text("utf-8")
    for name, follows in {"aaaa": "None", "bbbb": "'aaaa'"}.items():
        text = first.replace("${repr(up_revision)}", f"'{name}'")
        (tmp_path / f"{name}.py").write_text(text.replace("${repr(down_revision)}", follows))
    revisions = Revisions.of(tmp_path)

    judged = [revisions.judge(found) for found in (None, "aaaa", "bbbb", "cccc")]
    assert judged == [Migrated.BEHIND, Migrated.BEHIND, Migrated.CURRENT, Migrated.AHEAD]


def test_a_database_tells_its_revision(database_url: str, empty_database_url: str) -> None:
    def told(url: str) -> str | None:
        with Session(engine_of(url)) as session:
            return revision(session)

    assert (told(database_url), told(empty_database_url)) == (Revisions.of().head, None)
