"""``watch``, as it is typed."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from transcription_client import options
from transcription_client.connecting import connect
from transcription_client.display import make_display
from transcription_client.options import fields_of, formats_of
from transcription_client.troubles import JobTrouble, WrongUse
from transcription_client.watching import Rules, Watch


def watch(  # noqa: PLR0913, PLR0917 - what can be typed
    folders: Annotated[
        list[Path] | None,
        typer.Argument(help="Folders with sound and video; else those of the two variables."),
    ] = None,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", envvar="TRANSCRIBE_OUTPUT_FOLDER", help="For transcripts."),
    ] = Path("transcribed"),
    video: Annotated[
        Path | None, typer.Option(envvar="TRANSCRIBE_VIDEO_FOLDER", help="One more folder.")
    ] = None,
    audio: Annotated[
        Path | None, typer.Option(envvar="TRANSCRIBE_AUDIO_FOLDER", help="And one more.")
    ] = None,
    formats: options.Formats = None,
    recursive: Annotated[
        bool, typer.Option("--recursive", "-r", help="Folders in these folders, too.")
    ] = False,
    skip_before: Annotated[
        datetime | None,
        typer.Option(
            envvar="SKIP_FILES_BEFORE_DATE",
            formats=["%Y-%m-%d"],
            help="Leave files alone that were last changed before that day.",
        ),
    ] = None,
    scan_interval: Annotated[
        float, typer.Option(envvar="SCAN_INTERVAL", min=1, help="Seconds between two looks.")
    ] = 30,
    stable: Annotated[
        float,
        typer.Option(
            envvar="FILE_STABILITY_WINDOW",
            min=0,
            help="A file is sent when it has stayed the same for so many seconds.",
        ),
    ] = 60,
    newest_first: Annotated[bool, typer.Option(envvar="PRIORITIZE_RECENT")] = True,
    at_once: Annotated[int, typer.Option(min=1, max=100, help="Jobs at a time.")] = 4,
    once: Annotated[
        bool, typer.Option("--once", help="End when all that is there is done.")
    ] = False,
    model: options.Model = None,
    language: options.Language = None,
    translate: options.Translate = False,
    words: options.Words = False,
    prompt: options.Prompt = None,
    engine: options.Engine = None,
    quiet: options.Quiet = False,
    server: options.Server = None,
    key: options.Key = None,
) -> None:
    """Send whatever comes into folders, and write the transcripts into another one.

    Files with PRIORITY in their name go first, then the newest. A file that fails gets an error
    file, NAME_error.txt; delete that to have it tried again. Started again, it goes on.
    """
    watched = [folder for folder in (*(folders or ()), video, audio) if folder is not None]
    rules = Rules(
        folders=_require_folders(watched),
        output=output.expanduser().resolve(),
        fields=fields_of(
            model_size=model,
            language=language,
            task="translate" if translate else None,
            word_timestamps=words,
            initial_prompt=prompt,
            engine=engine,
        ),
        formats=formats_of(formats),
        deep=recursive,
        newest_first=newest_first,
        since=skip_before.date() if skip_before else None,
        scan_seconds=scan_interval,
        stable_seconds=stable,
        at_once=at_once,
    )
    display = make_display(quiet=quiet)
    with connect(server, key, display) as connected:
        session = connected.session()
        display.say(
            f"watching {', '.join(map(str, rules.folders))} for {connected.login.url}"
            f" ({session['key']}); transcripts go to {rules.output}"
        )
        watching = Watch(connected, rules, display)
        try:
            with display:
                watching.run(once=once)
        except KeyboardInterrupt:
            typer.echo("Stopped. What was sent goes on; start the watch again for it.", err=True)
            raise
        finally:
            watching.close()
    raise typer.Exit(JobTrouble.status if watching.failed else 0)


def _require_folders(folders: Sequence[Path]) -> list[Path]:
    if not folders:
        raise WrongUse("Which folders? Name some, or set TRANSCRIBE_AUDIO_FOLDER.")
    found = [folder.expanduser().resolve() for folder in folders]
    for folder in found:
        if not folder.is_dir():
            raise WrongUse(f"{folder} is no folder.")
    return list(dict.fromkeys(found))
