"""Fast mode, with the demo model: all parts of a recording side by side."""

import dataclasses
import functools
import itertools
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import errors
from speech.engines import ModelKey, ModelStore, fetch
from speech.engines.batch_whisper import BatchWhisper
from speech.engines.batch_whisper import load as load_folder
from speech.engines.catalogue import BATCH_WHISPER, resolve
from speech.engines.chunks import chunks
from speech.engines.fast import find_speech
from speech.engines.faster_whisper import FasterWhisper
from speech.engines.faster_whisper import load as load_other
from speech.transcript import Mode, ResumeState, Segment, TranscribeOptions, Window
from tests.recordings import sample
from tests.speech.engines.recordings import DIGITS, Samples, joined

pytestmark = pytest.mark.model

KEY = ModelKey(BATCH_WHISPER, "demo", "cpu", "float32")
FAST = TranscribeOptions(mode=Mode.FAST)
TEXT = sample(DIGITS).text.split()
COPIES = 20
#: Seconds of silence before the first words, and after every other copy of them.
SILENCE = 33.0
PAUSE = 2.5

Hear = Callable[[TranscribeOptions], list[Window]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fetch(KEY, ModelStore(tmp_path_factory.mktemp("models"), download_allowed=False))


@pytest.fixture(scope="module")
def engine(folder: Path) -> Iterator[BatchWhisper]:
    engine = load_folder(KEY, folder, threads=1, runners=2)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def samples() -> Samples:
    """Three and a half minutes: seven chunks or so."""
    pair: list[str | float] = [DIGITS, DIGITS, PAUSE]
    return joined(SILENCE, *pair * (COPIES // 2))


@pytest.fixture(scope="module")
def heard(engine: BatchWhisper, samples: Samples) -> Hear:
    return functools.cache(lambda options: list(engine.transcribe(samples, options)))


def segments_of(found: list[Window]) -> list[Segment]:
    return [segment for window in found for segment in window.segments]


def words_of(found: list[Window]) -> list[str]:
    return "".join(segment.text for segment in segments_of(found)).split()


def test_every_word_is_heard(heard: Hear) -> None:
    assert words_of(heard(FAST)) == TEXT * COPIES


def test_words_are_where_they_were_spoken(heard: Hear) -> None:
    """Over the silence that the model never heard."""
    seconds = len(joined(DIGITS)) / 16_000
    found = segments_of(heard(FAST))
    for number in range(COPIES):
        start = SILENCE + number * seconds + number // 2 * PAUSE
        mine = found[number * len(TEXT) : (number + 1) * len(TEXT)]
        assert start - 0.1 <= mine[0].start_seconds
        assert mine[-1].end_seconds <= start + seconds + 0.1
        assert all(a.end_seconds <= b.start_seconds + 0.1 for a, b in itertools.pairwise(mine))


def test_words_have_times_of_their_own(heard: Hear, samples: Samples) -> None:
    """In what was listened to, and none in the silence between."""
    found = segments_of(heard(dataclasses.replace(FAST, word_timestamps=True)))
    spans = [
        (low / 16_000, high / 16_000)
        for chunk in chunks(samples, 0, find_speech)
        for low, high in chunk.spans
    ]

    assert ["".join(word.text for word in segment.words) for segment in found] == [
        segment.text for segment in found
    ]
    for word in itertools.chain.from_iterable(segment.words for segment in found):
        assert any(low <= word.start_seconds <= high for low, high in spans)
        assert any(low <= word.end_seconds <= high for low, high in spans)


def test_windows_follow_each_other_to_the_end(heard: Hear, samples: Samples) -> None:
    found = heard(FAST)
    ends = [window.end_seconds for window in found]

    assert [window.start_seconds for window in found] == [0, *ends[:-1]]
    assert ends[-1] == pytest.approx(len(samples) / 16_000, abs=0.01)
    assert {window.resume.mode for window in found} == {Mode.FAST}


def test_the_language_is_that_of_the_first_words(heard: Hear) -> None:
    """Not that of the silence before them."""
    found = heard(FAST)
    probability = found[-1].resume.language_probability

    assert {window.resume.language for window in found if window.segments} == {"en"}
    assert probability is not None
    assert probability > 0.5


def test_a_language_that_is_told_is_not_looked_for(heard: Hear) -> None:
    last = heard(dataclasses.replace(FAST, language="en"))[-1].resume

    assert (last.language, last.language_probability) == ("en", None)


def test_one_recording_fills_batches(folder: Path, samples: Samples) -> None:
    engine = load_folder(KEY, folder, threads=1, runners=1)
    list(engine.transcribe(samples, dataclasses.replace(FAST, language="en")))
    stats = engine.stats()
    engine.close()

    assert stats.batches < stats.items


def test_whoever_goes_on_hears_the_rest_as_it_was(
    engine: BatchWhisper, heard: Hear, samples: Samples
) -> None:
    whole = heard(FAST)
    for number, window in enumerate(whole):
        state = ResumeState.from_json(window.resume.to_json())
        rest = list(engine.transcribe(samples, TranscribeOptions(), state))

        assert words_of(rest) == words_of(whole[number + 1 :])
        assert [w.end_seconds for w in rest] == [w.end_seconds for w in whole[number + 1 :]]


def test_an_engine_that_knows_one_mode_goes_on_in_that(
    folder: Path, heard: Hear, samples: Samples
) -> None:
    whole = heard(FAST)
    other: FasterWhisper = load_other(
        dataclasses.replace(KEY, engine="faster-whisper"), folder, spec=resolve("demo")
    )
    rest = list(other.transcribe(samples, FAST, whole[-3].resume))
    other.close()

    assert {window.resume.mode for window in rest} == {Mode.EXACT}
    assert words_of(rest)


def test_what_came_before_is_told_to_every_part(folder: Path, samples: Samples) -> None:
    """And only what the client says came before."""
    spec = dataclasses.replace(resolve("demo"), takes_previous_text=True)
    engine = load_folder(KEY, folder, threads=1, runners=2, spec=spec)
    options = dataclasses.replace(FAST, language="en", initial_prompt="one two three")
    found = list(engine.transcribe(samples, options))
    engine.close()

    assert {window.resume.prompt_tokens for window in found} == {()}
    assert words_of(found)


def test_silence_is_not_listened_to(engine: BatchWhisper) -> None:
    before = engine.stats().items
    found = list(engine.transcribe(joined(61.0), FAST))

    assert [window.segments for window in found] == [()] * len(found)
    assert found[-1].end_seconds == 61.0
    assert engine.stats().items == before


def test_who_stops_asking_leaves_nothing_under_way(engine: BatchWhisper, samples: Samples) -> None:
    windows = engine.transcribe(samples, FAST)
    next(windows)
    next(windows)
    windows.close()  # type: ignore[attr-defined]

    assert not [t for t in threading.enumerate() if t.name.startswith("chunk")]


def test_sound_that_cannot_be_worked_on_fails_alone(engine: BatchWhisper, samples: Samples) -> None:
    broken = samples.copy()
    broken[60 * 16_000 :: 1000] = np.nan
    with pytest.raises(errors.EngineError):
        list(engine.transcribe(broken, dataclasses.replace(FAST, language="en")))

    assert words_of(list(engine.transcribe(joined(DIGITS), FAST))) == TEXT


def test_a_language_that_the_model_does_not_know_is_refused(engine: BatchWhisper) -> None:
    options = dataclasses.replace(FAST, language="xx")
    with pytest.raises(errors.InvalidRequest):
        next(engine.transcribe(joined(1.0), options))


def test_closed_it_can_no_longer_be_used(folder: Path, samples: Samples) -> None:
    engine = load_folder(KEY, folder, threads=1, runners=1)
    # more chunks than are under way at a time: those that are may be done by the time it closes
    windows = engine.transcribe(np.concatenate([samples] * 2), FAST)
    next(windows)
    engine.close()

    with pytest.raises(errors.EngineError):
        list(windows)
