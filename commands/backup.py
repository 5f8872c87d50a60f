"""Backups: take one, read one again, restore one."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final

import typer
from sqlalchemy import Engine
from sqlalchemy.exc import ProgrammingError

from audit.events import CLI, record
from backups import restoring
from backups.manifest import Manifest
from backups.restoring import Brought, Restored, Restorer
from backups.taking import Taken, Taker
from commands.terminal import service_settings, transaction, when
from config import Settings
from database import make_engine
from jobs.uploads import UNCLAIMED_DIR, UploadStore
from models import AuditAction

#: Keys that are named one by one.
NAMED: Final = 20

Folder = Annotated[Path, typer.Argument(help="The folder of the backup.")]


def take_backup(
    folder: Annotated[Path, typer.Argument(help="The folder to make; it is not there yet.")],
    without_audio: Annotated[
        bool, typer.Option("--without-audio", help="Leave out the uploads.")
    ] = False,
    previous: Annotated[
        Path | None,
        typer.Option(
            help="An earlier backup on that disk: uploads that it has are linked, not copied."
        ),
    ] = None,
) -> None:
    """Back up PostgreSQL and the uploads into a folder, while the service runs."""
    settings = service_settings()
    store = UploadStore(
        settings.uploads_path,
        max_bytes=settings.max_upload_bytes,
        min_free_bytes=settings.min_free_bytes,
    )
    if previous is not None and not previous.is_dir():
        _tell(f"{previous} is not there: every upload is copied.")
        previous = None
    with _engine(settings) as engine:
        taker = Taker(engine=engine, uploads=store, tell=_tell)
        taken = taker.take(folder.absolute(), with_audio=not without_audio, previous=previous)
    _record(settings, taken)
    _print_taken(folder, taken)


def _record(settings: Settings, taken: Taken) -> None:
    detail = {"jobs": taken.manifest.jobs, "sha256": taken.sha256}
    try:
        if not taken.is_replica:  # which takes no writes
            with transaction(settings) as session:
                record(session, CLI, AuditAction.BACKUP_TAKEN, detail=detail)
            return
    except ProgrammingError:  # nor does a role that may only read
        pass
    _tell("No audit event tells of this backup: nothing can be written there.")


def check_backup(folder: Folder) -> None:
    """Read all of a backup, and say whether it is what was written. Needs no database."""
    told, sha256 = restoring.verify(folder.absolute(), _tell)
    typer.echo(f"{folder} is whole.")
    _print_manifest(told, sha256)


def restore_backup(
    folder: Folder,
    replace: Annotated[
        bool, typer.Option("--replace", help="Lose the jobs that the database holds now.")
    ] = False,
    without_audio: Annotated[
        bool,
        typer.Option(
            "--without-audio",
            help="Bring no uploads back; jobs whose upload is nowhere cannot be done.",
        ),
    ] = False,
) -> None:
    """Make PostgreSQL and the uploads what they were; nothing of the service runs."""
    settings = service_settings()
    # they were accepted once, whatever may be sent today
    store = UploadStore(
        settings.uploads_path, max_bytes=sys.maxsize, min_free_bytes=settings.min_free_bytes
    )
    with _engine(settings) as engine:
        restorer = Restorer(engine=engine, uploads=store, tell=_tell)
        told, restored, brought = restorer.restore(
            folder.absolute(), replace=replace, with_audio=not without_audio
        )
    _print_restored(told, restored, brought, store)


def settle_restored() -> None:
    """After a restore or a failover by other means: void every lease, spare uploads of no job."""
    settings = service_settings()
    store = UploadStore(settings.uploads_path, max_bytes=sys.maxsize, min_free_bytes=0)
    with _engine(settings) as engine:
        waiting, unclaimed = Restorer(engine=engine, uploads=store, tell=_tell).settle()
    typer.echo(f"jobs      {waiting:,} wait and go on; whoever held one before writes nothing more")
    _print_unclaimed(unclaimed, store)


@contextmanager
def _engine(settings: Settings) -> Iterator[Engine]:
    engine = make_engine(settings, pooled=False, name="transcription-backup", patient=True)
    try:
        yield engine
    finally:
        engine.dispose()


def _tell(line: str) -> None:
    typer.echo(line, err=True)


def _print_taken(folder: Path, taken: Taken) -> None:
    typer.echo(f"{folder} is a backup of {when(taken.manifest.taken_at)}.")
    _print_manifest(taken.manifest, taken.sha256)
    linked_bytes = taken.manifest.uploads.kept_bytes - taken.copied_bytes
    if linked_bytes:
        typer.echo(
            f"{linked_bytes / 2**20:,.0f} MB of uploads are links on the same disk:"
            " copy the folder to another one."
        )
    typer.echo("It holds transcripts and lets nobody in but its owner: keep it so.")


def _print_manifest(told: Manifest, sha256: str) -> None:
    rows = sum(table.rows for table in told.tables)
    uploads = told.uploads
    typer.echo(f"taken     {when(told.taken_at)}, of version {told.version} ({told.revision})")
    typer.echo(f"jobs      {told.jobs:,}, with all else {rows:,} rows")
    typer.echo(f"uploads   {uploads.kept:,}, {uploads.kept_bytes / 2**20:,.0f} MB")
    for count, what in (
        (uploads.left_out, "left out"),
        (uploads.gone, "were deleted meanwhile, or are missing"),
        (uploads.altered, "are not what was sent"),
    ):
        if count:
            typer.echo(f"          {count:,} {what}")
    typer.echo(f"manifest  {sha256}")


def _print_restored(
    told: Manifest, restored: Restored, brought: Brought, store: UploadStore
) -> None:
    typer.echo(f"The service is what it was at {when(told.taken_at)}.")
    typer.echo(f"jobs      {restored.jobs:,}, of which {restored.waiting:,} wait and go on")
    typer.echo(f"uploads   {brought.put_back:,} brought back")
    if brought.missing:
        typer.echo(f"          {brought.missing:,} are nowhere: what needs them cannot be done")
    _print_unclaimed(brought.unclaimed, store)
    if restored.keys_kept:
        typer.echo(f"keys      {restored.keys_kept:,} are as they were a moment ago")
    _print_keys(restored.keys_back, "work again; revoke those that were revoked since")
    _print_keys(restored.keys_lost, "were made after the backup, and are no more")


def _print_unclaimed(count: int, store: UploadStore) -> None:
    if count:
        typer.echo(
            f"          {count:,} of no job were set aside in {store.root / UNCLAIMED_DIR}:"
            " sent after the backup, they may be sent again"
        )


def _print_keys(prefixes: list[str], what: str) -> None:
    if prefixes:
        more = ", …" if len(prefixes) > NAMED else ""
        typer.echo(f"keys      {len(prefixes):,} {what}: {', '.join(prefixes[:NAMED])}{more}")
