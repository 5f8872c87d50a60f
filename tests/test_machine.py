"""What may be used is the machine's, or the container's where that is less."""

import os
from pathlib import Path

import psutil
import pytest

import machine

TOTAL = psutil.virtual_memory().total
CORES = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("written", "bytes_"),
    [(None, TOTAL), ("max\n", TOTAL), ("1073741824\n", 2**30), (f"{2**62}\n", TOTAL)],
)
def test_memory_is_the_lesser_limit(written: str | None, bytes_: int, tmp_path: Path) -> None:
    if written is not None:
        (tmp_path / "memory.max").write_text(written)

    assert machine.memory_bytes(tmp_path) == bytes_


@pytest.mark.parametrize(("written", "bytes_"), [("1073741824\n", 2**30), (f"{2**62}\n", TOTAL)])
def test_memory_is_the_lesser_limit_on_an_older_machine(
    written: str, bytes_: int, tmp_path: Path
) -> None:
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory/memory.limit_in_bytes").write_text(written)

    assert machine.memory_bytes(tmp_path) == bytes_


@pytest.mark.parametrize(
    ("written", "cores"),
    [
        (None, CORES),
        ("max 100000\n", CORES),
        ("50000 100000\n", 1),
        ("100000 100000\n", 1),
        ("6400000 100000\n", CORES),
    ],
)
def test_cores_are_the_lesser_limit(written: str | None, cores: int, tmp_path: Path) -> None:
    if written is not None:
        (tmp_path / "cpu.max").write_text(written)

    assert machine.cpu_count(tmp_path) == cores
