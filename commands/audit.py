"""Audit events: look at them, and make sure that nobody changed them."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Final

import typer

from audit import chain, listing
from audit.chain import Broken, Fault, Head
from audit.listing import Found, Wanted
from commands.filters import moment
from commands.terminal import print_table, service_settings, transaction, when
from errors import ChainBroken
from models import AuditAction, AuditEvent

COLUMNS: Final = ("at", "action", "outcome", "who", "owner", "from", "of", "on", "detail")
DENIED_COLUMNS: Final = ("at", "times", "outcome", "why", "who", "from", "route", "job")
BROKEN: Final[Mapping[Fault, str]] = {
    Fault.CHANGED: "the event at {position} ({event_id}) is not what was sealed",
    Fault.MISSING: "the event at {position} was taken out: {event_id} follows in its place",
    Fault.CUT: "the chain is not the one that had its head at {position}: its end was cut off, "
    "or it was made anew",
    Fault.UNSEALED: "events wait to be sealed for more than 10 minutes: is maintenance running?",
    Fault.UNGUARDED: "the triggers that refuse changes of audit_events are off",
    Fault.PRUNED: "the events up to {position} were deleted as old, and AUDIT_RETENTION_DAYS keeps "
    "them for ever; if it did not always, say --pruned",
}

app = typer.Typer(help="Audit events: who did what.", no_args_is_help=True)

Since = Annotated[
    datetime | None,
    typer.Option(parser=moment, metavar="TIME", help="Since: 30m, 2h, 7d or a time."),
]
Until = Annotated[
    datetime | None, typer.Option(parser=moment, metavar="TIME", help="Before that time.")
]
Owner = Annotated[str | None, typer.Option(help="Who did it, or whose job or key it was done to.")]
Key = Annotated[
    str | None, typer.Option(help="Prefix of the key that did it, `cli`, or a key's id.")
]
Job = Annotated[uuid.UUID | None, typer.Option(help="The job that it was done to.")]
Address = Annotated[str | None, typer.Option(help="Whence it was done.")]
Limit = Annotated[int, typer.Option(min=1, max=100_000, help="How many, the latest first.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


@app.command("show")
def show_events(  # noqa: PLR0913, PLR0917 - one for each option
    since: Since = None,
    until: Until = None,
    owner: Owner = None,
    key: Key = None,
    job: Job = None,
    address: Address = None,
    action: Annotated[AuditAction | None, typer.Option(help="What was done.")] = None,
    limit: Limit = 50,
    as_json: AsJson = False,
) -> None:
    """List what was done, the latest first."""
    wanted = Wanted(
        action=action,
        since=since,
        until=until,
        owner=owner,
        key=key,
        job_id=job,
        address=address,
    )
    _print(wanted, limit, as_json=as_json, columns=COLUMNS, row=_row)


@app.command("denied")
def show_denied(  # noqa: PLR0913, PLR0917 - one for each option
    since: Since = None,
    until: Until = None,
    owner: Owner = None,
    key: Key = None,
    address: Address = None,
    limit: Limit = 50,
    as_json: AsJson = False,
) -> None:
    """List what was refused: no key that works, not enough scope, somebody else's job."""
    wanted = Wanted(
        action=AuditAction.DENIED,
        since=since,
        until=until,
        owner=owner,
        key=key,
        address=address,
    )
    _print(wanted, limit, as_json=as_json, columns=DENIED_COLUMNS, row=_denied_row)


@app.command("verify")
def verify_chain(
    head: Annotated[
        list[str] | None,
        typer.Option(metavar="HEAD", help="One that was noted before; may be given several times."),
    ] = None,
    pruned: Annotated[
        bool, typer.Option("--pruned", help="Old events were deleted here at some time.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Follow the chain from its first event to its last; ends with 1 where it is broken."""
    heads = [Head.parse(said) for said in head or ()]
    settings = service_settings()
    may_be_pruned = pruned or settings.audit_retention_days > 0
    with transaction(settings) as session:
        verdict = chain.verify(session, heads, may_be_pruned=may_be_pruned)
    broken = verdict.broken
    if as_json:
        told = {"events": verdict.events, "head": str(verdict.head), "waiting": verdict.waiting}
        fault = None if broken is None else {"fault": broken.fault, "position": broken.position,
                                             "event_id": broken.event_id}  # fmt: skip
        _print_json({**told, "begins_after": verdict.start.position, "broken": fault})
    else:
        typer.echo(f"{verdict.events} events, {verdict.waiting} more wait to be sealed.")
        if verdict.start.position:
            typer.echo(f"It begins after {verdict.start}: what came before was pruned.")
        typer.echo(f"head {verdict.head}")
    if broken is not None:
        raise ChainBroken(_told(broken))


@app.command("head")
def show_head() -> None:
    """Print the chain's head: note it elsewhere, and give it to verify later."""
    with transaction(service_settings()) as session:
        typer.echo(str(chain.head(session)))


def _told(broken: Broken) -> str:
    said = BROKEN[broken.fault].format(position=broken.position, event_id=broken.event_id)
    return f"The chain is broken: {said}."


def _print(wanted: Wanted, limit: int, *, as_json: bool, columns: Sequence[str], row: Any) -> None:
    with transaction(service_settings()) as session:
        found = listing.latest(session, wanted, limit=limit)
    if as_json:
        _print_json([_record(each) for each in found])
    else:
        print_table(columns, [row(each) for each in found])


def _row(found: Found) -> Sequence[str]:
    event = found.event
    on = event.job_id or event.target_key_id
    return (
        when(event.at),
        event.action,
        event.outcome,
        event.actor or "-",
        found.owner or "-",
        event.address or "-",
        found.target_owner or "-",
        "-" if on is None else str(on),
        " ".join([*_times(event), *(f"{name}={_short(v)}" for name, v in event.detail.items())]),
    )


def _denied_row(found: Found) -> Sequence[str]:
    event = found.event
    return (
        when(event.at),
        str(event.count),
        event.outcome,
        event.detail.get("reason", "-"),
        event.actor or "-",
        event.address or "-",
        event.route or "-",
        "-" if event.job_id is None else str(event.job_id),
    )


def _times(event: AuditEvent) -> list[str]:
    return [f"times={event.count}"] if event.count > 1 else []


def _short(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _record(found: Found) -> dict[str, Any]:
    """All that is known of an event, by the names of its columns."""
    event = found.event
    names = AuditEvent.__table__.columns.keys()
    return {
        **{name: getattr(event, name) for name in names},
        "owner": found.owner,
        "target_owner": found.target_owner,
    }


def _print_json(value: object) -> None:
    typer.echo(json.dumps(value, indent=2, default=_text, ensure_ascii=False))


def _text(value: object) -> str:
    if isinstance(value, bytes):
        return value.hex()
    return value.isoformat() if isinstance(value, datetime) else str(value)
