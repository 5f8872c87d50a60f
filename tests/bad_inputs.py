"""Prints, after a run, how many bad inputs were tried and how many were answered as promised.

A bad input is a case that has the mark ``security(kind, what)``. The run fails when one of them did
not pass: a case that was skipped was not tried, and so is no proof.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Final

import pytest

#: There are never to be fewer in a whole run.
AT_LEAST: Final = 150
PROPERTY: Final = "bad input"

_missed = pytest.StashKey[str]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for mark in item.iter_markers("security"):
            item.user_properties.append((PROPERTY, mark.args))


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None:
        return  # a worker of xdist, whose reports the first process has
    tried, as_promised = _counts(reporter)
    missed = _complaint(tried, as_promised)
    if missed and session.exitstatus == pytest.ExitCode.OK:
        session.config.stash[_missed] = missed
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    tried, as_promised = _counts(terminalreporter)
    terminalreporter.section("bad inputs, and how many were answered as promised")
    for kind in sorted(tried):
        terminalreporter.write_line(f"{kind:<16}{tried[kind]:>6}{as_promised[kind]:>6}")
    terminalreporter.write_line(f"{'all':<16}{tried.total():>6}{as_promised.total():>6}")
    if missed := config.stash.get(_missed, None):
        terminalreporter.write_line(missed, red=True)


def _counts(reporter: pytest.TerminalReporter) -> tuple[Counter[str], Counter[str]]:
    """Count the cases of each kind, and those that passed."""
    outcomes = dict(_outcomes(reporter))
    tried = Counter(kind for kind, _ in outcomes)
    return tried, Counter(kind for (kind, _), passed in outcomes.items() if passed)


def _outcomes(reporter: pytest.TerminalReporter) -> Iterator[tuple[tuple[str, str], bool]]:
    # of a case that passed and could not be cleared away there are two reports: the worse is last
    for outcome in ("passed", "skipped", "failed", "error"):
        for report in reporter.stats.get(outcome, ()):
            for name, told in getattr(report, "user_properties", ()):
                if name == PROPERTY:
                    yield (told[0], report.nodeid), outcome == "passed"


def _complaint(tried: Counter[str], as_promised: Counter[str]) -> str | None:
    if tried != as_promised:
        return "Not every bad input was tried and answered as promised."
    if tried.total() < AT_LEAST:
        return f"There should be {AT_LEAST} bad inputs or more."
    return None
