"""Bring over the jobs of version 2."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

import auth
from audit.events import CLI, record
from commands.terminal import service_settings, transaction
from config import Settings
from database import explained, make_engine, translated_errors
from errors import CapacityError, SettingsError, UnknownModel
from jobs.first_version import Importer
from jobs.uploads import UploadStore
from models import AuditAction
from speech.engines import catalogue


def import_first_version(
    source: Annotated[str, typer.Option("--from", help="URL of version 2's database.")],
    owner: Annotated[str, typer.Option(help="Whom the jobs belong to from now on.")] = "admin",
    files: Annotated[
        Path,
        typer.Option(
            exists=True, file_okay=False, help="Folder that its relative paths are meant from."
        ),
    ] = Path(),
) -> None:
    """Copy jobs, results and errors of version 2's database into ours; may be run again."""
    settings = service_settings()
    try:
        there = Settings.model_validate({"database_url": source})
    except ValidationError as error:
        raise SettingsError("--from should be postgresql://user:password@host/database") from error
    old = make_engine(there, pooled=False, name="transcription-import")
    uploads = UploadStore(
        settings.uploads_path,
        max_bytes=settings.max_upload_bytes,
        min_free_bytes=settings.min_free_bytes,
    )
    uploads.prepare()
    with translated_errors(), old.connect() as connection:
        with transaction(settings) as session:
            owner_id = auth.owner_id(session, owner)
            record(session, CLI, AuditAction.JOBS_IMPORTED)
        importer = Importer(
            source=connection,
            transaction=functools.partial(transaction, settings),
            uploads=uploads,
            files=files,
            owner_id=owner_id,
            max_attempts=settings.max_attempts,
            engine_name=settings.whisper_engine,
            resolve_model=_model_of_first_version,
        )
        run_import(importer)
    for name, count in dataclasses.asdict(importer.counts).items():
        typer.echo(f"{name:12} {count}")


def run_import(importer: Importer) -> None:
    try:
        importer.run()
    except CapacityError as error:
        raise CapacityError(
            f"{explained(error)} {importer.counts.jobs} jobs were copied and stay; "
            "the same command goes on from there."
        ) from error


def _model_of_first_version(name: str) -> str:
    try:
        return catalogue.resolve(name).name
    except UnknownModel:
        return name  # of a job that is done; its result is what counts
