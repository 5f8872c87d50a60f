"""Each promise that is broken is found, and no other; one that is kept is not."""

import pytest

from soak.recovery import History
from soak.verdict import LOST, TWICE, UNFINISHED, ZOMBIE, Evidence, judge, overtaken
from tests.soak.histories import (
    FIRST,
    JOB,
    PLAIN,
    TAKEN_OVER,
    WEB,
    accepted,
    completed,
    evidence,
    result,
    row,
    status,
    write,
)

WRONG_END = "ended otherwise than it should (I2)"
IGNORED = "cancelled, and went on all the same (I2)"
UNMATCHED = "completed without a result, or the reverse (I3)"
WRONG_TEXT = "with a text that is not its own (I3)"
BURNT = "attempts used up by faults (I4)"
TWICE_STARTED = "started twice under one lease (I5)"

CANCELLED = [*PLAIN[:2], status(3.0, FIRST, "processing", "cancelled")]


def broken(found: Evidence) -> set[str]:
    return {finding.promise for finding in judge(found, History(found.events)).broken}


@pytest.mark.parametrize(
    "found",
    [
        pytest.param(evidence(), id="done at once"),
        pytest.param(
            evidence(TAKEN_OVER, jobs=[row(epoch=2)], results=[result(epoch=2)], starts=(1, 2)),
            id="taken over",
        ),
        pytest.param(
            evidence(CANCELLED, jobs=[row("cancelled")], results=(), cancelled=True),
            id="cancelled",
        ),
        pytest.param(
            evidence(
                [*PLAIN[:2], status(3.0, FIRST, "processing", "failed")],
                jobs=[row("failed", failure_reason="attempts_exhausted", attempt=3)],
                results=(),
                kind="error",
            ),
            id="failed for cause",
        ),
    ],
)
def test_a_job_that_went_well_breaks_nothing(found: Evidence) -> None:
    """Nothing is found where there is nothing to find."""
    assert broken(found) == set()


@pytest.mark.parametrize(
    ("found", "promises"),
    [
        pytest.param(evidence([], jobs=(), results=()), {LOST}, id="no row"),
        pytest.param(
            evidence(PLAIN[:2], jobs=[row("processing")], results=()), {UNFINISHED}, id="stuck"
        ),
        pytest.param(evidence([*PLAIN, write(4.0, FIRST, "result")]), {TWICE}, id="two writes"),
        pytest.param(
            evidence(results=[result(), result()]), {TWICE}, id="two results"
        ),
        pytest.param(
            evidence([*PLAIN, status(4.0, WEB, "completed", "failed")]), {TWICE}, id="two ends"
        ),
        pytest.param(
            evidence([*TAKEN_OVER[:5], write(12.0, FIRST, "window"), *TAKEN_OVER[5:]]),
            {ZOMBIE},
            id="a zombie's window",
        ),
        pytest.param(
            evidence([*TAKEN_OVER[:5], *completed(12.0, FIRST)]), {ZOMBIE}, id="a zombie's result"
        ),
        pytest.param(
            evidence([*PLAIN, write(4.0, FIRST, "window")]), {ZOMBIE}, id="a window after the end"
        ),
        pytest.param(
            evidence(
                [*CANCELLED[:2], status(3.0, FIRST, "processing", "failed")],
                jobs=[row("failed", failure_reason="poison")],
                results=(),
            ),
            {WRONG_END},
            id="an innocent failed",
        ),
        pytest.param(
            evidence(CANCELLED, jobs=[row("cancelled")], results=()),
            {WRONG_END},
            id="cancelled unasked",
        ),
        pytest.param(evidence(cancelled=True), {IGNORED}, id="completed though cancelled"),
        pytest.param(evidence(results=()), {UNMATCHED}, id="no result"),
        pytest.param(evidence(results=[result(epoch=2)]), {UNMATCHED}, id="another lease's result"),
        pytest.param(evidence(results=[result("T2-0 T2-1")]), {WRONG_TEXT}, id="another's text"),
        pytest.param(evidence(jobs=[row(attempt=2)]), {BURNT}, id="an attempt used up"),
        pytest.param(evidence(starts=(1, 1)), {TWICE_STARTED}, id="one lease, two starts"),
    ],
)  # fmt: skip
def test_a_broken_promise_is_found(found: Evidence, promises: set[str]) -> None:
    """The one that is broken, and no other."""
    assert broken(found) == promises


def test_a_high_job_that_waited_while_normal_ones_started_was_overtaken() -> None:
    """Only after a grace, which it needs to be published and a slot to come free."""
    import dataclasses
    import uuid

    high_id = uuid.UUID(int=2)
    urgent = dataclasses.replace(accepted(job_id=high_id).job, priority="high")
    high = dataclasses.replace(accepted(job_id=high_id), job=urgent)
    events = [*PLAIN, dataclasses.replace(PLAIN[1], at=5.0, job_id=high_id)]
    history = History(events)

    assert overtaken([accepted(), high], history, grace_seconds=0.5) == [f"{high_id}: by 1"]
    assert overtaken([accepted(), high], history, grace_seconds=2.0) == []
    assert JOB in history.of
