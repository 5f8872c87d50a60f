"""The command line: make keys, look at jobs, work through those that failed, see who did what.

Each command is one function, each noun one module of ``commands``. But for ``doctor`` these speak
to PostgreSQL alone: what they change, the dispatcher and the workers see by themselves. Those of
``transcription_client``, which is a wheel of its own as well, speak to a service by HTTP.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NoReturn

import typer

import transcription_client.commands
from commands import audit, backup, dead_letters, doctor, first_version, jobs, keys, models, queues
from commands.local import LocalTranscriber
from database import explained
from errors import ServiceError, SettingsError
from telemetry import configure_logging
from transcription_client.commands import Surroundings
from transcription_client.troubles import Trouble

FAILED: Final = 1
#: Wrong settings or wrong use, as Click has it too.
WRONG_USE: Final = 2

CLIENT: Final = "For whoever has recordings (by HTTP, with a key)"
OPERATOR: Final = "For operators (settings come from the environment and .env)"

app = typer.Typer(
    help="Use a transcription service, and look after one.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
transcription_client.commands.add_to(app, panel=CLIENT)
app.add_typer(keys.app, name="keys", rich_help_panel=OPERATOR)
app.add_typer(jobs.app, name="jobs", rich_help_panel=OPERATOR)
app.add_typer(dead_letters.app, name="errors", rich_help_panel=OPERATOR)
app.add_typer(queues.app, name="queues", rich_help_panel=OPERATOR)
app.add_typer(models.app, name="models", rich_help_panel=OPERATOR)
app.add_typer(audit.app, name="audit", rich_help_panel=OPERATOR)
app.command("backup", rich_help_panel=OPERATOR)(backup.take_backup)
app.command("check-backup", rich_help_panel=OPERATOR)(backup.check_backup)
app.command("restore", rich_help_panel=OPERATOR)(backup.restore_backup)
app.command("after-restore", rich_help_panel=OPERATOR)(backup.settle_restored)
app.command("doctor", rich_help_panel=OPERATOR)(doctor.doctor)
app.command("import-v1", rich_help_panel=OPERATOR)(first_version.import_first_version)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; what goes wrong is one line and an exit status."""
    configure_logging("WARNING", "human")
    try:
        app(
            args=None if arguments is None else list(arguments),
            prog_name="cli.py",
            obj=Surroundings(local=LocalTranscriber()),
        )
    except SettingsError as error:
        _give_up(error, WRONG_USE)
    except ServiceError as error:
        _give_up(error, FAILED)
    except Trouble as trouble:
        typer.echo(f"error: {trouble.message}", err=True)
        raise SystemExit(trouble.status) from None


def _give_up(error: ServiceError, status: int) -> NoReturn:
    typer.echo(f"error: {explained(error)}", err=True)
    raise SystemExit(status)


if __name__ == "__main__":
    main()
