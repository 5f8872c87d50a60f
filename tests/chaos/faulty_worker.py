"""The real worker, with an engine that does what a job's prompt says: ``fault: kill after 1``.

With ``DIE_AFTER`` set to ``claim`` or ``complete``, it dies when that was committed and before it
hears of it. Given ``--role solo`` it is the child of such a worker, with the same engine.

A fault named ``… once`` happens to the first process that meets it: a file tells the others.
"""

from __future__ import annotations

import ctypes
import dataclasses
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

from sqlalchemy import event

import tasks
import worker
from celery_app import make_celery
from config import Settings
from database import Sessions
from errors import EngineOutOfMemory
from speech.engines import Engine, ModelKey
from speech.transcript import ResumeState, TranscribeOptions, Window
from telemetry import configure_logging

FAULT: Final = re.compile(r"fault: (?P<name>[a-z-]+) after (?P<windows>\d+)(?P<once> once)?")
FOREVER_SECONDS: Final = 1e6


def hold_the_gil() -> None:
    # PyDLL, unlike CDLL, does not let go of it
    ctypes.PyDLL(None).sleep(8)


def raise_(error: BaseException) -> Callable[[], None]:
    def throw() -> None:
        raise error

    return throw


FAULTS: Final[dict[str, Callable[[], object]]] = {
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "segfault": lambda: os.kill(os.getpid(), signal.SIGSEGV),
    "hang": lambda: time.sleep(FOREVER_SECONDS),
    "hold-the-gil": hold_the_gil,
    "out-of-memory": raise_(EngineOutOfMemory()),
    "memory-error": raise_(MemoryError()),
    "exit": raise_(SystemExit(3)),
    "interrupt": raise_(KeyboardInterrupt()),
    "error": raise_(RuntimeError("something unforeseen")),
}


class FaultyEngine:
    """A real engine that fails when its options say so."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self.key = engine.key
        self.exclusive = engine.exclusive
        self.memory_bytes = engine.memory_bytes
        self.close = engine.close
        self._engine = engine
        self._settings = settings

    def transcribe(
        self, samples: Any, options: TranscribeOptions, resume: ResumeState | None = None
    ) -> Iterator[Window]:
        asked = FAULT.fullmatch(options.initial_prompt or "")
        if asked:
            options = dataclasses.replace(options, initial_prompt=None)
        windows = self._engine.transcribe(samples, options, resume)
        for count, window in enumerate(windows):
            if asked and count >= int(asked["windows"]):
                self._fail(asked)
            yield window

    def _fail(self, asked: re.Match[str]) -> None:
        if asked["once"]:
            mark = self._settings.state_dir / f"{asked['name']} happened"
            if mark.exists():
                return
            mark.touch()
        FAULTS[asked["name"]]()


#: What the statement says after whose commit the process dies.
DEATHS: Final = {"claim": "SET status = 'processing'", "complete": "INTO transcription_results"}


def die_after(name: str, sessions: Sessions) -> None:
    met: list[bool] = []

    def note(_: object, __: object, statement: str, *___: object) -> None:
        if DEATHS[name] in statement:
            met.append(True)

    def die(_: object) -> None:
        if met:
            os.kill(os.getpid(), signal.SIGKILL)

    event.listen(sessions.kw["bind"], "after_cursor_execute", note)
    event.listen(sessions, "after_commit", die)


def main() -> None:
    settings = Settings.from_env(env_file=None)
    configure_logging(settings.log_level, settings.log_format)
    load = worker.make_loader(settings)

    def load_faulty(key: ModelKey) -> Engine:
        return FaultyEngine(load(key), settings)

    if "solo" in sys.argv:
        worker.run_solo(settings, load_faulty)
        return
    app = make_celery(settings)
    solo = (sys.executable, "-m", "tests.chaos.faulty_worker", "--role", "solo")
    process = worker.ModelWorker(settings, app, load=load_faulty, solo=solo)
    if "DIE_AFTER" in os.environ:
        die_after(os.environ["DIE_AFTER"], process.sessions)
    tasks.equip(process.sessions, process.bench)
    worker.run(app, process, settings.celery_queues, settings.celery_concurrency)


if __name__ == "__main__":
    main()
