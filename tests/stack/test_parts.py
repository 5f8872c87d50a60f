"""A part of a recording, and a track of a film, on real processes."""

import signal
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests import media
from tests.recordings import SAMPLES, repeated, sample
from tests.stack.conftest import Stack, wait_for

pytestmark = [pytest.mark.stack, pytest.mark.model]

KEY = "a-key-of-the-tests-of-parts"
DIGITS = "digits-en.wav"
EIGHT = sample(DIGITS).text.split()


@pytest.fixture
def client(stack: Stack) -> Iterator[httpx2.Client]:
    process, url = stack.web(API_KEYS=KEY)
    wait_for(lambda: process.said("Application startup complete"), "the web process answers")
    with httpx2.Client(base_url=url, headers={"X-API-Key": KEY}, timeout=60) as client:
        yield client


def length_of(path: Path) -> float:
    return (path.stat().st_size - 44) / 32_000


def submit(client: httpx2.Client, path: Path, **fields: str) -> uuid.UUID:
    with path.open("rb") as file:
        answer = client.post("/transcribe/", files={"file": file}, data=fields)
    assert answer.status_code == 202, answer.text
    return uuid.UUID(answer.json()["job_id"])


def test_a_part_has_the_words_and_the_times_of_the_whole(
    stack: Stack, client: httpx2.Client, tmp_path: Path
) -> None:
    once = length_of(SAMPLES / DIGITS)
    stack.maintenance()
    stack.worker()
    path = repeated(DIGITS, 6, tmp_path / "long.wav")
    start, end = f"{2 * once:.3f}", f"{4 * once:.3f}"
    job_id = submit(client, path, start_seconds=start, end_seconds=end, word_timestamps="true")
    stack.wait_for_status(job_id, "completed")

    job = client.get(f"/jobs/{job_id}").json()
    result = client.get(f"/jobs/{job_id}/result").json()
    assert job["transcription"].split() == 2 * EIGHT
    assert job["audio_seconds"] == job["duration"] == pytest.approx(2 * once, abs=0.01)
    assert job["audio_seconds_done"] == pytest.approx(2 * once, abs=0.02)
    assert (job["start_seconds"], job["end_seconds"]) == (float(start), float(end))
    words = [word for segment in result["segments"] for word in segment["words"]]
    assert all(2 * once - 0.5 <= word["start"] <= word["end"] <= 4 * once + 0.5 for word in words)
    assert words[-1]["start"] > 3 * once


def test_a_part_goes_on_after_its_worker_was_killed(
    stack: Stack, client: httpx2.Client, tmp_path: Path
) -> None:
    once = length_of(SAMPLES / DIGITS)
    stack.maintenance()
    worker = stack.worker()
    path = repeated(DIGITS, 40, tmp_path / "long.wav")
    start = f"{2 * once:.3f}"
    undisturbed = submit(client, path, start_seconds=start)
    stack.wait_for_status(undisturbed, "completed")
    job_id = submit(client, path, start_seconds=start)
    stack.wait_for_windows(job_id, 2)

    worker.signal(signal.SIGKILL)
    worker.wait()
    partial = client.get(f"/jobs/{job_id}/result", params={"partial": "true"}).json()
    stack.worker()

    stack.wait_for_status(job_id, "completed")
    first, second = (stack.result(job) for job in (undisturbed, job_id))
    assert first is not None
    assert second is not None
    assert second.segments == first.segments
    assert first.text.split() == 38 * EIGHT
    assert first.segments[0]["start_seconds"] >= 2 * once - 0.5
    kept = [(segment["start"], segment["text"]) for segment in partial["segments"]]
    assert kept == [
        (round(segment["start_seconds"], 3), segment["text"])
        for segment in second.segments[: len(kept)]
    ]


def test_the_track_that_is_asked_for_is_written_down(
    stack: Stack, client: httpx2.Client, tmp_path: Path
) -> None:
    film = tmp_path / "film.mkv"
    film.write_bytes(media.tracks_of(SAMPLES / DIGITS, SAMPLES / "digits-es.wav"))
    stack.maintenance()
    stack.worker()
    jobs = [submit(client, film, track=str(number)) for number in (1, 2, 3)]
    for job_id in jobs:
        stack.wait_for_status(job_id, "completed", "failed")

    said = [client.get(f"/jobs/{job_id}").json() for job_id in jobs]
    assert said[0]["transcription"] == sample(DIGITS).text
    assert said[1]["transcription"] == sample("digits-es.wav").text
    assert said[2]["error_code"] == "no_such_track"


def test_a_recording_is_transcribed_once_more_in_another_way(
    stack: Stack, client: httpx2.Client
) -> None:
    """The second job owes nothing to the first, which is deleted before it is begun."""
    once = length_of(SAMPLES / DIGITS)
    stack.maintenance()
    worker = stack.worker()
    first = submit(client, SAMPLES / DIGITS, end_seconds=f"{once / 2:.3f}")
    stack.wait_for_status(first, "completed")
    worker.signal(signal.SIGTERM)
    worker.wait()
    answer = client.post(
        f"/jobs/{first}/rerun", json={"end_seconds": None, "word_timestamps": True}
    )
    assert answer.status_code == 202, answer.text
    assert client.delete(f"/jobs/{first}").is_success
    assert client.get(f"/jobs/{first}").status_code == 410
    stack.worker()

    second = uuid.UUID(answer.json()["job_id"])
    stack.wait_for_status(second, "completed", "failed")
    job = client.get(f"/jobs/{second}").json()
    result = client.get(f"/jobs/{second}/result").json()
    assert job["transcription"].split() == EIGHT
    assert job["duration"] == pytest.approx(once, abs=0.01)
    assert result["segments"][0]["words"]
    audio = client.get(f"/jobs/{second}/audio").content
    assert audio == (SAMPLES / DIGITS).read_bytes()
