"""Width, glyphs and breaks, one fact at a time."""

import pytest

from speech.formats.typography import break_cost, columns, glyph_spans, may_break, one_line


@pytest.mark.parametrize(
    ("char", "width"), [("a", 1), ("漢", 2), ("Ａ", 2), ("한", 2), ("\u0301", 0), ("\u200d", 0)]
)
def test_a_full_width_character_takes_two_columns_and_a_mark_none(char, width):
    assert columns(char) == width


@pytest.mark.parametrize(
    ("text", "glyphs"),
    [
        ("ab", ["a", "b"]),
        ("e\u0301a", ["e\u0301", "a"]),
        ("👍🏽a", ["👍🏽", "a"]),
        ("👩\u200d🔬a", ["👩\u200d🔬", "a"]),
        ("เก่า", ["เก่า"]),
        ("नमस्ते", ["न", "म", "स्", "ते"]),
        ("", []),
    ],
)
def test_what_is_drawn_as_one_stays_together(text, glyphs):
    assert [text[start:stop] for start, stop in glyph_spans(text)] == glyphs


@pytest.mark.parametrize(
    ("before", "after"), [("a", " "), ("漢", "字"), ("。", "今"), ("か", "A"), ("ก", "ข")]
)
def test_a_line_may_end_at_a_space_and_between_unspaced_glyphs(before, after):
    assert may_break(before, after)


@pytest.mark.parametrize(
    ("before", "after"),
    [("a", "b"), (" ", "b"), ("한", "글"), ("字", "。"), ("「", "字"), ("シ", "ー"), ("し", "ょ")],
)
def test_a_line_never_ends_inside_a_word_or_before_closing_punctuation(before, after):
    assert not may_break(before, after)


def test_a_line_reads_better_the_bigger_the_unit_it_ends():
    ends = [("on.", " "), ("on,", " "), ("on", " "), ("字", "字"), ("かな", "か"), ("on", "e")]

    costs = [break_cost(before, after) for before, after in ends]

    assert costs == sorted(costs)
    assert len(set(costs)) == len(costs)


def test_a_quote_that_closes_does_not_hide_the_end_of_a_sentence():
    assert break_cost("so.”", " ") == break_cost("so.", " ")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (" a\r\n\r\nb\rc\u2028d\u2029e\x85f\tg ", "a b c d e f g"),
        ("a\x00b\x1bc\x9bd", "a b c d"),
        ("\ufeffa\u202eb\u2066c", "abc"),
        ("a\ud800b", "a\ufffdb"),
        ("سلام\u200cها\u200f", "سلام\u200cها\u200f"),
        ("\x00\n ", ""),
    ],
)
def test_one_line_holds_no_line_end_and_no_control(text, line):
    assert one_line(text) == line
