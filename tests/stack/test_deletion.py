"""What is deleted, on real processes: looked for in a dump, in Redis, in every log and file."""

import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest
from sqlalchemy import make_url, text

from local_servers.postgres import PostgresServer
from tests.recordings import SAMPLES, sample
from tests.stack import canaries
from tests.stack.conftest import Stack, wait_for

pytestmark = [pytest.mark.stack, pytest.mark.model]

LABEL = "canarylabel77"
PROMPT = "canaryprompt77"
SAME = "canary-idempotency-77"
SHORT = SAMPLES / "digits-en.wav"
#: Digits are said in this order in no other place.
SPOKEN = " ".join(sample("digits-en.wav").text.split()[:3])


@dataclass(frozen=True)
class Service:
    """The service as its client and its operator see it."""

    stack: Stack
    http: httpx2.Client
    postgres: PostgresServer

    def submit(self) -> uuid.UUID:
        answer = self.http.post(
            "/transcribe",
            files={"file": (canaries.NAME, SHORT.read_bytes())},
            data={"initial_prompt": PROMPT, "metadata": f'{{"label": "{LABEL}"}}'},
            headers={"Idempotency-Key": SAME},
        )
        assert answer.status_code == 202, answer.text
        return uuid.UUID(answer.json()["job_id"])

    def places(self) -> dict[str, bytes]:
        """All that is kept anywhere, by where."""
        folder = self.stack.folder
        files = {
            str(path.relative_to(folder)): path.read_bytes() + path.name.encode()
            for path in folder.rglob("*")
            if path.is_file()
        }
        return {**files, "pg_dump": self._dump(), "redis": self._redis()}

    def _dump(self) -> bytes:
        url = make_url(self.stack.environment["DATABASE_URL"]).set(drivername="postgresql")
        command = [str(pg_dump(self.postgres)), url.render_as_string(hide_password=False)]
        return subprocess.run(command, capture_output=True, check=True).stdout

    def _redis(self) -> bytes:
        keys = list(self.stack.redis.scan_iter())
        return b"\n".join(key + (self.stack.redis.dump(key) or b"") for key in keys)


def pg_dump(server: PostgresServer) -> Path:
    return server._program("pg_dump")


@pytest.fixture
def service(stack: Stack, postgres_server: PostgresServer) -> Iterator[Service]:
    stack.environment["LEASE_SECONDS"] = "60"
    _, url = stack.web(API_KEYS=canaries.KEY)
    headers = {"X-API-Key": canaries.KEY}
    with httpx2.Client(base_url=url, headers=headers, timeout=60, trust_env=False) as http:
        service = Service(stack, http, postgres_server)
        wait_for(lambda: answers(http), "the web process answers")
        yield service


def answers(http: httpx2.Client) -> bool:
    try:
        return http.get("/ready").status_code == httpx2.codes.OK
    except httpx2.HTTPError:
        return False


def places_of(service: Service, *words: str) -> set[str]:
    """Where one of these words is."""
    found = service.places()
    return {place for place, held in found.items() if any(w.encode() in held for w in words)}


WORDS = (canaries.NAME, LABEL, PROMPT, SAME, SPOKEN)


def check_gone(service: Service, job_id: uuid.UUID, upload: bytes, by: str) -> None:
    assert places_of(service, *WORDS) == set()
    held = service.places()
    assert [place for place, content in held.items() if upload[1000:2000] in content] == []
    assert not service.stack.uploads.path(job_id).exists()
    # and the dump is one: it has what is left of the job
    assert str(job_id).encode() in held["pg_dump"]
    answer = service.http.get(f"/jobs/{job_id}")
    told = answer.json()
    assert (answer.status_code, told["code"], told["deleted_by"]) == (410, "job_deleted", by)


@pytest.mark.security("secrets", "what a deleted job said, in a dump, Redis, logs and files")
def test_of_a_deleted_job_no_word_is_left_anywhere(service: Service) -> None:
    service.stack.worker()
    service.stack.maintenance()
    job_id = service.submit()
    service.stack.wait_for_status(job_id, "completed")
    before = places_of(service, *WORDS)
    service.http.delete(f"/jobs/{job_id}").raise_for_status()

    assert "pg_dump" in before
    check_gone(service, job_id, SHORT.read_bytes(), "client")


@pytest.mark.security("secrets", "what a job said whose time is over, in dump, Redis, logs, files")
def test_after_its_retention_no_word_of_a_job_is_left_anywhere(service: Service) -> None:
    service.stack.worker()
    job_id = service.submit()
    service.stack.wait_for_status(job_id, "completed")
    due = text("SELECT completed_at < now() - interval '1 s' FROM transcription_jobs")

    def is_due() -> bool:
        with service.stack.sessions() as session:
            return bool(session.scalar(due))

    wait_for(is_due, "its time is over")
    service.stack.maintenance(TRANSCRIPT_RETENTION="1s")
    gone = lambda: service.http.get(f"/jobs/{job_id}").status_code == 410  # noqa: E731
    wait_for(gone, "it is deleted")

    check_gone(service, job_id, SHORT.read_bytes(), "retention")
