"""A recording as stretches of speech of up to 30 s, cut in its pauses, silence left out.

Each chunk depends on the samples and on where it starts, and on nothing before that: whoever goes
on after a chunk finds the chunks that an undisturbed run would have found.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from speech.engines.spectrogram import HOP, SAMPLE_RATE, WINDOW_FRAMES, Array

#: Speech of a chunk, at most: what the models take at once.
CHUNK: Final = WINDOW_FRAMES * HOP
#: With less speech than that, a chunk is looked for more, if more follows.
ENOUGH: Final = CHUNK * 5 // 6
#: Samples that a chunk may span, silence and all.
REACH: Final = 300 * SAMPLE_RATE
#: Where speech has no pause, it is cut in the quietest moment of so many of its last samples.
LAST: Final = 5 * SAMPLE_RATE
MOMENT: Final = SAMPLE_RATE // 10

#: First and last sample, the last not included.
Span = tuple[int, int]
#: Finds the spans of some samples in which somebody speaks, in their order.
FindSpeech = Callable[[Array], Sequence[Span]]


@dataclass(frozen=True, slots=True)
class Chunk:
    """Speech that is worked on at once. Everything is in samples of the recording."""

    start: int
    #: Where the next one starts.
    stop: int
    #: What of it is speech; empty where nobody speaks.
    spans: tuple[Span, ...]

    def sound(self, samples: Array) -> Array:
        """Copy its speech, without what lies between."""
        return np.concatenate([samples[low:high] for low, high in self.spans])


class Times:
    """Tells times in a chunk's speech as times in the recording, in seconds."""

    def __init__(self, chunk: Chunk) -> None:
        self._spans = chunk.spans
        lengths = (high - low for low, high in chunk.spans)
        #: Where each span ends in the chunk's speech.
        self._ends = list(itertools.accumulate(lengths))

    def start(self, seconds: float) -> float:
        """Of what begins: at the start of a span rather than at the end of the one before."""
        return self._tell(seconds, bisect.bisect_right)

    def end(self, seconds: float) -> float:
        """Of what ends: at the end of a span rather than at the start of the next."""
        return self._tell(seconds, bisect.bisect_left)

    def _tell(self, seconds: float, side: Callable[[list[int], float], int]) -> float:
        place = seconds * SAMPLE_RATE
        index = min(side(self._ends, place), len(self._spans) - 1)
        low, high = self._spans[index]
        return min(low + place - (self._ends[index] - (high - low)), high) / SAMPLE_RATE


def chunks(samples: Array, start: int, find_speech: FindSpeech) -> Iterator[Chunk]:
    """Cut all that follows a sample, less than a frame at the end aside."""
    while len(samples) - start >= HOP:
        chunk = next_chunk(samples, start, find_speech)
        start = chunk.stop
        yield chunk


def next_chunk(samples: Array, start: int, find_speech: FindSpeech) -> Chunk:
    """Cut the chunk that starts at a sample.

    Args:
        start: A multiple of ``HOP``, as all stop at but the last.
    """
    reach = CHUNK
    while True:
        stop = min(start + reach, len(samples))
        spans = [(start + low, start + high) for low, high in find_speech(samples[start:stop])]
        taken = _fitting(spans)
        is_last = stop == len(samples) or reach >= REACH
        if len(taken) < len(spans) or is_last or _length(taken) >= ENOUGH:
            break
        reach = min(2 * reach, REACH)
    if len(taken) < len(spans):
        return _cut(samples, start, spans[: len(taken) + 1])
    if spans and spans[-1][1] == stop < len(samples):  # somebody speaks on
        return _cut(samples, start, spans)
    return Chunk(start, stop, tuple(spans))


def _fitting(spans: Sequence[Span]) -> list[Span]:
    """The first spans, as many as a chunk holds."""
    ends = itertools.accumulate(high - low for low, high in spans)
    return [span for span, end in zip(spans, ends, strict=True) if end <= CHUNK]


def _length(spans: Sequence[Span]) -> int:
    return sum(high - low for low, high in spans)


def _cut(samples: Array, start: int, spans: Sequence[Span]) -> Chunk:
    """End a chunk before the last span, or inside it where that is all there is.

    It ends where a frame starts, so that the next one can be told by its frame.
    """
    *taken, (low, high) = spans
    if taken or low - start >= HOP:
        return Chunk(start, low // HOP * HOP, tuple(taken))
    stop = _quietest(samples, low, min(high, start + CHUNK)) // HOP * HOP
    return Chunk(start, stop, ((low, stop),))


def _quietest(samples: Array, low: int, high: int) -> int:
    """The middle of the quietest moment before ``high``."""
    first = max(low, high - LAST)
    count = (high - first) // MOMENT
    moments = samples[first : first + count * MOMENT].reshape(count, MOMENT)
    return first + int(np.square(moments).sum(axis=1).argmin()) * MOMENT + MOMENT // 2
