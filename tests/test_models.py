"""The tables: what the database itself guards, and that no query walks a whole table."""

import re
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, get_args

import pytest
from sqlalchemy import CheckConstraint, Engine, create_engine, event, text
from sqlalchemy.orm import Session
from uuid_utils.compat import uuid7

from jobs import (
    backlog,
    clock,
    dead_letters,
    dispatching,
    lifecycle,
    queries,
    queues,
    quotas,
    retention,
    statements,
)
from jobs.dead_letters import Wanted
from jobs.lifecycle import Beat, Lane, Lease, Redrive, StillLease
from jobs.paging import Place
from jobs.queries import Selection
from local_servers import PostgresServer
from maintenance import PROBER_BATCH, UNPROBED
from models import (
    FINAL,
    ApiKey,
    ErrorLog,
    JobStatus,
    Owner,
    Priority,
    TranscriptionJob,
    TranscriptionResult,
    TranscriptionWindow,
)
from reaper import HELD
from tests.conftest import fresh_database

JOBS = 20_000
OWNERS = 20
JOB_TABLE = TranscriptionJob.__tablename__

#: A service that has worked for a while and has a backlog: few rows are processing, newly failed,
#: unresolved, of unread length, or about to lose their upload.
SEED = f"""
INSERT INTO owners (id, name)
SELECT gen_random_uuid(), 'owner ' || n FROM generate_series(0, {OWNERS - 1}) AS n;
INSERT INTO api_keys (id, owner_id, prefix, key_sha256, scopes)
SELECT gen_random_uuid(), id, name, sha256(name::bytea), '{{}}' FROM owners;
INSERT INTO {JOB_TABLE}
       (id, owner_id, api_key_id, status, priority, created_at, completed_at, not_before,
        engine_name, model_name, client_filename, upload_bytes, upload_sha256, upload_deleted_at,
        audio_seconds, probed_at, cancel_requested_at, max_attempts, worker_name,
        failure_reason, dead_letter_noted_at, resolved_at)
SELECT gen_random_uuid(), owners.id, api_keys.id, status,
       CASE WHEN n % 10 = 0 THEN 'high' ELSE 'normal' END,
       at, ended_at, at, 'openai-whisper', 'demo', 'talk.wav', 10, '',
       CASE WHEN n % 50 > 0 THEN ended_at END,
       30, CASE WHEN status <> 'pending' OR n % 1000 <> 60 THEN at END,
       CASE WHEN status = 'cancelled' THEN at END,
       3,
       CASE WHEN status = 'processing' THEN 'w1' END,
       CASE WHEN status = 'failed' THEN 'not_audio' END,
       CASE WHEN status = 'failed' AND n % 1000 <> 98 THEN at END,
       CASE WHEN status = 'failed' AND n % 1000 NOT BETWEEN 96 AND 99 THEN at END
  FROM generate_series(1, {JOBS}) AS n
 CROSS JOIN LATERAL (SELECT now() - n * interval '1 minute' AS at,
                            CASE WHEN n <= 8 THEN 'processing'
                                 WHEN n % 100 < 60 THEN 'completed'
                                 WHEN n % 100 < 92 THEN 'pending'
                                 WHEN n % 100 < 96 THEN 'cancelled'
                                 ELSE 'failed' END AS status) AS chosen
 CROSS JOIN LATERAL (SELECT CASE WHEN status NOT IN ('pending', 'processing') THEN at END
                            AS ended_at) AS ended
  JOIN owners ON owners.name = 'owner ' || n % {OWNERS}
  JOIN api_keys ON api_keys.owner_id = owners.id;
INSERT INTO error_logs (job_id, attempt, lease_epoch, error_code, error_message)
SELECT id, 1, 1, 'not_audio', '' FROM {JOB_TABLE} WHERE status = 'failed';
ANALYZE;
"""


@pytest.fixture(scope="module")
def engine(postgres_server: PostgresServer, migrated_database: str) -> Iterator[Engine]:
    with fresh_database(postgres_server, migrated_database) as url:
        engine = create_engine(url)
        with engine.begin() as connection:
            connection.execute(text(SEED))
        yield engine
        engine.dispose()


@pytest.fixture
def session(engine: Engine) -> Iterator[Session]:
    """A session whose changes go with it."""
    with Session(engine) as session:
        yield session
        session.rollback()


@pytest.fixture
def owner_id(session: Session) -> uuid.UUID:
    return session.query(Owner).filter_by(name="owner 1").one().id


def job_of(session: Session, status: str) -> TranscriptionJob:
    return session.query(TranscriptionJob).filter_by(status=status).limit(1).one()


def lease_of(job: TranscriptionJob) -> Lease:
    return Lease(job_id=job.id, epoch=job.lease_epoch, worker_name="w1", attempt=1)


# Indexes


Query = Callable[[Session, uuid.UUID], object]
#: Somewhere in a list.
PLACE = Place(datetime.now(UTC) - timedelta(days=1), uuid7())


def with_job(status: str, act: Callable[[Session, TranscriptionJob], object]) -> Query:
    return lambda session, _: act(session, job_of(session, status))


def with_key(act: Callable[[Session, uuid.UUID], object]) -> Query:
    return lambda session, owner_id: act(
        session, session.query(ApiKey).filter_by(owner_id=owner_id).one().id
    )


def listing(*, mine: bool, status: JobStatus | None) -> Query:
    return lambda session, owner_id: queries.page(
        session,
        Selection(owner_id=owner_id if mine else None, status=status),
        before=Place(datetime.now(UTC), uuid7()),
        limit=50,
    )


def dispatch(lane: Lane) -> Query:
    return lambda session, _: dispatching.dispatch(session, lane, room=8, redispatch_seconds=60)


#: Each with the indexes that will do, pk being the primary key's.
QUERIES: dict[str, tuple[str, Query]] = {
    "listing of one owner": ("owner_age", listing(mine=True, status=None)),
    "listing of one owner's completed": (
        "owner_status_age",
        listing(mine=True, status=JobStatus.COMPLETED),
    ),
    "listing of one owner's failed": (
        "owner_status_age",
        listing(mine=True, status=JobStatus.FAILED),
    ),
    "listing of all": ("age", listing(mine=False, status=None)),
    "listing of all failed": ("status_age", listing(mine=False, status=JobStatus.FAILED)),
    "dispatch of high": ("key_lane", dispatch("high")),
    "dispatch of normal": ("key_lane", dispatch("normal")),
    "dispatch of retry": ("key_lane", dispatch("retry")),
    "a key's jobs at once": (
        "key_lane",
        with_key(lambda s, key: s.execute(quotas.JOBS, {"key_id": key}).all()),
    ),
    "a key's stored bytes": (
        "key_stored",
        with_key(lambda s, key: s.execute(quotas.BYTES, {"key_id": key}).all()),
    ),
    "a key's audio": (
        "key_age",
        with_key(lambda s, key: s.execute(quotas.AUDIO, {"key_id": key, "window": 3600}).all()),
    ),
    "claim": (
        "pk",
        with_job("pending", lambda s, job: lifecycle.claim(s, job.id, "w1")),
    ),
    "claim of what is due first": (
        "owner_lane|processing|pk",
        lambda session, _: lifecycle.claim_next(session, ("high", "normal", "retry"), "w1"),
    ),
    "waits after a clock was set": (
        "lane|owner_lane|pk",
        lambda session, _: clock.shorten_waits(
            session,
            lanes=("high", "normal", "retry"),
            longest=lifecycle.Backoff(base_seconds=10, cap_seconds=600),
        ),
    ),
    "overtaking": (
        "lane",
        lambda session, _: dispatching.overtake(
            session, "normal", too_long_seconds=1, redispatch_seconds=60
        ),
    ),
    "resuming of a queue": (
        "lane|key_lane",
        lambda session, _: queues.resume(session, ["high"]),
    ),
    "place in the queue": (
        "key_lane",
        with_job("pending", backlog._own_ahead),
    ),
    "what was done last": (
        "upload_kept",
        lambda session, _: session.execute(backlog.SPEED, backlog.LATEST).all(),
    ),
    "what is running": (
        "processing|status_age",
        lambda session, _: session.execute(backlog.RUNNING).all(),
    ),
    "reaper's look": ("processing|status_age", lambda session, _: session.execute(HELD).all()),
    "reaper's strike": (
        "processing|pk",
        with_job(
            "processing",
            lambda s, job: lifecycle.reap(
                s,
                [StillLease(job_id=job.id, epoch=0, heartbeat=0)],
                max_crashes=3,
                backoff=lifecycle.Backoff(base_seconds=0, cap_seconds=0),
            ),
        ),
    ),
    "reaper's touch": (
        "processing|pk",
        with_job(
            "processing",
            lambda s, job: lifecycle.touch(s, [StillLease(job_id=job.id, epoch=0, heartbeat=0)]),
        ),
    ),
    "heartbeat": (
        "processing|pk",
        with_job(
            "processing",
            lambda s, job: lifecycle.heartbeat(s, [Beat(lease=lease_of(job), progress=0.5)]),
        ),
    ),
    "prober's look": (
        "unprobed",
        lambda session, _: session.scalars(UNPROBED.limit(PROBER_BATCH)).all(),
    ),
    "lost dead letters": (
        "unnoted",
        lambda session, _: lifecycle.unnoted_dead_letters(session, older_than_seconds=10, limit=20),
    ),
    "dead letter queue": (
        "unresolved",
        lambda session, _: dead_letters.jobs(session, Wanted(), before=PLACE, limit=50),
    ),
    "dead letters of a while": (
        "unresolved",
        lambda session, _: dead_letters.jobs(
            session, Wanted(since=PLACE.at, until=PLACE.at), limit=50
        ),
    ),
    "dead letters of one code": (
        "unresolved",
        lambda session, _: dead_letters.jobs(session, Wanted(code="poison"), limit=50),
    ),
    "how many dead letters": (
        "unresolved",
        lambda session, _: dead_letters.count(session, Wanted()),
    ),
    "dead letters with those dealt with": (
        "failed",
        lambda session, _: dead_letters.jobs(
            session, Wanted(resolved=True, permanent=True), before=PLACE, limit=50
        ),
    ),
    "quarantine": (
        "quarantined",
        lambda session, _: dead_letters.jobs(session, Wanted(quarantined=True), limit=50),
    ),
    "redrive": (
        "pk",
        with_job(
            "failed",
            lambda s, job: lifecycle.redrive(s, [job.id], Redrive(max_attempts=3)),
        ),
    ),
    "resolving": (
        "pk",
        with_job("failed", lambda s, job: dead_letters.resolve(s, [job.id], by=None, notes=None)),
    ),
    "janitor's look": (
        "key_stored|key_age",
        lambda session, _: session.execute(
            retention.EXPIRE_AUDIO,
            {"default": 86_400.0, "limit": 100, "input_faults": []},
        ).all(),
    ),
    "janitor's old jobs": (
        "key_age",
        lambda session, _: session.execute(
            retention.EXPIRED, {"default": 86_400.0, "limit": 100, "input_faults": []}
        ).all(),
    ),
    "next suspect": ("suspects", lambda session, _: lifecycle.call_suspect(session)),
    "janitor's missing": (
        "stored|pk",
        lambda session, _: retention.should_be_stored(session, retention.ENDED, after=uuid7()),
    ),
    "janitor's strays": (
        "pk|stored",
        lambda session, _: session.execute(retention.KNOWN, {"ids": [uuid7()]}).all(),
    ),
}


def plans(session: Session, query: Callable[[], object]) -> Iterator[str]:
    """Run a query and explain the statements it ran on the table of jobs."""
    ran: list[tuple[str, Any]] = []

    def note(*args: Any) -> None:
        ran.append((args[2], args[3]))

    connection = session.connection()
    event.listen(connection, "before_cursor_execute", note)
    query()
    event.remove(connection, "before_cursor_execute", note)
    for statement, values in ran:
        if JOB_TABLE in statement:
            lines = connection.exec_driver_sql(f"EXPLAIN {statement}", values).scalars()
            yield "\n".join(lines)


@pytest.mark.parametrize("name", QUERIES)
def test_a_query_finds_its_rows_by_an_index(
    name: str, session: Session, owner_id: uuid.UUID
) -> None:
    good, query = QUERIES[name]
    *_, plan = plans(session, lambda: query(session, owner_id))
    used = re.findall(rf"Scan (?:Backward )?(?:using|on) (pk|ix)_{JOB_TABLE}_?(\w*)", plan)

    assert {name or kind for kind, name in used} & {*good.split("|")}, plan
    assert f"Seq Scan on {JOB_TABLE}" not in plan, plan


def test_a_heartbeat_changes_no_column_of_an_index() -> None:
    changed = {"heartbeat_seq", "progress", "current_step"}
    indexed = " ".join(
        str(part)
        for index in TranscriptionJob.__table__.indexes  # type: ignore[attr-defined]
        for part in (*index.expressions, index.dialect_options["postgresql"]["where"])
    )

    assert all(f"{name} =" in statements.HEARTBEAT.text for name in changed)
    assert not any(name in indexed for name in changed)


def updates(session: Session) -> tuple[int, int]:
    """Rows that this connection updated, and how many of them without touching an index."""
    counts = session.execute(
        text("SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_xact_user_tables WHERE relname = :name"),
        {"name": JOB_TABLE},
    ).one()
    return counts.n_tup_upd, counts.n_tup_hot_upd


def test_a_heartbeat_rewrites_no_index(session: Session) -> None:
    lease = lease_of(job_of(session, "processing"))
    all_before, hot_before = updates(session)
    lifecycle.heartbeat(session, [Beat(lease=lease, progress=0.5)])
    all_after, hot_after = updates(session)

    assert (all_after - all_before, hot_after - hot_before) == (1, 1)


# What the database guards


def checks() -> dict[str, str]:
    return {
        str(constraint.name): str(constraint.sqltext)
        for constraint in TranscriptionJob.__table__.constraints  # type: ignore[attr-defined]
        if isinstance(constraint, CheckConstraint)
    }


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("status", JobStatus),
        ("priority", Priority),
        ("completed_at_when_final", FINAL),
    ],
)
def test_the_database_knows_the_values_of_the_enums(
    name: str, values: type[JobStatus] | type[Priority] | tuple[JobStatus, ...]
) -> None:
    condition = checks()[f"ck_{JOB_TABLE}_{name}"]

    assert set(re.findall(r"'(\w+)'", condition)) == {str(value) for value in values}


def test_a_job_waits_in_the_lane_of_its_priority_until_an_attempt_failed(session: Session) -> None:
    job = job_of(session, "pending")
    lanes = []
    for priority, attempt, crash_count in (("high", 0, 0), ("normal", 0, 0), ("high", 1, 0)):
        job.priority, job.attempt, job.crash_count = priority, attempt, crash_count
        session.flush()
        session.refresh(job)
        lanes.append(job.lane)

    assert lanes == list(get_args(Lane))


def test_deleting_a_job_deletes_what_hangs_on_it(session: Session) -> None:
    job = job_of(session, "failed")
    session.add(
        TranscriptionWindow(
            job_id=job.id,
            index=0,
            lease_epoch=1,
            start_seconds=0,
            end_seconds=30,
            segments=[],
            resume={},
            model_used="m",
        )
    )
    session.add(
        TranscriptionResult(
            job_id=job.id,
            lease_epoch=1,
            text="",
            language="en",
            audio_seconds=30,
            word_count=0,
            segments=[],
        )
    )
    session.flush()
    session.execute(text(f"DELETE FROM {JOB_TABLE} WHERE id = :id"), {"id": job.id})

    for table in (ErrorLog, TranscriptionWindow, TranscriptionResult):
        assert session.query(table).filter_by(job_id=job.id).count() == 0


def test_ids_sort_by_age() -> None:
    ids = [uuid7() for _ in range(1000)]

    assert ids == sorted(ids)


def test_every_time_knows_its_zone(session: Session) -> None:
    naive = session.execute(
        text(
            "SELECT table_name, column_name FROM information_schema.columns"
            " WHERE table_schema = 'public' AND data_type = 'timestamp without time zone'"
        )
    ).all()

    assert naive == []
