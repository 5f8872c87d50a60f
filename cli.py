"""The command line: make keys, look at jobs, cancel them and send them round again.

Each command is one function, each noun one sub-command. It speaks to PostgreSQL alone: what it
changes, the dispatcher and the workers see by themselves.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn

import typer
from pydantic import ValidationError
from sqlalchemy.orm import Session

import auth
from auth import Grant
from config import Settings
from database import explained, get_db_session, make_engine, make_sessions, translated_errors
from errors import (
    CapacityError,
    InvalidRequest,
    JobFinished,
    JobNotFailed,
    NotFound,
    ServiceError,
    SettingsError,
    UnknownModel,
    UploadMissing,
)
from jobs import lifecycle, queries
from jobs.first_version import Importer
from jobs.queries import JobView
from jobs.uploads import UploadStore
from models import ApiKey, JobStatus, Scope
from speech import engines
from speech.engines import ModelKey, ModelStore, catalogue
from telemetry import configure_logging

FAILED: Final = 1
#: Wrong settings or wrong use, as Click has it too.
WRONG_USE: Final = 2

app = typer.Typer(
    help="Look after a transcription service. Settings come from the environment and .env.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
keys_app = typer.Typer(help="API keys.", no_args_is_help=True)
jobs_app = typer.Typer(help="Jobs.", no_args_is_help=True)
models_app = typer.Typer(help="Model files.", no_args_is_help=True)
app.add_typer(keys_app, name="keys")
app.add_typer(jobs_app, name="jobs")
app.add_typer(models_app, name="models")

#: A minute and a half; what is shorter is a slip.
SHORTEST_DAYS: Final = 0.001
LONGEST_DAYS: Final = 36_500

JobId = Annotated[uuid.UUID, typer.Argument(help="The job's id.", show_default=False)]


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


def _require_number(value: float | None) -> float | None:
    # which is neither too small nor too large
    if value is not None and math.isnan(value):
        raise typer.BadParameter("it should be a number")
    return value


@keys_app.command("create")
def create_key(
    owner: Annotated[str, typer.Option(help="Whom its jobs belong to.", show_default=False)],
    scope: Annotated[
        list[Scope] | None,
        typer.Option(help="What it may do; may be given several times. All of jobs, if not given."),
    ] = None,
    no_high: Annotated[
        bool, typer.Option("--no-high", help="Its jobs may not ask for the priority high.")
    ] = False,
    expires_days: Annotated[
        float | None,
        typer.Option(
            min=SHORTEST_DAYS,
            max=LONGEST_DAYS,
            callback=_require_number,
            help="It works for so many days. For ever, if not given.",
        ),
    ] = None,
    note: Annotated[str | None, typer.Option(help="What it is for.")] = None,
) -> None:
    """Make a key, and print it this once."""
    if not owner.strip():
        raise InvalidRequest("--owner should not be empty.")
    grant = Grant(
        owner=owner.strip(),
        scopes=scope or auth.JOB_SCOPES,
        may_use_high=not no_high,
        valid_days=expires_days,
        note=note,
    )
    with transaction(service_settings()) as session:
        key, row = auth.create(session, grant)
    typer.echo(f"Key {row.prefix}… of {grant.owner}; it is not shown again:", err=True)
    typer.echo(key)


@keys_app.command("list")
def list_keys() -> None:
    """List all keys: what they may do, and whether they still work."""
    with transaction(service_settings()) as session:
        rows = [_key_row(key) for key in auth.everyone(session)]
    _print_table(("prefix", "owner", "state", "scopes", "last used", "id", "note"), rows)


@keys_app.command("revoke")
def revoke_key(
    which: Annotated[
        str, typer.Argument(help="Its prefix, as listed, or its id.", show_default=False)
    ],
) -> None:
    """Make a key useless from now on; its owner's jobs stay."""
    with transaction(service_settings()) as session:
        revoked = auth.revoke(session, which)
    typer.echo(f"{revoked.prefix} is revoked.")


@jobs_app.command("list")
def list_jobs(
    status: Annotated[JobStatus | None, typer.Option(help="Only jobs of that status.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many, the newest first.")] = 20,
) -> None:
    """List the newest jobs of all owners."""
    with transaction(service_settings()) as session:
        views = queries.page(session, owner_id=None, status=status, before=None, limit=limit)
        total = queries.count(session, owner_id=None, status=status)
    _print_table(
        ("id", "status", "progress", "attempt", "model", "created", "error"),
        [_job_row(view) for view in views],
    )
    typer.echo(f"{len(views)} of {total}", err=True)


@jobs_app.command("show")
def show_job(job_id: JobId) -> None:
    """Show all there is to know of a job, with its failed attempts."""
    with transaction(service_settings()) as session:
        view = _find(session, job_id)
        letter = queries.dead_letter(session, job_id)
    for name, value in _facts(view).items():
        typer.echo(f"{name:16} {value}")
    for attempt in letter.attempts if letter else ():
        typer.echo(f"attempt {attempt.attempt:<8} {attempt.error_code}: {attempt.error_message}")


@jobs_app.command("cancel")
def cancel_job(job_id: JobId) -> None:
    """Cancel a job: at once if it waits, else at the end of the window it is at."""
    with transaction(service_settings()) as session:
        status = lifecycle.cancel(session, job_id)
        if status is None:
            _find(session, job_id)
            raise JobFinished
    if status is JobStatus.CANCELLED:
        typer.echo(f"{job_id} is cancelled.")
    else:
        typer.echo(f"{job_id} will stop soon.")


@jobs_app.command("redrive")
def redrive_job(
    job_id: JobId,
    model: Annotated[
        str | None, typer.Option(help="Another model; it begins from the start.")
    ] = None,
) -> None:
    """Send a failed job round again."""
    settings = service_settings()
    name = None if model is None else catalogue.resolve(model).name
    with transaction(settings) as session:
        lane = lifecycle.redrive(
            session,
            job_id,
            max_attempts=settings.max_attempts,
            model_name=name,
            resolved_by="cli",
        )
        if lane is None:
            _refuse_redrive(_find(session, job_id))
    typer.echo(f"{job_id} waits again, in {lane}.")


@models_app.command("pull")
def pull_models(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Models to fetch; WHISPER_MODEL_SIZE, if not given."),
    ] = None,
) -> None:
    """Bring the files of models into MODEL_CACHE_DIR, for WHISPER_ENGINE; resumes what was cut."""
    settings = Settings.from_env()
    store = ModelStore(settings.models_path, base_url=settings.model_base_url)
    for name in names or [settings.whisper_model_size]:
        spec = catalogue.resolve(name)
        # where it will run does not matter to its files
        key = ModelKey(settings.whisper_engine, spec.name, "cpu", "float32")
        typer.echo(f"{spec.name}: {engines.fetch(key, store)}")


@models_app.command("convert")
def convert_model(
    checkpoint: Annotated[
        Path, typer.Argument(help="A checkpoint in openai-whisper's format, such as base.pt.")
    ],
    target: Annotated[Path, typer.Argument(help="The folder to make, for faster-whisper.")],
    quantization: Annotated[
        str | None,
        typer.Option(help="Such as int8 or float16; the checkpoint's own, if not given."),
    ] = None,
) -> None:
    """Convert a checkpoint for CTranslate2, so that faster-whisper runs the same weights."""
    engines.convert_checkpoint(checkpoint, target, quantization=quantization)
    typer.echo(target)


@app.command("import-v1")
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


def _find(session: Session, job_id: uuid.UUID) -> JobView:
    view = queries.find(session, job_id, owner_id=None)
    if view is None:
        raise NotFound("There is no such job.")
    return view


def _refuse_redrive(view: JobView) -> NoReturn:
    if view.job.status == JobStatus.FAILED:
        raise UploadMissing("The job's upload is no longer kept.")
    raise JobNotFailed


def _key_row(key: ApiKey) -> Sequence[str]:
    scopes = ",".join(key.scopes) + ("" if key.may_use_high else " (never high)")
    used = _when(key.last_used_at)
    return (key.prefix, key.owner.name, _state(key), scopes, used, str(key.id), key.note or "")


def _state(key: ApiKey) -> str:
    if key.revoked_at is not None:
        return f"revoked {_when(key.revoked_at)}"
    if key.expires_at is None:
        return "works"
    verb = "expired" if key.expires_at <= datetime.now(UTC) else "until"
    return f"{verb} {_when(key.expires_at)}"


def _job_row(view: JobView) -> Sequence[str]:
    job = view.job
    return (
        str(job.id),
        job.status,
        f"{job.progress:.0%}",
        f"{job.attempt}/{job.max_attempts}",
        job.model_name,
        _when(job.created_at),
        job.failure_reason or job.error_code or "",
    )


def _facts(view: JobView) -> dict[str, Any]:
    job = view.job
    return {
        "id": job.id,
        "status": job.status,
        "filename": job.client_filename,
        "bytes": job.upload_bytes,
        "audio": f"{job.audio_seconds or 0:.1f} s{' (estimated)' * job.audio_estimated}",
        "priority": job.priority,
        "engine": job.engine_name,
        "model": job.model_used or job.model_name,
        "progress": f"{job.progress:.0%} {job.current_step or ''}".strip(),
        "attempts": f"{job.attempt} of {job.max_attempts}, {job.crash_count} crashes",
        "worker": job.worker_name or "-",
        "created": _when(job.created_at),
        "started": _when(job.started_at),
        "ended": _when(job.completed_at),
        "warnings": ", ".join(job.warnings) or "-",
        "error": f"{job.error_code}: {job.error_message}" if job.error_code else "-",
    }


def _when(time: datetime | None) -> str:
    return "-" if time is None else time.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def _print_table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    table = [names, *rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        typer.echo("  ".join(cells).rstrip())


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; what goes wrong is one line and an exit status."""
    configure_logging("WARNING", "human")
    try:
        app(args=None if arguments is None else list(arguments), prog_name="cli.py")
    except SettingsError as error:
        _give_up(error, WRONG_USE)
    except ServiceError as error:
        _give_up(error, FAILED)


def _give_up(error: ServiceError, status: int) -> NoReturn:
    typer.echo(f"error: {explained(error)}", err=True)
    raise SystemExit(status)


if __name__ == "__main__":
    main()
