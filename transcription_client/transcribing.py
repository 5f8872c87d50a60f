"""``transcribe``: send recordings, and if asked wait for them and write down what was said."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from uuid import uuid4

from transcription_client import following
from transcription_client.display import Display
from transcription_client.sending import Recording, Sender
from transcription_client.server import Job, Server
from transcription_client.troubles import JobTrouble, NotAllowed, Trouble, Unreachable

COMPLETED: Final = "completed"
#: What an address begins with that the service is to fetch from.
ADDRESS: Final = ("http://", "https://")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What is to become of recordings."""

    #: Those of a submission.
    fields: Mapping[str, str]
    wait: bool = False
    formats: Sequence[str] = ("txt",)
    #: Where transcripts are written; None: nowhere.
    folder: Path | None = None


@dataclass(slots=True)
class Outcome:
    """What became of one source: a path, or an address."""

    source: str
    #: As people are told of it, and as its transcript is called.
    name: str
    recording: Recording | None = None
    job_id: str | None = None
    job: Job | None = None
    trouble: Trouble | None = None
    #: Its transcripts, by their format, where they are not written.
    transcripts: dict[str, bytes] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)

    @property
    def status(self) -> int:
        """The status that the program ends with, if it is for this one."""
        return 0 if self.trouble is None else self.trouble.status


def look(sources: Sequence[str]) -> list[Outcome]:
    """Look at all that is to be sent, before any of it is.

    Raises:
        WrongUse: A file is not there, or cannot be read.
    """
    found = []
    for source in sources:
        if source.startswith(ADDRESS):
            tail = source.split("?")[0].rstrip("/").rpartition("/")[2]
            found.append(Outcome(source, tail or source))
        else:
            path = Path(source).expanduser()
            found.append(Outcome(source, path.name, recording=Recording.of(path)))
    return found


class Transcriber:
    """Brings sources to their end, and knows at any time how far they are."""

    def __init__(
        self,
        server: Server,
        display: Display,
        *,
        sender: Sender | None = None,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._server = server
        self._display = display
        self._sender = sender or Sender(server)
        self._pause = pause

    def run(self, outcomes: Sequence[Outcome], wish: Wish) -> None:
        """Send, wait and fetch, as is wished; what goes wrong with one stops no other.

        Raises:
            NotAllowed, Unreachable: So no other could be sent or asked after.
        """
        for outcome in outcomes:
            self._try(outcome, functools.partial(self._submit, fields=wish.fields))
        if wish.wait:
            self.finish(outcomes, wish)

    def finish(self, outcomes: Sequence[Outcome], wish: Wish) -> None:
        """Wait for what was sent, and fetch it.

        Raises:
            NotAllowed, Unreachable: None can be asked after.
        """
        sent = {outcome.job_id: outcome for outcome in outcomes if outcome.job_id}

        def tell(job: Job) -> None:
            self._display.follow(sent[job["id"]].name, job)

        ended = following.wait(self._server, sent, tell, self._pause)
        stems = following.free_names((job_id, sent[job_id].name) for job_id in sent)
        for job_id, outcome in sent.items():
            found = ended[job_id]
            if isinstance(found, Trouble):
                outcome.trouble = found
                continue
            outcome.job = found
            self._try(outcome, functools.partial(self._fetch, wish=wish, stem=stems[job_id]))

    def _try(self, outcome: Outcome, do: Callable[[Outcome], None]) -> None:
        try:
            do(outcome)
        except (NotAllowed, Unreachable):
            raise
        except Trouble as trouble:
            outcome.trouble = trouble

    def _submit(self, outcome: Outcome, fields: Mapping[str, str]) -> None:
        # each command is a submission of its own, however often its requests are sent
        name = str(uuid4())
        if outcome.recording is None:
            outcome.job = self._server.submit_address(outcome.source, fields, name)
            outcome.job_id = outcome.job["id"]
            return
        outcome.job_id = self._sender.send(
            outcome.recording,
            fields,
            lambda sent, total: self._display.sending(outcome.name, sent, total),
            name=name,
        )

    def _fetch(self, outcome: Outcome, wish: Wish, stem: str) -> None:
        job = outcome.job
        assert job is not None  # noqa: S101 - for the type checker: it has ended
        if job["status"] != COMPLETED:
            raise JobTrouble(why(job))
        made = {form: self._server.result(job["id"], form) for form in wish.formats}
        hand_over(outcome, made, wish, stem)


def hand_over(outcome: Outcome, transcripts: Mapping[str, bytes], wish: Wish, stem: str) -> None:
    """Write transcripts, by their formats, if there is a folder for them; or keep them.

    Raises:
        JobTrouble: They cannot be written.
    """
    if wish.folder is None:
        outcome.transcripts = dict(transcripts)
        return
    for form, content in transcripts.items():
        path = wish.folder / f"{stem}.{form}"
        try:
            following.write(path, content)
        except OSError as error:
            raise JobTrouble(f"{path}: {error.strerror}.") from None
        outcome.files.append(path)


def why(job: Job) -> str:
    """Why a job has no transcript."""
    if job["status"] == "failed":
        return f"failed: {job['error_message'] or job['error_code']} ({job['error_code']})"
    return str(job["status"])
