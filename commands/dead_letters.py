"""The dead letter queue: look at the jobs that were given up, and work through them."""

from __future__ import annotations

import functools
import json
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Annotated, Any, Final

import typer
from sqlalchemy.orm import Session

from audit.events import CLI, record
from commands.filters import filtered
from commands.terminal import ago, print_table, service_settings, transaction, when
from config import Settings
from errors import InvalidRequest, JobNotFailed, JobQuarantined, NotFound, UploadMissing
from jobs import dead_letters, lifecycle, queries
from jobs.dead_letters import DeadLetter, Wanted
from jobs.lifecycle import Redrive
from jobs.sweeps import Broom, PassedBy, Swept
from models import AuditAction, ErrorLog, Priority, TranscriptionJob
from speech.engines import catalogue

#: Who did it, where it was done from here.
BY: Final = CLI.name
#: Jobs that one sweep looks at; the next goes on after them.
SWEEP_JOBS: Final = 1000
#: Jobs that are named, of those that were passed by.
SHOWN: Final = 20

app = typer.Typer(help="Jobs that were given up: the dead letter queue.", no_args_is_help=True)

JobId = Annotated[uuid.UUID, typer.Argument(help="The job's id.", show_default=False)]
JobIds = Annotated[
    list[uuid.UUID] | None,
    typer.Argument(help="The jobs' ids; or none, and options that choose.", show_default=False),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
All = Annotated[bool, typer.Option("--all", help="All of them, where nothing else chooses.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Change nothing, and tell what would be.")]
Note = Annotated[str | None, typer.Option(help="What whoever looks at it should know.")]


@app.command("list")
@filtered
def list_errors(
    wanted: Wanted,
    quarantined: Annotated[
        bool, typer.Option("--quarantined", help="Those in quarantine, and no others.")
    ] = False,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many, the latest first.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List the jobs that were given up and that nobody has dealt with."""
    wanted = replace(wanted, quarantined=quarantined)
    with transaction(service_settings()) as session:
        letters = dead_letters.page(session, wanted, limit=limit)
        total = dead_letters.count(session, wanted)
        record(session, CLI, AuditAction.JOBS_LISTED)
    if as_json:
        _print_json([_record(letter) for letter in letters])
        return
    print_table(("id", "ago", "why", "model", "owner"), [_row(letter) for letter in letters])
    typer.echo(f"{len(letters)} of {total}", err=True)


@app.command("show")
def show_error(job_id: JobId, as_json: AsJson = False) -> None:
    """Show a job that was given up with its attempts, tracebacks and all."""
    with transaction(service_settings()) as session:
        letter = _find(session, job_id)
        record(session, CLI, AuditAction.ERROR_READ, job_id=job_id)
    if as_json:
        _print_json(_record(letter, whole=True))
        return
    for name, value in _facts(letter).items():
        typer.echo(f"{name:12} {value}")
    for log in letter.attempts:
        typer.echo()
        for line in _attempt(log):
            typer.echo(line)


@app.command("retry")
@filtered
def retry_errors(  # noqa: PLR0913 - one for each option
    wanted: Wanted,
    job_ids: JobIds = None,
    *,
    with_model: Annotated[
        str | None, typer.Option(help="Another model; begins from the start.")
    ] = None,
    with_engine: Annotated[
        str | None, typer.Option(help="Another engine; begins from the start.")
    ] = None,
    with_priority: Annotated[Priority | None, typer.Option(help="Another priority.")] = None,
    all_: All = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Send failed jobs round again: some by their ids, or all that the options choose."""
    settings = service_settings()
    how = _redrive(settings, with_model, with_engine, with_priority)
    if job_ids:
        _refuse_filter(wanted, everything=all_)
        for job_id in job_ids:
            lane = _retry(settings, job_id, how, dry_run=dry_run)
            typer.echo(f"{job_id} {'would wait' if dry_run else 'waits'} again, in {lane}.")
        return
    _require_choice(wanted, everything=all_)
    broom = _broom(settings, wanted, dry_run=dry_run)
    swept = _sweep(broom, lambda part: part.retry(how, unfit=functools.partial(_unfit, how)))
    _tell(swept, "retried", dry_run=dry_run, as_json=as_json)


@app.command("resolve")
@filtered
def resolve_errors(
    wanted: Wanted,
    job_ids: JobIds = None,
    note: Note = None,
    all_: All = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Note that failed jobs were dealt with: some by their ids, or all that the options choose."""
    settings = service_settings()
    if job_ids:
        _refuse_filter(wanted, everything=all_)
        for job_id in job_ids:
            _resolve(settings, job_id, note, dry_run=dry_run)
            typer.echo(f"{job_id} {'would be' if dry_run else 'is'} resolved.")
        return
    _require_choice(wanted, everything=all_)
    broom = _broom(settings, wanted, dry_run=dry_run)
    swept = _sweep(broom, lambda part: part.resolve(by=BY, notes=note))
    _tell(swept, "resolved", dry_run=dry_run, as_json=as_json)


@app.command("quarantine")
def quarantine_error(job_id: JobId, note: Note = None) -> None:
    """Set a failed job aside: it is not retried, and its upload is kept, until it is released."""
    with transaction(service_settings()) as session:
        _find(session, job_id)
        dead_letters.quarantine(session, job_id, by=BY, notes=note)
        record(session, CLI, AuditAction.ERROR_QUARANTINED, job_id=job_id)
    typer.echo(f"{job_id} is in quarantine.")


@app.command("release")
def release_error(job_id: JobId) -> None:
    """Take a failed job out of quarantine."""
    with transaction(service_settings()) as session:
        _find(session, job_id)
        dead_letters.release(session, job_id)
        record(session, CLI, AuditAction.ERROR_RELEASED, job_id=job_id)
    typer.echo(f"{job_id} is not in quarantine.")


# What is done


def _find(session: Session, job_id: uuid.UUID) -> DeadLetter:
    letter = dead_letters.find(session, job_id)
    if letter is None:
        if queries.find(session, job_id, owner_id=None) is None:
            raise NotFound("There is no such job.")
        raise JobNotFailed
    return letter


def _find_free(session: Session, job_id: uuid.UUID) -> TranscriptionJob:
    job = _find(session, job_id).job
    if job.quarantined_at is not None:
        raise JobQuarantined
    return job


def _redrive(
    settings: Settings, model: str | None, engine: str | None, priority: Priority | None
) -> Redrive:
    spec = None if model is None else catalogue.resolve(model)
    if engine is not None and engine not in catalogue.ENGINES:
        raise InvalidRequest(f"--with-engine should be one of {', '.join(catalogue.ENGINES)}.")
    return Redrive(
        max_attempts=settings.max_attempts,
        by=BY,
        model_name=None if spec is None else spec.name,
        model_warnings=() if spec is None else spec.warnings,
        engine_name=engine,
        priority=priority,
    )


def _unfit(how: Redrive, job: TranscriptionJob) -> str | None:
    if how.model_name is None:
        return None
    spec = catalogue.resolve(how.model_name)
    return spec.unfit_for(language=job.language, translate=job.translate)


def _retry(settings: Settings, job_id: uuid.UUID, how: Redrive, *, dry_run: bool) -> str:
    with transaction(settings) as session:
        job = _find_free(session, job_id)
        if job.upload_deleted_at is not None:
            raise UploadMissing("The job's upload is no longer kept.")
        if reason := _unfit(how, job):
            raise InvalidRequest(f"The model {how.model_name} cannot do this job: {reason}.")
        if dry_run:
            return how.priority or job.priority
        lanes = lifecycle.redrive(session, [job_id], how)
        if not lanes:  # somebody was faster
            raise JobNotFailed
        record(session, CLI, AuditAction.ERROR_RETRIED, job_id=job_id)
        return lanes[job_id]


def _resolve(settings: Settings, job_id: uuid.UUID, note: str | None, *, dry_run: bool) -> None:
    with transaction(settings) as session:
        _find_free(session, job_id)
        if not dry_run:
            dead_letters.resolve(session, [job_id], by=BY, notes=note)
            record(session, CLI, AuditAction.ERROR_RESOLVED, job_id=job_id)


def _refuse_filter(wanted: Wanted, *, everything: bool) -> None:
    if wanted != Wanted() or everything:
        raise InvalidRequest("Name jobs by their ids or by options that choose, not both.")


def _require_choice(wanted: Wanted, *, everything: bool) -> None:
    if wanted.is_everything and not everything:
        raise InvalidRequest("Say which jobs: ids, options that choose, or --all.")


def _broom(settings: Settings, wanted: Wanted, *, dry_run: bool) -> Broom:
    return Broom(
        transaction=functools.partial(transaction, settings),
        actor=CLI,
        wanted=wanted,
        limit=SWEEP_JOBS,
        dry_run=dry_run,
    )


def _sweep(broom: Broom, verb: Callable[[Broom], Swept]) -> Swept:
    """Sweep until nothing is left."""
    done: list[uuid.UUID] = []
    passed_by: list[PassedBy] = []
    while True:
        part = verb(broom)
        done += part.done
        passed_by += part.passed_by
        if part.rest is None:
            return Swept(done=done, passed_by=passed_by, rest=None)
        broom = replace(broom, before=part.rest)


# What is printed


def _tell(swept: Swept, verb: str, *, dry_run: bool, as_json: bool) -> None:
    if as_json:
        skipped = [{"job_id": each.job_id, "code": each.reason} for each in swept.passed_by]
        _print_json(
            {verb: len(swept.done), "jobs": swept.done, "skipped": skipped, "dry_run": dry_run}
        )
        return
    typer.echo(f"{len(swept.done)} {'would be ' * dry_run}{verb}, {len(swept.passed_by)} skipped.")
    for each in swept.passed_by[:SHOWN]:
        typer.echo(f"{each.job_id}  {each.reason}")
    if len(swept.passed_by) > SHOWN:
        typer.echo(f"... and {len(swept.passed_by) - SHOWN} more; --json lists all.")


def _why(job: TranscriptionJob) -> str:
    code = job.error_code or ""
    if job.failure_reason in {"attempts_exhausted", "deadline"}:
        return f"{code} x{job.attempt}"
    return job.failure_reason or code


def _row(letter: DeadLetter) -> Sequence[str]:
    job = letter.job
    return (str(job.id), ago(job.completed_at), _why(job), job.model_name, letter.owner_name)


def _facts(letter: DeadLetter) -> dict[str, Any]:
    job = letter.job
    return {
        "id": job.id,
        "why": _why(job),
        "message": job.error_message,
        "failed": when(job.completed_at),
        "created": when(job.created_at),
        "owner": letter.owner_name,
        "key": letter.key_prefix or "-",
        "filename": job.client_filename,
        "upload": "kept" if job.upload_deleted_at is None else "deleted: cannot be retried",
        "model": f"{job.model_name}, {job.engine_name}",
        "priority": job.priority,
        "progress": f"{job.progress:.0%}",
        "crashes": f"{job.crash_count}, {job.solo_crash_count} alone",
        "resolved": _mark(job.resolved_at, job.resolved_by, job.resolution_notes),
        "quarantine": _mark(job.quarantined_at, job.quarantined_by, job.quarantine_notes),
    }


def _mark(at: datetime | None, by: str | None, notes: str | None) -> str:
    return "-" if at is None else " ".join(filter(None, (when(at), by and f"by {by}", notes)))


def _attempt(log: ErrorLog) -> Iterator[str]:
    worker = f" on {log.worker_name}" if log.worker_name else ""
    yield f"attempt {log.attempt}{worker}, {when(log.created_at)}"
    yield f"  {log.error_code}: {log.error_message}"
    for name, value in log.context.items():
        yield f"  {name}: {value}"
    for line in (log.traceback or "").splitlines():
        yield f"    {line}"


def _record(letter: DeadLetter, *, whole: bool = False) -> dict[str, Any]:
    """The same as ``/admin/errors`` tells, by the same names."""
    job = letter.job
    record: dict[str, Any] = {
        "id": job.id,
        "job_id": job.id,
        "type": job.failure_reason,
        "code": job.error_code,
        "message": job.error_message,
        "owner": letter.owner_name,
        "key": letter.key_prefix,
        "filename": job.client_filename,
        "model_size": job.model_name,
        "engine": job.engine_name,
        "priority": job.priority,
        "created_at": job.created_at,
        "failed_at": job.completed_at,
        "permanent": letter.permanent,
        "upload_kept": job.upload_deleted_at is None,
        "resolved": job.resolved_at is not None,
        "resolution": _noted(job.resolved_at, job.resolved_by, job.resolution_notes),
        "quarantine": _noted(job.quarantined_at, job.quarantined_by, job.quarantine_notes),
        "attempts": [_logged(log, whole=whole) for log in letter.attempts],
    }
    if whole:
        record["crashes"] = job.crash_count
        record["crashes_alone"] = job.solo_crash_count
        record["fallbacks"] = job.fallbacks
    return record


def _noted(at: datetime | None, by: str | None, notes: str | None) -> dict[str, Any] | None:
    return None if at is None else {"at": at, "by": by, "notes": notes}


def _logged(log: ErrorLog, *, whole: bool) -> dict[str, Any]:
    return {
        "attempt": log.attempt,
        "worker": log.worker_name,
        "code": log.error_code,
        "message": log.error_message,
        "created_at": log.created_at,
        "resolved": log.resolved,
        "resolved_at": log.resolved_at,
        "resolved_by": log.resolved_by,
        "notes": log.resolution_notes,
        **({"traceback": log.traceback, "context": log.context} if whole else {}),
    }


def _print_json(value: object) -> None:
    typer.echo(json.dumps(value, indent=2, default=_text, ensure_ascii=False))


def _text(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)
