"""The command line by itself, as its wheel installs it: ``transcription``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from transcription_client import VERSION, commands
from transcription_client.troubles import Trouble

app = typer.Typer(
    name="transcription",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
commands.add_to(app)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(VERSION)
        raise typer.Exit


@app.callback()
def about(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Say which this is."),
    ] = False,
) -> None:
    """Send recordings to a transcription service, and read what was said in them."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; what goes wrong is one line and an exit status."""
    try:
        app(args=None if arguments is None else list(arguments))
    except Trouble as trouble:
        typer.echo(f"error: {trouble.message}", err=True)
        raise SystemExit(trouble.status) from None


if __name__ == "__main__":
    main()
