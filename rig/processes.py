"""Processes of the service: started, watched, ended."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from config import PROJECT_DIR

#: Bounds waiting for things that take moments on an idle machine.
PATIENCE_SECONDS: Final = 120.0
POLL_SECONDS: Final = 0.02


def wait_for(fact: Callable[[], Any], what: str, *, seconds: float = PATIENCE_SECONDS) -> Any:
    """Wait until ``fact`` gives something true, and return it.

    Raises:
        TimeoutError: It did not in ``seconds``.
    """
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if found := fact():
            return found
        time.sleep(POLL_SECONDS)
    raise TimeoutError(f"never came true: {what}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class Process:
    """One process of the service, and its log."""

    name: str
    popen: subprocess.Popen[bytes]
    log: Path

    @classmethod
    def start(
        cls, name: str, *arguments: str, log: Path, environment: Mapping[str, str]
    ) -> Process:
        """Start Python with these arguments, in the project's folder, out of Ctrl-C's reach."""
        with log.open("wb") as output:
            popen = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=PROJECT_DIR,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return cls(name, popen, log)

    @property
    def pid(self) -> int:
        return self.popen.pid

    def signal(self, number: int) -> None:
        os.kill(self.popen.pid, number)

    def kill(self) -> None:
        self.popen.kill()
        self.popen.wait()

    def wait(self, seconds: float = PATIENCE_SECONDS) -> int:
        return self.popen.wait(seconds)

    def said(self, sentence: str) -> bool:
        return sentence in self.log.read_text("utf-8")
