"""What is told once the service answers, whatever it answers."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

import auth
import welcome
from config import Settings
from welcome import Access, address, find_access, greeting, headers_of, try_sample

Answer = Callable[[httpx2.Request], httpx2.Response]
SET_KEY = "the operator's own words"
JOB = {"job_id": "1", "status": "pending"}
DONE = {"status": "completed", "duration": 4.0, "model_size": "demo", "transcription": "one two"}
PROBLEM = {"status": 503, "code": "database_unavailable", "detail": "Away."}


@pytest.fixture
def configured(tmp_path: Path) -> Callable[..., Settings]:
    def settings(**values: Any) -> Settings:
        return Settings(state_dir=tmp_path, _env_file=None, **values)  # type: ignore[call-arg]

    return settings


def client_of(answer: Answer) -> httpx2.Client:
    return httpx2.Client(base_url="http://h", transport=httpx2.MockTransport(answer))


def only(key: str) -> Answer:
    """A service that knows one key."""
    return lambda request: httpx2.Response(
        200 if request.headers.get("X-API-Key") == key else 401, json={}
    )


# Where it is


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8000"),
        ("0.0.0.0", "http://127.0.0.1:8000"),  # noqa: S104 - not bound
        ("::", "http://[::1]:8000"),
        ("::1", "http://[::1]:8000"),
        ("stt.example", "http://stt.example:8000"),
    ],
)
def test_the_address_is_one_that_can_be_called(
    host: str, url: str, configured: Callable[..., Settings]
) -> None:
    assert address(configured(host=host)) == url


@pytest.mark.parametrize(
    ("values", "headers"),
    [
        ({}, {}),
        ({"force_https": True}, {"X-Forwarded-Proto": "https"}),
        ({"trusted_hosts": "stt.example,b.example"}, {"Host": "stt.example"}),
        ({"trusted_hosts": "*.example"}, {"Host": "www.example"}),
        ({"trusted_hosts": "stt.example,127.0.0.1"}, {}),
        ({"trusted_hosts": "[::1]", "host": "::1"}, {}),
        ({"trusted_hosts": "*"}, {}),
    ],
)
def test_requests_say_what_a_proxy_would_say_of_them(
    values: dict[str, Any], headers: dict[str, str], configured: Callable[..., Settings]
) -> None:
    assert headers_of(configured(**values)) == headers


# With which key


def test_the_first_key_is_taken_where_it_works(
    configured: Callable[..., Settings], tmp_path: Path
) -> None:
    key = auth.mint()
    (tmp_path / "admin.key").write_text(f"{key}\n")
    client = client_of(only(key))
    access = find_access(client, configured(api_keys=SET_KEY))

    assert (access.works, access.key) == (True, f"$(cat {tmp_path / 'admin.key'})")
    assert client.headers["X-API-Key"] == key


@pytest.mark.parametrize(
    "first",
    [None, auth.mint(), "no key at all, \xe9", ""],
    ids=["none", "another", "no key", "empty"],  # a random id would tell xdist's workers apart
)
def test_a_key_that_was_set_is_taken_where_the_first_does_not_work(
    first: str | None, configured: Callable[..., Settings], tmp_path: Path
) -> None:
    if first is not None:
        (tmp_path / "admin.key").write_bytes(first.encode("latin-1"))
    client = client_of(only(SET_KEY))
    access = find_access(client, configured(api_keys=f"{SET_KEY} and more,{SET_KEY}"))

    assert (access.works, access.key) == (True, f"$(cat {tmp_path / 'api.key'})")
    assert client.headers["X-API-Key"] == SET_KEY


def test_a_key_that_was_set_lies_in_a_file_for_the_operator_alone(
    configured: Callable[..., Settings], tmp_path: Path
) -> None:
    settings = configured(api_keys=SET_KEY)
    find_access(client_of(only(SET_KEY)), settings)
    lay = (tmp_path / "api.key").stat().st_mode & 0o777
    welcome.forget_key(settings)

    assert lay == 0o600
    assert not (tmp_path / "api.key").exists()


def test_without_a_key_that_works_it_says_how_to_make_one(
    configured: Callable[..., Settings], tmp_path: Path
) -> None:
    settings = configured()
    access = find_access(client_of(only(SET_KEY)), settings)
    told = "\n".join(greeting(settings, access, "demo"))

    assert not access.works
    assert f"env STATE_DIR={tmp_path} " in told
    assert "cli.py keys create --owner me" in told
    assert 'curl -H "X-API-Key: KEY" -F' in told


def test_where_no_key_is_needed_none_is_shown(configured: Callable[..., Settings]) -> None:
    settings = configured(auth_required=False, force_https=True)
    access = find_access(client_of(only(SET_KEY)), settings)
    told = "\n".join(greeting(settings, access, "base"))

    assert access == Access(headers={"X-Forwarded-Proto": "https"}, key=None, works=True)
    assert 'curl -H "X-Forwarded-Proto: https" -F file=@talk.mp3 http' in told


def test_a_service_that_goes_away_knows_no_key(configured: Callable[..., Settings]) -> None:
    def fail(request: httpx2.Request) -> httpx2.Response:
        raise httpx2.ConnectError("gone", request=request)

    assert not find_access(client_of(fail), configured(api_keys=SET_KEY)).works


# The sample


def answers(*responses: httpx2.Response) -> Answer:
    left: Iterator[httpx2.Response] = iter(responses)
    return lambda request: next(left)


def sample_of(answer: Answer) -> str:
    return try_sample(client_of(answer), threading.Event())


def test_the_transcript_is_told() -> None:
    told = sample_of(
        answers(
            httpx2.Response(202, json=JOB),
            httpx2.Response(200, json={**JOB, "status": "processing"}),
            httpx2.Response(200, json=DONE),
        )
    )

    assert "(4.0 s of speech)" in told
    assert "one two" in told


def test_a_job_that_failed_is_told() -> None:
    failed = {"status": "failed", "error_message": "No memory."}

    assert sample_of(answers(httpx2.Response(202, json=failed))) == "The sample failed: No memory."


@pytest.mark.parametrize(
    "responses",
    [
        [httpx2.Response(308, headers={"Location": "https://h/"})],
        [httpx2.Response(507, json=PROBLEM)],
        [httpx2.Response(202, json=JOB), httpx2.Response(503, json=PROBLEM)],
        [httpx2.Response(202, json=JOB), httpx2.Response(401, text="<html>\nNo.\n</html>")],
    ],
)
def test_an_answer_that_is_no_job_is_told_in_one_line(responses: list[httpx2.Response]) -> None:
    told = sample_of(answers(*responses))

    assert told.startswith(f"The sample was refused: {responses[-1].status_code}")
    assert "\n" not in told


@pytest.mark.parametrize("response", [httpx2.Response(200, text=""), httpx2.Response(200, json=[])])
def test_an_answer_that_cannot_be_read_is_told(response: httpx2.Response) -> None:
    assert sample_of(answers(response)).startswith("The sample could not be tried: ")


def test_a_service_that_goes_away_is_told() -> None:
    def fail(request: httpx2.Request) -> httpx2.Response:
        raise httpx2.ReadTimeout("too slow", request=request)

    assert "too slow" in sample_of(fail)


def test_whoever_stops_meanwhile_does_not_wait_for_the_sample() -> None:
    stop = threading.Event()
    stop.set()
    client = client_of(lambda request: httpx2.Response(202, json=JOB))

    assert try_sample(client, stop) == "The sample is still being transcribed."
