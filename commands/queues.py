"""Queues: look at them, pause and resume them."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated

import typer

from audit.events import CLI, record
from commands.terminal import print_table, service_settings, transaction, when
from config import QUEUES
from jobs import queries, queues
from jobs.queries import LaneState
from models import AuditAction, PausedQueue

app = typer.Typer(help="Queues.", no_args_is_help=True)


class Name(StrEnum):
    """What may be paused."""

    HIGH = "high"
    NORMAL = "normal"
    RETRY = "retry"
    ALL = "all"


Which = Annotated[Name, typer.Argument(help="The queue, or all.", show_default=False)]


@app.command("list")
def list_queues() -> None:
    """List the queues: what waits in them, and whether they are paused."""
    with transaction(service_settings()) as session:
        paused = queues.paused(session)
        rows = [_row(state, paused.get(state.lane)) for state in queries.lanes(session, QUEUES)]
    print_table(("name", "state", "waiting", "oldest", "paused by", "note"), rows)


@app.command("pause")
def pause_queue(
    which: Which,
    note: Annotated[str | None, typer.Option(help="Why, for whoever wonders.")] = None,
) -> None:
    """Let no further job of a queue start, until it is resumed; what runs goes on."""
    with transaction(service_settings()) as session:
        names = list(_names(which))
        queues.pause(session, names, paused_by=CLI.name, note=note)
        record(session, CLI, AuditAction.QUEUE_PAUSED, detail={"queues": names})
    typer.echo(f"{_told(which)} paused. Jobs that run go on; those that wait or come do not start.")


@app.command("resume")
def resume_queue(which: Which) -> None:
    """Let the jobs of a queue start again."""
    with transaction(service_settings()) as session:
        names = list(_names(which))
        queues.resume(session, names)
        record(session, CLI, AuditAction.QUEUE_RESUMED, detail={"queues": names})
    typer.echo(f"{_told(which)} no longer paused.")


def _names(which: Name) -> Sequence[str]:
    return QUEUES if which is Name.ALL else (which,)


def _told(which: Name) -> str:
    return "All queues are" if which is Name.ALL else f"{which} is"


def _row(state: LaneState, paused: PausedQueue | None) -> Sequence[str]:
    return (
        state.lane,
        "works" if paused is None else f"paused {when(paused.paused_at)}",
        str(state.waiting),
        "-" if state.oldest_seconds is None else f"{state.oldest_seconds:.0f} s",
        (paused.paused_by or "") if paused else "",
        (paused.note or "") if paused else "",
    )
