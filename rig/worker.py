"""The real worker, with engines that do what a job's prompt says: see ``rig.engines``.

NULL_MODEL names models, separated by commas, whose engine does nothing, and whose jobs' uploads are
not decoded; to load one takes NULL_LOAD_SECONDS, and with NULL_MEMORY=true as much memory as its
name stands for. LEDGER names a file in which attempts and windows are noted. With DIE_BEFORE or
DIE_AFTER set to ``claim`` or ``complete``, the process dies when that was written and before its
COMMIT, or when it was committed and before the process hears of it.

Given ``--role solo`` it is the child of such a worker, with the same engines.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, Final

from sqlalchemy import event

import model_setup
import tasks
import worker
from celery_app import make_celery
from config import Settings
from database import Sessions
from errors import ModelLoadFailed
from jobs.leases import LeaseKeeper
from rig.engines import FaultyEngine, NullEngine, is_null, null_decode
from rig.ledger import Ledger
from speech import audio
from speech.audio import Decoded
from speech.engines import Engine, ModelKey, fitting
from speech.engines.failures import translated
from telemetry import configure_logging
from workbench import Workbench

MODULE: Final = "rig.worker"
#: What the statement says before or after whose commit the process dies.
DEATHS: Final = {"claim": "SET status = 'processing'", "complete": "INTO transcription_results"}


def die(moment: str, name: str, sessions: Sessions) -> None:
    """Let the process die ``before_commit`` or ``after_commit`` of what has that name."""
    met: list[bool] = []

    def note(_: object, __: object, statement: str, *___: object) -> None:
        if DEATHS[name] in statement:
            met.append(True)

    def kill(_: object) -> None:
        if met:
            os.kill(os.getpid(), signal.SIGKILL)

    event.listen(sessions.kw["bind"], "after_cursor_execute", note)
    event.listen(sessions, moment, kill)


def null_models() -> frozenset[str]:
    return frozenset(os.environ.get("NULL_MODEL", "").split(","))


def make_loader(settings: Settings, ledger: Ledger) -> Callable[[ModelKey], Engine]:
    load = model_setup.make_loader(settings)
    null = null_models()

    def load_faulty(key: ModelKey) -> Engine:
        engine = load_null(key) if key.model in null else load(key)
        return FaultyEngine(engine, settings.state_dir, ledger)

    return load_faulty


def load_null(key: ModelKey) -> Engine:
    time.sleep(float(os.environ.get("NULL_LOAD_SECONDS", "0")))
    taken = fitting.memory_bytes(key) if os.environ.get("NULL_MEMORY") == "true" else 0
    with translated(ModelLoadFailed):
        return NullEngine(key, taken)


def watched(bench: Workbench, ledger: Ledger) -> Workbench:
    """The bench, with null jobs let through undecoded, and every attempt noted."""
    null = null_models()

    def key_of(engine: str, model: str) -> ModelKey:
        # the real one asks the engine's library about the hardware, which takes seconds to import
        return (
            ModelKey(engine, model, "cpu", "float32")
            if model in null
            else bench.key_of(engine, model)
        )

    def fetch(key: ModelKey, progress: Callable[[int, int | None], None]) -> object:
        return None if key.model in null else bench.fetch(key, progress)

    return dataclasses.replace(
        bench, key_of=key_of, fetch=fetch, decode=make_decode(bench.keeper, ledger)
    )


def make_decode(keeper: LeaseKeeper, ledger: Ledger) -> Callable[..., Decoded]:
    def decode(source: Path, target: IO[bytes], *limits: Any, **options: Any) -> Decoded:
        # uploads are stored under their job's id
        job_id = uuid.UUID(source.name)
        for hold in keeper.holds:
            if hold.lease.job_id == job_id:
                ledger.note("attempt", job=source.name, epoch=hold.lease.epoch)
        if is_null(source):
            return null_decode(source, target)
        return audio.decode(source, target, *limits, **options)

    return decode


def main(module: str = MODULE) -> None:
    """Run a worker, or the child of one.

    Args:
        module: What the child is started as.
    """
    settings = Settings.from_env(env_file=None)
    configure_logging(settings.log_level, settings.log_format, secrets=settings.secrets())
    told = os.environ.get("LEDGER")
    ledger = Ledger(Path(told) if told else None)
    load = make_loader(settings, ledger)
    if "solo" in sys.argv:
        worker.run_solo(settings, load)
        return
    app = make_celery(settings)
    solo = (sys.executable, "-m", module, "--role", "solo")
    process = worker.ModelWorker(settings, app, load=load, solo=solo)
    for variable, moment in (("DIE_BEFORE", "before_commit"), ("DIE_AFTER", "after_commit")):
        if variable in os.environ:
            die(moment, os.environ[variable], process.sessions)
    tasks.equip(process.sessions, watched(process.bench, ledger))
    worker.run(app, process, settings.celery_queues, settings.celery_concurrency)


if __name__ == "__main__":
    main()
