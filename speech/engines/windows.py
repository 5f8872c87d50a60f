"""From window to window through a recording: the seek logic of Whisper, for both engines.

What ``whisper.transcribe`` and faster-whisper do in one function each, with their defaults: cut
the tokens into segments, move on to the last timestamp, skip silence, carry the text along as a
prompt. The tests hold the result equal to theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import errors
from speech.engines.catalogue import ModelSpec
from speech.engines.failures import translated
from speech.engines.spectrogram import FRAMES_PER_SECOND, WINDOW_FRAMES, Array, Spectrogram
from speech.transcript import Mode, ResumeState, Segment, TranscribeOptions, Window, Word

#: Tried in this order until the text is good enough.
TEMPERATURES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
#: Above it, and with text below the other limit, the window holds no speech.
NO_SPEECH_LIMIT = 0.6
AVG_LOGPROB_LIMIT = -1.0
#: Text from a higher temperature does not prompt the next window.
PROMPT_TEMPERATURE_LIMIT = 0.5
#: Tokens of earlier text that the models take.
PROMPT_TOKENS = 223

FRAMES_PER_TOKEN = 2

PREPENDED_PUNCTUATION = "\"'“¿([{-"
APPENDED_PUNCTUATION = "\"'.。,，!！?？:：”)]}、"  # noqa: RUF001 - Chinese and Japanese

#: A segment in the making, as both engines' word timing wants it: seek, start, end, tokens, words.
Draft = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """What the model made of one window, and how sure it is."""

    tokens: Sequence[int]
    avg_logprob: float
    no_speech_prob: float
    compression_ratio: float
    temperature: float

    def is_settled(self, spec: ModelSpec) -> bool:
        """Whether no other temperature need be tried."""
        repeats = self.compression_ratio > spec.compression_ratio_limit
        return self.is_silence or not (repeats or self.avg_logprob < spec.avg_logprob_limit)

    @property
    def is_silence(self) -> bool:
        return self.no_speech_prob > NO_SPEECH_LIMIT and self.avg_logprob <= AVG_LOGPROB_LIMIT


Heard = TypeVar("Heard")


class Decoder(Protocol[Heard]):
    """What of an engine differs: one for each transcription."""

    @property
    def first_timestamp_token(self) -> int: ...

    def hear(self, mel: Array) -> Heard:
        """Take in the sound of one window, shape (n_mels, 3000)."""

    def decode(self, heard: Heard, prompt: tuple[int, ...], frame: int) -> Decoded:
        """Write down what was heard; ``frame`` is where the window starts."""

    def time_words(
        self, heard: Heard, drafts: list[Draft], frames: int, last_speech_seconds: float
    ) -> None:
        """Give each draft its words, and start and end by these."""

    def text(self, tokens: Sequence[int]) -> str:
        """Spell text tokens out, leaving others out."""


@dataclass(frozen=True, slots=True)
class Cut:
    """One window's tokens as segments."""

    drafts: list[Draft]
    #: Where the next window starts.
    next_frame: int
    #: The window ends in silence: nothing was cut short by its end.
    is_closed: bool


def run(
    start: Callable[[], tuple[Decoder[Heard], Spectrogram, ResumeState]],
    options: TranscribeOptions,
    *,
    on_out_of_memory: Callable[[], None] = lambda: None,
) -> Iterator[Window]:
    """Transcribe, with the library's errors as ours.

    Args:
        start: Makes ready; called with the first window.
    """
    with translated(on_out_of_memory=on_out_of_memory):
        decoder, spectrogram, state = start()
    state = replace(state, mode=Mode.EXACT)
    while state.next_frame < spectrogram.frames:
        with translated(on_out_of_memory=on_out_of_memory):
            window = next_window(decoder, spectrogram, state, options)
        state = window.resume
        yield window


def suited(options: TranscribeOptions, spec: ModelSpec) -> TranscribeOptions:
    """The options, less what the model cannot do."""
    follows = options.condition_on_previous_text and spec.takes_previous_text
    return replace(options, condition_on_previous_text=follows)


def first_state(
    spec: ModelSpec, options: TranscribeOptions, detect: Callable[[], tuple[str, float]]
) -> ResumeState:
    """Where a transcription begins, its language being known.

    Args:
        detect: Hears what language is spoken, and how probably.

    Raises:
        InvalidRequest: the model does not know the language asked for.
    """
    if not spec.multilingual:
        return ResumeState(next_frame=0, language="en")
    if options.language is None:
        language, probability = detect()
        return ResumeState(next_frame=0, language=language, language_probability=probability)
    require_language(spec, options.language)
    return ResumeState(next_frame=0, language=options.language)


def require_language(spec: ModelSpec, language: str | None) -> None:
    """Make sure that a model knows a language; those that know one only take it for that.

    Raises:
        InvalidRequest
    """
    if spec.multilingual and language is not None and language not in spec.languages:
        raise errors.InvalidRequest(
            f"The model {spec.name} does not know the language {language[:16]!r}."
        )


def next_window(
    decoder: Decoder[Heard],
    spectrogram: Spectrogram,
    state: ResumeState,
    options: TranscribeOptions,
) -> Window:
    """Decode the window at ``state.next_frame``."""
    start = state.next_frame
    frames = min(WINDOW_FRAMES, spectrogram.frames - start)
    heard = decoder.hear(spectrogram.window_of_30_seconds(start, start + frames))
    decoded = decoder.decode(heard, state.prompt_tokens, start)
    if decoded.is_silence:
        return _window(start, (), replace(state, next_frame=start + frames), spectrogram)
    cut = cut_at_timestamps(
        decoded.tokens, start=start, frames=frames, first_timestamp=decoder.first_timestamp_token
    )
    next_frame, last_speech = cut.next_frame, state.last_speech_seconds
    if options.word_timestamps:
        decoder.time_words(heard, cut.drafts, frames, last_speech)
        last_speech = _end_of_speech(cut.drafts)
        if not cut.is_closed and last_speech > start / FRAMES_PER_SECOND:
            next_frame = round(last_speech * FRAMES_PER_SECOND)
    segments = tuple(_segments(decoder, cut.drafts, decoded))
    state = replace(
        state,
        # Whisper would try the same window for ever.
        next_frame=next_frame if next_frame > start else start + frames,
        prompt_tokens=_next_prompt(state.prompt_tokens, segments, decoded, options),
        last_speech_seconds=last_speech,
    )
    return _window(start, segments, state, spectrogram)


def cut_at_timestamps(
    tokens: Sequence[int], *, start: int, frames: int, first_timestamp: int
) -> Cut:
    """Cut where one segment's end meets the next one's start: at two timestamps in a row.

    Args:
        start: Where the window starts, in frames.
        frames: How many it has of the recording.
    """
    timed = [token >= first_timestamp for token in tokens]
    is_closed = timed[-2:] == [False, True]
    cuts = [i for i in range(1, len(tokens)) if timed[i - 1] and timed[i]]
    if not cuts:
        stamps = [token - first_timestamp for token in tokens if token >= first_timestamp]
        stop = stamps[-1] * FRAMES_PER_TOKEN if stamps and stamps[-1] > 0 else frames
        return Cut([_draft(start, 0, stop, tokens)], start + frames, is_closed)
    if is_closed:
        cuts.append(len(tokens))
    drafts = [
        _draft(
            start,
            (tokens[low] - first_timestamp) * FRAMES_PER_TOKEN,
            (tokens[high - 1] - first_timestamp) * FRAMES_PER_TOKEN,
            tokens[low:high],
        )
        for low, high in zip([0, *cuts], cuts, strict=False)
    ]
    if is_closed:
        return Cut(drafts, start + frames, is_closed)
    # What follows the last end is unfinished: the next window hears it from its start.
    spoken = (tokens[cuts[-1] - 1] - first_timestamp) * FRAMES_PER_TOKEN
    return Cut(drafts, start + spoken, is_closed)


def _draft(seek: int, start: int, stop: int, tokens: Sequence[int]) -> Draft:
    return {
        "seek": seek,
        "start": (seek + start) / FRAMES_PER_SECOND,
        "end": (seek + stop) / FRAMES_PER_SECOND,
        "tokens": list(tokens),
        "words": [],
    }


def _end_of_speech(drafts: list[Draft]) -> float:
    ends = (word["end"] for draft in reversed(drafts) for word in reversed(draft["words"]))
    return float(next(ends, drafts[-1]["end"]))


def _segments(decoder: Decoder[Heard], drafts: list[Draft], decoded: Decoded) -> Iterator[Segment]:
    for draft in drafts:
        text = decoder.text(draft["tokens"])
        if draft["start"] == draft["end"] or not text.strip():
            continue
        yield Segment(
            text=text,
            start_seconds=float(draft["start"]),
            end_seconds=float(draft["end"]),
            avg_logprob=decoded.avg_logprob,
            no_speech_prob=decoded.no_speech_prob,
            compression_ratio=decoded.compression_ratio,
            temperature=decoded.temperature,
            tokens=tuple(draft["tokens"]),
            words=tuple(
                Word(
                    text=word["word"],
                    start_seconds=float(word["start"]),
                    end_seconds=float(word["end"]),
                    probability=float(word["probability"]),
                )
                for word in draft["words"]
            ),
        )


def _next_prompt(
    prompt: tuple[int, ...],
    segments: tuple[Segment, ...],
    decoded: Decoded,
    options: TranscribeOptions,
) -> tuple[int, ...]:
    if not options.condition_on_previous_text or decoded.temperature > PROMPT_TEMPERATURE_LIMIT:
        return ()
    new = [token for segment in segments for token in segment.tokens]
    return (*prompt, *new)[-PROMPT_TOKENS:]


def _window(
    start: int, segments: tuple[Segment, ...], state: ResumeState, spectrogram: Spectrogram
) -> Window:
    # The last timestamp may be past the end of the recording.
    end = min(state.next_frame, spectrogram.frames)
    return Window(
        start_seconds=start / FRAMES_PER_SECOND,
        end_seconds=end / FRAMES_PER_SECOND,
        segments=segments,
        resume=state,
    )
