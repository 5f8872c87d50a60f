"""The loops that keep jobs moving: dispatcher, prober, batches, and those of other modules.

Each round of a loop is one method; rounds may run anywhere, any number of times, and two of
these processes at once are safe, since every statement takes its rows with SKIP LOCKED or by
condition.
"""

from __future__ import annotations

import functools
import logging
import threading
import uuid
from collections.abc import Callable, Collection, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Final, Protocol

import redis
from kombu.exceptions import OperationalError
from sqlalchemy import func, select

import tallies
from auditor import AUDITOR_SECONDS, Auditor
from celery_app import DEAD_LETTER, DLQ, LANES, TRANSCRIBE, WINDOW_KEY
from config import Settings
from database import Sessions, get_db_session
from errors import ServiceError, StorageUnavailable
from janitor import Janitor
from jobs import batches, clock, dispatching, lifecycle, workers
from jobs.lifecycle import Backoff, Lane
from jobs.retention import Retention
from jobs.uploads import UploadStore
from models import JobStatus, TranscriptionJob
from reaper import Reaper, pause_between_looks
from retries import LONGEST, Policy
from speech import audio
from speech.audio import DecodeLimits, MediaInfo

logger = logging.getLogger(__name__)

#: Says which life of Redis this is, and after a colon which it followed: gone with its data.
INCARNATION_KEY: Final = "transcription:incarnation"
#: Fewest messages kept in a lane, so that a worker that has just come finds some.
MIN_WINDOW: Final = 8
#: Whoever waited so long in the lane below may overtake, one at a time, where a lane never empties.
BELOW: Final[dict[Lane, tuple[Lane, float]]] = {
    "high": ("normal", 900.0),
    "normal": ("retry", 300.0),
}
#: A failed job's message to the dead letter queue is taken for lost after.
DEAD_LETTER_SECONDS: Final = 10.0
DEAD_LETTER_BATCH: Final = 20
PROBER_SECONDS: Final = 2.0
PROBER_BATCH: Final = 4
JANITOR_SECONDS: Final = 300.0
BATCHES_SECONDS: Final = 1.0
FOLDER_SECONDS: Final = 15.0
#: Reading a header takes milliseconds; a file that needs longer is left to the worker.
PROBE_TIMEOUT_SECONDS: Final = 20.0

Send = Callable[[str, uuid.UUID, str], None]


class Dispatcher:
    """Keeps a small window of messages in each lane, and notices when Redis lost its data."""

    def __init__(
        self,
        sessions: Sessions,
        client: redis.Redis,
        send: Send,
        *,
        redispatch_seconds: float,
        longest: Backoff,
    ) -> None:
        self._sessions = sessions
        self._redis = client
        self._send = send
        self._redispatch_seconds = redispatch_seconds
        self._longest = longest
        self._incarnation = ""
        #: Their messages are lost, and somebody held their rows when that was noticed.
        self._held: frozenset[uuid.UUID] = frozenset()
        #: The job of the lane below that was last published in a lane.
        self._overtaking: dict[Lane, uuid.UUID] = {}

    def run(self) -> None:
        """One round.

        Raises:
            redis.RedisError, OperationalError, DatabaseUnavailable: Try again later.
        """
        self._notice_clock()
        if self._held:
            self._redispatch(self._held)
        self._notice_loss()
        window = self._window()
        for lane in LANES:
            self._fill(lane, window)
        for lane in BELOW:
            self._let_overtake(lane)
        self._dead_letters()

    def _notice_clock(self) -> None:
        with get_db_session(self._sessions) as session:
            shortened = clock.shorten_waits(session, lanes=LANES, longest=self._longest)
        if shortened:
            logger.warning("postgresql's clock was set back", extra={"jobs": shortened})

    def _notice_loss(self) -> None:
        found = self._redis.get(INCARNATION_KEY)
        known, (life, _, before) = self._incarnation, str(found or "").partition(":")
        if known and known in {life, before}:
            # Its successor is named by whoever met the same loss and has published again since.
            self._incarnation = life
            return
        # The rows first: if we die in between, the next one does it again.
        again = self._redispatch()
        if found is None:
            self._redis.set(INCARNATION_KEY, f"{uuid.uuid4().hex}:{known}", nx=True)
            life, _, _ = str(self._redis.get(INCARNATION_KEY)).partition(":")
        if known:
            logger.warning("redis lost its data: publishing again", extra={"jobs": again})
        self._incarnation = life

    def _redispatch(self, among: Collection[uuid.UUID] | None = None) -> int:
        with get_db_session(self._sessions) as session:
            done = dispatching.redispatch_all(session, among=among)
        self._held = done.held
        return done.count

    def _window(self) -> int:
        with get_db_session(self._sessions) as session:
            slots = workers.live_slots(session)
        window = max(MIN_WINDOW, 2 * slots)
        self._redis.set(WINDOW_KEY, window, ex=3600)
        return window

    def _fill(self, lane: Lane, window: int) -> None:
        room = window - int(self._redis.llen(lane))
        if room <= 0:
            return
        with get_db_session(self._sessions) as session:
            due = dispatching.dispatch(
                session,
                lane,
                room=room,
                redispatch_seconds=self._redispatch_seconds,
                window=window,
            )
        self._publish([job.job_id for job in due], lane)

    def _let_overtake(self, lane: Lane) -> None:
        """Publish one that waited too long in the lane below, since workers may never come to it.

        One at a time: a backlog in which everybody has waited long must not fill the better lane,
        or it would be better no more.
        """
        if not int(self._redis.llen(lane)):
            return
        below, too_long_seconds = BELOW[lane]
        with get_db_session(self._sessions) as session:
            last = self._overtaking.get(lane)
            if last is not None and session.scalar(PUBLISHED.where(TranscriptionJob.id == last)):
                return
            due = dispatching.overtake(
                session,
                below,
                too_long_seconds=too_long_seconds,
                redispatch_seconds=self._redispatch_seconds,
            )
        if due is None:
            return
        self._overtaking[lane] = due.job_id
        self._publish([due.job_id], lane)
        logger.info(
            "job overtakes",
            extra={"job_id": str(due.job_id), "waited_seconds": round(due.waited_seconds)},
        )

    def _publish(self, job_ids: Sequence[uuid.UUID], lane: Lane) -> None:
        left = list(job_ids)
        try:
            while left:
                self._send(TRANSCRIBE, left[0], lane)
                left.pop(0)
        finally:
            if left:
                with get_db_session(self._sessions) as session:
                    dispatching.undispatch(session, left)

    def _dead_letters(self) -> None:
        if int(self._redis.llen(DLQ)):
            return
        with get_db_session(self._sessions) as session:
            lost = lifecycle.unnoted_dead_letters(
                session, older_than_seconds=DEAD_LETTER_SECONDS, limit=DEAD_LETTER_BATCH
            )
        for job_id in lost:
            self._send(DEAD_LETTER, job_id, DLQ)


#: Jobs whose message, as far as we know, still lies in Redis.
PUBLISHED: Final = select(TranscriptionJob.id).where(
    TranscriptionJob.status == JobStatus.PENDING, TranscriptionJob.dispatch_due_at > func.now()
)


def _backoff(policy: Policy, settings: Settings) -> Backoff:
    return Backoff.of(
        policy,
        base_seconds=settings.retry_base_seconds,
        cap_seconds=settings.retry_cap_seconds,
    )


class Prober:
    """Reads the headers of uploads that wait, so that their length is known and not guessed."""

    def __init__(
        self, sessions: Sessions, uploads: UploadStore, probe: Callable[[Path], MediaInfo]
    ) -> None:
        self._sessions = sessions
        self._uploads = uploads
        self._probe = probe

    def run(self) -> None:
        """One round.

        Raises:
            DatabaseUnavailable, StorageUnavailable: Try again later.
        """
        with get_db_session(self._sessions) as session:
            ids = session.scalars(UNPROBED.limit(PROBER_BATCH)).all()
        for job_id in ids:
            audio_seconds, estimated = self._length(job_id)
            with get_db_session(self._sessions) as session:
                lifecycle.probed(session, job_id, audio_seconds, estimated=estimated)

    def _length(self, job_id: uuid.UUID) -> tuple[float | None, bool]:
        """The length in seconds, if the header tells it, and whether it is only a guess."""
        try:
            media = self._probe(self._uploads.find(job_id))
        except StorageUnavailable:
            raise
        except ServiceError:
            return None, True  # its worker will say what is wrong with it
        return media.audio_seconds, media.estimated or media.audio_seconds is None


UNPROBED: Final = (
    select(TranscriptionJob.id)
    .where(
        TranscriptionJob.status == JobStatus.PENDING,
        TranscriptionJob.probed_at.is_(None),
        TranscriptionJob.upload_awaited.is_(False),
    )
    .order_by(TranscriptionJob.not_before)
)


class Batches:
    """Notes which batches have ended, so that whoever wants to hear of it is told."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    def run(self) -> None:
        """One round.

        Raises:
            DatabaseUnavailable: Try again later.
        """
        with get_db_session(self._sessions) as session:
            ended = batches.end(session)
        if ended:
            logger.info("batches ended", extra={"batches": len(ended)})


class Folder:
    """Adds up what was counted, so that it is as many rows as there are kinds."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    def run(self) -> None:
        """One round.

        Raises:
            DatabaseUnavailable: Try again later.
        """
        with get_db_session(self._sessions) as session:
            tallies.fold(session)


class Round(Protocol):
    """Something that is done again and again."""

    def run(self) -> None: ...


class Loop:
    """Runs rounds in a thread of its own, whatever happens in one."""

    def __init__(self, name: str, rounds: Round, *, pause_seconds: float) -> None:
        self.name = name
        self.pause_seconds = pause_seconds
        self._rounds = rounds
        self._closed = threading.Event()
        self._failure: type[Exception] | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self, timeout_seconds: float = 5.0) -> None:
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join(timeout_seconds)

    def _run(self) -> None:
        while not self._closed.is_set():
            self._once()
            self._closed.wait(self.pause_seconds)

    def _once(self) -> None:
        try:
            self._rounds.run()
        except (ServiceError, redis.RedisError, OperationalError) as error:
            if self._is_news(error):
                logger.warning(
                    "loop waits for what it needs",
                    extra={"loop": self.name, "error": type(error).__name__},
                )
        except Exception as error:
            if self._is_news(error):
                logger.exception("round failed", extra={"loop": self.name})
        else:
            if self._failure is not None:
                logger.info("loop goes on", extra={"loop": self.name})
            self._failure = None

    def _is_news(self, error: Exception) -> bool:
        # said once, not at every round of an outage
        before, self._failure = self._failure, type(error)
        return self._failure is not before


def make_auditor(settings: Settings, sessions: Sessions) -> Auditor:
    return Auditor(sessions, keep=timedelta(days=settings.audit_retention_days) or None)


def make_loops(
    settings: Settings,
    sessions: Sessions,
    uploads: UploadStore,
    client: redis.Redis,
    send: Send,
    auditor: Auditor,
) -> list[Loop]:
    """Everything that the maintenance role does beside the dead letter queue."""
    dispatcher = Dispatcher(
        sessions,
        client,
        send,
        redispatch_seconds=settings.redispatch_seconds,
        longest=_backoff(LONGEST, settings),
    )
    janitor = Janitor(
        sessions,
        uploads,
        keep=Retention(
            audio_seconds=settings.audio_retention_seconds,
            transcript_seconds=settings.transcript_retention_seconds,
        ),
        keep_keys_seconds=settings.idempotency_seconds,
    )
    limits = DecodeLimits(
        max_audio_seconds=settings.max_audio_seconds,
        max_memory_bytes=settings.decode_memory_mb * 2**20,
        timeout_seconds=PROBE_TIMEOUT_SECONDS,
    )
    probe = functools.partial(audio.probe, limits=limits)
    return [
        Loop("dispatcher", dispatcher, pause_seconds=settings.dispatch_seconds),
        Loop("reaper", Reaper(sessions, settings), pause_seconds=pause_between_looks(settings)),
        Loop("prober", Prober(sessions, uploads, probe), pause_seconds=PROBER_SECONDS),
        Loop("batches", Batches(sessions), pause_seconds=BATCHES_SECONDS),
        Loop("janitor", janitor, pause_seconds=JANITOR_SECONDS),
        Loop("auditor", auditor, pause_seconds=AUDITOR_SECONDS),
        Loop("tallies", Folder(sessions), pause_seconds=FOLDER_SECONDS),
    ]
