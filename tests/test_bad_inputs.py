"""The table of bad inputs: what counts as answered as promised."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.recordings import PROJECT_DIR

TESTS = """
import pytest

@pytest.mark.security("json", "a number")
@pytest.mark.parametrize("number", range({many}))
def test_of_many(number):
    if number == 0:
        {last}
"""


@pytest.mark.parametrize(
    ("many", "last", "status", "row"),
    [
        (200, "pass", 0, ["json", "200", "200"]),
        (200, "assert number", 1, ["json", "200", "199"]),
        (200, "pytest.skip()", 1, ["json", "200", "199"]),
        (20, "pass", 1, ["json", "20", "20"]),
    ],
    ids=["all passed", "one failed", "one was skipped", "too few"],
)
@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_run_is_good_when_all_of_enough_passed(
    tmp_path: Path, workers: str, many: int, last: str, status: int, row: list[str]
) -> None:
    (tmp_path / "test_it.py").write_text(TESTS.format(many=many, last=last))
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = security(kind, what)\n")
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "tests.bad_inputs", "-n", workers, tmp_path],
        cwd=PROJECT_DIR,
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )

    assert row in [line.split() for line in run.stdout.splitlines()]
    assert run.returncode == status
