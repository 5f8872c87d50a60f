"""Requests of one key at once: how many there may be, and when they are over."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest

from config import Settings
from tests.api.conftest import connected, poll, serving

BODY = b'--B\r\nContent-Disposition: form-data; name="file"\r\n\r\nhalf'
Headers = dict[str, str]


@pytest.fixture
def narrow(make_settings: Callable[..., Settings]) -> Iterator[int]:
    with serving(make_settings(key_requests_at_once=2)) as port:
        yield port


@contextlib.contextmanager
def half_upload(port: int, key: Headers) -> Iterator[None]:
    """Begin an upload, and be slow."""
    head = (
        "POST /transcribe HTTP/1.1\r\nHost: a\r\nContent-Type: multipart/form-data; boundary=B\r\n"
        f"Expect: 100-continue\r\nContent-Length: 1000\r\nX-API-Key: {key['X-API-Key']}\r\n\r\n"
    )
    with connected(port) as connection:
        connection.sendall(head.encode())
        # we are told to go on once the key is known
        assert connection.recv(65536).startswith(b"HTTP/1.1 100")
        connection.sendall(BODY)
        yield


def ask(port: int, key: Headers) -> httpx2.Response:
    return httpx2.get(f"http://127.0.0.1:{port}/usage", headers=key)


@pytest.mark.security("http", "slow uploads of one key over many connections")
def test_one_key_does_not_take_all_connections(narrow: int, alice: Headers, bob: Headers) -> None:
    with half_upload(narrow, alice), half_upload(narrow, alice):
        refused, other = ask(narrow, alice), ask(narrow, bob)

    assert (refused.status_code, refused.json()["code"]) == (429, "too_many_at_once")
    assert refused.json()["limit"] == 2
    assert refused.headers["retry-after"]
    assert other.status_code == 200


@pytest.mark.parametrize("end", ["given up", "answered"])
def test_a_request_that_is_over_makes_room(narrow: int, alice: Headers, end: str) -> None:
    def is_let_in() -> Any:
        return ask(narrow, alice).status_code == 200

    with half_upload(narrow, alice):
        if end == "given up":
            with half_upload(narrow, alice):
                assert not is_let_in()
        for _ in range(3):
            assert poll(is_let_in)


def test_a_request_that_is_refused_makes_room(narrow: int, alice: Headers) -> None:
    nowhere = f"http://127.0.0.1:{narrow}/jobs/nowhere"
    answers = [httpx2.get(nowhere, headers=alice).status_code for _ in range(5)]

    assert answers == [404] * 5
