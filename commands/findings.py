"""What ``doctor`` finds, and how it looks: every check by itself, and none for ever."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from config import Settings
from database import explained
from errors import ServiceError

#: A check that takes longer has found out by that what it looks for.
PATIENCE_SECONDS: Final = 10.0


class Level(StrEnum):
    """How a finding is."""

    OK = "ok"
    SKIP = "skip"  #: Not to be told here: see the message.
    WARN = "warn"  #: It works, but not as it should, or not for long.
    FAIL = "fail"  #: It does not work.


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of what was found."""

    level: Level
    message: str
    #: One sentence with what to do; empty where nothing is wrong.
    remedy: str = ""


def ok(message: str) -> Finding:
    return Finding(Level.OK, message)


def skip(message: str) -> Finding:
    return Finding(Level.SKIP, message)


def warn(message: str, remedy: str) -> Finding:
    return Finding(Level.WARN, message, remedy)


def fail(message: str, remedy: str) -> Finding:
    return Finding(Level.FAIL, message, remedy)


Look = Callable[[Settings], Iterator[Finding]]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing to look at."""

    name: str
    look: Look
    #: What to do when looking itself fails.
    remedy: str
    patience_seconds: float = PATIENCE_SECONDS


class Examination:
    """One check under way, in a thread of its own: what hangs holds up nobody else."""

    def __init__(self, check: Check, settings: Settings) -> None:
        self.check = check
        self._settings = settings
        self._found: list[Finding] = []
        self._began = time.monotonic()
        self._thread = threading.Thread(target=self._run, name=check.name, daemon=True)
        self._thread.start()

    def findings(self) -> list[Finding]:
        """Wait for what is found, as long as the check may take."""
        spent = time.monotonic() - self._began
        self._thread.join(max(0.0, self.check.patience_seconds - spent))
        found = list(self._found)
        if self._thread.is_alive():
            seconds = self.check.patience_seconds
            found.append(fail(f"No answer within {seconds:g} s.", self.check.remedy))
        return found

    def _run(self) -> None:
        try:
            for finding in self.check.look(self._settings):
                self._found.append(finding)
        except ServiceError as error:
            self._found.append(fail(explained(error), self.check.remedy))
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what was found
            told = " ".join(str(error).split())
            self._found.append(fail(f"{type(error).__name__}: {told}", self.check.remedy))


def examine(checks: Sequence[Check], settings: Settings) -> Iterator[tuple[str, Finding]]:
    """Look at everything at once, and tell it in order."""
    for examination in [Examination(check, settings) for check in checks]:
        for finding in examination.findings():
            yield examination.check.name, finding
