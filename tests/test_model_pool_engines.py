"""The pool with the real engines, on the model that comes with the program."""

from __future__ import annotations

import functools
import gc
import threading
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

pytestmark = pytest.mark.model

OPENAI = ModelKey("openai-whisper", "demo", "cpu", "float32")
FASTER = ModelKey("faster-whisper", "demo", "cpu", "float32")
OPTIONS = TranscribeOptions(language="en")
RATE_HZ = 16_000

Load = Callable[[ModelKey], Engine]


@pytest.fixture(scope="session")
def load(tmp_path_factory: pytest.TempPathFactory) -> Load:
    store = ModelStore(tmp_path_factory.mktemp("models"), download_allowed=False)
    return functools.partial(engines.load, store=store, threads=1, workers=2)


def babble(seed: int, seconds: int = 8) -> NDArray[np.float32]:
    """Beeps in which the model hears something, with each seed something else; with 0, nothing."""
    chance = np.random.default_rng(seed)
    times = np.arange(seconds * RATE_HZ) / RATE_HZ
    syllables = np.clip(np.sin(2 * np.pi * (1.5 + seed / 4) * times), 0, 1)
    voice = sum(np.sin(2 * np.pi * hertz * times) for hertz in chance.uniform(100, 3_000, 6))
    samples = 0.05 * syllables * voice + chance.normal(0, 0.005, len(times))
    return np.asarray(samples, dtype=np.float32)


def text(engine: Engine | Loan, seed: int) -> str:
    windows = engine.transcribe(babble(seed), OPTIONS)
    return "".join(segment.text for window in windows for segment in window.segments)


@pytest.fixture(scope="session", params=[OPENAI, FASTER], ids=["openai", "faster"])
def key(request: pytest.FixtureRequest) -> ModelKey:
    chosen: ModelKey = request.param
    return chosen


@pytest.fixture(scope="session")
def alone(load: Load, key: ModelKey) -> dict[int, str]:
    """What an engine hears that nobody shares."""
    engine = load(key)
    texts = {seed: text(engine, seed) for seed in (1, 2)}
    engine.close()
    assert texts[1] != texts[2]
    return texts


@pytest.mark.parametrize("instances", [1, 2])
def test_threads_hear_what_each_would_hear_alone(
    load: Load, key: ModelKey, alone: dict[int, str], instances: int
) -> None:
    pool = ModelPool(PoolLimits(max_models=2, max_instances=instances), load=load)
    begin = threading.Barrier(2)

    def hear(seed: int) -> str:
        begin.wait(PATIENCE_SECONDS)
        with pool.borrow(key) as loan:
            return text(loan, seed)

    with ThreadPoolExecutor(2) as threads:
        texts = dict(zip(alone, threads.map(hear, alone), strict=True))
    loads = pool.stats().loads
    pool.close()

    assert texts == alone
    assert loads == (instances if key == OPENAI else 1)


def test_closed_models_give_their_memory_back(load: Load, key: ModelKey) -> None:
    """A demo model's weights are 16 MB: six that stayed would be 96."""
    pool = ModelPool(PoolLimits(max_models=1), load=load)
    process = psutil.Process()

    def cycle() -> int:
        with pool.borrow(key) as loan:
            next(loan.transcribe(babble(0), OPTIONS))
        pool.evict_idle()
        gc.collect()
        return process.memory_info().rss

    before = max(cycle() for _ in range(2))
    after = [cycle() for _ in range(6)][-1]
    pool.close()

    assert after - before < 40_000_000


def test_model_that_ran_out_of_memory_is_gone_before_it_is_loaded_again(load: Load) -> None:
    """In the middle of a window, deep in torch, with tensors in every frame."""
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
            heard = list(starving.transcribe(babble(0, seconds=35), OPTIONS))
    pool.close()

    assert alive_at_load == [0, 1, 0]
    assert heard == list(load(OPENAI).transcribe(babble(0, seconds=35), OPTIONS))
