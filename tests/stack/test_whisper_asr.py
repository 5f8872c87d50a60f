"""What Bazarr and Speakr send to whisper-asr-webservice, against the service as processes."""

import re
import signal
import wave
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest
from sqlalchemy import select

from models import JobStatus, TranscriptionJob
from tests.recordings import repeated, sample
from tests.stack.conftest import Stack, wait_for
from tests.stack.test_openai import KEY, Service, pool, service

__all__ = ["pool", "service"]

pytestmark = [pytest.mark.stack, pytest.mark.model]

SAMPLE = sample("digits-en.wav")
VIDEO = "/films/A Film (1999)/a film.mkv"


def raw(path: Path) -> bytes:
    """What Bazarr has FFmpeg make of a film: ``-f s16le -ac 1 -acodec pcm_s16le -ar 16000``."""
    with wave.open(str(path), "rb") as source:
        assert source.getparams()[:3] == (1, 2, 16_000)
        return source.readframes(source.getnframes())


class Client:
    """Sends what a client of whisper-asr-webservice does, with the key in the address."""

    def __init__(self, service: Service) -> None:
        self.url = service.url.replace("://", f"://bazarr:{KEY}@")

    def post(self, path: str, sound: bytes, name: str, **query: Any) -> httpx2.Response:
        return httpx2.post(
            f"{self.url}{path}", params=query, files={"audio_file": (name, sound)}, timeout=120
        )

    def subtitles(self, sound: bytes) -> httpx2.Response:
        """Ask as Bazarr does."""
        query = {"task": "transcribe", "language": "en", "output": "srt", "encode": "false"}
        return self.post("/asr", sound, "audio_file", **query, video_file=VIDEO)


@pytest.fixture
def client(service: Service) -> Client:
    return Client(service)


def spoken(srt: str) -> list[str]:
    """The words of subtitles."""
    lines = [line for line in srt.splitlines() if not re.fullmatch(r"\d+|.* --> .*|", line)]
    return " ".join(lines).split()


def test_bazarr_gets_its_subtitles(stack: Stack, client: Client) -> None:
    stack.worker()
    sound = raw(SAMPLE.path)
    told = client.post(
        "/detect-language", sound, "audio_file", encode="false", video_file=VIDEO
    ).json()
    answer = client.subtitles(sound)

    assert (told["detected_language"], told["language_code"]) == ("english", "en")
    assert 0 < told["confidence"] <= 1
    assert answer.status_code == 200
    assert answer.headers["content-disposition"] == 'attachment; filename="audio_file.srt"'
    assert answer.text.startswith("1\n00:00:0")
    assert spoken(answer.text) == SAMPLE.text.split()


def test_an_odd_byte_at_the_end_costs_no_word(stack: Stack, client: Client) -> None:
    stack.worker()

    assert spoken(client.subtitles(raw(SAMPLE.path)[:-1]).text) == SAMPLE.text.split()


def test_speakr_gets_its_segments(stack: Stack, client: Client) -> None:
    stack.worker()
    query = {
        "encode": "true",
        "task": "transcribe",
        "diarize": "true",
        "enable_diarization": "true",
        "min_speakers": "1",
        "max_speakers": "2",
        "hotwords": "Ada",
        "output": "json",
        "word_timestamps": "true",
        "return_speaker_embeddings": "false",
    }
    document = client.post("/asr", SAMPLE.path.read_bytes(), "a talk.wav", **query).json()
    words = [word["word"].strip() for s in document["segments"] for word in s["words"]]

    assert (document["language"], document["text"]) == ("en", SAMPLE.text)
    assert words == SAMPLE.text.split()


def test_of_a_long_recording_the_beginning_tells_the_language(
    stack: Stack, client: Client, tmp_path: Path
) -> None:
    stack.worker()
    long = raw(repeated("digits-en.wav", 20, tmp_path / "long.wav"))
    told = client.post("/detect-language", long, "audio_file", encode="false").json()
    with stack.sessions() as session:
        seconds = session.scalar(select(TranscriptionJob.audio_seconds))

    assert told["language_code"] == "en"
    assert seconds == 30


def test_a_worker_that_is_killed_costs_no_subtitles(
    stack: Stack, service: Service, client: Client, pool: ThreadPoolExecutor, tmp_path: Path
) -> None:
    long = raw(repeated("digits-en.wav", 30, tmp_path / "long.wav"))
    worker = stack.worker()
    stack.maintenance()
    answer = pool.submit(client.subtitles, long)
    wait_for(lambda: service.status() == JobStatus.PROCESSING, "a worker has it")
    worker.kill()
    stack.worker()
    first = answer.result(timeout=120)
    again = client.subtitles(long)

    assert first.status_code == 200
    assert again.headers["x-job-id"] == first.headers["x-job-id"]
    assert again.text == first.text
    assert service.jobs() == 1


def test_a_web_process_that_is_killed_costs_no_subtitles(
    stack: Stack, service: Service, client: Client, pool: ThreadPoolExecutor
) -> None:
    sound = raw(SAMPLE.path)
    answer = pool.submit(client.subtitles, sound)
    wait_for(lambda: service.jobs() == 1, "the job is there")
    service.process.kill()
    with pytest.raises(httpx2.HTTPError):
        answer.result(timeout=120)
    service.again()
    stack.maintenance()  # which publishes what the one that was killed may not have
    stack.worker()

    assert spoken(client.subtitles(sound).text) == SAMPLE.text.split()
    assert service.jobs() == 1


def test_a_wait_that_is_over_is_taken_up_again(stack: Stack) -> None:
    service = Service(stack, ASR_WAIT_SECONDS="0.5")
    client = Client(service)
    sound = raw(SAMPLE.path)
    late = client.subtitles(sound)
    stack.worker()

    def done() -> httpx2.Response | None:
        answer = client.subtitles(sound)
        return answer if answer.status_code == httpx2.codes.OK else None

    answer = wait_for(done, "the job is done")

    assert (late.status_code, late.json()["code"]) == (504, "still_transcribing")
    assert int(late.headers["retry-after"]) > 0
    assert answer.headers["x-job-id"] == late.headers["x-job-id"]
    assert service.jobs() == 1


def test_a_web_process_that_stops_ends_the_waits_with_what_may_be_tried_again(
    service: Service, client: Client, pool: ThreadPoolExecutor
) -> None:
    answer = pool.submit(client.subtitles, raw(SAMPLE.path))
    wait_for(lambda: service.jobs() == 1, "the job is there")
    service.process.signal(signal.SIGTERM)
    told = answer.result(timeout=120)

    assert told.status_code == 503
    assert told.headers["x-job-id"]
    assert told.headers["retry-after"]


def test_sound_that_is_none_is_told_of(stack: Stack, client: Client) -> None:
    stack.worker()
    answer = client.post("/asr", b"no sound at all" * 100, "a.mp3")

    assert (answer.status_code, answer.json()["code"]) == (400, "not_audio")


def test_no_key_and_no_film_is_in_a_log(stack: Stack, client: Client) -> None:
    stack.worker()
    client.subtitles(raw(SAMPLE.path))

    for process in stack.processes:
        assert not process.said(KEY)
        assert not process.said("A Film (1999)")
        assert not process.said("A+Film")
        assert not process.said("A%20Film")
