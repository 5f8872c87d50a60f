"""A service's database and uploads, and backups of them."""

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker
from uuid_utils.compat import uuid7

import auth
from backups.manifest import Manifest
from backups.restoring import Brought, Restored, Restorer
from backups.taking import Taken, Taker
from config import Settings
from database import make_engine
from jobs import lifecycle
from jobs.lifecycle import NewJob
from jobs.uploads import UploadStore
from models import Base

Sessions = sessionmaker[Session]
Rows = dict[str, list[tuple[Any, ...]]]


class Service:
    """A database and a folder of uploads."""

    def __init__(self, url: str, root: Path) -> None:
        self.url = url
        settings = Settings.model_validate({"database_url": url})
        self.engine = make_engine(settings, pooled=False, name="tests", patient=True)
        self.sessions: Sessions = sessionmaker(self.engine, expire_on_commit=False)
        self.uploads = UploadStore(root, max_bytes=2**30, min_free_bytes=0)
        self.told: list[str] = []

    def submit(self, content: bytes = b"sound", **values: Any) -> uuid.UUID:
        job_id = uuid7()
        with self.uploads.writer(job_id) as writer:
            writer.write(content)
            upload = writer.finish()
        with self.sessions.begin() as session:
            job = {
                "id": job_id,
                "owner_id": auth.owner_id(session, "alice"),
                "engine_name": "openai-whisper",
                "model_name": "tiny",
                "client_filename": 'a "quoted"\tname\\ü.mp3',
                "upload_bytes": upload.size_bytes,
                "upload_sha256": upload.sha256,
                "max_attempts": 3,
                **values,
            }
            lifecycle.submit(session, NewJob(**job))
        return job_id

    def claim(self, job_id: uuid.UUID) -> lifecycle.ClaimedJob:
        with self.sessions.begin() as session:
            claimed = lifecycle.claim(session, job_id, "worker:1")
        assert claimed is not None
        return claimed

    def rows(self, *, without: frozenset[str] = frozenset()) -> Rows:
        """All rows of all tables, by table."""
        with self.engine.connect() as connection:
            return {
                table.name: sorted((str(tuple(row)),) for row in connection.execute(table.select()))
                for table in Base.metadata.sorted_tables
                if table.name not in without
            }

    def execute(self, statement: str, **values: Any) -> Any:
        with self.engine.begin() as connection:
            result = connection.execute(text(statement), values)
            return result.fetchall() if result.returns_rows else None

    def take(self, folder: Path, *, with_audio: bool = True, previous: Path | None = None) -> Taken:
        taker = Taker(engine=self.engine, uploads=self.uploads, tell=self.told.append)
        return taker.take(folder, with_audio=with_audio, previous=previous)

    def restore(
        self, folder: Path, *, replace: bool = False, with_audio: bool = True
    ) -> tuple[Manifest, Restored, Brought]:
        restorer = Restorer(engine=self.engine, uploads=self.uploads, tell=self.told.append)
        return restorer.restore(folder, replace=replace, with_audio=with_audio)


@pytest.fixture
def service(database_url: str, tmp_path: Path) -> Iterator[Service]:
    """The service that backups are taken of."""
    made = Service(database_url, tmp_path / "uploads")
    made.uploads.prepare()
    yield made
    made.engine.dispose()


@pytest.fixture
def empty(empty_database_url: str, tmp_path: Path) -> Iterator[Service]:
    """A machine on which nothing is yet."""
    made = Service(empty_database_url, tmp_path / "new uploads")
    yield made
    made.engine.dispose()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the backup goes."""
    return tmp_path / "backup"


Files = Callable[[Path], dict[str, bytes]]


def files(root: Path) -> dict[str, bytes]:
    """Everything that lies in a folder."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }
