"""What a soak tells: for people, and for programs."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from soak.recovery import ALLOWANCE, HICCUP_SECONDS, Recovery
from soak.run import Outcome


def lines(outcome: Outcome) -> Iterator[str]:
    """The report, for people."""
    yield "== jobs"
    for name, value in figures(outcome).items():
        yield f"{name:<52}{value}"
    yield "== promises broken"
    for finding in outcome.verdict.findings:
        yield f"{finding.promise:<52}{finding.count}"
        for example in finding.examples:
            yield f"    {example}"
    yield "== faults, and the slowest recovery in seconds"
    yield f"   alone / with others at the time; late is what took {ALLOWANCE:g} x bound"
    yield f"   + {HICCUP_SECONDS:g} s or longer, what others add to the bound included"
    yield f"{'':<22}{'times':>6}{'vain':>6}{'met':>6}{'alone':>8}{'bound':>8}{'others':>8}{'+':>7}"
    yield from recovery_rows(outcome)
    yield f"== promises broken: {len(outcome.verdict.broken)}"


def figures(outcome: Outcome) -> dict[str, Any]:
    evidence = outcome.evidence
    ends = Counter(
        row.status if row.status != "failed" else f"failed: {row.failure_reason}"
        for row in evidence.jobs.values()
    )
    run_windows = sum(noted["what"] == "window" for noted in evidence.ledger)
    needed = len({(n["tag"], n["start"]) for n in evidence.ledger if n["what"] == "window"})
    starts = _start_seconds(outcome)
    times = f"{outcome.load_seconds:.0f}, {outcome.drain_seconds:.1f}"
    return {
        "seconds of load, then of drain": times,
        "jobs accepted": len(evidence.accepted),
        **{f"  {end}": count for end, count in sorted(ends.items())},
        "processes started": len(outcome.lives),
        "faults": sum(not fault.in_vain for fault in outcome.faults),
        "leases": len(outcome.history.leases),
        "windows run / needed": f"{run_windows} / {needed}",
        "answers by status (0: none)": dict(sorted(outcome.answers.items())),
        "submit p50, p99 in ms": _percentiles([1e3 * a.seconds for a in evidence.accepted]),
        "from 202 to the first start p50, p99 in ms": _percentiles([1e3 * s for s in starts]),
    }


def _start_seconds(outcome: Outcome) -> list[float]:
    first: dict[Any, float] = {}
    for lease in outcome.history.leases:
        first.setdefault(lease.job_id, lease.began)
    accepted = {one.job_id: one.at for one in outcome.evidence.accepted}
    return [max(0.0, began - accepted[job]) for job, began in first.items() if job in accepted]


def _percentiles(values: Sequence[float]) -> str:
    if len(values) < 2:
        return "-"
    cuts = statistics.quantiles(values, n=100)
    return f"{cuts[49]:.0f}, {cuts[98]:.0f}"


def slowest(outcome: Outcome) -> dict[str, dict[str, Any]]:
    """Of each kind of fault: how often, and its slowest recoveries beside their bounds."""
    met: dict[str, list[Recovery]] = defaultdict(list)
    for one in outcome.recoveries:
        met[one.kind].append(one)
    found = {}
    for kind in sorted({fault.kind for fault in outcome.faults}):
        times = [fault for fault in outcome.faults if fault.kind == kind]
        alone = [one for one in met[kind] if not one.added]
        crowded = [one for one in met[kind] if one.added]
        worst = max(alone, key=_share, default=None)
        worst_crowded = max(crowded, key=_share, default=None)
        found[kind] = {
            "times": sum(not fault.in_vain for fault in times),
            "in_vain": sum(bool(fault.in_vain) for fault in times),
            "met": len(met[kind]),
            "alone_seconds": worst and worst.seconds,
            "bound_seconds": worst and worst.bound,
            "crowded_seconds": worst_crowded and worst_crowded.seconds,
            "crowded_bound_seconds": worst_crowded
            and worst_crowded.bound
            and worst_crowded.bound + worst_crowded.added,
        }
    return found


def _share(one: Recovery) -> float:
    return one.seconds / (one.bound + one.added) if one.bound else one.seconds


def recovery_rows(outcome: Outcome) -> Iterator[str]:
    for kind, row in slowest(outcome).items():
        yield (
            f"{kind:<22}{row['times']:>6}{row['in_vain']:>6}{row['met']:>6}"
            f"{_seconds(row['alone_seconds']):>8}{_seconds(row['bound_seconds']):>8}"
            f"{_seconds(row['crowded_seconds']):>8}{_seconds(row['crowded_bound_seconds']):>7}"
        )


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def as_json(outcome: Outcome) -> dict[str, Any]:
    """The report, for programs."""
    options = outcome.options
    return {
        "configuration": options.configuration,
        "seed": options.seed,
        "jobs": options.jobs,
        "figures": figures(outcome),
        "broken": {finding.promise: finding.count for finding in outcome.verdict.findings},
        "examples": {f.promise: list(f.examples) for f in outcome.verdict.broken},
        "faults": slowest(outcome),
        "injected": [
            {"kind": fault.kind, "began": fault.began, "seconds": fault.ended - fault.began,
             "lives": list(fault.lives), "in_vain": fault.in_vain}
            for fault in outcome.faults
        ],
    }  # fmt: skip
