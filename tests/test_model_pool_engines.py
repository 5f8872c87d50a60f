"""The pool with the real engines, on the model that comes with the program."""

from __future__ import annotations

import functools
import gc
import threading
import wave
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from numpy.typing import NDArray

from model_pool import Loan, ModelPool, PoolLimits
from speech import engines
from speech.engines import Engine, ModelKey, ModelStore
from speech.engines.openai_whisper import OpenAIWhisper
from speech.transcript import TranscribeOptions
from tests.fakes import PATIENCE_SECONDS
from tests.recordings import sample

pytestmark = pytest.mark.model

OPENAI = ModelKey("openai-whisper", "demo", "cpu", "float32")
FASTER = ModelKey("faster-whisper", "demo", "cpu", "float32")
OPTIONS = TranscribeOptions()
NAMES = ("digits-en.wav", "digits-es.wav", "digits-de.wav")

Load = Callable[[ModelKey], Engine]


@pytest.fixture(scope="session")
def load(tmp_path_factory: pytest.TempPathFactory) -> Load:
    store = ModelStore(tmp_path_factory.mktemp("models"), download_allowed=False)
    return functools.partial(engines.load, store=store, threads=1, workers=2)


def samples_of(name: str) -> NDArray[np.float32]:
    """Read a sample, which is mono and 16 kHz already."""
    with wave.open(str(sample(name).path), "rb") as file:
        frames = file.readframes(file.getnframes())
    return np.frombuffer(frames, np.int16).astype(np.float32) / np.float32(2**15)


def text(loan: Loan, name: str) -> str:
    windows = loan.transcribe(samples_of(name), OPTIONS)
    return "".join(segment.text for window in windows for segment in window.segments).strip()


@pytest.mark.parametrize("instances", [1, 2])
@pytest.mark.parametrize("key", [OPENAI, FASTER], ids=str)
def test_threads_hear_each_its_own_recording(load: Load, key: ModelKey, instances: int) -> None:
    pool = ModelPool(PoolLimits(max_models=2, max_instances=instances), load=load)
    begin = threading.Barrier(len(NAMES))

    def hear(name: str) -> str:
        begin.wait(PATIENCE_SECONDS)
        with pool.borrow(key) as loan:
            return text(loan, name)

    with ThreadPoolExecutor(len(NAMES)) as threads:
        heard = list(threads.map(hear, NAMES))
    loads = pool.stats().loads
    pool.close()

    assert heard == [sample(name).text for name in NAMES]
    assert loads == (instances if key == OPENAI else 1)


@pytest.mark.parametrize("key", [OPENAI, FASTER], ids=str)
def test_closed_models_give_their_memory_back(load: Load, key: ModelKey) -> None:
    """A demo model's weights are 16 MB: five that stayed would be 80."""
    pool = ModelPool(PoolLimits(max_models=1), load=load)
    process = psutil.Process()

    def cycle() -> int:
        with pool.borrow(key) as loan:
            text(loan, NAMES[0])
        pool.evict_idle()
        gc.collect()
        return process.memory_info().rss

    before = max(cycle() for _ in range(2))
    after = [cycle() for _ in range(5)][-1]
    pool.close()

    assert after - before < 50_000_000


def test_model_that_ran_out_of_memory_is_gone_before_it_is_loaded_again(load: Load) -> None:
    """In the middle of a window, deep in torch, with tensors in every frame.

    The transcript shows nothing of it.
    """
    two_windows = np.tile(samples_of(NAMES[0]), 6)
    models: list[weakref.ref[Any]] = []
    alive_at_load: list[int] = []

    def load_starving(key: ModelKey) -> Engine:
        alive_at_load.append(sum(model() is not None for model in models))
        engine = load(key)
        assert isinstance(engine, OpenAIWhisper)
        models.append(weakref.ref(engine.model))
        if len(models) == 2:
            engine.model.encoder.register_forward_hook(second_window_fails())
        return engine

    def second_window_fails() -> Callable[..., None]:
        windows = iter(range(2))

        def fail(*_: Any) -> None:
            if next(windows) == 1:
                raise torch.OutOfMemoryError("CUDA out of memory.")

        return fail

    pool = ModelPool(PoolLimits(max_models=2, max_instances=2), load=load_starving)
    with ExitStack() as other:
        other.enter_context(pool.borrow(OPENAI))
        with pool.borrow(OPENAI) as starving:
            other.close()
            heard = list(starving.transcribe(two_windows, OPTIONS))
    pool.close()

    assert alive_at_load == [0, 1, 0]
    assert heard == list(load(OPENAI).transcribe(two_windows, OPTIONS))
