"""The table of models."""

import dataclasses
import subprocess
import sys

import pytest

import errors
from speech.engines import catalogue
from speech.engines.catalogue import OPENAI_WHISPER, ModelKey
from speech.engines.languages import LANGUAGES
from speech.engines.store import DEMO_CHECKPOINT
from speech.transcript import ResumeState


def test_checkpoint_urls_are_those_of_openai_whisper():
    import whisper

    ours = {name: catalogue.resolve(name).checkpoint_url for name in catalogue.NAMES}

    del ours[catalogue.DEMO]
    assert ours == whisper._MODELS


def test_hub_repositories_are_those_of_faster_whisper():
    from faster_whisper.utils import _MODELS

    ours = {name: catalogue.resolve(name).hub_repository for name in catalogue.NAMES}

    del ours[catalogue.DEMO]
    assert ours == {name: _MODELS[name] for name in ours}


def test_languages_are_those_of_openai_whisper_in_its_order():
    from whisper.tokenizer import LANGUAGES as THEIRS

    assert list(LANGUAGES.items()) == list(THEIRS.items())


@pytest.mark.parametrize("name", [name for name in catalogue.MODELS if name != catalogue.DEMO])
def test_parameters_fit_the_known_download_size(name):
    """Sizes as OpenAI's server reports them, in MiB, rounded down."""
    known = {
        "tiny": 72, "base": 138, "small": 461, "medium": 1457,
        "large-v1": 2944, "large-v2": 2944, "large-v3": 2944, "large-v3-turbo": 1543,
    }  # fmt: skip

    megabytes = catalogue.MODELS[name].download_bytes / 2**20
    assert megabytes == pytest.approx(known[name.removesuffix(".en")], rel=0.01)


def test_the_demo_model_is_as_large_as_its_file_says():
    import torch

    weights = torch.load(DEMO_CHECKPOINT, weights_only=True)["model_state_dict"].values()

    assert catalogue.resolve("demo").parameters == sum(weight.numel() for weight in weights)


@pytest.mark.parametrize(
    ("name", "model"),
    [("large", "large-v3"), ("turbo", "large-v3-turbo"), ("base", "base"), ("demo", "demo")],
)
def test_a_name_or_an_alias_finds_its_model(name, model):
    assert catalogue.resolve(name).name == model


@pytest.mark.parametrize("name", ["", "huge", "../base", "Systran/faster-whisper-tiny", "BASE"])
def test_an_unknown_name_is_refused(name):
    with pytest.raises(errors.UnknownModel) as caught:
        catalogue.resolve(name)

    assert "large-v3" in caught.value.data["models"]


def test_english_only_models_know_english_only():
    assert catalogue.resolve("small.en").languages == ("en",)


def test_only_the_large_v3_family_knows_cantonese():
    knowing = {name for name, spec in catalogue.MODELS.items() if "yue" in spec.languages}

    assert knowing == {"large-v3", "large-v3-turbo"}


def test_a_key_reads_as_a_path_of_its_parts():
    assert str(ModelKey(OPENAI_WHISPER, "demo", "cpu", "float32")) == (
        "openai-whisper/demo/cpu/float32"
    )


@pytest.mark.parametrize("name", list(catalogue.MODELS))
def test_timestamps_begin_where_openai_whisper_has_them(name):
    from whisper.tokenizer import get_tokenizer

    spec = catalogue.MODELS[name]
    theirs = get_tokenizer(spec.multilingual, num_languages=max(99, len(spec.languages)))

    assert spec.first_timestamp_token == theirs.timestamp_begin


def test_a_step_to_a_model_with_fewer_languages_keeps_text_and_times():
    state = ResumeState(next_frame=3000, language="en", prompt_tokens=(50365, 1000, 50465))

    carried = catalogue.carry_over(state, "large-v3", "small")

    assert carried == dataclasses.replace(state, prompt_tokens=(50364, 1000, 50464))


def test_a_step_between_like_models_changes_nothing():
    state = ResumeState(next_frame=3000, language="en", prompt_tokens=(50364, 1000, 50464))

    assert catalogue.carry_over(state, "medium", "tiny") == state


def test_a_step_to_another_vocabulary_forgets_the_text():
    state = ResumeState(next_frame=3000, language="en", prompt_tokens=(50363, 1000))

    assert catalogue.carry_over(state, "base.en", "base").prompt_tokens == ()


def test_the_catalogue_loads_no_engine_and_no_numpy():
    code = "import sys, speech.engines.catalogue; print(*sys.modules)"

    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, text=True
    )

    heavy = {"torch", "whisper", "faster_whisper", "ctranslate2", "numpy", "huggingface_hub"}
    assert heavy.isdisjoint(loaded.stdout.split())
