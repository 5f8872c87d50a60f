"""Work of many transcriptions done together: who goes next, and with whom.

A few runners take what waits, a batch each. Nobody is waited for: whatever is there when a runner
comes free is its batch, so that a single window starts at once and a full queue fills batches.
"""

from __future__ import annotations

import logging
import math
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

import errors
from speech.engines.failures import is_out_of_memory

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchStats:
    """What was done so far."""

    batches: int = 0
    items: int = 0
    #: Items that were tried again alone, since their batch had failed.
    alone: int = 0

    @property
    def mean_batch(self) -> float:
        return self.items / self.batches if self.batches else 0.0


@dataclass(slots=True, eq=False)
class _Waiting(Generic[Item, Result]):
    item: Item
    future: Future[Result] = field(default_factory=Future)


class _Line(Generic[Item, Result]):
    """What waits, owner by owner: each has its turn, however much another has brought."""

    def __init__(self) -> None:
        self._owners: OrderedDict[Hashable, deque[_Waiting[Item, Result]]] = OrderedDict()
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def add(self, owner: Hashable, waiting: _Waiting[Item, Result]) -> None:
        self._owners.setdefault(owner, deque()).append(waiting)
        self._length += 1

    def take(self) -> _Waiting[Item, Result]:
        owner, line = self._owners.popitem(last=False)
        waiting = line.popleft()
        if line:
            self._owners[owner] = line
        self._length -= 1
        return waiting


class Batcher(Generic[Item, Result]):
    """Does items in batches, on threads of its own.

    Args:
        work: Does a batch on the runner of that number: as many results as items, in their order.
        runners: Batches that are worked on at a time.
        largest: Items of one batch, at most. It halves when a batch runs out of memory.
    """

    def __init__(
        self,
        work: Callable[[int, Sequence[Item]], Sequence[Result]],
        *,
        runners: int,
        largest: int,
        name: str,
    ) -> None:
        self._work = work
        self._runners = runners
        self._largest = largest
        self._changed = threading.Condition()
        self._urgent: _Line[Item, Result] = _Line()
        self._others: _Line[Item, Result] = _Line()
        self._idle = 0
        self._closed = False
        self._stats = BatchStats()
        self._threads = [
            threading.Thread(target=self._run, args=(number,), name=f"{name}-{number}", daemon=True)
            for number in range(runners)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, item: Item, *, owner: Hashable, urgent: bool = False) -> Future[Result]:
        """Have an item done; cancelling the future takes it back, if nobody has begun it.

        Args:
            owner: Whose it is. Owners take turns.
            urgent: Goes before all that is not.

        Raises:
            EngineError: It is closed.
        """
        waiting: _Waiting[Item, Result] = _Waiting(item)
        with self._changed:
            if self._closed:
                raise errors.EngineError("The model was closed while it was in use.")
            (self._urgent if urgent else self._others).add(owner, waiting)
            self._changed.notify()
        return waiting.future

    def close(self) -> None:
        """End, after what is under way; what still waits is cancelled."""
        with self._changed:
            self._closed = True
            left = [self._next() for _ in range(self._length)]
            self._changed.notify_all()
        for waiting in left:
            waiting.future.cancel()
        for thread in self._threads:
            thread.join()

    def stats(self) -> BatchStats:
        with self._changed:
            return self._stats

    @property
    def _length(self) -> int:
        return len(self._urgent) + len(self._others)

    def _next(self) -> _Waiting[Item, Result]:
        return (self._urgent or self._others).take()

    def _run(self, number: int) -> None:
        while batch := self._take():
            self._do(number, batch)

    def _take(self) -> list[_Waiting[Item, Result]]:
        """Wait for a batch; empty once it is closed."""
        while True:
            with self._changed:
                self._idle += 1
                self._changed.wait_for(lambda: self._closed or self._length)
                # an even share for each runner that is free: two small batches are done at once
                share = math.ceil(self._length / self._idle)
                self._idle -= 1
                if self._closed:
                    return []
                taken = [self._next() for _ in range(min(share, self._largest))]
            if batch := [w for w in taken if w.future.set_running_or_notify_cancel()]:
                return batch

    def _do(self, number: int, batch: list[_Waiting[Item, Result]]) -> None:
        """Do a batch, whatever comes: nobody may wait for ever, and the runner goes on."""
        error = self._try(number, batch)
        if error is None:
            return
        if len(batch) == 1:
            batch[0].future.set_exception(error)
            return
        logger.warning(
            "batch failed and is tried in parts",
            extra={"batch": len(batch), "error": type(error).__name__},
        )
        parts = self._parts(batch, error)
        # its frames hold what did not fit
        del error
        for part in parts:
            self._do(number, part)

    def _try(self, number: int, batch: list[_Waiting[Item, Result]]) -> BaseException | None:
        try:
            results = self._work(number, [waiting.item for waiting in batch])
        except BaseException as error:  # noqa: BLE001 - whoever waits for it is told
            return error
        if len(results) != len(batch):
            return errors.EngineError("A batch has another number of results than of items.")
        with self._changed:
            stats = self._stats
            self._stats = replace(stats, batches=stats.batches + 1, items=stats.items + len(batch))
        for waiting, result in zip(batch, results, strict=True):
            waiting.future.set_result(result)
        return None

    def _parts(
        self, batch: list[_Waiting[Item, Result]], error: BaseException
    ) -> list[list[_Waiting[Item, Result]]]:
        """Halves, where there was too little memory; else each alone: one of them is to blame."""
        if isinstance(error, Exception) and is_out_of_memory(error):
            half = len(batch) // 2
            with self._changed:
                self._largest = max(1, min(self._largest, half))
            return [batch[:half], batch[half:]]
        with self._changed:
            self._stats = replace(self._stats, alone=self._stats.alone + len(batch))
        return [[waiting] for waiting in batch]
