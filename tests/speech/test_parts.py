"""A track of a file, and a part of it, as samples."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import errors
from speech.audio import DecodeLimits, decode, load_samples
from speech.transcript import Part, ResumeState, Segment, Window, Word
from tests import media

LIMITS = DecodeLimits(timeout_seconds=30)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "samples"


@pytest.fixture
def upload(tmp_path: Path) -> Callable[[bytes], Path]:
    def write(data: bytes) -> Path:
        path = tmp_path / "upload"
        path.write_bytes(data)
        return path

    return write


Upload = Callable[[bytes], Path]
#: Three seconds in which no two samples are alike for long.
PCM = np.random.default_rng(7).integers(-20_000, 20_000, 48_000).astype("<i2")


@pytest.mark.parametrize(
    ("start", "end"), [(0.0, 1.0), (0.5, 2.25), (1.0, None), (2.999, 3.0), (0.5, 86_400.0)]
)
def test_a_part_is_what_the_whole_has_there(
    start: float, end: float | None, upload: Upload, target: Path
) -> None:
    part = Part(start_seconds=start, end_seconds=end)
    decoded = decode(upload(media.wav(PCM.tobytes())), target, LIMITS, part=part)

    last = None if end is None else round(end * 16_000)
    expected = PCM[round(start * 16_000) : last].astype(np.float32) / 32_768
    np.testing.assert_array_equal(load_samples(target), expected)
    assert decoded.audio_seconds == len(expected) / 16_000
    assert decoded.warnings == ()


@pytest.mark.parametrize("container", media.HONEST)
def test_every_kind_of_file_has_parts(container: str, upload: Upload, target: Path) -> None:
    path = upload(media.HONEST[container](3.0))
    decode(path, target, LIMITS)
    whole = np.array(load_samples(target))
    decode(path, target, LIMITS, part=Part(start_seconds=1.25, end_seconds=2.5))

    np.testing.assert_array_equal(load_samples(target), whole[20_000:40_000])


def test_a_part_that_begins_after_the_end_is_refused(upload: Upload, target: Path) -> None:
    with pytest.raises(errors.EmptyPart) as caught:
        decode(upload(media.wav(PCM.tobytes())), target, LIMITS, part=Part(start_seconds=3.0))

    assert caught.value.data == {"audio_seconds": 3.0}


def test_a_file_cut_short_behind_the_part_is_whole_enough(upload: Upload, target: Path) -> None:
    whole = media.sound("flac", "flac", seconds=10)
    cut = upload(whole[: len(whole) // 2])

    assert decode(cut, target, LIMITS, part=Part(end_seconds=3.0)).warnings == ()
    assert decode(cut, target, LIMITS, part=Part(start_seconds=3.0)).warnings == (
        "truncated_input",
    )


@pytest.mark.parametrize(("track", "tone_hz"), [(1, 300), (2, 600), (3, 900)])
def test_a_track_is_chosen_by_its_number(
    track: int, tone_hz: int, upload: Upload, target: Path
) -> None:
    decode(upload(media.tracks(300, 600, 900)), target, LIMITS, part=Part(track=track))

    samples = load_samples(target)[:16_000]
    assert np.argmax(np.abs(np.fft.rfft(samples))) == pytest.approx(tone_hz, abs=2)


def test_a_track_that_is_not_there_is_refused(upload: Upload, target: Path) -> None:
    with pytest.raises(errors.NoSuchTrack) as caught:
        decode(upload(media.tracks(300, 600)), target, LIMITS, part=Part(track=3))

    assert caught.value.data == {"tracks": 2}


def test_a_part_costs_no_more_than_its_length_allows(upload: Upload, target: Path) -> None:
    limits = DecodeLimits(timeout_seconds=30, max_audio_seconds=2.0)

    with pytest.raises(errors.AudioTooLong):
        decode(upload(media.wav(PCM.tobytes())), target, limits, part=Part(end_seconds=1.0))


def test_times_of_a_part_are_those_of_the_whole() -> None:
    word = Word(text=" hi", start_seconds=0.25, end_seconds=0.5, probability=1.0)
    segment = Segment(
        text=" hi",
        start_seconds=0.25,
        end_seconds=1.0,
        avg_logprob=0.0,
        no_speech_prob=0.0,
        compression_ratio=1.0,
        temperature=0.0,
        words=(word,),
    )
    resume = ResumeState(next_frame=200, last_speech_seconds=0.5)
    window = Window(start_seconds=0.0, end_seconds=2.0, segments=(segment,), resume=resume)

    later = window.later(60.0)

    assert (later.start_seconds, later.end_seconds) == (60.0, 62.0)
    assert (later.segments[0].start_seconds, later.segments[0].end_seconds) == (60.25, 61.0)
    assert (later.segments[0].words[0].start_seconds, later.resume) == (60.25, resume)
