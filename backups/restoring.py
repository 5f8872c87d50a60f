"""Restoring a backup: the database as a whole or not at all, and what uploads it needs.

What there is to see to, beyond rows and files:

* Workers that still run from before, cut off or frozen, must write nothing: every epoch is raised.
* What was being processed goes on, and what waits is published at once: no message is awaited.
* Of keys that are known today, what is known today counts: nothing that was revoked works again.
* Uploads that no row of the backup has were accepted after it: they are set aside, not deleted.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config as AlembicConfig
from sqlalchemy import Connection, Engine, delete, text
from sqlalchemy.orm import Session

from audit.events import CLI, record
from backups import files, manifest, tables, uploads
from backups.manifest import Manifest
from backups.target import Keys, Target
from backups.uploads import Entry, Progress, Returner, State, Tell
from config import PROJECT_DIR
from database import MIGRATION_LOCK, Revisions, translated_errors
from errors import RestoreRefused, StorageUnavailable
from jobs import lifecycle, retention
from jobs.uploads import UploadStore
from models import AuditAction, Tally

#: Every upload was stored before that, in seconds since the epoch.
FAR_OFF: Final = float("inf")
_WAITING: Final = text("SELECT count(*) FROM transcription_jobs WHERE status = 'pending'")


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """What a database holds after a backup was restored into it."""

    jobs: int
    #: Those of them that wait, and go on when workers start.
    waiting: int
    #: Keys that stay as they were before, since the database knew them.
    keys_kept: int
    #: Shown names of keys that work, and may have been revoked since the backup.
    keys_back: list[str]
    #: Shown names of keys that the backup does not know.
    keys_lost: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Brought:
    """What became of the uploads."""

    #: The others were there.
    put_back: int
    #: Those that are nowhere: their jobs cannot be done, or done again.
    missing: int
    #: Those that no job has: they were set aside.
    unclaimed: int


def verify(folder: Path, tell: Tell, *, with_audio: bool = True) -> tuple[Manifest, str]:
    """Read all of a backup, and change nothing.

    Returns:
        What it says of itself, and the SHA-256 of that.

    Raises:
        BackupDamaged: A byte of it is not what was written.
    """
    told, sha256 = manifest.read(folder)
    digests = list(manifest.paths(folder, told))
    kept_bytes = told.uploads.kept_bytes if with_audio else 0
    progress = Progress(tell, "read", sum(d.size_bytes for _, d in digests) + kept_bytes)
    for path, digest in digests:
        files.require(path, digest, progress)
    if with_audio:
        uploads.verify(folder, progress)
    return told, sha256


@dataclass(frozen=True, slots=True, kw_only=True)
class Restorer:
    """Restores backups into one service, which does not run.

    Args:
        engine: One that is patient.
        uploads: Its store.
        tell: Told how far it is.
    """

    engine: Engine
    uploads: UploadStore
    tell: Tell

    def restore(
        self, folder: Path, *, replace: bool, with_audio: bool
    ) -> tuple[Manifest, Restored, Brought]:
        """Make the database what it was, and bring back the uploads that it needs.

        Uploads come first, so that no row is ever without its own: until the database is committed,
        doing it again does what is left to do.

        Args:
            replace: The database may hold jobs, which are lost.
            with_audio: False brings no uploads back. Those that are in the store still count.

        Raises:
            RestoreRefused, BackupDamaged: Nothing was changed.
            DatabaseUnavailable, StorageUnavailable, DiskFull: The database was not.
        """
        told, _ = manifest.read(folder)
        _require_known(told)
        with translated_errors(), self.engine.connect() as connection:
            _fit(connection, told, replace=replace)
        verify(folder, self.tell, with_audio=with_audio)
        returner = self._bring(folder, told, with_audio=with_audio)
        with translated_errors(), self.engine.begin() as connection:
            restored = self._fill(connection, folder, told, returner.missing, replace=replace)
        brought = Brought(
            put_back=returner.put_back,
            missing=len(returner.missing),
            unclaimed=self._set_aside(),
        )
        return told, restored, brought

    def settle(self) -> tuple[int, int]:
        """Do what there is to do after a database was set back by other means.

        Returns:
            How many jobs wait, and how many uploads of no job were set aside.

        Raises:
            RestoreRefused: The service runs.
        """
        with translated_errors(), self.engine.begin() as connection:
            target = Target.look(connection)
            target.require_unused(connection)
            with Session(connection) as session:
                waiting = lifecycle.void(session)
                detail = {"by": "other means"}
                record(session, CLI, AuditAction.BACKUP_RESTORED, detail=detail)
                session.flush()
        return waiting, self._set_aside()

    def _bring(self, folder: Path, told: Manifest, *, with_audio: bool) -> Returner:
        progress = Progress(self.tell, "uploads", told.uploads.kept_bytes)
        returner = Returner(self.uploads, folder, tell=progress)
        if with_audio and told.uploads.left_out:
            _require_store(self.uploads)
        else:
            uploads.prepare(self.uploads)
        returner.run(with_audio=with_audio)
        left_out = sum(entry.state is State.LEFT_OUT for entry in returner.missing)
        if with_audio and left_out:
            raise RestoreRefused(
                f"{left_out:,} uploads are neither in the backup nor in {self.uploads.root}. Bring"
                " them there, or go on with --without-audio: then their jobs cannot be done."
            )
        return returner

    def _fill(
        self,
        connection: Connection,
        folder: Path,
        told: Manifest,
        missing: list[Entry],
        *,
        replace: bool,
    ) -> Restored:
        """Do all that is done to the database, in the caller's transaction."""
        tables.set_form(connection)
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
        target = _fit(connection, told, replace=replace)
        keys = Keys(connection, target)
        if target.revision is not None:
            command.downgrade(_alembic(connection), "base")
        command.upgrade(_alembic(connection), told.revision)
        for table in told.tables:
            tables.fill(connection, folder, table)
            self.tell(f"{table.name}: {table.rows:,} rows")
        command.upgrade(_alembic(connection), "head")
        kept = keys.bring_forward()
        with Session(connection) as session:
            lifecycle.void(session)
            _end(session, missing)
            record(session, CLI, AuditAction.BACKUP_RESTORED, detail=_detail(told))
            waiting = session.scalar(_WAITING) or 0
            session.flush()
            # that rows were put back is nothing that happened to jobs
            session.execute(delete(Tally))
        return Restored(
            jobs=told.jobs,
            waiting=waiting,
            keys_kept=kept,
            keys_back=keys.come_back(),
            keys_lost=keys.lost(),
        )

    def _set_aside(self) -> int:
        """Set aside the uploads that no job has: maintenance would delete them."""
        count = 0
        stored = self.uploads.stored_before(FAR_OFF)
        while ids := list(itertools.islice(stored, retention.BATCH)):
            with translated_errors(), Session(self.engine) as session:
                unknown = retention.orphans(session, ids)
            for job_id in unknown:
                self.uploads.set_aside(job_id)
            count += len(unknown)
        return count


def _require_known(told: Manifest) -> None:
    if told.revision not in Revisions.of().known:
        raise RestoreRefused(
            f"The backup is of version {told.version}, at migration {told.revision}, which this"
            " version does not know: restore it with that version, or a later one."
        )


def _fit(connection: Connection, told: Manifest, *, replace: bool) -> Target:
    """Look at a database that is to be filled.

    Raises:
        RestoreRefused: It may not be.
    """
    target = Target.look(connection, told.taken_at)
    target.require_ours(connection)
    target.require_unused(connection)
    target.require_replaceable(replace=replace)
    return target


def _require_store(store: UploadStore) -> None:
    try:
        store.space()
    except StorageUnavailable as error:
        raise RestoreRefused(
            f"{store.root} is no folder of uploads, and the backup has none: mount it, or go on"
            " with --without-audio: then their jobs cannot be done."
        ) from error


def _alembic(connection: Connection) -> AlembicConfig:
    """Alembic, in our own transaction."""
    alembic = AlembicConfig(PROJECT_DIR / "alembic.ini")
    alembic.attributes["connection"] = connection
    return alembic


def _end(session: Session, missing: list[Entry]) -> None:
    """End the jobs whose upload is nowhere as the service would, or note that it is gone."""
    ids = (entry.job_id for entry in missing)
    while batch := list(itertools.islice(ids, retention.BATCH)):
        lifecycle.lose(session, batch)
        retention.note_gone(session, batch)


def _detail(told: Manifest) -> dict[str, object]:
    return {"taken_at": told.taken_at.isoformat(), "jobs": told.jobs, "version": told.version}
