"""Limits of a key are exact, however many processes serve it at once."""

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest

import keys
from auth import Allowance
from keys import Grant
from tests.stack.conftest import Process, Stack, wait_for

pytestmark = pytest.mark.stack

PROCESSES = 4
#: Long enough for all the calls on the slowest of machines.
WINDOW_SECONDS = 3600


def serving(started: list[tuple[Process, str]]) -> None:
    def all_serve() -> bool:
        return all(process.said("Uvicorn running") for process, _ in started)

    wait_for(all_serve, "all web processes serve")


@pytest.fixture
def urls(stack: Stack) -> list[str]:
    started = [
        stack.web(
            RATE_LIMIT_REQUESTS="100",
            RATE_LIMIT_WINDOW=str(WINDOW_SECONDS),
            WHISPER_MODEL_SIZE="tiny",
        )
        for _ in range(PROCESSES)
    ]
    serving(started)
    return [url for _, url in started]


@pytest.fixture
def make_key(stack: Stack) -> Callable[..., str]:
    def make(**limits: int) -> str:
        with stack.sessions.begin() as session:
            grant = Grant(owner="alice", allowance=Allowance(**limits))
            return keys.create(session, grant)[0]

    return make


@pytest.fixture
def clients(urls: list[str]) -> Iterator[list[httpx2.Client]]:
    opened = [httpx2.Client(base_url=url, timeout=120) for url in urls]
    yield opened
    for client in opened:
        client.close()


def ask(client: httpx2.Client, key: str, times: int) -> list[int]:
    headers = {"X-API-Key": key}
    return [client.get("/jobs", headers=headers).status_code for _ in range(times)]


def ask_all(clients: list[httpx2.Client], key: str, times: int) -> Counter[int]:
    with ThreadPoolExecutor(len(clients)) as threads:
        answers = threads.map(lambda client: ask(client, key, times), clients)
        return Counter(status for statuses in answers for status in statuses)


@pytest.mark.security("resources", "400 requests to four processes at once, of 100 a minute")
def test_four_processes_together_allow_what_one_does(
    clients: list[httpx2.Client], make_key: Callable[..., str]
) -> None:
    key, other = make_key(), make_key()

    assert ask_all(clients, key, 100) == {200: 100, 429: 300}
    assert ask_all(clients, other, 10) == {200: 40}


@pytest.mark.security("resources", "the same while Redis is away")
def test_without_redis_they_allow_as_many(stack: Stack, make_key: Callable[..., str]) -> None:
    stack.environment["REDIS_URL"] = "redis://127.0.0.1:1/0"
    started = [stack.web(RATE_LIMIT_WINDOW="86400") for _ in range(2)]
    serving(started)
    clients = [httpx2.Client(base_url=url, timeout=120) for _, url in started]

    assert ask_all(clients, make_key(requests=50), 50) == {200: 50, 429: 50}
    for client in clients:
        client.close()


@pytest.mark.security("resources", "50 submissions at once, of 10 jobs at once")
def test_of_many_submissions_at_once_as_many_are_taken_as_may_be(
    clients: list[httpx2.Client], make_key: Callable[..., str]
) -> None:
    headers = {"X-API-Key": make_key(jobs_at_once=10)}

    def submit(number: int) -> int:
        files = {"file": ("a.mp3", b"sound")}
        client = clients[number % len(clients)]
        return client.post("/transcribe", files=files, headers=headers).status_code

    with ThreadPoolExecutor(50) as threads:
        assert Counter(threads.map(submit, range(50))) == {202: 10, 429: 40}
