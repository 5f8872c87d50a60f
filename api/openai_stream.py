"""Transcripts as OpenAI streams them: what was said, as windows are done.

Source: ``transcript.text.delta`` and ``transcript.text.done`` of openai-openapi; ``[DONE]`` is what
its clients stop at.
"""

from __future__ import annotations

import math
from typing import Any, Final

from starlette.responses import Response

from api.event_stream import event
from jobs.queries import UNDETERMINED, WindowView
from speech.transcript import Transcript

DONE: Final = "data: [DONE]\n\n"
#: Of the answers that are not streamed, those that say no more than the events do.
FORMATS: Final = ("json", "text")
#: What Whisper's encoder makes of a second of audio.
AUDIO_TOKENS_PER_SECOND: Final = 50


class Deltas:
    """The text that grows; all that was given, joined, is the transcript's."""

    def __init__(self) -> None:
        self._begun = False
        #: Blanks that nothing follows yet.
        self._blank = ""

    def of(self, window: WindowView) -> str:
        """Give what a window adds, which may be nothing."""
        said = self._blank + "".join(segment.text for segment in window.segments)
        if not self._begun:
            said = said.lstrip()
        kept = said.rstrip()
        self._blank = said[len(kept) :]
        self._begun = self._begun or bool(kept)
        return kept


def delta(text: str) -> str:
    return event({"type": "transcript.text.delta", "delta": text})


def done(transcript: Transcript) -> str:
    """Write the last events of a whole transcript."""
    code = transcript.language
    told = {
        "type": "transcript.text.done",
        "text": transcript.text,
        "languages": [] if code == UNDETERMINED else [{"code": code}],
        "usage": _usage(transcript),
    }
    return event(told) + DONE


def failed(answer: Response) -> str:
    """Write an error of ``/v1/`` as an event."""
    return f"data: {bytes(answer.body).decode()}\n\n"


def _usage(transcript: Transcript) -> dict[str, Any]:
    """The tokens, as Whisper has them. OpenAI's event knows no seconds."""
    heard = math.ceil(transcript.audio_seconds * AUDIO_TOKENS_PER_SECOND)
    written = sum(len(segment.tokens) for segment in transcript.segments)
    return {
        "type": "tokens",
        "input_tokens": heard,
        "input_token_details": {"audio_tokens": heard},
        "output_tokens": written,
        "total_tokens": heard + written,
    }
