"""Batches: who is in one, who goes first, and who is to blame when one fails."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future

import pytest

from errors import EngineError
from speech.engines.batching import Batcher

PATIENCE_SECONDS = 30


class Machine:
    """Doubles numbers, in batches that can be watched and held up."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.fails: Callable[[Sequence[int]], BaseException | None] = lambda items: None
        self.gate = threading.Event()
        self.gate.set()
        self.begun = threading.Semaphore(0)

    def work(self, number: int, items: Sequence[int]) -> list[int]:
        self.batches.append(list(items))
        self.begun.release()
        assert self.gate.wait(PATIENCE_SECONDS)
        if error := self.fails(items):
            raise error
        return [2 * item for item in items]

    def hold(self, batcher: Batcher[int, int]) -> Future[int]:
        """Keep the runner busy with an item of nobody's."""
        self.gate.clear()
        future = batcher.submit(0, owner="nobody")
        assert self.begun.acquire(timeout=PATIENCE_SECONDS)
        return future


@pytest.fixture
def machine() -> Machine:
    return Machine()


@pytest.fixture
def batcher(machine: Machine) -> Iterator[Batcher[int, int]]:
    batcher = Batcher(machine.work, runners=1, largest=4, name="test")
    yield batcher
    machine.gate.set()
    batcher.close()


def results(futures: Sequence[Future[int]]) -> list[int]:
    return [future.result(PATIENCE_SECONDS) for future in futures]


def test_one_is_done_at_once(batcher, machine):
    assert results([batcher.submit(1, owner="a")]) == [2]
    assert machine.batches == [[1]]


def test_what_waits_is_done_together(batcher, machine):
    machine.hold(batcher)
    futures = [batcher.submit(n, owner=n) for n in (1, 2, 3)]
    machine.gate.set()

    assert results(futures) == [2, 4, 6]
    assert machine.batches == [[0], [1, 2, 3]]


def test_no_batch_is_larger_than_it_may_be(batcher, machine):
    machine.hold(batcher)
    futures = [batcher.submit(n, owner=n) for n in range(1, 7)]
    machine.gate.set()
    results(futures)

    assert machine.batches == [[0], [1, 2, 3, 4], [5, 6]]


def test_owners_take_turns(batcher, machine):
    machine.hold(batcher)
    futures = [batcher.submit(n, owner="many") for n in range(1, 7)]
    futures.append(batcher.submit(9, owner="one"))
    machine.gate.set()
    results(futures)

    assert machine.batches == [[0], [1, 9, 2, 3], [4, 5, 6]]


def test_what_is_urgent_goes_first(batcher, machine):
    machine.hold(batcher)
    futures = [batcher.submit(n, owner=n) for n in range(1, 6)]
    futures.append(batcher.submit(9, owner=9, urgent=True))
    machine.gate.set()
    results(futures)

    assert machine.batches == [[0], [9, 1, 2, 3], [4, 5]]


def test_two_free_runners_share(machine):
    machine.gate.clear()
    batcher = Batcher(machine.work, runners=2, largest=4, name="test")
    for _ in range(2):
        batcher.submit(0, owner="nobody")
        assert machine.begun.acquire(timeout=PATIENCE_SECONDS)
    futures = [batcher.submit(n, owner=n) for n in range(1, 5)]
    machine.gate.set()
    results(futures)
    batcher.close()

    assert sorted(n for batch in machine.batches for n in batch) == [0, 0, 1, 2, 3, 4]
    assert max(map(len, machine.batches)) <= 4


def test_of_a_batch_that_fails_only_the_guilty_one_does(batcher, machine):
    machine.fails = lambda items: ValueError("two") if 2 in items else None
    machine.hold(batcher)
    futures = [batcher.submit(n, owner=n) for n in (1, 2, 3)]
    machine.gate.set()

    assert results([futures[0], futures[2]]) == [2, 6]
    with pytest.raises(ValueError, match="two"):
        futures[1].result(PATIENCE_SECONDS)
    assert machine.batches == [[0], [1, 2, 3], [1], [2], [3]]
    assert batcher.stats().alone == 3


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_whatever_one_raises_the_next_is_done(batcher, machine, error):
    machine.fails = lambda items: error() if 1 in items else None
    failed, fine = batcher.submit(1, owner=1), batcher.submit(2, owner=2)

    with pytest.raises(error):
        failed.result(PATIENCE_SECONDS)
    assert fine.result(PATIENCE_SECONDS) == 4


def test_results_that_are_missing_are_an_error_of_the_engine():
    batcher: Batcher[int, int] = Batcher(
        lambda number, items: [], runners=1, largest=4, name="test"
    )
    with pytest.raises(EngineError):
        batcher.submit(1, owner=1).result(PATIENCE_SECONDS)
    batcher.close()


def test_a_batch_without_room_is_halved_and_those_after_it_are(batcher, machine):
    machine.fails = lambda items: MemoryError() if len(items) > 2 else None
    machine.hold(batcher)
    futures = [batcher.submit(n, owner=n) for n in range(1, 9)]
    machine.gate.set()

    assert results(futures) == [2 * n for n in range(1, 9)]
    assert machine.batches == [[0], [1, 2, 3, 4], [1, 2], [3, 4], [5, 6], [7, 8]]


def test_one_without_room_is_told_so(batcher, machine):
    machine.fails = lambda items: MemoryError()

    with pytest.raises(MemoryError):
        batcher.submit(1, owner=1).result(PATIENCE_SECONDS)


def test_what_nobody_wants_any_more_is_not_done(batcher, machine):
    machine.hold(batcher)
    unwanted, wanted = (batcher.submit(n, owner=n) for n in (1, 2))
    unwanted.cancel()
    machine.gate.set()
    results([wanted])

    assert machine.batches == [[0], [2]]


def test_closed_it_ends_what_is_under_way_and_takes_nothing_more(machine):
    batcher = Batcher(machine.work, runners=1, largest=4, name="test")
    running = machine.hold(batcher)
    waiting = batcher.submit(1, owner=1)
    cancelled = threading.Event()
    waiting.add_done_callback(lambda _: cancelled.set())
    closing = threading.Thread(target=batcher.close)
    closing.start()
    assert cancelled.wait(PATIENCE_SECONDS)
    machine.gate.set()
    closing.join(PATIENCE_SECONDS)

    assert running.result(PATIENCE_SECONDS) == 0
    with pytest.raises(EngineError):
        batcher.submit(2, owner=2)


def test_it_counts(batcher, machine):
    machine.hold(batcher)
    futures = [batcher.submit(n, owner=n) for n in (1, 2, 3)]
    machine.gate.set()
    results(futures)

    assert batcher.stats().mean_batch == 2.0
