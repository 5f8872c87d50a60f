"""The table of models, and the ladder for when memory runs out."""

import dataclasses
import subprocess
import sys

import pytest

import errors
from speech.engines import catalogue
from speech.engines.catalogue import FASTER_WHISPER, OPENAI_WHISPER, Hardware, ModelKey
from speech.engines.languages import LANGUAGES
from speech.engines.store import DEMO_CHECKPOINT
from speech.transcript import ResumeState

GPU = Hardware(cuda_devices=2, cuda_compute_types=frozenset({"float32", "float16", "int8_float16"}))
OLD_GPU = Hardware(cuda_devices=1, cuda_compute_types=frozenset({"float32", "int8"}))
NO_GPU = Hardware()
MAC = Hardware(mps=True)


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


@pytest.mark.parametrize(
    ("key", "known_megabytes"),
    [
        # The README of openai-whisper: gigabytes of a GPU, rounded up.
        (ModelKey(OPENAI_WHISPER, "large-v3", "cuda", "float32"), 10_000),
        (ModelKey(OPENAI_WHISPER, "large-v3-turbo", "cuda", "float32"), 6_000),
        (ModelKey(OPENAI_WHISPER, "medium", "cuda", "float32"), 5_000),
        (ModelKey(OPENAI_WHISPER, "small", "cuda", "float32"), 2_000),
        # The README of faster-whisper, with CUDA's context.
        (ModelKey(FASTER_WHISPER, "large-v2", "cuda", "float16"), 4_525),
        (ModelKey(FASTER_WHISPER, "large-v2", "cuda", "int8_float16"), 2_926),
    ],
)
def test_the_memory_of_a_model_is_about_what_others_found(key, known_megabytes):
    assert 0.7 < catalogue.memory_bytes(key) / 1e6 / known_megabytes < 1.1


def test_a_key_reads_as_a_path_of_its_parts():
    assert str(ModelKey(OPENAI_WHISPER, "demo", "cpu", "float32")) == (
        "openai-whisper/demo/cpu/float32"
    )


@pytest.mark.parametrize(
    ("asked", "hardware", "device"),
    [
        ("auto", GPU, "cuda"),
        ("auto", NO_GPU, "cpu"),
        ("cpu", GPU, "cpu"),
        ("cuda", GPU, "cuda"),
        ("cuda:1", GPU, "cuda:1"),
        ("auto", MAC, "cpu"),
        ("mps", MAC, "mps"),
    ],
)
def test_the_device_is_the_one_asked_for_or_the_best(asked, hardware, device):
    assert catalogue.resolve_device(asked, hardware) == device


@pytest.mark.parametrize(
    ("asked", "hardware"),
    [("cuda", NO_GPU), ("cuda:2", GPU), ("tpu", GPU), ("cpu:1", GPU), ("mps", GPU)],
)
def test_a_device_that_is_not_here_is_refused(asked, hardware):
    with pytest.raises(errors.SettingsError, match=f"^WHISPER_DEVICE={asked}: .*; it has .*cpu"):
        catalogue.resolve_device(asked, hardware)


@pytest.mark.parametrize(
    ("engine", "device", "hardware", "compute_type"),
    [
        (OPENAI_WHISPER, "cpu", GPU, "float32"),
        (OPENAI_WHISPER, "cuda", GPU, "float16"),
        (OPENAI_WHISPER, "cuda:1", OLD_GPU, "float32"),
        (FASTER_WHISPER, "cpu", NO_GPU, "int8"),
        (FASTER_WHISPER, "cuda", GPU, "float16"),
        (FASTER_WHISPER, "cuda", OLD_GPU, "int8"),
    ],
)
def test_auto_is_the_first_compute_type_that_the_device_has(engine, device, hardware, compute_type):
    chosen = catalogue.resolve_compute_type("auto", engine=engine, device=device, hardware=hardware)

    assert chosen == compute_type


@pytest.mark.parametrize(
    ("engine", "hardware", "compute_type"),
    [(OPENAI_WHISPER, GPU, "float32"), (FASTER_WHISPER, OLD_GPU, "int8")],
)
def test_without_fp16_auto_takes_no_half_precision(engine, hardware, compute_type):
    chosen = catalogue.resolve_compute_type(
        "auto", engine=engine, device="cuda", hardware=hardware, fp16=False
    )

    assert chosen == compute_type


def test_faster_whisper_has_nothing_for_apples_gpu():
    with pytest.raises(errors.SettingsError):
        catalogue.resolve_compute_type("auto", engine=FASTER_WHISPER, device="mps", hardware=MAC)


def test_a_compute_type_that_the_device_lacks_is_refused():
    with pytest.raises(errors.SettingsError, match=r"^WHISPER_COMPUTE_TYPE=float16: .*; it has "):
        catalogue.resolve_compute_type(
            "float16", engine=FASTER_WHISPER, device="cuda", hardware=OLD_GPU
        )


def test_an_engine_that_lacks_what_another_was_set_to_takes_its_own(caplog):
    catalogue._say_replaced.cache_clear()
    chosen = [
        catalogue.resolve_compute_type(
            "int8", engine=OPENAI_WHISPER, device="cpu", hardware=NO_GPU, strict=False
        )
        for _ in range(2)
    ]

    assert chosen == ["float32", "float32"]
    (record,) = caplog.records  # once, not for each job
    assert (record.asked, record.chosen) == ("int8", "float32")


def test_an_engine_takes_what_another_was_set_to_where_it_can():
    chosen = catalogue.resolve_compute_type(
        "float32", engine=OPENAI_WHISPER, device="cuda", hardware=GPU, strict=False
    )

    assert chosen == "float32"


def test_the_ladder_of_a_gpu_ends_on_the_cpu():
    steps = catalogue.fallbacks(ModelKey(FASTER_WHISPER, "large-v3", "cuda:1", "float16"))

    assert [str(step).partition("/")[2] for step in steps] == [
        "large-v3/cuda:1/int8_float16",
        "large-v3-turbo/cuda:1/int8_float16",
        "small/cuda:1/int8_float16",
        "base/cuda:1/int8_float16",
        "tiny/cuda:1/int8_float16",
        "large-v3/cpu/int8",
        "large-v3-turbo/cpu/int8",
        "small/cpu/int8",
        "base/cpu/int8",
        "tiny/cpu/int8",
    ]


def test_a_translation_never_falls_back_on_turbo():
    steps = catalogue.fallbacks(
        ModelKey(OPENAI_WHISPER, "large-v2", "cpu", "float32"), translate=True
    )

    assert [step.model for step in steps] == ["medium", "small", "base", "tiny"]


def test_an_english_only_model_falls_back_on_english_only_models():
    steps = catalogue.fallbacks(ModelKey(OPENAI_WHISPER, "medium.en", "cpu", "float32"))

    assert [step.model for step in steps] == ["small.en", "base.en", "tiny.en"]


@pytest.mark.parametrize("model", ["demo", "tiny", "tiny.en"])
def test_nothing_is_smaller_than_the_smallest_on_a_cpu(model):
    assert catalogue.fallbacks(ModelKey(OPENAI_WHISPER, model, "cpu", "float32")) == ()


@pytest.mark.parametrize(
    ("language", "models"),
    [
        ("yue", ["large-v3-turbo"]),
        ("de", ["large-v3-turbo", "small", "base", "tiny"]),
        (None, ["large-v3-turbo", "small", "base", "tiny"]),
    ],
)
def test_models_that_do_not_know_the_language_are_passed_over(
    language: str | None, models: list[str]
) -> None:
    key = ModelKey(OPENAI_WHISPER, "large-v3", "cpu", "float32")
    steps = catalogue.fallbacks(key, language=language)

    assert [step.model for step in steps] == models


@pytest.mark.parametrize("model", list(catalogue.MODELS))
@pytest.mark.parametrize("engine", catalogue.ENGINES)
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_each_step_on_a_device_needs_less_memory(engine, device, model):
    for compute_type in catalogue.COMPUTE_TYPES[engine, device]:
        key = ModelKey(engine, model, device, compute_type)
        needs: dict[str, list[int]] = {"cpu": [], device: []}
        for step in (key, *catalogue.fallbacks(key)):
            needs[step.device].append(catalogue.memory_bytes(step))

        assert all(sorted(need, reverse=True) == need for need in needs.values())
        assert all(len(set(need)) == len(need) for need in needs.values())


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
