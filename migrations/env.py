"""Runs migrations on DATABASE_URL: one process at a time, never waiting long on a busy table.

PostgreSQL may still be starting: it is given some seconds, so that one start too early does not
leave everything down that waits for the migrations.
"""

import logging
import time
from collections.abc import Iterator
from typing import Any

from alembic import context
from alembic.migration import MigrationContext
from alembic.util import CommandError
from sqlalchemy import Column, Connection, Engine, inspect, text

from config import Settings
from database import MIGRATION_LOCK, explained, make_engine, translated_errors
from errors import DatabaseUnavailable, ServiceError, SettingsError
from migrations import grants
from models import Base

logger = logging.getLogger(__name__)

#: The heads that the first version's database can be at.
FIRST_VERSION = {"5e05da7b7d89", "a1b2c3d4e5f6"}
#: How long a database that cannot be reached is tried; ``patience_seconds`` in the configuration's
#: attributes goes before.
PATIENCE_SECONDS = 30.0
PAUSE_SECONDS = 0.5


def is_first_version(connection: Connection) -> bool:
    tables = inspect(connection).get_table_names()
    if "alembic_version" not in tables:
        # its code could also make the tables without a word of migrations
        return "transcription_jobs" in tables
    found = connection.scalars(text("SELECT version_num FROM alembic_version"))
    return not FIRST_VERSION.isdisjoint(found)


def refuse_first_version(connection: Connection) -> None:
    """Stop before any change when the database is the first version's: its tables differ."""
    if is_first_version(connection):
        raise SettingsError(
            "This database belongs to version 2. Nothing was changed. Point DATABASE_URL at a new, "
            "empty database, migrate that, then run: python cli.py import-v1 --from OLD_DATABASE_URL"
        )


def is_newer(connection: Connection) -> bool:
    """Whether a newer version has migrated the database, and the head is all that is wanted."""
    found = MigrationContext.configure(connection).get_current_heads()
    known = {script.revision for script in context.script.walk_revisions()}
    if known.issuperset(found):
        return False
    return context.get_revision_argument() == context.get_head_revision()


def require_our_columns(connection: Connection) -> None:
    """Make sure that this version can work with a newer one's tables.

    Raises:
        SettingsError: They lack what it needs.
    """
    inspector = inspect(connection)
    there = {
        f"{table}.{column['name']}"
        for table in inspector.get_table_names()
        for column in inspector.get_columns(table)
    }
    ours = {f"{column.table.name}.{column.name}" for column in all_columns()}
    if missing := sorted(ours - there):
        raise SettingsError(
            "This database was migrated by a newer version, or by another program, and has no "
            f"{missing[0]}. Nothing was changed."
        )


def all_columns() -> Iterator[Column[Any]]:
    for table in Base.metadata.sorted_tables:
        yield from table.columns


def settings_of() -> Settings:
    return context.config.attributes.get("settings") or Settings.from_env()


def migrate(connection: Connection, settings: Settings) -> None:
    role = grants.role_of(connection, settings)
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        compare_type=True,
        compare_server_default=True,
        transaction_per_migration=True,
    )
    with context.begin_transaction():
        context.run_migrations()
    if role is not None:
        grants.give(connection, role, may_prune=settings.audit_retention_days > 0)


def connect(engine: Engine) -> Connection:
    """Connect, to a database that may be starting.

    Raises:
        DatabaseUnavailable: It was not there in time.
    """
    patience = context.config.attributes.get("patience_seconds", PATIENCE_SECONDS)
    until = time.monotonic() + patience
    told = False
    while True:
        try:
            with translated_errors():
                return engine.connect()
        except DatabaseUnavailable as error:
            if time.monotonic() >= until:
                raise
            if not told:
                # whoever migrates by hand has no logs set up, and reads a line's message alone
                logger.warning("%s Trying on for %g s.", explained(error), patience)
            told = True
        time.sleep(PAUSE_SECONDS)


def migrate_database() -> None:
    settings = settings_of()
    engine = make_engine(settings, pooled=False, name="migrations")
    with connect(engine) as connection:
        # waiting here is waiting for another process to finish the same work, so no time limit
        connection.execute(text("SET statement_timeout = 0"))
        connection.execute(text("SET lock_timeout = 0"))
        connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": MIGRATION_LOCK})
        refuse_first_version(connection)
        if is_newer(connection):
            require_our_columns(connection)
            logger.warning("A newer version has migrated this database: nothing is changed.")
            return
        connection.execute(text("SET lock_timeout = '10s'"))
        connection.commit()
        migrate(connection, settings)
        connection.commit()


def main() -> None:
    if context.is_offline_mode():
        context.configure(
            dialect_name="postgresql", target_metadata=Base.metadata, literal_binds=True
        )
        with context.begin_transaction():
            context.run_migrations()
        return
    if (given := context.config.attributes.get("connection")) is not None:
        migrate(given, settings_of())
        return
    try:
        with translated_errors():
            migrate_database()
    except ServiceError as error:
        # the one class that alembic's command shows as a line and not as a traceback
        raise CommandError(explained(error)) from error


main()
