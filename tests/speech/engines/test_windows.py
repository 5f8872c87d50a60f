"""The seek logic, against faster-whisper's and on a decoder that says what it is told."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from faster_whisper import WhisperModel
from hypothesis import given, settings
from hypothesis import strategies as st

import errors
from speech.engines import windows
from speech.engines.catalogue import resolve
from speech.engines.spectrogram import Array, Spectrogram
from speech.engines.windows import Decoded, Draft, cut_at_timestamps
from speech.transcript import ResumeState, TranscribeOptions, Window

FIRST = 50364
WORD, OTHER = 1000, 1001
ONE_MINUTE = 6000
START = ResumeState(next_frame=0, language="en")


def at(seconds: float) -> int:
    """The timestamp token."""
    return FIRST + round(seconds * 50)


def decoded(*tokens: int, **changes: Any) -> Decoded:
    good = Decoded(
        tokens=tokens, avg_logprob=-0.2, no_speech_prob=0.1, compression_ratio=1.0, temperature=0.0
    )
    return replace(good, **changes)


@dataclass
class Script:
    """A decoder that answers from a list and remembers what it was asked."""

    answers: list[Decoded]
    #: For ``time_words``: start and end of the words of each window.
    words: list[list[tuple[float, float]]] = field(default_factory=list)
    prompts: list[tuple[int, ...]] = field(default_factory=list)
    frames: list[int] = field(default_factory=list)
    first_timestamp_token: int = FIRST

    def hear(self, mel) -> None:
        assert mel.shape == (80, 3000)

    def decode(self, heard: None, prompt: tuple[int, ...], frame: int) -> Decoded:
        self.prompts.append(prompt)
        self.frames.append(frame)
        return self.answers.pop(0)

    def time_words(
        self, heard: None, drafts: list[Draft], frames: int, last_speech_seconds: float
    ) -> None:
        for draft, (start, end) in zip(drafts, self.words.pop(0), strict=False):
            word = {"word": " word", "start": start, "end": end, "probability": 0.5}
            draft.update(words=[word], start=start, end=end)

    def text(self, tokens: Sequence[int]) -> str:
        return "".join(" word" for token in tokens if token < 50257)


def silent(frames: int) -> Spectrogram:
    def log_mel(signal: Array) -> Array:
        return np.zeros((80, (signal.size - 400) // 160 + 1), np.float32)

    return Spectrogram(np.zeros(160 * frames, np.float32), silence=0, log_mel=log_mel)


def run(
    script: Script, state: ResumeState = START, *, frames: int = ONE_MINUTE, **options
) -> list[Window]:
    start = lambda: (script, silent(frames), state)  # noqa: E731 - a callable is asked for
    return list(windows.run(start, TranscribeOptions(**options)))


def texts(found: Iterable[Window]) -> list[str]:
    return [segment.text for window in found for segment in window.segments]


tokens = st.lists(
    st.one_of(st.just(WORD), st.integers(FIRST, FIRST + 1500), st.just(50257)), max_size=12
)


@settings(deadline=None)
@given(tokens=tokens, start=st.integers(0, 10**6), frames=st.integers(1, 3000))
def test_tokens_are_cut_as_faster_whisper_does(tokens, start, frames):
    model = SimpleNamespace(time_precision=0.02, input_stride=2)
    theirs, seek, closed = WhisperModel._split_segments_by_timestamps(
        model,
        tokenizer=SimpleNamespace(timestamp_begin=FIRST),
        tokens=tokens,
        time_offset=start / 100,
        segment_size=frames,
        segment_duration=frames / 100,
        seek=start,
    )

    ours = cut_at_timestamps(tokens, start=start, frames=frames, first_timestamp=FIRST)

    assert (ours.next_frame, ours.is_closed) == (seek, closed)
    assert [draft["tokens"] for draft in ours.drafts] == [draft["tokens"] for draft in theirs]
    for name in ("seek", "start", "end"):
        assert [d[name] for d in ours.drafts] == pytest.approx([d[name] for d in theirs])


def test_the_next_window_starts_at_the_last_segment_s_end():
    script = Script([decoded(at(0), WORD, at(12), at(12), OTHER), decoded(at(0), WORD, at(30))])

    found = run(script, frames=3000)

    assert [(w.start_seconds, w.end_seconds) for w in found] == [(0.0, 12.0), (12.0, 30.0)]


def test_a_window_that_ends_in_silence_is_left_whole():
    script = Script([decoded(at(0), WORD, at(12)), decoded(at(0), WORD, at(5))])

    found = run(script)

    assert [w.end_seconds for w in found] == [30.0, 60.0]


def test_silence_gives_a_window_without_segments():
    script = Script([decoded(at(0), WORD, no_speech_prob=0.7, avg_logprob=-1.5)])

    [found] = run(script, frames=3000)

    assert found.segments == ()
    assert found.end_seconds == 30.0


def test_a_likely_text_is_speech_whatever_else_is_thought_of_it():
    script = Script([decoded(at(0), WORD, at(9), no_speech_prob=0.7, avg_logprob=-0.9)])

    assert texts(run(script, frames=3000)) == [" word"]


@pytest.mark.parametrize("tokens", [(at(0), at(9)), (at(3), WORD, at(3), at(3), WORD, at(9))])
def test_segments_without_text_or_length_are_left_out(tokens):
    script = Script([decoded(*tokens)])

    [found] = run(script, frames=3000)

    assert all(s.start_seconds < s.end_seconds and s.text for s in found.segments)


def test_the_text_prompts_the_next_window():
    script = Script([decoded(at(0), WORD, at(12)), decoded(at(0), WORD, at(5))])

    run(script)

    assert script.prompts == [(), (at(0), WORD, at(12))]


def test_the_prompt_keeps_only_what_a_model_takes():
    script = Script([decoded(at(0), *[WORD] * 300, at(12)), decoded(at(0), WORD, at(5))])

    run(script)

    assert len(script.prompts[1]) == 223
    assert script.prompts[1][-1] == at(12)


def test_a_text_of_high_temperature_prompts_nothing():
    script = Script([decoded(at(0), WORD, at(9), temperature=0.6), decoded(at(0), WORD, at(5))])

    run(script)

    assert script.prompts[1] == ()


def test_without_conditioning_only_the_initial_prompt_prompts():
    script = Script([decoded(at(0), WORD, at(12)), decoded(at(0), WORD, at(5))])

    run(script, replace(START, prompt_tokens=(OTHER,)), condition_on_previous_text=False)

    assert script.prompts == [(OTHER,), ()]


def test_silence_does_not_use_the_initial_prompt_up():
    quiet = decoded(at(0), no_speech_prob=0.7, avg_logprob=-1.5)
    script = Script([quiet, decoded(at(0), WORD, at(5))])

    run(script, replace(START, prompt_tokens=(OTHER,)), condition_on_previous_text=False)

    assert script.prompts == [(OTHER,), (OTHER,)]


def test_with_word_times_the_next_window_starts_after_the_last_word():
    script = Script(
        [decoded(at(0), WORD, at(12), at(12), OTHER), decoded(at(0), WORD, at(20))],
        words=[[(1.0, 11.48)], [(20.0, 21.0)]],
    )

    found = run(script, frames=3000, word_timestamps=True)

    assert [w.end_seconds for w in found] == [11.48, 30.0]
    assert found[0].resume.last_speech_seconds == 11.48
    assert found[0].segments[0].words[0].end_seconds == 11.48


def test_a_window_always_ends_after_it_starts():
    """Whisper would decode the same window for ever."""
    script = Script([decoded(at(0), at(0), WORD)] * 2)

    assert [w.end_seconds for w in run(script)] == [30.0, 60.0]


def test_no_window_ends_after_the_recording():
    script = Script([decoded(at(0), WORD, at(29), at(29), WORD)])

    [found] = run(script, frames=1000)

    assert found.end_seconds == 10.0


def test_audio_without_a_whole_frame_gives_no_window():
    assert run(Script([]), frames=0) == []


def test_a_resumed_run_goes_on_like_one_that_was_not_interrupted():
    answers = [decoded(at(0), WORD, at(t), at(t), OTHER) for t in (12, 20, 28)]
    whole = run(Script([*answers]))
    state = ResumeState.from_json(whole[0].resume.to_json())

    assert run(Script(answers[1:]), state) == whole[1:]


def test_nothing_is_decoded_ahead_of_the_reader():
    script = Script([decoded(at(0), WORD, at(9))] * 2)
    found = windows.run(lambda: (script, silent(ONE_MINUTE), START), TranscribeOptions())

    next(found)
    found.close()  # type: ignore[attr-defined]  # a generator

    assert script.frames == [0]


@pytest.mark.parametrize(
    ("changes", "settled"),
    [
        ({}, True),
        ({"compression_ratio": 2.5}, False),
        ({"avg_logprob": -1.1}, False),
        ({"avg_logprob": -1.1, "no_speech_prob": 0.7}, True),
    ],
)
def test_a_poor_text_is_tried_at_another_temperature(changes, settled):
    assert decoded(WORD, **changes).is_settled(resolve("base")) is settled


@pytest.mark.parametrize("changes", [{"compression_ratio": 9.0}, {"avg_logprob": -9.0}])
def test_a_text_of_the_demo_model_is_taken_as_it_is(changes):
    assert decoded(WORD, **changes).is_settled(resolve("demo"))


def test_a_language_that_was_asked_for_is_not_detected():
    state = windows.first_state(resolve("tiny"), TranscribeOptions(language="de"), pytest.fail)

    assert (state.language, state.language_probability) == ("de", None)


def test_a_language_is_detected_when_none_was_asked_for():
    state = windows.first_state(resolve("tiny"), TranscribeOptions(), lambda: ("fr", 0.9))

    assert (state.language, state.language_probability) == ("fr", 0.9)


def test_an_english_only_model_hears_english():
    options = TranscribeOptions(language="de")

    assert windows.first_state(resolve("tiny.en"), options, pytest.fail).language == "en"


def test_a_language_that_the_model_does_not_know_is_refused():
    with pytest.raises(errors.InvalidRequest):
        windows.first_state(resolve("medium"), TranscribeOptions(language="yue"), pytest.fail)


def test_the_demo_model_is_not_told_what_was_said_before():
    assert not windows.suited(TranscribeOptions(), resolve("demo")).condition_on_previous_text


@pytest.mark.parametrize("follows", [True, False])
def test_other_models_are_told_it_as_the_client_wishes(follows):
    options = TranscribeOptions(condition_on_previous_text=follows)
    assert windows.suited(options, resolve("base")) == options
