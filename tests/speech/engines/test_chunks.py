"""Chunks: where recordings are cut, of speech that is made up."""

import functools
import random
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from speech.engines.chunks import CHUNK, REACH, Chunk, Span, Times, chunks, next_chunk
from speech.engines.spectrogram import HOP, SAMPLE_RATE, Array

SECOND = SAMPLE_RATE
Finder = Callable[[Array], Sequence[Span]]


def recording(*parts: tuple[float, bool]) -> Array:
    """So many seconds of speech, or of silence: ones and zeros."""
    return np.concatenate(
        [np.full(round(seconds * SECOND), spoken, np.float32) for seconds, spoken in parts]
    )


def find_speech(samples: Array) -> list[Span]:
    """Where there are ones."""
    edges = np.flatnonzero(np.diff(samples > 0, prepend=False, append=False))
    return [(int(low), int(high)) for low, high in zip(edges[::2], edges[1::2], strict=True)]


def cut(samples: Array, start: int = 0) -> list[Chunk]:
    return list(chunks(samples, start, find_speech))


def speech_of(found: Sequence[Chunk]) -> int:
    return sum(high - low for chunk in found for low, high in chunk.spans)


def test_short_speech_is_one_chunk() -> None:
    samples = recording((1, False), (3, True), (2, False), (4, True), (1, False))

    assert cut(samples) == [
        Chunk(0, 11 * SECOND, ((1 * SECOND, 4 * SECOND), (6 * SECOND, 10 * SECOND)))
    ]


def test_silence_is_left_out_so_that_more_speech_fits() -> None:
    samples = recording(*[(5, True), (20, False)] * 5)
    chunk, *silence = cut(samples)

    assert not speech_of(silence)
    assert speech_of([chunk]) == 25 * SECOND
    assert len(chunk.sound(samples)) == 25 * SECOND
    assert chunk.sound(samples).all()


def test_a_chunk_ends_before_the_speech_that_does_not_fit() -> None:
    found = cut(recording((20, True), (1, False), (15, True), (1, False)))

    assert [(chunk.start, chunk.stop) for chunk in found] == [
        (0, 21 * SECOND),
        (21 * SECOND, 37 * SECOND),
    ]


def test_speech_without_a_pause_is_cut_in_its_quietest_moment() -> None:
    samples = recording((80, True))
    samples[27 * SECOND : 27 * SECOND + SECOND // 5] = 0.001
    first, *others = cut(samples)

    assert 27 * SECOND <= first.stop <= 27 * SECOND + SECOND // 5
    assert all(high - low <= CHUNK for chunk in others for low, high in chunk.spans)


def test_hours_of_silence_are_chunks_without_speech() -> None:
    found = cut(np.zeros(3 * REACH + 7 * SECOND, np.float32))

    assert [chunk.stop for chunk in found] == [REACH, 2 * REACH, 3 * REACH, 3 * REACH + 7 * SECOND]
    assert not speech_of(found)


def test_speech_after_long_silence_is_not_waited_for() -> None:
    found = cut(recording((2, True), (900, False), (2, True)))

    assert [chunk.spans for chunk in found if chunk.spans] == [
        ((0, 2 * SECOND),),
        ((902 * SECOND, 904 * SECOND),),
    ]


@pytest.mark.parametrize("length", [0, 1, HOP - 1])
def test_less_than_a_frame_gives_no_chunk(length: int) -> None:
    assert cut(np.ones(length, np.float32)) == []


@functools.cache
def at_random(seed: int) -> Array:
    draw = random.Random(seed)  # noqa: S311 - no secret
    return recording(
        *(
            (draw.choice([0.05, 0.7, 3.21, 12.34, 28.8, 65.0]) * draw.random(), bool(number % 2))
            for number in range(24)
        )
    )


@pytest.mark.parametrize("seed", range(20))
def test_all_speech_is_in_one_chunk_and_none_is_too_long(seed: int) -> None:
    samples = at_random(seed)
    found = cut(samples)
    heard = np.zeros(len(samples), bool)
    for chunk in found:
        assert speech_of([chunk]) <= CHUNK
        for low, high in chunk.spans:
            assert chunk.start <= low < high <= chunk.stop
            assert not heard[low:high].any()
            heard[low:high] = True

    assert [chunk.start for chunk in found] == [0, *(chunk.stop for chunk in found[:-1])]
    assert all(chunk.start % HOP == 0 for chunk in found)
    assert len(samples) - found[-1].stop < HOP
    # what is cut where a frame starts loses less than a frame of silence, and of speech nothing
    assert (heard == (samples > 0)).all()


@pytest.mark.parametrize("seed", range(20))
def test_whoever_goes_on_after_a_chunk_finds_the_same_ones(seed: int) -> None:
    samples = at_random(seed)
    found = cut(samples)
    middle = len(found) // 2

    assert cut(samples, found[middle].start) == found[middle:]
    assert [next_chunk(samples, chunk.start, find_speech) for chunk in found] == found


CHUNK_OF_TWO = Chunk(0, 20 * SECOND, ((SECOND, 3 * SECOND), (10 * SECOND, 14 * SECOND)))


@pytest.mark.parametrize(("told", "start", "end"), [(0, 1, 1), (1.5, 2.5, 2.5), (3, 11, 11)])
def test_times_are_told_over_the_silence_that_was_left_out(
    told: float, start: float, end: float
) -> None:
    times = Times(CHUNK_OF_TWO)

    assert (times.start(told), times.end(told)) == (start, end)


def test_what_ends_where_a_span_ends_does_not_reach_into_the_silence() -> None:
    times = Times(CHUNK_OF_TWO)

    assert times.end(2) == 3
    assert times.start(2) == 10


def test_a_time_beyond_the_chunks_speech_is_its_end() -> None:
    assert Times(CHUNK_OF_TWO).end(6.4) == 14
