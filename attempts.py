"""One attempt at one job, told in verbs: decode, borrow, transcribe, complete.

Or give the job an end that says why not: it failed, it waits, it was handed back or stepped aside.
"""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import IO, Any, TypeVar

import psutil
from sqlalchemy import select
from sqlalchemy.orm import Session

from celery_app import DEAD_LETTER, DLQ
from database import get_db_session
from errors import (
    CancelRequested,
    DatabaseUnavailable,
    Draining,
    LeaseLost,
    ServiceError,
    SteppedAside,
    kind_of,
    message_of,
)
from jobs import lifecycle
from jobs.leases import Hold
from jobs.lifecycle import ClaimedJob, Failure, Outcome
from model_pool import Loan
from models import JobStatus, TranscriptionWindow
from retries import Course, Policy, policy_of
from solo import SoloLoan
from speech import audio, peaks
from speech.audio import Decoded
from speech.engines import ModelKey, catalogue, fitting
from speech.transcript import (
    Mode,
    ResumeState,
    Segment,
    TranscribeOptions,
    Transcript,
    Window,
    storable,
)
from workbench import Workbench

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: How long an attempt keeps its work in memory while PostgreSQL is away.
OUTAGE_SECONDS = 1800.0
#: Pause between two tries to write, at first and at most.
FIRST_PAUSE_SECONDS = 0.5
LAST_PAUSE_SECONDS = 5.0
#: The priority that others step aside for.
URGENT = "high"
#: ISO 639-2's code for "undetermined": audio in which nothing was decoded.
NO_LANGUAGE = "und"


class AttemptFailed(Exception):
    """The attempt failed, and its row says so already; raised only so that Flower shows it."""


class Attempt:
    """One attempt at one job."""

    def __init__(self, bench: Workbench, job: ClaimedJob, hold: Hold) -> None:
        self._bench = bench
        self._job = job
        self._lease = job.lease
        self._hold = hold
        self._step = "starting"
        self._steps_down: list[dict[str, Any]] = []
        self._model_used: str | None = None
        #: What the earlier attempt used whose windows this one goes on after.
        self._resumed_model: str | None = None
        self._warnings = job.warnings

    def run(self) -> None:
        """Do the job, or end it in the way that fits what went wrong.

        Raises:
            AttemptFailed: It failed, and the row says so.
        """
        try:
            self._transcribe()
        except LeaseLost:
            self._bench.tallies.add("fences")
            logger.warning("attempt abandoned: another worker owns the job")
        except CancelRequested:
            self._end("job cancelled", lifecycle.acknowledge_cancel)
        except SteppedAside:
            logger.info("job stepped aside for an urgent one")
        except Draining:
            self._end("job handed back", lifecycle.hand_back)
        except BaseException as error:  # noqa: BLE001 - whatever it is, it must not cost a slot
            self._give_in(error)

    def _give_in(self, error: BaseException) -> None:
        kind = kind_of(error)
        policy = policy_of(kind)
        if policy.course is Course.WAIT:
            self._put_off(error, policy)
        else:
            self._fail(error, policy)
            raise AttemptFailed(kind.code) from None

    def _transcribe(self) -> None:
        with (
            self._bench.turn() if self._job.isolate else nullcontext(),
            audio.scratch_file(self._bench.settings.scratch_path) as scratch,
        ):
            samples, windows = self._decode(scratch)
            audio_seconds = len(samples) / audio.SAMPLE_RATE_HZ
            key = self._bench.key_of(self._job.engine_name, self._job.model_name)
            self._say("preparing model")
            self._bench.fetch(key, self._downloading)
            self._say("loading model")
            with self._borrow(key, scratch) as engine:
                self._model_used = str(engine.key)
                self._say("transcribing")
                self._hold.start_deadline(self._bench.settings.deadline_seconds(audio_seconds))
                resume = self._resume(windows, engine.key)
                done = windows[-1].end_seconds - self._job.part.start_seconds if windows else 0.0
                try:
                    options = self._options(audio_seconds)
                    began = time.monotonic()
                    for found in engine.transcribe(samples, options, resume):
                        self._count(engine.key, found.end_seconds - done, time.monotonic() - began)
                        done = max(done, found.end_seconds)
                        windows.append(storable(found).later(self._job.part.start_seconds))
                        progress = min(1.0, found.end_seconds / audio_seconds)
                        self._keep(windows, progress, engine)
                        if found.end_seconds < audio_seconds:
                            self._make_room()
                        began = time.monotonic()
                finally:
                    self._note(engine)
            self._complete(windows, audio_seconds, asked=key, loudness=peaks.of(samples))

    def _borrow(self, key: ModelKey, scratch: IO[bytes]) -> AbstractContextManager[Loan | SoloLoan]:
        ladder = fitting.fallbacks(key, language=self._job.language, translate=self._job.translate)
        if self._job.isolate:
            return self._bench.solo.borrow(key, scratch, fallbacks=ladder, cancelled=self._attend)
        return self._bench.pool.borrow(key, fallbacks=ladder, cancelled=self._hold.check)

    def _attend(self) -> None:
        """Look after something that has a time of its own to show progress in."""
        self._hold.sign()
        self._hold.check()

    def _decode(self, scratch: IO[bytes]) -> tuple[Any, list[Window]]:
        """Give the upload's samples, and the windows of it that an earlier attempt finished.

        Samples are float32, shape (n,), mono, 16 kHz, mapped from the scratch file.
        """
        self._say("reading audio")
        upload = self._bench.uploads.verify(
            self._lease.job_id,
            size_bytes=self._job.upload_bytes,
            sha256=self._job.upload_sha256,
            attend=self._attend,
        )
        decoded = self._bench.decode(
            upload,
            scratch,
            self._bench.decode_limits,
            part=self._job.part,
            cancelled=self._not_stopped,
            progress=lambda _: self._hold.sign(),
        )
        self._warnings = tuple(dict.fromkeys((*self._warnings, *decoded.warnings)))
        windows = self._write(lambda session: self._take_up(session, decoded))
        return audio.load_samples(scratch), windows

    def _not_stopped(self) -> bool:
        self._hold.check()
        return False

    def _take_up(self, session: Session, decoded: Decoded) -> list[Window]:
        lifecycle.report(
            session,
            self._lease,
            self._step,
            audio_seconds=decoded.audio_seconds,
            warnings=self._warnings,
        )
        query = (
            select(TranscriptionWindow)
            .where(TranscriptionWindow.job_id == self._lease.job_id)
            .order_by(TranscriptionWindow.index)
        )
        rows = session.scalars(query).all()
        if rows:
            self._resumed_model = rows[-1].model_used
            logger.info("resuming", extra={"windows": len(rows), "at": rows[-1].end_seconds})
        return [_window(row) for row in rows]

    def _resume(self, windows: list[Window], key: ModelKey) -> ResumeState | None:
        if not windows or self._resumed_model is None:
            return None
        before = ModelKey.parse(self._resumed_model).model
        return catalogue.carry_over(windows[-1].resume, before, key.model)

    def _options(self, audio_seconds: float) -> TranscribeOptions:
        return TranscribeOptions(
            language=self._job.language,
            translate=self._job.translate,
            initial_prompt=self._job.initial_prompt,
            word_timestamps=self._job.word_timestamps,
            urgent=self._job.priority == URGENT,
            mode=self._bench.mode(audio_seconds),
        )

    def _downloading(self, done_bytes: int, total_bytes: int | None) -> None:
        share = f" {100 * done_bytes // total_bytes} %" if total_bytes else ""
        self._say(f"downloading model{share}")
        self._hold.check()

    def _keep(self, windows: list[Window], progress: float, engine: Loan | SoloLoan) -> None:
        """Store the last of the windows."""
        self._hold.check()
        self._hold.sign(progress=progress)
        self._model_used = str(engine.key)
        self._write(
            lambda session: lifecycle.save_window(
                session,
                self._lease,
                len(windows) - 1,
                windows[-1],
                progress=progress,
                model_used=str(engine.key),
            )
        )

    def _count(self, key: ModelKey, audio_seconds: float, took_seconds: float) -> None:
        """Note how fast a model was: by window, so that what is done in vain counts as well."""
        model = {"engine": key.engine, "model": key.model, "device": key.device_kind}
        tallies = self._bench.tallies
        tallies.add("transcribed_audio_seconds", max(0.0, audio_seconds), **model)
        tallies.add("transcribing_seconds", took_seconds, **model)

    def _make_room(self) -> None:
        """Step aside if an urgent job waits and this process has no slot for it.

        Raises:
            SteppedAside: The job is returned already.
        """
        settings = self._bench.settings
        free = self._bench.keeper.attempts < settings.celery_concurrency
        if free or not settings.preemption or self._job.priority == URGENT:
            return
        if self._write(
            lambda session: lifecycle.step_aside(
                session, self._lease, most=settings.max_preemptions
            )
        ):
            raise SteppedAside

    def _note(self, engine: Loan | SoloLoan) -> None:
        self._model_used = str(engine.key)
        self._steps_down = [step.to_json() for step in engine.steps]
        for step in engine.steps:
            self._bench.tallies.add(
                "out_of_memory_steps", model=step.from_key.model, reason=step.reason
            )

    def _complete(
        self, windows: list[Window], audio_seconds: float, *, asked: ModelKey, loudness: bytes
    ) -> None:
        last = windows[-1].resume if windows else None
        transcript = Transcript(
            language=(last and last.language) or self._job.language or NO_LANGUAGE,
            language_probability=last.language_probability if last else None,
            audio_seconds=audio_seconds,
            segments=tuple(segment for window in windows for segment in window.segments),
        )
        outcome = Outcome(
            model_used=self._model_used or str(asked),
            # a job that was handed to an engine which knows but one mode may have parts of both
            mode=Mode.FAST if any(w.resume.mode is Mode.FAST for w in windows) else Mode.EXACT,
            degraded=bool(self._steps_down) or self._resumed_model not in {None, str(asked)},
            fallbacks=self._steps_down,
            warnings=self._warnings,
            peaks=loudness,
        )
        self._write(lambda session: lifecycle.complete(session, self._lease, transcript, outcome))
        logger.info(
            "job completed",
            extra={"audio_seconds": round(audio_seconds, 2), "model": outcome.model_used},
        )

    def _say(self, step: str) -> None:
        self._step = step
        self._hold.check()
        self._hold.sign(step=step)

    def _write(self, write: Callable[[Session], T]) -> T:
        """Run one transaction; while PostgreSQL is away, keep the work and try again.

        Raises:
            DatabaseUnavailable: It was away for ``OUTAGE_SECONDS``.
        """
        pause, waited = FIRST_PAUSE_SECONDS, 0.0
        while True:
            try:
                with get_db_session(self._bench.sessions) as session:
                    return write(session)
            except DatabaseUnavailable:
                if waited >= OUTAGE_SECONDS:
                    raise
                logger.warning("database is away: keeping the work", extra={"pause": pause})
            self._bench.pause(pause)
            self._hold.sign()
            waited += pause
            pause = min(2 * pause, LAST_PAUSE_SECONDS)

    def _end(self, message: str, verb: Callable[[Session, lifecycle.Lease], object]) -> None:
        try:
            self._write(lambda session: verb(session, self._lease))
        except (LeaseLost, DatabaseUnavailable) as error:
            self._not_written(error)
        else:
            logger.info(message)

    def _not_written(self, error: LeaseLost | DatabaseUnavailable) -> None:
        if isinstance(error, LeaseLost):
            self._bench.tallies.add("fences")
        logger.warning("the end was not written", extra={"why": error.code})

    def _put_off(self, error: BaseException, policy: Policy) -> None:
        failure = Failure(code=kind_of(error).code, message=message_of(error))
        logger.warning("attempt put off", extra={"code": failure.code}, exc_info=error.__cause__)
        backoff = self._bench.backoff(policy)
        self._end(
            "job waits",
            lambda session, lease: lifecycle.put_off(session, lease, failure, backoff),
        )

    def _fail(self, error: BaseException, policy: Policy) -> None:
        failure = Failure(
            code=kind_of(error).code,
            message=message_of(error),
            traceback="".join(traceback.format_exception(error)),
            context=self._context(error),
            fallbacks=self._steps_down,
        )
        try:
            status = self._write(lambda session: self._write_failure(session, failure, policy))
        except (LeaseLost, DatabaseUnavailable) as lost:
            self._not_written(lost)
            return
        # a fault of the input needs no traceback in the log; the error log has it anyway
        expected = policy.course is Course.GIVE_UP
        logger.warning(
            "attempt failed",
            extra={"code": failure.code, "status": status},
            exc_info=None if expected else error,
        )
        if status is JobStatus.FAILED:
            self._bench.doorbell.ring(DEAD_LETTER, self._lease.job_id, DLQ)

    def _write_failure(self, session: Session, failure: Failure, policy: Policy) -> JobStatus:
        backoff = self._bench.backoff(policy)
        if policy.course is Course.GIVE_UP:
            return lifecycle.fail(session, self._lease, failure)
        if policy.course is Course.ISOLATE:
            settings = self._bench.settings
            return lifecycle.crash(
                session,
                self._lease,
                failure,
                max_solo_crashes=settings.max_solo_crashes,
                max_crashes=settings.max_crashes,
                backoff=backoff,
            )
        return lifecycle.retry(session, self._lease, failure, backoff)

    def _context(self, error: BaseException) -> dict[str, Any]:
        data = error.data if isinstance(error, ServiceError) else {}
        return {
            "step": self._step,
            "model": self._model_used or self._job.model_name,
            "resident_bytes": psutil.Process().memory_info().rss,
            **{name: value for name, value in data.items() if isinstance(value, int | float | str)},
        }


def _window(row: TranscriptionWindow) -> Window:
    return Window(
        start_seconds=row.start_seconds,
        end_seconds=row.end_seconds,
        segments=tuple(Segment.from_json(segment) for segment in row.segments),
        resume=ResumeState.from_json(row.resume),
    )
