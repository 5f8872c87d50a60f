"""Transcripts in the shapes that OpenAI answers with.

Source: ``CreateTranscriptionResponse*`` and ``CreateTranslationResponse*`` of openai-openapi.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from json import dumps
from types import MappingProxyType
from typing import Any, Final

from speech import formats
from speech.engines.languages import LANGUAGES
from speech.formats import typography
from speech.transcript import Segment, Transcript, Word

_JSON: Final = "application/json"
_TEXT: Final = "text/plain; charset=utf-8"
#: What each is sent as.
FORMATS: Final = MappingProxyType(
    {"json": _JSON, "text": _TEXT, "srt": _TEXT, "verbose_json": _JSON, "vtt": _TEXT}
)
FRAMES_PER_SECOND: Final = 100


def render(
    transcript: Transcript, name: str, *, granularities: Collection[str], translated: bool
) -> str:
    """Write a transcript in one of ``FORMATS``.

    Args:
        granularities: ``segment``, ``word``: what ``verbose_json`` tells the times of.
    """
    match name:
        case "srt":
            return formats.srt(transcript)
        case "vtt":
            return formats.vtt(transcript)
        case "text":
            return typography.well_formed(transcript.text) + "\n"
        case "verbose_json":
            return _written(_verbose(transcript, granularities, translated=translated))
        case _:
            return _written({"text": transcript.text, **_usage(transcript)})


def _written(document: dict[str, Any]) -> str:
    return typography.well_formed(dumps(document, ensure_ascii=False, separators=(",", ":")))


def _usage(transcript: Transcript) -> dict[str, Any]:
    return {"usage": {"type": "duration", "seconds": math.ceil(transcript.audio_seconds)}}


def _verbose(
    transcript: Transcript, granularities: Collection[str], *, translated: bool
) -> dict[str, Any]:
    code = "en" if translated else transcript.language
    document: dict[str, Any] = {
        "task": "translate" if translated else "transcribe",
        "language": LANGUAGES.get(code, code),
        "duration": round(transcript.audio_seconds, 3),
        "text": transcript.text,
    }
    if "segment" in granularities:
        document["segments"] = [segment_fields(i, s) for i, s in enumerate(transcript.segments)]
    if "word" in granularities:
        document["words"] = [_word(w) for s in transcript.segments for w in s.words]
    return {**document, **_usage(transcript)}


def segment_fields(number: int, segment: Segment) -> dict[str, Any]:
    """Say of a segment what Whisper's own documents say of it."""
    return {
        "id": number,
        # of Whisper's window; a segment that begins it is as near as our rows tell
        "seek": int(segment.start_seconds * FRAMES_PER_SECOND),
        "start": round(segment.start_seconds, 3),
        "end": round(segment.end_seconds, 3),
        "text": segment.text,
        "tokens": list(segment.tokens),
        "temperature": segment.temperature,
        "avg_logprob": segment.avg_logprob,
        "compression_ratio": segment.compression_ratio,
        "no_speech_prob": segment.no_speech_prob,
    }


def _word(word: Word) -> dict[str, Any]:
    return {
        "word": word.text.strip(),
        "start": round(word.start_seconds, 3),
        "end": round(word.end_seconds, 3),
    }
