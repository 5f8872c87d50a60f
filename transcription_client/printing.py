"""What commands print: transcripts and tables on standard output, the rest on standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import typer
from rich.console import Console
from rich.table import Table

from transcription_client.display import state
from transcription_client.server import Job
from transcription_client.transcribing import Outcome
from transcription_client.words import duration, plain

#: Columns of a terminal that is none.
UNBOUND: Final = 1000


def say_how_to_go_on(outcomes: Sequence[Outcome]) -> None:
    """Say what to type after Ctrl-C."""
    typer.echo("", err=True)
    sent = [outcome.job_id for outcome in outcomes if outcome.job_id]
    if sent:
        typer.echo("Stopped. The jobs go on; for what comes of them:", err=True)
        typer.echo(f"    {_program()} result {' '.join(sent)}", err=True)
    unsent = [outcome.name for outcome in outcomes if not outcome.job_id and not outcome.trouble]
    if unsent:
        names = ", ".join(map(plain, unsent))
        typer.echo(f"Not sent, or in part: {names}. The same command with them goes on.", err=True)


def print_outcomes(outcomes: Sequence[Outcome], *, as_json: bool, waited: bool) -> None:
    """Print what came of recordings; what went wrong goes to standard error."""
    for outcome in outcomes:
        if outcome.trouble:
            typer.echo(f"{plain(outcome.name)}: {plain(outcome.trouble.message)}", err=True)
        if as_json:
            print_json(_told(outcome))
        elif outcome.job_id and not waited:
            typer.echo(f"{outcome.job_id}  {plain(outcome.name)}")
        else:
            _print_result(outcome, headline=len(outcomes) > 1)


def _print_result(outcome: Outcome, *, headline: bool) -> None:
    for path in outcome.files:
        typer.echo(plain(str(path)))
    if outcome.transcripts and headline:
        typer.echo(f"==> {plain(outcome.name)} <==")
    for content in outcome.transcripts.values():
        sys.stdout.buffer.write(content)
        sys.stdout.flush()


def _told(outcome: Outcome) -> dict[str, Any]:
    """An outcome for programs."""
    return {
        "source": outcome.source,
        "job_id": outcome.job_id,
        "status": outcome.job["status"] if outcome.job else None,
        "error": outcome.trouble.message if outcome.trouble else None,
        "files": [str(path) for path in outcome.files],
        "transcripts": {
            form: content.decode(errors="replace") for form, content in outcome.transcripts.items()
        },
    }


def print_json(what: Any) -> None:
    typer.echo(json.dumps(what, ensure_ascii=False))


def print_job(job: Job) -> None:
    for name, value in _facts(job):
        typer.echo(f"{name:10} {plain(str(value))}")


def print_jobs(jobs: Sequence[Job]) -> None:
    """A table; as wide as it has to be where nobody looks at a terminal."""
    table = Table("id", "file", "what", "sent", box=None, pad_edge=False)
    table.columns[0].no_wrap = True
    for job in jobs:
        cells = (job["id"], job["filename"], state(job), _when(job["created_at"]))
        table.add_row(*(plain(cell) for cell in cells))
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console = Console(highlight=False, markup=False, width=UNBOUND)
    console.print(table)


def _facts(job: Job) -> list[tuple[str, Any]]:
    facts = [
        ("id", job["id"]),
        ("file", job["filename"]),
        ("what", state(job)),
        ("audio", duration(job["audio_seconds"]) if job["audio_seconds"] else "-"),
        ("model", job["model_used"] or job["model_size"]),
        ("language", job["language"] or "-"),
        ("attempt", f"{job['attempt']} of {job['max_attempts']}"),
        ("sent", _when(job["created_at"])),
        ("ended", _when(job["completed_at"])),
    ]
    if job["warnings"]:
        facts.append(("warnings", ", ".join(job["warnings"])))
    return facts


def _when(time: str | None) -> str:
    if time is None:
        return "-"
    return datetime.fromisoformat(time).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _program() -> str:
    """What is typed to start this."""
    path = Path(sys.argv[0])
    if path.name == "__main__.py":
        return "python -m transcription_client"
    return f"python {sys.argv[0]}" if path.suffix == ".py" else path.name
