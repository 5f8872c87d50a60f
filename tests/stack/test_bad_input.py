"""Hostile files through the front door: each job ends, says why, and leaves nothing behind."""

import socket
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest

from tests import media
from tests.recordings import SAMPLES
from tests.stack.conftest import Stack, wait_for

pytestmark = [pytest.mark.stack, pytest.mark.model]

#: What is sent, and how its job ends: the code of its failure, or None for a transcript.
BAD: dict[str, tuple[Callable[[], bytes], str | None]] = {
    "text.mp3": (lambda: media.TEXT, "not_audio"),
    "page.mp3": (lambda: media.HTML, "not_audio"),
    "zip.mp3": (media.zip_file, "not_audio"),
    "program.mp3": (lambda: media.ELF, "not_audio"),
    "silent-film.mp4": (lambda: media.video(sound_codec=None), "no_audio_stream"),
    "header.wav": (lambda: media.wav(b""), "no_audio_samples"),
    "no-index.m4a": (lambda: media.sound("ipod", "aac")[:8_000], "not_audio"),
    "cut-short.m4a": (
        lambda: media.sound("ipod", "aac", seconds=6, options={"movflags": "faststart"})[:-9_000],
        None,
    ),
    "a-day.flac": (lambda: media.flac_of_silence(24 * 3_600), "audio_too_long"),
    "54-hours.flac": (lambda: media.flac_of_silence(196_605, rate_hz=1), "audio_too_long"),
}


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A server that a hostile file may try to reach; nobody has, while accepting would block."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield server


class Client:
    """Posts files as strangers do."""

    def __init__(self, http: httpx2.Client) -> None:
        self._http = http

    def post(self, name: str, data: bytes) -> uuid.UUID:
        answer = self._http.post("/transcribe", files={"file": (name, data)})
        assert answer.status_code == 202, answer.text
        return uuid.UUID(answer.json()["job_id"])


@pytest.fixture
def client(stack: Stack) -> Iterator[Client]:
    stack.maintenance()  # publishes what finds no room in its lane
    stack.worker(CELERY_CONCURRENCY="2")
    _, url = stack.web()
    wait_for((stack.folder / "admin.key").exists, "the key is there")
    key = (stack.folder / "admin.key").read_text("utf-8").strip()
    with httpx2.Client(base_url=url, headers={"X-API-Key": key}, timeout=60) as http:
        yield Client(http)


def left_behind(folder: Path) -> list[str]:
    places = (folder / "scratch", folder / "uploads" / ".part")
    return [path.name for place in places if place.exists() for path in place.iterdir()]


def test_every_bad_file_ends_as_it_should_and_the_next_good_one_is_transcribed(
    stack: Stack, client: Client
) -> None:
    sent = {name: client.post(name, make()) for name, (make, _) in BAD.items()}
    good = client.post("good.wav", (SAMPLES / "digits-en.wav").read_bytes())
    ends = {name: stack.wait_for_status(job, "completed", "failed") for name, job in sent.items()}

    assert {name: job.failure_reason for name, job in ends.items()} == {
        name: code for name, (_, code) in BAD.items()
    }
    assert {job.attempt for job in ends.values()} == {1}
    assert "truncated_input" in ends["cut-short.m4a"].warnings
    assert stack.wait_for_status(good, "completed", "failed").status == "completed"
    assert left_behind(stack.folder) == []


def test_a_playlist_reads_neither_anothers_upload_nor_the_network(
    stack: Stack, client: Client, listener: socket.socket
) -> None:
    victim = client.post("private.wav", (SAMPLES / "digits-en.wav").read_bytes())
    path = stack.uploads.path(victim)
    port = listener.getsockname()[1]
    targets = [str(path), f"file://{path}", f"../{path.parent.name}/{path.name}"]
    lists = [media.hls(target) for target in (*targets, f"http://127.0.0.1:{port}/a.ts")]
    sent = [client.post("list.m3u8", playlist) for playlist in lists]
    ends = [stack.wait_for_status(job, "completed", "failed") for job in sent]

    assert [job.failure_reason for job in ends] == ["not_audio"] * len(lists)
    with pytest.raises(BlockingIOError):
        listener.accept()
