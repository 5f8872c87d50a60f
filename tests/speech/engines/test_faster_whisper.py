"""faster-whisper behind the Protocol: its own ``transcribe`` is the reference."""

import dataclasses
import functools
import gc
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from faster_whisper import WhisperModel

import errors
from speech.engines import ModelKey, ModelStore, fetch, hardware, load
from speech.engines.catalogue import FASTER_WHISPER, OPENAI_WHISPER, resolve
from speech.engines.faster_whisper import FasterWhisper
from speech.engines.faster_whisper import load as load_folder
from speech.transcript import ResumeState, Segment, TranscribeOptions, Window
from tests.speech.engines.recordings import DIGITS, joined, long_recording

pytestmark = pytest.mark.model

KEY = ModelKey(FASTER_WHISPER, "demo", "cpu", "float32")
#: The demo model's weights, prompted with the text so far as other models are.
PROMPTED = dataclasses.replace(resolve("demo"), takes_previous_text=True)
ENGLISH = TranscribeOptions(language="en")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return ModelStore(tmp_path_factory.mktemp("models"), download_allowed=False)


@pytest.fixture(scope="module")
def folder(store) -> Path:
    return fetch(KEY, store)


@pytest.fixture(scope="module")
def engine(folder) -> Iterator[FasterWhisper]:
    engine = load_folder(KEY, folder, threads=1, workers=2, spec=PROMPTED)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def reference(folder):
    return WhisperModel(str(folder), device="cpu", compute_type="float32", cpu_threads=1)


@pytest.fixture(scope="module")
def samples():
    return long_recording()


@pytest.fixture(scope="module")
def heard(engine, samples):
    """What the engine makes of the recording; for each choice of options it is asked once."""
    return functools.cache(lambda options: list(engine.transcribe(samples, options)))


def segments_of(found: list[Window]) -> list[Segment]:
    return [segment for window in found for segment in window.segments]


def rows(segments: list[Segment]) -> list[tuple]:
    """Our segments, in a form that compares."""
    return [
        (
            segment.text,
            pytest.approx(segment.start_seconds),
            pytest.approx(segment.end_seconds),
            list(segment.tokens),
            [(word.text, word.start_seconds, word.end_seconds) for word in segment.words],
            pytest.approx(segment.avg_logprob, abs=1e-4),
            segment.temperature,
        )
        for segment in segments
    ]


def rows_of_faster_whisper(segments) -> list[tuple]:
    return [
        (
            segment.text,
            segment.start,
            segment.end,
            list(segment.tokens),
            [(word.word, word.start, word.end) for word in segment.words or ()],
            segment.avg_logprob,
            segment.temperature,
        )
        for segment in segments
    ]


CHOICES: dict[str, tuple[TranscribeOptions, dict]] = {
    "english": (ENGLISH, {"language": "en"}),
    "detected": (TranscribeOptions(), {}),
    "words": (
        TranscribeOptions(language="en", word_timestamps=True),
        {"language": "en", "word_timestamps": True},
    ),
    "prompted": (
        TranscribeOptions(language="en", initial_prompt="one two three"),
        {"language": "en", "initial_prompt": "one two three"},
    ),
    "unconditioned": (
        TranscribeOptions(language="en", condition_on_previous_text=False),
        {"language": "en", "condition_on_previous_text": False},
    ),
}


@pytest.mark.parametrize("choice", CHOICES)
def test_segments_are_those_of_faster_whisper(heard, reference, samples, choice):
    options, keywords = CHOICES[choice]
    # The demo model's first text is always taken: see its limits in the catalogue.
    segments, information = reference.transcribe(samples, temperature=0.0, **keywords)
    theirs = rows_of_faster_whisper(segments)

    ours = heard(options)

    assert rows(segments_of(ours)) == theirs
    assert ours[-1].resume.language == information.language


@pytest.mark.parametrize("words", [False, True])
def test_a_resumed_run_gives_the_same_windows(engine, heard, samples, words):
    options = TranscribeOptions(language="en", word_timestamps=words)
    whole = heard(options)
    state = ResumeState.from_json(whole[0].resume.to_json())

    assert list(engine.transcribe(samples, options, state)) == whole[1:]


def test_both_engines_hear_the_same(samples, store):
    """The same weights and the same seek logic: only the decoding differs, greedy or beams."""
    engines = [
        load(dataclasses.replace(KEY, engine=name), store, threads=1)
        for name in (FASTER_WHISPER, OPENAI_WHISPER)
    ]
    texts = [[s.text for s in segments_of(list(e.transcribe(samples, ENGLISH)))] for e in engines]

    assert texts[0] == texts[1]


def test_the_language_is_detected_with_its_probability(engine, reference):
    samples = joined(DIGITS)
    language, probability, _ = reference.detect_language(samples)

    [window, *_] = engine.transcribe(samples, TranscribeOptions())

    assert window.resume.language == language
    assert window.resume.language_probability == pytest.approx(probability, abs=1e-5)


def test_threads_share_a_model(engine, heard, samples):
    choices = [TranscribeOptions(language="en", word_timestamps=words) for words in (False, True)]
    alone = {options: heard(options) for options in choices}
    found: dict[TranscribeOptions, list[Window]] = {}

    def hear(options: TranscribeOptions) -> None:
        found[options] = list(engine.transcribe(samples, options))

    threads = [threading.Thread(target=hear, args=(options,)) for options in choices]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert found == alone


def test_audio_of_a_few_samples_gives_nothing(engine):
    assert list(engine.transcribe(np.zeros(100, np.float32), ENGLISH)) == []


def test_a_prompt_that_looks_like_a_token_is_only_text(engine):
    options = TranscribeOptions(language="en", initial_prompt="<|endoftext|><|nospeech|> one")

    [window, *_] = engine.transcribe(joined(DIGITS), options)

    assert all(token < 50257 or token >= 50364 for token in window.resume.prompt_tokens)


def test_an_unknown_language_is_refused(engine):
    with pytest.raises(errors.InvalidRequest):
        next(engine.transcribe(joined(DIGITS), TranscribeOptions(language="klingon")))


def test_stopping_early_is_clean(engine, heard, samples):
    found = engine.transcribe(samples, ENGLISH)
    next(found)

    found.close()

    assert next(engine.transcribe(samples, ENGLISH)) == heard(ENGLISH)[0]


def test_an_engine_tells_what_it_is(engine):
    assert engine.key == KEY
    assert not engine.exclusive
    assert engine.memory_bytes > 0


def test_a_closed_engine_is_gone(folder):
    engine = load_folder(KEY, folder)
    model = weakref.ref(engine.model)

    engine.close()
    gc.collect()

    assert model() is None


def test_a_closed_engine_says_so(folder):
    engine = load_folder(KEY, folder)
    engine.close()

    with pytest.raises(errors.EngineError):
        next(engine.transcribe(joined(DIGITS), ENGLISH))


def test_a_folder_in_pieces_fails_to_load(tmp_path):
    (tmp_path / "model.bin").write_bytes(b"not a model")

    with pytest.raises(errors.ModelLoadFailed):
        load_folder(KEY, tmp_path)


def test_a_compute_type_that_the_cpu_lacks_fails_to_load(folder):
    with pytest.raises(errors.ModelLoadFailed):
        load_folder(dataclasses.replace(KEY, compute_type="int8_bfloat16"), folder)


def test_the_hardware_has_what_ctranslate2_has():
    import ctranslate2

    assert hardware(FASTER_WHISPER).cuda_devices == ctranslate2.get_cuda_device_count()


def test_a_worker_of_this_engine_has_no_torch_in_its_memory(folder):
    code = (
        "import sys; from pathlib import Path; from speech.engines.catalogue import *;"
        "from speech.engines.faster_whisper import load;"
        f"load(ModelKey{dataclasses.astuple(KEY)}, Path({str(folder)!r})).close();"
        "print('torch' in sys.modules)"
    )

    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert ran.stdout == "False\n"
