"""A converted checkpoint is the same model."""

import dataclasses
import functools
import json

import ctranslate2
import numpy as np
import pytest
import torch
from faster_whisper import WhisperModel
from hypothesis import given, settings
from hypothesis import strategies as st
from whisper.decoding import DecodingOptions
from whisper.tokenizer import get_tokenizer

import errors
from speech.engines.convert import convert, fast_tokenizer, vocabulary
from speech.engines.store import is_converted
from tests.speech.engines.checkpoints import ENGLISH, LARGE_V3, MULTILINGUAL, write_checkpoint

pytestmark = pytest.mark.model

DIMS = {"tiny.en": ENGLISH, "tiny": MULTILINGUAL, "large-v3": LARGE_V3}


def mel_of(n_mels: int):
    return np.random.default_rng(5).uniform(-1, 1, (n_mels, 3000)).astype(np.float32)


@pytest.fixture(scope="module", params=DIMS)
def pair(request, tmp_path_factory):
    """A model of random weights, and what it was converted to."""
    folder = tmp_path_factory.mktemp("models")
    original = write_checkpoint(folder / "random.pt", DIMS[request.param])
    convert(folder / "random.pt", folder / "converted")
    return original, WhisperModel(
        str(folder / "converted"), device="cpu", compute_type="float32", cpu_threads=1
    )


def test_the_encoders_hear_the_same(pair):
    original, converted = pair
    mel = mel_of(original.dims.n_mels)
    with torch.no_grad():
        theirs = original.encoder(torch.from_numpy(mel)[None]).numpy()

    ours = np.array(converted.encode(mel))

    np.testing.assert_allclose(ours, theirs, atol=2e-4)


def test_the_decoders_say_the_same(pair):
    original, converted = pair
    mel = mel_of(original.dims.n_mels)
    tokenizer = get_tokenizer(
        original.is_multilingual, num_languages=original.num_languages, language="de"
    )
    prompt = [tokenizer.sot_prev, 1000, 2000, *tokenizer.sot_sequence]
    options = DecodingOptions(language="de", prompt=[1000, 2000], fp16=False, sample_len=20)
    theirs = original.decode(torch.from_numpy(mel), options)

    [ours] = converted.model.generate(
        converted.encode(mel), [prompt], beam_size=1, max_length=44, return_no_speech_prob=True
    )

    assert ours.sequences_ids[0][:20] == theirs.tokens
    assert len(theirs.tokens) == 20
    assert ours.no_speech_prob == pytest.approx(theirs.no_speech_prob, rel=1e-3)


@pytest.mark.parametrize("pair", [name for name in DIMS if name != "tiny.en"], indirect=True)
def test_the_languages_are_as_probable(pair):
    original, converted = pair
    mel = mel_of(original.dims.n_mels)
    _, theirs = original.detect_language(torch.from_numpy(mel))

    [ours] = converted.model.detect_language(converted.encode(mel))

    assert {token[2:-2]: p for token, p in ours} == pytest.approx(theirs, rel=1e-3)


def test_the_converted_model_knows_its_mels_and_languages(pair):
    original, converted = pair

    assert converted.model.n_mels == original.dims.n_mels
    assert converted.model.is_multilingual == original.is_multilingual
    assert converted.feature_extractor.mel_filters.shape[0] == original.dims.n_mels


def test_words_are_timed_by_the_heads_that_openai_whisper_names(tmp_path):
    dims = dataclasses.replace(MULTILINGUAL, n_text_layer=4, n_text_head=6, n_text_state=96)
    dims = dataclasses.replace(dims, n_audio_state=96, n_audio_head=6)
    write_checkpoint(tmp_path / "tiny.pt", dims)

    convert(tmp_path / "tiny.pt", tmp_path / "converted")

    config = json.loads((tmp_path / "converted" / "config.json").read_text())
    # As Hugging Face's generation_config.json of openai/whisper-tiny.
    assert config["alignment_heads"] == [[2, 2], [3, 0], [3, 2], [3, 3], [3, 4], [3, 5]]


def test_words_of_an_unknown_model_are_timed_by_its_later_half(tmp_path):
    write_checkpoint(tmp_path / "mine.pt")

    convert(tmp_path / "mine.pt", tmp_path / "converted")

    config = json.loads((tmp_path / "converted" / "config.json").read_text())
    assert config["alignment_heads"] == [[1, 0], [1, 1]]


def test_a_model_can_be_stored_smaller(tmp_path):
    write_checkpoint(tmp_path / "mine.pt")

    convert(tmp_path / "mine.pt", tmp_path / "converted", quantization="int8")

    whole, small = tmp_path / "mine.pt", tmp_path / "converted" / "model.bin"
    assert small.stat().st_size < whole.stat().st_size / 3
    ctranslate2.models.Whisper(str(small.parent), compute_type="int8").unload_model()


def test_a_converted_model_has_all_of_its_files(tmp_path):
    write_checkpoint(tmp_path / "mine.pt")

    convert(tmp_path / "mine.pt", tmp_path / "converted")

    assert is_converted(tmp_path / "converted")


def test_what_is_no_checkpoint_is_an_error_and_leaves_nothing(tmp_path):
    (tmp_path / "mine.pt").write_bytes(b"not a checkpoint")

    with pytest.raises(errors.ModelLoadFailed):
        convert(tmp_path / "mine.pt", tmp_path / "converted")

    assert list(tmp_path.iterdir()) == [tmp_path / "mine.pt"]


def test_what_is_no_checkpoint_is_named(tmp_path):
    (tmp_path / "mine.pt").write_bytes(b"not a checkpoint")

    with pytest.raises(errors.ModelLoadFailed, match=r"^mine\.pt is not a checkpoint"):
        convert(tmp_path / "mine.pt", tmp_path / "converted")


def test_a_checkpoint_that_is_not_there_is_named(tmp_path):
    with pytest.raises(errors.ModelUnavailable, match=r"mine\.pt cannot be read: No such file"):
        convert(tmp_path / "mine.pt", tmp_path / "converted")


def test_a_quantization_that_is_not_there_is_refused_with_those_that_are(tmp_path):
    write_checkpoint(tmp_path / "mine.pt")

    with pytest.raises(errors.InvalidRequest, match=r"'int9'; there is: int8, .*float32\.$"):
        convert(tmp_path / "mine.pt", tmp_path / "converted", quantization="int9")


def test_a_folder_with_a_file_in_it_is_left_alone(tmp_path):
    write_checkpoint(tmp_path / "mine.pt")
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers" / "thesis.txt").write_text("years of work")

    with pytest.raises(errors.ModelUnavailable, match=r"something is there already"):
        convert(tmp_path / "mine.pt", tmp_path / "papers")

    assert (tmp_path / "papers" / "thesis.txt").read_text() == "years of work"


TOKENIZERS = {
    "english": get_tokenizer(multilingual=False),
    "multilingual": get_tokenizer(multilingual=True),
    "large-v3": get_tokenizer(multilingual=True, num_languages=100),
}


@functools.cache
def fast(name: str):
    return fast_tokenizer(TOKENIZERS[name])


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(deadline=None)
@given(text=st.text())
def test_texts_become_the_same_tokens(name, text):
    assert fast(name).encode(text).ids == TOKENIZERS[name].encode(text, disallowed_special=())


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize(
    "text",
    [
        " And so my fellow Americans, ask not what your country can do for you.",
        " Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich.",
        " 東京は今日も雨です。  ",
        "they're we'll I'd 12,345.67 €\n\n\tnaïve 👩‍👩‍👧 ",
    ],
)
def test_real_sentences_become_the_same_tokens_and_back(name, text):
    tokens = TOKENIZERS[name].encode(text)

    assert fast(name).encode(text).ids == tokens
    assert fast(name).decode(tokens) == text


@pytest.mark.parametrize("name", TOKENIZERS)
def test_special_tokens_have_their_places(name):
    special = TOKENIZERS[name].special_tokens

    assert {text: fast(name).token_to_id(text) for text in special} == special


@pytest.mark.parametrize("name", TOKENIZERS)
def test_the_vocabulary_lists_every_token_in_order(name):
    words = vocabulary(TOKENIZERS[name])

    assert [fast(name).token_to_id(word) for word in words] == list(range(len(words)))
    assert len(words) == TOKENIZERS[name].encoding.n_vocab
