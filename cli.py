"""The command line: make keys, look at jobs, work through those that failed, see who did what.

Each command is one function, each noun one module of ``commands``. But for ``doctor`` it speaks to
PostgreSQL alone: what it changes, the dispatcher and the workers see by themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NoReturn

import typer

from commands import audit, backup, dead_letters, doctor, first_version, jobs, keys, models, queues
from database import explained
from errors import ServiceError, SettingsError
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
app.add_typer(keys.app, name="keys")
app.add_typer(jobs.app, name="jobs")
app.add_typer(dead_letters.app, name="errors")
app.add_typer(queues.app, name="queues")
app.add_typer(models.app, name="models")
app.add_typer(audit.app, name="audit")
app.command("backup")(backup.take_backup)
app.command("check-backup")(backup.check_backup)
app.command("restore")(backup.restore_backup)
app.command("after-restore")(backup.settle_restored)
app.command("doctor")(doctor.doctor)
app.command("import-v1")(first_version.import_first_version)


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
