"""Formats: a transcript as text to download. Each is a pure function and a row of ``FORMATS``."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from json import dumps
from types import MappingProxyType
from typing import Any

from speech.formats.cues import NETFLIX, Cue, Shape, cues, milliseconds
from speech.formats.paragraphs import Paragraph, paragraphs
from speech.formats.typography import one_line, well_formed
from speech.transcript import Segment, Transcript, Word

__all__ = [
    "FORMATS",
    "Cue",
    "Format",
    "Paragraph",
    "Shape",
    "cues",
    "json",
    "md",
    "paragraphs",
    "segment_fields",
    "srt",
    "tsv",
    "txt",
    "vtt",
]

#: Takes no space and is never drawn; breaks up what a reader would take for its own syntax.
_WORD_JOINER = "\u2060"
_SECONDS = re.compile(r"(:\d{1,2})(?=[.,]\d)")
_SRT_LOOK_ALIKES = str.maketrans({"<": "‹", "{": "(", "}": ")", "\\": "\\" + _WORD_JOINER})
_VTT_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})
_MD_SYNTAX = re.compile(r"[\\`*_{}\[\]<>#|~&!$:-]")
_ESCAPED = r"\\\g<0>"
_FORMULA_STARTS = ("=", "+", "-", "@")


@dataclass(frozen=True, slots=True)
class Format:
    """A rendering of a transcript, as the API offers it."""

    name: str
    #: Sent as Content-Type. JSON is UTF-8 by definition and takes no charset.
    media_type: str
    #: What an Accept header may call it, without parameters.
    accepts: tuple[str, ...]
    #: With its dot.
    extension: str
    #: Gives text that UTF-8 can hold, whatever the transcript says.
    render: Callable[[Transcript], str]
    #: Gives it in cues of another shape; None: it has no cues.
    shaped: Callable[[Transcript, Shape], str] | None = None


def txt(transcript: Transcript) -> str:
    """Write a line for each segment."""
    lines = (one_line(segment.text) for segment in transcript.segments)
    return "".join(f"{line}\n" for line in lines if line)


def json(transcript: Transcript) -> str:
    r"""Write everything the engine said, on one line.

    ``language``, ``language_probability`` (null when the client named the language),
    ``audio_seconds``, ``text``, ``segments``: each ``id`` (from 0), ``start``, ``end``, ``text``,
    ``avg_logprob``, ``no_speech_prob``, ``compression_ratio``, ``temperature``, and ``words`` where
    word times were asked for: each ``word``, ``start``, ``end``, ``probability``. ``paragraphs``:
    each ``start``, ``end``, ``text``, and ``segments``, the ids of its first and last.

    Times are seconds, to the millisecond. Texts keep the engine's leading space, so that joined
    they give the whole. A number that JSON cannot hold is null. Fields may be added, and none is
    ever removed or renamed.
    """
    document = {
        "language": transcript.language,
        "language_probability": _number(transcript.language_probability),
        "audio_seconds": _seconds(transcript.audio_seconds),
        "text": transcript.text,
        "segments": [
            segment_fields(id_, segment) for id_, segment in enumerate(transcript.segments)
        ],
        "paragraphs": [
            {
                "start": _seconds(paragraph.start_seconds),
                "end": _seconds(paragraph.end_seconds),
                "text": paragraph.text,
                "segments": [paragraph.first, paragraph.last],
            }
            for paragraph in paragraphs(transcript)
        ],
    }
    return well_formed(dumps(document, ensure_ascii=False, separators=(",", ":"))) + "\n"


def md(transcript: Transcript) -> str:
    """Write Markdown: paragraphs, each with the time at which it begins.

    What Markdown would take for its own is written with a backslash.

    Source: https://spec.commonmark.org/0.31.2/#backslash-escapes
    """
    return "\n".join(
        f"**{_clock(paragraph.start_seconds)}** {_MD_SYNTAX.sub(_ESCAPED, paragraph.text)}\n"
        for paragraph in paragraphs(transcript)
    )


def srt(transcript: Transcript, shape: Shape = NETFLIX) -> str:
    r"""Write SubRip.

    SubRip knows no escapes, and players obey ``<b>``, ``{\an8}`` and ``\N``. So ``<`` is written as
    ``‹``, braces as parentheses, ``-->`` as ``--›``, and an invisible character follows each
    backslash.
    From 100 hours on, the hours have three digits.

    Source: the nearest to a standard is what FFmpeg reads (libavcodec/htmlsubtitles.c).
    """
    return "".join(
        f"{number}\n{_times(cue, ',')}\n{_lines(cue, _srt_line)}\n\n"
        for number, cue in enumerate(cues(transcript, shape), 1)
    )


def vtt(transcript: Transcript, shape: Shape = NETFLIX) -> str:
    """Write WebVTT.

    Source: https://www.w3.org/TR/webvtt1/
    """
    return "WEBVTT\n\n" + "".join(
        f"{_times(cue, '.')}\n{_lines(cue, _vtt_line)}\n\n" for cue in cues(transcript, shape)
    )


def tsv(transcript: Transcript) -> str:
    """Write a row for each segment: start and end in whole milliseconds, text.

    Text that a spreadsheet would run as a formula starts with an apostrophe, the spreadsheets' own
    mark for text.

    Source: columns of openai-whisper's ``WriteTSV`` (whisper/utils.py).
    """
    return "start\tend\ttext\n" + "".join(map(_row, transcript.segments))


FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        row.name: row
        for row in (
            Format("json", "application/json", ("application/json",), ".json", json),
            Format("txt", "text/plain; charset=utf-8", ("text/plain",), ".txt", txt),
            Format("md", "text/markdown; charset=utf-8", ("text/markdown",), ".md", md),
            Format(
                "srt",
                "application/x-subrip; charset=utf-8",
                ("application/x-subrip", "text/srt"),
                ".srt",
                srt,
                shaped=srt,
            ),
            Format("vtt", "text/vtt; charset=utf-8", ("text/vtt",), ".vtt", vtt, shaped=vtt),
            Format(
                "tsv",
                "text/tab-separated-values; charset=utf-8",
                ("text/tab-separated-values",),
                ".tsv",
                tsv,
            ),
        )
    }
)


def segment_fields(id_: int, segment: Segment) -> dict[str, Any]:
    """Say of a segment what ``json`` says of it."""
    fields = {
        "id": id_,
        "start": _seconds(segment.start_seconds),
        "end": _seconds(segment.end_seconds),
        "text": segment.text,
        "avg_logprob": _number(segment.avg_logprob),
        "no_speech_prob": _number(segment.no_speech_prob),
        "compression_ratio": _number(segment.compression_ratio),
        "temperature": _number(segment.temperature),
    }
    return {**fields, "words": list(map(_word, segment.words))} if segment.words else fields


def _word(word: Word) -> dict[str, Any]:
    return {
        "word": word.text,
        "start": _seconds(word.start_seconds),
        "end": _seconds(word.end_seconds),
        "probability": _number(word.probability),
    }


def _seconds(seconds: float) -> float | None:
    return round(seconds, 3) if math.isfinite(seconds) else None


def _number(number: float | None) -> float | None:
    return number if number is not None and math.isfinite(number) else None


def _row(segment: Segment) -> str:
    start, end = milliseconds(segment.start_seconds), milliseconds(segment.end_seconds)
    text = one_line(segment.text)
    mark = "'" if text.startswith(_FORMULA_STARTS) else ""
    return f"{start}\t{max(start, end)}\t{mark}{text}\n"


def _times(cue: Cue, decimal_mark: str) -> str:
    return f"{_time(cue.start_ms, decimal_mark)} --> {_time(cue.end_ms, decimal_mark)}"


def _clock(seconds: float) -> str:
    """Hours, minutes and seconds, as players show them."""
    minutes, whole = divmod(milliseconds(seconds) // 1000, 60)
    return f"{minutes // 60}:{minutes % 60:02}:{whole:02}"


def _time(ms: int, decimal_mark: str) -> str:
    minutes, ms = divmod(ms, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{ms // 1000:02}{decimal_mark}{ms % 1000:03}"


def _lines(cue: Cue, escape: Callable[[str], str]) -> str:
    first, *others = (escape(_inert(line)) for line in cue.lines)
    # Some readers drop a last line of digits as the number of the next cue.
    return "\n".join([first, *(_WORD_JOINER * line.isdecimal() + line for line in others)])


def _inert(line: str) -> str:
    """Break up times where there are two: some readers start a cue there even without an arrow."""
    inert, times = _SECONDS.subn(r"\1" + _WORD_JOINER, line)
    return inert if times > 1 else line


def _srt_line(line: str) -> str:
    return line.translate(_SRT_LOOK_ALIKES).replace("-->", "--›")


def _vtt_line(line: str) -> str:
    return line.translate(_VTT_ESCAPES)
