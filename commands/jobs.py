"""Jobs: look at them, and cancel them."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from sqlalchemy.orm import Session

from audit.events import CLI, record
from commands.terminal import print_table, service_settings, transaction, when
from errors import JobFinished, NotFound
from jobs import dead_letters, lifecycle, queries
from jobs.queries import JobView, Selection
from models import AuditAction, JobStatus

app = typer.Typer(help="Jobs.", no_args_is_help=True)

JobId = Annotated[uuid.UUID, typer.Argument(help="The job's id.", show_default=False)]


@app.command("list")
def list_jobs(
    status: Annotated[JobStatus | None, typer.Option(help="Only jobs of that status.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many, the newest first.")] = 20,
) -> None:
    """List the newest jobs of all owners."""
    with transaction(service_settings()) as session:
        which = Selection(owner_id=None, status=status)
        views = queries.page(session, which, before=None, limit=limit)
        total = queries.count(session, which)
        record(session, CLI, AuditAction.JOBS_LISTED)
    print_table(
        ("id", "status", "progress", "attempt", "model", "created", "error"),
        [_job_row(view) for view in views],
    )
    typer.echo(f"{len(views)} of {total}", err=True)


@app.command("show")
def show_job(job_id: JobId) -> None:
    """Show all there is to know of a job, with its failed attempts."""
    with transaction(service_settings()) as session:
        view = _find(session, job_id)
        letter = dead_letters.find(session, job_id)
        record(session, CLI, AuditAction.JOB_READ, job_id=job_id)
    for name, value in _facts(view).items():
        typer.echo(f"{name:16} {value}")
    for attempt in letter.attempts if letter else ():
        typer.echo(f"attempt {attempt.attempt:<8} {attempt.error_code}: {attempt.error_message}")


@app.command("cancel")
def cancel_job(job_id: JobId) -> None:
    """Cancel a job: at once if it waits, else at the end of the window it is at."""
    with transaction(service_settings()) as session:
        status = lifecycle.cancel(session, job_id)
        if status is None:
            _find(session, job_id)
            raise JobFinished
        record(session, CLI, AuditAction.JOB_CANCELLED, job_id=job_id)
    if status is JobStatus.CANCELLED:
        typer.echo(f"{job_id} is cancelled.")
    else:
        typer.echo(f"{job_id} will stop soon.")


def _find(session: Session, job_id: uuid.UUID) -> JobView:
    view = queries.find(session, job_id, owner_id=None)
    if view is None:
        raise NotFound("There is no such job.")
    return view


def _job_row(view: JobView) -> Sequence[str]:
    job = view.job
    return (
        str(job.id),
        job.status,
        f"{job.progress:.0%}",
        f"{job.attempt}/{job.max_attempts}",
        job.model_name,
        when(job.created_at),
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
        "created": when(job.created_at),
        "started": when(job.started_at),
        "ended": when(job.completed_at),
        "warnings": ", ".join(job.warnings) or "-",
        "error": f"{job.error_code}: {job.error_message}" if job.error_code else "-",
    }
