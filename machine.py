"""What this process may use of the machine: in a container that is less than there is.

Source: Linux, Documentation/admin-guide/cgroup-v2.rst, and cgroup-v1/memory.rst, which older
machines and container engines still have.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Final

import psutil

CGROUP: Final = Path("/sys/fs/cgroup")
UNLIMITED: Final = "max"


def memory_bytes(cgroup: Path = CGROUP) -> int:
    """The machine's memory, or the container's share of it."""
    total = int(psutil.virtual_memory().total)
    limit = _read(cgroup / "memory.max") or _read(cgroup / "memory/memory.limit_in_bytes")
    return min(total, int(limit[0])) if limit else total


def cpu_count(cgroup: Path = CGROUP) -> int:
    """How many cores there are to use, at least 1."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux alone has it
    count = len(affinity(0)) if affinity is not None else os.cpu_count() or 1
    quota = _read(cgroup / "cpu.max")
    if quota:
        count = min(count, math.ceil(int(quota[0]) / int(quota[1])))
    return max(1, count)


def _read(file: Path) -> list[str]:
    """The fields of a limit; empty where there is none."""
    try:
        fields = file.read_text("ascii").split()
    except OSError:
        return []
    return [] if fields[:1] == [UNLIMITED] else fields
