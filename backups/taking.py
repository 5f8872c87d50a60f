"""Taking a backup, while the service runs: rows of one moment, and the uploads that they need.

The rows come first. An upload is on the disk before its row is committed, so whatever a row of the
moment needs is there, unless it is deleted before its turn comes; then its row is the one that is
behind, and ends as the service would end it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sqlalchemy import Engine

from backups import files, manifest, tables
from backups.files import Digest
from backups.manifest import FORMAT, TABLES, Manifest, Table
from backups.tables import LEFT_OUT, Moment, Snapshot
from backups.uploads import Collector, Entry, Progress, State, Tell
from config import VERSION
from database import Migrated, Revisions
from errors import BackupFailed
from jobs.uploads import UploadStore

#: The uploads that rows need, before anybody has looked for them; not part of the backup.
NEEDED: Final = ".needed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """A backup that was taken."""

    manifest: Manifest
    #: Of the manifest: whoever has noted it knows every byte of the backup.
    sha256: str
    #: Of uploads; the others are links.
    copied_bytes: int
    is_replica: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Taker:
    """Takes backups of one service.

    Args:
        engine: One that is patient.
        tell: Told how far it is.
    """

    engine: Engine
    uploads: UploadStore
    tell: Tell

    def take(self, folder: Path, *, with_audio: bool, previous: Path | None = None) -> Taken:
        """Write a backup to a folder that is not there yet.

        Args:
            with_audio: False leaves out the uploads: their jobs cannot be done again.
            previous: An earlier backup, of whose copies links are made instead of copying again.

        Raises:
            BackupFailed, DiskFull, DatabaseUnavailable, StorageUnavailable: It was not taken, and
                nothing is left of it.
        """
        with files.being_made(folder) as partial:
            (partial / TABLES).mkdir(mode=0o700)
            collector = Collector(self.uploads, partial, previous=previous)
            collector.prepare()
            with Snapshot.of(self.engine) as snapshot:
                _require_current(snapshot.revision)
                wanted_bytes = self._note_needed(snapshot, partial, with_audio=with_audio)
                self._require_room(partial, snapshot.moment, collector)
                written = [self._dump(snapshot, partial, name) for name in tables.kept()]
            progress = Progress(self.tell, "uploads", wanted_bytes)
            taken = collector.take(_needed(partial), progress)
            (partial / NEEDED).unlink()
            told = _describe(snapshot, written, taken)
            sha256 = manifest.write(partial, told)
        return Taken(
            manifest=told,
            sha256=sha256,
            copied_bytes=collector.copied_bytes,
            is_replica=snapshot.moment.is_replica,
        )

    def _note_needed(self, snapshot: Snapshot, folder: Path, *, with_audio: bool) -> int:
        """Write down which uploads are needed, so that the snapshot need not last; how large."""
        state = State.KEPT if with_audio else State.LEFT_OUT
        wanted_bytes = 0
        with files.create(folder / NEEDED) as file:
            for row in snapshot.needed_uploads():
                digest = Digest(row.upload_bytes, bytes(row.upload_sha256).hex())
                file.write(str(Entry(row.id, digest, state)).encode())
                wanted_bytes += row.upload_bytes
        return wanted_bytes if with_audio else 0

    def _require_room(self, folder: Path, moment: Moment, collector: Collector) -> None:
        wanted = (entry for entry in _needed(folder) if entry.state is State.KEPT)
        size_bytes = moment.table_bytes + collector.cost(wanted)
        files.require_room(folder, size_bytes, floor_bytes=self.uploads.min_free_bytes)

    def _dump(self, snapshot: Snapshot, folder: Path, name: str) -> Table:
        table = snapshot.dump(folder, name)
        self.tell(f"{name}: {table.rows:,} rows")
        return table


def _needed(folder: Path) -> Iterator[Entry]:
    with (folder / NEEDED).open(encoding="ascii") as lines:
        yield from map(Entry.parse, lines)


def _require_current(revision: str | None) -> None:
    """Make sure that this version knows every table that there is."""
    if Revisions.of().judge(revision) is not Migrated.CURRENT:
        raise BackupFailed(
            f"The database is at migration {revision}, and this version at {Revisions.of().head}:"
            " take the backup with the version that the database belongs to."
        )


def _describe(snapshot: Snapshot, written: list[Table], taken: manifest.Uploads) -> Manifest:
    return Manifest(
        format=FORMAT,
        version=VERSION,
        revision=str(snapshot.revision),
        postgres_version=snapshot.moment.postgres_version,
        taken_at=snapshot.moment.taken_at,
        tables=tuple(written),
        left_out=tuple(sorted(LEFT_OUT)),
        uploads=taken,
    )
