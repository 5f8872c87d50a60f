"""Recordings that a service that works fetches, whatever breaks and whoever is killed."""

import hashlib
import re
import signal
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import httpx2
import pytest
from sqlalchemy import func, update

from models import UploadFetch
from tests.fetching.conftest import Place
from tests.outgoing.conftest import serve
from tests.outgoing.servers import Serve
from tests.recordings import SAMPLES
from tests.stack.conftest import Stack, wait_for

__all__ = ["serve"]

pytestmark = pytest.mark.stack

KEY = "an-operators-own-words"
RECORDING = (SAMPLES / "digits-en.wav").read_bytes()
HALF = len(RECORDING) // 2
SECRET = "canary-of-a-signature-4be1"


@pytest.fixture
def place(serve: Serve, stack: Stack) -> Place:
    made = Place(body=RECORDING)
    made.server = serve(made.answer)
    stack.secrets |= {SECRET, "canary-of-a-talk"}
    stack.environment |= {
        "SOURCE_URLS": "true",
        "SOURCE_RETRY_SECONDS": "0.05",
        "MAX_UPLOAD_SIZE_MB": "1",
        "OUTGOING_ALLOWED_NETWORKS": "127.0.0.0/8",
        "OUTGOING_ALLOW_HTTP": "true",
        "OUTGOING_PORTS": str(made.server.port),
    }
    return made


@pytest.fixture
def client(stack: Stack, place: Place) -> Iterator[httpx2.Client]:
    _, url = stack.web(API_KEYS=KEY)
    headers = {"X-API-Key": KEY}
    with httpx2.Client(base_url=url, headers=headers, timeout=60, trust_env=False) as client:

        def is_ready() -> bool:
            try:
                return client.get("/ready").is_success
            except httpx2.HTTPError:
                return False

        wait_for(is_ready, "the web process answers")
        yield client


@pytest.fixture
def submit(client: httpx2.Client, place: Place) -> Callable[..., str]:
    def post(host: str = "127.0.0.1") -> str:
        assert place.server is not None
        url = f"http://{host}:{place.server.port}/canary-of-a-talk.wav?signature={SECRET}"
        answer = client.post("/transcribe", files={"source_url": (None, url)})
        job_id: str = answer.raise_for_status().json()["job_id"]
        return job_id

    return post


@pytest.fixture
def shown(client: httpx2.Client) -> Callable[[str], dict[str, Any]]:
    def look(job_id: str) -> dict[str, Any]:
        found: dict[str, Any] = client.get(f"/jobs/{job_id}").raise_for_status().json()
        return found

    return look


def is_here(job: dict[str, Any], body: bytes = RECORDING) -> bool:
    return bool(job["upload_sha256"] == hashlib.sha256(body).hexdigest())


@pytest.mark.model
def test_a_recording_elsewhere_becomes_a_transcript(
    stack: Stack, place: Place, submit: Callable[..., str], shown: Callable[..., Any]
) -> None:
    place.statuses, place.cuts = [500, 503], [HALF]
    stack.worker()
    stack.maintenance()
    fetcher = stack.webhooks()
    job_id = submit()
    done = wait_for(
        lambda: (job := shown(job_id))["status"] in {"completed", "failed"} and job, "it ended"
    )
    fetcher.signal(signal.SIGTERM)

    assert (done["status"], is_here(done)) == ("completed", True)
    assert done["transcription"]
    assert (done["upload_bytes"], done["source_bytes"]) == 2 * (len(RECORDING),)
    assert place.sent == [(0, HALF), (HALF, len(RECORDING))]
    assert fetcher.wait() == 0


def test_a_fetcher_that_is_killed_leaves_the_rest_to_the_next_one(
    stack: Stack, place: Place, submit: Callable[..., str], shown: Callable[..., Any]
) -> None:
    place.drips = True
    job_id = submit()
    first = stack.webhooks()
    wait_for(lambda: shown(job_id)["upload_bytes"], "something is here")
    first.kill()
    here_bytes = shown(job_id)["upload_bytes"]
    place.drips = False
    with stack.sessions.begin() as session:
        # as when its time is over
        session.execute(update(UploadFetch).values(due_at=func.now() - timedelta(seconds=1)))
    stack.webhooks()
    wait_for(lambda: is_here(shown(job_id)), "all of it is here")
    (asked,) = re.findall(r"range: bytes=([0-9]+)-\r\n", place.requests[-1].lower())

    assert HALF <= here_bytes < len(RECORDING)
    assert int(asked) == here_bytes
    assert place.sent == [(0, len(RECORDING)), (here_bytes, len(RECORDING))]
    assert stack.uploads.path(uuid.UUID(job_id)).read_bytes() == RECORDING


def test_each_way_to_fail_has_its_code(
    stack: Stack, place: Place, submit: Callable[..., str], shown: Callable[..., Any]
) -> None:
    stack.webhooks(OUTGOING_ALLOWED_NETWORKS="127.0.0.1/32")

    def ended(job_id: str) -> dict[str, Any]:
        found: dict[str, Any] = wait_for(
            lambda: (job := shown(job_id))["status"] == "failed" and job, "it failed"
        )
        return found

    place.statuses = [404]
    gone = ended(submit())
    private = ended(submit("127.0.0.2"))
    place.body = bytes(2**20 + 1)
    large = ended(submit())

    assert (gone["failure_reason"], gone["error_message"]) == (
        "source_refused",
        "The other server answered 404.",
    )
    assert private["failure_reason"] == "address_refused"
    assert large["failure_reason"] == "upload_too_large"
    assert [job["links"]["audio"] for job in (gone, private, large)] == 3 * [None]


def test_another_recording_under_the_address_is_fetched_anew(
    stack: Stack, place: Place, submit: Callable[..., str], shown: Callable[..., Any]
) -> None:
    other = RECORDING[:44] + RECORDING[:43:-1]

    def change(_: Place) -> None:
        place.body, place.etag = other, '"2"'

    place.cuts, place.after_cut = [HALF], change
    stack.webhooks()
    job_id = submit()
    wait_for(lambda: is_here(shown(job_id), other), "the other one is here")

    assert place.sent == [(0, HALF), (0, len(other))]


def test_without_a_fetcher_it_waits_and_is_cancelled(
    stack: Stack, place: Place, client: httpx2.Client, submit: Callable[..., str]
) -> None:
    worker = stack.maintenance()
    job_id = submit()
    waiting = client.get(f"/jobs/{job_id}").json()
    cancelled = client.post(f"/jobs/{job_id}/cancel").json()
    stack.webhooks()
    wait_for(lambda: not _fetches(stack), "it is forgotten")

    assert (waiting["status"], waiting["current_step"]) == ("pending", "fetching")
    assert cancelled["status"] == "cancelled"
    assert place.server is not None
    assert place.server.hits() == 0
    assert worker.popen.poll() is None


def _fetches(stack: Stack) -> int:
    with stack.sessions() as session:
        return session.query(UploadFetch).count()
