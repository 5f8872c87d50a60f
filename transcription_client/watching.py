"""``watch``: sends what comes into folders, and writes transcripts beside each other in another.

What is under way is noted in the folder of transcripts, so that a watch that is started again asks
for the jobs that the last one left, and sends nothing twice. A file is done when its transcript is
there, or its error file: whoever deletes that has it tried again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Final

from transcription_client import following
from transcription_client.display import FINAL, Display
from transcription_client.folders import Found, Stability, find, in_order, is_old
from transcription_client.sending import Recording, Sender
from transcription_client.server import Job, Server
from transcription_client.transcribing import COMPLETED, why
from transcription_client.troubles import (
    JobTrouble,
    NotAllowed,
    Trouble,
    Unreachable,
    WrongUse,
)

JOURNAL: Final = ".transcription-watch.db"
#: How long between two questions after jobs that are under way.
ASK_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What is watched, and what becomes of it."""

    folders: Sequence[Path]
    output: Path
    fields: Mapping[str, str]
    formats: Sequence[str] = ("txt",)
    deep: bool = False
    newest_first: bool = True
    #: Files that were last changed before this day are left alone.
    since: date | None = None
    scan_seconds: float = 30.0
    #: How long a file has to stay the same.
    stable_seconds: float = 60.0
    #: Sent and not yet done, at most: what comes later may be more urgent.
    at_once: int = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What is known of a file that was sent."""

    #: See ``Found.mark``.
    mark: str
    #: What its transcript is called, without its ending.
    name: str
    #: The job that is under way.
    job: str | None
    #: The job that ended last.
    last: str | None


class Journal:
    """What was sent, by the file's path; kept in the folder of transcripts, and by one watch."""

    def __init__(self, output: Path) -> None:
        """Read what an earlier watch noted.

        Raises:
            WrongUse: It cannot be read or written, or another watch has it.
        """
        self._path = output / JOURNAL
        try:
            output.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(self._path, timeout=0, isolation_level=None)
        except (OSError, sqlite3.Error) as error:
            raise WrongUse(f"{self._path}: {error}.") from None
        with self._told():
            # held until this process ends, however it does
            self._database.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._database.execute("BEGIN EXCLUSIVE")
            self._database.execute(
                "CREATE TABLE IF NOT EXISTS files"
                " (path BLOB PRIMARY KEY, mark TEXT, name BLOB, job TEXT, last TEXT)"
            )
            self._database.execute("COMMIT")
            rows = self._database.execute("SELECT path, mark, name, job, last FROM files")
            self.entries = {
                os.fsdecode(path): Entry(mark=mark, name=os.fsdecode(name), job=job, last=last)
                for path, mark, name, job, last in rows
            }

    def note(self, path: str, entry: Entry) -> None:
        """Keep an entry.

        Raises:
            WrongUse: It cannot be written.
        """
        self.entries[path] = entry
        with self._told():
            self._database.execute(
                "REPLACE INTO files (path, mark, name, job, last) VALUES (?, ?, ?, ?, ?)",
                (os.fsencode(path), entry.mark, os.fsencode(entry.name), entry.job, entry.last),
            )

    def close(self) -> None:
        self._database.close()

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_BUSY:
                raise WrongUse(f"Another watch writes into {self._path.parent}.") from None
            raise WrongUse(f"{self._path}: {error}.") from None
        except sqlite3.DatabaseError as error:
            raise WrongUse(f"{self._path} cannot be read ({error}): delete it.") from None


class Watch:
    """One watch over some folders."""

    def __init__(
        self,
        server: Server,
        rules: Rules,
        display: Display,
        *,
        sender: Sender | None = None,
        pause: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._server = server
        self._rules = rules
        self._display = display
        self._sender = sender or Sender(server)
        self._pause = pause
        self._clock = clock
        self._journal = Journal(rules.output)
        self._stability = Stability(rules.stable_seconds)
        self._may_use_high: bool | None = None
        #: Files of this watch that failed.
        self.failed = 0

    def run(self, *, once: bool) -> None:
        """Watch until stopped; or ``once``, until all that is there now is done.

        Raises:
            NotAllowed: The key is not taken.
            WrongUse: What was noted cannot be read or written.
        """
        due: list[Found] = []
        unsure = True
        next_scan = self._clock()
        while True:
            try:
                if self._clock() >= next_scan:
                    due, unsure = self._scan()
                    next_scan = self._clock() + self._rules.scan_seconds
                self._send(due)
                self._ask()
            except Unreachable as trouble:
                self._display.say(f"{trouble.message} The watch goes on.")
            running = self._running()
            if once and not due and not unsure and not running:
                return
            left = max(0.0, next_scan - self._clock())
            self._pause(min(ASK_SECONDS, left) if running or due else left)

    def close(self) -> None:
        self._journal.close()

    def _running(self) -> dict[str, str]:
        """The jobs that are under way, by the files' paths."""
        entries = self._journal.entries.items()
        return {path: entry.job for path, entry in entries if entry.job is not None}

    def _scan(self) -> tuple[list[Found], bool]:
        """The files that are due, in their order; and whether others may still be."""
        rules = self._rules
        there = [
            file
            for file in find(rules.folders, deep=rules.deep)
            if not is_old(file, rules.since) and not self._is_done(file)
        ]
        whole = self._stability.whole(there, self._clock())
        return in_order(whole, newest_first=rules.newest_first), len(whole) < len(there)

    def _is_done(self, file: Found) -> bool:
        entry = self._journal.entries.get(str(file.path))
        if entry is None:
            return self._is_written(self._name_of(file))
        if entry.mark != file.mark:
            return False
        return entry.job is not None or self._is_written(entry.name)

    def _is_written(self, name: str) -> bool:
        paths = [self._rules.output / f"{name}.{form}" for form in self._rules.formats]
        return all(path.exists() for path in paths) or self._error_file(name).exists()

    def _error_file(self, name: str) -> Path:
        return self._rules.output / f"{name}_error.txt"

    def _name_of(self, file: Found) -> str:
        """What its transcript is called, without its ending."""
        entry = self._journal.entries.get(str(file.path))
        if entry is not None:
            return entry.name
        inside = file.path.relative_to(file.folder)
        taken = {entry.name for entry in self._journal.entries.values()}
        for candidate in (inside.with_suffix(""), inside):
            if str(candidate) not in taken:
                return str(candidate)
        known = hashlib.sha256(str(file.path).encode()).hexdigest()
        return f"{inside} {known[:8]}"

    def _send(self, due: list[Found]) -> None:
        """Send as many as there is room for, and take them off the list."""
        while due and len(self._running()) < self._rules.at_once:
            self._submit(due[0])
            due.pop(0)

    def _submit(self, file: Found) -> None:
        name = self._name_of(file)
        try:
            recording = Recording.of(file.path)
            if f"{recording.size_bytes} {recording.modified_ns}" != file.mark:
                return  # it is still written: the next scan sees to it
            job_id = self._sender.send(
                recording,
                {**self._rules.fields, **self._priority(file)},
                lambda sent, total: self._display.sending(file.path.name, sent, total),
                name=self._submission(file),
            )
        except (NotAllowed, Unreachable):
            raise
        except Trouble as trouble:
            if trouble.answered is None:
                self._display.say(trouble.message)  # gone or changed meanwhile
                return
            entry = Entry(mark=file.mark, name=name, job=None, last=None)
            self._fail(str(file.path), entry, trouble.message)
            return
        self._error_file(name).unlink(missing_ok=True)
        entry = Entry(mark=file.mark, name=name, job=job_id, last=None)
        self._journal.note(str(file.path), entry)

    def _submission(self, file: Found) -> str:
        """A name by which the same file, sent once more, is the same job.

        Unless it is sent once more because that one failed, or its transcript was thrown away.
        """
        entry = self._journal.entries.get(str(file.path))
        last = entry.last if entry else None
        what = [str(file.path), file.mark, last, sorted(self._rules.fields.items())]
        return hashlib.sha256(json.dumps(what).encode()).hexdigest()

    def _priority(self, file: Found) -> dict[str, str]:
        if not file.urgent or "priority" in self._rules.fields:
            return {}
        if self._may_use_high is None:
            self._may_use_high = bool(self._server.session()["may_use_high"])
        return {"priority": "high"} if self._may_use_high else {}

    def _ask(self) -> None:
        for path, job_id in self._running().items():
            entry = self._journal.entries[path]
            ended = dataclasses.replace(entry, job=None, last=job_id)
            try:
                job = self._server.job(job_id)
                self._display.follow(Path(path).name, job)
                if job["status"] == COMPLETED:
                    self._write(entry.name, job)
            except (JobTrouble, WrongUse) as trouble:
                if trouble.answered is None:
                    raise
                # deleted by somebody else, or its result was
                self._fail(path, ended, trouble.message)
                continue
            if job["status"] == COMPLETED:
                self._journal.note(path, ended)
            elif job["status"] in FINAL:
                self._fail(path, ended, why(job))

    def _write(self, name: str, job: Job) -> None:
        output = self._rules.output
        for form in self._rules.formats:
            content = self._server.result(job["id"], form)
            try:
                following.write(output / f"{name}.{form}", content)
            except OSError as error:
                raise WrongUse(f"{output}: {error.strerror}.") from None

    def _fail(self, path: str, entry: Entry, reason: str) -> None:
        self.failed += 1
        now = datetime.now().astimezone()
        text = (
            "# Transcription Failed\n"
            f"# File: {Path(path).name}\n"
            f"# Error: {reason}\n"
            f"# Time: {now:%Y-%m-%d %H:%M:%S %z}\n"
            "\nDelete this file to have it tried again.\n"
        )
        try:
            following.write(self._error_file(entry.name), text.encode())
        except OSError as error:
            raise WrongUse(f"{self._error_file(entry.name)}: {error.strerror}.") from None
        self._display.say(f"{Path(path).name}: {reason}")
        self._journal.note(path, entry)
