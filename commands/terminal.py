"""What the commands share: the service they look after, and how they print."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime

import typer
from sqlalchemy.orm import Session

from config import Settings
from database import get_db_session, make_engine, make_sessions
from errors import SettingsError


def service_settings() -> Settings:
    """Read the settings of the service that is to be looked after, one of ``make run`` included.

    Raises:
        SettingsError: They are wrong, or no database is known.
    """
    settings = Settings.from_env().with_running_servers()
    if settings.database_url is None:
        raise SettingsError(
            f"DATABASE_URL is not set, and no `make run` is under way on {settings.state_dir}"
        )
    return settings


@contextmanager
def transaction(settings: Settings) -> Iterator[Session]:
    """One transaction on a connection of its own."""
    engine = make_engine(settings, pooled=False, name="transcription-cli")
    try:
        with get_db_session(make_sessions(engine)) as session:
            yield session
    finally:
        engine.dispose()


def when(time: datetime | None) -> str:
    return "-" if time is None else time.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def ago(time: datetime | None) -> str:
    """How long ago something was, in a few characters."""
    if time is None:
        return "-"
    seconds = max(0, round((datetime.now(UTC) - time).total_seconds()))
    for unit, name in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= unit:
            return f"{seconds // unit} {name}"
    return f"{seconds} s"


def print_table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    table = [names, *rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        typer.echo("  ".join(cells).rstrip())
