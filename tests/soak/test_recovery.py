"""What a fault disturbed, and when that was over."""

import uuid

import pytest

from soak.faults import Injected
from soak.recovery import WRITTEN_SECONDS, Bounds, History, Recovery, recoveries
from soak.service import SETTINGS
from tests.soak.histories import FIRST, JOB, MAINTENANCE, PLAIN, SUBMITTED, TAKEN_OVER, claim, write

BOUNDS = Bounds.of(SETTINGS)


def fault(
    kind: str, began: float, ended: float | None = None, *, lives: tuple[str, ...] = (),
    jobs: tuple[uuid.UUID, ...] = (),
) -> Injected:  # fmt: skip
    ended = began if ended is None else ended
    return Injected(kind=kind, began=began, ended=ended, lives=lives, jobs=jobs)


def test_the_bounds_are_those_of_the_page_of_promises() -> None:
    """With the service's own settings they are the seconds that the page tells."""
    own = {
        "LEASE_SECONDS": "60",
        "DISPATCH_SECONDS": "0.5",
        "REDISPATCH_SECONDS": "60",
        "RETRY_BASE_SECONDS": "10",
        "DRAIN_SECONDS": "25",
        "DRAIN_FORCE_SECONDS": "20",
    }

    assert Bounds.of(own) == Bounds(
        reaped=81.0, redispatched=60.5, noticed=1.5, reconnected=92.5, drained=55.0
    )


def test_a_killed_workers_job_is_well_again_when_somebody_else_may_have_it() -> None:
    """From the kill to the next publication, not to the end of the job."""
    killed = fault("worker-kill", 2.0, lives=(FIRST,))

    assert recoveries([killed], History(TAKEN_OVER), BOUNDS, []) == [
        Recovery(kind="worker-kill", seconds=8.5, bound=BOUNDS.reaped)
    ]


def test_a_worker_that_was_frozen_for_less_than_its_lease_recovers_from_nothing() -> None:
    """It ends its job itself."""
    frozen = fault("worker-freeze", 1.5, 2.0, lives=(FIRST,))

    assert recoveries([frozen], History(PLAIN), BOUNDS, []) == []


def test_a_destroyed_message_is_replaced_by_the_next_one() -> None:
    """From the loss to the next publication."""
    events = [
        SUBMITTED, write(0.1, "web-1.1", "dispatched"), write(2.5, MAINTENANCE, "dispatched"),
        claim(3.0, FIRST),
    ]  # fmt: skip
    flushed = fault("redis-flush", 2.0, jobs=(JOB,))

    assert recoveries([flushed], History(events), BOUNDS, []) == [
        Recovery(kind="redis-flush", seconds=0.5, bound=BOUNDS.noticed)
    ]


def test_everything_that_was_lost_is_due_again_before_its_turn_comes() -> None:
    """A lane that is full again has no room for the last of many."""
    events = [
        SUBMITTED, write(0.1, "web-1.1", "dispatched"), write(2.4, MAINTENANCE, "due"),
        write(9.0, MAINTENANCE, "dispatched"), claim(9.5, FIRST),
    ]  # fmt: skip
    flushed, deleted = (fault(kind, 2.0, jobs=(JOB,)) for kind in ("redis-flush", "redis-delete"))
    found = recoveries([flushed, deleted], History(events), BOUNDS, [])

    assert [round(one.seconds, 3) for one in found] == [0.4, 7.0]


def test_a_message_whose_job_was_taken_already_is_no_loss() -> None:
    """Copies of messages may be destroyed."""
    flushed = fault("redis-flush", 2.0, jobs=(JOB,))

    assert recoveries([flushed], History(PLAIN), BOUNDS, []) == []


def test_an_outage_is_over_when_a_job_that_waited_starts() -> None:
    """Counted from the return of what was away."""
    away = fault("redis-kill", 0.2, 0.5)

    assert recoveries([away], History(PLAIN), BOUNDS, []) == [
        Recovery(kind="redis-kill", seconds=0.5, bound=BOUNDS.reconnected)
    ]


def test_what_came_into_a_recovery_is_added_to_its_bound() -> None:
    """The reaper was blind for that long, and gave every lease its full time again."""
    killed = fault("worker-kill", 2.0, lives=(FIRST,))
    away = fault("postgres-restart", 4.0, 5.0)
    found = recoveries([killed, away], History(TAKEN_OVER), BOUNDS, [])

    assert found[0].added == 1.0 + BOUNDS.reaped


def test_only_who_waits_for_the_reaper_waits_for_a_whole_lease_again() -> None:
    events = [SUBMITTED, write(9.0, MAINTENANCE, "dispatched")]
    flushed = fault("redis-flush", 0.5, jobs=(JOB,))
    away = fault("postgres-restart", 0.6, 1.6)
    found = recoveries([flushed, away], History(events), BOUNDS, [])

    assert found[0].added == 1.0 + WRITTEN_SECONDS


def test_what_came_after_a_recovery_was_late_is_no_excuse_for_it() -> None:
    events = [SUBMITTED, write(9.0, MAINTENANCE, "dispatched")]
    flushed = fault("redis-flush", 0.5, jobs=(JOB,))
    away = fault("redis-kill", 6.0, 8.0)
    found = recoveries([flushed, away], History(events), BOUNDS, [])

    assert [(one.added, one.late) for one in found if one.kind == "redis-flush"] == [(0.0, True)]


@pytest.mark.parametrize(("seconds", "late"), [(20.0, False), (21.0, True)])
def test_late_is_what_took_longer_than_a_busy_machine_explains(seconds: float, late: bool) -> None:
    """Twice the bound, and three seconds."""
    assert Recovery(kind="x", seconds=seconds, bound=8.5).late is late
