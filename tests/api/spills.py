"""What the logs of tests in this process may not hold, as the service would have written them.

The mask is put over it that is put over the service's own, but knows no secret of the settings:
those may not get so far as to need it.
"""

import logging
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import telemetry
from auth import PREFIX
from redaction import make_mask

#: In the tables of most tests: what is said in a transcript, a prompt or a traceback of theirs.
WORDS = ("one two", "an-operators-own-words")
#: Keys that we made (not what is shown of them), webhooks' secrets, clients' file names.
FORMS = (rf"{PREFIX}\w{{20,}}", r"whsec_\S{16,}", r"\w?[\w-]*\.(?:mp3|wav|webm|ogg|m4a|flac|mp4)\b")
SPILL = re.compile("|".join((*map(re.escape, WORDS), *FORMS)))


class Watcher(logging.Handler):
    """Keeps each line in which something is that should not be."""

    def __init__(self) -> None:
        super().__init__()
        self.lines = 0
        self.spilled: list[str] = []
        self.addFilter(telemetry._Bound())
        self.setFormatter(telemetry._Masking(telemetry._json_formatter(), make_mask(())))

    def filter(self, record: logging.LogRecord) -> bool:
        # the service has these say nothing at INFO; one of them is the tests' own client
        quiet = record.name in telemetry._QUIET and record.levelno < logging.WARNING
        return bool(super().filter(record)) and not quiet

    def emit(self, record: logging.LogRecord) -> None:
        self.lines += 1
        self.spilled += spilled([self.format(record)])


def spilled(lines: Iterable[str]) -> list[str]:
    """What is where it should not be, and the line."""
    return [f"{found[0]!r} in: {line}" for line in lines if (found := SPILL.search(line))]


@contextmanager
def watched() -> Iterator[Watcher]:
    """Have all that is logged looked at, from the level on that the service begins with."""
    root = logging.getLogger()
    before, watcher = root.level, Watcher()
    root.addHandler(watcher)
    root.setLevel(logging.INFO)
    try:
        yield watcher
    finally:
        root.setLevel(before)
        root.removeHandler(watcher)


def judge(watcher: Watcher) -> None:
    """Fail the test whose log this is, if anything was spilt."""
    assert not watcher.spilled, "\n".join(watcher.spilled)
