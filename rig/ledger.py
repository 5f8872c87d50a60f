"""What really happened, told by those who did it, where the service under test cannot rewrite it.

A file of JSON lines: any number of processes append to it, and one that is killed leaves whole
lines only.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class Ledger:
    """A file to note events in; one without a path forgets them."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._fd = -1
        if path is not None:
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def note(self, what: str, **facts: object) -> None:
        if self._fd < 0:
            return
        event = {"what": what, "at": time.time(), "pid": os.getpid(), **facts}
        # one write, so that no other process's line comes in between
        os.write(self._fd, f"{json.dumps(event)}\n".encode())

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def events(path: Path) -> Iterator[dict[str, Any]]:
    """All that was noted, in the order of the writes."""
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)
