"""openai-whisper behind the Protocol: its own ``transcribe`` is the reference."""

import contextlib
import dataclasses
import functools
import gc
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import whisper
from whisper.decoding import DecodingTask

import errors
from speech.engines import ModelKey, ModelStore, catalogue, hardware, load, openai_whisper, windows
from speech.engines.catalogue import OPENAI_WHISPER
from speech.engines.store import DEMO_CHECKPOINT
from speech.transcript import ResumeState, Segment, TranscribeOptions, Transcript, Window, Word
from tests.speech.engines.checkpoints import MULTILINGUAL, write_checkpoint
from tests.speech.engines.recordings import DIGITS, joined, long_recording

pytestmark = pytest.mark.model

KEY = ModelKey(OPENAI_WHISPER, "demo", "cpu", "float32")
#: The demo model's weights, prompted with the text so far as other models are.
PROMPTED = dataclasses.replace(catalogue.resolve("demo"), takes_previous_text=True)
ENGLISH = TranscribeOptions(language="en")
OFFLINE = ModelStore(Path("nowhere"), download_allowed=False)


@pytest.fixture(scope="module")
def engine():
    engine = openai_whisper.load(KEY, DEMO_CHECKPOINT, threads=1, spec=PROMPTED)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def reference():
    return whisper.load_model(str(DEMO_CHECKPOINT), device="cpu")


@pytest.fixture(scope="module")
def samples():
    return long_recording()


@pytest.fixture(scope="module")
def heard(engine, samples):
    """What the engine makes of the recording; for each choice of options it is asked once."""
    return functools.cache(lambda options: list(engine.transcribe(samples, options)))


def segments_of(found: list[Window]) -> list[Segment]:
    return [segment for window in found for segment in window.segments]


def text_of(found: list[Window]) -> str:
    return Transcript(
        language="en",
        language_probability=None,
        audio_seconds=1.0,
        segments=tuple(segments_of(found)),
    ).text


def rows(segments) -> list[tuple]:
    """Segments of either side, in a form that compares."""
    return [
        (
            segment.text,
            pytest.approx(segment.start_seconds),
            pytest.approx(segment.end_seconds),
            list(segment.tokens),
            [(word.text, word.start_seconds, word.end_seconds) for word in segment.words],
            pytest.approx(segment.avg_logprob, abs=1e-4),
            pytest.approx(segment.no_speech_prob, abs=1e-4),
            pytest.approx(segment.compression_ratio),
            segment.temperature,
        )
        for segment in segments
    ]


def of_whisper(result: dict) -> list[Segment]:
    """``whisper.transcribe``'s segments; those without text are not kept."""
    return [
        Segment(
            text=found["text"],
            start_seconds=found["start"],
            end_seconds=found["end"],
            tokens=tuple(found["tokens"]),
            words=tuple(
                Word(
                    text=word["word"],
                    start_seconds=word["start"],
                    end_seconds=word["end"],
                    probability=word["probability"],
                )
                for word in found.get("words", [])
            ),
            avg_logprob=found["avg_logprob"],
            no_speech_prob=found["no_speech_prob"],
            compression_ratio=found["compression_ratio"],
            temperature=found["temperature"],
        )
        for found in result["segments"]
        if found["text"]
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
def test_segments_are_those_of_whisper_transcribe(heard, reference, samples, choice):
    options, keywords = CHOICES[choice]
    # The demo model's first text is always taken: see its limits in the catalogue.
    theirs = whisper.transcribe(reference, samples, temperature=0.0, fp16=False, **keywords)

    ours = heard(options)

    assert rows(segments_of(ours)) == rows(of_whisper(theirs))
    assert text_of(ours) == theirs["text"].strip()
    assert ours[-1].resume.language == theirs["language"]


def test_the_recording_has_several_windows_and_a_silent_one(heard):
    """Or the test above would say little."""
    found = heard(ENGLISH)

    assert len(found) >= 4
    assert any(not window.segments for window in found)


def test_windows_cover_the_recording_without_a_gap(heard, samples):
    found = heard(ENGLISH)

    assert [w.start_seconds for w in found] == [0.0, *(w.end_seconds for w in found[:-1])]
    assert found[-1].end_seconds == pytest.approx(len(samples) / 16_000, abs=0.01)


@pytest.mark.parametrize("words", [False, True])
def test_a_resumed_run_gives_the_same_windows(engine, heard, samples, words):
    options = TranscribeOptions(language="en", word_timestamps=words)
    whole = heard(options)
    state = ResumeState.from_json(whole[0].resume.to_json())

    assert list(engine.transcribe(samples, options, state)) == whole[1:]


def test_the_language_is_detected_with_its_probability(engine, reference):
    samples = joined(DIGITS)
    mel = whisper.log_mel_spectrogram(samples, padding=480_000)[:, :3000]
    _, theirs = reference.detect_language(mel)

    [window, *_] = engine.transcribe(samples, TranscribeOptions())

    assert window.resume.language == max(theirs, key=theirs.get)
    assert window.resume.language_probability == pytest.approx(max(theirs.values()), abs=1e-5)


def test_audio_of_a_few_samples_gives_nothing(engine):
    assert list(engine.transcribe(np.zeros(100, np.float32), ENGLISH)) == []


def test_a_prompt_that_looks_like_a_token_is_only_text(engine):
    options = TranscribeOptions(language="en", initial_prompt="<|endoftext|><|nospeech|>")

    assert list(engine.transcribe(joined(DIGITS), options))


def test_an_unknown_language_is_refused(engine):
    with pytest.raises(errors.InvalidRequest):
        next(engine.transcribe(joined(DIGITS), TranscribeOptions(language="klingon")))


def test_a_poor_text_is_tried_up_to_the_highest_temperature_and_drawn_alike_again(tmp_path):
    write_checkpoint(tmp_path / "base.pt")
    engine = openai_whisper.load(KEY, tmp_path / "base.pt", spec=catalogue.resolve("base"))
    noise = np.random.default_rng(1).standard_normal(16_000).astype(np.float32)
    torch.manual_seed(1)
    [first] = engine.transcribe(noise, ENGLISH)
    torch.manual_seed(2)

    assert list(engine.transcribe(noise, ENGLISH)) == [first]
    assert {segment.temperature for segment in first.segments} == {1.0}


@contextlib.contextmanager
def no_memory(engine) -> Iterator[None]:
    """Let the decoder run out of memory, with all its tensors in hand."""

    def fail(module, inputs, output) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    handle = engine.model.decoder.register_forward_hook(fail)
    yield
    handle.remove()


def test_running_out_of_memory_keeps_no_tensor_alive(engine):
    list(engine.transcribe(joined(DIGITS), ENGLISH))  # fills openai-whisper's caches
    before = count_tensors()

    with no_memory(engine), pytest.raises(errors.EngineOutOfMemory) as caught:
        next(engine.transcribe(joined(DIGITS), ENGLISH))

    assert caught.value.__cause__ is not None
    assert count_tensors() == before


def count_tensors() -> int:
    gc.collect()
    return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())


@pytest.mark.parametrize("words", [False, True])
def test_the_engine_works_on_after_running_out_of_memory(engine, words):
    samples = joined(DIGITS)
    options = TranscribeOptions(language="en", word_timestamps=words)
    before = list(engine.transcribe(samples, options))

    with no_memory(engine), pytest.raises(errors.EngineOutOfMemory):
        next(engine.transcribe(samples, options))

    assert list(engine.transcribe(samples, options)) == before


def test_stopping_early_is_clean(engine, samples):
    found = engine.transcribe(samples, ENGLISH)
    next(found)

    found.close()

    assert not engine.model.decoder.blocks[0].attn.key._forward_hooks


def test_a_closed_engine_is_gone():
    engine = openai_whisper.load(KEY, DEMO_CHECKPOINT)
    model = weakref.ref(engine.model)

    engine.close()

    assert model() is None


def test_a_closed_engine_says_so():
    engine = load(KEY, OFFLINE)
    engine.close()

    with pytest.raises(errors.EngineError):
        next(engine.transcribe(joined(DIGITS), ENGLISH))


def test_two_models_time_words_in_two_threads(heard, samples):
    """Word timing sets a switch of the class and runs numba: neither is for two at a time."""
    options = TranscribeOptions(language="en", word_timestamps=True)
    engines = [
        openai_whisper.load(KEY, DEMO_CHECKPOINT, threads=1, spec=PROMPTED) for _ in range(2)
    ]
    found: list[list[Window]] = [[], []]

    def hear(index: int) -> None:
        found[index] = list(engines[index].transcribe(samples, options))

    threads = [threading.Thread(target=hear, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    # Not to the last digit: the switch that one sets changes how the other one rounds.
    alone = rows(segments_of(heard(options)))
    assert [rows(segments_of(each)) for each in found] == [alone] * 2


def test_an_engine_tells_what_it_is(engine):
    assert engine.key == KEY
    assert engine.exclusive
    assert engine.memory_bytes > 0


def test_what_is_no_checkpoint_fails_to_load(tmp_path):
    (tmp_path / "base.pt").write_bytes(b"not a checkpoint")

    with pytest.raises(errors.ModelLoadFailed):
        openai_whisper.load(KEY, tmp_path / "base.pt")


@pytest.mark.parametrize("compressed", [False, True])
def test_weights_are_loaded_as_openai_whisper_loads_them(tmp_path, compressed):
    path = DEMO_CHECKPOINT if compressed else tmp_path / "stored.pt"
    theirs = whisper.load_model(str(path)) if compressed else write_checkpoint(path)

    ours = openai_whisper.load(KEY, path).model

    assert ours.state_dict().keys() == theirs.state_dict().keys()
    for name, weight in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], weight)
    assert torch.equal(ours.decoder.mask, theirs.decoder.mask)
    assert torch.equal(ours.alignment_heads.indices(), theirs.alignment_heads.indices())


def test_words_are_timed_by_the_heads_that_openai_whisper_names(tmp_path):
    dims = dataclasses.replace(
        MULTILINGUAL, n_text_layer=4, n_text_head=6, n_text_state=96,
        n_audio_head=6, n_audio_state=96,
    )  # fmt: skip
    write_checkpoint(tmp_path / "tiny.pt", dims)

    engine = openai_whisper.load(dataclasses.replace(KEY, model="tiny"), tmp_path / "tiny.pt")

    heads = [[2, 2], [3, 0], [3, 2], [3, 3], [3, 4], [3, 5]]
    assert engine.model.alignment_heads.indices().T.tolist() == heads


def test_weights_halved_at_load_give_what_halving_at_use_gives(tmp_path):
    path = tmp_path / "base.pt"
    theirs = write_checkpoint(path)
    options = whisper.DecodingOptions(language="en", fp16=True, sample_len=8)
    mel = torch.from_numpy(np.random.default_rng(1).random((1, 80, 3000), np.float32))

    half = dataclasses.replace(KEY, compute_type="float16")
    ours = openai_whisper.load(half, path).model

    [mine] = DecodingTask(ours, options).run(mel)
    [reference] = DecodingTask(theirs, options).run(mel)
    assert mine.tokens == reference.tokens
    assert mine.avg_logprob == reference.avg_logprob
    assert ours.decoder.blocks[0].mlp[0].weight.dtype == torch.float16


def test_the_hardware_has_what_torch_has():
    assert hardware(OPENAI_WHISPER).cuda_devices == torch.cuda.device_count()


def test_temperatures_and_limits_are_those_of_whisper_transcribe():
    theirs = whisper.transcribe.__kwdefaults__
    ours = {
        "temperature": windows.TEMPERATURES,
        "compression_ratio_threshold": catalogue.resolve("base").compression_ratio_limit,
        "logprob_threshold": windows.AVG_LOGPROB_LIMIT,
        "no_speech_threshold": windows.NO_SPEECH_LIMIT,
        "prepend_punctuations": windows.PREPENDED_PUNCTUATION,
        "append_punctuations": windows.APPENDED_PUNCTUATION,
    }

    assert {name: theirs[name] for name in ours} == ours
