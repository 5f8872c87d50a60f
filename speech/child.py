"""A child process that works for us on few open files: started, heard, and ended in any case."""

from __future__ import annotations

import logging
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import errors

logger = logging.getLogger(__name__)

#: Our modules come last, and only ``speech`` is asked of them.
_PRELUDE: Final = "import sys; sys.path.append(sys.argv[1])\n"
_PROJECT_DIR: Final = Path(__file__).parents[1]
_POLL_SECONDS: Final = 0.1
#: How long the child may overrun its own timer, or stay after its answer, before it is killed.
_GRACE_SECONDS: Final = 5.0
_MAX_ANSWER_BYTES: Final = 16_384


class Ending(NamedTuple):
    """How the child ended, and all that it said."""

    #: Negative: the number of the signal that it died of.
    status: int
    said: bytes


def run(
    program: str,
    argument: str,
    descriptors: Sequence[int],
    *,
    timeout_seconds: float,
    attend: Callable[[bytes], None],
) -> Ending:
    """Run a program to its end, with these open files and nothing else of ours.

    Args:
        program: Python, which may import ``speech``.
        argument: its ``sys.argv[2]``.
        attend: called about ten times a second with all that was said by then; what it raises ends
            the child.

    Raises:
        CapacityError: no process could be started.
    """
    try:
        child = subprocess.Popen(
            [sys.executable, "-I", "-c", _PRELUDE + program, _PROJECT_DIR, argument],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            bufsize=0,
            cwd="/",
            env={},
            pass_fds=descriptors,
            start_new_session=True,  # Ctrl-C is for us
        )
    except OSError as error:
        raise errors.CapacityError("No process could be started.") from error
    said = b""
    try:
        said = _listen(child, timeout_seconds + _GRACE_SECONDS, attend)
        return Ending(child.wait(_GRACE_SECONDS), said)
    except subprocess.TimeoutExpired:
        return Ending(-signal.SIGALRM, said)
    finally:
        _end(child)


def _listen(
    child: subprocess.Popen[bytes], timeout_seconds: float, attend: Callable[[bytes], None]
) -> bytes:
    """Collect what the child says until it is done, attending to our own affairs meanwhile."""
    deadline = time.monotonic() + timeout_seconds
    assert child.stdout is not None  # noqa: S101 - told to the type checker
    said = b""
    with child.stdout, selectors.DefaultSelector() as selector:
        selector.register(child.stdout, selectors.EVENT_READ)
        while time.monotonic() < deadline:
            attend(said)
            if not selector.select(_POLL_SECONDS):
                continue
            chunk = os.read(child.stdout.fileno(), _MAX_ANSWER_BYTES)
            said += chunk
            if not chunk or len(said) > _MAX_ANSWER_BYTES:
                return said
    raise subprocess.TimeoutExpired(child.args, timeout_seconds)


def _end(child: subprocess.Popen[bytes]) -> None:
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            pipe.close()
    child.kill()
    try:
        child.wait(_GRACE_SECONDS)
    except subprocess.TimeoutExpired:  # it hangs in the kernel, as on a dead network file system
        logger.warning("a killed decoder does not end", extra={"pid": child.pid})
