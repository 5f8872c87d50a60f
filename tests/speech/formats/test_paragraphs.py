"""Where a transcript is broken into paragraphs."""

import json
import re

import pytest
from hypothesis import given

from speech.formats import FORMATS
from speech.formats import paragraphs as of
from speech.formats.paragraphs import ENOUGH, FEW, MUCH, PAUSE_SECONDS
from tests.recordings import PROJECT_DIR
from tests.speech.transcripts import segment, transcript, wild_transcripts

#: Of a hundred characters.
LONG = " word" * 20


def broken(*segments):
    return [(found.first, found.last) for found in of(transcript(*segments))]


def test_a_paragraph_ends_with_a_sentence_once_it_is_long_enough():
    texts = [LONG] * 5 + [f"{LONG}.", "No.", *[LONG] * 2]

    assert broken(*map(segment, texts)) == [(0, 5), (6, 8)]


@pytest.mark.parametrize(
    ("pause", "count"), [(PAUSE_SECONDS, 1), (PAUSE_SECONDS + 0.01, 2), (100.0, 2)]
)
def test_a_paragraph_ends_at_a_pause(pause, count):
    before = [segment(LONG, at, at + 1.0) for at in range(3)]

    assert len(broken(*before, segment(" after", 3 + pause, 10 + pause))) == count


def test_a_few_words_and_a_pause_are_no_paragraph():
    assert broken(segment(" Hm.", 0, 1), segment(LONG, 60, 61), segment(LONG, 90, 91)) == [(0, 2)]


def test_speech_without_sentences_is_broken_all_the_same():
    found = broken(*[segment(LONG, 0, 1)] * 30)

    assert found == [(0, 11), (12, 23), (24, 29)]


@pytest.mark.parametrize("end", ["。", "？", '."', "!’", "…"])
def test_sentences_end_in_many_ways(end):
    assert len(broken(segment("字" * (ENOUGH + 1) + end), segment("次"))) == 2


def test_silence_makes_no_paragraph():
    assert broken(segment(" "), segment("\n")) == []


@given(wild_transcripts)
def test_nothing_is_lost_and_nothing_twice(wild):
    found = list(of(wild))
    covered = [number for p in found for number in range(p.first, p.last + 1)]
    spoken = [n for n, said in enumerate(wild.segments) if said.text.split()]

    assert covered == sorted(set(covered))
    assert {*spoken} - {*covered} <= {
        # what has no visible character
        n
        for n in spoken
        if not FORMATS["txt"].render(transcript(wild.segments[n]))
    }


def test_the_page_breaks_by_the_same_figures():
    script = (PROJECT_DIR / "page/transcript.js").read_text("utf-8")
    figures = dict(
        re.findall(r"^const (PAUSE_SECONDS|FEW|ENOUGH|MUCH) = (\d+);", script, re.MULTILINE)
    )

    ours = {"PAUSE_SECONDS": PAUSE_SECONDS, "FEW": FEW, "ENOUGH": ENOUGH, "MUCH": MUCH}
    assert {name: float(figure) for name, figure in figures.items()} == ours


def test_json_tells_of_paragraphs():
    said = transcript(*[segment(LONG, 0, 1)] * 11, segment(" end.", 1.5, 3723.25))
    (only,) = json.loads(FORMATS["json"].render(said))["paragraphs"]

    assert only == {
        "start": 0.0,
        "end": 3723.25,
        "text": f"{LONG.strip()} " * 11 + "end.",
        "segments": [0, 11],
    }


def test_markdown_has_a_time_before_each_paragraph():
    said = transcript(
        segment(f"{LONG * 6}.", 1.9, 5), segment(" # 1. *Not* a [link](x) <b>", 3723.5, 3725)
    )

    assert FORMATS["md"].render(said) == (
        f"**0:00:01** {(LONG * 6).strip()}.\n"
        "\n"
        "**1:02:03** \\# 1. \\*Not\\* a \\[link\\](x) \\<b\\>\n"
    )
