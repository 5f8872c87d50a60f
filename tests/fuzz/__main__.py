"""``python -m tests.fuzz --seed 1 --seconds 60``: spoil media files, decode them, list findings.

A finding is kept under its seed and number; ``--seed 1 --first 1234 --cases 1`` makes it again. The
exit status is the number of findings, at most 100.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.fuzz.cases import Case, Fuzzer

MAX_STATUS = 100


def main(arguments: list[str]) -> int:
    asked = _asked(arguments)
    with tempfile.TemporaryDirectory() as folder, Fuzzer(asked.seed, Path(folder)) as fuzzer:
        ends: Counter[str] = Counter()
        findings = 0
        worst: dict[str, Case] = {}
        deadline = time.monotonic() + asked.seconds
        number = asked.first
        while number < asked.first + asked.cases and time.monotonic() < deadline:
            case = fuzzer.run(number)
            number += 1
            ends[case.end] += 1
            _compare(worst, case)
            if case.faults:
                findings += 1
                _tell(case, asked)
    print(f"{number - asked.first} files, {findings} findings: {dict(ends.most_common())}")
    for what, case in worst.items():
        life = case.life
        figures = f"{life.peak_bytes >> 20} MB, {life.cpu_seconds:.1f} s"
        print(f"most {what}: case {case.number}, {figures}, {case.end}")
    return min(findings, MAX_STATUS)


def _asked(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=600.0, help="longest time, all in all")
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--cases", type=int, default=10**9)
    parser.add_argument("--keep", type=Path, help="folder for the files of findings")
    return parser.parse_args(arguments)


def _compare(worst: dict[str, Case], case: Case) -> None:
    if "memory" not in worst or case.life.peak_bytes > worst["memory"].life.peak_bytes:
        worst["memory"] = case
    if "time" not in worst or case.life.cpu_seconds > worst["time"].life.cpu_seconds:
        worst["time"] = case


def _tell(case: Case, asked: argparse.Namespace) -> None:
    for fault in case.faults:
        print(f"case {case.number} ({len(case.data)} bytes): {fault}", flush=True)
    if asked.keep:
        asked.keep.mkdir(parents=True, exist_ok=True)
        (asked.keep / f"{asked.seed}-{case.number}").write_bytes(case.data)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
