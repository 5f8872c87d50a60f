"""What engines return can always be stored."""

import math

from speech.transcript import (
    WORST_LOGPROB,
    ResumeState,
    Segment,
    Window,
    Word,
    storable,
)


def window_of(segment: Segment) -> Window:
    return Window(
        start_seconds=0.0,
        end_seconds=1.0,
        segments=(segment,),
        resume=ResumeState(next_frame=100),
    )


def segment(text: str, figure: float) -> Segment:
    word = Word(text=text, start_seconds=0.0, end_seconds=1.0, probability=figure)
    return Segment(
        text=text,
        start_seconds=0.0,
        end_seconds=1.0,
        avg_logprob=figure,
        no_speech_prob=figure,
        compression_ratio=figure,
        temperature=0.0,
        words=(word,),
    )


def test_what_a_database_cannot_hold_is_left_out() -> None:
    (found,) = storable(window_of(segment(" a\0b\ud800", 0.5))).segments

    assert (found.text, found.words[0].text) == (" ab?", " ab?")


def test_figures_that_are_no_numbers_become_the_worst() -> None:
    (found,) = storable(window_of(segment("x", math.nan))).segments

    assert (found.avg_logprob, found.no_speech_prob) == (WORST_LOGPROB, 1.0)
    assert (found.compression_ratio, found.words[0].probability) == (0.0, 0.0)


def test_everything_else_stays_as_it_is() -> None:
    honest = window_of(segment(" ¿qué? 你好", 0.25))

    assert storable(honest) == honest
