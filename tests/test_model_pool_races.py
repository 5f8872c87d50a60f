"""The pool's promises under many threads, and under any order of calls."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import errors
from model_pool import ModelPool, PoolLimits
from model_shelf import Instance, Shelf
from speech.engines import ModelKey
from speech.transcript import TranscribeOptions
from tests.fakes import SAMPLE_RATE_HZ, WINDOW_SECONDS, FakeClock, FakeEngine, FakeLoader

MODELS = ("tiny", "base", "small", "medium", "large-v2")
KEYS = tuple(ModelKey("openai-whisper", model, "cpu", "float32") for model in MODELS)
SIZES = dict(zip(KEYS, (1_000, 2_000, 3_000, 4_000, 5_000), strict=True))
SAMPLES = np.zeros(2 * WINDOW_SECONDS * SAMPLE_RATE_HZ, dtype=np.float32)
THREADS = 8
BORROWS = 60
#: Whoever waits this long was not woken: nothing in the stress test polls, and no job takes long.
LOST_SECONDS = 60


def seeded(seed: str) -> random.Random:
    return random.Random(seed)  # noqa: S311 - to be repeatable is what it is for


@pytest.fixture
def _eager_switches() -> Iterator[None]:
    """Let threads interrupt each other as often as can be."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


class Stress:
    """Threads that borrow, fail, give up, evict and look, as a seed says."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        dice = seeded(f"{seed}")
        self.limits = PoolLimits(
            max_models=dice.choice((1, 2, 3, 6)),
            max_instances=dice.choice((1, 2, 3)),
            max_bytes=dice.choice(({}, {"cpu": 5_000}, {"cpu": 9_000})),
            patience_seconds=dice.choice((0.0, 30.0)),
            wait_seconds=LOST_SECONDS,
            poll_seconds=LOST_SECONDS,
        )
        self.loader = FakeLoader(
            shared=frozenset(dice.sample(MODELS, 2)),
            sizes=SIZES,
            at_load=self._at_load,
            at_window=self._at_window,
        )
        self.pool = ModelPool(
            self.limits,
            load=self.loader,
            estimate_bytes=self.loader.size,
            fallbacks=lambda key: KEYS[: KEYS.index(key)][::-1],
        )
        # Which thread meets which fault is up to the scheduler; how many there are is not.
        self._faults = seeded(f"{seed}/faults")

    def run(self) -> None:
        with ThreadPoolExecutor(THREADS + 1) as threads:
            jobs = [threads.submit(self._borrow_often, number) for number in range(THREADS)]
            looker = threads.submit(self._look_until, lambda: all(job.done() for job in jobs))
            for future in (*jobs, looker):
                future.result(2 * LOST_SECONDS)

    def _borrow_often(self, number: int) -> None:
        dice = seeded(f"{self._seed}/{number}")
        for _ in range(BORROWS):
            expected = (errors.EngineError, errors.CancelRequested, ValueError, SystemExit)
            with suppress(*expected):
                self._borrow(dice)

    def _borrow(self, dice: random.Random) -> None:
        def cancelled() -> None:
            if dice.random() < 0.03:
                raise errors.CancelRequested

        with self.pool.borrow(dice.choice(KEYS), cancelled=cancelled) as loan:
            for _ in loan.transcribe(SAMPLES, TranscribeOptions()):
                if dice.random() < 0.05:
                    raise errors.CancelRequested
                if dice.random() < 0.05:
                    return

    def _look_until(self, done: Callable[[], bool]) -> None:
        dice = seeded(f"{self._seed}/looker")
        while not done():
            if dice.random() < 0.1:
                self.pool.evict_idle()
            stats = self.pool.stats()
            assert stats.bytes <= self.limits.max_bytes.get("cpu", stats.bytes)

    def _at_load(self, _key: ModelKey) -> None:
        self._fail(0.05, errors.EngineOutOfMemory, errors.ModelLoadFailed, ValueError, SystemExit)

    def _at_window(self, _engine: FakeEngine, _index: int) -> None:
        self._fail(0.03, errors.EngineOutOfMemory, errors.EngineError, ValueError)

    def _fail(self, share: float, *kinds: type[BaseException]) -> None:
        if self._faults.random() < share:
            raise self._faults.choice(kinds)


@pytest.mark.usefixtures("_eager_switches")
@pytest.mark.parametrize("seed", range(6))
def test_promises_hold_under_many_threads(seed: int) -> None:
    stress = Stress(seed)

    stress.run()
    left = stress.pool.stats()
    stress.pool.close()

    # Exclusive engines had one user at a time; none was used or closed when it should not be.
    assert stress.loader.misuse == []
    assert stress.loader.most_models <= stress.limits.max_models
    assert stress.loader.most_bytes <= stress.limits.max_bytes.get("cpu", sys.maxsize)
    # Nothing leaked: no loan, no reservation, no engine, no count.
    assert sum(row.borrowers for row in left.models) == 0
    assert left.misses == left.loads + left.load_failures
    assert left.timeouts == 0
    assert stress.loader.alive() == []
    assert stress.pool.stats().bytes == 0


@dataclass
class Held:
    """What the oracle believes about one instance."""

    instance: Instance
    key: ModelKey
    borrowers: int
    used_at: float


class AnyOrder(RuleBasedStateMachine):
    """One thread that never waits, beside an oracle that knows what it must get."""

    @initialize(
        max_models=st.integers(1, 4),
        max_instances=st.integers(1, 2),
        max_bytes=st.sampled_from((5_000, 7_000, 20_000)),
        shared=st.frozensets(st.sampled_from(MODELS), max_size=2),
    )
    def begin(
        self, max_models: int, max_instances: int, max_bytes: int, shared: frozenset[str]
    ) -> None:
        self.clock = FakeClock()
        self.loader = FakeLoader(shared=shared, sizes=SIZES)
        self.limits = PoolLimits(
            max_models=max_models, max_instances=max_instances, max_bytes={"cpu": max_bytes}
        )
        self.shelf = Shelf(
            self.limits, load=self.loader, estimate_bytes=self.loader.size, clock=self.clock
        )
        self.held: list[Held] = []

    @rule(key=st.sampled_from(KEYS))
    def lend(self, key: ModelKey) -> None:
        self.clock.advance(1)
        free = [h for h in self.held if h.key == key and self._is_free(h)]
        victims = [] if free else self._victims(key)
        try:
            instance = self.shelf.lend(key, cancelled=lambda: None, timeout=0)
        except errors.PoolTimeout:
            assert not free, "it waited for what was there"
            assert victims is None, "it waited when it could load"
            return
        if free:
            [held] = [h for h in self.held if h.instance is instance]
            assert held in free
            held.borrowers += 1
            return
        assert victims is not None, "it loaded what there was no room for"
        self.held = [h for h in self.held if h not in victims]
        self.held.append(Held(instance, key, borrowers=1, used_at=self.clock.now))

    @precondition(lambda self: any(h.borrowers for h in self.held))
    @rule(pick=st.randoms(use_true_random=False))
    def take_back(self, pick: random.Random) -> None:
        self.clock.advance(1)
        held = pick.choice([h for h in self.held if h.borrowers])
        held.borrowers -= 1
        held.used_at = self.clock.now
        self.shelf.take_back(held.instance)

    @rule(seconds=st.integers(0, 10))
    def unload(self, seconds: int) -> None:
        self.shelf.evict_idle(seconds)
        last = self.clock.now - seconds
        self.held = [h for h in self.held if h.borrowers or h.used_at > last]

    @invariant()
    def loaded_is_what_the_oracle_says(self) -> None:
        assert self.loader.alive() == sorted(h.key.model for h in self.held)

    @invariant()
    def limits_hold(self) -> None:
        assert self.loader.most_models <= self.limits.max_models
        assert self.loader.most_bytes <= self.limits.max_bytes["cpu"]
        assert self.loader.misuse == []

    @invariant()
    def bytes_add_up(self) -> None:
        assert self.shelf.stats().bytes == sum(SIZES[h.key] for h in self.held)

    def teardown(self) -> None:
        if hasattr(self, "shelf"):
            self.shelf.close()

    def _is_free(self, held: Held) -> bool:
        return not held.borrowers or held.key.model in self.loader.shared

    def _victims(self, key: ModelKey) -> list[Held] | None:
        """The fewest idle ones, oldest first, without which ``key`` fits; None if it never does."""
        if sum(h.key == key for h in self.held) >= self.limits.max_instances:
            return None
        idle = sorted((h for h in self.held if not h.borrowers), key=lambda h: h.used_at)
        for count in range(len(idle) + 1):
            stay = [h for h in self.held if h not in idle[:count]]
            size = SIZES[key] + sum(SIZES[h.key] for h in stay)
            if len(stay) < self.limits.max_models and size <= self.limits.max_bytes["cpu"]:
                return idle[:count]
        return None


AnyOrder.TestCase.settings = settings(
    derandomize=True, deadline=None, max_examples=150, stateful_step_count=40, database=None
)
test_promises_hold_in_any_order = AnyOrder.TestCase
