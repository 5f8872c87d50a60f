"""The commands, as they are typed. ``add_to`` brings them to a command line of typer's."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final
from uuid import uuid4

import typer

from transcription_client import following, options, printing, transcribing
from transcription_client.connecting import connect, open_server
from transcription_client.display import Display, make_display
from transcription_client.logins import DEFAULT_URL, Login, Logins, clean
from transcription_client.options import fields_of, formats_of
from transcription_client.server import Server
from transcription_client.transcribing import Outcome, Transcriber, Wish
from transcription_client.troubles import STOPPED, JobTrouble, Unreachable, WrongUse
from transcription_client.watch_command import watch
from transcription_client.words import plain

#: Makes a transcript here and now, of a file, in a format: what `--local` needs.
Local = Callable[[Path, dict[str, str], Sequence[str], Display], dict[str, bytes]]


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a command line brings along: ``typer.Typer(obj=...)``."""

    local: Local | None = None


def login(
    url: Annotated[str, typer.Argument(help="The service's address.")] = DEFAULT_URL,
    key: options.Key = None,
) -> None:
    """Sign in: keep a server's address and a key for it, in a file that only you can read."""
    login = Login(clean(url), key or _read_key())
    if login.in_the_clear:
        typer.echo(
            f"warning: {login.url} is no https: anybody on the way can read the key.", err=True
        )
    with open_server(login) as server:
        session = server.session()
    path = Logins().keep(login)
    scopes = ", ".join(session["scopes"])
    typer.echo(f"Signed in at {login.url} with {plain(session['key'])} ({scopes}); kept in {path}.")


def logout(
    url: Annotated[str | None, typer.Argument(help="The last one, if not given.")] = None,
) -> None:
    """Forget a server's key. It goes on working: revoke it at the server."""
    gone = Logins().forget(url)
    typer.echo(f"Forgot {gone}." if gone else "Nothing was kept.")


def transcribe(  # noqa: PLR0913, PLR0917 - what can be typed
    context: typer.Context,
    files: Annotated[
        list[str], typer.Argument(help="Files, or addresses to fetch from.", show_default=False)
    ],
    wait: Annotated[bool, typer.Option("--wait", "-w", help="Wait for the transcripts.")] = False,
    formats: options.Formats = None,
    output: options.Folder = None,
    model: options.Model = None,
    language: options.Language = None,
    translate: options.Translate = False,
    words: options.Words = False,
    prompt: options.Prompt = None,
    start: options.Start = None,
    end: options.End = None,
    track: options.Track = None,
    engine: options.Engine = None,
    high: options.High = False,
    local: Annotated[bool, typer.Option("--local", help="Here and now, without a server.")] = False,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
    server: options.Server = None,
    key: options.Key = None,
) -> None:
    """Send recordings; with --wait, -f or -o, wait for their transcripts.

    What was sent is safe: the jobs go on, whatever becomes of this program. A recording that was
    sent in part is gone on with when the same command is given again.
    """
    wish = Wish(
        fields=fields_of(
            model_size=model,
            language=language,
            task="translate" if translate else None,
            word_timestamps=words,
            initial_prompt=prompt,
            start_seconds=start,
            end_seconds=end,
            track=track,
            engine=engine,
            priority="high" if high else None,
        ),
        wait=wait or formats is not None or output is not None,
        formats=formats_of(formats),
        folder=output,
    )
    _require_one_format(wish)
    outcomes = transcribing.look(files)
    display = make_display(quiet=quiet or as_json)
    if local:
        _transcribe_here(context, outcomes, wish, display)
    else:
        with connect(server, key, display) as connected:
            try:
                with display:
                    Transcriber(connected, display).run(outcomes, wish)
            except (KeyboardInterrupt, Unreachable):
                printing.say_how_to_go_on(outcomes)
                raise
    printing.print_outcomes(outcomes, as_json=as_json, waited=wish.wait or local)
    raise typer.Exit(max(outcome.status for outcome in outcomes))


def result(
    job_ids: options.JobIds,
    formats: options.Formats = None,
    output: options.Folder = None,
    quiet: options.Quiet = False,
    server: options.Server = None,
    key: options.Key = None,
) -> None:
    """Wait for jobs, and print their transcripts, or write them with -o."""
    wish = Wish(fields={}, wait=True, formats=formats_of(formats), folder=output)
    _require_one_format(wish)
    display = make_display(quiet=quiet)
    with connect(server, key, display) as connected:
        outcomes = _wait_for(connected, job_ids, wish, display)
    printing.print_outcomes(outcomes, as_json=False, waited=True)
    raise typer.Exit(max(outcome.status for outcome in outcomes))


def status(
    job_ids: options.JobIds,
    as_json: options.AsJson = False,
    server: options.Server = None,
    key: options.Key = None,
) -> None:
    """Show what becomes of jobs."""
    with connect(server, key) as connected:
        jobs = [connected.job(job_id) for job_id in job_ids]
    if as_json:
        printing.print_json(jobs)
        return
    for job in jobs:
        printing.print_job(job)


def list_jobs(
    status: Annotated[
        str | None,
        typer.Option(help="pending, processing, completed, failed or cancelled."),
    ] = None,
    search: Annotated[str | None, typer.Option(help="A part of the file's name.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100, help="How many, the newest first.")] = 20,
    as_json: options.AsJson = False,
    server: options.Server = None,
    key: options.Key = None,
) -> None:
    """List your jobs, the newest first."""
    with connect(server, key) as connected:
        page = connected.jobs(status=status, search=search, limit=limit)
    if as_json:
        printing.print_json(page)
        return
    printing.print_jobs(page["jobs"])
    typer.echo(f"{len(page['jobs'])} of {page['total']}", err=True)


def cancel(
    job_ids: options.JobIds,
    server: options.Server = None,
    key: options.Key = None,
) -> None:
    """Cancel jobs: at once those that wait, the others at the end of the window they are at."""
    worst = 0
    with connect(server, key) as connected:
        for job_id in job_ids:
            try:
                job = connected.cancel(job_id)
            except JobTrouble as trouble:
                worst = trouble.status
                typer.echo(f"{job_id}: {trouble.message}", err=True)
                continue
            stopped = job["status"] == "cancelled"
            typer.echo(f"{job_id} is cancelled." if stopped else f"{job_id} will stop soon.")
    raise typer.Exit(worst)


def rerun(  # noqa: PLR0913, PLR0917 - what can be typed
    job_id: Annotated[str, typer.Argument(help="The job whose recording it is.")],
    wait: Annotated[bool, typer.Option("--wait", "-w", help="Wait for the transcript.")] = False,
    formats: options.Formats = None,
    output: options.Folder = None,
    model: options.Model = None,
    language: options.Language = None,
    translate: options.Translate = False,
    words: options.Words = False,
    prompt: options.Prompt = None,
    engine: options.Engine = None,
    high: options.High = False,
    quiet: options.Quiet = False,
    server: options.Server = None,
    key: options.Key = None,
) -> None:
    """Transcribe a recording that the server still has once more, with other wishes."""
    wanted: dict[str, Any] = {
        "model_size": model,
        "language": language,
        "task": "translate" if translate else None,
        "word_timestamps": words or None,
        "initial_prompt": prompt,
        "engine": engine,
        "priority": "high" if high else None,
    }
    wish = Wish(
        fields={},
        wait=wait or formats is not None or output is not None,
        formats=formats_of(formats),
        folder=output,
    )
    _require_one_format(wish)
    display = make_display(quiet=quiet)
    with connect(server, key, display) as connected:
        said = {name: value for name, value in wanted.items() if value is not None}
        job = connected.rerun(job_id, said, str(uuid4()))
        outcomes = [Outcome(job_id, job["filename"], job_id=job["id"], job=job)]
        if wish.wait:
            outcomes = _wait_for(connected, [job["id"]], wish, display)
    printing.print_outcomes(outcomes, as_json=False, waited=wish.wait)
    raise typer.Exit(max(outcome.status for outcome in outcomes))


#: By their names.
COMMANDS: Final[dict[str, Callable[..., None]]] = {
    "login": login,
    "logout": logout,
    "transcribe": transcribe,
    "result": result,
    "status": status,
    "list": list_jobs,
    "cancel": cancel,
    "rerun": rerun,
    "watch": watch,
}


def add_to(app: typer.Typer, *, panel: str | None = None) -> None:
    """Add all commands to a command line, under a headline of their own if one is given."""
    for name, command in COMMANDS.items():
        app.command(name, rich_help_panel=panel)(_stoppable(command))


def _stoppable(command: Callable[..., None]) -> Callable[..., None]:
    """The command, which Ctrl-C gives a status of its own."""

    @functools.wraps(command)
    def run(*arguments: Any, **options: Any) -> None:
        try:
            command(*arguments, **options)
        except KeyboardInterrupt:
            raise typer.Exit(STOPPED) from None

    return run


def _read_key() -> str:
    """Ask for the key, or take it from whoever pipes it in."""
    asked = sys.stdin.isatty()
    key = typer.prompt("Key", hide_input=True) if asked else sys.stdin.readline()
    if not key.strip():
        raise WrongUse("No key was given.")
    return str(key).strip()


def _require_one_format(wish: Wish) -> None:
    if len(wish.formats) > 1 and wish.folder is None:
        raise WrongUse("Several formats need a folder to be written into: -o DIR.")


def _transcribe_here(
    context: typer.Context, outcomes: Sequence[Outcome], wish: Wish, display: Display
) -> None:
    surroundings = context.find_object(Surroundings)
    if surroundings is None or surroundings.local is None:
        raise WrongUse("--local needs the whole service here: `python cli.py transcribe --local`.")
    stems = following.free_names((outcome.source, outcome.name) for outcome in outcomes)
    with display:
        for outcome in outcomes:
            if outcome.recording is None:
                raise WrongUse("--local reads files, and fetches none.")
            try:
                made = surroundings.local(
                    outcome.recording.path, dict(wish.fields), wish.formats, display
                )
                transcribing.hand_over(outcome, made, wish, stems[outcome.source])
            except JobTrouble as trouble:
                outcome.trouble = trouble


def _wait_for(
    server: Server, job_ids: Sequence[str], wish: Wish, display: Display
) -> list[Outcome]:
    outcomes = [
        Outcome(job_id, server.job(job_id)["filename"], job_id=job_id)
        for job_id in dict.fromkeys(job_ids)
    ]
    try:
        with display:
            Transcriber(server, display).finish(outcomes, wish)
    except (KeyboardInterrupt, Unreachable):
        printing.say_how_to_go_on(outcomes)
        raise
    return outcomes
