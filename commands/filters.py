"""The options that say which failed jobs are meant, for every command that needs them."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final

import typer

from jobs.dead_letters import Wanted
from speech.engines import catalogue

#: A time so long ago.
AGO: Final = re.compile(r"(\d{1,5})([mhd])")
UNITS: Final = {"m": "minutes", "h": "hours", "d": "days"}


def moment(said: str) -> datetime:
    """Read a time: so long ago, or with its zone.

    Raises:
        BadParameter: It is neither.
    """
    if found := AGO.fullmatch(said):
        return datetime.now(UTC) - timedelta(**{UNITS[found[2]]: int(found[1])})
    with suppress(ValueError):
        time = datetime.fromisoformat(said)
        if time.tzinfo is not None:
            return time
    raise typer.BadParameter("it should be such as 30m, 2h, 7d or 2026-11-22T16:03:29Z")


Text = str | None
Time = datetime | None


def wanted_of(  # noqa: PLR0913 - one for each option
    *,
    code: Annotated[Text, typer.Option(help="Why its last attempt failed, or why it did.")] = None,
    model: Annotated[Text, typer.Option(help="The model that was asked for.")] = None,
    engine: Annotated[Text, typer.Option(help="The engine that was asked for.")] = None,
    since: Annotated[
        Time,
        typer.Option(parser=moment, metavar="TIME", help="Given up since: 30m, 2h, 7d or a time."),
    ] = None,
    until: Annotated[
        Time, typer.Option(parser=moment, metavar="TIME", help="Given up before.")
    ] = None,
    worker: Annotated[Text, typer.Option(help="A worker that it failed on, or its host.")] = None,
    key: Annotated[Text, typer.Option(help="Its API key's prefix, or its owner's name.")] = None,
    resolved: Annotated[bool, typer.Option("--resolved", help="Those dealt with too.")] = False,
    permanent: Annotated[
        bool, typer.Option("--permanent", help="Those whose input is at fault too.")
    ] = False,
) -> Wanted:
    """What the options mean."""
    return Wanted(
        code=code,
        model=None if model is None else catalogue.ALIASES.get(model, model),
        engine=engine,
        since=since,
        until=until,
        worker=worker,
        key=key,
        resolved=resolved,
        permanent=permanent,
    )


def filtered(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command these options, and hand it what they mean as ``wanted``."""
    options = inspect.signature(wanted_of, eval_str=True).parameters
    own = inspect.signature(command, eval_str=True).parameters
    parameters = [*(each for each in own.values() if each.name != "wanted"), *options.values()]

    @functools.wraps(command)
    def run(**values: Any) -> None:
        wanted = wanted_of(**{name: values.pop(name) for name in options})
        command(wanted=wanted, **values)

    # Typer reads both
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in parameters}
    return run
