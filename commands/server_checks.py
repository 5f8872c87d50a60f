"""What ``doctor`` looks at in PostgreSQL and Redis, and what the processes say of themselves."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any, Final

import redis
from sqlalchemy import make_url, text

from commands.findings import Check, Finding, fail, ok, warn
from commands.terminal import transaction
from config import QUEUES, Settings
from database import Migrated, Revisions, revision
from jobs import queries, vitals, workers
from jobs.conditions import CLOCK_SECONDS, DiskFacts, Severity, judge
from jobs.vitals import Outside
from models import Base

OLDEST_POSTGRES: Final = 150000
OLDEST_REDIS: Final = (6, 2)
#: Shares of what there is that are nearly all of it.
MANY_CONNECTIONS: Final = 0.8
MUCH_MEMORY: Final = 0.8
#: As many messages as the dispatcher keeps for each slot, and the fewest in a queue.
MESSAGES_PER_SLOT: Final = 2
FEWEST_MESSAGES: Final = 8
#: Conditions that have a check of their own here.
TOLD_ELSEWHERE: Final = {
    "clocks_differ",
    "disk_full",
    "disk_low",
    "migrations_behind",
    "redis_unavailable",
    "storage_unavailable",
}
#: How each of the processes that are announced is started.
STARTS: Final = {"worker": "python worker.py", "maintenance": "python worker.py --role maintenance"}

START_POSTGRES: Final = (
    "Start PostgreSQL (`docker compose up -d postgres`), or mend DATABASE_URL; without either,"
    " `make run` brings its own."
)
START_REDIS: Final = (
    "Start Redis (`docker compose up -d redis`), or mend REDIS_URL; without either, `make run`"
    " brings its own."
)
MIGRATE: Final = "Run `alembic upgrade head` (`docker compose up migrations`)."
SET_CLOCK: Final = "Have the clocks of all machines set by NTP (`timedatectl set-ntp true`)."

_SERVER: Final = text("""
SELECT current_setting('server_version') AS version,
       current_setting('server_version_num')::int AS number,
       current_setting('server_encoding') AS encoding,
       pg_is_in_recovery() AS is_replica,
       (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend') AS used,
       current_setting('max_connections')::int AS most
""")

_MISSING_RIGHTS: Final = text("""
SELECT DISTINCT verb
  FROM pg_class
 CROSS JOIN unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS verb
 WHERE relnamespace = current_schema()::regnamespace
   AND relname = ANY(:tables)
   AND NOT has_table_privilege(pg_class.oid, verb)
 ORDER BY verb
""")


def database(settings: Settings) -> Iterator[Finding]:
    where = make_url(settings.require_database_url())
    place = f"{where.host or where.query.get('host', 'localhost')}/{where.database}"
    tables = [table.name for table in Base.metadata.sorted_tables]
    with transaction(settings) as session:
        session.connection()
        began = time.monotonic()
        server = session.execute(_SERVER).one()
        took_ms = (time.monotonic() - began) * 1000
        missing = session.scalars(_MISSING_RIGHTS, {"tables": tables}).all()
    yield ok(f"PostgreSQL {server.version} at {place}, answers in {took_ms:.1f} ms")
    if server.number < OLDEST_POSTGRES:
        yield fail(f"PostgreSQL {server.version} is too old.", "Move to PostgreSQL 15 or newer.")
    if server.encoding != "UTF8":
        yield fail(
            f"Its encoding is {server.encoding}, which cannot hold every transcript.",
            "Make a database with ENCODING 'UTF8' and TEMPLATE template0, and restore into it.",
        )
    if server.is_replica:
        yield fail("It is a replica, which takes no writes.", "Point DATABASE_URL at the primary.")
    if missing:
        yield fail(
            f"Its user may not {', '.join(missing)}.",
            "GRANT these on all tables to the user of DATABASE_URL.",
        )
    yield connections(server.used, server.most)


def connections(used: int, most: int) -> Finding:
    told = f"{used} of {most} connections are in use"
    if used > MANY_CONNECTIONS * most:
        return warn(
            f"{told}.", "Raise max_connections, or lower DATABASE_POOL_SIZE or the processes."
        )
    return ok(told)


def migrations(settings: Settings) -> Iterator[Finding]:
    with transaction(settings) as session:
        found = revision(session)
    judged = Revisions.of().judge(found)
    if judged is Migrated.BEHIND:
        at = f"is at revision {found}" if found else "has no migration yet"
        yield fail(f"The database {at}; this version needs {Revisions.of().head}.", MIGRATE)
    elif judged is Migrated.AHEAD:
        yield warn(
            f"The database is at revision {found}, which this version does not know.",
            "Run the later version that migrated it; a database of version 2 needs"
            " `python cli.py import-v1`.",
        )
    else:
        yield ok(f"at the newest revision, {found}")


def broker(settings: Settings) -> Iterator[Finding]:
    with closing(_connect(settings)) as client:
        began = time.monotonic()
        client.ping()
        took_ms = (time.monotonic() - began) * 1000
        info: dict[str, Any] = client.info()
    name = "Valkey" if "valkey_version" in info else "Redis"
    version = str(info.get("valkey_version", info["redis_version"]))
    yield ok(f"{name} {version}, answers in {took_ms:.1f} ms")
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST_REDIS:
        yield fail(f"{name} {version} is too old.", "Move to Redis 6.2 or newer, or to Valkey.")
    yield from _memory(info)
    yield from _persistence(info)


def _memory(info: dict[str, Any]) -> Iterator[Finding]:
    policy, most, used = info["maxmemory_policy"], int(info["maxmemory"]), info["used_memory"]
    if policy != "noeviction":
        finding = fail if most else warn
        yield finding(
            f"maxmemory-policy is {policy}: messages may be thrown away to make room.",
            "Run `redis-cli CONFIG SET maxmemory-policy noeviction`, and set it in redis.conf.",
        )
    elif most and used > MUCH_MEMORY * most:
        yield warn(
            f"{used / most:.0%} of maxmemory is used.",
            "Raise maxmemory, and give this service a Redis of its own.",
        )
    else:
        yield ok("maxmemory-policy is noeviction")


def _persistence(info: dict[str, Any]) -> Iterator[Finding]:
    if int(info.get("aof_enabled", 0)) and info.get("aof_last_write_status", "ok") != "ok":
        yield fail(
            "Its append-only file cannot be written.",
            "Look at Redis's log and the space on its disk.",
        )
    elif int(info.get("aof_enabled", 0)):
        yield ok("appendonly is on")
    else:
        yield warn(
            "appendonly is off: after a restart all messages are published again.",
            "Run `redis-cli CONFIG SET appendonly yes`, and set it in redis.conf.",
        )


def queues(settings: Settings) -> Iterator[Finding]:
    with transaction(settings) as session:
        lanes = queries.lanes(session, QUEUES)
        slots = workers.live_slots(session)
    most = 2 * max(FEWEST_MESSAGES, MESSAGES_PER_SLOT * slots)
    with closing(_connect(settings)) as client:
        for lane in lanes:
            try:
                messages = int(client.llen(lane.lane))
            except redis.ResponseError:
                yield fail(
                    f"In Redis {lane.lane} is no list: another program uses the name.",
                    f"Give this service a Redis of its own, and run `redis-cli DEL {lane.lane}`.",
                )
                continue
            told = f"{lane.lane}: {lane.waiting} jobs wait, {messages} messages"
            if messages > most:
                yield warn(
                    f"{told}, where {most} would do.",
                    "Look for workers that take nothing; these messages are harmless, and"
                    f" `redis-cli DEL {lane.lane}` loses no job.",
                )
            else:
                yield ok(told)


def processes(settings: Settings) -> Iterator[Finding]:
    """Tell which processes are there, and what is wrong by the rules of ``/admin/health``."""
    outside = Outside(
        redis=True,
        pool_used=0,
        pool_size=0,
        disk=DiskFacts(free_bytes=0, floor_bytes=0, largest_upload_bytes=0),
    )
    with transaction(settings) as session:
        seen = vitals.read(
            session, outside, lane_names=QUEUES, lease_seconds=settings.lease_seconds
        )
    found = [c for c in judge(seen.facts) if c.code not in TOLD_ELSEWHERE]
    alive = [process for process in seen.facts.processes if seen.facts.is_at_work(process)]
    for role, start in STARTS.items():
        names = [process.name for process in alive if process.role == role]
        if names:
            yield ok(f"{role}: {', '.join(names)}")
        elif not any(condition.code == f"no_{role}" for condition in found):
            yield warn(f"No {role} process runs.", f"Start `{start}`.")
    for condition in found:
        if condition.severity is Severity.UNHEALTHY:
            yield fail(condition.message, condition.remedy)
        elif condition.severity is Severity.INFO:
            yield ok(condition.message)
        else:
            yield warn(condition.message, condition.remedy)


def clocks(settings: Settings, *, clock: Callable[[], float] = time.time) -> Iterator[Finding]:
    with transaction(settings) as session:
        yield _clock("PostgreSQL's", vitals.clock_ahead_seconds(session, clock=clock))
        for view in queries.workers(session):
            worker = view.worker
            if abs(worker.clock_ahead_seconds) > CLOCK_SECONDS and worker.left_at is None:
                off = f"{worker.clock_ahead_seconds:+.0f} s"
                yield warn(f"The clock of {worker.name} is {off} off PostgreSQL's.", SET_CLOCK)
    with closing(_connect(settings)) as client:
        client.ping()
        before = clock()
        seconds, microseconds = client.time()
        ahead = (before + clock()) / 2 - (seconds + microseconds / 1e6)
    yield _clock("Redis's", ahead)


def _clock(whose: str, ahead_seconds: float) -> Finding:
    if abs(ahead_seconds) > CLOCK_SECONDS:
        way = "ahead of" if ahead_seconds > 0 else "behind"
        return warn(f"Our clock is {abs(ahead_seconds):.0f} s {way} {whose}.", SET_CLOCK)
    return ok(f"within {max(0.1, abs(ahead_seconds)):.1f} s of {whose}")


def _connect(settings: Settings) -> redis.Redis:
    return redis.Redis.from_url(
        settings.require_broker_url(),
        socket_timeout=2,
        socket_connect_timeout=2,
        decode_responses=True,
    )


CHECKS: Final = (
    Check("database", database, START_POSTGRES),
    Check("migrations", migrations, START_POSTGRES),
    Check("redis", broker, START_REDIS),
    Check("queues", queues, "PostgreSQL and Redis have to answer first: see above."),
    Check("processes", processes, "PostgreSQL has to answer first: see above."),
    Check("clock", clocks, "PostgreSQL and Redis have to answer first: see above."),
)
