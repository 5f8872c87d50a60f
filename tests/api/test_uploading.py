"""Uploads over real sockets: cut, too large, too slow, refused; and nothing is left of them."""

import contextlib
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest

from config import Settings
from tests.api.conftest import connected, poll, read_all, serving, stored

MB = 2**20
HEAD = b'--XX\r\nContent-Disposition: form-data; name="file"; filename="a.mp3"\r\n\r\n'
TAIL = b"\r\n--XX--\r\n"
FORM = b"Content-Type: multipart/form-data; boundary=XX\r\n"


def request(*lines: bytes, key: dict[str, str] | None = None, path: str = "/transcribe/") -> bytes:
    """The head of a submission."""
    carried = [f"X-API-Key: {key['X-API-Key']}".encode()] if key else []
    head = [f"POST {path} HTTP/1.1".encode(), b"Host: localhost", *carried, *lines]
    return b"\r\n".join(head) + b"\r\n" + FORM + b"\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def length(number: int) -> bytes:
    return b"Content-Length: %d" % number


CHUNKED = b"Transfer-Encoding: chunked"


def test_an_upload_of_a_known_length_is_taken(port, alice, settings):
    with connected(port) as connection:
        connection.sendall(
            request(length(len(HEAD) + 5 + len(TAIL)), b"Connection: close", key=alice)
        )
        connection.sendall(HEAD + b"sound" + TAIL)
        assert read_all(connection).startswith(b"HTTP/1.1 202")

    assert [path.read_bytes() for path in stored(settings)] == [b"sound"]


def test_an_upload_of_unknown_length_is_taken(port, alice, settings):
    with connected(port) as connection:
        connection.sendall(request(CHUNKED, b"Connection: close", key=alice))
        for piece in (HEAD, b"so", b"und", TAIL, b""):
            connection.sendall(chunk(piece))
        assert read_all(connection).startswith(b"HTTP/1.1 202")

    assert [path.read_bytes() for path in stored(settings)] == [b"sound"]


def test_a_key_is_asked_for_before_the_body_comes(port, settings):
    with connected(port) as connection:
        connection.sendall(request(length(10**9)))
        answer = connection.recv(65536)

    assert answer.startswith(b"HTTP/1.1 401")
    assert b"problem+json" in answer


def test_a_body_without_key_is_never_stored(port, settings):
    with connected(port) as connection:
        connection.sendall(request(CHUNKED) + chunk(HEAD + b"x" * 1000))
        assert connection.recv(65536).startswith(b"HTTP/1.1 401")

    assert stored(settings) == []


def test_who_sends_on_after_a_refusal_still_reads_it(port, make_key):
    form = {"file": ("a.mp3", b"x" * 20 * MB)}
    answer = httpx2.post(f"http://127.0.0.1:{port}/transcribe/", files=form, timeout=30)

    assert answer.status_code == 401


def test_a_refused_connection_is_closed(port):
    with connected(port) as connection:
        connection.sendall(request(length(10)) + b"0123456789")
        assert b"connection: close" in read_all(connection).lower()


def test_a_client_that_waits_for_leave_is_not_given_it_without_key(port):
    with connected(port) as connection:
        connection.sendall(request(length(1000), b"Expect: 100-continue"))
        assert connection.recv(65536).startswith(b"HTTP/1.1 401")


def test_a_client_that_waits_for_leave_is_given_it(port, alice):
    with connected(port) as connection:
        connection.sendall(request(length(1000), b"Expect: 100-continue", key=alice))
        assert connection.recv(65536).startswith(b"HTTP/1.1 100")


def test_a_length_over_the_cap_is_refused_before_the_body(port, alice, settings):
    with connected(port) as connection:
        connection.sendall(request(length(10**9), key=alice))
        answer = connection.recv(65536)

    assert answer.startswith(b"HTTP/1.1 413")
    assert b"upload_too_large" in answer
    assert stored(settings) == []


def test_an_unknown_length_over_the_cap_is_refused(port, alice, settings, jobs):
    with connected(port) as connection:
        connection.sendall(request(CHUNKED, key=alice) + chunk(HEAD))
        for _ in range(3):
            connection.sendall(chunk(b"x" * MB))
        answer = connection.recv(65536)

    assert answer.startswith(b"HTTP/1.1 413")
    assert poll(lambda: stored(settings) == [])
    assert jobs.count() == 0


@pytest.mark.parametrize("head", [length(MB), CHUNKED])
def test_a_client_that_goes_away_leaves_nothing(port, alice, settings, jobs, head):
    with connected(port) as connection:
        connection.sendall(request(head, key=alice))
        half = HEAD + b"x" * (MB // 2)
        connection.sendall(half if head is not CHUNKED else chunk(half))
        assert poll(lambda: stored(settings))

    assert poll(lambda: stored(settings) == [])
    assert jobs.count() == 0


def test_a_server_that_stops_leaves_nothing(settings, alice, jobs):
    with serving(settings) as port, connected(port) as connection:
        connection.sendall(request(length(MB), key=alice) + HEAD + b"x" * 1000)
        assert poll(lambda: stored(settings))
        connection.shutdown(socket.SHUT_WR)

    assert stored(settings) == []
    assert jobs.count() == 0


@pytest.mark.parametrize(
    "lines",
    [
        [length(5), CHUNKED],
        [length(5), length(6)],
        [b"Content-Length: -1"],
        [b"Content-Length: x"],
        [b"X-Bad: \x00"],
    ],
)
def test_a_request_that_can_be_read_in_two_ways_is_refused(port, alice, lines):
    with connected(port) as connection:
        connection.sendall(request(*lines, key=alice))
        assert connection.recv(65536).startswith(b"HTTP/1.1 400")


@pytest.mark.parametrize(
    "line", [b"Authorization: Bearer \xc3\xa9", b"Authorization: Bearer " + b"k" * 20_000]
)
def test_a_strange_key_is_refused(port, line):
    with connected(port) as connection:
        connection.sendall(request(line, length(0), b"Connection: close"))
        assert b"401" in read_all(connection)[:20]


def test_other_requests_are_answered_during_an_upload(port, alice, settings):
    with connected(port) as connection:
        connection.sendall(request(length(MB), key=alice) + HEAD + b"x" * 1000)
        assert poll(lambda: stored(settings))

        assert httpx2.get(f"http://127.0.0.1:{port}/jobs", headers=alice).status_code == 200


def test_many_uploads_at_once_are_kept_apart(port, alice, settings):
    def upload(number: int) -> str:
        form = {"file": ("a.mp3", bytes([number]) * 100_000)}
        answer = httpx2.post(
            f"http://127.0.0.1:{port}/transcribe/", files=form, headers=alice, timeout=60
        )
        job_id: str = answer.json()["job_id"]
        return job_id

    with ThreadPoolExecutor(8) as executor:
        ids = list(executor.map(upload, range(24)))

    contents = {path.name: path.read_bytes() for path in stored(settings)}
    assert contents == {job_id: bytes([n]) * 100_000 for n, job_id in enumerate(ids)}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("only root may mount a small disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("floor_mb", [0, 2])
@pytest.mark.parametrize("known_length", [True, False])
def test_a_full_disk_is_told_and_left_clean(
    make_settings, small_disk, alice, floor_mb, known_length, jobs
):
    settings = make_settings(
        upload_dir=small_disk, max_upload_size_mb=100, min_free_disk_mb=floor_mb
    )
    data = HEAD + b"x" * 20 * MB + TAIL

    def pieces() -> Iterator[bytes]:
        for start in range(0, len(data), MB):
            yield data[start : start + MB]

    with serving(settings) as port:
        answer = httpx2.post(
            f"http://127.0.0.1:{port}/transcribe/",
            content=data if known_length else pieces(),
            headers={**alice, "Content-Type": "multipart/form-data; boundary=XX"},
            timeout=60,
        )

    assert (answer.status_code, answer.json()["code"]) == (507, "disk_full")
    assert int(answer.headers["retry-after"]) > 0
    assert (stored(settings), jobs.count()) == ([], 0)


# Bodies that take their time


@contextlib.contextmanager
def hasty(make_settings: Callable[..., Settings]) -> Iterator[tuple[int, Settings]]:
    settings = make_settings(body_timeout_seconds=0.3)
    with serving(settings) as port:
        yield port, settings


@pytest.mark.security("upload", "a body that stops arriving")
@pytest.mark.parametrize("head", [length(MB), CHUNKED])
def test_a_body_that_stops_arriving_is_given_up(make_settings, alice, jobs, head):
    with hasty(make_settings) as (port, settings), connected(port) as connection:
        connection.sendall(request(head, key=alice))
        half = HEAD + b"x" * 1000
        connection.sendall(half if head is not CHUNKED else chunk(half))
        answer = connection.recv(65536)

    assert answer.startswith(b"HTTP/1.1 408")
    assert b"request_timeout" in answer
    assert poll(lambda: stored(settings) == [])
    assert jobs.count() == 0


@pytest.mark.security("json", "a body that stops arriving")
def test_a_small_body_that_stops_arriving_is_given_up(make_settings, alice, jobs):
    lines = [f"PATCH /jobs/{jobs.submit()} HTTP/1.1", "Host: a", f"X-API-Key: {alice['X-API-Key']}"]
    head = "\r\n".join([*lines, "Content-Length: 10", "Content-Type: application/json"])
    with hasty(make_settings) as (port, _), connected(port) as connection:
        connection.sendall(head.encode() + b"\r\n\r\n{")
        answer = connection.recv(65536)

    assert answer.startswith(b"HTTP/1.1 408")


def test_a_body_that_comes_in_pieces_is_taken(make_settings, alice):
    with hasty(make_settings) as (port, settings), connected(port) as connection:
        connection.sendall(request(CHUNKED, b"Connection: close", key=alice) + chunk(HEAD))
        for _ in range(10):
            threading.Event().wait(0.05)
            connection.sendall(chunk(b"sound"))
        connection.sendall(chunk(TAIL) + chunk(b""))
        assert read_all(connection).startswith(b"HTTP/1.1 202")

    assert [path.read_bytes() for path in stored(settings)] == [10 * b"sound"]
