"""Which engines are loaded, and who may have one: lend, queue, load, evict, unload, count.

What is on loan is never evicted, nobody waits who could load, and no more is counted than the
limits allow. The lock is held to decide, never while an engine loads, works or closes.
"""

from __future__ import annotations

import copy
import enum
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

from errors import Draining, EngineOutOfMemory, ModelLoadFailed, PoolTimeout, ServiceError
from speech.engines import Engine, ModelKey

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolLimits:
    """What one process may hold, and for how long anything may wait."""

    #: Loaded models of all kinds together, those being loaded or closed included.
    max_models: int
    #: Instances of one model, for engines that only one thread may use at a time.
    max_instances: int = 1
    #: Memory for models by device, such as {"cpu": 8_000_000_000}; a device left out has no limit.
    max_bytes: Mapping[str, int] = field(default_factory=dict)
    #: A model that nobody borrowed for so long is unloaded.
    idle_seconds: float = 900.0
    #: How long a borrower waits for others; its own loading does not count.
    wait_seconds: float = 300.0
    #: Whoever has waited so long for room is served before anybody who came later: a model that is
    #: always in use would otherwise keep another one out for ever.
    patience_seconds: float = 30.0
    #: How often who waits asks whether it is still wanted. All else wakes it by itself.
    poll_seconds: float = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelStats:
    """All instances of one model at one moment."""

    key: ModelKey
    instances: int
    borrowers: int
    bytes: int
    #: Since the last use of any instance; 0 while one is on loan.
    idle_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolStats:
    """What the pool did since the process started, and what it holds now."""

    #: Loans of an instance that was there.
    hits: int = 0
    #: Loans that began with a load.
    misses: int = 0
    loads: int = 0
    load_failures: int = 0
    load_seconds: float = 0.0
    #: Models closed to make room for others.
    evictions: int = 0
    #: Models closed because nobody used them for long.
    unloads: int = 0
    #: Models closed because they failed on loan.
    discards: int = 0
    #: Borrowers that had to wait for others, whatever came of it.
    waits: int = 0
    wait_seconds: float = 0.0
    timeouts: int = 0
    #: Steps down the ladder after running out of memory.
    fallbacks: int = 0
    #: Held now, on all devices together.
    bytes: int = 0
    models: tuple[ModelStats, ...] = ()


class Health(enum.Enum):
    """What a borrower knows about the engine that it gives back."""

    SOUND = enum.auto()
    #: Ran out of memory: closing it helps, unless others use it too.
    FULL = enum.auto()
    #: In an unknown state: nobody may borrow it again.
    BROKEN = enum.auto()


@dataclass(slots=True, eq=False, kw_only=True)
class Instance:
    """One place on the shelf: reserved, then loaded, at last retired. Guarded by the shelf's lock.

    It counts until its engine has closed: memory is free when it is free, not when it is promised.
    """

    key: ModelKey
    bytes: int
    used_at: float
    #: None while it loads.
    engine: Engine | None = None
    borrowers: int = 0
    #: Never lent again; closed once nobody uses it.
    retired: bool = False
    #: Evicted for its sake. Until they have closed they hold its place, and it counts for what it
    #: needs beyond theirs; so nobody else can take the place between their end and its start.
    victims: list[Instance] = field(default_factory=list)

    @property
    def counted_bytes(self) -> int:
        held = sum(v.bytes for v in self.victims if v.key.device == self.key.device)
        return max(0, self.bytes - held)

    @property
    def is_idle(self) -> bool:
        return self.engine is not None and not self.borrowers and not self.retired

    @property
    def is_free(self) -> bool:
        shared = self.engine is not None and not self.engine.exclusive
        return self.is_idle or (shared and not self.retired)


@dataclass(slots=True, eq=False, kw_only=True)
class _Ticket:
    """A borrower's place in the queue. Guarded by the shelf's lock."""

    key: ModelKey
    bytes: int
    since: float
    deadline: float
    #: It waits for room, not for an instance of its own model or for its turn.
    needs_room: bool = False
    waited: bool = False
    #: The load that it waited for has failed.
    error: ServiceError | None = None


class Shelf:
    """The loaded engines of one process. Every method may be called by any thread."""

    def __init__(
        self,
        limits: PoolLimits,
        *,
        load: Callable[[ModelKey], Engine],
        estimate_bytes: Callable[[ModelKey], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limits = limits
        self._load = load
        self._estimate_bytes = estimate_bytes
        self._clock = clock
        # Reentrant, because a finalizer or a signal handler may come here from within a call.
        self._changed = threading.Condition(threading.RLock())
        self._instances: list[Instance] = []
        #: Oldest first.
        self._queue: list[_Ticket] = []
        #: What engines took once they were loaded.
        self._measured: dict[ModelKey, int] = {}
        #: So many instances were all that could be loaded of a model; until something closes.
        self._ceilings: dict[ModelKey, int] = {}
        self._totals = PoolStats()
        self._closed = False

    def lend(self, key: ModelKey, *, cancelled: Callable[[], None], timeout: float) -> Instance:
        """Lend an instance of exactly ``key``, loading it if need be; ``take_back`` must follow.

        Raises: what ``ModelPool.borrow`` says, and ``EngineOutOfMemory`` for this ``key`` alone.
        """
        need = max(self._estimate_bytes(key), self._measured.get(key, 0))
        if need > self.limits.max_bytes.get(key.device, need):
            raise EngineOutOfMemory("The model needs more memory than models may take.")
        now = self._clock()
        ticket = _Ticket(key=key, bytes=need, since=now, deadline=now + timeout)
        while True:
            instance = self._wait(ticket, cancelled)
            if instance.engine is not None or self._fill(instance):
                return instance

    def take_back(self, instance: Instance, health: Health = Health.SOUND) -> None:
        with self._changed:
            instance.borrowers -= 1
            instance.used_at = self._clock()
            alone = not instance.borrowers
            # While others use it, closing frees nothing, and the next borrower would load another.
            failed = health is Health.BROKEN or (health is Health.FULL and alone)
            self.count(discards=failed and not instance.retired)
            instance.retired |= failed or (alone and self._closed)
            leaves = alone and instance.retired
            self._changed.notify_all()
        if leaves:
            self._dispose([instance])

    def evict_idle(self, unused_seconds: float | None = None) -> int:
        """Close what is not on loan, or only what was not for so long; return how many."""
        with self._changed:
            last = self._clock() - (unused_seconds or 0.0)
            idle = self._retire(i for i in self._instances if i.is_idle and i.used_at <= last)
            self.count(**{"evictions" if unused_seconds is None else "unloads": len(idle)})
        self._dispose(idle)
        return len(idle)

    def close(self) -> None:
        """Lend nothing more; close what is idle now, and what is on loan when it comes back."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self.evict_idle()

    def stats(self) -> PoolStats:
        with self._changed:
            keys = dict.fromkeys(i.key for i in self._instances)
            models = tuple(self._model_stats(key) for key in keys)
            return replace(self._totals, bytes=sum(m.bytes for m in models), models=models)

    def count(self, **amounts: float) -> None:
        """Add to totals of ``PoolStats``, by name."""
        with self._changed:
            sums = {name: getattr(self._totals, name) + more for name, more in amounts.items()}
            self._totals = replace(self._totals, **sums)

    def _model_stats(self, key: ModelKey) -> ModelStats:
        kind = [i for i in self._instances if i.key == key]
        borrowers = sum(i.borrowers for i in kind)
        unused_seconds = self._clock() - max(i.used_at for i in kind)
        return ModelStats(
            key=key,
            instances=len(kind),
            borrowers=borrowers,
            bytes=sum(i.counted_bytes for i in kind),
            idle_seconds=0.0 if borrowers else unused_seconds,
        )

    def _wait(self, ticket: _Ticket, cancelled: Callable[[], None]) -> Instance:
        """Queue up for an instance: lent when its engine is there, else reserved, to be filled."""
        began = self._clock()
        with self._changed:
            self._queue.append(ticket)
            # One whose load failed comes again, with its old place.
            self._queue.sort(key=lambda t: t.since)
        try:
            while True:
                cancelled()
                with self._changed:
                    instance = self._serve(ticket)
                    if instance is not None:
                        return instance
                    self._sleep(ticket)
        finally:
            with self._changed:
                self._queue.remove(ticket)
                self.count(wait_seconds=self._clock() - began if ticket.waited else 0.0)
                self._changed.notify_all()

    def _sleep(self, ticket: _Ticket) -> None:
        # In the same hold of the lock as the decision to wait, or a wake-up could be lost.
        left = ticket.deadline - self._clock()
        if left <= 0:
            self.count(timeouts=1)
            raise PoolTimeout
        self.count(waits=not ticket.waited)
        ticket.waited = True
        self._changed.wait(min(left, self.limits.poll_seconds))

    def _serve(self, ticket: _Ticket) -> Instance | None:
        """Lend or reserve what ``ticket`` asks for; None while it has to wait."""
        ticket.needs_room = False
        if self._closed:
            raise Draining
        if ticket.error is not None:
            raise ticket.error
        if not self._is_turn(ticket):
            return None
        kind = [i for i in self._instances if i.key == ticket.key and not i.retired]
        if free := [i for i in kind if i.is_free]:
            # The one used last, so that the others grow old and can be unloaded.
            instance = max(free, key=lambda i: i.used_at)
            instance.borrowers += 1
            self.count(hits=1)
            return instance
        most = self._ceilings.get(ticket.key, self.limits.max_instances)
        if len(kind) >= most or any(i.engine is None for i in kind):
            return None
        return self._reserve(ticket)

    def _is_turn(self, ticket: _Ticket) -> bool:
        impatient = self._clock() - self.limits.patience_seconds
        older = self._queue[: self._queue.index(ticket)]
        return not any(
            t.key == ticket.key or (t.needs_room and t.since <= impatient) for t in older
        )

    def _reserve(self, ticket: _Ticket) -> Instance | None:
        victims = self._victims(ticket)
        ticket.needs_room = victims is None
        if victims is None:
            return None
        self.count(misses=1, evictions=len(victims))
        instance = Instance(
            key=ticket.key,
            bytes=ticket.bytes,
            used_at=self._clock(),
            borrowers=1,
            victims=self._retire(victims),
        )
        self._instances.append(instance)
        return instance

    def _victims(self, ticket: _Ticket) -> list[Instance] | None:
        """The least recently used idle models that make room; None if all together do not."""
        device = ticket.key.device
        held = sum(i.counted_bytes for i in self._instances if i.key.device == device)
        excess = held + ticket.bytes - self.limits.max_bytes.get(device, held + ticket.bytes)
        surplus = sum(not i.victims for i in self._instances) + 1 - self.limits.max_models
        victims = []
        for instance in sorted(self._instances, key=lambda i: i.used_at):
            frees = instance.bytes if instance.key.device == device else 0
            if instance.is_idle and (surplus > 0 or (excess > 0 and frees)):
                victims.append(instance)
                surplus -= 1
                excess -= frees
        return None if surplus > 0 or excess > 0 else victims

    def _fill(self, instance: Instance) -> bool:
        """Load a reserved instance; False if the borrower has to do with those already there."""
        key, began = instance.key, self._clock()
        try:
            self._dispose(instance.victims)
            engine = self._load(key)
            size = engine.memory_bytes
        except BaseException as error:
            if self._give_up(instance, error):
                return False
            raise
        seconds = self._clock() - began
        with self._changed:
            self._measured[key] = size
            instance.engine, instance.bytes = engine, max(instance.bytes, size)
            self.count(loads=1, load_seconds=seconds)
            self._changed.notify_all()
        logger.info("model loaded", extra={"model_key": str(key), "elapsed_seconds": seconds})
        return True

    def _give_up(self, instance: Instance, error: BaseException) -> bool:
        """Drop a reservation. True if other instances are there to wait for.

        A further instance is a luxury: that it does not load is no failure of the borrower's.
        """
        key, expected = instance.key, error if isinstance(error, ServiceError) else None
        with self._changed:
            self._instances.remove(instance)
            self.count(load_failures=1)
            self._changed.notify_all()
            others = sum(i.key == key and not i.retired for i in self._instances)
            if others and expected:
                logger.warning("no further instance fits", extra={"model_key": str(key)})
                self._ceilings[key] = others
                return True
            # Interrupted is not failed: after SystemExit and its like the next one tries.
            for ticket in self._queue if isinstance(error, Exception) else ():
                if ticket.key == key:
                    # A copy has no traceback: frames would hold what was half loaded.
                    ticket.error = copy.copy(expected) or ModelLoadFailed()
            return False

    def _retire(self, instances: Iterable[Instance]) -> list[Instance]:
        chosen = list(instances)
        for instance in chosen:
            instance.retired = True
        return chosen

    def _dispose(self, retired: list[Instance]) -> None:
        with ExitStack() as stack:
            for instance in retired:
                stack.callback(self._dispose_one, instance)

    def _dispose_one(self, instance: Instance) -> None:
        try:
            if instance.engine is not None:
                instance.engine.close()
        except Exception:
            # Whoever happens to close it, a borrower in need of room, must not fail with it.
            logger.exception("model did not close", extra={"model_key": str(instance.key)})
        finally:
            with self._changed:
                instance.engine = None
                self._instances.remove(instance)
                for heir in self._instances:
                    heir.victims = [v for v in heir.victims if v is not instance]
                self._ceilings.clear()
                self._changed.notify_all()
