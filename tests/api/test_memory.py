"""Freed memory is used again, not given back and fetched anew for every piece of a body."""

import platform
import subprocess
import sys

import pytest

#: Prints how many pages were fetched for pieces of 200 kB, as bodies arrive in.
PIECES = """
import resource, sys
from api.memory import keep_freed_memory
if sys.argv[1] == "keeping":
    keep_freed_memory()
def pieces():
    for _ in range(200):
        piece = bytearray(200_000)
        copy = bytes(piece)
        step = b"".join([copy] * 5)
pieces()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
pieces()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def pages_fetched(how: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", PIECES, how], check=True, capture_output=True, text=True
    )
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
def test_pieces_of_a_body_come_from_memory_that_is_there() -> None:
    assert pages_fetched("keeping") < pages_fetched("as it is") / 10
