"""What somebody should look at again in a transcript, and what not."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speech import quality
from speech.quality import Doubt, Finding
from speech.transcript import Segment, Transcript

#: A minute in stretches of a second: loud, and in silence.
LOUD, QUIET = (-90, 90), (0, 1)
MINUTE = list(LOUD) * 60


def segment(text: str, start: float, end: float, **values: float) -> Segment:
    figures: dict[str, Any] = {
        "avg_logprob": -0.2,
        "no_speech_prob": 0.01,
        "compression_ratio": 1.2,
        "temperature": 0.0,
        **values,
    }
    return Segment(text=text, start_seconds=start, end_seconds=end, **figures)


def of(*segments: Segment, seconds: float = 60.0) -> Transcript:
    return Transcript(
        language="en", language_probability=0.9, audio_seconds=seconds, segments=segments
    )


def found(transcript: Transcript, pairs: Sequence[int] = ()) -> list[tuple[Doubt, tuple[int, ...]]]:
    return [(each.doubt, each.segments) for each in quality.judge(transcript, pairs).findings]


GOOD = segment(" It was the best of times, it was the worst of times.", 0.0, 59.0)


def test_nothing_is_said_of_what_is_good() -> None:
    told = quality.judge(of(GOOD), MINUTE)

    assert told.findings == ()
    assert told.suspects == []
    assert told.silence_share == 0
    assert told.speech_share == pytest.approx(59 / 60)
    assert told.words_per_minute == pytest.approx(12 * 60 / 59)


def test_the_same_segment_again_and_again_is_a_loop() -> None:
    thanks = [segment(f" Thank you{mark}", at, at + 1) for at, mark in enumerate(".!.", start=10)]

    assert found(of(GOOD, *thanks)) == [(Doubt.LOOP, (1, 2, 3))]
    assert found(of(GOOD, *thanks[:2])) == []


@pytest.mark.parametrize(
    ("text", "loops"),
    [
        ("and then he said and then he said and then he said and then he said", True),
        ("la la la la la", True),
        ("no, no, no!", False),
        ("one two three four five six seven eight", False),
        ("", False),
        # once in a long sentence it may have been said so
        ("very very very very very good " + " ".join(map(str, range(20))), False),
    ],
)
def test_a_phrase_again_and_again_is_a_loop(text: str, *, loops: bool) -> None:
    assert found(of(segment(text, 0, 30))) == [(Doubt.LOOP, (0,))] * loops


@pytest.mark.parametrize(
    ("doubt", "values"),
    [
        (Doubt.REPETITIVE, {"compression_ratio": 2.5}),
        (Doubt.LOW_CONFIDENCE, {"avg_logprob": -1.1}),
    ],
)
def test_the_models_own_figures_are_heeded(doubt: Doubt, values: dict[str, float]) -> None:
    assert found(of(segment(" a word", 0, 1, **values))) == [(doubt, (0,))]


def test_nobody_says_so_much_in_a_moment() -> None:
    text = " " + "word " * 40
    assert found(of(segment("".join(map(str, range(99))), 0, 1))) == [(Doubt.TOO_FAST, (0,))]
    assert (Doubt.TOO_FAST, (0,)) not in found(of(segment(text, 0, 20)))


def test_what_is_written_in_silence_was_not_said() -> None:
    pairs = [*LOUD * 30, *QUIET * 30]
    said, made_up = segment(" said", 0, 29), segment(" made up", 35, 40)

    assert found(of(said, made_up), pairs) == [(Doubt.IN_SILENCE, (1,))]
    assert quality.judge(of(said), pairs).silence_share == pytest.approx(0.5)


def test_sound_without_words_is_told_of() -> None:
    first, last = segment(" one", 0, 10), segment(" two", 40, 59)
    told = quality.judge(of(first, last), MINUTE).findings

    assert told == (Finding(doubt=Doubt.NO_WORDS, start_seconds=11, end_seconds=39),)


def test_words_that_end_before_the_sound_does_were_cut_off() -> None:
    assert found(of(segment(" one", 0, 30)), MINUTE) == [(Doubt.CUT_OFF, ())]
    # and a quiet end is none
    assert found(of(segment(" one", 0, 30)), [*LOUD * 30, *QUIET * 30]) == []


def test_sound_in_which_nothing_was_said_at_all() -> None:
    assert found(of(), MINUTE) == [(Doubt.NO_WORDS, ())]


def test_a_part_is_judged_where_it_lies() -> None:
    part = of(segment(" one", 600, 630), seconds=60)
    told = quality.judge(part, MINUTE, start_seconds=600.0).findings

    assert [(each.doubt, each.end_seconds) for each in told] == [(Doubt.CUT_OFF, 660.0)]


def test_without_loudness_only_the_text_is_judged() -> None:
    told = quality.judge(of(segment(" one", 0, 1)), ())

    assert (told.findings, told.silence_share) == ((), None)


times = st.floats(0, 3600, allow_nan=False)


@given(
    st.lists(st.tuples(st.text(max_size=30), times, times), max_size=20),
    st.lists(st.integers(-127, 127), max_size=100),
    st.floats(0, 3600, allow_nan=False),
)
def test_whatever_is_judged_is_judged(
    said: list[tuple[str, float, float]], loudness: list[int], seconds: float
) -> None:
    segments = [segment(text, min(a, b), max(a, b)) for text, a, b in said]
    told = quality.judge(of(*segments, seconds=seconds), loudness[: len(loudness) // 2 * 2])

    assert all(each.start_seconds <= each.end_seconds for each in told.findings)
    assert 0 <= told.speech_share <= 1
    assert told.silence_share is None or 0 <= told.silence_share <= 1
    assert set(told.suspects) <= set(range(len(segments)))
