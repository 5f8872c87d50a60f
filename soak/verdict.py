"""What came of it all: the invariants, and every job that breaks one."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from soak.clients import Accepted
from soak.observer import FINAL, Event, JobRow, ResultRow
from soak.plan import Kind
from soak.recovery import History

#: How each kind of job ends, with the reason of one that fails; unless its client cancels it.
ENDS: Final[dict[Kind, tuple[str, str | None]]] = {
    "null": ("completed", None),
    "long": ("completed", None),
    "demo": ("completed", None),
    "error-once": ("completed", None),
    "bad-input": ("failed", "not_audio"),
    "error": ("failed", "attempts_exhausted"),
    "poison": ("failed", "poison"),
}
EXAMPLES: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Everything that was noted by those who do not believe the service."""

    accepted: Sequence[Accepted]
    cancelled: frozenset[uuid.UUID]
    perhaps_cancelled: frozenset[uuid.UUID]
    jobs: Mapping[uuid.UUID, JobRow]
    results: Mapping[uuid.UUID, Sequence[ResultRow]]
    events: Sequence[Event]
    #: What engines and decoders noted.
    ledger: Sequence[Mapping[str, Any]]
    #: What is said in the recordings.
    samples: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Finding:
    """How often a promise was broken, and the first of whom it was broken to."""

    promise: str
    count: int
    examples: tuple[str, ...] = ()


@dataclass
class Verdict:
    """Every promise, kept or broken."""

    findings: list[Finding] = field(default_factory=list)

    def add(self, promise: str, broken: Iterable[object]) -> None:
        found = [str(one) for one in broken]
        self.findings.append(Finding(promise, len(found), tuple(found[:EXAMPLES])))

    @property
    def broken(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.count]

    def count(self, promise: str) -> int:
        return next(finding.count for finding in self.findings if finding.promise == promise)


#: The names of the promises that the first lines of a report tell.
LOST: Final = "accepted and lost (I1)"
UNASKED: Final = "made once more for a client that sent it again (I1)"
UNFINISHED: Final = "without an end (I2)"
UNDRAINED: Final = "without an end within the drain (I2)"
TWICE: Final = "ended twice, or with two results (I2, I3)"
LATE: Final = "recoveries later than promised"
OVERTAKEN: Final = "high jobs overtaken by normal ones"
ZOMBIE: Final = "written by a worker whose lease was over (I3)"


def judge(evidence: Evidence, history: History) -> Verdict:
    """Check I1 to I5 of every job; I6 and what leaked need processes to look at."""
    verdict = Verdict()
    known = {accepted.job_id: accepted for accepted in evidence.accepted}
    verdict.add(LOST, (job_id for job_id in known if job_id not in evidence.jobs))
    unfinished = [row.id for row in evidence.jobs.values() if row.status not in FINAL]
    verdict.add(UNFINISHED, (job_id for job_id in unfinished if job_id in known))
    verdict.add(UNASKED, (job_id for job_id in evidence.jobs if job_id not in known))
    verdict.add(TWICE, _written_twice(evidence, history))
    verdict.add(ZOMBIE, _zombies(history))
    verdict.add("ended otherwise than it should (I2)", _wrong_ends(evidence))
    verdict.add("cancelled, and went on all the same (I2)", _ignored_cancels(evidence))
    verdict.add("completed without a result, or the reverse (I3)", _unmatched(evidence))
    verdict.add("with a text that is not its own (I3)", _wrong_texts(evidence))
    verdict.add("attempts used up by faults (I4)", _burnt(evidence, known))
    verdict.add("started twice under one lease (I5)", _double_starts(evidence))
    return verdict


def _written_twice(evidence: Evidence, history: History) -> Iterator[uuid.UUID]:
    for job_id, events in history.of.items():
        ends = sum(event.after in FINAL for event in events if event.what == "status")
        left = any(event.before in FINAL for event in events if event.what == "status")
        written = sum(event.what == "result" for event in events)
        if ends > 1 or left or written > 1 or len(evidence.results.get(job_id, ())) > 1:
            yield job_id


def _zombies(history: History) -> Iterator[str]:
    """Writes by workers that did not hold the job at that moment."""
    for job_id, events in history.of.items():
        holder, holds = "", False
        for event in events:
            if event.what == "status" and event.after == "processing":
                holder, holds = event.writer, True
            elif event.writer.startswith("worker") and _is_zombie(event, holder, holds=holds):
                yield f"{job_id} {event.what} by {event.writer}, held by {holder}"
            if event.what == "status":
                holds = event.after == "processing"


def _is_zombie(event: Event, holder: str, *, holds: bool) -> bool:
    if event.what == "dispatched":
        return False  # a worker that stops returns a message for anybody
    # the result is written in one statement with the status, before or after it
    return event.writer != holder or not (holds or event.what == "result")


def _wrong_ends(evidence: Evidence) -> Iterator[str]:
    for accepted in evidence.accepted:
        row = evidence.jobs.get(accepted.job_id)
        if row is None or row.status not in FINAL:
            continue
        allowed = {ENDS[accepted.job.kind]}
        if row.id in evidence.cancelled | evidence.perhaps_cancelled:
            allowed.add(("cancelled", None))
        if (row.status, row.failure_reason) not in allowed:
            yield f"{row.id} {accepted.job.kind}: {row.status} {row.failure_reason or ''}"


def _ignored_cancels(evidence: Evidence) -> Iterator[uuid.UUID]:
    for job_id in evidence.cancelled:
        row = evidence.jobs.get(job_id)
        if row is not None and (row.status == "completed" or evidence.results.get(job_id)):
            yield job_id


def _unmatched(evidence: Evidence) -> Iterator[uuid.UUID]:
    for row in evidence.jobs.values():
        results = evidence.results.get(row.id, ())
        matched = (row.status == "completed") == bool(results)
        if not matched or any(result.epoch != row.epoch for result in results):
            yield row.id


def _wrong_texts(evidence: Evidence) -> Iterator[uuid.UUID]:
    for accepted in evidence.accepted:
        for result in evidence.results.get(accepted.job_id, ()):
            job = accepted.job
            meant = job.script.text if job.script else evidence.samples.get(job.sample or "", "")
            if result.text.split() != meant.split():
                yield accepted.job_id


def _burnt(evidence: Evidence, known: Mapping[uuid.UUID, Accepted]) -> Iterator[str]:
    for row in evidence.jobs.values():
        accepted = known.get(row.id)
        allowed = row.max_attempts
        if accepted is not None and accepted.job.kind != "error":
            allowed = 2 if accepted.job.kind == "error-once" else 1
        if row.attempt > allowed:
            yield f"{row.id}: {row.attempt}"


def _double_starts(evidence: Evidence) -> Iterator[str]:
    starts = Counter(
        (noted["job"], noted["epoch"]) for noted in evidence.ledger if noted["what"] == "attempt"
    )
    for (job_id, epoch), times in starts.items():
        if times > 1:
            yield f"{job_id} epoch {epoch}: {times} times"


def overtaken(accepted: Sequence[Accepted], history: History, *, grace_seconds: float) -> list[str]:
    """Jobs of priority high that waited for longer than the grace while normal ones started.

    For jobs that no fault met.
    """
    starts = {
        one.job_id: [lease.began for lease in history.leases if lease.job_id == one.job_id]
        for one in accepted
    }
    normal = sorted(
        began for one in accepted if one.job.priority == "normal" for began in starts[one.job_id]
    )
    found = []
    for one in accepted:
        if one.job.priority != "high" or not starts[one.job_id]:
            continue
        first = min(starts[one.job_id])
        before = sum(one.at + grace_seconds < began < first for began in normal)
        if before:
            found.append(f"{one.job_id}: by {before}")
    return found
