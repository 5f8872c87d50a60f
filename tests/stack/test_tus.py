"""tus' own Python client, as it comes, against the service as processes: cut off, and resumed."""

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import httpx2
import pytest
from sqlalchemy import select
from tusclient.client import TusClient
from tusclient.exceptions import TusUploadFailed
from tusclient.uploader.uploader import Uploader

from jobs.parts import RESUMABLE_DIR
from models import JobStatus, ResumableUpload, TranscriptionJob
from tests.recordings import repeated, sample
from tests.stack.conftest import Process, Stack, wait_for
from tests.stack.relay import Relay

pytestmark = [pytest.mark.stack, pytest.mark.model]

KEY = "a-key-of-the-tus-tests"
SAMPLE = sample("digits-en.wav")
MB = 2**20


class Service:
    """A web process, behind a relay."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.process, self.url = stack.web(API_KEYS=KEY)
        self.wait()
        self.relay = Relay(int(self.url.rpartition(":")[2]))
        #: The client leaves closing them to others.
        self.files: list[BinaryIO] = []

    def wait(self) -> None:
        wait_for(self._ready, "the web process answers")

    def _ready(self) -> bool:
        try:
            return httpx2.get(f"{self.url}/ready").status_code == httpx2.codes.OK
        except httpx2.HTTPError:
            return False

    def again(self) -> Process:
        """Start another web process in the place of the first."""
        process = self.stack.start("web", "app.py", PORT=self.url.rpartition(":")[2], API_KEYS=KEY)
        self.wait()
        return process

    def uploader(self, path: Path, **options: object) -> Uploader:
        client = TusClient(f"{self.relay.url}/uploads", headers={"X-API-Key": KEY})
        metadata = {"filename": "talk.wav", "language": "en", "metadata": '{"a": 1}'}
        self.files.append(path.open("rb"))
        return client.uploader(file_stream=self.files[-1], metadata=metadata, **options)

    def jobs(self) -> list[TranscriptionJob]:
        with self.stack.sessions() as session:
            return list(session.scalars(select(TranscriptionJob)))

    def done(self) -> tuple[TranscriptionJob, str]:
        """The one job, and its text."""
        (job,) = self.jobs()
        self.stack.wait_for_status(job.id, JobStatus.COMPLETED)
        result = self.stack.result(job.id)
        assert result is not None
        return self.stack.job(job.id), result.text

    def parts(self) -> list[Path]:
        return list((self.stack.uploads.root / RESUMABLE_DIR).iterdir())

    def received(self) -> int:
        """Bytes of the only part."""
        return sum(part.stat().st_size for part in self.parts())


@pytest.fixture
def service(stack: Stack) -> Iterator[Service]:
    service = Service(stack)
    yield service
    service.relay.close()
    for file in service.files:
        file.close()


@pytest.fixture
def long(tmp_path: Path) -> Path:
    """A recording of some megabytes: a connection can break within it."""
    return repeated("digits-en.wav", 40, tmp_path / "long.wav")


def test_a_recording_comes_in_pieces(stack: Stack, service: Service) -> None:
    stack.worker()
    uploader = service.uploader(SAMPLE.path, chunk_size=50_000)
    uploader.upload()
    job, text = service.done()

    assert text == SAMPLE.text
    assert job.client_filename == "talk.wav"
    assert (job.language, job.client_metadata) == ("en", {"a": 1})
    assert httpx2.head(
        str(uploader.url), headers={"X-API-Key": KEY, "Tus-Resumable": "1.0.0"}
    ).headers["x-job-id"] == str(job.id)
    assert service.parts() == []


def test_pieces_are_checked(stack: Stack, service: Service) -> None:
    service.uploader(SAMPLE.path, chunk_size=100_000, upload_checksum=True).upload()

    assert [job.upload_bytes for job in service.jobs()] == [SAMPLE.path.stat().st_size]


def test_a_connection_that_breaks_is_taken_up_again(
    stack: Stack, service: Service, long: Path
) -> None:
    stack.worker()
    uploader = service.uploader(long, chunk_size=50 * MB, retries=0)
    uploader.upload(stop_at=1)  # its address is known from here on
    service.relay.cut_after = 2 * MB
    with pytest.raises(TusUploadFailed):
        uploader.upload()
    assert service.jobs() == []
    service.relay.cut_after = None
    wait_for(lambda: service.received() > MB, "what came is kept")
    again = service.uploader(long, url=uploader.url, retries=50, retry_delay=1)

    assert MB < again.offset < long.stat().st_size
    again.upload()
    job, text = service.done()
    assert job.upload_bytes == long.stat().st_size
    assert (stack.uploads.path(job.id)).read_bytes() == long.read_bytes()
    assert len(text.split()) >= 40


def test_a_web_process_that_is_killed_costs_nothing_that_it_wrote(
    stack: Stack, service: Service, long: Path
) -> None:
    stack.worker()
    uploader = service.uploader(long, chunk_size=50 * MB, retries=0)
    uploader.upload(stop_at=1)
    service.relay.cut_after = 4 * MB
    service.relay.patience.clear()
    sender = threading.Thread(target=lambda: _fail(uploader))
    sender.start()
    wait_for(lambda: service.received() > MB, "some of it came")
    service.process.kill()
    service.relay.patience.set()
    sender.join(60)
    service.relay.cut_after = None
    assert service.jobs() == []
    service.again()
    kept = service.received()
    again = service.uploader(long, url=uploader.url, retries=50, retry_delay=1)

    assert again.offset == kept
    again.upload()
    job, text = service.done()
    assert (stack.uploads.path(job.id)).read_bytes() == long.read_bytes()
    assert len(text.split()) >= 40


def _fail(uploader: Uploader) -> None:
    with contextlib.suppress(Exception):
        uploader.upload()


def test_an_answer_that_was_lost_makes_no_second_job(stack: Stack, service: Service) -> None:
    """All of it came, and the process died before it could say so."""
    stack.worker()
    uploader = service.uploader(SAMPLE.path, chunk_size=50 * MB, retries=0)
    uploader.upload(stop_at=1)
    (part,) = service.parts()
    part.write_bytes(SAMPLE.path.read_bytes())
    service.process.kill()
    service.again()
    service.uploader(SAMPLE.path, url=uploader.url, chunk_size=50 * MB).upload()
    again = service.uploader(SAMPLE.path, url=uploader.url)
    job, text = service.done()

    assert again.offset == SAMPLE.path.stat().st_size
    assert text == SAMPLE.text
    with stack.sessions() as session:
        (row,) = session.scalars(select(ResumableUpload))
    assert row.job_id == job.id


def test_several_web_processes_take_turns(stack: Stack, service: Service, long: Path) -> None:
    _, other = stack.web(API_KEYS=KEY)
    wait_for(lambda: _answers(other), "the other web process answers")
    uploader = service.uploader(long, chunk_size=MB)
    uploader.upload(stop_at=1)
    path = str(uploader.url).rpartition("/uploads")[2]
    headers = {"X-API-Key": KEY, "Tus-Resumable": "1.0.0"}
    data = long.read_bytes()
    offset, urls = 1, [service.url, other]
    while offset < len(data):
        urls.reverse()
        answer = httpx2.patch(
            f"{urls[0]}/uploads{path}",
            content=data[offset : offset + MB],
            headers={
                **headers,
                "Upload-Offset": str(offset),
                "Content-Type": "application/offset+octet-stream",
            },
        )
        offset = int(answer.headers["upload-offset"])
    (job,) = service.jobs()

    assert (stack.uploads.path(job.id)).read_bytes() == data


def _answers(url: str) -> bool:
    try:
        return httpx2.get(f"{url}/ready").status_code == httpx2.codes.OK
    except httpx2.HTTPError:
        return False
