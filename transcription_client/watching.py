"""``watch``: sends what comes into folders, and writes transcripts beside each other in another.

What is under way is noted in the folder of transcripts, so that a watch that is started again asks
for the jobs that the last one left, and sends nothing twice. A file is done when its transcript is
there, or its error file: whoever deletes that has it tried again.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any, Final

from transcription_client import following
from transcription_client.display import FINAL, Display
from transcription_client.folders import Found, Stability, find, in_order, is_old
from transcription_client.sending import Recording, Sender
from transcription_client.server import Job, Server
from transcription_client.transcribing import COMPLETED, why
from transcription_client.troubles import NotAllowed, Trouble, Unreachable, WrongUse

JOURNAL: Final = ".transcription-watch.json"
#: How long between two questions after jobs that are under way.
ASK_SECONDS: Final = 2.0
GONE: Final = frozenset({404, 410})


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


class Journal:
    """What was sent, by the file's path: ``mark``, ``job`` and ``name``, that of its transcript."""

    def __init__(self, output: Path) -> None:
        """Read what an earlier watch noted.

        Raises:
            WrongUse: It cannot be read.
        """
        self._path = output / JOURNAL
        try:
            read = json.loads(self._path.read_text("utf-8"))
            self.entries: dict[str, dict[str, Any]] = dict(read["files"])
        except FileNotFoundError:
            self.entries = {}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise WrongUse(f"{self._path} cannot be read ({error}): delete it.") from None

    def note(self, path: str, entry: dict[str, Any] | None) -> None:
        """Keep an entry, or forget it.

        Raises:
            WrongUse: It cannot be written.
        """
        if entry is None:
            self.entries.pop(path, None)
        else:
            self.entries[path] = entry
        content = json.dumps({"files": self.entries}, indent=1, ensure_ascii=False)
        try:
            following.write(self._path, content.encode())
        except OSError as error:
            raise WrongUse(f"{self._path}: {error.strerror}.") from None


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
                due = self._send(due)
                self._ask()
            except Unreachable as trouble:
                self._display.say(f"{trouble.message} The watch goes on.")
            running = self._running()
            if once and not due and not unsure and not running:
                return
            left = max(0.0, next_scan - self._clock())
            self._pause(min(ASK_SECONDS, left) if running or due else left)

    def _running(self) -> dict[str, dict[str, Any]]:
        return {
            path: entry for path, entry in self._journal.entries.items() if entry["job"] is not None
        }

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
        if entry["mark"] != file.mark:
            return False
        return entry["job"] is not None or self._is_written(entry["name"])

    def _is_written(self, name: str) -> bool:
        paths = [self._rules.output / f"{name}.{form}" for form in self._rules.formats]
        return all(path.exists() for path in paths) or self._error_file(name).exists()

    def _error_file(self, name: str) -> Path:
        return self._rules.output / f"{name}_error.txt"

    def _name_of(self, file: Found) -> str:
        """What its transcript is called, without its ending."""
        entry = self._journal.entries.get(str(file.path))
        if entry is not None:
            return str(entry["name"])
        inside = file.path.relative_to(file.folder)
        taken = {entry["name"] for entry in self._journal.entries.values()}
        for candidate in (inside.with_suffix(""), inside):
            if str(candidate) not in taken:
                return str(candidate)
        known = hashlib.sha256(str(file.path).encode()).hexdigest()
        return f"{inside} {known[:8]}"

    def _send(self, due: list[Found]) -> list[Found]:
        """Send as many as there is room for; returns the others."""
        waiting = list(due)
        while waiting and len(self._running()) < self._rules.at_once:
            file = waiting[0]
            self._submit(file)
            waiting.pop(0)
        return waiting

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
            self._fail(str(file.path), name, file.mark, trouble.message)
            return
        self._error_file(name).unlink(missing_ok=True)
        entry = {"mark": file.mark, "job": job_id, "name": name}
        self._journal.note(str(file.path), entry)

    def _submission(self, file: Found) -> str:
        """A name by which the same file, sent once more, is the same job.

        Unless it is sent once more because that one failed, or its transcript was thrown away.
        """
        entry = self._journal.entries.get(str(file.path))
        last = entry.get("last") if entry else None
        what = [str(file.path), file.mark, last, sorted(self._rules.fields.items())]
        return hashlib.sha256(json.dumps(what).encode()).hexdigest()

    def _priority(self, file: Found) -> dict[str, str]:
        if not file.urgent or "priority" in self._rules.fields:
            return {}
        if self._may_use_high is None:
            self._may_use_high = bool(self._server.session()["may_use_high"])
        return {"priority": "high"} if self._may_use_high else {}

    def _ask(self) -> None:
        for path, entry in self._running().items():
            try:
                job = self._server.job(entry["job"])
            except WrongUse as trouble:
                if trouble.answered not in GONE:
                    raise
                self._display.say(f"{Path(path).name}: its job was deleted")
                self._journal.note(path, {**entry, "job": None, "last": entry["job"]})
                continue
            self._display.follow(Path(path).name, job)
            if job["status"] in FINAL:
                self._finish(path, entry, job)

    def _finish(self, path: str, entry: Mapping[str, Any], job: Job) -> None:
        name, output = entry["name"], self._rules.output
        if job["status"] == COMPLETED:
            try:
                for form in self._rules.formats:
                    content = self._server.result(job["id"], form)
                    following.write(output / f"{name}.{form}", content)
            except OSError as error:
                raise WrongUse(f"{output}: {error.strerror}.") from None
            self._journal.note(path, {**entry, "job": None, "last": job["id"]})
        else:
            self._fail(path, name, entry["mark"], why(job), last=job["id"])

    def _fail(self, path: str, name: str, mark: str, reason: str, last: str | None = None) -> None:
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
            following.write(self._error_file(name), text.encode())
        except OSError as error:
            raise WrongUse(f"{self._error_file(name)}: {error.strerror}.") from None
        self._display.say(f"{Path(path).name}: {reason}")
        self._journal.note(path, {"mark": mark, "job": None, "name": name, "last": last})
