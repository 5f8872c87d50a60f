"""What each call to PostgreSQL costs while its tables grow: 1,000 jobs, 100,000, a million.

First the history grows, as it does in years: nearly all jobs have ended, a few hundred wait. Then
the backlog grows, as it does on a bad day. Each call is timed alone, in a transaction that is
rolled back, and the plan of its statements is searched for whole tables that are read. A call is
flat if it costs at most 1.5 times as much with the largest table as with the smallest, or less than
a millisecond.

``SIZES=1000,100000`` measures less of it; ``PLANS=1`` prints the plans that read whole tables.
"""

from __future__ import annotations

import os
import statistics
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Engine, Select, create_engine, event, select, text
from sqlalchemy.orm import Session, sessionmaker
from uuid_utils.compat import uuid7

import reaper
from bench.service import service
from celery_app import LANES
from jobs import backlog, dead_letters, dispatching, lifecycle, queries, quotas, retention, vitals
from jobs.backlog import Backlog
from jobs.dead_letters import INPUT_FAULTS, Wanted
from jobs.lifecycle import Backoff, Beat, Lease, NewJob, Outcome, StillLease
from jobs.paging import Place
from jobs.queries import Selection
from jobs.quotas import Quotas
from jobs.vitals import Outside
from models import ApiKey, JobStatus, Owner, TranscriptionJob
from speech.transcript import Mode, Transcript

SIZES: Final = tuple(
    int(size) for size in os.environ.get("SIZES", "1000,100000,1000000").split(",")
)
#: Jobs that wait while the history grows; and, as shares of it, while the backlog does.
WAITING: Final = 200
RUNNING: Final = 8
OWNERS: Final = 20
ROUNDS: Final = 15
#: At most so many times as much as with the smallest table; noise is no growth.
FLAT: Final = 1.5
NOISE_MS: Final = 1.0

#: Jobs of a year, one after the other, with ids that begin with their time as ours do.
FILL: Final = text("""
INSERT INTO transcription_jobs (
    id, owner_id, api_key_id, status, priority, created_at, started_at, completed_at, engine_name,
    model_name, client_filename, upload_bytes, upload_sha256, upload_deleted_at, audio_seconds,
    audio_estimated, probed_at, progress, not_before, attempt, max_attempts, lease_epoch,
    failure_reason, error_code, resolved_at, dead_letter_noted_at, cancel_requested_at)
SELECT (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || '7'
          || substr(md5(n::text), 1, 3) || '8' || substr(md5('b' || n), 1, 15))::uuid,
       owners[1 + n % :owners], keys[1 + n % :owners], status, 'normal', at,
       CASE WHEN status <> 'pending' THEN at END,
       CASE WHEN status <> 'pending' THEN at + interval '1 minute' END,
       'openai-whisper', 'base', 'recording ' || n || '.mp3', 1000000, decode(md5(n::text), 'hex'),
       CASE WHEN status <> 'pending' AND at < now() - interval '7 days'
            THEN at + interval '7 days' END,
       300, false, at, CASE WHEN status = 'completed' THEN 1 ELSE 0 END, at,
       CASE WHEN status = 'pending' THEN 0 ELSE 1 END, 3, 1,
       CASE WHEN status = 'failed' THEN 'not_audio' END,
       CASE WHEN status = 'failed' THEN 'not_audio' END,
       CASE WHEN status = 'failed' AND n % 100 <> 7 THEN at + interval '1 hour' END,
       CASE WHEN status = 'failed' THEN at + interval '1 minute' END,
       CASE WHEN status = 'cancelled' THEN at END
  FROM (SELECT n,
               now() - make_interval(secs => :newest + (:count - n) * :step) AS at,
               CASE WHEN :waiting THEN 'pending' WHEN n % 25 = 7 THEN 'failed'
                    WHEN n % 50 = 3 THEN 'cancelled' ELSE 'completed' END AS status
          FROM generate_series(1, :count) AS n) AS rows,
       (SELECT array_agg(owner_id ORDER BY id) AS owners, array_agg(id ORDER BY id) AS keys
          FROM api_keys WHERE prefix LIKE 'scale%') AS who
ON CONFLICT DO NOTHING
""")
RESULTS: Final = text("""
INSERT INTO transcription_results (
    job_id, lease_epoch, text, language, audio_seconds, word_count, confidence, segments)
SELECT id, 1, repeat('words ', 50), 'en', 300, 50, 0.9, '[]'
  FROM transcription_jobs AS job
 WHERE status = 'completed'
ON CONFLICT DO NOTHING
""")
YEAR_SECONDS: Final = 365 * 86_400.0


@dataclass(frozen=True, slots=True)
class Who:
    """One of the owners, and jobs of theirs."""

    owner_id: uuid.UUID
    key_id: uuid.UUID
    waiting: TranscriptionJob
    ended: TranscriptionJob
    running: Lease
    backlog: Backlog


def submit(session: Session, who: Who) -> None:
    limits = Quotas(jobs_at_once=10**9, bytes_stored=10**15, audio_seconds_per_hour=1e12)
    quotas.hold(session, who.key_id)
    quotas.require_room(session, who.key_id, limits, upload_bytes=1_000_000)
    job = NewJob(
        id=uuid7(),
        owner_id=who.owner_id,
        api_key_id=who.key_id,
        engine_name="openai-whisper",
        model_name="base",
        client_filename="a.mp3",
        upload_bytes=1_000_000,
        upload_sha256=b"0" * 32,
        max_attempts=3,
        audio_seconds=300,
    )
    lifecycle.submit(session, job)
    session.flush()


def claim(session: Session, who: Who) -> None:
    assert lifecycle.claim(session, who.waiting.id, "scale:1") is not None


def claim_next(session: Session, who: Who) -> None:
    assert lifecycle.claim_next(session, LANES, "scale:1") is not None


def heartbeat(session: Session, who: Who) -> None:
    assert lifecycle.heartbeat(session, [Beat(lease=who.running, progress=0.5)])


def complete(session: Session, who: Who) -> None:
    transcript = Transcript(
        language="en", language_probability=None, audio_seconds=300, segments=()
    )
    outcome = Outcome(
        model_used="openai-whisper/base/cpu/float32",
        mode=Mode.EXACT,
        degraded=False,
        fallbacks=[],
        warnings=(),
        peaks=b"",
    )
    lifecycle.complete(session, who.running, transcript, outcome)


def read_one(session: Session, who: Who) -> None:
    assert queries.find(session, who.ended.id, owner_id=who.owner_id) is not None


def list_jobs(session: Session, who: Who) -> None:
    which = Selection(owner_id=who.owner_id)
    queries.count(session, which)
    assert queries.page(session, which, before=None, limit=51)


def list_later(session: Session, who: Who) -> None:
    """A page in the middle."""
    which = Selection(owner_id=who.owner_id)
    before = Place(who.ended.created_at, who.ended.id)
    queries.page(session, which, before=before, limit=51)


def list_failed(session: Session, who: Who) -> None:
    which = Selection(owner_id=who.owner_id, status=JobStatus.FAILED)
    queries.count(session, which)
    queries.page(session, which, before=None, limit=51)


def position(session: Session, who: Who) -> None:
    found = backlog.estimate(session, who.waiting, who.backlog, lanes=LANES)
    assert found.position


def read_backlog(session: Session, _: Who) -> None:
    backlog.read(session)


def dispatch(session: Session, _: Who) -> None:
    for lane in LANES:
        dispatching.dispatch(session, lane, room=8, redispatch_seconds=60, window=8)
        dispatching.overtake(session, lane, too_long_seconds=1e9, redispatch_seconds=60)


def reap(session: Session, _: Who) -> None:
    rows = session.execute(reaper.HELD).all()
    still = [StillLease(job_id=row.id, epoch=row.lease_epoch, heartbeat=0) for row in rows]
    lifecycle.reap(session, still, max_crashes=3, backoff=Backoff(base_seconds=1, cap_seconds=9))


def health(session: Session, _: Who) -> None:
    outside = Outside(redis=True, pool_used=0, pool_size=1, disk=None)
    vitals.read(session, outside, lane_names=LANES, lease_seconds=60)


def list_errors(session: Session, _: Who) -> None:
    dead_letters.page(session, Wanted(), limit=51)
    dead_letters.count(session, Wanted())


def usage(session: Session, who: Who) -> None:
    quotas.used(session, who.key_id)


def retain(session: Session, _: Who) -> None:
    """One round of looking for what is to be deleted, of which there is nothing."""
    values = {"default": 10 * YEAR_SECONDS, "limit": 100, "input_faults": list(INPUT_FAULTS)}
    session.execute(retention.EXPIRE_AUDIO, values)
    session.execute(retention.EXPIRED, values)


CALLS: Final[Mapping[str, Callable[[Session, Who], None]]] = {
    "submit, with limits": submit,
    "claim": claim,
    "claim without Redis": claim_next,
    "heartbeat": heartbeat,
    "complete": complete,
    "GET /jobs/{id}": read_one,
    "GET /jobs": list_jobs,
    "GET /jobs, a later page": list_later,
    "GET /jobs?status=failed": list_failed,
    "place in the queue": position,
    "look at the backlog": read_backlog,
    "dispatch": dispatch,
    "reap": reap,
    "/admin/health": health,
    "/admin/errors": list_errors,
    "/usage": usage,
    "retention": retain,
}


class Tables:
    """The tables, filled as far as is asked for."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.sessions = sessionmaker(engine, expire_on_commit=False)
        with self.sessions.begin() as session:
            for number in range(OWNERS):
                owner = Owner(name=f"scale{number}")
                session.add(owner)
                session.flush()
                key = {"prefix": f"scale{number}", "key_sha256": bytes([number]) * 32}
                session.add(ApiKey(owner_id=owner.id, scopes=["jobs:read"], **key))

    def ended(self, count: int) -> None:
        """Have so many jobs of the last year that have ended, and their results."""
        self._fill(count, newest=60.0, step=YEAR_SECONDS / count, waiting=False)

    def waiting(self, count: int) -> None:
        self._fill(count, newest=1.0, step=0.001, waiting=True)

    def _fill(self, count: int, **values: object) -> None:
        with self.engine.begin() as connection:
            given = {"count": count, "owners": OWNERS, **values}
            connection.execute(FILL, given)
            connection.execute(RESULTS)
        with self.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            for table in ("transcription_jobs", "transcription_results"):
                connection.execute(text(f"VACUUM ANALYZE {table}"))

    def run(self) -> None:
        """Let some of the waiting jobs be worked on."""
        with self.sessions.begin() as session:
            for _ in range(RUNNING):
                lifecycle.claim_next(session, LANES, "scale:0")

    def count(self) -> int:
        with self.engine.connect() as connection:
            return int(
                connection.execute(text("SELECT count(*) FROM transcription_jobs")).scalar_one()
            )

    def who(self) -> Who:
        """The owner of the job that is being worked on first."""
        with self.sessions() as session:
            running = session.scalars(_jobs(status=JobStatus.PROCESSING)).first()
            assert running is not None
            assert running.api_key_id is not None
            of = {"owner_id": running.owner_id}
            ended = session.scalars(_jobs(status=JobStatus.COMPLETED, **of)).all()
            waiting = session.scalars(_jobs(status=JobStatus.PENDING, **of)).all()
            return Who(
                owner_id=running.owner_id,
                key_id=running.api_key_id,
                waiting=waiting[len(waiting) // 2],
                ended=ended[len(ended) // 2],
                running=Lease(
                    job_id=running.id,
                    epoch=running.lease_epoch,
                    worker_name="scale:0",
                    attempt=running.attempt,
                ),
                backlog=backlog.read(session),
            )


def _jobs(**of: Any) -> Select[TranscriptionJob]:
    return (
        select(TranscriptionJob)
        .filter_by(**of)
        .order_by(TranscriptionJob.created_at, TranscriptionJob.id)
        .limit(5000)
    )


@contextmanager
def listening(engine: Engine) -> Iterator[list[tuple[str, Any]]]:
    """Hear of all statements."""
    heard: list[tuple[str, Any]] = []

    def hear(_: object, __: object, statement: str, parameters: Any, *___: object) -> None:
        heard.append((statement, parameters))

    event.listen(engine, "before_cursor_execute", hear)
    yield heard
    event.remove(engine, "before_cursor_execute", hear)


def measure(tables: Tables, call: Callable[[Session, Who], None], who: Who) -> float:
    """The median time of a call, in ms; its transaction is rolled back."""
    times = []
    for _ in range(ROUNDS + 1):
        with tables.sessions() as session:
            session.connection()
            began = time.perf_counter()
            call(session, who)
            times.append(1000 * (time.perf_counter() - began))
            session.rollback()
    return statistics.median(times[1:])  # the first one plans


def whole_tables(tables: Tables, call: Callable[[Session, Who], None], who: Who) -> list[str]:
    """The plans of a call's statements that read all jobs or results."""
    with listening(tables.engine) as heard, tables.sessions() as session:
        call(session, who)
        session.rollback()
    found = []
    with tables.engine.connect() as connection:
        for statement, parameters in heard:
            if not statement.lstrip().startswith(("SELECT", "WITH", "UPDATE", "INSERT", "--")):
                continue
            rows = connection.exec_driver_sql(f"EXPLAIN {statement}", parameters)
            plan = "\n".join(row[0] for row in rows)
            if "Seq Scan on transcription_" in plan:
                found.append(plan)
        connection.rollback()
    return found


def table(title: str, sizes: Sequence[int], tables: Tables, grow: Callable[[int], None]) -> bool:
    """Grow, measure and print; returns whether all is flat."""
    took: dict[str, list[float]] = {name: [] for name in CALLS}
    wholes: dict[str, list[str]] = {}
    for size in sizes:
        grow(size)
        who = tables.who()
        for name, call in CALLS.items():
            took[name].append(measure(tables, call, who))
            if size == sizes[-1]:
                wholes[name] = whole_tables(tables, call, who)
    print(f"\n{title}; {tables.count():,} rows at last; ms, median of {ROUNDS}")
    print(f"{'':28}" + "".join(f"{size:>12,}" for size in sizes) + "   last/first")
    flat = True
    for name, times in took.items():
        ratio = times[-1] / times[0]
        good = ratio <= FLAT or times[-1] < NOISE_MS
        flat &= good
        remarks = "" if good else "  grows"
        remarks += "  reads a whole table" if wholes[name] else ""
        print(f"{name:28}" + "".join(f"{ms:12.2f}" for ms in times) + f"{ratio:10.1f} x{remarks}")
        if "PLANS" in os.environ:
            print("\n".join(wholes[name]))
    return flat


def main() -> bool:
    with service() as place:
        engine = create_engine(place.settings.require_database_url())
        tables = Tables(engine)
        tables.waiting(WAITING)
        tables.run()
        history = table("jobs that have ended", SIZES, tables, tables.ended)
        waiting = [WAITING, *(size // 10 for size in SIZES[1:])]
        backlogs = table("jobs that wait", waiting, tables, tables.waiting)
        engine.dispose()
    return history and backlogs


if __name__ == "__main__":
    main()
