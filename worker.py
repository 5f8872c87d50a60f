"""Starts a worker process: its parts, its signals, its end.

``python worker.py`` transcribes; ``--role maintenance`` dispatches, reaps and takes the dead letter
queue; ``--role webhooks`` calls whoever wants to hear of jobs' ends; ``--role solo`` is a worker's
own child, for a job that an earlier worker died of. On SIGTERM a worker takes nothing new, lets
running jobs finish for DRAIN_SECONDS, hands the rest back at their next window, and exits whatever
hangs.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import logging
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Final

from celery import Celery
from celery.exceptions import CPendingDeprecationWarning, SecurityWarning
from celery.signals import worker_ready, worker_shutting_down
from celery.worker import state
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

import courier
import model_setup
import tasks
from celery_app import DLQ, Doorbell, Threads, make_celery, make_redis, send
from config import PROJECT_DIR, VERSION, Settings
from database import get_db_session, make_engine, make_sessions
from errors import LeaseLost, ModelUnavailable, ServiceError, SettingsError, Stalled
from jobs import lifecycle, workers
from jobs.leases import Hold, LeaseKeeper
from jobs.lifecycle import Failure, Lease
from jobs.uploads import UploadStore
from jobs.workers import WorkerState
from lookout import Lookout, attach
from maintenance import make_auditor, make_loops
from metrics.exporter import Exporter
from presence import Presence, leave, process_name, touch_alive
from retries import policy_of
from solo import Solo, serve
from speech import audio, engines
from speech.audio import Decoded
from speech.engines import Engine, ModelKey
from tallies import POOL, Rises, Writer
from telemetry import configure_logging
from workbench import Workbench

logger = logging.getLogger(__name__)

#: The event loop of Celery's consumer notices a free slot only when it wakes (celery issue 6941).
TICK_SECONDS: Final = 0.05
#: Celery's own end may hang on a frozen Redis; from when nothing is left to do, this long.
EXIT_SECONDS: Final = 10.0
POLL_SECONDS: Final = 0.2
#: Exit status of a worker that gave up on a thread; whoever supervises it starts a new one.
EXIT_STALLED: Final = 70
#: The child that a suspect runs in.
SOLO: Final = (sys.executable, str(PROJECT_DIR / "worker.py"), "--role", "solo")


ROLES: Final = ("worker", "maintenance", "webhooks", "solo")


class ModelWorker:
    """The parts of a process that transcribes, and its orderly end."""

    def __init__(
        self,
        settings: Settings,
        app: Celery,
        *,
        load: Callable[[ModelKey], Engine] | None = None,
        decode: Callable[..., Decoded] = audio.decode,
        solo: Sequence[str] = SOLO,
    ) -> None:
        """Build everything; nothing is connected or loaded yet.

        Args:
            load, decode, solo: Others than the real ones, for measuring what is around them and
                for showing what it survives.
        """
        self.settings = settings
        self.name = process_name()
        self.draining = threading.Event()
        self.end_seconds = settings.drain_seconds + settings.drain_force_seconds + EXIT_SECONDS
        self.exit_status = 0
        self._lock = threading.Lock()
        self.ended = threading.Event()
        self.left = threading.Event()
        self.sessions = make_sessions(make_engine(settings, name="worker"))
        beats = make_sessions(make_engine(settings, pooled=False, name="heartbeat"))
        self.pool = model_setup.make_pool(settings, load or model_setup.make_loader(settings))
        self.keeper = LeaseKeeper(
            beats,
            heartbeat_seconds=settings.heartbeat_seconds,
            stall_seconds=settings.stall_seconds,
            announce=self._announce,
            on_stall=self._stalled,
        )
        self.bench = Workbench(
            settings=settings,
            name=self.name,
            sessions=self.sessions,
            uploads=make_uploads(settings),
            keeper=self.keeper,
            pool=self.pool,
            solo=Solo(solo, settings.scratch_path, silence_seconds=settings.stall_seconds),
            doorbell=Doorbell.of(
                app, make_redis(settings), budget_seconds=settings.publish_budget_ms / 1000
            ),
            key_of=functools.partial(model_setup.model_key, settings),
            fetch=model_setup.make_fetch(settings),
            pause=self.ended.wait,
            decode=decode,
        )
        self._writer = Writer(
            self.bench.tallies,
            beats,
            before=Rises(self.bench.tallies, self._pool_counts),
        )
        self._lookout = Lookout(make_redis(settings), tasks.take_next, self._has_room)
        attach(app, self._lookout, self._has_room)

    def start(self) -> None:
        self.keeper.start()
        self._lookout.start()
        self._writer.start()
        threading.Thread(target=self._unload_idle, name="unload", daemon=True).start()

    def _has_room(self) -> bool:
        return self.keeper.attempts < self.settings.celery_concurrency

    def _announce(self, session: Session, *, running: int, begun: int) -> None:
        touch_alive(self.settings)
        workers.announce(
            session,
            WorkerState(
                name=self.name,
                role="worker",
                version=VERSION,
                queues=self.settings.celery_queues,
                slots=self.settings.celery_concurrency,
                running=running,
                draining=self.draining.is_set(),
                begun=begun,
                pool=dataclasses.asdict(self.pool.stats()),
            ),
        )

    def _pool_counts(self) -> dict[str, float]:
        stats = self.pool.stats()
        return {counted: getattr(stats, name) for name, counted in POOL.items()}

    def _unload_idle(self) -> None:
        while not self.ended.wait(max(1.0, min(30.0, self.settings.model_idle_seconds / 4))):
            self.pool.unload_idle()

    def _stalled(self, hold: Hold) -> None:
        """A thread shows no sign of life and cannot be stopped: give it up and start afresh."""
        seconds = self.settings.stall_seconds
        failure = Failure(
            code=Stalled.code, message=f"The attempt showed no progress for {seconds:g} seconds."
        )
        self._give_up(
            hold,
            functools.partial(
                lifecycle.crash,
                failure=failure,
                max_solo_crashes=self.settings.max_solo_crashes,
                max_crashes=self.settings.max_crashes,
                backoff=self.bench.backoff(policy_of(Stalled)),
            ),
        )
        self.drain(exit_status=EXIT_STALLED)
        # Celery would go on fetching messages until the end
        state.should_stop = EXIT_STALLED  # type: ignore[assignment]  # as Celery itself does

    def drain(self, *, exit_status: int = 0) -> None:
        """Begin the end, in a thread of its own; a second call does nothing."""
        with self._lock:
            if self.draining.is_set():
                return
            self.draining.set()
            self.exit_status = exit_status
        self._lookout.close()
        self.keeper.refuse()
        threading.Thread(target=self._drain, args=(exit_status,), name="drain", daemon=True).start()

    def _drain(self, exit_status: int) -> None:
        settings = self.settings
        logger.info("draining", extra={"jobs": len(self.keeper.holds)})
        if not self._wait_until_idle(settings.drain_seconds):
            self.keeper.drain()
            self._wait_until_idle(settings.drain_force_seconds)
        for hold in self.keeper.holds:
            logger.warning("handing back for a thread", extra={"job_id": str(hold.lease.job_id)})
            self._give_up(hold, lifecycle.hand_back)
        self._leave()
        if exit_status == 0:
            time.sleep(EXIT_SECONDS)  # Celery ends by itself, unless something hangs
            logger.warning("ending without Celery's leave")
        logging.shutdown()
        os._exit(exit_status)

    def _wait_until_idle(self, seconds: float) -> bool:
        until = time.monotonic() + seconds
        while self.keeper.attempts and time.monotonic() < until:
            time.sleep(POLL_SECONDS)
        return not self.keeper.attempts

    def _give_up(self, hold: Hold, verb: Callable[[Session, Lease], object]) -> None:
        # safe beside the thread that still runs: the fence stops whatever it writes after this
        hold.stop(LeaseLost())
        self.keeper.release(hold)
        try:
            with get_db_session(self.sessions) as session:
                verb(session, hold.lease)
        except (ServiceError, SQLAlchemyError):
            logger.warning("not handed back: left to the reaper", exc_info=True)

    def _leave(self) -> None:
        self.ended.set()
        self.keeper.close()
        self._writer.close()
        leave(self.sessions, self.name)
        self.left.set()


class Maintenance:
    """The parts of a process that keeps jobs moving and loads no model."""

    end_seconds = EXIT_SECONDS

    def __init__(self, settings: Settings, app: Celery) -> None:
        self.exit_status = 0
        self.sessions = make_sessions(make_engine(settings, name="maintenance"))
        auditor = make_auditor(settings, self.sessions)
        self._presence = Presence(
            settings,
            self.sessions,
            role="maintenance",
            queues=(DLQ,),
            audit_broken=lambda: auditor.broken,
        )
        self.name = self._presence.name
        self.draining = threading.Event()
        self.left = threading.Event()
        client = make_redis(settings)
        self._loops = make_loops(
            settings,
            self.sessions,
            make_uploads(settings),
            client,
            functools.partial(send, app),
            auditor,
        )
        self._exporter = Exporter(
            settings, make_sessions(make_engine(settings, pooled=False, name="metrics")), client
        )

    def start(self) -> None:
        for loop in self._loops:
            loop.start()
        self._presence.start()
        self._exporter.start()

    def drain(self, *, exit_status: int = 0) -> None:
        """Begin the end, in a thread of its own; a second call does nothing."""
        if self.draining.is_set():
            return
        self.draining.set()
        self.exit_status = exit_status
        threading.Thread(target=self._end, name="drain", daemon=True).start()

    def _end(self) -> None:
        self._exporter.close()
        for loop in self._loops:
            loop.close()
        self._presence.close()
        self.left.set()
        time.sleep(EXIT_SECONDS)
        logging.shutdown()
        os._exit(self.exit_status)


def make_uploads(settings: Settings) -> UploadStore:
    return UploadStore(
        settings.uploads_path,
        max_bytes=settings.max_upload_bytes,
        min_free_bytes=settings.min_free_bytes,
    )


def wait_for_model(settings: Settings) -> None:
    """Wait until the default model's files are in the cache, at most MODEL_WAIT_SECONDS.

    For workers without a way out, whose models another process brings.
    """
    key = model_setup.model_key(settings, settings.whisper_engine, settings.whisper_model_size)
    until = time.monotonic() + settings.model_wait_seconds
    said = False
    while time.monotonic() < until:
        touch_alive(settings)
        try:
            engines.fetch(key, model_setup.make_store(settings))
        except ModelUnavailable:
            if not said:
                logger.info("waiting for the model", extra={"model": str(key)})
            said = True
            time.sleep(min(5.0, settings.model_wait_seconds))
        else:
            return


def run_solo(settings: Settings, load: Callable[[ModelKey], Engine]) -> None:
    """Be the child that a suspect runs in: answers go where standard output went."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no answer
    serve(model_setup.make_pool(settings, load).borrow, sys.stdin, answers)


def run(app: Celery, process: ModelWorker | Maintenance, queues: Sequence[str], slots: int) -> None:
    """Run Celery's worker in this process until it is told to stop."""

    def ready(sender: Any, **_: object) -> None:
        sender.timer.call_repeatedly(TICK_SECONDS, lambda: None)
        logger.info("ready", extra={"worker": process.name, "queues": ",".join(queues)})

    def stopping(**_: object) -> None:
        process.drain()

    for noise in (CPendingDeprecationWarning, SecurityWarning):
        warnings.simplefilter("ignore", noise)  # told many times, of settings that we chose
    if os.geteuid() == 0:
        logger.warning("running as root: better as a user of its own")

    class Worker(app.Worker):  # type: ignore[misc, name-defined]  # made by Celery's instance
        """Celery's, which drains whatever it ends of: an error in its own loop, too."""

        def stop(self, in_sighandler: bool = False, exitcode: int | None = None) -> None:
            process.drain(exit_status=exitcode or 0)
            super().stop(in_sighandler, exitcode)

    worker_ready.connect(ready)
    worker_shutting_down.connect(stopping)
    process.start()
    worker = Worker(
        hostname=process.name,
        pool_cls=Threads,
        concurrency=slots,
        queues=list(queues),
        without_gossip=True,
        without_mingle=True,
        task_events=True,
        loglevel="INFO",
        quiet=True,  # no banner
    )
    worker.start()
    if process.draining.is_set():
        # Celery knows of attempts that it was rung for; the end of all is a thread's business
        process.left.wait(process.end_seconds)
    sys.exit(process.exit_status or worker.exitcode or 0)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Start a worker process.")
    parser.add_argument("--role", choices=ROLES, default="worker")
    role = parser.parse_args(arguments).role
    try:
        settings = Settings.from_env()
        model_setup.require_model(settings)
        configure_logging(settings.log_level, settings.log_format, secrets=settings.secrets())
        if role == "solo":
            run_solo(settings, model_setup.make_loader(settings))
            return
        if role == "webhooks":
            courier.run(settings)
            return
        app = make_celery(settings)
        if role == "maintenance":
            maintenance = Maintenance(settings, app)
            tasks.equip(maintenance.sessions)
            run(app, maintenance, (DLQ,), 1)
            return
        wait_for_model(settings)
        worker = ModelWorker(settings, app)
        tasks.equip(worker.sessions, worker.bench)
        run(app, worker, settings.celery_queues, settings.celery_concurrency)
    except SettingsError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
