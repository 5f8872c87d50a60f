"""What a model runs on: device, compute type, memory, and the ladder for when memory runs out."""

from collections.abc import Iterator

import pytest

import errors
from speech.engines import catalogue, fitting
from speech.engines.catalogue import BATCH_WHISPER, FASTER_WHISPER, OPENAI_WHISPER, ModelKey
from speech.engines.fitting import Hardware

GPU = Hardware(cuda_devices=2, cuda_compute_types=frozenset({"float32", "float16", "int8_float16"}))
OLD_GPU = Hardware(cuda_devices=1, cuda_compute_types=frozenset({"float32", "int8"}))
NO_GPU = Hardware()
MAC = Hardware(mps=True)


@pytest.fixture
def nothing_said() -> Iterator[None]:
    """What is said once in a process has not been said."""
    fitting._say_replaced.cache_clear()
    yield
    fitting._say_replaced.cache_clear()


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
    assert 0.7 < fitting.memory_bytes(key) / 1e6 / known_megabytes < 1.1


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
    assert fitting.resolve_device(asked, hardware, engine=OPENAI_WHISPER) == device


@pytest.mark.parametrize(
    ("asked", "hardware"),
    [("cuda", NO_GPU), ("cuda:2", GPU), ("tpu", GPU), ("cpu:1", GPU), ("mps", GPU)],
)
def test_a_device_that_is_not_here_is_refused(asked, hardware):
    with pytest.raises(errors.SettingsError, match=f"^WHISPER_DEVICE={asked}: .*; it has .*cpu"):
        fitting.resolve_device(asked, hardware, engine=OPENAI_WHISPER)


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
    chosen = fitting.resolve_compute_type("auto", engine=engine, device=device, hardware=hardware)

    assert chosen == compute_type


@pytest.mark.parametrize(
    ("engine", "hardware", "compute_type"),
    [(OPENAI_WHISPER, GPU, "float32"), (FASTER_WHISPER, OLD_GPU, "int8")],
)
def test_without_fp16_auto_takes_no_half_precision(engine, hardware, compute_type):
    chosen = fitting.resolve_compute_type(
        "auto", engine=engine, device="cuda", hardware=hardware, fp16=False
    )

    assert chosen == compute_type


def test_faster_whisper_has_nothing_for_apples_gpu():
    with pytest.raises(errors.SettingsError):
        fitting.resolve_compute_type("auto", engine=FASTER_WHISPER, device="mps", hardware=MAC)


def test_a_compute_type_that_the_device_lacks_is_refused():
    with pytest.raises(errors.SettingsError, match=r"^WHISPER_COMPUTE_TYPE=float16: .*; it has "):
        fitting.resolve_compute_type(
            "float16", engine=FASTER_WHISPER, device="cuda", hardware=OLD_GPU
        )


@pytest.mark.usefixtures("nothing_said")
def test_an_engine_that_lacks_what_another_was_set_to_takes_its_own(caplog):
    chosen = [
        fitting.resolve_compute_type(
            "int8", engine=OPENAI_WHISPER, device="cpu", hardware=NO_GPU, strict=False
        )
        for _ in range(2)
    ]

    assert chosen == ["float32", "float32"]
    (record,) = caplog.records  # once, not for each job
    assert (record.asked, record.chosen) == ("int8", "float32")


@pytest.mark.usefixtures("nothing_said")
def test_an_engine_that_lacks_the_device_another_was_set_to_takes_its_own(caplog):
    chosen = [
        fitting.resolve_device("mps", NO_GPU, engine=FASTER_WHISPER, strict=False) for _ in range(2)
    ]

    assert chosen == ["cpu", "cpu"]
    (record,) = caplog.records
    assert (record.engine, record.asked, record.chosen) == (FASTER_WHISPER, "mps", "cpu")


def test_an_engine_takes_what_another_was_set_to_where_it_can():
    chosen = fitting.resolve_compute_type(
        "float32", engine=OPENAI_WHISPER, device="cuda", hardware=GPU, strict=False
    )

    assert chosen == "float32"


def test_the_ladder_of_a_gpu_ends_on_the_cpu():
    steps = fitting.fallbacks(ModelKey(FASTER_WHISPER, "large-v3", "cuda:1", "float16"))

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
    steps = fitting.fallbacks(
        ModelKey(OPENAI_WHISPER, "large-v2", "cpu", "float32"), translate=True
    )

    assert [step.model for step in steps] == ["medium", "small", "base", "tiny"]


def test_an_english_only_model_falls_back_on_english_only_models():
    steps = fitting.fallbacks(ModelKey(OPENAI_WHISPER, "medium.en", "cpu", "float32"))

    assert [step.model for step in steps] == ["small.en", "base.en", "tiny.en"]


@pytest.mark.parametrize("model", ["demo", "tiny", "tiny.en"])
def test_nothing_is_smaller_than_the_smallest_on_a_cpu(model):
    assert fitting.fallbacks(ModelKey(OPENAI_WHISPER, model, "cpu", "float32")) == ()


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
    steps = fitting.fallbacks(key, language=language)

    assert [step.model for step in steps] == models


@pytest.mark.parametrize("model", list(catalogue.MODELS))
@pytest.mark.parametrize(
    ("engine", "device"), [where for where in fitting.COMPUTE_TYPES if "mps" not in where]
)
def test_each_step_on_a_device_needs_less_memory(engine, device, model):
    for compute_type in fitting.COMPUTE_TYPES[engine, device]:
        key = ModelKey(engine, model, device, compute_type)
        needs: dict[str, list[int]] = {"cpu": [], device: []}
        for step in (key, *fitting.fallbacks(key)):
            needs[step.device].append(fitting.memory_bytes(step))

        assert all(sorted(need, reverse=True) == need for need in needs.values())
        assert all(len(set(need)) == len(need) for need in needs.values())


def test_a_compute_type_that_the_processor_lacks_is_passed_over():
    lacking = Hardware(cpu_lacks=frozenset({"int8_bfloat16"}))
    chosen = [
        fitting.resolve_compute_type("auto", engine=BATCH_WHISPER, device="cpu", hardware=hardware)
        for hardware in (Hardware(), lacking)
    ]

    assert chosen == ["int8_bfloat16", "int8_float32"]


def test_more_batches_at_a_time_need_more_memory():
    key = ModelKey(BATCH_WHISPER, "base", "cpu", "int8_bfloat16")

    assert fitting.memory_bytes(key, batches=2) > fitting.memory_bytes(key)
