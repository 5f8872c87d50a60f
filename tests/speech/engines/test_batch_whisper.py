"""batch-whisper behind the Protocol: openai-whisper's own text is the reference."""

import contextlib
import dataclasses
import functools
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import openvino
import pytest

import errors
from speech.engines import ModelKey, ModelStore, fetch, find, hardware, load
from speech.engines.batch_whisper import BF16, BatchWhisper
from speech.engines.batch_whisper import load as load_folder
from speech.engines.catalogue import BATCH_WHISPER, OPENAI_WHISPER, resolve
from speech.engines.converted import encoder_beside
from speech.engines.fitting import COMPUTE_TYPES
from speech.transcript import ResumeState, Segment, TranscribeOptions, Window
from tests.recordings import PROJECT_DIR
from tests.speech.engines.recordings import long_recording

pytestmark = pytest.mark.model

KEY = ModelKey(BATCH_WHISPER, "demo", "cpu", "float32")
#: The demo model's weights, prompted with the text so far as other models are.
PROMPTED = dataclasses.replace(resolve("demo"), takes_previous_text=True)
ENGLISH = TranscribeOptions(language="en")
PATIENCE_SECONDS = 60


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> ModelStore:
    return ModelStore(tmp_path_factory.mktemp("models"), download_allowed=False)


@pytest.fixture(scope="module")
def folder(store) -> Path:
    return fetch(KEY, store)


@pytest.fixture(scope="module")
def engine(folder) -> Iterator[BatchWhisper]:
    engine = load_folder(KEY, folder, threads=1, runners=2)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def reference(store):
    engine = load(ModelKey(OPENAI_WHISPER, "demo", "cpu", "float32"), store, threads=1)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def samples():
    return long_recording()


@pytest.fixture(scope="module")
def heard(engine, samples):
    return functools.cache(lambda options: list(engine.transcribe(samples, options)))


def segments_of(found: list[Window]) -> list[Segment]:
    return [segment for window in found for segment in window.segments]


def rows(found: list[Window]) -> list[tuple]:
    return [
        (
            segment.text,
            pytest.approx(segment.start_seconds, abs=0.02),
            pytest.approx(segment.end_seconds, abs=0.02),
            [word.text for word in segment.words],
            pytest.approx(segment.avg_logprob, abs=0.02),
            pytest.approx(segment.no_speech_prob, abs=0.02),
            segment.temperature,
        )
        for segment in segments_of(found)
    ]


CHOICES = {
    "english": ENGLISH,
    "detected": TranscribeOptions(),
    "words": TranscribeOptions(language="en", word_timestamps=True),
    "prompted": TranscribeOptions(language="en", initial_prompt="one two three"),
    "unconditioned": TranscribeOptions(language="en", condition_on_previous_text=False),
    "urgent": TranscribeOptions(language="en", urgent=True),
}


@pytest.mark.parametrize("choice", CHOICES)
def test_segments_are_those_of_openai_whisper(heard, reference, samples, choice):
    ours = heard(CHOICES[choice])

    assert rows(ours) == rows(list(reference.transcribe(samples, CHOICES[choice])))


def test_the_language_is_detected_and_how_surely(heard):
    last = heard(TranscribeOptions())[-1].resume

    assert last.language == "en"
    assert last.language_probability > 0.5


@pytest.mark.parametrize("words", [False, True])
def test_a_resumed_run_gives_the_same_text(engine, heard, samples, words):
    options = TranscribeOptions(language="en", word_timestamps=words)
    whole = heard(options)
    state = ResumeState.from_json(whole[0].resume.to_json())

    assert rows(list(engine.transcribe(samples, options, state))) == rows(whole[1:])


def test_the_text_so_far_prompts_the_next_window(folder, samples):
    engine = load_folder(KEY, folder, threads=1, runners=1, spec=PROMPTED)
    first = next(engine.transcribe(samples, ENGLISH))
    engine.close()

    assert first.resume.prompt_tokens


@pytest.mark.parametrize("compute_type", COMPUTE_TYPES[BATCH_WHISPER, "cpu"])
def test_every_compute_type_hears_the_words(folder, samples, heard, compute_type):
    if compute_type in hardware(BATCH_WHISPER).cpu_lacks:
        pytest.skip("this processor has no bfloat16")
    key = dataclasses.replace(KEY, compute_type=compute_type)
    engine = load_folder(key, folder, threads=1, runners=1)
    texts = [segment.text for segment in segments_of(list(engine.transcribe(samples, ENGLISH)))]
    engine.close()

    assert texts == [segment.text for segment in segments_of(heard(ENGLISH))]


def test_bfloat16_is_for_processors_that_have_it():
    able = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")

    assert ("int8_bfloat16" in hardware(BATCH_WHISPER).cpu_lacks) == (BF16 not in able)


# Many at a time


def test_many_recordings_are_heard_each_as_if_it_were_alone(engine, samples):
    parts = [samples[seconds * 16_000 :] for seconds in range(0, 48, 4)]
    alone = [segments_of(list(engine.transcribe(part, ENGLISH))) for part in parts]
    with ThreadPoolExecutor(len(parts)) as threads:
        together = list(
            threads.map(lambda p: segments_of(list(engine.transcribe(p, ENGLISH))), parts)
        )

    assert [[s.text for s in one] for one in together] == [[s.text for s in one] for one in alone]


def test_windows_of_many_recordings_are_worked_on_together(folder, samples):
    engine = load_folder(KEY, folder, threads=1, runners=1)
    begin = threading.Barrier(8)

    def hear(number: int) -> list[Window]:
        begin.wait(PATIENCE_SECONDS)
        return list(engine.transcribe(samples, ENGLISH))

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(hear, range(8)))
    stats = engine.stats()
    engine.close()

    assert stats.items >= 8 * 3
    assert stats.mean_batch > 2


def test_languages_and_prompts_mix(engine, samples):
    choices = [*CHOICES.values(), TranscribeOptions(language="es")]
    alone = [segments_of(list(engine.transcribe(samples, options))) for options in choices]
    with ThreadPoolExecutor(len(choices)) as threads:
        together = list(
            threads.map(
                lambda options: segments_of(list(engine.transcribe(samples, options))), choices
            )
        )

    assert [[s.text for s in one] for one in together] == [[s.text for s in one] for one in alone]


def test_a_recording_that_cannot_be_heard_harms_no_other(engine, samples, heard):
    broken = np.full(len(samples), np.nan, np.float32)

    def hear(recording) -> list[Window]:
        with contextlib.suppress(errors.EngineError):
            return list(engine.transcribe(recording, ENGLISH))
        return []

    with ThreadPoolExecutor(4) as threads:
        _, *others = threads.map(hear, [broken, samples, samples, samples])

    assert [rows(other) for other in others] == [rows(heard(ENGLISH))] * 3


def test_a_language_that_the_model_does_not_know_is_refused(engine, samples):
    with pytest.raises(errors.InvalidRequest):
        next(engine.transcribe(samples, TranscribeOptions(language="xx")))


# Loading and closing


def test_closed_it_can_no_longer_be_used(folder, samples):
    engine = load_folder(KEY, folder, threads=1, runners=1)
    windows = engine.transcribe(samples, ENGLISH)
    next(windows)
    engine.close()

    with pytest.raises(errors.EngineError):
        next(windows)


def test_both_halves_are_made_of_the_checkpoint(store, folder):
    assert find(KEY, store) == folder
    assert {path.name for path in encoder_beside(folder).iterdir()} == {
        "encoder.bin",
        "encoder.xml",
    }


def test_a_half_that_is_damaged_is_made_again(tmp_path, samples, heard):
    store = ModelStore(tmp_path, download_allowed=False)
    encoder = encoder_beside(fetch(KEY, store))
    (encoder / "encoder.bin").unlink()
    engine = load(KEY, store, threads=1)
    texts = [segment.text for segment in segments_of(list(engine.transcribe(samples, ENGLISH)))]
    engine.close()

    assert texts == [segment.text for segment in segments_of(heard(ENGLISH))]


def test_what_is_no_encoder_cannot_be_loaded(tmp_path):
    folder = fetch(KEY, ModelStore(tmp_path, download_allowed=False))
    (encoder_beside(folder) / "encoder.xml").write_text("<net/>")

    with pytest.raises(errors.ModelLoadFailed):
        load_folder(KEY, folder)


FETCH = """
import json, sys
from pathlib import Path
from speech.engines import ModelKey, ModelStore, fetch

folder = fetch(ModelKey(*json.loads(sys.argv[2])), ModelStore(Path(sys.argv[1])))
print(folder)
"""


def test_two_processes_may_make_them_at_once(tmp_path):
    command = [sys.executable, "-c", FETCH, tmp_path, json.dumps(dataclasses.astuple(KEY))]
    started = [
        subprocess.Popen(command, cwd=PROJECT_DIR, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    told = [process.communicate(timeout=PATIENCE_SECONDS)[0].strip() for process in started]

    assert told[0] == told[1]
    assert [process.returncode for process in started] == [0, 0]
    load_folder(KEY, Path(told[0])).close()
