"""Cancelling over HTTP, with a worker at work: at once, within a window, and nothing is left."""

import socket
import struct
import uuid
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import psutil
import pytest
from sqlalchemy import func, select

from models import TranscriptionJob
from solo import LOCK_NAME
from tests.recordings import SAMPLES, repeated
from tests.stack.conftest import Process, Stack, wait_for

pytestmark = [pytest.mark.stack, pytest.mark.model]

KEY = "an-operators-own-words"
SHORT = SAMPLES / "digits-en.wav"


@pytest.fixture
def client(stack: Stack) -> Iterator[httpx2.Client]:
    # a worker must not be taken for dead on a busy machine
    stack.environment["LEASE_SECONDS"] = "60"
    _, url = stack.web(API_KEYS=KEY)
    with httpx2.Client(
        base_url=url, headers={"X-API-Key": KEY}, timeout=60, trust_env=False
    ) as client:
        wait_for(lambda: answers(client), "the web process answers")
        yield client


def answers(client: httpx2.Client) -> bool:
    try:
        return client.get("/ready").status_code == httpx2.codes.OK
    except httpx2.HTTPError:
        return False


@pytest.fixture
def long_recording(tmp_path: Path) -> Path:
    return repeated("digits-en.wav", 60, tmp_path / "long.wav")


def cancel(client: httpx2.Client, job_id: uuid.UUID) -> tuple[int, str]:
    """Status of the answer, and the job's status or the problem's code."""
    answer = client.post(f"/jobs/{job_id}/cancel")
    body = answer.json()
    return answer.status_code, body["code"] if answer.is_error else body["status"]


def nothing_runs_for(stack: Stack, worker: Process) -> bool:
    scratch = stack.folder / "scratch"
    left = [path for path in scratch.glob("*") if path.name != LOCK_NAME]
    return not left and not psutil.Process(worker.popen.pid).children(recursive=True)


def test_a_job_that_waits_is_cancelled_at_once_and_never_begun(
    stack: Stack, client: httpx2.Client
) -> None:
    job_id = stack.submit(SHORT)
    first, second = cancel(client, job_id), cancel(client, job_id)
    worker = stack.worker()
    wait_for(lambda: worker.said("nothing to do for this message"), "the message did nothing")

    assert (first, second) == ((200, "cancelled"), (409, "job_finished"))
    assert (stack.job(job_id).status, stack.job(job_id).lease_epoch) == ("cancelled", 0)


def test_a_running_job_keeps_no_further_window_and_leaves_nothing_behind(
    stack: Stack, client: httpx2.Client, long_recording: Path
) -> None:
    worker = stack.worker()
    job_id = stack.submit(long_recording)
    stack.wait_for_windows(job_id, 1)

    first, second = cancel(client, job_id), cancel(client, job_id)
    kept = len(stack.windows(job_id))
    job = stack.wait_for_status(job_id, "cancelled", "completed")

    assert (first, second) == ((202, "processing"), (202, "processing"))
    assert (job.status, job.worker_name) == ("cancelled", None)
    assert len(stack.windows(job_id)) == kept
    assert cancel(client, job_id) == (409, "job_finished")
    assert client.get(f"/jobs/{job_id}/result").json()["code"] == "no_result"
    wait_for(lambda: nothing_runs_for(stack, worker), "nothing is left of it")
    # and the worker goes on
    stack.wait_for_status(stack.submit(SHORT), "completed")


def test_a_suspects_own_process_ends_with_it(
    stack: Stack, client: httpx2.Client, long_recording: Path
) -> None:
    job_id = stack.submit(long_recording, ring=False)
    with stack.sessions.begin() as session:
        session.get_one(TranscriptionJob, job_id).isolate = True
    stack.ring(job_id, "normal")
    worker = stack.worker()
    stack.wait_for_windows(job_id, 1)
    child = psutil.Process(worker.popen.pid).children(recursive=True)
    asked = cancel(client, job_id)
    job = stack.wait_for_status(job_id, "cancelled", "completed")

    assert len(child) == 1
    assert (asked, job.status) == ((202, "processing"), "cancelled")
    wait_for(lambda: nothing_runs_for(stack, worker), "nothing is left of it")


@pytest.mark.parametrize("status", ["completed", "failed"])
def test_a_job_that_has_ended_is_not_cancelled(
    stack: Stack, client: httpx2.Client, status: str
) -> None:
    stack.worker()
    job_id = stack.submit(SHORT if status == "completed" else Path(__file__))
    stack.wait_for_status(job_id, status)

    assert cancel(client, job_id) == (409, "job_finished")
    assert stack.job(job_id).status == status


def test_the_upload_of_a_cancelled_job_is_deleted_when_its_time_is_over(
    stack: Stack, client: httpx2.Client
) -> None:
    job_id = stack.submit(SHORT)
    cancel(client, job_id)
    kept = stack.uploads.path(job_id).exists()
    stack.maintenance(AUDIO_RETENTION="0.001s")
    wait_for(lambda: stack.job(job_id).upload_deleted_at, "its time is over")

    assert kept
    assert not stack.uploads.path(job_id).exists()


@pytest.mark.parametrize("rudely", [False, True])
def test_an_upload_that_is_broken_off_leaves_no_job_and_no_file(
    stack: Stack, client: httpx2.Client, rudely: bool
) -> None:
    address = urlsplit(str(client.base_url))
    head = (
        "POST /transcribe HTTP/1.1\r\nHost: localhost\r\n"
        f"X-API-Key: {KEY}\r\nContent-Length: 50000000\r\n"
        "Content-Type: multipart/form-data; boundary=b\r\n\r\n"
        '--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
    )
    with socket.create_connection((address.hostname or "", address.port or 0)) as sender:
        sender.sendall(head.encode() + bytes(5_000_000))
        wait_for(lambda: parts(stack), "the upload is being received")
        if rudely:  # a reset, as of a machine that vanished
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wait_for(lambda: not parts(stack), "what came of it is deleted")

    with stack.sessions() as session:
        assert session.scalar(select(func.count()).select_from(TranscriptionJob)) == 0
    assert list(stack.uploads.stored_before(2**40)) == []


def parts(stack: Stack) -> list[Path]:
    return list((stack.uploads.root / ".part").iterdir())
