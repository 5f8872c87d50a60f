"""OpenAI's own Python package, as it comes, against the service as processes."""

import asyncio
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from sqlalchemy import func, select, text

from models import JobStatus, TranscriptionJob
from tests.recordings import PROJECT_DIR, repeated, sample
from tests.stack.conftest import Process, Stack, wait_for

pytestmark = [pytest.mark.stack, pytest.mark.model]

KEY = "a-key-of-the-openai-tests"
SAMPLE = sample("digits-en.wav")


class Service:
    """A web process, and the package's client of it."""

    def __init__(self, stack: Stack, **variables: str) -> None:
        self.stack = stack
        self.process, self.url = stack.web(API_KEYS=KEY, **variables)
        self.wait()

    def wait(self) -> None:
        wait_for(self._ready, "the web process answers")

    def _ready(self) -> bool:
        try:
            return httpx2.get(f"{self.url}/ready").status_code == httpx2.codes.OK
        except httpx2.HTTPError:
            return False

    def client(self, **options: int) -> OpenAI:
        return OpenAI(base_url=f"{self.url}/v1", api_key=KEY, **options)  # type: ignore[arg-type]

    def again(self) -> Process:
        """Start another web process in the place of the first."""
        port = self.url.rpartition(":")[2]
        process = self.stack.start("web", "app.py", PORT=port, API_KEYS=KEY)
        self.wait()
        return process

    def jobs(self) -> int:
        with self.stack.sessions() as session:
            return session.scalar(select(func.count(TranscriptionJob.id))) or 0

    def status(self) -> str | None:
        with self.stack.sessions() as session:
            return session.scalar(select(TranscriptionJob.status))


@pytest.fixture
def service(stack: Stack) -> Service:
    return Service(stack)


@pytest.fixture
def client(service: Service) -> Iterator[OpenAI]:
    with service.client() as client:
        yield client


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor() as pool:
        yield pool


def transcribe(client: OpenAI, path: Path = SAMPLE.path) -> str:
    with path.open("rb") as file:
        return client.audio.transcriptions.create(model="whisper-1", file=file).text


def test_every_format_is_read_by_the_package(stack: Stack, client: OpenAI) -> None:
    stack.worker()
    create = client.audio.transcriptions.create
    json = create(model="whisper-1", file=SAMPLE.path)
    plain = create(model="whisper-1", file=SAMPLE.path, response_format="text")
    srt = create(model="whisper-1", file=SAMPLE.path, response_format="srt")
    vtt = create(model="whisper-1", file=SAMPLE.path, response_format="vtt")
    whole = create(model="whisper-1", file=SAMPLE.path, response_format="verbose_json")
    words = create(
        model="whisper-1",
        file=SAMPLE.path,
        response_format="verbose_json",
        timestamp_granularities=["word", "segment"],
    )

    assert json.text == whole.text == SAMPLE.text
    assert plain == f"{SAMPLE.text}\n"
    assert srt.startswith("1\n00:00:0")
    assert vtt.startswith("WEBVTT\n\n00:00:0")
    assert whole.language == "english"
    assert [word.word for word in words.words or ()] == SAMPLE.text.split()
    assert words.segments
    assert words.segments[0].end <= words.duration


def test_many_are_waited_for_at_once_by_the_asynchronous_client(
    stack: Stack, service: Service, tmp_path: Path
) -> None:
    stack.worker()
    paths = [repeated("digits-en.wav", 1 + n, tmp_path / f"{n}.wav") for n in range(4)]

    async def run() -> list[str]:
        async with AsyncOpenAI(base_url=f"{service.url}/v1", api_key=KEY) as client:
            create = client.audio.transcriptions.create
            calls = [create(model="whisper-1", file=path) for path in paths]
            return [answer.text for answer in await asyncio.gather(*calls)]

    lengths = [len(text.split()) for text in asyncio.run(run())]

    assert lengths == sorted(set(lengths))


def test_the_package_finds_the_models(client: OpenAI) -> None:
    assert "whisper-1" in {model.id for model in client.models.list()}
    assert client.models.retrieve("whisper-1").owned_by == "openai"


def test_refusals_are_the_packages_own_errors(
    stack: Stack, client: OpenAI, service: Service, tmp_path: Path
) -> None:
    stack.worker()
    noise = tmp_path / "a.mp3"
    noise.write_bytes(b"no sound at all" * 100)
    with pytest.raises(openai.NotFoundError, match="model"):
        client.audio.transcriptions.create(model="gpt-9", file=SAMPLE.path)
    with pytest.raises(openai.BadRequestError) as caught:
        client.audio.transcriptions.create(model="whisper-1", file=noise)
    with (
        OpenAI(base_url=f"{service.url}/v1", api_key="nobody's") as stranger,
        pytest.raises(openai.AuthenticationError),
    ):
        stranger.models.list()

    assert caught.value.code == "not_audio"


def test_a_web_process_that_is_killed_costs_no_transcript(
    stack: Stack, service: Service, pool: ThreadPoolExecutor
) -> None:
    with service.client(max_retries=20) as client:
        answer = pool.submit(transcribe, client)
        wait_for(lambda: service.jobs() == 1, "the job is there")
        service.process.kill()
        service.again()
        stack.maintenance()  # which publishes what the one that was killed may not have
        stack.worker()

        assert answer.result(timeout=120) == SAMPLE.text
    assert service.jobs() == 1


def test_a_wait_that_is_over_is_taken_up_again(stack: Stack, pool: ThreadPoolExecutor) -> None:
    service = Service(stack, OPENAI_WAIT_SECONDS="0.5")
    with service.client(max_retries=20) as client:
        answer = pool.submit(transcribe, client)
        wait_for(lambda: service.process.said("504"), "a wait was over")
        stack.worker()

        assert answer.result(timeout=120) == SAMPLE.text
    assert service.jobs() == 1


def test_a_listener_that_is_cut_off_hears_of_it_all_the_same(
    stack: Stack, service: Service, pool: ThreadPoolExecutor
) -> None:
    cut = text(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
        " WHERE application_name = 'transcription-web-hub' AND datname = current_database()"
    )

    def cut_off() -> bool:
        with stack.sessions() as session:
            return bool(session.scalar(cut))

    with service.client(max_retries=0) as client:
        answer = pool.submit(transcribe, client)
        wait_for(cut_off, "somebody listens")
        stack.worker()

        assert answer.result(timeout=120) == SAMPLE.text


def test_whoever_hangs_up_takes_no_job_with_him(stack: Stack, service: Service) -> None:
    with (
        service.client(max_retries=0, timeout=15) as client,
        pytest.raises(openai.APITimeoutError),
    ):
        transcribe(client)
    stack.worker()

    def done() -> bool:
        with stack.sessions() as session:
            return session.scalar(select(TranscriptionJob.status)) == JobStatus.COMPLETED

    assert wait_for(done, "the job is done")


@pytest.mark.parametrize("variables", [{}, {"WEB_CONCURRENCY": "2"}])
def test_the_text_is_streamed_as_windows_are_done(
    stack: Stack, tmp_path: Path, variables: dict[str, str]
) -> None:
    service = Service(stack, **variables)
    stack.worker()
    long = repeated("digits-en.wav", 30, tmp_path / "long.wav")
    first_seen_as = None
    with service.client() as client:
        deltas, done = [], None
        stream = client.audio.transcriptions.create(model="whisper-1", file=long, stream=True)
        for event in stream:
            if event.type == "transcript.text.delta":
                first_seen_as = first_seen_as or service.status()
                deltas.append(event.delta)
            elif event.type == "transcript.text.done":
                done = event

    assert first_seen_as == JobStatus.PROCESSING
    assert len(deltas) > 1
    # one of several processes, killed, would leave the others behind
    service.process.signal(signal.SIGTERM)
    service.process.wait()
    assert done
    assert done.usage
    assert "".join(deltas) == done.text
    assert done.usage.output_tokens > len(done.text.split())


def test_many_are_streamed_at_once_by_the_asynchronous_client(
    stack: Stack, service: Service, tmp_path: Path
) -> None:
    stack.worker()
    paths = [repeated("digits-en.wav", 1 + n, tmp_path / f"{n}.wav") for n in range(4)]

    async def read(client: AsyncOpenAI, path: Path) -> str:
        create = client.audio.transcriptions.create
        said = ""
        async for event in await create(model="whisper-1", file=path, stream=True):
            said += event.delta if event.type == "transcript.text.delta" else ""
        return said

    async def run() -> list[str]:
        async with AsyncOpenAI(base_url=f"{service.url}/v1", api_key=KEY) as client:
            return list(await asyncio.gather(*(read(client, path) for path in paths)))

    lengths = [len(text.split()) for text in asyncio.run(run())]

    assert lengths == sorted(set(lengths))


def test_a_job_that_fails_in_a_stream_is_the_packages_own_error(
    stack: Stack, client: OpenAI, tmp_path: Path
) -> None:
    stack.worker()
    noise = tmp_path / "a.mp3"
    noise.write_bytes(b"no sound at all" * 100)
    with (
        client.audio.transcriptions.create(model="whisper-1", file=noise, stream=True) as stream,
        pytest.raises(openai.APIError) as caught,
    ):
        list(stream)

    assert caught.value.code == "not_audio"


def test_a_stream_that_is_dropped_is_taken_up_from_its_beginning(
    stack: Stack, service: Service, client: OpenAI, tmp_path: Path
) -> None:
    stack.worker()
    long = repeated("digits-en.wav", 30, tmp_path / "long.wav")
    create = client.audio.transcriptions.create
    with create(model="whisper-1", file=long, stream=True) as stream:
        first = next(stream)
    with create(model="whisper-1", file=long, stream=True) as stream:
        told = list(stream)

    assert told[0] == first
    assert told[-1].type == "transcript.text.done"
    assert service.jobs() == 1


def test_a_stream_whose_web_process_stops_ends_at_once_and_loses_nothing(
    stack: Stack, service: Service, client: OpenAI
) -> None:
    with client.audio.transcriptions.create(
        model="whisper-1", file=SAMPLE.path, stream=True
    ) as stream:
        wait_for(lambda: service.jobs() == 1, "the job is there")
        service.process.signal(signal.SIGTERM)
        with pytest.raises(openai.APIError, match="the job goes on"):
            list(stream)
    service.process.wait()
    assert not service.process.said("graceful shutdown exceeded")
    service.again()
    stack.maintenance()
    stack.worker()

    assert transcribe(client) == SAMPLE.text
    assert service.jobs() == 1


def test_a_web_process_that_stops_ends_the_waits_with_what_may_be_tried_again(
    service: Service, pool: ThreadPoolExecutor
) -> None:
    with service.client(max_retries=0) as client:
        answer = pool.submit(transcribe, client)
        wait_for(lambda: service.jobs() == 1, "the job is there")
        service.process.signal(signal.SIGTERM)
        with pytest.raises(openai.InternalServerError) as caught:
            answer.result(timeout=120)

    assert caught.value.status_code == 503
    assert caught.value.response.headers["x-should-retry"] == "true"
    assert caught.value.response.headers["x-job-id"]


def test_the_example_that_is_told_does_what_it_says(
    stack: Stack, service: Service, tmp_path: Path
) -> None:
    stack.worker()
    paper = (PROJECT_DIR / "docs/openai.md").read_text("utf-8")
    example, _streamed = re.findall(r"^```python\n(.*?)^```", paper, re.MULTILINE | re.DOTALL)
    here = example.replace("http://127.0.0.1:8000", service.url).replace(
        "talk.mp3", str(SAMPLE.path)
    )
    script = tmp_path / "example.py"
    script.write_text(f"key = {KEY!r}\n{here}")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == SAMPLE.text
