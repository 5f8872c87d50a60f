"""The client's command line, as it is typed, against the service as processes."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest
from sqlalchemy import select

from models import JobStatus, Priority, TranscriptionJob
from tests.recordings import PROJECT_DIR, repeated, sample
from tests.stack.conftest import PATIENCE_SECONDS, Process, Stack, wait_for
from tests.stack.relay import Relay

pytestmark = [pytest.mark.stack, pytest.mark.model]

KEY = "a-key-of-the-clients-tests"
SAMPLE = sample("digits-en.wav").path
WORDS = ["two", "zero", "five", "eight", "one", "three", "seven", "six"]
MB = 2**20
STOPPED = 130


@dataclass
class Typed:
    """What a command printed, and its exit status."""

    status: int
    out: str
    err: str


class Person:
    """Somebody at a machine of their own, with the service behind a line."""

    def __init__(self, stack: Stack, home: Path) -> None:
        self.stack = stack
        self.process, self.url = stack.web(API_KEYS=KEY)
        self.wait()
        self.relay = Relay(int(self.url.rpartition(":")[2]))
        home.mkdir()
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "PYTHONPATH": str(PROJECT_DIR),
            "TRANSCRIPTION_URL": self.relay.url,
            "TRANSCRIPTION_KEY": KEY,
        }
        self._number = 0

    def wait(self) -> None:
        def ready() -> bool:
            try:
                return httpx2.get(f"{self.url}/ready").status_code == httpx2.codes.OK
            except httpx2.HTTPError:
                return False

        wait_for(ready, "the web process answers")

    def again(self) -> None:
        """Start another web process in the place of the first."""
        self.stack.start("web", "app.py", PORT=self.url.rpartition(":")[2], API_KEYS=KEY)
        self.wait()

    def type(self, *words: str | Path, given: str | None = None, **variables: str) -> Typed:
        """Type a command, and wait for its end."""
        done = subprocess.run(
            self._command(words),
            env={**self.environment, **variables},
            input=given,
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE_SECONDS,
        )
        return Typed(done.returncode, done.stdout, done.stderr)

    def start(self, *words: str | Path) -> Process:
        """Type a command, and leave it running; output and errors go into one log."""
        self._number += 1
        log = self.stack.folder / f"client-{self._number}.log"
        # whoever runs the tests in the background has them ignore Ctrl-C, and their children too
        heeding = ["env", "--default-signal=INT"]
        with log.open("wb") as output:
            popen = subprocess.Popen(
                [*heeding, *self._command(words)],
                env=self.environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        process = Process("client", popen, log)
        self.stack.processes.append(process)
        return process

    def _command(self, words: Sequence[str | Path]) -> list[str]:
        return [sys.executable, "-m", "transcription_client", *map(str, words)]

    def jobs(self) -> list[TranscriptionJob]:
        """All there are, the first to come first."""
        with self.stack.sessions() as session:
            query = select(TranscriptionJob).order_by(TranscriptionJob.created_at)
            return list(session.scalars(query))


@pytest.fixture
def person(stack: Stack, tmp_path: Path) -> Iterator[Person]:
    person = Person(stack, tmp_path / "home")
    yield person
    person.relay.close()


@pytest.fixture
def large(tmp_path: Path) -> Path:
    return repeated("digits-en.wav", 60, tmp_path / "large.wav")


# Signing in


def test_somebody_signs_in_once(person: Person) -> None:
    url = person.environment.pop("TRANSCRIPTION_URL")
    key = person.environment.pop("TRANSCRIPTION_KEY")
    before = person.type("list", "--server", url)
    wrong = person.type("login", url, given="stt_live_wrong\n")
    right = person.type("login", url, given=f"{key}\n")
    after = person.type("list")
    gone = person.type("logout")

    assert (before.status, "Sign in with" in before.err) == (3, True)
    assert wrong.status == 3
    assert (right.status, "Signed in" in right.out) == (0, True)
    assert key not in right.out + right.err
    assert (after.status, gone.status) == (0, 0)
    assert person.type("list", "--server", url).status == 3


# What was typed, and what came of it


def test_transcripts_are_written_under_their_files_names(person: Person, tmp_path: Path) -> None:
    person.stack.worker()
    other = tmp_path / "other" / "digits-en.wav"
    other.parent.mkdir()
    other.write_bytes(sample("digits-de.wav").path.read_bytes())
    out = tmp_path / "out"
    typed = person.type("transcribe", SAMPLE, other, "-f", "txt", "-f", "srt", "-o", out, "--words")

    assert typed.status == 0
    names = {"digits-en.wav", "digits-en.wav 2"}
    assert {Path(line) for line in typed.out.splitlines()} == {
        out / f"{name}.{form}" for name in names for form in ("txt", "srt")
    }
    assert (out / "digits-en.wav.txt").read_text("utf-8").split() == WORDS
    assert "-->" in (out / "digits-en.wav 2.srt").read_text("utf-8")
    assert {job.word_timestamps for job in person.jobs()} == {True}


def test_a_transcript_goes_to_standard_output_and_nothing_else_does(person: Person) -> None:
    person.stack.worker()
    typed = person.type("transcribe", SAMPLE, "--wait", "--language", "en", "--high")

    assert (typed.status, typed.out.split()) == (0, WORDS)
    assert "completed" in typed.err
    (job,) = person.jobs()
    assert (job.language, job.priority) == ("en", Priority.HIGH)


def test_a_job_is_followed_from_command_to_command(person: Person) -> None:
    sent = person.type("transcribe", SAMPLE)
    job_id = sent.out.split()[0]
    waiting = person.type("status", job_id)
    listed = person.type("list", "--status", "pending", "--json")
    person.stack.worker()
    read = person.type("result", job_id, "--quiet")
    again = person.type("rerun", job_id, "--language", "es", "-f", "json")

    assert sent.out == f"{job_id}  digits-en.wav\n"
    assert (waiting.status, "waiting, number 1" in waiting.out) == (0, True)
    assert [job["id"] for job in json.loads(listed.out)["jobs"]] == [job_id]
    assert (read.status, read.out.split(), read.err) == (0, WORDS, "")
    assert (again.status, json.loads(again.out)["language"]) == (0, "es")
    assert len(person.jobs()) == 2


def test_programs_are_told_in_json(person: Person) -> None:
    person.stack.worker()
    bad = PROJECT_DIR / "README.md"
    typed = person.type("transcribe", SAMPLE, bad, "--json", "--wait")
    good, failed = map(json.loads, typed.out.splitlines())

    assert typed.status == 1
    assert (good["status"], good["transcripts"]["txt"].split()) == ("completed", WORDS)
    assert (failed["status"], failed["transcripts"]) == ("failed", {})
    assert "not_audio" in failed["error"]


def test_jobs_are_cancelled(person: Person) -> None:
    job_id = person.type("transcribe", SAMPLE).out.split()[0]
    first = person.type("cancel", job_id)
    second = person.type("cancel", job_id)
    read = person.type("result", job_id)

    assert (first.status, first.out) == (0, f"{job_id} is cancelled.\n")
    assert second.status == 1
    assert (read.status, read.out, "cancelled" in read.err) == (1, "", True)


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        (["transcribe", "nothing.wav"], 2, "nothing.wav: No such file"),
        (["transcribe", SAMPLE, "-f", "doc"], 2, "no format 'doc'"),
        (["transcribe", SAMPLE, "-f", "txt", "-f", "srt"], 2, "-o DIR"),
        (["transcribe", SAMPLE, "--language", "xx"], 2, "language"),
        (["transcribe", SAMPLE, "--local"], 2, "cli.py"),
        (["transcribe"], 2, "Missing argument"),
        (["status", "nothing"], 2, "no such thing"),
        (["watch"], 2, "Which folders"),
        (["watch", "/nowhere"], 2, "no folder"),
        (["list", "--key", "wrong"], 3, "Sign in"),
        (["list", "--server", "http://127.0.0.1:9", "--key", "k"], 4, "does not answer"),
        (["list", "--server", "nonsense://x"], 2, "no address"),
    ],
)
def test_each_end_has_its_status(
    person: Person, words: list[str | Path], status: int, says: str
) -> None:
    typed = person.type(*words)

    assert (typed.status, typed.out) == (status, "")
    assert says in typed.err
    assert "Traceback" not in typed.err
    assert person.jobs() == []


# Lines that break, and people who press Ctrl-C


def test_what_a_broken_line_swallowed_is_sent_again_and_nothing_else(
    person: Person, large: Path
) -> None:
    person.relay.cut_after = large.stat().st_size // 3
    client = person.start("transcribe", large)
    wait_for(lambda: client.said("trying again"), "the line broke")
    person.relay.cut_after = None

    assert client.wait() == 0
    (job,) = person.jobs()
    assert job.upload_bytes == large.stat().st_size
    # heads, and what was under way in the buffers of a line that broke
    assert person.relay.passed < large.stat().st_size + 2 * MB


def test_an_upload_outlives_the_web_process(person: Person, large: Path) -> None:
    person.relay.cut_after = large.stat().st_size // 2
    person.relay.patience.clear()
    client = person.start("transcribe", large)
    half = person.relay.cut_after
    wait_for(lambda: person.relay.passed >= half, "half of it is there")
    person.process.kill()
    person.relay.cut_after = None
    person.relay.patience.set()
    wait_for(lambda: client.said("trying again"), "the client noticed")
    person.again()

    assert client.wait() == 0
    assert [job.upload_bytes for job in person.jobs()] == [large.stat().st_size]


def test_the_same_command_goes_on_after_ctrl_c(person: Person, large: Path) -> None:
    person.relay.cut_after = half = large.stat().st_size // 2
    person.relay.patience.clear()
    client = person.start("transcribe", large)
    wait_for(lambda: person.relay.passed >= half, "half of it is there")
    client.signal(signal.SIGINT)
    stopped = client.wait()
    person.relay.cut_after = None
    person.relay.patience.set()
    before = person.relay.passed
    typed = person.type("transcribe", large)

    assert stopped == STOPPED
    assert client.said("Not sent, or in part: large.wav")
    assert typed.status == 0
    assert len(person.jobs()) == 1
    assert person.relay.passed - before < half + 2 * MB


def test_who_stops_waiting_is_told_how_to_go_on(person: Person) -> None:
    client = person.start("transcribe", SAMPLE, "--wait")
    wait_for(lambda: client.said("waiting"), "it waits")
    client.signal(signal.SIGINT)

    assert client.wait() == STOPPED
    (job,) = person.jobs()
    assert client.said(f"result {job.id}")
    person.stack.worker()
    assert person.type("result", str(job.id)).out.split() == WORDS


def test_a_file_that_changes_while_it_is_sent_makes_no_job(person: Person, large: Path) -> None:
    person.relay.cut_after = large.stat().st_size // 2
    person.relay.patience.clear()
    half = person.relay.cut_after
    client = person.start("transcribe", large)
    wait_for(lambda: person.relay.passed >= half, "half of it is there")
    with large.open("ab") as file:
        file.write(b"more")
    person.relay.cut_after = None
    person.relay.patience.set()

    assert client.wait() == 2
    assert client.said("changed while it was sent")
    assert person.jobs() == []


# Folders


@dataclass
class Folders:
    """A watched folder, and the one for transcripts."""

    person: Person
    inbox: Path
    output: Path

    def put(self, name: str, content: bytes, *, at: float = 1_790_000_000) -> Path:
        path = self.inbox / name
        path.write_bytes(content)
        os.utime(path, (at, at))
        return path

    @property
    def words(self) -> list[str | Path]:
        quick = ["--stable", "1", "--scan-interval", "1"]
        return ["watch", self.inbox, "-o", self.output, *quick]

    def written(self) -> dict[str, str]:
        return {
            path.name: path.read_text("utf-8")
            for path in self.output.glob("[!.]*")
            if path.is_file()
        }


@pytest.fixture
def folders(person: Person, tmp_path: Path) -> Folders:
    (tmp_path / "in").mkdir()
    return Folders(person, tmp_path / "in", tmp_path / "out")


@pytest.fixture
def sound() -> Callable[[str], bytes]:
    return lambda language: sample(f"digits-{language}.wav").path.read_bytes()


def test_what_comes_into_a_folder_is_transcribed(
    folders: Folders, sound: Callable[[str], bytes]
) -> None:
    folders.person.stack.worker()
    watch = folders.person.start(*folders.words, "-f", "txt", "-f", "vtt")
    wait_for(lambda: watch.said("watching"), "it watches")
    folders.put("talk.wav", sound("en"))
    folders.put("talk.mp3", sound("de"))
    folders.put("notes.txt", b"not this")
    wait_for(lambda: len(folders.written()) == 4, "both are written")
    watch.signal(signal.SIGINT)

    assert watch.wait() == STOPPED
    written = folders.written()
    # two files of one name keep their transcripts apart
    assert {*written} == {"talk.txt", "talk.vtt", "talk.wav.txt", "talk.wav.vtt"} or {*written} == {
        "talk.txt",
        "talk.vtt",
        "talk.mp3.txt",
        "talk.mp3.vtt",
    }
    assert sum(text.split() == WORDS for text in written.values()) == 1
    assert len(folders.person.jobs()) == 2


def test_a_watch_that_was_killed_sends_nothing_twice(
    folders: Folders, sound: Callable[[str], bytes]
) -> None:
    folders.put("talk.wav", sound("en"))
    first = folders.person.start(*folders.words)
    wait_for(lambda: first.said("waiting"), "it was sent")
    first.kill()
    folders.person.stack.worker()
    again = folders.person.type(*folders.words, "--once")
    third = folders.person.type(*folders.words, "--once")

    assert (again.status, third.status) == (0, 0)
    assert folders.written()["talk.txt"].split() == WORDS
    assert len(folders.person.jobs()) == 1


def test_a_watch_whose_notes_are_lost_finds_the_same_job(
    folders: Folders, sound: Callable[[str], bytes]
) -> None:
    folders.person.stack.worker()
    folders.put("talk.wav", sound("en"))
    folders.person.type(*folders.words, "--once")
    for path in folders.output.iterdir():
        path.unlink()
    again = folders.person.type(*folders.words, "--once")

    assert again.status == 0
    assert folders.written()["talk.txt"].split() == WORDS
    assert len(folders.person.jobs()) == 1


def test_urgent_files_go_first_then_the_newest_and_old_ones_not_at_all(
    folders: Folders, sound: Callable[[str], bytes]
) -> None:
    folders.person.stack.worker()
    day = 86_400
    now = 1_790_000_000
    folders.put("old.wav", sound("en"), at=now - 400 * day)
    folders.put("before.wav", sound("en"), at=now - day)
    folders.put("after.wav", sound("en"), at=now)
    folders.put("a priority one.wav", sound("en"), at=now - 2 * day)
    typed = folders.person.type(
        *folders.words, "--once", "--at-once", "1", "--skip-before", "2026-01-01"
    )

    assert typed.status == 0
    jobs = folders.person.jobs()
    sent = [(job.client_filename, job.priority) for job in jobs]
    assert sent == [
        ("a priority one.wav", Priority.HIGH),
        ("after.wav", Priority.NORMAL),
        ("before.wav", Priority.NORMAL),
    ]


def test_a_file_that_fails_is_told_of_and_tried_again_only_if_asked(folders: Folders) -> None:
    folders.person.stack.worker()
    folders.put("bad.mp3", b"this is no sound")
    first = folders.person.type(*folders.words, "--once")
    second = folders.person.type(*folders.words, "--once")
    told = folders.written()
    (folders.output / "bad_error.txt").unlink()
    third = folders.person.type(*folders.words, "--once")

    assert [typed.status for typed in (first, second, third)] == [1, 0, 1]
    assert {*told} == {"bad_error.txt"}
    assert "# File: bad.mp3\n# Error: failed: " in told["bad_error.txt"]
    assert {*folders.written()} == {"bad_error.txt"}
    assert [job.status for job in folders.person.jobs()] == [JobStatus.FAILED] * 2


def test_one_watch_at_a_time_writes_into_a_folder(folders: Folders) -> None:
    watch = folders.person.start(*folders.words)
    wait_for(lambda: watch.said("watching"), "it watches")
    wait_for((folders.output / ".transcription-watch.db").exists, "it has its notes")
    second = folders.person.type(*folders.words, "--once")
    watch.kill()
    third = folders.person.type(*folders.words, "--once")

    assert (second.status, "Another watch" in second.err) == (2, True)
    assert third.status == 0


def test_a_name_that_is_no_text_is_a_name_all_the_same(
    folders: Folders, sound: Callable[[str], bytes]
) -> None:
    folders.person.stack.worker()
    path = os.fsdecode(b"caf\xe9 \x1b[31m\n.wav")
    folders.put(path, sound("en"))
    typed = folders.person.type(*folders.words, "--once")
    again = folders.person.type(*folders.words, "--once")
    sent = folders.person.type("transcribe", folders.inbox / path)

    assert (typed.status, again.status, sent.status) == (0, 0, 0)
    assert {*folders.written()} == {os.fsdecode(b"caf\xe9 \x1b[31m\n.txt")}
    assert "\x1b" not in typed.err + sent.out
    assert len(folders.person.jobs()) == 2


def test_a_job_that_somebody_deletes_fails_its_file_alone(
    folders: Folders, sound: Callable[[str], bytes]
) -> None:
    folders.put("talk.wav", sound("en"))
    folders.put("other.wav", sound("de"))
    watch = folders.person.start(*folders.words, "--once")
    wait_for(lambda: len(folders.person.jobs()) == 2, "both were sent")
    gone = next(job for job in folders.person.jobs() if job.client_filename == "talk.wav")
    answer = httpx2.delete(f"{folders.person.url}/jobs/{gone.id}", headers={"X-API-Key": KEY})
    folders.person.stack.worker()

    assert answer.is_success
    assert watch.wait() == 1
    assert {*folders.written()} == {"talk_error.txt", "other.txt"}


def test_what_version_2_transcribed_is_left_alone(
    folders: Folders, sound: Callable[[str], bytes]
) -> None:
    folders.put("talk.wav", sound("en"))
    folders.output.mkdir()
    (folders.output / "talk.txt").write_text("by version 2", "utf-8")
    typed = folders.person.type(*folders.words, "--once")

    assert (typed.status, folders.person.jobs()) == (0, [])


def test_a_watch_outlives_the_web_process(folders: Folders, sound: Callable[[str], bytes]) -> None:
    watch = folders.person.start(*folders.words)
    folders.put("talk.wav", sound("en"))
    wait_for(lambda: watch.said("waiting"), "it was sent")
    folders.person.process.kill()
    wait_for(lambda: watch.said("trying again"), "it noticed")
    folders.person.stack.worker()
    folders.person.again()
    wait_for(lambda: "talk.txt" in folders.written(), "it is written")

    assert folders.written()["talk.txt"].split() == WORDS
    assert len(folders.person.jobs()) == 1
