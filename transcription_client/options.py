"""What several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final

import typer

from transcription_client.troubles import WrongUse

FORMATS: Final = ("txt", "md", "srt", "vtt", "tsv", "json")

Server = Annotated[
    str | None,
    typer.Option(
        "--server",
        envvar="TRANSCRIPTION_URL",
        help="The service's address; that of the last `login`, if not given.",
        show_default=False,
    ),
]
# not for the command line, where other users of the machine and the shell's history would see it
Key = Annotated[str | None, typer.Option("--key", envvar="TRANSCRIPTION_KEY", hidden=True)]
AsJson = Annotated[bool, typer.Option("--json", help="For programs: JSON on standard output.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing of what is under way.")]
JobIds = Annotated[list[str], typer.Argument(help="Ids of jobs.", show_default=False)]
Formats = Annotated[
    list[str] | None,
    typer.Option(
        "--format", "-f", help=f"{', '.join(FORMATS)}; several, by giving it several times."
    ),
]
Folder = Annotated[
    Path | None,
    typer.Option("--output", "-o", help="The folder that transcripts are written into."),
]
Model = Annotated[
    str | None, typer.Option("--model", "-m", help="tiny, base, small, medium, large-v3, turbo.")
]
Language = Annotated[
    str | None, typer.Option("--language", "-l", help="Such as en; detected, if not given.")
]
Translate = Annotated[bool, typer.Option("--translate", help="Into English.")]
Words = Annotated[bool, typer.Option("--words", help="With the times of words.")]
Prompt = Annotated[
    str | None, typer.Option("--prompt", help="Names and spelling that the model should know.")
]
Engine = Annotated[
    str | None, typer.Option("--engine", help="openai-whisper, faster-whisper or batch-whisper.")
]
Start = Annotated[float | None, typer.Option("--start", help="Begin so many seconds in.", min=0)]
End = Annotated[float | None, typer.Option("--end", help="End so many seconds in.", min=0)]
Track = Annotated[int | None, typer.Option("--track", help="Which track of sound, from 1.", min=1)]
High = Annotated[bool, typer.Option("--high", help="Before jobs of normal priority.")]


def fields_of(**given: Any) -> dict[str, str]:
    """The fields of a submission that were given, as a form has them."""
    return {
        name: str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in given.items()
        if value is not None and value is not False
    }


def formats_of(given: list[str] | None) -> tuple[str, ...]:
    """The formats, each once; ``txt``, if none is given.

    Raises:
        WrongUse: There is no such format.
    """
    wanted = tuple(dict.fromkeys(given or ["txt"]))
    for name in wanted:
        if name not in FORMATS:
            raise WrongUse(f"There is no format {name!r}: {', '.join(FORMATS)}.")
    return wanted
