"""What a model runs on here: device, compute type, memory, and what to try when it does not fit.

Imports no engine: what an engine's library can use is asked for as ``Hardware``.
"""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass

import errors
from speech.engines.catalogue import (
    BATCH_WHISPER,
    DEMO,
    FASTER_WHISPER,
    MODELS,
    OPENAI_WHISPER,
    ModelKey,
    resolve,
)

logger = logging.getLogger(__name__)

AUTO = "auto"

_WEIGHT_BYTES = {
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "int8": 1,
    "int8_float32": 1,
    "int8_float16": 1,
    "int8_bfloat16": 1,
}

#: Ten times the bytes of ``batch-whisper``'s encoder for each number of the whole model.
_ENCODER_BYTES = {"int8_bfloat16": 6, "int8_float32": 12, "float32": 12}

#: What each engine computes with, by kind of device; "auto" is the first that the device has.
COMPUTE_TYPES: dict[tuple[str, str], tuple[str, ...]] = {
    (OPENAI_WHISPER, "cpu"): ("float32",),
    (OPENAI_WHISPER, "cuda"): ("float16", "float32"),
    (OPENAI_WHISPER, "mps"): ("float32",),
    # the encoder's, after what the decoder's weights are stored as
    (BATCH_WHISPER, "cpu"): ("int8_bfloat16", "int8_float32", "float32"),
    (FASTER_WHISPER, "cpu"): ("int8", "float32", "int8_float32"),
    (FASTER_WHISPER, "cuda"): (
        "float16",
        "int8_float16",
        "bfloat16",
        "int8_bfloat16",
        "int8_float32",
        "int8",
        "float32",
    ),
}

#: Less memory on the same device, with nothing that a device could lack which had the larger one.
_SMALLER_COMPUTE_TYPE: dict[tuple[str, str], str] = {
    (BATCH_WHISPER, "float32"): "int8_float32",
    (OPENAI_WHISPER, "float32"): "float16",
    (FASTER_WHISPER, "float32"): "int8_float32",
    (FASTER_WHISPER, "float16"): "int8_float16",
    (FASTER_WHISPER, "bfloat16"): "int8_bfloat16",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """What one engine's library can use on this machine."""

    cuda_devices: int = 0
    #: Compute types that all GPUs here support; empty without one.
    cuda_compute_types: frozenset[str] = frozenset()
    #: Apple's GPU.
    mps: bool = False
    #: Compute types that need more of a processor than this one has.
    cpu_lacks: frozenset[str] = frozenset()


def memory_bytes(key: ModelKey, *, batches: int = 1) -> int:
    """About what a model takes at work, CUDA's own context and the loaded libraries not counted.

    Measured on a CPU for tiny, base and small (``batch-whisper``: tiny and base); it agrees with
    what both engines' READMEs say of the larger ones on a GPU.

    Args:
        batches: That are worked on at a time, where windows are batched.
    """
    numbers = resolve(key.model).parameters
    weights = numbers * _WEIGHT_BYTES[key.compute_type]
    if key.engine == BATCH_WHISPER:
        # the encoder is there twice: CTranslate2 loads its own as well; of each window of a batch
        # the decoder keeps what it hears, in single precision
        twice = numbers * (_WEIGHT_BYTES[key.compute_type] * 10 + _ENCODER_BYTES[key.compute_type])
        return 60_000_000 + twice // 10 + batches * (50_000_000 + 2 * numbers)
    if key.engine == OPENAI_WHISPER:
        # Timing words, it keeps the attention of all layers.
        return weights + 150_000_000 + 45 * weights // 100
    return weights + 120_000_000 + 60 * numbers // 100


def resolve_device(asked: str, hardware: Hardware, *, engine: str, strict: bool = True) -> str:
    """Choose the device: a CUDA GPU where there is one, unless told otherwise.

    Args:
        strict: False takes ``asked`` for "auto" where the engine has no such device, and says so
            in the log once: it was asked of another engine.

    Raises:
        SettingsError: ``asked`` is no device of this machine.
    """
    cuda = [f"cuda:{index}" for index in range(hardware.cuda_devices)]
    here = ["cuda", *cuda] if cuda else []
    here += ["mps", "cpu"] if hardware.mps else ["cpu"]
    if asked in here:
        return asked
    # Not "mps": openai-whisper cannot time words there.
    best = "cuda" if cuda else "cpu"
    if asked == AUTO:
        return best
    if not strict:
        _say_replaced(engine, "device", asked, best)
        return best
    raise errors.SettingsError(
        f"WHISPER_DEVICE={asked}: {engine} has no such device here; it has {', '.join(here)}"
    )


def resolve_compute_type(
    asked: str,
    *,
    engine: str,
    device: str,
    hardware: Hardware,
    fp16: bool | None = None,
    strict: bool = True,
) -> str:
    """Choose the compute type: on a GPU half precision, on a CPU what the engine is fastest with.

    Args:
        fp16: False keeps "auto" from half precision.
        strict: False takes ``asked`` for "auto" where the engine cannot compute with it, and says
            so in the log once: it was asked of another engine.

    Raises:
        SettingsError: the engine cannot compute with ``asked`` on that device.
    """
    kind = device.partition(":")[0]
    usable = [
        name
        for name in COMPUTE_TYPES.get((engine, kind), ())
        if (
            name in hardware.cuda_compute_types
            if kind == "cuda"
            else name not in hardware.cpu_lacks
        )
    ]
    if asked in usable:
        return asked
    fitting = [name for name in usable if fp16 is not False or "float16" not in name]
    if fitting and (asked == AUTO or not strict):
        if asked != AUTO:
            _say_replaced(engine, "compute type", asked, fitting[0])
        return fitting[0]
    raise errors.SettingsError(
        f"WHISPER_COMPUTE_TYPE={asked}: {engine} has no such type on {device}; "
        f"it has {', '.join(usable) or 'none'}"
    )


@functools.cache  # once in a process, not for every job
def _say_replaced(engine: str, what: str, asked: str, chosen: str) -> None:
    logger.warning(
        "engine lacks what is set, and takes its own",
        extra={"engine": engine, "what": what, "asked": asked, "chosen": chosen},
    )


def fallbacks(
    key: ModelKey, *, language: str | None = None, translate: bool = False
) -> tuple[ModelKey, ...]:
    """What to load instead, best first, when ``key`` does not fit in memory.

    On the same device a smaller compute type and then smaller models; after a GPU the same again
    on the CPU. Each needs less memory than the one before it on that device. The turbo model cannot
    translate, so it is passed over for ``translate``; so are models that do not know ``language``.
    """
    steps = _smaller_on_device(key, translate=translate)
    if key.device_kind != "cpu":
        cpu = ModelKey(key.engine, key.model, "cpu", COMPUTE_TYPES[key.engine, "cpu"][0])
        steps += (cpu, *_smaller_on_device(cpu, translate=translate))
    if language is None:
        return steps
    return tuple(step for step in steps if language in MODELS[step.model].languages)


def _smaller_on_device(key: ModelKey, *, translate: bool) -> tuple[ModelKey, ...]:
    compute_type = _SMALLER_COMPUTE_TYPE.get((key.engine, key.compute_type), key.compute_type)
    if compute_type not in COMPUTE_TYPES[key.engine, key.device_kind]:
        compute_type = key.compute_type
    models = (key.model, *_smaller_models(key.model, translate=translate))
    steps = (ModelKey(key.engine, model, key.device, compute_type) for model in models)
    return tuple(step for step in steps if step != key)


def _smaller_models(name: str, *, translate: bool) -> tuple[str, ...]:
    if name == DEMO:
        return ()
    if name.endswith(".en"):
        ladder: tuple[str, ...] = ("medium.en", "small.en", "base.en", "tiny.en")
    else:
        # Turbo and medium are of one size: turbo is the better one, where it can do the task.
        ladder = ("medium" if translate else "large-v3-turbo", "small", "base", "tiny")
    size = MODELS[name].parameters
    # "medium" to "small", not to "large-v3-turbo": a step must make a difference.
    return tuple(step for step in ladder if MODELS[step].parameters < 0.8 * size)
