"""The loaded models of one worker process: borrow one, and make do when memory runs out.

``model_shelf`` holds the models; here is the ladder that a borrower goes down on a full machine.
"""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from errors import EngineError, EngineOutOfMemory, ModelUnavailable, ServiceError
from model_shelf import Health, Instance, ModelStats, PoolLimits, PoolStats, Shelf
from speech.engines import Engine, ModelKey, catalogue, fitting
from speech.transcript import ResumeState, TranscribeOptions, Window

if TYPE_CHECKING:
    from speech.engines import Samples

__all__ = ["FallbackStep", "Loan", "ModelPool", "ModelStats", "PoolLimits", "PoolStats"]

logger = logging.getLogger(__name__)

Reason = Literal["load", "transcribe"]


@dataclass(frozen=True, slots=True)
class FallbackStep:
    """One step down the ladder, and what had run out of memory before it."""

    from_key: ModelKey
    to_key: ModelKey
    reason: Reason

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> FallbackStep:
        return cls(ModelKey.parse(value["from"]), ModelKey.parse(value["to"]), value["reason"])

    def to_json(self) -> dict[str, Any]:
        return {"from": str(self.from_key), "to": str(self.to_key), "reason": self.reason}


class ModelPool:
    """The models that the threads of one process share. Every method may be called by any thread.

    Args:
        load: Makes the engine for a key; raises ``EngineError`` only.
        estimate_bytes: What the engine for a key will take on its device while it works.
        fallbacks: The keys to try when a key does not fit, in order.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        limits: PoolLimits,
        *,
        load: Callable[[ModelKey], Engine],
        estimate_bytes: Callable[[ModelKey], int] = fitting.memory_bytes,
        fallbacks: Callable[[ModelKey], tuple[ModelKey, ...]] = fitting.fallbacks,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limits = limits
        self._load = load
        self._fallbacks = fallbacks
        self._shelf = Shelf(
            limits, load=self._load_or_free, estimate_bytes=estimate_bytes, clock=clock
        )

    @contextmanager
    def borrow(
        self,
        key: ModelKey,
        *,
        fallbacks: tuple[ModelKey, ...] | None = None,
        cancelled: Callable[[], None] = lambda: None,
        timeout: float | None = None,
    ) -> Iterator[Loan]:
        """Lend the model ``key``, or the first one down the ladder that fits.

        Args:
            fallbacks: The ladder below ``key``, where the pool's own does not suit the job: some
                models cannot translate, or do not know the language. Empty: that model or none.
            cancelled: Called every ``poll_seconds`` or more often while waiting, so it must be
                cheap; what it raises ends the wait. A load is not interrupted.
            timeout: Longest wait in seconds, for each rung; ``PoolLimits.wait_seconds`` unless
                given. 0 does not wait.

        Raises:
            PoolTimeout: neither an instance nor room came free in time.
            EngineOutOfMemory: the last rung does not fit either.
            ModelUnavailable, ModelLoadFailed: the load failed, this borrower's or the one that it
                waited for. The next to borrow tries again.
            Draining: the pool is closed.
        """
        loan = Loan(
            self._shelf,
            (key, *(self._fallbacks(key) if fallbacks is None else fallbacks)),
            cancelled=cancelled,
            timeout=self._limits.wait_seconds if timeout is None else timeout,
        )
        try:
            loan.start()
            yield loan
        finally:
            loan.end()

    def warm(self, key: ModelKey) -> ModelKey:
        """Load ``key`` before anybody needs it; return what fitted."""
        with self.borrow(key) as loan:
            return loan.key

    def evict_idle(self) -> int:
        """Close every model that is not on loan; return how many."""
        return self._shelf.evict_idle()

    def unload_idle(self) -> int:
        """Close what nobody borrowed for ``idle_seconds``; return how many. For a timer to call."""
        return self._shelf.evict_idle(self._limits.idle_seconds)

    def close(self) -> None:
        """Refuse all further borrowers; close what is idle, and the rest as it comes back."""
        self._shelf.close()

    def stats(self) -> PoolStats:
        return self._shelf.stats()

    def _load_or_free(self, key: ModelKey) -> Engine:
        engine = self._try_load(key)
        if engine is None:
            gc.collect()
            if self._shelf.evict_idle():
                engine = self._try_load(key)
        if engine is None:
            raise EngineOutOfMemory("There is not enough memory to load the model.")
        return engine

    def _try_load(self, key: ModelKey) -> Engine | None:
        try:
            return self._load(key)
        except EngineOutOfMemory:
            logger.warning("model does not fit into memory", extra={"model_key": str(key)})
        # Outside of the handler: while an error lives, its frames hold what was half loaded.
        return None


class Loan:
    """A model on loan: transcribes as an engine does, and steps down when memory runs out.

    For one thread, and no longer than its ``with`` block.
    """

    def __init__(
        self,
        shelf: Shelf,
        ladder: tuple[ModelKey, ...],
        *,
        cancelled: Callable[[], None],
        timeout: float,
    ) -> None:
        #: What was stepped down so far; empty while the borrower has what it asked for.
        self.steps: tuple[FallbackStep, ...] = ()
        self._shelf = shelf
        self._ladder = ladder
        self._cancelled = cancelled
        self._timeout = timeout
        #: Taken again after others were evicted; not a second time.
        self._retaken: set[ModelKey] = set()
        self._instance: Instance | None = None
        self._health = Health.SOUND
        self._stream: Iterator[Window] | None = None

    @property
    def key(self) -> ModelKey:
        """The model in use now."""
        return self._ladder[len(self.steps)]

    @property
    def degraded(self) -> bool:
        return bool(self.steps)

    def transcribe(
        self,
        samples: Samples,
        options: TranscribeOptions,
        resume: ResumeState | None = None,
    ) -> Generator[Window]:
        """Yield windows as an engine does; after a step down, go on behind the last one.

        Raises:
            EngineOutOfMemory: the last rung does not fit either.
        """
        while True:
            try:
                for window in self._windows(samples, options, resume):
                    resume = window.resume
                    yield window
            except EngineOutOfMemory:
                if self._health is not Health.FULL:
                    raise
                logger.warning("model ran out of memory", extra={"model_key": str(self.key)})
            else:
                return
            # Outside of the handler: while an error lives, its frames hold the model.
            resume = self._make_do(resume)

    def start(self) -> None:
        """Take the model, or the first one down the ladder that fits."""
        while self._instance is None:
            try:
                self._instance = self._shelf.lend(
                    self.key, cancelled=self._cancelled, timeout=self._timeout
                )
            except EngineOutOfMemory:
                logger.warning("model cannot be had", extra={"model_key": str(self.key)})
            except ModelUnavailable:
                # What was asked for must be there; a rung that is not is merely passed over.
                if not self.steps:
                    raise
            if self._instance is None:
                self._step_down("load")
        self._health = Health.SOUND
        self._cancelled()

    def end(self) -> None:
        try:
            self._close_stream()
        finally:
            instance, self._instance = self._instance, None
            if instance is not None:
                self._shelf.take_back(instance, self._health)

    def _windows(
        self,
        samples: Samples,
        options: TranscribeOptions,
        resume: ResumeState | None,
    ) -> Generator[Window]:
        self._close_stream()
        with self._engine_at_work() as engine:
            stream = self._stream = engine.transcribe(samples, options, resume)
        try:
            while True:
                if stream is not self._stream:
                    raise RuntimeError("The loan has ended, or began another transcription.")
                with self._engine_at_work():
                    window = next(stream, None)
                if window is None:
                    return
                yield window
        finally:
            if stream is self._stream:
                self._close_stream()

    @contextmanager
    def _engine_at_work(self) -> Iterator[Engine]:
        """Surround every call into the engine, and note in which state the call left it.

        Errors that are not the engine's, such as a wrong option, are raised on purpose and leave
        it as it was. After an ``EngineError`` a GPU may refuse all further work; after an error
        that nobody foresaw, hooks and caches of the broken call may still be there.
        """
        if self._instance is None or self._instance.engine is None:
            raise RuntimeError("The loan has ended.")
        before, self._health = self._health, Health.BROKEN
        try:
            yield self._instance.engine
        except EngineOutOfMemory:
            self._health = Health.FULL
            raise
        except EngineError:
            raise
        except ServiceError:
            self._health = before
            raise
        else:
            self._health = before

    def _close_stream(self) -> None:
        stream, self._stream = self._stream, None
        if isinstance(stream, Generator):
            with self._engine_at_work():
                stream.close()

    def _make_do(self, resume: ResumeState | None) -> ResumeState | None:
        """Free what can be freed and take the same model again; the second time, a smaller one."""
        key = self.key
        gc.collect()
        self.end()
        if self._shelf.evict_idle() and key not in self._retaken:
            self._retaken.add(key)
        else:
            self._step_down("transcribe")
        self.start()
        if resume is None or self.key == key:
            return resume
        return catalogue.carry_over(resume, key.model, self.key.model)

    def _step_down(self, reason: Reason) -> None:
        if len(self.steps) == len(self._ladder) - 1:
            raise EngineOutOfMemory(tried=[str(key) for key in self._ladder])
        before = self.key
        self.steps += (FallbackStep(before, self._ladder[len(self.steps) + 1], reason),)
        self._shelf.count(fallbacks=1)
        logger.warning(
            "model stepped down",
            extra={"model_key": str(self.key), "from_model_key": str(before), "reason": reason},
        )
