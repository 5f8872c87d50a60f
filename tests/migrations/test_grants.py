"""A service whose role is not the owner of its tables: what it may do, and that it suffices."""

import hashlib
import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from psycopg2.errors import InsufficientPrivilege
from sqlalchemy import Engine, NullPool, create_engine, text
from sqlalchemy.exc import DBAPIError, ProgrammingError
from sqlalchemy.orm import Session, sessionmaker

from audit import chain, pruning
from audit.events import MAINTENANCE, record
from auditor import Auditor
from local_servers import PostgresServer
from migrations.grants import NOT_SAID
from models import AuditAction, AuditEvent, Base
from tests.conftest import PROJECT_DIR, administration

DIGEST = hashlib.sha256(b"x").hexdigest()


@dataclass(frozen=True)
class Roles:
    """One database, its owner, and the service, neither of them a superuser."""

    superuser_url: str
    owner: str
    service: str

    def url(self, role: str) -> str:
        parts = urlsplit(self.superuser_url)
        return parts._replace(netloc=f"{role}@{parts.netloc.rpartition('@')[2]}").geturl()

    def alembic(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Migrate as the owner does it."""
        return subprocess.run(
            [sys.executable, "-m", "alembic", *arguments],
            cwd=PROJECT_DIR,
            env={
                "PATH": os.environ["PATH"],
                "DATABASE_URL": self.url(self.owner),
                "DATABASE_SERVICE_ROLE": self.service,
                **variables,
            },
            capture_output=True,
            text=True,
        )

    def cli(self, role: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "cli.py", *arguments],
            cwd=PROJECT_DIR,
            env={
                "PATH": os.environ["PATH"],
                "DATABASE_URL": self.url(role),
                "DATABASE_SERVICE_ROLE": self.service,
                **variables,
            },
            capture_output=True,
            text=True,
        )

    @contextmanager
    def engine(self, role: str) -> Iterator[Engine]:
        engine = create_engine(self.url(role), poolclass=NullPool)
        yield engine
        engine.dispose()

    def execute(self, role: str, statement: str) -> Any:
        with self.engine(role) as engine, engine.begin() as connection:
            result = connection.execute(text(statement))
            return result.scalar() if result.returns_rows else None


@pytest.fixture
def unmigrated(postgres_server: PostgresServer, empty_database_url: str) -> Iterator[Roles]:
    name = uuid.uuid4().hex
    roles = Roles(empty_database_url, f"owner_{name}", f"service_{name}")
    database = urlsplit(empty_database_url).path.removeprefix("/")
    with administration(postgres_server) as execute:
        execute(f"CREATE ROLE {roles.owner} LOGIN")
        execute(f"CREATE ROLE {roles.service} LOGIN")
        execute(f"GRANT {roles.service} TO {roles.owner}")
        execute(f"ALTER DATABASE {database} OWNER TO {roles.owner}")
    yield roles
    with create_engine(empty_database_url, poolclass=NullPool).begin() as connection:
        connection.exec_driver_sql(f"DROP OWNED BY {roles.owner}, {roles.service} CASCADE")
    with administration(postgres_server) as execute:
        execute(f"ALTER DATABASE {database} OWNER TO CURRENT_USER")
        execute(f"DROP ROLE {roles.owner}, {roles.service}")


@pytest.fixture
def roles(unmigrated: Roles) -> Roles:
    done = unmigrated.alembic("upgrade", "head")
    assert done.returncode == 0, done.stderr
    return unmigrated


@pytest.fixture
def sessions(roles: Roles) -> Iterator[sessionmaker[Session]]:
    """The service's."""
    with roles.engine(roles.service) as engine:
        yield sessionmaker(engine, expire_on_commit=False)


def add(sessions: sessionmaker[Session], count: int = 1) -> None:
    for _ in range(count):
        with sessions.begin() as session:
            record(session, MAINTENANCE, AuditAction.QUEUE_PAUSED)


def make_old(roles: Roles) -> None:
    """Add a sealed event of last year, as only the owner can."""
    roles.execute(
        roles.owner,
        "INSERT INTO audit_events (id, action, at)"
        " VALUES (gen_random_uuid(), 'queue_paused', now() - interval '1 year')",
    )


# What it may not do


@pytest.mark.security("audit", "getting past the trigger as the service itself")
@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit_events SET actor = 'nobody'",
        "UPDATE audit_events SET position = 1, sha256 = sha256('x')",
        "DELETE FROM audit_events",
        "TRUNCATE audit_events",
        "INSERT INTO audit_events (id, action, at) VALUES (gen_random_uuid(), 'denied', now())",
        "INSERT INTO audit_events (id, action, position) VALUES (gen_random_uuid(), 'denied', 1)",
        "ALTER TABLE audit_events DISABLE TRIGGER audit_events_guard",
        "ALTER TABLE audit_events ADD COLUMN more text",
        "DROP TABLE audit_events",
        "DROP TRIGGER audit_events_guard ON audit_events",
        "ALTER FUNCTION audit_events_guard() RENAME TO mine",
        "DROP FUNCTION audit_events_guard() CASCADE",
        "CREATE TRIGGER mine BEFORE INSERT ON audit_events EXECUTE FUNCTION audit_events_guard()",
        "CREATE RULE mine AS ON INSERT TO audit_events DO INSTEAD NOTHING",
        "SET session_replication_role = replica",
        "SELECT prune_audit_events(1)",
        "UPDATE alembic_version SET version_num = 'mine'",
        "CREATE TABLE mine (id int)",
        "TRUNCATE transcription_jobs CASCADE",
        "ALTER TABLE transcription_jobs ADD COLUMN more text",
        "COPY audit_events TO PROGRAM 'cat'",
    ],
)
def test_the_service_may_not(statement: str, roles: Roles, sessions: sessionmaker[Session]) -> None:
    add(sessions)
    with pytest.raises(ProgrammingError) as caught, sessions.begin() as session:
        session.execute(text(statement))
    found = roles.execute(roles.owner, "SELECT count(*) FROM audit_events WHERE position IS NULL")

    assert isinstance(caught.value.orig, InsufficientPrivilege)
    assert found == 1


@pytest.mark.security("audit", "becoming the owner")
def test_the_service_does_not_become_the_owner(
    roles: Roles, sessions: sessionmaker[Session]
) -> None:
    with pytest.raises(ProgrammingError, match="permission denied"), sessions.begin() as session:
        session.execute(text(f"SET ROLE {roles.owner}"))


@pytest.mark.security("audit", "a table of one's own in the place of the real one")
def test_nobodys_search_path_decides_what_is_pruned(roles: Roles) -> None:
    """Temporary tables come first wherever a path does not say otherwise."""
    roles.alembic("upgrade", "head", AUDIT_RETENTION_DAYS="30")
    make_old(roles)
    with roles.engine(roles.service) as engine, engine.connect() as connection:
        connection.execute(text("CREATE TEMPORARY TABLE audit_events (action text, detail jsonb)"))
        detail = json.dumps({"position": 9, "sha256": DIGEST})
        connection.execute(
            text("INSERT INTO audit_events VALUES ('audit_pruned', CAST(:detail AS jsonb))"),
            {"detail": detail},
        )
        connection.execute(
            text(
                "SELECT seal_audit_events(array_agg(id), ARRAY[1::bigint], ARRAY[sha256('x')])"
                " FROM public.audit_events"
            )
        )
        with pytest.raises(DBAPIError, match="audit events are only added"):
            connection.execute(text("SELECT prune_audit_events(1)"))


def test_the_service_seals_once_and_no_more(roles: Roles, sessions: sessionmaker[Session]) -> None:
    add(sessions)
    with sessions.begin() as session:
        chain.seal(session)
    again = "SELECT seal_audit_events(array_agg(id), ARRAY[2::bigint], ARRAY[sha256('x')])"
    with (
        pytest.raises(ProgrammingError, match="audit events are only added"),
        sessions.begin() as session,
    ):
        session.execute(text(f"{again} FROM audit_events"))


# What it may do


@pytest.mark.parametrize("table", sorted({*Base.metadata.tables} - {*NOT_SAID}))
@pytest.mark.parametrize("verb", ["SELECT", "INSERT", "UPDATE", "DELETE"])
def test_the_service_may(verb: str, table: str, shared_engine: Engine) -> None:
    statement = text("SELECT has_table_privilege('transcription_service', :table, :verb)")
    with shared_engine.connect() as connection:
        assert connection.scalar(statement, {"table": table, "verb": verb})


@pytest.mark.parametrize("verb", ["TRUNCATE", "REFERENCES", "TRIGGER"])
def test_of_no_table_it_may_more(verb: str, shared_engine: Engine) -> None:
    statement = text("""
        SELECT count(*) FROM pg_class
         WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'
           AND has_table_privilege('transcription_service', oid, :verb)
    """)
    with shared_engine.connect() as connection:
        assert connection.scalar(statement, {"verb": verb}) == 0


def test_what_audit_events_are_told_is_all_but_the_seal_and_the_time() -> None:
    columns = {column.name for column in AuditEvent.__table__.columns}

    assert set(NOT_SAID["audit_events"]) == {"at", *chain.SEAL}
    assert set(NOT_SAID["audit_events"]) <= columns


def test_the_chain_is_kept_by_the_service(roles: Roles, sessions: sessionmaker[Session]) -> None:
    add(sessions, 3)
    Auditor(sessions, keep=None).run()
    done = roles.cli(roles.service, "audit", "verify")

    assert (done.returncode, done.stdout.splitlines()[0]) == (
        0,
        "3 events, 0 more wait to be sealed.",
    )


@pytest.mark.security("audit", "an event changed by the tables' owner, seen by the service")
def test_the_chain_is_watched_by_the_service(
    roles: Roles, sessions: sessionmaker[Session], caplog: pytest.LogCaptureFixture
) -> None:
    add(sessions, 3)
    Auditor(sessions, keep=None).run()
    assert "audit chain is broken" not in caplog.messages
    roles.execute(
        roles.owner,
        "ALTER TABLE audit_events DISABLE TRIGGER USER;"
        "UPDATE audit_events SET actor = 'nobody' WHERE position = 2;"
        "ALTER TABLE audit_events ENABLE TRIGGER USER",
    )
    auditor = Auditor(sessions, keep=None)
    auditor.run()

    assert str(auditor.broken) == "changed at 2"


def test_with_a_setting_the_service_prunes(roles: Roles, sessions: sessionmaker[Session]) -> None:
    roles.alembic("upgrade", "head", AUDIT_RETENTION_DAYS="90")
    make_old(roles)
    with sessions.begin() as session:
        chain.seal(session)
    with sessions.begin() as session:
        pruned = pruning.prune(session, keep=timedelta(days=90))

    assert pruned == 1


@pytest.mark.security("audit", "pruning what is to be kept for ever")
def test_where_events_are_kept_for_ever_the_service_prunes_none(
    roles: Roles, sessions: sessionmaker[Session]
) -> None:
    roles.alembic("upgrade", "head", AUDIT_RETENTION_DAYS="90")
    roles.alembic("upgrade", "head")
    make_old(roles)
    with sessions.begin() as session:
        chain.seal(session)
    with pytest.raises(ProgrammingError, match="permission denied"), sessions.begin() as session:
        pruning.prune(session, keep=timedelta(days=90))


def test_where_it_may_not_prune_it_says_so_and_goes_on(
    roles: Roles, sessions: sessionmaker[Session], caplog: pytest.LogCaptureFixture
) -> None:
    make_old(roles)
    Auditor(sessions, keep=timedelta(days=90)).run()

    assert roles.execute(roles.owner, "SELECT count(*) FROM audit_events") == 1
    assert "old audit events may not be deleted" in caplog.text


# When it is given


def test_giving_it_again_changes_nothing(roles: Roles) -> None:
    acl = "SELECT string_agg(relname || relacl::text, ' ' ORDER BY relname) FROM pg_class"
    before = roles.execute(roles.owner, f"{acl} WHERE relacl IS NOT NULL")
    roles.alembic("upgrade", "head")

    assert roles.execute(roles.owner, f"{acl} WHERE relacl IS NOT NULL") == before


def test_what_else_it_had_is_taken(roles: Roles) -> None:
    roles.execute(roles.owner, f"GRANT ALL ON audit_events, api_keys TO {roles.service}")
    roles.alembic("upgrade", "head")
    with pytest.raises(ProgrammingError, match="permission denied"):
        roles.execute(roles.service, "DELETE FROM audit_events")
    with pytest.raises(ProgrammingError, match="permission denied"):
        roles.execute(roles.service, "TRUNCATE api_keys")


def test_a_role_that_was_made_later_is_given_it_too(unmigrated: Roles) -> None:
    unmigrated.alembic("upgrade", "head", DATABASE_SERVICE_ROLE="")
    with pytest.raises(ProgrammingError, match="permission denied"):
        unmigrated.execute(unmigrated.service, "SELECT count(*) FROM audit_events")
    unmigrated.alembic("upgrade", "head")

    assert unmigrated.execute(unmigrated.service, "SELECT count(*) FROM audit_events") == 0


def test_a_role_that_is_named_and_not_there_stops_the_migration(unmigrated: Roles) -> None:
    done = unmigrated.alembic("upgrade", "head", DATABASE_SERVICE_ROLE="nobody")
    tables = unmigrated.execute(unmigrated.owner, "SELECT to_regclass('transcription_jobs')")

    assert done.returncode != 0
    assert "DATABASE_SERVICE_ROLE=nobody: PostgreSQL has no such role" in done.stdout
    assert tables is None


def test_one_role_for_all_needs_nothing(unmigrated: Roles) -> None:
    url = unmigrated.url(unmigrated.owner)
    done = unmigrated.alembic("upgrade", "head", DATABASE_SERVICE_ROLE=unmigrated.owner)
    with create_engine(url, poolclass=NullPool).begin() as connection, Session(connection) as s:
        record(s, MAINTENANCE, AuditAction.QUEUE_PAUSED)
        sealed = chain.seal(s)

    assert (done.returncode, sealed) == (0, 1)


def test_who_only_looks_at_migrations_needs_no_rights(roles: Roles) -> None:
    done = roles.alembic("current", DATABASE_URL=roles.url(roles.service))

    assert (done.returncode, "(head)" in done.stdout) == (0, True), done.stderr


# Backups


def test_the_owner_restores_and_the_service_goes_on(roles: Roles, tmp_path: Path) -> None:
    at = {"UPLOAD_DIR": str(tmp_path / "uploads")}
    (tmp_path / "uploads").mkdir()
    made = roles.cli(roles.service, "keys", "create", "--owner", "alice")
    taken = roles.cli(roles.owner, "backup", str(tmp_path / "one"), **at)
    restored = roles.cli(roles.owner, "restore", str(tmp_path / "one"), "--replace", **at)
    made_after = roles.cli(roles.service, "keys", "create", "--owner", "bob")

    assert [p.stderr for p in (made, taken, restored, made_after) if p.returncode] == []
    with pytest.raises(ProgrammingError, match="permission denied"):
        roles.execute(roles.service, "DELETE FROM audit_events")


def test_the_service_does_not_restore_and_is_told_so(roles: Roles, tmp_path: Path) -> None:
    at = {"UPLOAD_DIR": str(tmp_path / "uploads")}
    (tmp_path / "uploads").mkdir()
    roles.cli(roles.owner, "backup", str(tmp_path / "one"), **at)
    done = roles.cli(roles.service, "restore", str(tmp_path / "one"), **at)

    assert (done.returncode, done.stdout) == (1, "")
    assert "does not own the tables" in done.stderr


def test_the_owner_sees_that_the_service_runs(roles: Roles, tmp_path: Path) -> None:
    at = {"UPLOAD_DIR": str(tmp_path / "uploads")}
    (tmp_path / "uploads").mkdir()
    roles.cli(roles.owner, "backup", str(tmp_path / "one"), **at)
    url = f"{roles.url(roles.service)}&application_name=transcription-web"
    with create_engine(url, poolclass=NullPool).connect() as connection:
        connection.execute(text("SELECT 1"))
        done = roles.cli(roles.owner, "restore", str(tmp_path / "one"), **at)

    assert done.returncode == 1
    assert "The service runs on this database: transcription-web" in done.stderr
