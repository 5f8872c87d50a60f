"""What is read about jobs: one, many, and how the queues are.

Nothing here writes. An ``owner_id`` is part of every query, never an afterthought: with one, other
owners' jobs are not there; None means everybody's.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, Row, Select, exists, func, or_, select, text
from sqlalchemy.orm import Session

from jobs import dead_letters
from jobs.dead_letters import INPUT_FAULTS, Wanted
from jobs.paging import Place, after
from models import (
    JobStatus,
    PausedQueue,
    TranscriptionJob,
    TranscriptionResult,
    TranscriptionWindow,
    Worker,
)
from speech import peaks as loudness
from speech.transcript import ResumeState, Segment, Transcript

#: So often published and not taken, or so long due and not published, a job was left lying.
PUBLISHED_AGAIN: Final = 3
LATE_SECONDS: Final = 60.0
#: ISO 639-2 for a language that nobody has determined yet.
UNDETERMINED: Final = "und"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobView:
    """A job and, when it is completed, what its result says in short."""

    job: TranscriptionJob
    language: str | None = None
    language_probability: float | None = None
    word_count: int | None = None
    confidence: float | None = None
    #: Whether jobs of its lane are kept from starting.
    queue_paused: bool = False
    #: Only read for a single job.
    text: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which jobs a list is of; None is any."""

    owner_id: uuid.UUID | None
    status: JobStatus | None = None
    batch_id: uuid.UUID | None = None
    #: Part of the client's name of the file, or of its ``title`` in the metadata.
    search: str | None = None

    def conditions(self) -> list[ColumnElement[bool]]:
        job = TranscriptionJob
        found = _of(self.owner_id)
        if self.status is not None:
            found.append(job.status == self.status)
        if self.batch_id is not None:
            found.append(job.batch_id == self.batch_id)
        if self.search is not None:
            title = job.client_metadata["title"].astext
            names = (job.client_filename, title)
            found.append(or_(*(name.icontains(self.search, autoescape=True) for name in names)))
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowView:
    """What was said in a finished window."""

    index: int
    #: How many segments stand before it.
    segments_before: int
    start_seconds: float
    end_seconds: float
    segments: tuple[Segment, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PeaksView:
    """How loud a recording is."""

    #: The least and the greatest sample of each stretch, in turn; none where nobody looked.
    pairs: list[int]
    samples_each: int
    audio_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneState:
    """What waits in one lane, according to PostgreSQL."""

    lane: str
    waiting: int = 0
    #: How long the one that is due for longest has waited; None when none is due.
    oldest_seconds: float | None = None
    #: Since when it has been due.
    due_since: datetime | None = None
    #: Since when the one waits that nobody took, though it was published again and again, or that
    #: was due for a while and is not published; None when there is none.
    left_since: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """How the jobs of all owners are."""

    pending: int
    processing: int
    #: For how long the job that was begun first has been worked on.
    oldest_processing_seconds: float | None
    #: Of the jobs that ended in the last hour: completed, or failed for no fault of their input.
    ended_1h: int
    failed_1h: int
    unresolved_errors: int

    @property
    def error_rate_1h(self) -> float:
        """0 to 1."""
        return self.failed_1h / self.ended_1h if self.ended_1h else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerView:
    """A process's row, and how long ago it was written."""

    worker: Worker
    silent_seconds: float


def find(session: Session, job_id: uuid.UUID, *, owner_id: uuid.UUID | None) -> JobView | None:
    """Look up one job, with its text."""
    row = session.execute(
        _views(TranscriptionResult.text).where(TranscriptionJob.id == job_id, *_of(owner_id))
    ).first()
    return None if row is None else _view(row)


def page(session: Session, which: Selection, *, before: Place | None, limit: int) -> list[JobView]:
    """List jobs, newest first.

    Args:
        before: The last job of the page before this one; it may be gone by now.
    """
    rows = session.execute(
        _views()
        .where(*which.conditions(), *after(before, TranscriptionJob.created_at))
        .order_by(TranscriptionJob.created_at.desc(), TranscriptionJob.id.desc())
        .limit(limit)
    )
    return [_view(row) for row in rows]


def count(session: Session, which: Selection) -> int:
    return session.scalars(
        select(func.count()).select_from(TranscriptionJob).where(*which.conditions())
    ).one()


def transcript(session: Session, job_id: uuid.UUID) -> Transcript | None:
    """Read the result of a completed job."""
    result = session.get(TranscriptionResult, job_id)
    if result is None:
        return None
    return Transcript(
        language=result.language,
        language_probability=result.language_probability,
        audio_seconds=result.audio_seconds,
        segments=tuple(map(Segment.from_json, result.segments)),
    )


def peaks(session: Session, job_id: uuid.UUID) -> PeaksView | None:
    """Read how loud a completed job's recording is."""
    result = TranscriptionResult
    row = session.execute(
        select(result.peaks, result.audio_seconds).where(result.job_id == job_id)
    ).first()
    if row is None:
        return None
    return PeaksView(
        pairs=loudness.pairs(row.peaks or b""),
        samples_each=loudness.samples_each(round(row.audio_seconds * loudness.SAMPLE_RATE_HZ)),
        audio_seconds=row.audio_seconds,
    )


def partial_transcript(session: Session, job: TranscriptionJob) -> Transcript:
    """Join the windows that are finished so far."""
    windows = session.scalars(
        select(TranscriptionWindow)
        .where(TranscriptionWindow.job_id == job.id)
        .order_by(TranscriptionWindow.index)
    ).all()
    resume = ResumeState.from_json(windows[-1].resume) if windows else ResumeState(next_frame=0)
    return Transcript(
        language=resume.language or job.language or UNDETERMINED,
        language_probability=resume.language_probability,
        audio_seconds=windows[-1].end_seconds - job.start_seconds if windows else 0.0,
        segments=tuple(
            Segment.from_json(segment) for window in windows for segment in window.segments
        ),
    )


def windows(
    session: Session, job_id: uuid.UUID, *, first: int, segments_before: int, limit: int
) -> list[WindowView]:
    """Read finished windows in their order.

    Args:
        first: The index of the one to begin with.
        segments_before: What ``count_segments`` says of that.
    """
    window = TranscriptionWindow
    rows = session.scalars(
        select(window)
        .where(window.job_id == job_id, window.index >= first)
        .order_by(window.index)
        .limit(limit)
    )
    found = []
    for row in rows:
        view = WindowView(
            index=row.index,
            segments_before=segments_before,
            start_seconds=row.start_seconds,
            end_seconds=row.end_seconds,
            segments=tuple(map(Segment.from_json, row.segments)),
        )
        found.append(view)
        segments_before += len(view.segments)
    return found


def count_segments(session: Session, job_id: uuid.UUID, *, before: int) -> int:
    """Count the segments of the windows before one."""
    window = TranscriptionWindow
    count = func.coalesce(func.sum(func.jsonb_array_length(window.segments)), 0)
    wanted = select(count).where(window.job_id == job_id, window.index < before)
    return int(session.scalars(wanted).one())


_FIGURES = text("""
-- What is going on. Each figure comes from an index of what it counts, not from the whole table.
SELECT (SELECT count(*) FROM transcription_jobs WHERE status = 'pending') AS pending,
       count(*) AS processing,
       EXTRACT(EPOCH FROM now() - min(started_at))::float AS oldest_processing_seconds
  FROM transcription_jobs
 WHERE status = 'processing'
""")

_ENDED = text("""
-- The last hour. That uploads are kept for longer lets an index of theirs serve this too.
SELECT count(*) AS ended,
       count(*) FILTER (WHERE status = 'failed') AS failed
  FROM transcription_jobs
 WHERE completed_at > now() - interval '1 hour'
   AND upload_deleted_at IS NULL
   AND (status = 'completed' OR (status = 'failed' AND failure_reason <> ALL(:input_faults)))
""")

_LANES = text("""
-- What waits where, counted in the index; and of what was left, the one that has waited longest
SELECT counted.lane,
       counted.waiting,
       EXTRACT(EPOCH FROM now() - counted.due_since)::float AS oldest_seconds,
       counted.due_since,
       (SELECT CASE WHEN job.dispatch_count = 0 THEN job.dispatch_due_at ELSE job.not_before END
          FROM transcription_jobs AS job
         WHERE job.status = 'pending'
           AND job.lane = counted.lane
           AND job.not_before <= now()
           AND (job.dispatch_count >= :again
                OR (job.dispatch_count = 0
                    AND job.dispatch_due_at < now() - make_interval(secs => :late)))
         ORDER BY job.not_before, job.id
         LIMIT 1) AS left_since
  FROM (SELECT lane,
               count(*) AS waiting,
               min(not_before) FILTER (WHERE not_before <= now()) AS due_since
          FROM transcription_jobs
         WHERE status = 'pending'
         GROUP BY lane) AS counted
""")


def figures(session: Session) -> Figures:
    """Count what an operator wants to know."""
    now = session.execute(_FIGURES).one()
    hour = session.execute(_ENDED, {"input_faults": list(INPUT_FAULTS)}).one()
    return Figures(
        pending=now.pending,
        processing=now.processing,
        oldest_processing_seconds=now.oldest_processing_seconds,
        ended_1h=hour.ended,
        failed_1h=hour.failed,
        unresolved_errors=dead_letters.count(session, Wanted()),
    )


def lanes(session: Session, names: Sequence[str]) -> list[LaneState]:
    """Tell what waits in each of these lanes, in their order."""
    found = session.execute(_LANES, {"again": PUBLISHED_AGAIN, "late": LATE_SECONDS})
    rows = {row.lane: LaneState(**row._mapping) for row in found}  # noqa: SLF001 - as documented
    return [rows.get(name) or LaneState(lane=name) for name in names]


def workers(session: Session, *, limit: int = 500) -> list[WorkerView]:
    """List the processes that wrote of themselves, the latest first."""
    silent = func.abs(func.extract("epoch", func.now() - Worker.seen_at))
    rows = session.execute(
        select(Worker, silent).order_by(Worker.seen_at.desc(), Worker.name).limit(limit)
    )
    return [WorkerView(worker=worker, silent_seconds=float(seconds)) for worker, seconds in rows]


def _views(*more: Any) -> Select[Any]:
    return select(
        TranscriptionJob,
        TranscriptionResult.language,
        TranscriptionResult.language_probability,
        TranscriptionResult.word_count,
        TranscriptionResult.confidence,
        exists()
        .where(PausedQueue.name == TranscriptionJob.lane, PausedQueue.resumed_at.is_(None))
        .label("queue_paused"),
        *more,
    ).outerjoin(TranscriptionResult, TranscriptionResult.job_id == TranscriptionJob.id)


def _view(row: Row[Any]) -> JobView:
    values = dict(row._mapping)  # noqa: SLF001 - SQLAlchemy's documented name
    return JobView(job=values.pop("TranscriptionJob"), **values)


def _of(owner_id: uuid.UUID | None) -> list[ColumnElement[bool]]:
    return [] if owner_id is None else [TranscriptionJob.owner_id == owner_id]
