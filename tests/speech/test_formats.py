"""What each format writes, read back by the libraries that others read it with."""

import html
import json
from io import BytesIO, StringIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import pysubs2
import pytest
import webvtt
from hypothesis import given

from speech.formats import FORMATS, Cue, cues
from speech.transcript import Transcript
from tests.speech.transcripts import (
    HOSTILE_TEXTS,
    bounded,
    evenly,
    segment,
    spoken,
    tame_transcripts,
    transcript,
    wild_transcripts,
)

GOLDEN = Path(__file__).parent / "golden"
GOLDEN_TRANSCRIPTS = {
    "english_words": transcript(
        evenly("And so, my fellow Americans, ask not what your country can do for you,", 0.5, 6.1),
        evenly("ask what you can do for your country.", 6.3, 8.9),
        spoken((" Thank", 12.0, 12.3), (" you.", 12.3, 12.5), (" R&D", 19.0, 19.6)),
    ),
    "german": transcript(
        segment(
            " Das Rindfleischetikettierungsüberwachungsaufgabenübertragungsgesetz wurde in"
            " Mecklenburg-Vorpommern beschlossen und später, im Jahr 2013, wieder aufgehoben.",
            0.0,
            10.4,
        ),
        segment(" Ach so.", 10.4, 10.8),
        segment(" Wirklich?", 10.8, 11.5),
        language="de",
    ),
    "spanish": transcript(
        segment(
            " ¿Qué tal? Hoy vamos a hablar de la historia de España, que es larga, complicada y,"
            " sobre todo, muy interesante. ¡Empecemos por el principio!",
            3725.04,
            3734.98,
        ),
        segment(" -Sí, señor.", 3736.0, 3737.2),
        language="es",
    ),
    "japanese_words": transcript(
        evenly(
            "今日は 皆さんに 、 新しい 音声認識 システムに ついて お話し したいと 思います 。",
            0.0,
            6.8,
            separator="",
        ),
        evenly(
            "この システムは 、 長い 録音でも 正確に 文字に 起こす ことが できます 。"
            " 「 とても 便利 」 だと 言われて います 。",
            7.4,
            16.0,
            separator="",
        ),
        language="ja",
    ),
}


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("case", GOLDEN_TRANSCRIPTS)
def test_a_transcript_renders_as_its_golden_file(case, name):
    rendered = rendered_for_review(case, name)

    assert rendered == golden_path(case, name).read_text(encoding="utf-8")


def rendered_for_review(case: str, name: str) -> str:
    rendered = FORMATS[name].render(GOLDEN_TRANSCRIPTS[case])
    if name == "json":  # One line, which nobody can review.
        return json.dumps(json.loads(rendered), ensure_ascii=False, indent=2) + "\n"
    return rendered


def golden_path(case: str, name: str) -> Path:
    return (GOLDEN / case).with_suffix(FORMATS[name].extension)


def read_with_pysubs2(text: str, name: str) -> list[Cue]:
    events = pysubs2.SSAFile.from_string(text, format_=name)
    return [
        Cue(
            start_ms=event.start,
            end_ms=event.end,
            # pysubs2 leaves the escapes of WebVTT as they are.
            lines=tuple(html.unescape(event.plaintext).split("\n")),
        )
        for event in events
    ]


def read_with_webvtt(text: str, name: str) -> list[Cue]:
    strict = {"strict": True} if name == "vtt" else {}
    captions = webvtt.from_buffer(StringIO(text), format=name, **strict).captions
    return [
        Cue(
            start_ms=caption.start_time.in_milliseconds(),
            end_ms=caption.end_time.in_milliseconds(),
            lines=tuple(caption.text.split("\n")),
        )
        for caption in captions
    ]


def read_with_ffmpeg(text: str, name: str) -> list[Cue]:
    """Read as most players do; FFmpeg turns every cue into an event of Advanced SubStation."""
    demuxer = {"srt": "srt", "vtt": "webvtt"}[name]
    with av.open(BytesIO(text.encode()), "r", format=demuxer) as container:
        decode: Any = container.streams.subtitles[0].codec_context.decode2
        packets: list[Any] = [packet for packet in container.demux() if packet.size]
        return [
            Cue(
                start_ms=packet.pts,
                end_ms=packet.pts + packet.duration,
                lines=tuple(decode(packet)[0].ass.decode().split(",", 8)[8].split(r"\N")),
            )
            for packet in packets
        ]


each_reader = pytest.mark.parametrize(
    "read", [read_with_pysubs2, read_with_webvtt, read_with_ffmpeg]
)
each_subtitle_format = pytest.mark.parametrize("name", ["srt", "vtt"])


def render(name: str, of: Transcript) -> str:
    return FORMATS[name].render(of)


@each_reader
@each_subtitle_format
@bounded
@given(tame_transcripts())
def test_prose_is_read_back_as_it_was_shown(read, name, tame):
    shown = cues(tame)

    assert (read(render(name, tame), name) if shown else []) == shown


@each_reader
@each_subtitle_format
@pytest.mark.parametrize("text", HOSTILE_TEXTS)
def test_hostile_text_stays_inside_its_cue(read, name, text):
    hostile = transcript(segment("before", 0, 4), segment(text, 5, 9), segment("after", 10, 14))

    seen = read(render(name, hostile), name)

    assert times(seen) == times(cues(hostile))
    assert (seen[0].lines, seen[-1].lines) == (("before",), ("after",))


@each_reader
@each_subtitle_format
@pytest.mark.parametrize("text", HOSTILE_TEXTS)
def test_hostile_text_stays_inside_the_last_cue(read, name, text):
    hostile = transcript(segment("before", 0, 4), segment(text, 5, 9))

    assert times(read(render(name, hostile), name)) == times(cues(hostile))


@each_subtitle_format
@bounded
@given(wild_transcripts)
def test_any_transcript_is_read_back_cue_by_cue(name, wild):
    shown = cues(wild)

    assert (times(read_with_webvtt(render(name, wild), name)) if shown else []) == times(shown)


def times(shown: list[Cue]) -> list[tuple[int, int]]:
    return [(cue.start_ms, cue.end_ms) for cue in shown]


@each_subtitle_format
@pytest.mark.parametrize("text", ["{\\an8}top", "<b>bold</b>", "a\\Nb", "a < b > c", "{p}"])
def test_no_reader_finds_a_command_in_text(name, text):
    rendered = render(name, transcript(segment(text)))

    events = pysubs2.SSAFile.from_string(rendered, format_=name, keep_html_tags=True)
    assert name == "vtt" or events[0].text == events[0].plaintext
    assert "<" not in rendered
    assert len(read_with_webvtt(rendered, name)[0].lines) == 1


def test_subrip_writes_what_players_obey_as_look_alikes():
    rendered = render("srt", transcript(segment(r"<i>{\an8} a\N b --> c >> d")))

    assert rendered.splitlines()[2] == "‹i>(\\\u2060an8) a\\\u2060N b --› c >> d"


def test_webvtt_escapes_markup():
    rendered = render("vtt", transcript(segment("<i>R&D</i> --> {x}")))

    assert rendered.splitlines()[3] == "&lt;i&gt;R&amp;D&lt;/i&gt; --&gt; {x}"


@each_reader
@each_subtitle_format
def test_a_last_line_of_digits_is_not_taken_for_a_number(read, name):
    said = transcript(segment("a" * 40 + " 2024"))

    (cue,) = read(render(name, said), name)

    assert (cues(said)[0].lines[1], cue.lines[1]) == ("2024", "\u20602024")


@each_reader
@each_subtitle_format
def test_a_time_beyond_a_day_is_read_back(read, name):
    said = transcript(segment("late", 25 * 3600, 25 * 3600 + 1), segment("z", 359_990, 359_999.999))

    assert times(read(render(name, said), name)) == [
        (90_000_000, 90_001_000),
        (359_990_000, 359_997_000),
    ]


@pytest.mark.parametrize(("name", "mark"), [("srt", ","), ("vtt", ".")])
def test_hours_get_a_third_digit_when_they_need_one(name, mark):
    rendered = render(name, transcript(segment("later", 100 * 3600, 100 * 3600 + 2.5)))

    assert f"100:00:00{mark}000 --> 100:00:02{mark}500" in rendered
    assert times(read_with_webvtt(rendered, name)) == [(360_000_000, 360_002_500)]


@pytest.mark.parametrize(
    ("name", "empty"),
    [
        ("txt", ""),
        ("md", ""),
        ("srt", ""),
        ("vtt", "WEBVTT\n\n"),
        ("tsv", "start\tend\ttext\n"),
        (
            "json",
            (
                '{"language":"en","language_probability":0.98,"audio_seconds":60.0,'
                '"text":"","segments":[],"paragraphs":[]}\n'
            ),
        ),
    ],
)
def test_nothing_said_is_a_valid_file(name, empty):
    assert render(name, transcript()) == empty


@pytest.mark.parametrize("name", FORMATS)
@bounded
@given(wild_transcripts)
def test_any_transcript_can_be_encoded(name, wild):
    assert render(name, wild).encode("utf-8").decode("utf-8") == render(name, wild)


@bounded
@given(wild_transcripts)
def test_json_is_strict_and_holds_every_segment(wild):
    def refuse(constant: str) -> None:
        pytest.fail(f"{constant} is no JSON")

    document = json.loads(render("json", wild), parse_constant=refuse)

    assert [segment["id"] for segment in document["segments"]] == list(range(len(wild.segments)))


def test_json_has_words_only_where_there_are_any():
    document = json.loads(render("json", transcript(evenly("a b", 0, 1), segment("c"))))

    assert [list(segment) for segment in document["segments"]] == [
        [*SEGMENT_FIELDS, "words"],
        SEGMENT_FIELDS,
    ]


SEGMENT_FIELDS = [
    "id",
    "start",
    "end",
    "text",
    "avg_logprob",
    "no_speech_prob",
    "compression_ratio",
    "temperature",
]


@bounded
@given(wild_transcripts)
def test_tsv_is_one_row_of_three_columns_for_each_segment(wild):
    header, *rows = render("tsv", wild).removesuffix("\n").split("\n")

    assert header == "start\tend\ttext"
    assert len(rows) == len(wild.segments)
    assert all(0 <= int(row.split("\t")[0]) <= int(row.split("\t")[1]) for row in rows)
    assert all(row.count("\t") == 2 for row in rows)


def test_tsv_times_are_whole_milliseconds():
    said = transcript(segment(" tab\tand\nline", 1.2345, 86_400.0))

    assert render("tsv", said).splitlines()[1] == "1234\t86400000\ttab and line"


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", " \t=1"])
def test_tsv_text_is_no_formula(text):
    row = render("tsv", transcript(segment(text))).splitlines()[1]

    assert row.split("\t")[2].startswith("'")


def test_txt_is_a_line_for_each_segment():
    said = transcript(segment(" One\ntwo."), segment(" "), segment(" Three."))

    assert render("txt", said) == "One two.\nThree.\n"


def test_the_table_names_every_format_once():
    assert list(FORMATS) == ["json", "txt", "md", "srt", "vtt", "tsv"]
    assert all(name == row.name for name, row in FORMATS.items())


def test_no_two_formats_answer_to_the_same_media_type():
    accepts = sorted(media_type for row in FORMATS.values() for media_type in row.accepts)

    assert all(before != after for before, after in pairwise(accepts))


@pytest.mark.parametrize("row", FORMATS.values(), ids=lambda row: row.name)
def test_a_format_is_sent_as_the_media_type_it_accepts_first(row):
    essence, _, charset = row.media_type.partition("; ")

    assert essence == row.accepts[0]
    assert charset == ("" if row.name == "json" else "charset=utf-8")


if __name__ == "__main__":
    # Write the golden files anew: python -m tests.speech.test_formats; then read the difference.
    for case in GOLDEN_TRANSCRIPTS:
        for name in FORMATS:
            golden_path(case, name).write_text(rendered_for_review(case, name), encoding="utf-8")
