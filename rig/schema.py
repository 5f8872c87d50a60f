"""The database's tables, made as they are made in production."""

from __future__ import annotations

import sqlalchemy
from alembic import command
from alembic.config import Config

from config import PROJECT_DIR


def migrate(url: str) -> None:
    """Bring a database to the newest migration."""
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
    alembic = Config(PROJECT_DIR / "alembic.ini")
    with engine.begin() as connection:
        alembic.attributes["connection"] = connection
        command.upgrade(alembic, "head")
