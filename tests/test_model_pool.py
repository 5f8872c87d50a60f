"""What a borrower sees: windows, whatever runs out, and the truth about which model made them."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import errors
from model_pool import FallbackStep, Loan, ModelPool, PoolLimits
from speech.engines import ModelKey
from speech.transcript import ResumeState, TranscribeOptions, Window
from tests.fakes import SAMPLE_RATE_HZ, WINDOW_SECONDS, FakeClock, FakeEngine, FakeLoader

OPTIONS = TranscribeOptions()
#: Three windows.
SAMPLES = np.zeros(3 * WINDOW_SECONDS * SAMPLE_RATE_HZ, dtype=np.float32)


def a_key(model: str, device: str = "cpu") -> ModelKey:
    return ModelKey("openai-whisper", model, device, "float32")


TINY, BASE, SMALL, MEDIUM = a_key("tiny"), a_key("base"), a_key("small"), a_key("medium")
LADDER = {SMALL: (BASE, TINY), BASE: (TINY,), MEDIUM: (a_key("small.en"),)}

MakePool = Callable[..., ModelPool]


@pytest.fixture
def loader() -> Iterator[FakeLoader]:
    loader = FakeLoader()
    yield loader
    assert loader.misuse == []


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def make_pool(loader: FakeLoader, clock: FakeClock) -> MakePool:
    def make(**limits: Any) -> ModelPool:
        return ModelPool(
            PoolLimits(**{"max_models": 4, "wait_seconds": 0, **limits}),
            load=loader,
            estimate_bytes=loader.size,
            fallbacks=lambda key: LADDER.get(key, ()),
            clock=clock,
        )

    return make


@pytest.fixture
def pool(make_pool: MakePool) -> ModelPool:
    return make_pool()


class Memory:
    """Memory that some models find too small: at their load, or at some window."""

    def __init__(self, loader: FakeLoader) -> None:
        self._loads: dict[str, int] = {}
        self._windows: dict[tuple[str, int], int] = {}
        loader.at_load = self._at_load
        loader.at_window = self._at_window

    def lacks_for_load(self, key: ModelKey, times: int = 99) -> None:
        self._loads[key.model] = times

    def lacks_for_window(self, key: ModelKey, index: int, times: int = 99) -> None:
        self._windows[key.model, index] = times

    def _at_load(self, key: ModelKey) -> None:
        self._take(self._loads, key.model)

    def _at_window(self, engine: FakeEngine, index: int) -> None:
        self._take(self._windows, (engine.key.model, index))

    def _take(self, left: dict[Any, int], what: object) -> None:
        if left.get(what, 0) > 0:
            left[what] -= 1
            raise errors.EngineOutOfMemory


@pytest.fixture
def memory(loader: FakeLoader) -> Memory:
    return Memory(loader)


def texts(windows: Iterator[Window]) -> list[str]:
    return [segment.text.strip() for window in windows for segment in window.segments]


def transcribe(loan: Loan) -> list[str]:
    return texts(loan.transcribe(SAMPLES, OPTIONS))


def test_loan_transcribes_as_the_engine_does(pool: ModelPool) -> None:
    with pool.borrow(TINY) as loan:
        assert transcribe(loan) == ["tiny:0", "tiny:1", "tiny:2"]


def test_loan_resumes_as_the_engine_does(pool: ModelPool) -> None:
    with pool.borrow(TINY) as loan:
        resume = next(iter(loan.transcribe(SAMPLES, OPTIONS))).resume

        assert texts(loan.transcribe(SAMPLES, OPTIONS, resume)) == ["tiny:1", "tiny:2"]


def test_loan_that_got_what_it_asked_for_is_not_degraded(pool: ModelPool) -> None:
    with pool.borrow(SMALL) as loan:
        transcribe(loan)

        assert (loan.key, loan.steps, loan.degraded) == (SMALL, (), False)


def test_second_job_on_a_model_waits_for_nothing(pool: ModelPool) -> None:
    for _ in range(2):
        with pool.borrow(TINY) as loan:
            transcribe(loan)

    stats = pool.stats()
    assert (stats.misses, stats.hits, stats.loads, stats.waits) == (1, 1, 1, 0)


def test_warming_loads_and_lends_nothing(pool: ModelPool) -> None:
    assert pool.warm(TINY) == TINY

    [row] = pool.stats().models
    assert (row.instances, row.borrowers) == (1, 0)


def test_warming_says_what_fitted(pool: ModelPool, memory: Memory) -> None:
    memory.lacks_for_load(SMALL)

    assert pool.warm(SMALL) == BASE


# Out of memory while a model loads


def test_idle_models_make_way_for_a_load_that_does_not_fit(
    pool: ModelPool, memory: Memory, loader: FakeLoader
) -> None:
    pool.warm(TINY)
    memory.lacks_for_load(SMALL, times=1)

    with pool.borrow(SMALL) as loan:
        assert (loan.key, loan.steps) == (SMALL, ())
    assert loader.events == ["load tiny", "load small", "close tiny", "load small"]


def test_model_that_does_not_fit_is_replaced_by_the_next_rung(
    pool: ModelPool, memory: Memory
) -> None:
    memory.lacks_for_load(SMALL)

    with pool.borrow(SMALL) as loan:
        assert loan.key == BASE
        assert loan.steps == (FallbackStep(SMALL, BASE, "load"),)
        assert loan.degraded


def test_ladder_goes_on_until_something_fits(pool: ModelPool, memory: Memory) -> None:
    memory.lacks_for_load(SMALL)
    memory.lacks_for_load(BASE)

    with pool.borrow(SMALL) as loan:
        assert loan.steps == (
            FallbackStep(SMALL, BASE, "load"),
            FallbackStep(BASE, TINY, "load"),
        )
    assert pool.stats().fallbacks == 2


def test_rung_whose_files_are_not_here_is_passed_over(pool: ModelPool, loader: FakeLoader) -> None:
    def fail(key: ModelKey) -> None:
        if key == SMALL:
            raise errors.EngineOutOfMemory
        if key == BASE:
            raise errors.ModelUnavailable

    loader.at_load = fail

    with pool.borrow(SMALL) as loan:
        assert loan.key == TINY


def test_end_of_the_ladder_is_out_of_memory(
    pool: ModelPool, memory: Memory, loader: FakeLoader
) -> None:
    for key in (SMALL, BASE, TINY):
        memory.lacks_for_load(key)

    with pytest.raises(errors.EngineOutOfMemory) as caught, pool.borrow(SMALL):
        pass

    assert caught.value.data == {"tried": [str(key) for key in (SMALL, BASE, TINY)]}
    assert loader.alive() == []


def test_model_above_the_memory_limit_is_replaced_by_the_next_rung(
    make_pool: MakePool, loader: FakeLoader
) -> None:
    loader.sizes[SMALL] = 5_000
    pool = make_pool(max_bytes={"cpu": 2_000})

    with pool.borrow(SMALL) as loan:
        assert loan.key == BASE
    assert loader.events == ["load base"]


def test_borrower_can_bring_its_own_ladder(pool: ModelPool, memory: Memory) -> None:
    memory.lacks_for_load(SMALL)

    with pool.borrow(SMALL, fallbacks=(TINY,)) as loan:
        assert loan.key == TINY


def test_borrower_can_refuse_to_step_down(pool: ModelPool, memory: Memory) -> None:
    memory.lacks_for_load(SMALL)

    with pytest.raises(errors.EngineOutOfMemory), pool.borrow(SMALL, fallbacks=()):
        pass


# Out of memory while a model works


def test_transcription_goes_on_behind_the_last_window_with_the_next_rung(
    pool: ModelPool, memory: Memory
) -> None:
    memory.lacks_for_window(SMALL, 1)

    with pool.borrow(SMALL) as loan:
        assert transcribe(loan) == ["small:0", "base:1", "base:2"]
        assert loan.key == BASE
        assert loan.steps == (FallbackStep(SMALL, BASE, "transcribe"),)


def test_key_is_of_the_model_that_made_the_window_at_hand(pool: ModelPool, memory: Memory) -> None:
    memory.lacks_for_window(SMALL, 1)

    with pool.borrow(SMALL) as loan:
        keys = [loan.key for _ in loan.transcribe(SAMPLES, OPTIONS)]

    assert keys == [SMALL, BASE, BASE]


def test_model_is_taken_again_if_idle_ones_could_be_evicted(
    pool: ModelPool, memory: Memory, loader: FakeLoader
) -> None:
    pool.warm(TINY)
    memory.lacks_for_window(SMALL, 1, times=1)

    with pool.borrow(SMALL) as loan:
        assert transcribe(loan) == ["small:0", "small:1", "small:2"]
        assert loan.steps == ()
    assert loader.events == ["load tiny", "load small", "close small", "close tiny", "load small"]


def test_model_is_not_taken_again_a_second_time(
    pool: ModelPool, memory: Memory, loader: FakeLoader
) -> None:
    pool.warm(TINY)
    memory.lacks_for_window(SMALL, 0, times=1)
    memory.lacks_for_window(SMALL, 1, times=1)

    with pool.borrow(SMALL) as loan:
        windows = loan.transcribe(SAMPLES, OPTIONS)
        next(windows)
        pool.warm(TINY)

        assert texts(windows) == ["base:1", "base:2"]


def test_one_transcription_may_step_down_more_than_once(pool: ModelPool, memory: Memory) -> None:
    memory.lacks_for_window(SMALL, 1)
    memory.lacks_for_window(BASE, 2)

    with pool.borrow(SMALL) as loan:
        assert transcribe(loan) == ["small:0", "base:1", "tiny:2"]


def test_steps_of_loading_and_of_working_are_told_apart(pool: ModelPool, memory: Memory) -> None:
    memory.lacks_for_window(SMALL, 1)
    memory.lacks_for_load(BASE)

    with pool.borrow(SMALL) as loan:
        transcribe(loan)

        assert [step.reason for step in loan.steps] == ["transcribe", "load"]


def test_end_of_the_ladder_at_work_is_out_of_memory(
    pool: ModelPool, memory: Memory, loader: FakeLoader
) -> None:
    memory.lacks_for_window(TINY, 1)

    with pytest.raises(errors.EngineOutOfMemory), pool.borrow(TINY) as loan:
        transcribe(loan)

    assert loader.alive() == []


def test_engine_that_ran_out_of_memory_is_gone_before_the_next_is_loaded(
    pool: ModelPool, loader: FakeLoader
) -> None:
    """Not merely closed: no traceback, frame or generator may still hold its tensors."""
    alive_at_load: list[bool] = []

    def look(_key: ModelKey) -> None:
        alive_at_load.append(any(engine() is not None for engine in loader.engines))

    def fail(engine: FakeEngine, index: int) -> None:
        if engine.key == SMALL and index == 1:
            # A cycle such as libraries leave: the error's frame holds the error.
            error = errors.EngineOutOfMemory()
            raise error from MemoryError()

    loader.at_load, loader.at_window = look, fail
    gc.disable()
    try:
        with pool.borrow(SMALL) as loan:
            transcribe(loan)
    finally:
        gc.enable()

    assert alive_at_load == [False, False]


def test_load_that_ran_out_of_memory_is_gone_before_the_next(
    pool: ModelPool, loader: FakeLoader
) -> None:
    class Weights:
        """What a load had read when it failed."""

    alive: weakref.WeakSet[Weights] = weakref.WeakSet()
    alive_at_load: list[int] = []

    def fail(key: ModelKey) -> None:
        alive_at_load.append(len(alive))
        weights = Weights()
        alive.add(weights)
        if key != TINY:
            error = errors.EngineOutOfMemory()
            raise error from MemoryError(weights)

    loader.at_load = fail
    pool.warm(SMALL)

    assert alive_at_load == [0, 0, 0]


def test_shared_engine_stays_with_its_other_borrowers(
    pool: ModelPool, memory: Memory, loader: FakeLoader
) -> None:
    loader.exclusive = False
    memory.lacks_for_window(SMALL, 1, times=1)

    with pool.borrow(SMALL) as unlucky, pool.borrow(SMALL) as lucky:
        assert transcribe(unlucky) == ["small:0", "base:1", "base:2"]
        assert transcribe(lucky) == ["small:0", "small:1", "small:2"]
    assert loader.events == ["load small", "load base"]


def test_prompt_stays_between_models_of_one_vocabulary(pool: ModelPool, memory: Memory) -> None:
    memory.lacks_for_window(SMALL, 1)
    resume = ResumeState(next_frame=0, prompt_tokens=(7,))

    with pool.borrow(SMALL) as loan:
        *_, last = loan.transcribe(SAMPLES, OPTIONS, resume)

    assert last.resume.prompt_tokens == (7, 0, 2)


def test_prompt_is_forgotten_between_vocabularies(pool: ModelPool, memory: Memory) -> None:
    memory.lacks_for_window(MEDIUM, 1)
    resume = ResumeState(next_frame=0, prompt_tokens=(7,))

    with pool.borrow(MEDIUM) as loan:
        *_, last = loan.transcribe(SAMPLES, OPTIONS, resume)

    assert loan.key.model == "small.en"
    assert last.resume.prompt_tokens == (2,)


# Other ends


@pytest.mark.parametrize("error", [errors.EngineError, ValueError, SystemExit])
def test_engine_in_an_unknown_state_is_not_lent_again(
    pool: ModelPool, loader: FakeLoader, error: type[BaseException]
) -> None:
    def fail(_engine: FakeEngine, index: int) -> None:
        if index == 1:
            raise error

    loader.at_window = fail
    with pytest.raises(error), pool.borrow(TINY) as loan:
        transcribe(loan)

    assert loader.events == ["load tiny", "close tiny"]
    assert pool.stats().discards == 1


def test_engine_that_refused_a_request_is_lent_again(pool: ModelPool, loader: FakeLoader) -> None:
    def refuse(_engine: FakeEngine, _index: int) -> None:
        raise errors.InvalidRequest("The model does not know that language.")

    loader.at_window = refuse
    with pytest.raises(errors.InvalidRequest), pool.borrow(TINY) as loan:
        transcribe(loan)

    assert loader.alive() == ["tiny"]


@pytest.mark.parametrize("error", [errors.CancelRequested, ValueError, KeyboardInterrupt])
def test_engine_of_a_borrower_that_failed_by_itself_is_lent_again(
    pool: ModelPool, loader: FakeLoader, error: type[BaseException]
) -> None:
    def fail(_window: Window) -> None:
        raise error

    with pytest.raises(error), pool.borrow(TINY) as loan:
        list(map(fail, loan.transcribe(SAMPLES, OPTIONS)))

    [row] = pool.stats().models
    assert (row.instances, row.borrowers) == (1, 0)


def test_engine_of_a_borrower_that_stopped_listening_can_be_used_again(
    pool: ModelPool, loader: FakeLoader
) -> None:
    """``FakeEngine`` minds if two run on it at a time: the abandoned one has to be closed."""
    with pool.borrow(TINY) as loan:
        abandoned = loan.transcribe(SAMPLES, OPTIONS)
        next(abandoned)

    with pool.borrow(TINY) as loan:
        assert len(transcribe(loan)) == 3
    assert loader.events == ["load tiny"]


def test_transcription_that_is_stopped_stops_in_the_engine(
    pool: ModelPool, loader: FakeLoader
) -> None:
    with pool.borrow(TINY) as loan:
        windows = loan.transcribe(SAMPLES, OPTIONS)
        next(windows)
        windows.close()

        engine = loader.engines[0]()
        assert engine is not None
        assert engine.users == 0


def test_transcription_cannot_outlive_its_loan(pool: ModelPool) -> None:
    with pool.borrow(TINY) as loan:
        outlives = loan.transcribe(SAMPLES, OPTIONS)
        next(outlives)

    with pytest.raises(RuntimeError):
        next(outlives)


def test_loan_that_ended_transcribes_nothing(pool: ModelPool) -> None:
    with pool.borrow(TINY) as loan:
        pass

    with pytest.raises(RuntimeError):
        transcribe(loan)


def test_second_transcription_of_a_loan_ends_the_first(pool: ModelPool) -> None:
    """It does not merely run dry: half a transcript must not look like a whole one."""
    with pool.borrow(TINY) as loan:
        first = loan.transcribe(SAMPLES, OPTIONS)
        next(first)
        transcribe(loan)

        with pytest.raises(RuntimeError):
            next(first)


def test_borrower_cancelled_while_its_model_loads_does_not_get_it(
    pool: ModelPool, loader: FakeLoader
) -> None:
    loads: list[ModelKey] = []
    loader.at_load = loads.append

    def cancelled() -> None:
        if loads:
            raise errors.CancelRequested

    with pytest.raises(errors.CancelRequested), pool.borrow(TINY, cancelled=cancelled):
        pass

    [row] = pool.stats().models
    assert (row.instances, row.borrowers) == (1, 0)


def test_borrower_can_wait_shorter_than_the_limits_say(make_pool: MakePool) -> None:
    pool = make_pool(wait_seconds=300)

    with (
        pool.borrow(TINY),
        pytest.raises(errors.PoolTimeout),
        pool.borrow(TINY, timeout=0),
    ):
        pass


def test_failed_load_raises_what_the_loader_raised(pool: ModelPool, loader: FakeLoader) -> None:
    def fail(_key: ModelKey) -> None:
        raise errors.ModelUnavailable("Put small.pt there.")

    loader.at_load = fail

    with pytest.raises(errors.ModelUnavailable, match=r"Put small\.pt there"), pool.borrow(SMALL):
        pass


def test_unused_model_is_unloaded_in_time(make_pool: MakePool, clock: FakeClock) -> None:
    pool = make_pool(idle_seconds=60)
    pool.warm(TINY)

    unloaded = []
    for _ in range(3):
        clock.advance(30)
        unloaded.append(pool.unload_idle())

    assert unloaded == [0, 1, 0]


def test_idle_models_can_be_evicted_at_once(pool: ModelPool, loader: FakeLoader) -> None:
    pool.warm(TINY)
    with pool.borrow(BASE):
        pool.evict_idle()

        assert loader.alive() == ["base"]


def test_closed_pool_lends_nothing(pool: ModelPool) -> None:
    pool.close()

    with pytest.raises(errors.Draining), pool.borrow(TINY):
        pass


def test_without_being_told_otherwise_the_catalogue_says_what_fits(loader: FakeLoader) -> None:
    """large-v3 in half precision takes 4.6 GB with its work; its ladder starts with turbo."""
    pool = ModelPool(PoolLimits(max_models=4, max_bytes={"cuda": 4_000_000_000}), load=loader)

    with pool.borrow(ModelKey("openai-whisper", "large-v3", "cuda", "float16")) as loan:
        assert loan.key == ModelKey("openai-whisper", "large-v3-turbo", "cuda", "float16")
