"""API keys: make, list and revoke them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Final

import typer

import auth
from auth import Grant
from commands.terminal import print_table, service_settings, transaction, when
from errors import InvalidRequest
from models import ApiKey, Scope

#: A minute and a half; what is shorter is a slip.
SHORTEST_DAYS: Final = 0.001
LONGEST_DAYS: Final = 36_500

app = typer.Typer(help="API keys.", no_args_is_help=True)


def _require_number(value: float | None) -> float | None:
    # which is neither too small nor too large
    if value is not None and math.isnan(value):
        raise typer.BadParameter("it should be a number")
    return value


@app.command("create")
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


@app.command("list")
def list_keys() -> None:
    """List all keys: what they may do, and whether they still work."""
    with transaction(service_settings()) as session:
        rows = [_key_row(key) for key in auth.everyone(session)]
    print_table(("prefix", "owner", "state", "scopes", "last used", "id", "note"), rows)


@app.command("revoke")
def revoke_key(
    which: Annotated[
        str, typer.Argument(help="Its prefix, as listed, or its id.", show_default=False)
    ],
) -> None:
    """Make a key useless from now on; its owner's jobs stay."""
    with transaction(service_settings()) as session:
        revoked = auth.revoke(session, which)
    typer.echo(f"{revoked.prefix} is revoked.")


def _key_row(key: ApiKey) -> Sequence[str]:
    scopes = ",".join(key.scopes) + ("" if key.may_use_high else " (never high)")
    used = when(key.last_used_at)
    return (key.prefix, key.owner.name, _state(key), scopes, used, str(key.id), key.note or "")


def _state(key: ApiKey) -> str:
    if key.revoked_at is not None:
        return f"revoked {when(key.revoked_at)}"
    if key.expires_at is None:
        return "works"
    verb = "expired" if key.expires_at <= datetime.now(UTC) else "until"
    return f"{verb} {when(key.expires_at)}"
