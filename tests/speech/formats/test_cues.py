"""Cutting a transcript into cues."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speech.formats.cues import Cue, Shape, cues
from speech.formats.typography import columns, one_line
from tests.speech.transcripts import (
    bounded,
    evenly,
    segment,
    spoken,
    tame_transcripts,
    transcript,
    wild_transcripts,
)


def width(line: str) -> int:
    return sum(map(columns, line))


def letters(text: str) -> str:
    return "".join(text.split())


def texts(shown: list[Cue]) -> list[str]:
    return [" ".join(cue.lines) for cue in shown]


def times(shown: list[Cue]) -> list[tuple[int, int]]:
    return [(cue.start_ms, cue.end_ms) for cue in shown]


@bounded
@given(wild_transcripts)
def test_cues_are_in_order_and_never_overlap(wild):
    shown = cues(wild)

    assert all(0 <= cue.start_ms < cue.end_ms for cue in shown)
    assert all(before.end_ms <= after.start_ms for before, after in pairwise(shown))


@bounded
@given(wild_transcripts)
def test_no_text_is_lost_or_made_up(wild):
    shown = cues(wild)

    spelled = "".join(one_line(segment.text) for segment in wild.segments if seen(segment.text))
    assert letters("".join(texts(shown))) == letters(spelled)


def seen(text: str) -> bool:
    return any(map(columns, one_line(text)))


@bounded
@given(wild_transcripts, st.integers(12, 60), st.integers(1, 3))
def test_no_line_is_empty_or_too_long(wild, max_chars, max_lines):
    shown = cues(wild, Shape(max_chars=max_chars, max_lines=max_lines))

    assert all(1 <= len(cue.lines) <= max_lines for cue in shown)
    assert all(0 < width(line) <= max_chars for cue in shown for line in cue.lines)


@bounded
@given(wild_transcripts)
def test_a_limit_narrower_than_a_glyph_still_ends(wild):
    shown = cues(wild, Shape(max_chars=1, max_lines=3))

    assert all(1 <= len(cue.lines) <= 3 for cue in shown)


@bounded
@given(wild_transcripts)
def test_every_cue_stays_long_enough_and_not_too_long(wild):
    shown = cues(wild, Shape(min_seconds=0.8, max_seconds=5.0))

    assert all(800 <= cue.end_ms - cue.start_ms <= 5000 for cue in shown)


@bounded
@given(tame_transcripts("abcßéñабв한글"))
def test_no_word_that_fits_a_line_is_cut(tame):
    shown = cues(tame)

    words = [word for segment in tame.segments for word in segment.text.split()]
    assert " ".join(texts(shown)).split() == words


def test_nothing_said_is_no_cue():
    assert cues(transcript()) == []


@pytest.mark.parametrize("text", ["", " ", "\n", "\x00", "\u200b\ufeff"])
def test_text_that_shows_nothing_is_no_cue(text):
    assert cues(transcript(segment(text), segment("a", 5, 6))) == [
        Cue(start_ms=5000, end_ms=6000, lines=("a",))
    ]


def test_a_segment_that_fits_is_one_cue_with_its_own_times():
    assert cues(transcript(segment(" Hello there.", 1.25, 3.5))) == [
        Cue(start_ms=1250, end_ms=3500, lines=("Hello there.",))
    ]


def test_a_long_segment_is_cut_at_word_times():
    said = spoken(
        (" One.", 0.0, 1.0), (" Two.", 3.5, 4.0), (" Three", 9.0, 9.5), (" four.", 9.5, 10.0)
    )

    shown = cues(transcript(said))

    assert texts(shown) == ["One.", "Two.", "Three four."]
    assert times(shown) == [(0, 1000), (3500, 4333), (9000, 10000)]


def test_a_cue_starts_when_its_first_word_is_said():
    text = "one two three four five six seven eight nine ten eleven twelve"
    said = evenly(text, 0.0, 12.0)

    starts = [cue.start_ms for cue in cues(transcript(said))]

    assert len(starts) == 2
    assert set(starts) <= {round(1000 * word.start_seconds) for word in said.words}


def test_a_long_segment_without_words_is_cut_in_proportion():
    said = segment("a" * 40 + " " + "b" * 40 + " " + "c" * 40 + " " + "d" * 40, 0.0, 10.0)

    assert times(cues(transcript(said))) == [(0, 5000), (5000, 10000)]


def test_words_that_do_not_spell_the_text_are_ignored():
    words = evenly("Here were laid.", 5.0, 6.0).words

    shown = cues(transcript(segment("What folk said.", 1.0, 3.0, words)))

    assert shown == [Cue(start_ms=1000, end_ms=3000, lines=("What folk said.",))]


def test_a_word_that_ends_before_it_starts_makes_no_silence():
    said = spoken((" Well", 5.0, 3.0), (" then.", 5.5, 6.0))

    assert texts(cues(transcript(said))) == ["Well then."]


def test_no_cue_spans_a_silence():
    said = spoken((" Well", 0.0, 0.5), (" then,", 0.5, 1.5), (" go.", 4.0, 5.0))

    assert texts(cues(transcript(said))) == ["Well then,", "go."]


def test_few_words_in_a_long_segment_stay_together():
    shown = cues(transcript(segment("Thank you very much.", 0.0, 30.0)))

    assert shown == [Cue(start_ms=0, end_ms=7000, lines=("Thank you very much.",))]


def test_a_cut_is_made_after_a_sentence_rather_than_in_the_middle():
    said = segment(
        "The birch canoe slid on the smooth planks. Glue the sheet to the dark blue "
        "background, and tell the depth of the well.",
        0.0,
        8.0,
    )

    assert texts(cues(transcript(said)))[0] == "The birch canoe slid on the smooth planks."


def test_a_line_is_broken_after_a_comma_rather_than_in_the_middle():
    said = segment("I told him yesterday, but he wouldn't listen to me at all.", 0.0, 4.0)

    assert cues(transcript(said))[0].lines == (
        "I told him yesterday,",
        "but he wouldn't listen to me at all.",
    )


def test_lines_are_about_equal():
    said = segment("one two three four five six seven eight nine ten", 0.0, 4.0)

    assert cues(transcript(said))[0].lines == (
        "one two three four five",
        "six seven eight nine ten",
    )


def test_cues_are_about_equal():
    words = ["a" * 10, "b" * 10, "c" * 10, "d" * 30, "e" * 19]

    shown = cues(transcript(segment(" ".join(words), 0.0, 4.0)))

    assert texts(shown) == [" ".join(words[:3]), " ".join(words[3:])]


def test_a_word_too_long_for_a_line_is_cut():
    word = "Rindfleischetikettierungsüberwachungsaufgabenübertragungsgesetz"

    (cue,) = cues(transcript(segment(word, 0.0, 4.0)))

    assert len(cue.lines) == 2
    assert "".join(cue.lines) == word


def test_japanese_is_cut_by_width_and_never_before_a_full_stop():
    text = "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。" * 2

    shown = cues(transcript(segment(text, 0.0, 12.0)))

    assert len(shown) > 1
    assert all(width(line) <= 42 for cue in shown for line in cue.lines)
    assert not any(line[0] in "、。" for cue in shown for line in cue.lines)


def test_segments_too_short_to_read_are_joined_with_the_next():
    shown = cues(
        transcript(
            segment("Yes.", 1.0, 1.0), segment("No.", 1.0, 1.2), segment("Perhaps.", 1.2, 3.0)
        )
    )

    assert shown == [Cue(start_ms=1000, end_ms=3000, lines=("Yes. No. Perhaps.",))]


def test_a_short_segment_stays_on_while_there_is_room():
    shown = cues(transcript(segment("Yes.", 1.0, 1.1), segment("No.", 5.0, 7.0)))

    assert times(shown) == [(1000, 1833), (5000, 7000)]


def test_a_fast_speaker_can_still_be_read_where_there_is_room():
    shown = cues(transcript(segment("a" * 40, 0.0, 1.0)))

    assert times(shown) == [(0, 2000)]


@pytest.mark.parametrize(("start", "end"), [(5.0, 5.0), (5.0, 3.0), (5.0, float("nan"))])
def test_a_segment_without_a_length_is_shown_from_its_start(start, end):
    assert times(cues(transcript(segment("Oh.", start, end)))) == [(5000, 5833)]


@pytest.mark.parametrize("start", [-1.0, float("nan"), float("-inf")])
def test_a_start_before_the_audio_is_its_start(start):
    assert times(cues(transcript(segment("Oh.", start, 2.0)))) == [(0, 2000)]


def test_a_cue_waits_until_the_one_before_it_was_read():
    long = "a" * 40 + " " + "b" * 40

    shown = cues(transcript(segment(long, 9.0, 11.0), segment(long, 8.0, 12.0)))

    assert times(shown) == [(9000, 9833), (9833, 13883)]


def test_limits_can_be_chosen():
    said = segment("one two three four", 0.0, 2.0)

    shown = cues(transcript(said), Shape(max_chars=10, max_lines=1, min_seconds=0.1))

    assert [cue.lines for cue in shown] == [("one two",), ("three four",)]


def test_a_cue_stays_until_the_slowest_reader_has_read_it():
    said = transcript(segment("a" * 40, 0.0, 1.0))

    ends = [cues(said, Shape(chars_per_second=pace))[0].end_ms for pace in (10, 20, 80)]
    assert ends == [4000, 2000, 1000]
