"""Hostile files through the front door: each job ends, says why, and leaves nothing behind."""

import signal
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx2
import psutil
import pytest

from tests import media
from tests.hostile import TIGHT, Trap, untouched_server
from tests.recordings import SAMPLES, sample
from tests.stack.conftest import Process, Stack, wait_for
from tests.wrapped import EVERY

pytestmark = [pytest.mark.stack, pytest.mark.model]

GOOD = (SAMPLES / "digits-en.wav").read_bytes
#: So many bad files for each good one.
BATCH = 8
SMALL = {
    "DECODE_MEMORY_MB": str(TIGHT.max_memory_bytes >> 20),
    "DECODE_TIMEOUT_SECONDS": "60",
    "MAX_AUDIO_HOURS": str(TIGHT.max_audio_seconds / 3_600),
}


@pytest.fixture
def untouched() -> Iterator[int]:
    with untouched_server() as port:
        yield port


class Client:
    """Posts files as strangers do."""

    def __init__(self, http: httpx2.Client) -> None:
        self._http = http

    def post(self, name: str, data: bytes) -> uuid.UUID:
        answer = self._http.post("/transcribe", files={"file": (name, data)})
        assert answer.status_code == 202, answer.text
        return uuid.UUID(answer.json()["job_id"])

    def job(self, job_id: uuid.UUID) -> dict[str, object]:
        answer = self._http.get(f"/jobs/{job_id}")
        assert answer.status_code == 200, answer.text
        told: dict[str, object] = answer.json()
        return told


@pytest.fixture
def client(stack: Stack) -> Iterator[Client]:
    stack.maintenance()  # publishes what finds no room in its lane
    _, url = stack.web()
    wait_for((stack.folder / "admin.key").exists, "the key is there")
    key = (stack.folder / "admin.key").read_text("utf-8").strip()
    with httpx2.Client(base_url=url, headers={"X-API-Key": key}, timeout=60) as http:
        yield Client(http)


def left_behind(folder: Path) -> list[str]:
    places = (folder / "scratch", folder / "uploads" / ".part")
    return [path.name for place in places if place.exists() for path in place.iterdir()]


def decoder_of(worker: Process) -> psutil.Process:
    """The child of a worker that reads an upload, once there is one."""

    def decoders() -> list[psutil.Process]:
        children = psutil.Process(worker.popen.pid).children()
        return [child for child in children if any("decoder" in a for a in child.cmdline())]

    return wait_for(decoders, "a file is being decoded")[0]  # type: ignore[no-any-return]


@pytest.mark.security("media", "every bad file, sent to the service as it runs")
@pytest.mark.timeout(900)
def test_every_bad_file_ends_as_it_should_and_good_ones_between_them_are_transcribed(
    stack: Stack, client: Client, untouched: int
) -> None:
    stack.environment.update(SMALL)
    worker = stack.worker(CELERY_CONCURRENCY="2")
    victim = client.post("private.wav", GOOD())
    trap = Trap(stack.uploads.path(victim).parent, untouched)
    (trap.folder / "private.wav").write_bytes(media.wav())
    (trap.folder / "private.ts").write_bytes(media.sound("mpegts", "aac"))
    sent, good = {}, [victim]
    for number, (what, bad) in enumerate(EVERY.items(), 1):
        sent[what] = client.post(bad.name, bad.make(trap))
        if number % BATCH == 0:
            good.append(client.post("good.wav", GOOD()))
    ends = {what: stack.wait_for_status(job, "completed", "failed") for what, job in sent.items()}

    assert {what: job.failure_reason for what, job in ends.items()} == {
        what: bad.end for what, bad in EVERY.items()
    }
    assert {job.attempt for job in ends.values()} == {1}
    for job in good:
        assert stack.wait_for_status(job, "completed", "failed").status == "completed"
        assert stack.result(job).text.split() == sample("digits-en.wav").text.split()  # type: ignore[union-attr]
    assert worker.popen.poll() is None
    assert left_behind(stack.folder) == []


@pytest.mark.security("media", "playlist with the path of another client's upload")
def test_a_playlist_does_not_read_the_upload_of_another_client(
    stack: Stack, client: Client
) -> None:
    stack.worker()
    path = stack.uploads.path(client.post("private.wav", GOOD()))
    targets = [str(path), f"file://{path}", f"../{path.parent.name}/{path.name}", path.name]
    lists = [*(media.hls(target) for target in targets), media.ffconcat(path.name)]
    sent = [client.post("list.m3u8", playlist) for playlist in lists]
    ends = [stack.wait_for_status(job, "completed", "failed") for job in sent]

    assert [job.failure_reason for job in ends] == ["not_audio"] * len(lists)


NAMES = {
    "a URL": ("http://127.0.0.1:{port}/x.mp3", "x.mp3"),
    "a list of files": ("concat:a|b.mp3", "concat:a|b.mp3"),
    "an option": ("-i.mp3", "-i.mp3"),
    "a command": ("a;b$(id)`id`.mp3", "a;b$(id)`id`.mp3"),
    "a path that climbs": ("../../etc/passwd", "passwd"),
    "a path that climbs, in Windows": ("..\\..\\win.ini", "win.ini"),
    "a path": ("/etc/passwd", "passwd"),
    "a hidden file": (".htaccess", ".htaccess"),
    "a device of Windows": ("CON.mp3", "CON.mp3"),
    "a name from right to left": ("\u202egnp.mp3", "gnp.mp3"),
    "a name of 5000 characters": ("a" * 5_000 + ".mp3", "a" * 251 + ".mp3"),
}


@pytest.mark.security("names", "every strange file name, sent to the service as it runs")
def test_a_name_is_text_and_nothing_else(stack: Stack, client: Client, untouched: int) -> None:
    stack.worker()
    before = set(stack.folder.rglob("*"))
    sent = {
        what: client.post(name.format(port=untouched), GOOD()) for what, (name, _) in NAMES.items()
    }
    shown = {what: client.job(job)["filename"] for what, job in sent.items()}
    ends = {what: stack.wait_for_status(job, "completed", "failed") for what, job in sent.items()}
    made = {path for path in set(stack.folder.rglob("*")) - before if path.is_file()}

    assert shown == {what: name for what, (_, name) in NAMES.items()}
    assert {job.status for job in ends.values()} == {"completed"}
    assert made == {stack.uploads.path(job) for job in sent.values()}


@pytest.mark.security("media", "24 hours of audio in a decoder with half a second")
def test_a_file_that_takes_too_long_ends_its_job_and_not_the_worker(
    stack: Stack, client: Client
) -> None:
    worker = stack.worker(DECODE_TIMEOUT_SECONDS="0.5", MAX_AUDIO_HOURS="48")
    bad = client.post("day.flac", media.flac_of_silence(24 * 3_600))
    end = stack.wait_for_status(bad, "completed", "failed")

    assert (end.failure_reason, end.attempt) == ("resource_limit", 1)
    assert worker.popen.poll() is None
    assert left_behind(stack.folder) == []


def test_a_decoder_that_is_killed_from_outside_is_started_again(
    stack: Stack, client: Client
) -> None:
    worker = stack.worker(MAX_AUDIO_HOURS="48")
    job = client.post("day.flac", media.flac_of_silence(24 * 3_600))

    decoder_of(worker).send_signal(signal.SIGKILL)
    again = wait_for(lambda: (found := stack.job(job)).attempt == 2 and found, "it is tried again")

    assert again.error_code == "decoder_killed"
    assert worker.popen.poll() is None
