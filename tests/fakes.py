"""Stand-ins for what is slow, large or outside: each implements the Protocol of the real one."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from speech.engines import ModelKey
from speech.transcript import ResumeState, Segment, TranscribeOptions, Window

if TYPE_CHECKING:
    from speech.engines import Samples

#: No test waits longer for what should happen at once.
PATIENCE_SECONDS = 20.0
SAMPLE_RATE_HZ = 16_000
WINDOW_SECONDS = 30
WINDOW_FRAMES = 3_000


def eventually(fact: Callable[[], bool]) -> None:
    """Wait for another thread to make ``fact`` true."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not fact():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.002)


class FakeClock:
    """Seconds that pass only when told to."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


class Gate:
    """Where a thread stops until the test lets it pass."""

    def __init__(self) -> None:
        self._reached = threading.Semaphore(0)
        self._open = threading.Event()

    def __call__(self, *_: object) -> None:
        self._reached.release()
        assert self._open.wait(PATIENCE_SECONDS), "nobody opened the gate"

    def wait_until_reached(self) -> None:
        assert self._reached.acquire(timeout=PATIENCE_SECONDS), "nobody came to the gate"

    def open(self) -> None:
        self._open.set()


class FakeEngine:
    """Transcribes at once: each 30 s of samples become one segment, "<model>:<number>".

    It watches that it is used as its promises allow; ``misuse`` says what was not.
    """

    def __init__(
        self,
        key: ModelKey,
        *,
        exclusive: bool = True,
        memory_bytes: int = 1_000,
        failures: dict[int, BaseException] | None = None,
        at_window: Callable[[FakeEngine, int], None] = lambda _engine, _index: None,
    ) -> None:
        self.key = key
        self.exclusive = exclusive
        self.memory_bytes = memory_bytes
        #: Raised in place of the window of that number.
        self.failures = failures or {}
        #: Called before each window; may block or raise.
        self.at_window = at_window
        self.at_close: Callable[[FakeEngine], None] = lambda _engine: None
        self.closed = False
        self.misuse: list[str] = []
        self._guard = threading.Lock()
        #: Transcriptions that began and have not ended.
        self.users = 0

    def transcribe(
        self, samples: Samples, options: TranscribeOptions, resume: ResumeState | None = None
    ) -> Iterator[Window]:
        self._enter()
        try:
            count = -(-len(samples) // (SAMPLE_RATE_HZ * WINDOW_SECONDS))
            for index in range(resume.next_frame // WINDOW_FRAMES if resume else 0, count):
                self.at_window(self, index)
                if index in self.failures:
                    raise self.failures[index]
                if self.closed:
                    self.misuse.append("used after it was closed")
                yield self._window(index, options, resume)
        finally:
            self._leave()

    def close(self) -> None:
        with self._guard:
            if self.closed:
                self.misuse.append("closed twice")
            if self.users:
                self.misuse.append("closed while in use")
            self.closed = True
        self.at_close(self)

    def _window(self, index: int, options: TranscribeOptions, resume: ResumeState | None) -> Window:
        start, end = float(index * WINDOW_SECONDS), float((index + 1) * WINDOW_SECONDS)
        segment = Segment(
            text=f" {self.key.model}:{index}",
            start_seconds=start,
            end_seconds=end,
            avg_logprob=-0.1,
            no_speech_prob=0.0,
            compression_ratio=1.0,
            temperature=0.0,
        )
        state = ResumeState(
            next_frame=(index + 1) * WINDOW_FRAMES,
            language=options.language or "en",
            prompt_tokens=(*(resume.prompt_tokens if resume else ()), index),
        )
        return Window(start_seconds=start, end_seconds=end, segments=(segment,), resume=state)

    def _enter(self) -> None:
        with self._guard:
            self.users += 1
            if self.exclusive and self.users > 1:
                self.misuse.append("exclusive, but used by two at a time")

    def _leave(self) -> None:
        with self._guard:
            self.users -= 1


@dataclass
class FakeLoader:
    """Loads ``FakeEngine``s, and remembers what was alive at a time.

    It holds no engine, so that a test can see whether anybody else does.
    """

    exclusive: bool = True
    #: Models whose engines are shared although others are exclusive.
    shared: frozenset[str] = frozenset()
    #: What an engine takes; ``default_bytes`` for a key that is not here.
    sizes: dict[ModelKey, int] = field(default_factory=dict)
    default_bytes: int = 1_000
    #: Called before each load; may block or raise.
    at_load: Callable[[ModelKey], None] = lambda _key: None
    #: Given to every engine.
    at_window: Callable[[FakeEngine, int], None] = lambda _engine, _index: None
    at_close: Callable[[FakeEngine], None] = lambda _engine: None
    #: "load <model>", "close <model>", in the order in which it happened.
    events: list[str] = field(default_factory=list)
    #: The most that was loaded, being loaded or not yet closed at a time.
    most_models: int = 0
    most_bytes: int = 0
    misuse: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._guard = threading.Lock()
        self._alive: list[ModelKey] = []
        self.engines: list[weakref.ref[FakeEngine]] = []

    def __call__(self, key: ModelKey) -> FakeEngine:
        self._born(key)
        try:
            self.at_load(key)
        except BaseException:
            self._gone(key)
            raise
        engine = FakeEngine(
            key,
            exclusive=self.exclusive and key.model not in self.shared,
            memory_bytes=self.size(key),
            at_window=self.at_window,
        )
        engine.misuse = self.misuse
        engine.at_close = self._closed
        self.engines.append(weakref.ref(engine))
        return engine

    def size(self, key: ModelKey) -> int:
        return self.sizes.get(key, self.default_bytes)

    def alive(self) -> list[str]:
        """Models that take memory now."""
        with self._guard:
            return sorted(key.model for key in self._alive)

    def _born(self, key: ModelKey) -> None:
        with self._guard:
            self.events.append(f"load {key.model}")
            self._alive.append(key)
            self.most_models = max(self.most_models, len(self._alive))
            self.most_bytes = max(self.most_bytes, sum(map(self.size, self._alive)))

    def _closed(self, engine: FakeEngine) -> None:
        try:
            self.at_close(engine)
        finally:
            self._gone(engine.key)
            self.events.append(f"close {engine.key.model}")

    def _gone(self, key: ModelKey) -> None:
        with self._guard:
            self._alive.remove(key)
