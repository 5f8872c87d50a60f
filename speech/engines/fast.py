"""Fast mode: the chunks of one recording side by side, as windows of many recordings are.

No chunk waits for the text of the one before, as windows do that follow each other from timestamp
to timestamp. What a chunk's first window leaves over is gone on with as ever, so none of it is
lost. Voice activity is detected by Silero's model, which faster-whisper brings along.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any, Final

import numpy as np
from faster_whisper.vad import VadOptions, get_speech_timestamps

import errors
from speech.engines import windows
from speech.engines.chunks import CHUNK, Chunk, Span, Times, chunks
from speech.engines.failures import translated
from speech.engines.spectrogram import FRAMES_PER_SECOND, HOP, SAMPLE_RATE, Array, Spectrogram
from speech.engines.windows import Decoder
from speech.transcript import Mode, ResumeState, Segment, TranscribeOptions, Window

#: Where speech may be cut, and what is kept around it. The threshold is below Silero's 0.5: a word
#: under noise is worth more than the silence that is taken along with it (``bench accuracy``).
VAD: Final = VadOptions(
    threshold=0.35,
    max_speech_duration_s=CHUNK / SAMPLE_RATE,
    min_silence_duration_ms=160,
    speech_pad_ms=400,
)
#: What is shorter is no speech that was left over, but what is kept around it.
LEFT_OVER_FRAMES: Final = FRAMES_PER_SECOND

#: Makes ready to write down a recording, as ``windows.run`` has it.
Start = Callable[
    [Array, TranscribeOptions, ResumeState | None], tuple[Decoder[Any], Spectrogram, ResumeState]
]
Segments = tuple[Segment, ...]


def run(
    samples: Array,
    start: Start,
    options: TranscribeOptions,
    resume: ResumeState | None,
    *,
    at_once: int,
) -> Iterator[Window]:
    """Transcribe, a chunk for each window, in their order.

    Args:
        start: Called for each chunk that holds speech. The first tells the language.
        at_once: Chunks that are under way at a time.
    """
    options = replace(options, condition_on_previous_text=False)
    state = replace(
        resume or ResumeState(next_frame=0, language=options.language),
        prompt_tokens=(),
        last_speech_seconds=0.0,
        mode=Mode.FAST,
    )
    to_do = chunks(samples, state.next_frame * HOP, find_speech)
    under_way: deque[tuple[Chunk, ResumeState, Future[Segments] | None]] = deque()
    threads = ThreadPoolExecutor(at_once, thread_name_prefix="chunk")
    try:
        while True:
            while len(under_way) < at_once and (chunk := _next(to_do)):
                future = None
                if chunk.spans:
                    writing, state = _begin(chunk.sound(samples), start, options, state)
                    future = threads.submit(writing)
                state = replace(state, next_frame=chunk.stop // HOP)
                under_way.append((chunk, state, future))
            if not under_way:
                return
            chunk, after, future = under_way.popleft()
            yield _window(chunk, after, future.result() if future else ())
    finally:
        # nothing is begun any more, and nobody works with the model after this
        threads.shutdown(cancel_futures=True)


def find_speech(samples: Array) -> Sequence[Span]:
    """The spans of some samples in which somebody speaks.

    Raises:
        EngineError: Some are no numbers, which would be taken for silence.
    """
    if not np.isfinite(samples).all():
        raise errors.EngineError("The audio holds what is no number.")
    return [(span["start"], span["end"]) for span in get_speech_timestamps(samples, VAD)]


def _next(to_do: Iterator[Chunk]) -> Chunk | None:
    with translated():
        return next(to_do, None)


def _begin(
    sound: Array, start: Start, options: TranscribeOptions, state: ResumeState
) -> tuple[Callable[[], Segments], ResumeState]:
    """Make ready to write down a chunk; its language, if it was not known, is that of the rest."""
    with translated():
        decoder, spectrogram, first = start(sound, replace(options, language=state.language), None)
    if state.language is None:
        state = replace(
            state, language=first.language, language_probability=first.language_probability
        )
    return partial(_write_down, decoder, spectrogram, first, options), state


def _write_down(
    decoder: Decoder[Any], spectrogram: Spectrogram, first: ResumeState, options: TranscribeOptions
) -> Segments:
    """Write down a chunk, its times counted from its own start."""
    segments: list[Segment] = []
    state = first
    while True:
        with translated():
            window = windows.next_window(decoder, spectrogram, state, options)
        segments += window.segments
        if spectrogram.frames - window.resume.next_frame < LEFT_OVER_FRAMES:
            return tuple(segments)
        # what the client says came before is said of every chunk, and so of all of it
        state = replace(window.resume, prompt_tokens=first.prompt_tokens)


def _window(chunk: Chunk, after: ResumeState, segments: Segments) -> Window:
    times = Times(chunk)
    return Window(
        start_seconds=chunk.start / SAMPLE_RATE,
        end_seconds=after.next_frame / FRAMES_PER_SECOND,
        segments=tuple(_placed(segment, times) for segment in segments),
        resume=after,
    )


def _placed(segment: Segment, times: Times) -> Segment:
    words = (
        replace(
            word,
            start_seconds=times.start(word.start_seconds),
            end_seconds=times.end(word.end_seconds),
        )
        for word in segment.words
    )
    return replace(
        segment,
        start_seconds=times.start(segment.start_seconds),
        end_seconds=times.end(segment.end_seconds),
        words=tuple(words),
    )
