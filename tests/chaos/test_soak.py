"""Jobs and faults at random: nothing is lost, and what loses something is found out."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from soak.verdict import TWICE, UNFINISHED, ZOMBIE
from tests.recordings import PROJECT_DIR

pytestmark = [pytest.mark.chaos, pytest.mark.model, pytest.mark.timeout(900)]


#: In whose first minute every part of the service is killed, and Redis forgets.
SEED = "205"


def soak(folder: Path, *arguments: str) -> dict[str, Any]:
    """Run one; returns its report."""
    file = folder / "report.json"
    command = [sys.executable, "-m", "soak", *arguments, "--report", str(file)]
    done = subprocess.run(command, cwd=PROJECT_DIR, capture_output=True, text=True)
    print(done.stdout, done.stderr)
    report: dict[str, Any] = json.loads(file.read_text("utf-8"))
    return report


def test_three_hundred_jobs_under_random_faults_break_no_promise(tmp_path: Path) -> None:
    report = soak(tmp_path, "--jobs", "300", "--seed", SEED, "--minutes", "1")

    assert len(report["injected"]) > 5
    assert {promise: count for promise, count in report["broken"].items() if count} == {}


def test_without_the_fence_a_zombies_writes_are_noticed(tmp_path: Path) -> None:
    report = soak(
        tmp_path, "--configuration", "no-fence", "--jobs", "150", "--seed", "7", "--minutes", "0.5",
        "--faults", "worker-duel",
    )  # fmt: skip

    assert report["broken"][ZOMBIE] > 0


def test_the_usual_recipe_is_caught_losing_and_doubling(tmp_path: Path) -> None:
    report = soak(
        tmp_path, "--configuration", "late-ack", "--jobs", "150", "--seed", "7", "--minutes", "0.5",
        "--faults", "worker-duel,redis-wipe", "--drain", "45",
    )  # fmt: skip

    assert report["broken"][UNFINISHED] > 0
    assert report["broken"][TWICE] > 0
