"""What Prometheus sees of running processes, while jobs are done, fail, and workers are killed."""

import signal
import socket
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest

from tests.metrics.test_exporter import value
from tests.recordings import SAMPLES, repeated
from tests.stack.conftest import Process, Stack, wait_for

pytestmark = [pytest.mark.stack, pytest.mark.model]

KEY = "an-operators-own-words"
SHORT = SAMPLES / "digits-en.wav"
Read = Callable[..., float]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def maintenance(stack: Stack, port: int) -> Process:
    return stack.maintenance(METRICS_PORT=str(port))


@pytest.fixture
def read(maintenance: Process, port: int) -> Read:
    """Look at one value; what is not there is 0."""

    def look(name: str, **labels: str) -> float:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
            text = answer.read().decode()
        return value(text, name, **labels) or 0.0

    return look


def becomes(read: Read, wanted: float, name: str, **labels: str) -> None:
    wait_for(lambda: read(name, **labels) == wanted, f"{name} {labels} is {wanted}")


def test_jobs_that_are_done_fail_and_are_cancelled_are_counted(stack: Stack, read: Read) -> None:
    waiting = stack.submit(SHORT, priority="high", ring=False, audio_seconds=7.5)
    wait_for(lambda: read("audio_seconds", lane="high", state="due") == 7.5, "it waits")
    assert read("jobs", lane="high", state="due") == 1
    assert read("processes", role="worker") == 0

    stack.worker()
    stack.wait_for_status(waiting, "completed")
    broken = stack.folder / "broken.wav"
    broken.write_bytes(b"no audio" * 100)
    stack.wait_for_status(stack.submit(broken), "failed")
    becomes(read, 1, "jobs_ended_total", status="failed", reason="not_audio")

    assert read("jobs_submitted_total", priority="high") == 1
    assert read("jobs_submitted_total", priority="normal") == 1
    assert read("jobs_ended_total", status="completed", reason="") == 1
    assert read("attempts_total", outcome="failed", code="not_audio") == 1
    assert read("wait_seconds_count", lane="high") == 1
    assert read("jobs", lane="high", state="due") == 0
    assert read("slots") == 2
    model = {"engine": "openai-whisper", "model": "demo", "device": "cpu"}
    becomes(read, 1, "loaded_models", **model)
    wait_for(lambda: read("transcribed_audio_seconds_total", **model), "it is counted")
    assert read("transcribed_audio_seconds_total", **model) == pytest.approx(7.5)
    assert read("transcribing_seconds_total", **model) > 0
    becomes(read, 1, "model_loads_total")


def test_a_killed_worker_takes_no_counts_back(stack: Stack, read: Read, tmp_path: Path) -> None:
    worker = stack.worker()
    stack.wait_for_status(stack.submit(SHORT), "completed")
    becomes(read, 1, "model_loads_total")
    job_id = stack.submit(repeated("digits-en.wav", 60, tmp_path / "long.wav"))
    stack.wait_for_windows(job_id, 1)
    worker.kill()
    becomes(read, 1, "attempts_total", outcome="crashed", code="worker_lost")
    becomes(read, 1, "condition", condition="worker_silent", severity="warning")

    assert read("model_loads_total") == 1
    assert read("jobs_ended_total", status="completed", reason="") == 1
    stack.worker()
    stack.wait_for_status(job_id, "completed")
    becomes(read, 2, "jobs_ended_total", status="completed", reason="")


def test_a_frozen_worker_whose_job_is_anothers_is_fenced_off(
    stack: Stack, read: Read, tmp_path: Path
) -> None:
    frozen = stack.worker()
    job_id = stack.submit(repeated("digits-en.wav", 100, tmp_path / "long.wav"))
    stack.wait_for_windows(job_id, 1)
    frozen.signal(signal.SIGSTOP)
    becomes(read, 1, "attempts_total", outcome="crashed", code="worker_lost")
    frozen.signal(signal.SIGCONT)
    becomes(read, 1, "fences_total")


def test_a_drained_worker_hands_back_and_a_retry_is_one(
    stack: Stack, read: Read, tmp_path: Path
) -> None:
    worker = stack.worker(DRAIN_SECONDS="0")
    job_id = stack.submit(repeated("digits-en.wav", 100, tmp_path / "long.wav"))
    stack.wait_for_windows(job_id, 1)
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0

    becomes(read, 1, "attempts_total", outcome="handed_back", code="")
    # what it counted is written before it ends
    model = {"engine": "openai-whisper", "model": "demo", "device": "cpu"}
    assert read("transcribed_audio_seconds_total", **model) > 0


def test_what_clients_do_is_counted_by_route_and_nothing_that_they_say_is_a_label(
    stack: Stack, read: Read, port: int
) -> None:
    _, url = stack.web(API_KEYS=KEY)
    with httpx2.Client(base_url=url, headers={"X-API-Key": KEY}, trust_env=False) as client:
        wait_for(lambda: answers(client), "the web process answers")
        for _ in range(3):
            client.get("/jobs/00000000-0000-7000-8000-000000000000")
        client.get("/hunter2-is-no-route")
        client.request("HUNTER", "/jobs")
        sent = client.post("/transcribe/", files={"file": ("hunter2.wav", SHORT.read_bytes())})
        client.post(f"/jobs/{sent.json()['id']}/cancel").raise_for_status()
        metrics = client.get("/metrics")
    becomes(read, 3, "http_requests_total", method="GET", route="/jobs/{job_id}", status="404")
    becomes(read, 1, "jobs_ended_total", status="cancelled", reason="")

    assert metrics.status_code == 404  # not at the public port
    assert read("http_request_seconds_count", route="/jobs/{job_id}") == 3
    assert read("http_requests_total", method="GET", route="none", status="404") >= 1
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        text = answer.read().decode()
    assert not {"hunter", "tests", KEY, "anonymous"} & {*text.lower().split('"')}
    assert "hunter" not in text.lower()


def answers(client: httpx2.Client) -> bool:
    try:
        return client.get("/ready").status_code == httpx2.codes.OK
    except httpx2.HTTPError:
        return False


def test_nobody_listens_in_other_processes(stack: Stack, port: int) -> None:
    stack.worker(METRICS_PORT=str(port))
    _, url = stack.web(METRICS_PORT=str(port), API_KEYS=KEY)
    with httpx2.Client(base_url=url, trust_env=False) as client:
        wait_for(lambda: answers(client), "the web process answers")
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5)
