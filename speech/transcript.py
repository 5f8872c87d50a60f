"""What an engine is given and returns: frozen values. Times are in seconds from the start."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

#: Of a token whose probability is nothing.
WORST_LOGPROB: Final = -100.0


class Mode(StrEnum):
    """How an engine goes through a recording."""

    EXACT = "exact"  #: Window after window, as ``whisper.transcribe`` does.
    FAST = "fast"  #: Cut in its pauses, all parts side by side.


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What of a media file is transcribed."""

    #: Of its tracks of sound, from 1; None means the best.
    track: int | None = None
    start_seconds: float = 0.0
    #: None means to the end.
    end_seconds: float | None = None


WHOLE: Final = Part()


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """One spoken word. ``text`` keeps the engine's leading space where the language has one."""

    text: str
    start_seconds: float
    end_seconds: float
    #: 0 to 1.
    probability: float

    def later(self, seconds: float) -> Word:
        """The same, of audio that so much was cut from the start of."""
        return dataclasses.replace(
            self,
            start_seconds=self.start_seconds + seconds,
            end_seconds=self.end_seconds + seconds,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A stretch of speech, as the model cut it, with the figures that tell its quality."""

    text: str
    start_seconds: float
    end_seconds: float
    #: Mean log probability of the tokens; -1 and below is poor.
    avg_logprob: float
    #: Probability, 0 to 1, that the window held no speech.
    no_speech_prob: float
    #: Length of the text over its length under gzip; above 2.4 the text repeats itself.
    compression_ratio: float
    #: The sampling temperature that gave this text; 0 is greedy or beam search.
    temperature: float
    #: The model's text and timestamp tokens.
    tokens: tuple[int, ...] = ()
    #: Empty unless word times were asked for.
    words: tuple[Word, ...] = ()

    def later(self, seconds: float) -> Segment:
        """The same, of audio that so much was cut from the start of."""
        return dataclasses.replace(
            self,
            start_seconds=self.start_seconds + seconds,
            end_seconds=self.end_seconds + seconds,
            words=tuple(word.later(seconds) for word in self.words),
        )

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Segment:
        words = tuple(Word(**word) for word in value.get("words", ()))
        return cls(**{**value, "tokens": tuple(value.get("tokens", ())), "words": words})

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumeState:
    """All that an engine needs to go on after a finished window, in another process if need be.

    Its times are of the samples that the engine was given, also where those are a part of a file.
    """

    #: Where the next window starts, in mel frames of 10 ms.
    next_frame: int
    language: str | None = None
    #: 0 to 1; None when the language was given and not detected.
    language_probability: float | None = None
    #: Text tokens so far that may still prompt the next window.
    prompt_tokens: tuple[int, ...] = ()
    #: End of the last word before ``next_frame``; used to judge words found in silence.
    last_speech_seconds: float = 0.0
    #: In which the windows so far were made; an engine that can goes on in it.
    mode: Mode = Mode.EXACT

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> ResumeState:
        tokens, mode = tuple(value.get("prompt_tokens", ())), Mode(value.get("mode", Mode.EXACT))
        return cls(**{**value, "prompt_tokens": tokens, "mode": mode})

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Up to 30 s of audio, decoded at once: the unit of progress, of cancelling and of resuming."""

    start_seconds: float
    #: Where the next window starts; progress is this over the audio's length.
    end_seconds: float
    #: Empty where the window held no speech.
    segments: tuple[Segment, ...]
    #: Hand this to the engine to go on after this window.
    resume: ResumeState

    def later(self, seconds: float) -> Window:
        """The same, of audio that so much was cut from the start of."""
        return dataclasses.replace(
            self,
            start_seconds=self.start_seconds + seconds,
            end_seconds=self.end_seconds + seconds,
            segments=tuple(segment.later(seconds) for segment in self.segments),
        )

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Window:
        segments = tuple(Segment.from_json(segment) for segment in value["segments"])
        resume = ResumeState.from_json(value["resume"])
        return cls(**{**value, "segments": segments, "resume": resume})

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def storable(window: Window) -> Window:
    """The window without what neither PostgreSQL's text nor JSON can hold.

    That is NUL and halves of characters, which tokens can spell, and figures that are no numbers,
    which a broken GPU gives; those become the worst that there is.
    """
    return dataclasses.replace(window, segments=tuple(map(_storable, window.segments)))


def _storable(segment: Segment) -> Segment:
    words = (
        dataclasses.replace(w, text=storable_text(w.text), probability=_figure(w.probability, 0.0))
        for w in segment.words
    )
    return dataclasses.replace(
        segment,
        text=storable_text(segment.text),
        avg_logprob=_figure(segment.avg_logprob, WORST_LOGPROB),
        no_speech_prob=_figure(segment.no_speech_prob, 1.0),
        compression_ratio=_figure(segment.compression_ratio, 0.0),
        words=tuple(words),
    )


def storable_text(text: str) -> str:
    """The text without NUL and halves of characters."""
    return text.replace("\0", "").encode(errors="replace").decode()


def _figure(value: float, otherwise: float) -> float:
    return value if math.isfinite(value) else otherwise


@dataclass(frozen=True, slots=True, kw_only=True)
class TranscribeOptions:
    """What a client may choose about one transcription."""

    #: Whisper's language code, such as "en"; None means detect.
    language: str | None = None
    #: Translate into English instead of writing down what was said.
    translate: bool = False
    #: Text that the model is told came before: names, spelling, style.
    initial_prompt: str | None = None
    word_timestamps: bool = False
    condition_on_previous_text: bool = True
    #: Goes before others where windows of many recordings are worked on together.
    urgent: bool = False
    #: What is begun anew; an engine that knows but one mode takes that.
    mode: Mode = Mode.EXACT


@dataclass(frozen=True, slots=True, kw_only=True)
class Transcript:
    """Everything that was said in one recording."""

    language: str
    #: 0 to 1; None when the client named the language.
    language_probability: float | None
    audio_seconds: float
    segments: tuple[Segment, ...]

    @property
    def text(self) -> str:
        return "".join(segment.text for segment in self.segments).strip()

    @property
    def word_count(self) -> int:
        return len(self.text.split())

    @property
    def confidence(self) -> float | None:
        """Mean probability of a token, 0 to 1, weighted by the segments' length."""
        total = sum(s.end_seconds - s.start_seconds for s in self.segments)
        if total <= 0:
            return None
        return (
            sum(math.exp(s.avg_logprob) * (s.end_seconds - s.start_seconds) for s in self.segments)
            / total
        )
