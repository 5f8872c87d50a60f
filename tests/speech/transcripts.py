"""Transcripts to render: built by hand, and drawn by hypothesis as an engine gone mad would."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st

from speech.transcript import Segment, Transcript, Word

#: The same examples on every run, and no clock.
bounded = settings(derandomize=True, max_examples=100, deadline=None)

#: What players, parsers or terminals would take for something else than text.
HOSTILE_TEXTS = [
    "a --> b",
    "--->",
    "00:00:01,000 --> 00:00:02,000",
    "00:00:01.000 --> 00:00:02.000 align:left",
    "00:00:01,000 00:00:02,000",
    "0:0:1,5 0:0:2,5",
    "01:02.500 01:03.500",
    "a\n\n2\n00:00:05,000 --> 00:00:06,000\nforged",
    "a\r\n\r\n00:00:05.000 --> 00:00:06.000\r\nforged",
    "a\r\rb",
    "a\u2028\u2028b\u2029c\x85\x85d",
    "a\x0b\x0c\x1c\x1d\x1ed",
    "a\x00b\x01c\x07d\x1b[31me\x7ff\x9bg",
    "\x00",
    "\ufeffWEBVTT",
    "WEBVTT",
    "NOTE this",
    "STYLE",
    "REGION",
    "STYLE\n::cue { color: red }",
    "<script>alert(1)</script>",
    "<b>bold</b> <i>i</i> <u>u</u> <font color=red>f</font>",
    "<00:00:01.500>karaoke",
    "a < b and c > d",
    "R&D &lt;b&gt; &amp;",
    r"{\an8}top",
    r"{\p1}m 0 0 l 9 9{\p0}",
    "{y:i}{c:$0000ff}microdvd",
    r"line\Nbreak\nbreak\hspace",
    "1",
    "42\n",
    "\n7\n",
    "٣",
    "in the year of our lord two thousand and more 2024",
    "\u202etxet desrever\u202c \u2066isolated\u2069",
    "lone \ud800 surrogate \udfff",
    "=cmd|'/C calc'!A0",
    "tab\tand\ttab",
    "{{7*7}} ${7*7} %s",
]


def segment(
    text: str, start: float = 0.0, end: float = 2.0, words: tuple[Word, ...] = ()
) -> Segment:
    return Segment(
        text=text,
        start_seconds=start,
        end_seconds=end,
        avg_logprob=-0.25,
        no_speech_prob=0.01,
        compression_ratio=1.3,
        temperature=0.0,
        words=words,
    )


def spoken(*timed_words: tuple[str, float, float]) -> Segment:
    """A segment with word times; each word is (text, start, end)."""
    words = tuple(
        Word(text=text, start_seconds=start, end_seconds=end, probability=0.9)
        for text, start, end in timed_words
    )
    text = "".join(word.text for word in words)
    return segment(text, words[0].start_seconds, words[-1].end_seconds, words)


def evenly(text: str, start: float, end: float, *, separator: str = " ") -> Segment:
    """A segment whose words follow each other at an even pace."""
    texts = [separator + text for text in text.split(" ")]
    pace = (end - start) / sum(map(len, texts))
    edges = [start + pace * sum(map(len, texts[:i])) for i in range(len(texts) + 1)]
    return spoken(*zip(texts, edges, edges[1:], strict=False))


def transcript(*segments: Segment, language: str = "en") -> Transcript:
    return Transcript(
        language=language, language_probability=0.98, audio_seconds=60.0, segments=segments
    )


_wild_seconds = st.one_of(
    st.floats(-10, 100),
    st.sampled_from([0.0, 1.0, 5.0, 86_400.0, 359_999.999, float("inf"), float("nan")]),
)
_wild_text = st.lists(
    st.one_of(
        st.sampled_from(HOSTILE_TEXTS),
        st.text(st.characters(), max_size=20),
        st.text("ab ,.\n", max_size=120),
        st.text("あアー漢、。「」ไกำ\u0e34👍🏽\u200d한글", max_size=120),
    ),
    max_size=4,
).map("".join)
_wild_word = st.builds(
    Word,
    text=_wild_text,
    start_seconds=_wild_seconds,
    end_seconds=_wild_seconds,
    probability=st.floats(),
)


@st.composite
def _wild_segments(draw) -> Segment:
    words = tuple(draw(st.lists(_wild_word, max_size=6)))
    spelled = "".join(word.text for word in words)
    text = draw(st.sampled_from([spelled, spelled + "?"])) if words else draw(_wild_text)
    return segment(text, draw(_wild_seconds), draw(_wild_seconds), words)


#: Any text, any words, any times: inverted, negative, infinite, not a number.
wild_transcripts = st.builds(
    Transcript,
    language=st.text(max_size=3),
    language_probability=st.none() | st.floats(),
    audio_seconds=_wild_seconds,
    segments=st.lists(_wild_segments(), max_size=6).map(tuple),
)


@st.composite
def tame_transcripts(draw, letters: str = "abcßéñабв한글漢字かな") -> Transcript:
    """Draw ordinary prose in any length and at any pace up to 100 hours, in order."""
    word = st.text(letters, min_size=1, max_size=12)
    sentence = st.lists(word, min_size=1, max_size=40).map(" ".join)
    segments = []
    at = draw(st.sampled_from([0.0, 59.9, 3599.9, 86_399.9, 350_000.0]))
    for text in draw(st.lists(sentence, max_size=4)):
        start = at + draw(st.floats(0, 30))
        at = start + draw(st.floats(0.02, 30))
        make = evenly if draw(st.booleans()) else segment
        segments.append(make(text, start, at))
    return transcript(*segments)
