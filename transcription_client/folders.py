"""Which files of watched folders are due, and in which order: pure rules, as version 2 had them."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Final

#: What is looked at: endings of sound and video that the service reads.
# fmt: off
SUFFIXES: Final = frozenset({
    ".3gp", ".aac", ".ac3", ".aif", ".aiff", ".amr", ".au", ".avi", ".caf", ".flac", ".flv",
    ".m4a", ".m4b", ".m4v", ".mka", ".mkv", ".mov", ".mp2", ".mp3", ".mp4", ".mpeg", ".mpg",
    ".oga", ".ogg", ".opus", ".ts", ".w64", ".wav", ".webm", ".wma", ".wmv",
})
# fmt: on
#: In a file's name: it goes first.
URGENT: Final = "PRIORITY"


@dataclass(frozen=True, slots=True)
class Found:
    """A file as it was when it was last looked at."""

    path: Path
    #: The watched folder that it is in.
    folder: Path
    size_bytes: int
    modified_ns: int

    @property
    def urgent(self) -> bool:
        return URGENT in self.path.name.upper()

    @property
    def mark(self) -> str:
        """What says that it is the same file, unchanged."""
        return f"{self.size_bytes} {self.modified_ns}"


def find(folders: Iterable[Path], *, deep: bool) -> Iterator[Found]:
    """Look at all recordings; a folder or file that cannot be looked at is not there.

    Args:
        deep: Folders in folders, too.
    """
    for folder in folders:
        for place, inner, names in os.walk(folder):
            # what begins with a dot is somebody's half of a file
            inner[:] = sorted(name for name in inner if deep and not name.startswith("."))
            for name in sorted(names):
                path = Path(place, name)
                if name.startswith(".") or path.suffix.lower() not in SUFFIXES:
                    continue
                found = _look(path, folder)
                if found is not None:
                    yield found


def _look(path: Path, folder: Path) -> Found | None:
    try:
        read = path.stat()
    except OSError:
        return None
    if not stat.S_ISREG(read.st_mode) or read.st_size == 0:
        return None
    return Found(path, folder, read.st_size, read.st_mtime_ns)


def in_order(files: Iterable[Found], *, newest_first: bool) -> list[Found]:
    """Those with PRIORITY in their names first, then the newest, or the oldest."""
    sign = -1 if newest_first else 1
    return sorted(files, key=lambda f: (not f.urgent, sign * f.modified_ns, str(f.path)))


def is_old(file: Found, before: date | None) -> bool:
    """Whether it was last changed before a day, in this machine's time."""
    if before is None:
        return False
    return datetime.fromtimestamp(file.modified_ns / 1e9).date() < before  # noqa: DTZ006


class Stability:
    """Tells files that are still written from those that are whole."""

    def __init__(self, seconds: float) -> None:
        """A file is whole once it has stayed the same for so long."""
        self._seconds = seconds
        self._since: dict[Path, tuple[str, float]] = {}

    def whole(self, files: Iterable[Found], now: float) -> list[Found]:
        """Those of the files that are there now which are whole.

        Args:
            now: Seconds by a clock that is never set; only their differences count.
        """
        seen: dict[Path, tuple[str, float]] = {}
        whole = []
        for file in files:
            mark, since = self._since.get(file.path, ("", now))
            if mark != file.mark:
                since = now
            seen[file.path] = (file.mark, since)
            if now - since >= self._seconds:
                whole.append(file)
        self._since = seen
        return whole
