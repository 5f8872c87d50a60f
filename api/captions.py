"""What a client says of the cues that it wants: see ``speech.formats.Shape``."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, Final

from fastapi import Depends, Query

from api.errors import invalid
from speech.formats import FORMATS, Format, Shape
from speech.transcript import Transcript

#: Each parameter, and what it is of a shape.
PARAMETERS: Final = {
    "max_chars": "max_chars",
    "max_lines": "max_lines",
    "max_cue_seconds": "max_seconds",
    "chars_per_second": "chars_per_second",
}
_WITH_CUES: Final = " or ".join(row.name for row in FORMATS.values() if row.shaped)
_DEFAULT: Final = Shape()


@dataclasses.dataclass(frozen=True, slots=True)
class Captions:
    """What was asked for, by a parameter's name; nothing means the cues that everybody gets."""

    asked: dict[str, Any]

    def require_cues(self, chosen: Format) -> None:
        """Do nothing, or refuse a format that has no cues.

        Raises:
            InvalidRequest: It has none, and some of a shape are asked for.
        """
        if self.asked and chosen.shaped is None:
            raise invalid(next(iter(self.asked)), "no_cues", f"It is of {_WITH_CUES} alone.")

    def render(self, chosen: Format, transcript: Transcript) -> str:
        if not self.asked or chosen.shaped is None:
            return chosen.render(transcript)
        values = {PARAMETERS[name]: value for name, value in self.asked.items()}
        return chosen.shaped(transcript, Shape(**values))


def captions(
    max_chars: Annotated[
        int | None,
        Query(
            ge=10,
            le=200,
            description=f"Characters of a line of {_WITH_CUES}; {_DEFAULT.max_chars}, if it is not"
            " given. One of full width counts twice.",
        ),
    ] = None,
    max_lines: Annotated[
        int | None, Query(ge=1, le=10, description=f"Lines of a cue; {_DEFAULT.max_lines}.")
    ] = None,
    max_cue_seconds: Annotated[
        float | None,
        Query(
            ge=1,
            le=60,
            allow_inf_nan=False,
            description=f"Longest time that a cue is shown; {_DEFAULT.max_seconds:g}.",
        ),
    ] = None,
    chars_per_second: Annotated[
        float | None,
        Query(
            ge=5,
            le=100,
            allow_inf_nan=False,
            description="A viewer's reading speed: a cue stays so long, where the next leaves room;"
            f" {_DEFAULT.chars_per_second:g}.",
        ),
    ] = None,
) -> Captions:
    """Read the parameters that shape cues."""
    sent = (max_chars, max_lines, max_cue_seconds, chars_per_second)
    asked = zip(PARAMETERS, sent, strict=True)
    return Captions({name: value for name, value in asked if value is not None})


CaptionsDep = Annotated[Captions, Depends(captions)]
