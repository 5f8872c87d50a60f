"""Each condition by facts that make it true, and by facts that look alike and are no fault."""

import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from jobs.conditions import (
    GRACE_SECONDS,
    KINDS,
    STUCK_SECONDS,
    DiskFacts,
    Facts,
    LaneFacts,
    ProcessFacts,
    Severity,
    Still,
    judge,
    status_of,
)
from tests.recordings import PROJECT_DIR

NOW = datetime(2026, 11, 22, 3, 0, tzinfo=UTC)
LEASE_SECONDS = 60.0
GIB = 2**30
LONG = 1000.0


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def process(role: str = "worker", **values: Any) -> ProcessFacts:
    given: dict[str, Any] = {
        "name": f"host:1:{role}",
        "role": role,
        "version": "3.0.0",
        "queues": ("high", "normal", "retry") if role == "worker" else ("dlq",),
        "started_at": ago(LONG),
        "seen_at": ago(2),
        "draining_since": None,
        "left_at": None,
        "idle_since": None,
        "clock_ahead_seconds": 0.01,
    }
    return ProcessFacts(**{**given, **values})


def lane(name: str = "normal", **values: Any) -> LaneFacts:
    given: dict[str, Any] = {"due_since": None, "left_since": None, "paused_at": None}
    return LaneFacts(name=name, **{**given, **values})


MAINTENANCE = process("maintenance")
HEALTHY = Facts(
    now=NOW,
    database_since=ago(86_400),
    redis=True,
    migrations_behind=False,
    lanes=[lane("high"), lane("normal"), lane("retry")],
    processes=[process(), MAINTENANCE],
    still=[],
    ended_1h=100,
    failed_1h=1,
    dead_letters=0,
    call_due_since=None,
    pool_used=1,
    pool_size=20,
    disk=DiskFacts(free_bytes=100 * GIB, floor_bytes=GIB, largest_upload_bytes=GIB // 2),
    clock_ahead_seconds=-0.02,
    lease_seconds=LEASE_SECONDS,
)


def facts(**values: Any) -> Facts:
    return replace(HEALTHY, **values)


def waiting(seconds: float, **values: Any) -> list[LaneFacts]:
    return [lane(due_since=ago(seconds), **values)]


def left(seconds: float, **values: Any) -> list[LaneFacts]:
    return waiting(seconds, left_since=ago(seconds), **values)


def still(seconds: float) -> list[Still]:
    return [Still(job_id=uuid.uuid4(), worker_name="host:1:x", since=ago(seconds))]


def disk(free_bytes: float, *, floor_bytes: int = GIB) -> DiskFacts:
    return DiskFacts(
        free_bytes=int(free_bytes), floor_bytes=floor_bytes, largest_upload_bytes=GIB // 2
    )


IDLE = process(idle_since=ago(LONG))
SENDER = process("webhooks")
ONLY_HIGH = process(queues=("high",))

BROKEN: dict[str, Any] = {"audit_broken": "cut at 12", "audit_broken_since": ago(LONG)}

#: For each code, facts of which it alone follows.
TRUE: dict[str, dict[str, Facts]] = {
    "redis_unavailable": {
        "away": facts(redis=False),
        "away, which is why jobs lie there": facts(
            redis=False, lanes=left(LONG), processes=[IDLE, MAINTENANCE]
        ),
    },
    "no_maintenance": {
        "none ever": facts(processes=[process()]),
        "left, and none came": facts(
            processes=[process(), replace(MAINTENANCE, left_at=ago(GRACE_SECONDS + 1))]
        ),
        "gone, which is why jobs lie there": facts(processes=[IDLE], lanes=left(LONG)),
    },
    "no_worker": {
        "none ever": facts(processes=[MAINTENANCE], lanes=waiting(LONG)),
        "left, and none came": facts(
            processes=[MAINTENANCE, process(left_at=ago(GRACE_SECONDS + 1))], lanes=waiting(LONG)
        ),
        "none of that queue": facts(processes=[MAINTENANCE, ONLY_HIGH], lanes=waiting(LONG)),
        "one that takes nothing new": facts(
            processes=[MAINTENANCE, process(draining_since=ago(GRACE_SECONDS + 1))],
            lanes=waiting(LONG),
        ),
    },
    "no_sender": {
        "none ever": facts(call_due_since=ago(GRACE_SECONDS + 1)),
        "left, and none came": facts(
            call_due_since=ago(LONG),
            processes=[process(), MAINTENANCE, replace(SENDER, left_at=ago(GRACE_SECONDS + 1))],
        ),
    },
    "jobs_stuck": {
        "a worker is idle": facts(lanes=left(LONG), processes=[IDLE, MAINTENANCE]),
        "one of two is": facts(lanes=left(LONG), processes=[process(), IDLE, MAINTENANCE]),
    },
    "lease_still": {"for longer than the reaper waits": facts(still=still(2 * LEASE_SECONDS + 1))},
    "storage_unavailable": {"not there": facts(disk=None)},
    "disk_full": {"below the floor": facts(disk=disk(0.9 * GIB))},
    "disk_low": {"no room for the largest upload": facts(disk=disk(1.4 * GIB))},
    "migrations_behind": {"behind": facts(migrations_behind=True)},
    "most_jobs_fail": {
        "half": facts(ended_1h=10, failed_1h=5),
        "all": facts(ended_1h=1000, failed_1h=1000),
    },
    "many_jobs_fail": {
        "a tenth": facts(ended_1h=10, failed_1h=1),
        "nearly half": facts(ended_1h=100, failed_1h=49),
    },
    "database_pool_busy": {
        "nine tenths": facts(pool_used=18),
        "the only one": facts(pool_used=1, pool_size=1),
    },
    "audit_broken": {
        "found by maintenance": facts(processes=[process(), replace(MAINTENANCE, **BROKEN)]),
    },
    "dead_letters": {"one": facts(dead_letters=1)},
    "queue_paused": {
        "empty": facts(lanes=[lane(paused_at=ago(5))]),
        "with jobs, and nobody to take them": facts(
            lanes=left(LONG, paused_at=ago(5)), processes=[MAINTENANCE]
        ),
        "with jobs, and workers idle": facts(
            lanes=left(LONG, paused_at=ago(5)), processes=[IDLE, MAINTENANCE]
        ),
    },
    "worker_silent": {
        "beside one that lives": facts(
            processes=[process(), MAINTENANCE, process(name="b", seen_at=ago(LEASE_SECONDS + 1))]
        ),
    },
    "clocks_differ": {
        "ours is ahead": facts(clock_ahead_seconds=6),
        "ours is behind": facts(clock_ahead_seconds=-6),
        "a worker's": facts(processes=[process(clock_ahead_seconds=60), MAINTENANCE]),
    },
    "versions_differ": {"two": facts(processes=[process(version="3.1.0"), MAINTENANCE])},
}

#: What is as it should be, though it looks like the fault before the colon.
FALSE: dict[str, Facts] = {
    "nothing: all is well": HEALTHY,
    "no_maintenance: it is being replaced": facts(
        processes=[process(), replace(MAINTENANCE, left_at=ago(GRACE_SECONDS - 1))]
    ),
    "no_maintenance: one left, another runs": facts(
        processes=[
            process(),
            replace(MAINTENANCE, left_at=ago(LONG)),
            replace(MAINTENANCE, name="b"),
        ]
    ),
    "no_maintenance: everything has just been started": facts(
        processes=[process()], database_since=ago(10)
    ),
    "no_worker: nothing waits": facts(processes=[MAINTENANCE]),
    "no_worker: nothing is due": facts(processes=[MAINTENANCE], lanes=[lane("retry")]),
    "no_worker: the only one is being replaced": facts(
        processes=[MAINTENANCE, process(left_at=ago(GRACE_SECONDS - 1))], lanes=waiting(LONG)
    ),
    "no_worker: the first is on its way": facts(
        processes=[MAINTENANCE], lanes=waiting(GRACE_SECONDS - 1)
    ),
    "no_worker: others wait where one takes from": facts(
        processes=[MAINTENANCE, ONLY_HIGH], lanes=[lane("high", due_since=ago(LONG))]
    ),
    "no_worker: the database was away, so nobody could say a word": facts(
        processes=[process(seen_at=ago(LONG)), replace(MAINTENANCE, seen_at=ago(LONG))],
        lanes=waiting(LONG),
        database_since=ago(5),
    ),
    "no_sender: nothing is to be sent": facts(processes=[process(), MAINTENANCE]),
    "no_sender: it is being replaced": facts(
        call_due_since=ago(LONG),
        processes=[process(), MAINTENANCE, replace(SENDER, left_at=ago(GRACE_SECONDS - 1))],
    ),
    "no_sender: a receiver is slow": facts(
        call_due_since=ago(LONG), processes=[process(), MAINTENANCE, SENDER]
    ),
    "jobs_stuck: every slot is busy": facts(lanes=left(LONG)),
    "jobs_stuck: a slot has just come free": facts(
        lanes=left(LONG), processes=[process(idle_since=ago(STUCK_SECONDS - 1)), MAINTENANCE]
    ),
    "jobs_stuck: it has just become due": facts(
        lanes=waiting(LONG, left_since=ago(STUCK_SECONDS - 1)), processes=[IDLE, MAINTENANCE]
    ),
    "jobs_stuck: its queue has just been resumed": facts(
        lanes=left(LONG, resumed_at=ago(5)), processes=[IDLE, MAINTENANCE]
    ),
    "jobs_stuck: whoever publishes has just been started": facts(
        lanes=left(LONG), processes=[IDLE, replace(MAINTENANCE, started_at=ago(5))]
    ),
    "jobs_stuck: it is on its way": facts(lanes=waiting(LONG), processes=[IDLE, MAINTENANCE]),
    "jobs_stuck: the idle one takes from another queue": facts(
        lanes=left(LONG),
        processes=[process(), replace(ONLY_HIGH, idle_since=ago(LONG)), MAINTENANCE],
    ),
    "jobs_stuck: the idle one takes nothing new": facts(
        lanes=left(LONG),
        processes=[
            process(),
            replace(IDLE, name="b", draining_since=ago(10)),
            MAINTENANCE,
        ],
    ),
    "lease_still: the reaper will end it": facts(still=still(1.5 * LEASE_SECONDS)),
    "lease_still: the database was away": facts(still=still(LONG), database_since=ago(5)),
    "disk_full: no floor is set": facts(disk=disk(0.6 * GIB, floor_bytes=0)),
    "disk_low: the largest upload just fits": facts(disk=disk(1.5 * GIB)),
    "most_jobs_fail: it was the only job": facts(ended_1h=1, failed_1h=1),
    "many_jobs_fail: there were few": facts(ended_1h=9, failed_1h=9),
    "many_jobs_fail: most went well": facts(ended_1h=100, failed_1h=9),
    "many_jobs_fail: there was none": facts(ended_1h=0, failed_1h=0),
    "database_pool_busy: some are free": facts(pool_used=17),
    "database_pool_busy: the only one is free": facts(pool_used=0, pool_size=1),
    "audit_broken: it was explained, and maintenance restarted": facts(
        processes=[process(), MAINTENANCE, process("maintenance", left_at=ago(5), **BROKEN)]
    ),
    "worker_silent: it took leave": facts(
        processes=[process(), MAINTENANCE, process(name="b", seen_at=ago(LONG), left_at=ago(LONG))]
    ),
    "worker_silent: one heartbeat was late": facts(
        processes=[process(seen_at=ago(LEASE_SECONDS - 1)), MAINTENANCE]
    ),
    "clocks_differ: by the length of a round trip": facts(clock_ahead_seconds=4),
    "clocks_differ: that of one that is gone": facts(
        processes=[
            process(),
            MAINTENANCE,
            process(name="b", clock_ahead_seconds=60, left_at=ago(LONG)),
        ]
    ),
    "versions_differ: the old one is gone": facts(
        processes=[process(version="3.1.0", left_at=ago(9)), process(), MAINTENANCE]
    ),
}


def codes(facts: Facts) -> set[str]:
    return {condition.code for condition in judge(facts)}


@pytest.mark.parametrize(
    ("code", "case"), [(code, case) for code, cases in TRUE.items() for case in cases]
)
def test_a_fault_is_told_and_nothing_else(code: str, case: str) -> None:
    assert codes(TRUE[code][case]) == {code}


@pytest.mark.parametrize("case", FALSE)
def test_what_looks_like_a_fault_and_is_none_is_not_told(case: str) -> None:
    assert codes(FALSE[case]) == set()


def test_every_condition_has_facts_that_make_it_true() -> None:
    assert TRUE.keys() == KINDS.keys()


def test_every_condition_that_somebody_is_woken_for_has_one_that_looks_alike() -> None:
    told_apart = {case.partition(":")[0] for case in FALSE}
    woken = {code for code, kind in KINDS.items() if kind.severity is Severity.UNHEALTHY}

    # there is nothing that looks like these
    assert woken - {"storage_unavailable", "migrations_behind"} <= told_apart


@pytest.mark.parametrize(
    ("severity", "status"),
    [
        (Severity.INFO, "healthy"),
        (Severity.WARNING, "healthy"),
        (Severity.DEGRADED, "degraded"),
        (Severity.UNHEALTHY, "unhealthy"),
    ],
)
def test_only_faults_spoil_the_status(severity: Severity, status: str) -> None:
    for code, kind in KINDS.items():
        if kind.severity is severity:
            for found in TRUE[code].values():
                assert status_of(judge(found)) == status


def test_the_worst_comes_first_and_decides() -> None:
    found = judge(facts(processes=[process()], dead_letters=1, pool_used=20))

    assert [condition.severity for condition in found] == ["unhealthy", "degraded", "warning"]
    assert status_of(found) == "unhealthy"


@pytest.mark.parametrize(
    ("found", "since"),
    [
        (facts(lanes=[lane(paused_at=ago(5))]), ago(5)),
        (facts(still=still(500)), ago(500)),
        (facts(processes=[MAINTENANCE], lanes=waiting(70)), ago(70)),
        (facts(processes=[MAINTENANCE, process(left_at=ago(90))], lanes=waiting(LONG)), ago(90)),
        (facts(lanes=left(70), processes=[IDLE, MAINTENANCE]), ago(70)),
        (facts(processes=[process(), replace(MAINTENANCE, left_at=ago(80))]), ago(80)),
    ],
)
def test_a_condition_tells_since_when(found: Facts, since: datetime) -> None:
    (condition,) = judge(found)

    assert condition.since == since


def test_each_of_several_is_told() -> None:
    found = facts(
        lanes=[lane(name, paused_at=ago(1)) for name in ("high", "normal", "retry")],
        still=[*still(500), *still(600)],
    )

    assert [condition.code for condition in judge(found)] == 2 * ["lease_still"] + 3 * [
        "queue_paused"
    ]


def test_the_handbook_shows_the_same_table() -> None:
    page = (PROJECT_DIR / "docs/operating.md").read_text("utf-8")
    table = page.split("| condition | severity |", 1)[1].split("\n\n", 1)[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]

    assert rows == [
        [f"`{code}`", kind.severity, kind.means, kind.remedy] for code, kind in KINDS.items()
    ]
