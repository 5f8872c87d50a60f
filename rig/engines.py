"""Engines that do what a job's prompt says: nothing for a while, or something terrible.

``null: 40 x 0.25 s T7`` makes 40 windows, each in a quarter of a second, with a text that only job
T7 has. ``fault: kill after 1`` kills the process in its second window, whatever engine is at work;
``… once`` happens to the first process that meets it: a file tells the others. Both may be said.
"""

from __future__ import annotations

import ctypes
import dataclasses
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from errors import EngineOutOfMemory
from rig.ledger import Ledger
from speech.audio import SAMPLE_RATE_HZ, Decoded
from speech.engines import Engine, ModelKey
from speech.transcript import ResumeState, Segment, TranscribeOptions, Window

NULL: Final = r"null: (?P<windows>\d+) x (?P<seconds>[\d.]+) s (?P<tag>\w+)"
FAULT: Final = r"fault: (?P<fault>[a-z-]+) after (?P<after>\d+)(?P<once> once)?"
SCRIPT: Final = re.compile(rf"(?:{NULL})?(?:; )?(?:{FAULT})?")
#: How the upload of a null job begins: it holds no audio, but the job's script.
NULL_UPLOAD: Final = b"null: "
WINDOW_SECONDS: Final = 30
FRAMES_PER_SECOND: Final = 100
BYTES_PER_SAMPLE: Final = 4
FOREVER_SECONDS: Final = 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """What a job asks of its engine."""

    #: Windows of a null job; of any other, none.
    windows: int = 0
    #: How long each takes.
    seconds: float = 0.0
    #: Makes the job's text its own.
    tag: str = ""
    fault: str | None = None
    #: How many windows of a run are done before the fault.
    after: int = 0
    once: bool = False

    @classmethod
    def of(cls, prompt: str | None) -> Script | None:
        """Read a prompt; None when it is an ordinary one."""
        said = SCRIPT.fullmatch(prompt) if prompt else None
        if said is None:
            return None
        return cls(
            windows=int(said["windows"] or 0),
            seconds=float(said["seconds"] or 0),
            tag=said["tag"] or "",
            fault=said["fault"],
            after=int(said["after"] or 0),
            once=said["once"] is not None,
        )

    def __str__(self) -> str:
        parts = []
        if self.windows:
            parts.append(f"null: {self.windows} x {self.seconds:g} s {self.tag}")
        if self.fault:
            parts.append(f"fault: {self.fault} after {self.after}{' once' * self.once}")
        return "; ".join(parts)

    @property
    def text(self) -> str:
        """The transcript of a null job."""
        return " ".join(f"{self.tag}-{index}" for index in range(self.windows))


class NullEngine:
    """Waits for as long as the script says, and writes down what nobody else would."""

    exclusive = False
    memory_bytes = 1

    def __init__(self, key: ModelKey, taken_bytes: int = 0) -> None:
        """Load nothing.

        Args:
            taken_bytes: Memory to hold all the same, as a model's weights would.
        """
        self.key = key
        self._weights = bytearray(taken_bytes)

    def transcribe(
        self, samples: Any, options: TranscribeOptions, resume: ResumeState | None = None
    ) -> Iterator[Window]:
        script = Script.of(options.initial_prompt) or Script(windows=1, tag="null")
        first = 0 if resume is None else resume.next_frame // (WINDOW_SECONDS * FRAMES_PER_SECOND)
        for index in range(first, script.windows):
            time.sleep(script.seconds)
            yield _window(index, f" {script.tag}-{index}")

    def close(self) -> None:
        self._weights = bytearray()


def _window(index: int, text: str) -> Window:
    start, end = float(index * WINDOW_SECONDS), float((index + 1) * WINDOW_SECONDS)
    segment = Segment(
        text=text,
        start_seconds=start,
        end_seconds=end,
        avg_logprob=-0.1,
        no_speech_prob=0.0,
        compression_ratio=1.0,
        temperature=0.0,
    )
    state = ResumeState(next_frame=int(end) * FRAMES_PER_SECOND, language="en")
    return Window(start_seconds=start, end_seconds=end, segments=(segment,), resume=state)


def null_upload(script: Script) -> bytes:
    """What a client sends for a null job."""
    return f"{script}\n".encode()


def null_decode(source: Path, target: IO[bytes], *_: object, **__: object) -> Decoded:
    """Make silence of the length that a null job's script says; it takes no room on the disk."""
    script = Script.of(source.read_text("utf-8").strip()) or Script(windows=1)
    audio_seconds = float(script.windows * WINDOW_SECONDS)
    target.truncate(int(audio_seconds) * SAMPLE_RATE_HZ * BYTES_PER_SAMPLE)
    return Decoded(
        audio_seconds=audio_seconds,
        declared_seconds=audio_seconds,
        warnings=(),
        damaged_packets=0,
        peak_memory_bytes=None,
    )


def is_null(source: Path) -> bool:
    with source.open("rb") as file:
        return file.read(len(NULL_UPLOAD)) == NULL_UPLOAD


class FaultyEngine:
    """An engine that notes what it does, and fails when its job says so."""

    def __init__(self, engine: Engine, marks: Path, ledger: Ledger) -> None:
        """Wrap an engine.

        Args:
            marks: The folder of the files that tell of faults that happen once.
        """
        self.key = engine.key
        self.exclusive = engine.exclusive
        self.memory_bytes = engine.memory_bytes
        self.close = engine.close
        self._engine = engine
        self._marks = marks
        self._ledger = ledger

    def transcribe(
        self, samples: Any, options: TranscribeOptions, resume: ResumeState | None = None
    ) -> Iterator[Window]:
        script = Script.of(options.initial_prompt) or Script()
        if script.fault and not script.windows:  # no business of a real engine's
            options = dataclasses.replace(options, initial_prompt=None)
        windows = self._engine.transcribe(samples, options, resume)
        for count, window in enumerate(windows):
            if script.fault and count >= script.after:
                self._fail(script, script.fault)
            if script.tag:
                self._ledger.note("window", tag=script.tag, start=window.start_seconds)
            yield window

    def _fail(self, script: Script, fault: str) -> None:
        if script.once:
            mark = self._marks / f"{fault} {script.tag} happened"
            if mark.exists():
                return
            mark.touch()
        self._ledger.note("fault", tag=script.tag, fault=fault)
        FAULTS[fault]()


def _hold_the_gil() -> None:
    # PyDLL, unlike CDLL, does not let go of it
    ctypes.PyDLL(None).sleep(8)


def _raise(error: BaseException) -> Callable[[], None]:
    def throw() -> None:
        raise error

    return throw


def _eat_memory() -> None:
    eaten = []
    while True:
        eaten.append(b"x" * 2**20)  # no zeros: those take no memory


FAULTS: Final[dict[str, Callable[[], object]]] = {
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "segfault": lambda: os.kill(os.getpid(), signal.SIGSEGV),
    "hang": lambda: time.sleep(FOREVER_SECONDS),
    "hold-the-gil": _hold_the_gil,
    "out-of-memory": _raise(EngineOutOfMemory()),
    "memory-error": _raise(MemoryError()),
    "exit": _raise(SystemExit(3)),
    "interrupt": _raise(KeyboardInterrupt()),
    "error": _raise(RuntimeError("something unforeseen")),
    "eat-memory": _eat_memory,
}
