"""Paragraphs: where a reader draws breath, a transcript is broken, as the page breaks it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from speech.formats.typography import one_line
from speech.transcript import Segment, Transcript

#: The page's own, see page/transcript.js.
PAUSE_SECONDS: Final = 2.0
FEW: Final = 200
ENOUGH: Final = 500
MUCH: Final = 1100
_ENDS: Final = re.compile(r"[.?!…。！？][\"'”’)]?\s*$")


@dataclass(frozen=True, slots=True)
class Paragraph:
    """Segments that are read together."""

    #: Numbers of its first and last segment, from 0.
    first: int
    last: int
    start_seconds: float
    end_seconds: float
    #: In one line.
    text: str


def paragraphs(transcript: Transcript) -> Iterator[Paragraph]:
    """Break a transcript between segments.

    A paragraph ends with a sentence once it has ``ENOUGH`` characters, at a pause once it has
    ``FEW``, and anywhere once it has ``MUCH``.
    """
    begun: list[tuple[int, Segment]] = []
    length = 0
    for number, segment in enumerate(transcript.segments):
        if begun and _is_over(begun[-1][1], length, segment):
            yield from _paragraph(begun)
            begun, length = [], 0
        begun.append((number, segment))
        length += len(segment.text)
    yield from _paragraph(begun)


def _is_over(last: Segment, length: int, following: Segment) -> bool:
    if length > MUCH or (length > ENOUGH and _ENDS.search(last.text)):
        return True
    return length > FEW and following.start_seconds - last.end_seconds > PAUSE_SECONDS


def _paragraph(segments: list[tuple[int, Segment]]) -> Iterator[Paragraph]:
    """One, or none where nothing is said in it."""
    text = one_line("".join(segment.text for _, segment in segments))
    if text:
        (first, begins), (last, ends) = segments[0], segments[-1]
        yield Paragraph(first, last, begins.start_seconds, ends.end_seconds, text)
