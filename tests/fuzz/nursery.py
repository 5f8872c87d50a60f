"""Decode children by the dozen a second: forked where the real ones are started, else the same.

Each runs ``decoder.main`` on one file, in the sandbox, within the limits of a real one; and what it
says is judged by ``speech.audio``, as a worker would.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import selectors
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from speech import decoder
from speech.audio import DecodeLimits
from speech.transcript import WHOLE

_SOURCE, _TARGET = 3, 4
_MAX_SAID_BYTES = 16_384


@dataclass(frozen=True, kw_only=True)
class Life:
    """What became of a child."""

    #: As ``subprocess`` has it: negative for a signal; None for one that had to be killed.
    status: int | None
    said: bytes
    peak_bytes: int
    cpu_seconds: float


def raise_child(upload: Path, target: Path, limits: DecodeLimits, patience_seconds: float) -> Life:
    """Have a child decode ``upload`` into ``target``, and wait for its end."""
    with _pipe() as (lifeline, _ours), _pipe() as (mouth_out, mouth_in):
        pid = os.fork()
        if pid == 0:
            _live(upload, target, lifeline, mouth_in, limits)
        os.close(mouth_in)
        os.close(lifeline)
        said = _listen(mouth_out, patience_seconds)
        in_time = said is not None
        if not in_time:
            os.kill(pid, signal.SIGKILL)
        _, status, usage = os.wait4(pid, 0)
    return Life(
        status=os.waitstatus_to_exitcode(status) if in_time else None,
        said=said or b"",
        peak_bytes=usage.ru_maxrss * 1024,
        cpu_seconds=usage.ru_utime + usage.ru_stime,
    )


@contextlib.contextmanager
def _pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    try:
        yield ends
    finally:
        for end in ends:
            with contextlib.suppress(OSError):  # closed by us, where the child has it
                os.close(end)


def _live(upload: Path, target: Path, lifeline: int, mouth: int, limits: DecodeLimits) -> NoReturn:
    try:
        source = os.open(upload, os.O_RDONLY)
        samples = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        for number, descriptor in enumerate((lifeline, mouth, mouth, source, samples), 100):
            os.dup2(descriptor, number)
        for number in range(5):
            os.dup2(100 + number, number, inheritable=False)
        os.closerange(5, 1024)
        os.chdir("/")
        asked = {"source": _SOURCE, "target": _TARGET, "limits": dataclasses.asdict(limits)}
        asked["part"] = dataclasses.asdict(WHOLE)
        decoder.main(json.dumps(asked))
    finally:
        os._exit(99)


def _listen(mouth: int, patience_seconds: float) -> bytes | None:
    """All that is said, or None if that takes too long."""
    deadline = time.monotonic() + patience_seconds
    said = b""
    with selectors.DefaultSelector() as selector:
        selector.register(mouth, selectors.EVENT_READ)
        while (left := deadline - time.monotonic()) > 0:
            if not selector.select(left):
                continue
            chunk = os.read(mouth, _MAX_SAID_BYTES)
            if not chunk:
                return said
            said = (said + chunk)[-_MAX_SAID_BYTES:]
    return None
