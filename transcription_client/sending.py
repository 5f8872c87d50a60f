"""Sends recordings by tus 1.0.0: what was sent is sent once, whatever breaks, this program too.

Where a recording goes is noted in a file until there is a job, so that the same command, given
again after a broken line, a closed lid or Ctrl-C, goes on where the last one was.

Source: https://tus.io/protocols/resumable-upload, version 1.0.0 (2016-03-25).
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

import platformdirs

from transcription_client.server import Passing, Server
from transcription_client.troubles import Trouble, WrongUse

TUS: Final[Mapping[str, str]] = {"Tus-Resumable": "1.0.0"}
PIECE_BYTES: Final = 2**18
#: Notes are older than what any service keeps of an upload after so long.
KEPT_SECONDS: Final = 30 * 86_400.0
#: The upload is no more: it expired, or another service answers at this address.
GONE: Final = 404
#: We are wrong about how much is there: somebody else sends it, too.
ELSEWHERE: Final = 409

#: Told how many bytes of how many are sent.
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Recording:
    """A file as it is when it is first looked at."""

    path: Path
    size_bytes: int
    modified_ns: int

    @classmethod
    def of(cls, path: Path) -> Recording:
        """Look at a file.

        Raises:
            WrongUse: There is none, or it cannot be read, or there is nothing in it.
        """
        try:
            with path.open("rb") as file:
                found = os.fstat(file.fileno())
        except OSError as error:
            raise WrongUse(f"{path}: {error.strerror}.") from None
        if found.st_size == 0:
            raise WrongUse(f"{path} is empty.")
        return cls(path, found.st_size, found.st_mtime_ns)

    def is_in(self, file: IO[bytes]) -> bool:
        """Whether an open file is what was looked at."""
        found = os.fstat(file.fileno())
        return (found.st_size, found.st_mtime_ns) == (self.size_bytes, self.modified_ns)


class Sender:
    """Sends to one server.

    Args:
        folder: Where uploads that are under way are noted.
    """

    def __init__(self, server: Server, folder: Path | None = None) -> None:
        self._server = server
        self._folder = folder or platformdirs.user_state_path("transcription") / "uploads"

    def send(
        self,
        recording: Recording,
        fields: Mapping[str, str],
        progress: Progress,
        *,
        name: str | None = None,
    ) -> str:
        """Send a recording, or the rest of it; returns the id of its job.

        Args:
            fields: Those of a submission.
            name: Of the submission: two with one name make one job.

        Raises:
            Trouble: It cannot be sent, or changed meanwhile.
        """
        note = self._folder / f"{self._digest(recording, fields)}.json"
        place = _read(note)
        if place is not None and not self._is_there(place):
            place = None
        if place is None:
            place = self._announce(recording, fields, name)
            _write(note, place)
        job_id = self._finish(recording, place, progress)
        note.unlink(missing_ok=True)
        return job_id

    def _is_there(self, place: str) -> bool:
        try:
            self._server.ask("HEAD", place, headers=TUS)
        except Trouble as error:
            if error.answered == GONE:
                return False
            raise
        return True

    def _finish(self, recording: Recording, place: str, progress: Progress) -> str:
        patience = self._server.patience()
        most = -1
        while True:
            try:
                at, job_id = self._look(place)
                if job_id is None:
                    if at > most:
                        patience.renew()
                        most = at
                    job_id = self._go_on(recording, place, at, progress)
            except Passing as passing:
                patience.wait(passing)
            else:
                return job_id

    def _announce(self, recording: Recording, fields: Mapping[str, str], name: str | None) -> str:
        metadata = {"filename": recording.path.name, **fields}
        headers = {
            **TUS,
            "Upload-Length": str(recording.size_bytes),
            "Upload-Metadata": ",".join(f"{key} {_base64(metadata[key])}" for key in metadata),
        }
        if name is not None:
            headers["Idempotency-Key"] = name
        return self._server.located(self._server.ask("POST", "/uploads", headers=headers))

    def _look(self, place: str) -> tuple[int, str | None]:
        """How much is there, and of which job it is; None: of none yet."""
        answer = self._server.try_to("HEAD", place, headers=TUS)
        return int(answer.headers["Upload-Offset"]), answer.headers.get("x-job-id")

    def _go_on(self, recording: Recording, place: str, at: int, progress: Progress) -> str:
        """Send what is not there yet; returns the id of the job that it is of."""
        progress(at, recording.size_bytes)
        headers = {
            **TUS,
            "Upload-Offset": str(at),
            "Content-Type": "application/offset+octet-stream",
            "Content-Length": str(recording.size_bytes - at),
        }
        rest = _rest(recording, at, progress)
        try:
            answer = self._server.try_to("PATCH", place, headers=headers, content=rest)
        except Trouble as error:
            if error.answered == ELSEWHERE:
                raise Passing(error.message, None) from None
            raise
        if "x-job-id" not in answer.headers:
            raise Passing("The server took a part of it", None)
        return answer.headers["x-job-id"]

    def _digest(self, recording: Recording, fields: Mapping[str, str]) -> str:
        """What the upload is known by: another file, wish, server or key is another upload."""
        login = self._server.login
        what = [
            login.url,
            login.key,
            str(recording.path.resolve()),
            recording.size_bytes,
            recording.modified_ns,
            sorted(fields.items()),
        ]
        return hashlib.sha256(json.dumps(what).encode()).hexdigest()


def _rest(recording: Recording, at: int, progress: Progress) -> Iterator[bytes]:
    """What is not there yet, in pieces.

    Raises:
        WrongUse: The file is no longer what it was: half of each would be neither.
    """
    with recording.path.open("rb") as file:
        file.seek(at)
        while at < recording.size_bytes:
            piece = file.read(min(PIECE_BYTES, recording.size_bytes - at))
            if not recording.is_in(file):
                raise WrongUse(f"{recording.path} changed while it was sent.")
            yield piece
            at += len(piece)
            progress(at, recording.size_bytes)


def _base64(text: str) -> str:
    return base64.b64encode(text.encode(errors="replace")).decode("ascii")


def _read(note: Path) -> str | None:
    try:
        return note.read_text("ascii") or None
    except (FileNotFoundError, ValueError):
        return None


def _write(note: Path, place: str) -> None:
    note.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    for old in note.parent.iterdir():
        with contextlib.suppress(FileNotFoundError):
            if time.time() - old.stat().st_mtime > KEPT_SECONDS:
                old.unlink()
    new = note.with_suffix(".new")
    new.write_text(place, "ascii")
    new.replace(note)
