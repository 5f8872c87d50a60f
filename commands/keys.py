"""API keys: make, list, change, rotate and revoke them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final

import typer
from sqlalchemy.orm import Session

import auth
import config_values
import keys
from audit.events import CLI, record
from auth import Allowance
from commands.terminal import print_table, service_settings, transaction, when
from errors import InvalidRequest
from jobs import quotas
from jobs.quotas import Used
from keys import Grant
from models import ApiKey, AuditAction, Scope

#: A minute and a half; what is shorter is a slip.
SHORTEST_DAYS: Final = 0.001
LONGEST_DAYS: Final = 36_500

COLUMNS: Final = ("prefix", "owner", "state", "scopes", "last used", "id", "note")
USAGE_COLUMNS: Final = (
    "prefix",
    "owner",
    "jobs at once",
    "audio seconds, 1 h",
    "MB stored",
    "weight",
    "audio kept",
    "transcripts kept",
)

app = typer.Typer(help="API keys.", no_args_is_help=True)


def _require_number(value: float | None) -> float | None:
    # which is neither too small nor too large
    if value is not None and math.isnan(value):
        raise typer.BadParameter("it should be a number")
    return value


def _seconds(value: str | None) -> float | None:
    try:
        return None if value is None else config_values.duration(value)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


Which = Annotated[str, typer.Argument(help="Its prefix, as listed, or its id.", show_default=False)]
Scopes = Annotated[
    list[Scope] | None,
    typer.Option(help="What it may do; may be given several times. All of jobs, if not given."),
]
Days = Annotated[
    float | None,
    typer.Option(
        min=SHORTEST_DAYS,
        max=LONGEST_DAYS,
        callback=_require_number,
        help="It works for so many days. For ever, if not given.",
    ),
]
Note = Annotated[str | None, typer.Option(help="What it is for.")]
Force = Annotated[
    bool, typer.Option("--force", help="Also where no other key could administer any more.")
]


@app.command("create")
def create_key(
    owner: Annotated[str, typer.Option(help="Whom its jobs belong to.", show_default=False)],
    scope: Scopes = None,
    no_high: Annotated[
        bool, typer.Option("--no-high", help="Its jobs may not ask for the priority high.")
    ] = False,
    expires_days: Days = None,
    note: Note = None,
) -> None:
    """Make a key, and print it this once."""
    if not owner.strip():
        raise InvalidRequest("--owner should not be empty.")
    grant = Grant(
        owner=owner.strip(),
        scopes=scope or auth.JOB_SCOPES,
        may_use_high=not no_high,
        expires_at=None if expires_days is None else _in(expires_days),
        note=note,
    )
    with transaction(service_settings()) as session:
        secret, key = keys.create(session, grant)
        detail = {"scopes": key.scopes}
        record(session, CLI, AuditAction.KEY_CREATED, key_id=key.id, detail=detail)
    typer.echo(f"Key {key.prefix}… of {grant.owner}; it is not shown again:", err=True)
    typer.echo(secret)


@app.command("list")
def list_keys(
    owner: Annotated[str | None, typer.Option(help="Only keys of this owner.")] = None,
) -> None:
    """List all keys: what they may do, and whether they still work."""
    with transaction(service_settings()) as session:
        rows = [_key_row(key) for key in keys.everyone(session, owner=owner)]
    print_table(COLUMNS, rows)


@app.command("owners")
def list_owners() -> None:
    """List whom jobs belong to, and how many keys of theirs work."""
    with transaction(service_settings()) as session:
        rows = [
            (owner.name, str(owner.working_keys), when(owner.created_at))
            for owner in keys.owners(session)
        ]
    print_table(("owner", "working keys", "since"), rows)


@app.command("change")
def change_key(
    which: Which,
    scope: Annotated[
        list[Scope] | None,
        typer.Option(help="What it may do from now on; may be given several times."),
    ] = None,
    high: Annotated[
        bool | None,
        typer.Option("--high/--no-high", help="Whether its jobs may ask for the priority high."),
    ] = None,
    expires_days: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=LONGEST_DAYS,
            callback=_require_number,
            help="It works for so many days from now; 0: for ever.",
        ),
    ] = None,
    note: Note = None,
    force: Force = False,
) -> None:
    """Change what a key may do; what is not given stays."""
    values: dict[str, Any] = {"scopes": scope or None, "may_use_high": high, "note": note}
    values = {name: value for name, value in values.items() if value is not None}
    if expires_days is not None:
        values["expires_at"] = _in(expires_days) if expires_days else None
    if not values:
        raise InvalidRequest("Say what should change: see --help.")
    with transaction(service_settings()) as session:
        key = keys.find_working(session, which)
        keys.change(session, key, values, force=force)
        _changed(session, key, values)
        row = _key_row(key)
    print_table(COLUMNS, [row])


@app.command("limit")
def limit_key(  # noqa: PLR0913, PLR0917 - one for each option
    which: Which,
    requests: Annotated[
        int | None,
        typer.Option(min=0, max=10**9, help="Requests in each RATE_LIMIT_WINDOW; 0: any number."),
    ] = None,
    audio_seconds: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=10**9,
            callback=_require_number,
            help="Audio that it may submit in an hour; 0: any amount.",
        ),
    ] = None,
    jobs_at_once: Annotated[
        int | None,
        typer.Option(min=0, max=10**9, help="Jobs of it that wait or run; 0: any number."),
    ] = None,
    stored_mb: Annotated[
        int | None,
        typer.Option(min=0, max=2**24, help="Uploads of it that are kept, in MB; 0: any amount."),
    ] = None,
    weight: Annotated[
        float | None,
        typer.Option(
            min=keys.MIN_WEIGHT,
            max=keys.MAX_WEIGHT,
            callback=_require_number,
            help="Its share of the workers: twice another key's, twice as many.",
        ),
    ] = None,
    audio_retention: Annotated[
        str | None,
        typer.Option(
            help="Uploads of its jobs are kept so long after their end: 12h, 7d, forever."
        ),
    ] = None,
    transcript_retention: Annotated[
        str | None,
        typer.Option(help="Its jobs are kept so long after their end, transcripts and all."),
    ] = None,
    default: Annotated[
        bool, typer.Option("--default", help="What is not given is the service's default again.")
    ] = False,
) -> None:
    """Say what a key may take, and how long what it brings is kept; what is not given stays."""
    limits = Allowance(
        requests=requests,
        audio_seconds_per_hour=audio_seconds,
        jobs_at_once=jobs_at_once,
        bytes_stored=None if stored_mb is None else stored_mb * 2**20,
    )
    values: dict[str, Any] = {
        **keys.columns(asdict(limits)),
        "audio_retention_seconds": _seconds(audio_retention),
        "transcript_retention_seconds": _seconds(transcript_retention),
    }
    if not default:
        values = {name: value for name, value in values.items() if value is not None}
    if default or weight is not None:
        values["weight"] = 1.0 if weight is None else weight
    if not values:
        raise InvalidRequest("Say what should be limited: see --help.")
    with transaction(service_settings()) as session:
        key = keys.find_working(session, which)
        keys.change(session, key, values)
        _changed(session, key, values)
        row = _usage_row(key, quotas.used(session, key.id))
    print_table(USAGE_COLUMNS, [row])


@app.command("rotate")
def rotate_key(
    which: Which,
    grace_hours: Annotated[
        float,
        typer.Option(
            min=0,
            max=24 * 30,
            callback=_require_number,
            help="For so long the key as it was works beside the new one.",
        ),
    ] = keys.GRACE.total_seconds() / 3600,
) -> None:
    """Give a key a new secret, and print it this once; all else of it stays."""
    with transaction(service_settings()) as session:
        key = keys.find_working(session, which)
        secret = keys.rotate(session, key, grace=timedelta(hours=grace_hours))
        detail = {"grace_seconds": round(grace_hours * 3600)}
        record(session, CLI, AuditAction.KEY_ROTATED, key_id=key.id, detail=detail)
    typer.echo(
        f"{key.previous_prefix}… is {key.prefix}… now, and works as it was until"
        f" {when(key.previous_expires_at)}. The new one is not shown again:",
        err=True,
    )
    typer.echo(secret)


@app.command("revoke")
def revoke_key(which: Which, force: Force = False) -> None:
    """Make a key useless from now on; its owner's jobs stay."""
    with transaction(service_settings()) as session:
        key = keys.find_working(session, which)
        keys.revoke(session, key, force=force)
        record(session, CLI, AuditAction.KEY_REVOKED, key_id=key.id)
    typer.echo(f"{key.prefix} is revoked.")


@app.command("usage")
def show_usage(
    owner: Annotated[str | None, typer.Option(help="Only keys of this owner.")] = None,
) -> None:
    """List what each key has used, of what it may use."""
    with transaction(service_settings()) as session:
        rows = [
            _usage_row(key, quotas.used(session, key.id))
            for key in keys.everyone(session, owner=owner)
            if key.revoked_at is None
        ]
    print_table(USAGE_COLUMNS, rows)


def _changed(session: Session, key: ApiKey, values: Mapping[str, Any]) -> None:
    detail = {"fields": sorted(values)}
    record(session, CLI, AuditAction.KEY_CHANGED, key_id=key.id, detail=detail)


def _usage_row(key: ApiKey, used: Used) -> Sequence[str]:
    stored_mb = None if key.max_bytes_stored is None else key.max_bytes_stored / 2**20
    return (
        key.prefix,
        key.owner.name,
        _of(used.jobs, key.max_jobs_at_once),
        _of(used.audio_seconds, key.max_audio_seconds_per_hour),
        _of(used.bytes_stored / 2**20, stored_mb),
        f"{key.weight:g}",
        _kept(key.audio_retention_seconds),
        _kept(key.transcript_retention_seconds),
    )


def _kept(seconds: float | None) -> str:
    """For how long; nothing where the service's default holds."""
    if seconds is None:
        return ""
    return f"{seconds / 86_400:.3g} d" if seconds else "for ever"


def _of(amount: float, limit: float | None) -> str:
    """With the key's own limit, if it has one."""
    return f"{amount:.0f}" + (f" of {limit:.0f}" if limit else "")


def _in(days: float) -> datetime:
    return datetime.now(UTC) + timedelta(days=days)


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
