"""Who gets which engine, and when: lending, queueing, loading, evicting, counting."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import pytest

import errors
from model_shelf import Health, Instance, PoolLimits, Shelf
from speech.engines import ModelKey
from tests.fakes import PATIENCE_SECONDS, FakeClock, FakeLoader, Gate, eventually

T = TypeVar("T")


def a_key(model: str, device: str = "cpu") -> ModelKey:
    return ModelKey("openai-whisper", model, device, "float32")


TINY, BASE, SMALL = a_key("tiny"), a_key("base"), a_key("small")


class Scene:
    """A shelf of fake engines, and borrowers on threads of their own.

    Unless asked to, they do not poll: who is not woken sleeps until the test fails.
    """

    def __init__(
        self,
        threads: ThreadPoolExecutor,
        loader: FakeLoader,
        estimate: Callable[[ModelKey], int],
        **limits: Any,
    ) -> None:
        self.clock = FakeClock()
        self.loader = loader
        self.shelf = Shelf(
            PoolLimits(**{"poll_seconds": 3 * PATIENCE_SECONDS, **limits}),
            load=loader,
            estimate_bytes=estimate,
            clock=self.clock,
        )
        self._threads = threads

    def lend(self, key: ModelKey) -> Instance:
        """Borrow at once or not at all."""
        self.clock.advance(1)
        return self.shelf.lend(key, cancelled=lambda: None, timeout=0)

    def use(self, *keys: ModelKey) -> None:
        """Borrow and give back, one after the other."""
        for key in keys:
            self.shelf.take_back(self.lend(key))

    def run(self, call: Callable[[], T]) -> Future[T]:
        return self._threads.submit(call)

    def lend_in_thread(
        self, key: ModelKey, cancelled: Callable[[], None] = lambda: None
    ) -> Future[Instance]:
        self.clock.advance(1)
        return self._threads.submit(self.shelf.lend, key, cancelled=cancelled, timeout=300)

    def queue(
        self, key: ModelKey, cancelled: Callable[[], None] = lambda: None
    ) -> Future[Instance]:
        """Borrow in a thread, which has begun to wait when this returns."""
        waits = self.shelf.stats().waits
        future = self.lend_in_thread(key, cancelled)
        eventually(lambda: self.shelf.stats().waits == waits + 1)
        return future


Stage = Callable[..., Scene]


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as executor:
        yield executor


@pytest.fixture
def stage(threads: ThreadPoolExecutor) -> Iterator[Stage]:
    scenes: list[Scene] = []

    def make(
        loader: FakeLoader | None = None,
        estimate: Callable[[ModelKey], int] | None = None,
        **limits: Any,
    ) -> Scene:
        loader = loader or FakeLoader()
        limits = {"max_models": 2, **limits}
        scenes.append(Scene(threads, loader, estimate or loader.size, **limits))
        return scenes[-1]

    yield make
    for scene in scenes:
        scene.shelf.close()
        assert scene.loader.misuse == []


def result(future: Future[Instance]) -> Instance:
    return future.result(PATIENCE_SECONDS)


# Lending


def test_first_borrower_waits_for_nothing_but_the_load(stage: Stage) -> None:
    scene = stage()

    scene.use(TINY)

    stats = scene.shelf.stats()
    assert (stats.misses, stats.loads, stats.hits, stats.waits) == (1, 1, 0, 0)


def test_second_borrower_has_the_loaded_engine_without_waiting(stage: Stage) -> None:
    scene = stage()

    scene.use(TINY, TINY)

    stats = scene.shelf.stats()
    assert (stats.misses, stats.loads, stats.hits, stats.waits) == (1, 1, 1, 0)


def test_load_seconds_are_counted(stage: Stage) -> None:
    scene = stage()
    scene.loader.at_load = lambda _key: scene.clock.advance(7)

    scene.use(TINY)

    assert scene.shelf.stats().load_seconds == 7


def test_keys_that_differ_in_anything_are_different_models(stage: Stage) -> None:
    scene = stage(max_models=5)
    keys = [
        TINY,
        BASE,
        ModelKey("faster-whisper", "tiny", "cpu", "float32"),
        ModelKey("openai-whisper", "tiny", "cuda", "float32"),
        ModelKey("openai-whisper", "tiny", "cpu", "int8"),
    ]

    scene.use(*keys)

    assert {row.key for row in scene.shelf.stats().models} == set(keys)


def test_shared_engine_is_lent_to_all_at_once(stage: Stage) -> None:
    scene = stage(FakeLoader(exclusive=False), max_models=1)

    instances = {id(scene.lend(TINY)) for _ in range(5)}

    assert len(instances) == 1


def test_exclusive_engine_is_lent_once(stage: Stage) -> None:
    scene = stage(max_instances=1)
    scene.lend(TINY)

    with pytest.raises(errors.PoolTimeout):
        scene.lend(TINY)


def test_another_instance_of_an_exclusive_engine_is_loaded_where_allowed(stage: Stage) -> None:
    scene = stage(max_instances=2)

    first, second = scene.lend(TINY), scene.lend(TINY)

    assert first is not second


def test_shared_engine_never_has_a_second_instance(stage: Stage) -> None:
    scene = stage(FakeLoader(exclusive=False), max_instances=2)

    scene.lend(TINY)
    scene.lend(TINY)

    assert scene.loader.events == ["load tiny"]


def test_of_two_free_instances_the_last_used_is_lent(stage: Stage) -> None:
    scene = stage(max_instances=2)
    first, second = scene.lend(TINY), scene.lend(TINY)
    scene.shelf.take_back(second)
    scene.clock.advance(1)
    scene.shelf.take_back(first)

    assert scene.lend(TINY) is first


# Evicting


def test_least_recently_used_is_evicted(stage: Stage) -> None:
    scene = stage(max_models=2)
    scene.use(TINY, BASE, TINY)

    scene.use(SMALL)

    assert scene.loader.alive() == ["small", "tiny"]


def test_nothing_is_evicted_while_there_is_room(stage: Stage) -> None:
    scene = stage(max_models=3)

    scene.use(TINY, BASE, SMALL)

    assert scene.shelf.stats().evictions == 0


def test_borrowed_model_is_not_evicted(stage: Stage) -> None:
    scene = stage(max_models=2)
    scene.lend(TINY)
    scene.use(BASE)

    scene.use(SMALL)

    assert scene.loader.alive() == ["small", "tiny"]


def test_borrower_waits_while_all_is_borrowed(stage: Stage) -> None:
    scene = stage(max_models=1)
    scene.lend(TINY)

    with pytest.raises(errors.PoolTimeout):
        scene.lend(BASE)


def test_waiting_borrower_evicts_a_model_that_falls_idle(stage: Stage) -> None:
    scene = stage(max_models=1)
    tiny = scene.lend(TINY)
    waiting = scene.queue(BASE)

    scene.shelf.take_back(tiny)

    assert result(waiting).key == BASE
    assert scene.loader.alive() == ["base"]


def test_memory_is_counted_as_well_as_models(stage: Stage) -> None:
    scene = stage(FakeLoader(default_bytes=40), max_models=9, max_bytes={"cpu": 100})

    scene.use(TINY, BASE, SMALL)

    assert scene.loader.alive() == ["base", "small"]
    assert scene.shelf.stats().bytes == 80


def test_as_many_are_evicted_as_the_memory_takes(stage: Stage) -> None:
    loader = FakeLoader(default_bytes=40, sizes={SMALL: 90})
    scene = stage(loader, max_models=9, max_bytes={"cpu": 100})

    scene.use(TINY, BASE, SMALL)

    assert loader.alive() == ["small"]


def test_nothing_is_evicted_in_vain(stage: Stage) -> None:
    loader = FakeLoader(default_bytes=40, sizes={SMALL: 90})
    scene = stage(loader, max_models=9, max_bytes={"cpu": 100})
    scene.lend(TINY)
    scene.use(BASE)

    with pytest.raises(errors.PoolTimeout):
        scene.lend(SMALL)
    assert loader.alive() == ["base", "tiny"]


def test_memory_of_one_device_is_not_that_of_another(stage: Stage) -> None:
    gpu = a_key("base", "cuda")
    loader = FakeLoader(default_bytes=80)
    scene = stage(loader, max_models=9, max_bytes={"cpu": 100, "cuda": 100})

    scene.use(TINY, gpu)

    assert loader.alive() == ["base", "tiny"]


def test_to_free_memory_of_one_device_nothing_is_evicted_from_another(stage: Stage) -> None:
    loader = FakeLoader(default_bytes=80)
    scene = stage(loader, max_models=9, max_bytes={"cuda": 100})
    scene.use(TINY, a_key("base", "cuda"))

    scene.use(a_key("small", "cuda"))

    assert loader.alive() == ["small", "tiny"]


def test_model_larger_than_the_limit_is_refused_at_once(stage: Stage) -> None:
    scene = stage(FakeLoader(default_bytes=101), max_bytes={"cpu": 100})

    with pytest.raises(errors.EngineOutOfMemory):
        scene.lend(TINY)
    assert scene.loader.events == []


def test_engine_larger_than_its_estimate_counts_as_large_as_it_is(stage: Stage) -> None:
    loader = FakeLoader(sizes={TINY: 2_000})
    scene = stage(loader, lambda _: 1_000, max_models=9, max_bytes={"cpu": 2_500})

    scene.use(TINY, BASE)

    assert loader.alive() == ["base"]


def test_engine_larger_than_its_estimate_needs_its_real_room_the_next_time(stage: Stage) -> None:
    loader = FakeLoader(sizes={TINY: 2_000})
    scene = stage(loader, lambda _: 1_000, max_models=9, max_bytes={"cpu": 2_500})
    scene.use(TINY)
    scene.lend(BASE)

    with pytest.raises(errors.PoolTimeout):
        scene.lend(TINY)


def test_victim_closes_before_its_heir_loads(stage: Stage) -> None:
    scene = stage(max_models=1)

    scene.use(TINY, BASE)

    assert scene.loader.events == ["load tiny", "close tiny", "load base"]


def test_place_of_a_victim_cannot_be_taken_by_a_third(stage: Stage) -> None:
    """Neither while it closes nor while its heir loads."""
    scene = stage(max_models=1)
    scene.use(TINY)
    closing, loading = Gate(), Gate()
    scene.loader.at_close, scene.loader.at_load = closing, loading
    heir = scene.lend_in_thread(BASE)
    closing.wait_until_reached()
    third = scene.queue(SMALL)
    closing.open()
    loading.wait_until_reached()
    loading.open()

    assert result(heir).key == BASE
    assert not third.done()
    assert scene.loader.most_models == 1


def test_victim_and_heir_take_one_place_together(stage: Stage) -> None:
    loader = FakeLoader(sizes={TINY: 80, BASE: 60, SMALL: 20})
    scene = stage(loader, max_models=2, max_bytes={"cpu": 100})
    scene.use(TINY)
    closing = Gate()
    loader.at_close = closing
    heir = scene.lend_in_thread(BASE)
    closing.wait_until_reached()

    beside = scene.lend(SMALL)

    closing.open()
    assert (beside.key, result(heir).key) == (SMALL, BASE)


def test_closing_model_counts_until_it_has_closed(stage: Stage) -> None:
    scene = stage(max_models=1)
    scene.use(TINY)
    closing = Gate()
    scene.loader.at_close = closing
    unloading = scene.run(scene.shelf.evict_idle)
    closing.wait_until_reached()

    with pytest.raises(errors.PoolTimeout):
        scene.lend(BASE)

    closing.open()
    assert unloading.result(PATIENCE_SECONDS) == 1


def test_room_of_a_model_that_closed_goes_to_who_waits(stage: Stage) -> None:
    scene = stage(max_models=1)
    scene.use(TINY)
    closing = Gate()
    scene.loader.at_close = closing
    scene.run(scene.shelf.evict_idle)
    closing.wait_until_reached()
    waiting = scene.queue(BASE)

    closing.open()

    assert result(waiting).key == BASE


def test_model_that_does_not_close_makes_room_all_the_same(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    scene = stage(max_models=1)
    scene.use(TINY)

    def refuse(_engine: object) -> None:
        scene.loader.at_close = lambda _engine: None
        raise RuntimeError("the driver is gone")

    scene.loader.at_close = refuse
    scene.use(BASE)

    assert scene.loader.alive() == ["base"]
    assert "model did not close" in caplog.messages


# Waiting


def test_waiting_borrowers_of_a_model_are_served_in_order(stage: Stage) -> None:
    scene = stage(max_instances=1)
    held = scene.lend(TINY)
    served: list[int] = []

    def use(number: int, future: Future[Instance]) -> None:
        served.append(number)
        scene.shelf.take_back(future.result())

    for number in range(4):
        scene.queue(TINY).add_done_callback(partial(use, number))

    scene.shelf.take_back(held)

    eventually(lambda: len(served) == 4)
    assert served == [0, 1, 2, 3]


def test_each_of_two_instances_that_come_back_wakes_a_borrower(stage: Stage) -> None:
    scene = stage(max_instances=2)
    held = scene.lend(TINY), scene.lend(TINY)
    waiting = scene.queue(TINY), scene.queue(TINY)

    for instance in held:
        scene.shelf.take_back(instance)

    assert {id(result(future)) for future in waiting} == {id(instance) for instance in held}


def test_wait_ends_after_the_timeout(stage: Stage) -> None:
    scene = stage(max_models=1, poll_seconds=0.01)
    scene.lend(TINY)
    waiting = scene.queue(BASE)

    scene.clock.advance(301)

    with pytest.raises(errors.PoolTimeout):
        result(waiting)
    stats = scene.shelf.stats()
    assert (stats.timeouts, stats.waits, stats.wait_seconds) == (1, 1, 301)


def test_wait_can_be_cancelled(stage: Stage) -> None:
    scene = stage(max_models=1, poll_seconds=0.01)
    scene.lend(TINY)
    wanted = [True]

    def cancelled() -> None:
        if not wanted:
            raise errors.CancelRequested

    waiting = scene.queue(BASE, cancelled)
    wanted.clear()

    with pytest.raises(errors.CancelRequested):
        result(waiting)


def test_borrower_that_gave_up_holds_nobody_up(stage: Stage) -> None:
    scene = stage(max_instances=1, poll_seconds=0.01)
    held = scene.lend(TINY)
    wanted = [True]

    def cancelled() -> None:
        if not wanted:
            raise errors.CancelRequested

    gives_up, stays = scene.queue(TINY, cancelled), scene.queue(TINY)
    wanted.clear()
    with pytest.raises(errors.CancelRequested):
        result(gives_up)

    scene.shelf.take_back(held)

    assert result(stays) is held


def test_borrower_that_wakes_in_vain_has_waited_once(stage: Stage) -> None:
    scene = stage(max_instances=1)
    held = scene.lend(TINY)
    looks: list[None] = []

    def looked(times: int) -> bool:
        return len(looks) >= times

    waiting = scene.queue(TINY, lambda: looks.append(None))
    for times in (2, 3, 4):
        scene.use(BASE)
        eventually(partial(looked, times))

    scene.shelf.take_back(held)

    result(waiting)
    assert scene.shelf.stats().waits == 1


def test_newcomers_pass_who_waits_for_room(stage: Stage) -> None:
    """Otherwise a model that is there would stand idle."""
    scene = stage(FakeLoader(exclusive=False), max_models=1)
    scene.lend(TINY)
    scene.queue(BASE)

    assert scene.lend(TINY).key == TINY


def test_newcomers_do_not_pass_who_waited_long_for_room(stage: Stage) -> None:
    scene = stage(FakeLoader(exclusive=False), max_models=1, patience_seconds=30)
    held = scene.lend(TINY)
    waiting = scene.queue(BASE)
    scene.clock.advance(30)

    with pytest.raises(errors.PoolTimeout):
        scene.lend(TINY)

    scene.shelf.take_back(held)
    assert result(waiting).key == BASE


def test_who_waits_long_for_an_instance_holds_up_no_other_model(stage: Stage) -> None:
    scene = stage(max_models=2, max_instances=1, patience_seconds=30)
    scene.lend(TINY)
    scene.queue(TINY)
    scene.clock.advance(100)

    assert scene.lend(BASE).key == BASE


# Loading


def test_model_is_loaded_once_for_all_who_want_it_meanwhile(stage: Stage) -> None:
    scene = stage(FakeLoader(exclusive=False), max_models=3)
    scene.loader.at_load = gate = Gate()
    first = scene.lend_in_thread(TINY)
    gate.wait_until_reached()
    others = [scene.queue(TINY) for _ in range(3)]

    gate.open()

    assert {id(result(future)) for future in others} == {id(result(first))}
    assert scene.loader.events == ["load tiny"]


def test_second_instance_is_not_loaded_before_the_first_is_there(stage: Stage) -> None:
    scene = stage(max_instances=2)
    scene.loader.at_load = gate = Gate()
    first = scene.lend_in_thread(TINY)
    gate.wait_until_reached()
    second = scene.queue(TINY)
    loads_meanwhile = list(scene.loader.events)

    gate.open()

    assert loads_meanwhile == ["load tiny"]
    assert result(first) is not result(second)


def test_other_models_are_lent_while_one_loads(stage: Stage) -> None:
    scene = stage(max_models=3)
    scene.use(BASE)
    gate = Gate()
    scene.loader.at_load = lambda key: gate() if key == TINY else None
    slow = scene.lend_in_thread(TINY)
    gate.wait_until_reached()

    scene.use(BASE)
    scene.use(SMALL)

    assert not slow.done()
    gate.open()
    assert result(slow).key == TINY


def test_failed_load_is_told_to_all_who_waited_for_it(stage: Stage) -> None:
    scene = stage()
    gate = Gate()

    def fail(_key: ModelKey) -> None:
        gate()
        raise errors.ModelUnavailable("Put tiny.pt there.", model="tiny")

    scene.loader.at_load = fail
    first = scene.lend_in_thread(TINY)
    gate.wait_until_reached()
    others = [scene.queue(TINY) for _ in range(3)]
    gate.open()

    raised = [future.exception(PATIENCE_SECONDS) for future in (first, *others)]

    assert {type(error) for error in raised} == {errors.ModelUnavailable}
    assert {str(error) for error in raised} == {"Put tiny.pt there."}
    assert len({id(error) for error in raised}) == 4
    assert scene.loader.events == ["load tiny"]


def test_unforeseen_error_of_a_load_is_told_as_a_failed_load(stage: Stage) -> None:
    scene = stage()
    gate = Gate()

    def fail(_key: ModelKey) -> None:
        gate()
        raise KeyError("dims")

    scene.loader.at_load = fail
    first = scene.lend_in_thread(TINY)
    gate.wait_until_reached()
    other = scene.queue(TINY)
    gate.open()

    assert isinstance(first.exception(PATIENCE_SECONDS), KeyError)
    assert isinstance(other.exception(PATIENCE_SECONDS), errors.ModelLoadFailed)


@pytest.mark.parametrize("error", [errors.ModelLoadFailed, KeyError, SystemExit])
def test_failed_load_leaves_its_place_free(stage: Stage, error: type[BaseException]) -> None:
    scene = stage(max_models=1)

    def fail(_key: ModelKey) -> None:
        scene.loader.at_load = lambda _key: None
        raise error

    scene.loader.at_load = fail
    with pytest.raises(error):
        scene.lend(TINY)

    scene.use(TINY)

    stats = scene.shelf.stats()
    assert (stats.load_failures, stats.loads) == (1, 1)


def test_interrupted_load_is_begun_again_by_who_waited_for_it(stage: Stage) -> None:
    scene = stage()
    gate = Gate()

    def stop(_key: ModelKey) -> None:
        scene.loader.at_load = lambda _key: None
        gate()
        raise SystemExit

    scene.loader.at_load = stop
    first = scene.lend_in_thread(TINY)
    gate.wait_until_reached()
    other = scene.queue(TINY)
    gate.open()

    assert isinstance(first.exception(PATIENCE_SECONDS), SystemExit)
    assert result(other).key == TINY


def test_instance_that_cannot_be_had_beside_another_is_waited_for(stage: Stage) -> None:
    """Nobody is given a smaller model because a second copy of the right one does not fit."""
    scene = stage(max_instances=2)
    held = scene.lend(TINY)

    def fail(_key: ModelKey) -> None:
        raise errors.EngineOutOfMemory

    scene.loader.at_load = fail
    waiting = scene.queue(TINY)
    another = scene.queue(TINY)
    scene.shelf.take_back(held)

    assert result(waiting) is held
    assert not another.done()
    assert scene.loader.events == ["load tiny", "load tiny"]


def test_who_tried_to_load_another_instance_keeps_its_place(stage: Stage) -> None:
    scene = stage(max_instances=2)
    held = scene.lend(TINY)
    gate = Gate()

    def fail(_key: ModelKey) -> None:
        gate()
        raise errors.EngineOutOfMemory

    scene.loader.at_load = fail
    first = scene.lend_in_thread(TINY)
    gate.wait_until_reached()
    second = scene.queue(TINY)
    gate.open()
    eventually(lambda: scene.shelf.stats().waits == 2)

    scene.shelf.take_back(held)

    assert result(first) is held
    assert not second.done()


def test_instance_on_its_way_out_is_not_waited_for(stage: Stage) -> None:
    scene = stage(FakeLoader(exclusive=False))
    broken = scene.lend(TINY)
    scene.lend(TINY)
    scene.shelf.take_back(broken, Health.BROKEN)

    def fail(_key: ModelKey) -> None:
        scene.loader.at_load = lambda _key: None
        raise errors.EngineOutOfMemory

    scene.loader.at_load = fail

    with pytest.raises(errors.EngineOutOfMemory):
        scene.lend(TINY)


# Giving back


def test_broken_engine_is_closed_and_not_lent_again(stage: Stage) -> None:
    scene = stage()
    scene.shelf.take_back(scene.lend(TINY), Health.BROKEN)

    scene.use(TINY)

    assert scene.loader.events == ["load tiny", "close tiny", "load tiny"]
    assert scene.shelf.stats().discards == 1


def test_broken_engine_that_others_use_closes_with_the_last_of_them(stage: Stage) -> None:
    scene = stage(FakeLoader(exclusive=False))
    first, second = scene.lend(TINY), scene.lend(TINY)

    scene.shelf.take_back(first, Health.BROKEN)
    after_first = scene.loader.alive()
    scene.shelf.take_back(second)

    assert after_first == ["tiny"]
    assert scene.loader.alive() == []


def test_broken_engine_that_others_use_is_replaced_for_newcomers(stage: Stage) -> None:
    scene = stage(FakeLoader(exclusive=False))
    first, second = scene.lend(TINY), scene.lend(TINY)
    scene.shelf.take_back(first, Health.BROKEN)

    assert scene.lend(TINY) is not second


def test_engine_that_broke_for_two_is_discarded_once(stage: Stage) -> None:
    scene = stage(FakeLoader(exclusive=False))
    borrowed = scene.lend(TINY), scene.lend(TINY)

    for instance in borrowed:
        scene.shelf.take_back(instance, Health.BROKEN)

    assert scene.shelf.stats().discards == 1


def test_full_engine_is_closed(stage: Stage) -> None:
    scene = stage()

    scene.shelf.take_back(scene.lend(TINY), Health.FULL)

    assert scene.loader.alive() == []


def test_full_engine_that_others_use_stays(stage: Stage) -> None:
    scene = stage(FakeLoader(exclusive=False))
    first, second = scene.lend(TINY), scene.lend(TINY)

    scene.shelf.take_back(first, Health.FULL)

    assert scene.lend(TINY) is second


# Unloading


def test_model_that_nobody_used_for_long_is_unloaded(stage: Stage) -> None:
    scene = stage()
    scene.use(TINY)
    scene.clock.advance(60)
    scene.use(BASE)
    scene.lend(BASE)

    assert scene.shelf.evict_idle(60) == 1
    assert scene.loader.alive() == ["base"]
    assert (scene.shelf.stats().unloads, scene.shelf.stats().evictions) == (1, 0)


def test_model_on_loan_is_not_unloaded(stage: Stage) -> None:
    scene = stage()
    scene.lend(TINY)
    scene.clock.advance(1_000)

    assert scene.shelf.evict_idle(60) == 0


def test_closed_shelf_lends_nothing(stage: Stage) -> None:
    scene = stage()
    scene.use(TINY)

    scene.shelf.close()

    with pytest.raises(errors.Draining):
        scene.lend(TINY)
    assert scene.loader.alive() == []


def test_closing_ends_all_waits(stage: Stage) -> None:
    scene = stage(max_models=1)
    scene.lend(TINY)
    waiting = scene.queue(TINY), scene.queue(BASE)

    scene.shelf.close()

    for future in waiting:
        with pytest.raises(errors.Draining):
            result(future)


def test_model_on_loan_closes_when_it_comes_back_to_a_closed_shelf(stage: Stage) -> None:
    scene = stage()
    held = scene.lend(TINY)

    scene.shelf.close()
    while_held = scene.loader.alive()
    scene.shelf.take_back(held)

    assert while_held == ["tiny"]
    assert scene.loader.alive() == []


# Statistics


def test_statistics_have_a_row_for_each_model(stage: Stage) -> None:
    scene = stage(max_models=3, max_instances=2)
    scene.lend(TINY)
    scene.lend(TINY)
    scene.use(BASE)
    scene.clock.advance(5)

    rows = {row.key: row for row in scene.shelf.stats().models}

    assert (rows[TINY].instances, rows[TINY].borrowers, rows[TINY].bytes) == (2, 2, 2_000)
    assert (rows[BASE].instances, rows[BASE].borrowers, rows[BASE].bytes) == (1, 0, 1_000)
    assert (rows[TINY].idle_seconds, rows[BASE].idle_seconds) == (0, 5)
