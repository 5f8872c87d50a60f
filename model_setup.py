"""What the settings mean for models on this machine: which one, from where, how many, on what."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Final

import machine
from config import Settings
from errors import SettingsError, UnknownModel
from model_pool import ModelPool, PoolLimits
from speech import engines
from speech.engines import Engine, ModelKey, ModelStore, catalogue, fitting

#: Told how many bytes of a model are here, and of how many.
Progress = Callable[[int, int | None], None]

#: Share of the memory that there is that models may take, unless MODEL_POOL_MEMORY_MB says.
MEMORY_SHARE: Final = 0.75


def model_key(settings: Settings, engine: str, model: str) -> ModelKey:
    """The model that an engine's and a model's name mean on this machine.

    Raises:
        UnknownModel, SettingsError: There is none.
    """
    if engine not in catalogue.ENGINES:
        raise UnknownModel(f"There is no engine named {engine[:64]!r}.")
    hardware = _hardware(engine)
    # a job may ask for another engine than the one that device and type were set for
    strict = engine == settings.whisper_engine
    device = fitting.resolve_device(settings.whisper_device, hardware, engine=engine, strict=strict)
    compute_type = fitting.resolve_compute_type(
        settings.whisper_compute_type,
        engine=engine,
        device=device,
        hardware=hardware,
        fp16=settings.whisper_fp16,
        strict=strict,
    )
    return ModelKey(engine, catalogue.resolve(model).name, device, compute_type)


@functools.cache
def _hardware(engine: str) -> fitting.Hardware:
    return engines.hardware(engine)


def require_model(settings: Settings) -> None:
    """Check the default model's name before anything starts.

    Raises:
        SettingsError: There is no such model.
    """
    try:
        catalogue.resolve(settings.whisper_model_size)
    except UnknownModel as error:
        allowed = ", ".join(catalogue.NAMES)
        raise SettingsError(
            f"WHISPER_MODEL_SIZE={settings.whisper_model_size}: Input should be one of {allowed}"
        ) from error


def make_store(settings: Settings) -> ModelStore:
    return ModelStore(
        settings.models_path,
        download_allowed=settings.model_download,
        base_url=settings.model_base_url,
    )


def make_loader(settings: Settings) -> Callable[[ModelKey], Engine]:
    store = make_store(settings)

    def load(key: ModelKey) -> Engine:
        threads, workers = share_cores(settings, key.engine)
        return engines.load(key, store, threads=threads, workers=workers)

    return load


def share_cores(settings: Settings, engine: str) -> tuple[int, int]:
    """How many threads each window, or batch of windows, gets, and how many are done at a time."""
    cores, jobs = machine.cpu_count(), settings.celery_concurrency
    if engine == catalogue.BATCH_WHISPER:
        # jobs share batches, so that their number and that of batches have nothing to do with
        # each other; a batch on one core each is done with less waiting than one on all of them
        threads = settings.whisper_threads or 1
        return threads, max(1, cores // threads)
    return settings.whisper_threads or max(1, cores // jobs), jobs


def make_pool(settings: Settings, load: Callable[[ModelKey], Engine]) -> ModelPool:
    asked = settings.model_pool_memory_mb * 2**20
    limits = PoolLimits(
        max_models=settings.model_pool_max_size,
        max_instances=settings.model_pool_size,
        # unless told, a GPU is filled until it says that it is full
        max_bytes=dict.fromkeys(("cpu", "cuda", "mps"), asked)
        if asked
        else {"cpu": int(MEMORY_SHARE * machine.memory_bytes())},
        idle_seconds=settings.model_idle_seconds,
    )
    return ModelPool(limits, load=load)


def make_fetch(settings: Settings) -> Callable[[ModelKey, Progress], object]:
    """Make what brings a model's files here."""
    store = make_store(settings)
    return lambda key, progress: engines.fetch(key, store, progress=progress)
