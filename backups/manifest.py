"""What a backup says of itself: where it comes from, and the digest of each of its files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Final

from pydantic import Field, TypeAdapter, ValidationError

from backups import files
from backups.files import Digest, folder_errors
from errors import BackupDamaged

#: Of the layout of a backup. A change that older versions cannot read raises it.
FORMAT: Final = 1

MANIFEST: Final = "manifest.json"
#: As ``sha256sum --check`` reads it.
MANIFEST_SUM: Final = "manifest.sha256"
TABLES: Final = "tables"
UPLOADS: Final = "uploads"
#: A line for each upload that a row of the backup needs: see ``backups.uploads``.
UPLOAD_LIST: Final = "uploads.tsv.gz"

#: A table or a column: it becomes a part of a path and of a statement.
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """One table, as PostgreSQL's COPY writes it."""

    name: Name
    #: In the order in which they were written.
    columns: tuple[Name, ...]
    rows: int
    file: Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Uploads:
    """The uploads that rows of the backup need, and what became of them."""

    kept: int
    kept_bytes: int
    #: Deleted between the moment of the backup and when their turn came, or not there before.
    gone: int
    #: Not what was sent any more.
    altered: int
    #: Left out, as was asked for.
    left_out: int
    file: Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """All that a backup says of itself."""

    format: int
    #: Of the service.
    version: str
    #: The migration that the database was at.
    revision: str
    postgres_version: str
    #: The moment of the backup: what was committed later is not in it.
    taken_at: datetime
    #: In an order in which they can be filled.
    tables: tuple[Table, ...]
    #: Tables that no backup has.
    left_out: tuple[Name, ...]
    uploads: Uploads

    @property
    def jobs(self) -> int:
        return sum(table.rows for table in self.tables if table.name == "transcription_jobs")


_ADAPTER: Final = TypeAdapter(Manifest)


def table_path(folder: Path, name: str) -> Path:
    return folder / TABLES / f"{name}.copy.gz"


def paths(folder: Path, manifest: Manifest) -> Iterator[tuple[Path, Digest]]:
    """The files that the manifest has the digests of; uploads are on the list among them."""
    for table in manifest.tables:
        yield table_path(folder, table.name), table.file
    yield folder / UPLOAD_LIST, manifest.uploads.file


def write(folder: Path, manifest: Manifest) -> str:
    """Write the manifest, which is the last file of a backup; returns its SHA-256."""
    told = _ADAPTER.dump_json(manifest, indent=2) + b"\n"
    sha256 = Digest.of(told).sha256
    with folder_errors(folder):
        files.write(folder / MANIFEST, told)
        files.write(folder / MANIFEST_SUM, f"{sha256}  {MANIFEST}\n".encode())
    return sha256


def read(folder: Path) -> tuple[Manifest, str]:
    """Read a backup's manifest, and its SHA-256.

    Raises:
        BackupDamaged: It is missing, altered, or of a form that this version does not know.
    """
    told, noted = (_content(folder, name) for name in (MANIFEST, MANIFEST_SUM))
    sha256 = Digest.of(told).sha256
    if noted.split() != [sha256.encode(), MANIFEST.encode()]:
        raise BackupDamaged(f"{folder / MANIFEST} is not what {MANIFEST_SUM} says.")
    try:
        manifest = _ADAPTER.validate_json(told)
    except ValidationError as error:
        raise BackupDamaged(f"{folder / MANIFEST} cannot be understood.") from error
    if manifest.format != FORMAT:
        raise BackupDamaged(
            f"{folder} has the form {manifest.format}, of another version than {FORMAT}."
        )
    return manifest, sha256


def _content(folder: Path, name: str) -> bytes:
    with folder_errors(folder / name):
        try:
            return (folder / name).read_bytes()
        except FileNotFoundError:
            raise BackupDamaged(
                f"{folder} is no backup, or no whole one: it has no {name}."
            ) from None
