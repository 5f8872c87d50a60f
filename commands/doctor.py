"""Look at everything that the service needs, and say what to do about what is wrong."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Annotated, Final

import typer

from commands import machine_checks, server_checks
from commands.findings import Check, Finding, Level, examine, fail, ok
from config import Settings
from errors import SettingsError

MEND_SETTINGS: Final = (
    "Mend it in .env or in the environment; .env.example says what there is"
    " (`docker compose config`)."
)
#: In the order in which one would look.
CHECKS: Final[Sequence[Check]] = (*machine_checks.CHECKS, *server_checks.CHECKS)


def doctor(
    *,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Look at everything that the service needs; status 1 if anything fails.

    Each check stands by itself, so it may be asked while any part is down.
    """
    found = list(_findings())
    if as_json:
        _print_json(found)
    else:
        _print(found)
    if any(finding.level is Level.FAIL for _, finding in found):
        raise typer.Exit(1)


def _findings() -> Iterable[tuple[str, Finding]]:
    try:
        settings = Settings.from_env().with_running_servers()
    except SettingsError as error:
        yield "settings", fail(error.message, MEND_SETTINGS)
        return
    yield "settings", ok("can be read")
    yield from examine(CHECKS, settings)


def _print(found: Iterable[tuple[str, Finding]]) -> None:
    width = max(len(name) for name, _ in found)
    for name, finding in found:
        typer.echo(f"{finding.level:4}  {name:{width}}  {finding.message}")
        if finding.remedy:
            typer.echo(f"{'':4}  {'':{width}}  -> {finding.remedy}")


def _print_json(found: Iterable[tuple[str, Finding]]) -> None:
    levels = {finding.level for _, finding in found}
    worst = next((level for level in (Level.FAIL, Level.WARN) if level in levels), Level.OK)
    checks = [
        {
            "check": name,
            "level": finding.level,
            "message": finding.message,
            "remedy": finding.remedy or None,
        }
        for name, finding in found
    ]
    typer.echo(json.dumps({"status": worst, "checks": checks}, indent=2))
