"""The one way in, tried from outside: what is slow, endless, too large or forged."""

import json
import re
import select
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import httpx2
import pytest

from tests.compose.conftest import (
    MAX_AUTH_FAILURES,
    MAX_UPLOAD_SIZE_MB,
    PROJECT,
    Compose,
)

pytestmark = [pytest.mark.compose, pytest.mark.timeout(1800)]

#: Nothing below may last so long: the web process looks at drops for 60 s, and lingers then.
PATIENCE_SECONDS = 180.0
#: A key that nobody has.
WRONG = "X-API-Key: of-nobody-0123456789\r\n"


@dataclass(frozen=True)
class Slow:
    """What a client sends: something at once, then a little again and again."""

    first: bytes
    again: bytes
    every_seconds: float


@dataclass(frozen=True)
class End:
    """How a connection ended, if it did."""

    ended: bool
    answer: bytes
    sent_bytes: int

    @property
    def status(self) -> int | None:
        return int(self.answer.split()[1]) if self.answer else None


def head(method: str, *lines: str) -> bytes:
    named = (f"{method} /transcribe/ HTTP/1.1", "Host: localhost", *lines, "", "")
    return "\r\n".join(named).encode()


#: How a form with a file begins.
BEGUN = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
FORM = "Content-Type: multipart/form-data; boundary=b"
SLOW = {
    "a connection that says nothing": Slow(b"", b"", 1),
    "half a head": Slow(b"GET / HTTP/1.1\r\nHo", b"", 1),
    "a head of a few bytes a second": Slow(b"GET / HTTP/1.1\r\nHost: x\r\n", b"X-A: b\r\n", 1),
    "a head without end": Slow(b"GET / HTTP/1.1\r\nHost: x\r\nX-A: ", b"a" * 65536, 0.05),
    "a connection that waits": Slow(head("GET", "Content-Length: 0"), b"", 1),
    "a body that stops": Slow(head("POST", "KEY", FORM, "Content-Length: 5000") + BEGUN, b"", 1),
    "a body in drops": Slow(head("POST", "KEY", FORM, "Content-Length: 5000000") + BEGUN, b"x", 1),
    "a chunked body in drops": Slow(
        head("POST", "KEY", FORM, "Transfer-Encoding: chunked")
        + f"{len(BEGUN):x}\r\n".encode()
        + BEGUN
        + b"\r\n",
        b"1\r\nx\r\n",
        1,
    ),
}
STATUS = {
    "a head without end": 431,
    "a connection that waits": 405,
    "a body that stops": 408,
    "a body in drops": 408,
    "a chunked body in drops": 408,
}


def watch(port: int, slow: Slow, key: str) -> End:
    """Send as told, until the other side ends it."""
    until, answer, sent = time.monotonic() + PATIENCE_SECONDS, b"", 0
    with socket.create_connection(("127.0.0.1", port)) as client:
        try:
            client.sendall(slow.first.replace(b"KEY", b"X-API-Key: " + key.encode()))
            due = time.monotonic()
            while (now := time.monotonic()) < until:
                if select.select([client], [], [], 0.05)[0]:
                    data = client.recv(65536)
                    if not data:
                        return End(True, answer, sent)
                    answer += data
                if slow.again and now >= due:
                    client.sendall(slow.again)
                    sent, due = sent + len(slow.again), now + slow.every_seconds
        except OSError:  # reset
            return End(True, answer, sent)
    return End(False, answer, sent)


@pytest.fixture(scope="module")
def ends(compose: Compose, key: str) -> dict[str, End]:
    """All of them at once, since each takes its time."""
    with ThreadPoolExecutor(len(SLOW)) as pool:
        found = pool.map(lambda slow: watch(compose.port, slow, key), SLOW.values())
        return dict(zip(SLOW, found, strict=True))


@pytest.mark.security("http", "connections that are slow or without end, by the door")
@pytest.mark.parametrize("name", SLOW)
def test_what_is_slow_is_ended(name: str, ends: dict[str, End]) -> None:
    assert (ends[name].ended, ends[name].status) == (True, STATUS.get(name))


def test_a_head_without_end_is_not_read_to_its_end(ends: dict[str, End]) -> None:
    assert ends["a head without end"].sent_bytes < 2**20


def exchange(port: int, sent: bytes) -> bytes:
    """Send bytes, and read what comes until the other side closes."""
    answer = b""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        client.sendall(sent)
        while data := client.recv(65536):
            answer += data
    return answer


@pytest.mark.security("http", "a header of 1 MB, by the door")
def test_a_header_of_a_megabyte_is_refused(compose: Compose) -> None:
    with httpx2.Client(base_url=compose.url, timeout=60) as client:
        answer = client.get("/health", headers={"X-A": "a" * 2**20})

    assert (answer.status_code, answer.json()["code"]) == (431, "headers_too_large")


@pytest.mark.security("http", "a body above the limit, by the door")
def test_too_large_a_body_is_refused_before_it_comes(compose: Compose, key: str) -> None:
    size = (MAX_UPLOAD_SIZE_MB + 2) * 2**20
    answer = exchange(
        compose.port, head("POST", f"X-API-Key: {key}", FORM, f"Content-Length: {size}")
    )

    assert answer.split()[1] == b"413"
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["code"] == "upload_too_large"


@pytest.mark.security("http", "a body above the limit that does not say so, by the door")
def test_too_large_a_body_is_refused_while_it_comes(client: httpx2.Client) -> None:
    pieces = (b"x" * 2**20 for _ in range(MAX_UPLOAD_SIZE_MB + 10))
    answer = client.post(
        "/transcribe/",
        content=(
            b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n',
            *pieces,
        ),
        headers={"Content-Type": "multipart/form-data; boundary=b"},
    )

    assert answer.status_code == 413


def test_as_large_a_body_as_may_be_comes_through(client: httpx2.Client) -> None:
    file = bytes(MAX_UPLOAD_SIZE_MB * 2**20)
    answer = client.post("/transcribe/", files={"file": ("zeros.wav", file)})

    assert answer.status_code == 202
    assert client.delete(answer.headers["Location"]).status_code in {200, 202, 204}


def test_a_refusal_comes_before_the_body(compose: Compose) -> None:
    wrong = head("POST", WRONG.strip(), FORM, "Content-Length: 1000000")
    answer = exchange(compose.port, wrong + b"--b")

    assert answer.split()[1] == b"401"


@pytest.mark.security("http", "what is no HTTP, by the door")
@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"TRACE / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", 405),
        (b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", 400),
        (
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n"  # noqa: ISC004 - one request
            b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /",
            400,
        ),
    ],
)
def test_what_is_no_http_is_told_so_as_everywhere(
    sent: bytes, status: int, compose: Compose
) -> None:
    answer = exchange(compose.port, sent)
    _, _, body = answer.partition(b"\r\n\r\n")

    assert int(answer.split()[1]) == status
    assert json.loads(body).keys() == {
        "type", "title", "status", "detail", "instance", "code", "request_id",
    }  # fmt: skip


def test_no_answer_tells_a_version(compose: Compose) -> None:
    told = {
        httpx2.get(compose.url + path, timeout=60).headers.get("server", "")
        for path in ("/health", "/nowhere")
    }

    assert told <= {"", "nginx"}


# Whom the service takes for whom


def test_the_page_is_signed_in_to_by_the_door(compose: Compose, key: str) -> None:
    """A browser says which page it asks from; the door changes nothing of that."""
    url = compose.url
    with httpx2.Client(base_url=url, timeout=30) as browser:
        shown = browser.get("/", headers={"Accept": "text/html"})
        assert shown.headers["content-type"].startswith("text/html")
        script = re.search(r'src="(/page/[^"]+/app.js)"', shown.text)
        assert script is not None
        assert browser.get(script[1]).headers["cache-control"].endswith("immutable")
        signed_in = browser.post("/session", headers={"X-API-Key": key, "Origin": url})
        assert signed_in.status_code == 201

        assert browser.get("/jobs").status_code == 200
        for origin, status in (("http://127.0.0.1:1", 401), (url, 204)):
            assert browser.delete("/session", headers={"Origin": origin}).status_code == status


def wrong_key(url: str, **headers: str) -> int:
    sent = {"X-API-Key": "of-nobody-0123456789", **headers}
    return httpx2.get(f"{url}/jobs/", headers=sent, timeout=60).status_code


@pytest.fixture(scope="module")
def refused(compose: Compose) -> list[int]:
    """What one address is answered that says of each request that it came from elsewhere."""
    return [
        wrong_key(
            compose.url,
            **{
                "X-Forwarded-For": f"198.51.100.{number}",
                "X-Real-IP": f"198.51.100.{number}",
                "Forwarded": f"for=198.51.100.{number}",
            },
        )
        for number in range(MAX_AUTH_FAILURES + 3)
    ]


@pytest.mark.security("authentication", "an address that pretends to be another, by the door")
def test_a_forged_address_is_not_believed(refused: list[int]) -> None:
    assert refused[0] in {401, 429}  # by other tests there may have been some before
    assert refused[-1] == 429


#: Asks with a wrong key so often, each time as somebody else, and prints what was answered.
ASK = """
import sys, urllib.error, urllib.request
for number in range(int(sys.argv[2])):
    headers = {"X-API-Key": "of-nobody-0123456789", "X-Forwarded-For": f"198.51.100.{number}"}
    try:
        urllib.request.urlopen(urllib.request.Request(sys.argv[1] + "/jobs/", headers=headers))
    except urllib.error.HTTPError as error:
        print(error.code)
"""


def test_another_address_is_heard_though_both_come_by_the_door(
    compose: Compose, refused: list[int]
) -> None:
    where = ("--rm", "--network", f"{PROJECT}_edge", "transcription-web")
    command = ["docker", "run", *where, "python", "-c", ASK, "http://door:8000", "1"]
    done = subprocess.run(command, capture_output=True, text=True)

    assert (done.stdout.strip(), refused[-1]) == ("401", 429), done.stderr


@pytest.mark.security("authentication", "a forged address, past the door")
def test_whoever_comes_past_the_door_is_not_believed(compose: Compose) -> None:
    often = str(MAX_AUTH_FAILURES + 1)
    said = compose("exec", "-T", "flower", "python", "-c", ASK, "http://web:8000", often)

    assert said.split()[-1] == "429"


# Flower


@pytest.mark.security("exposure", "what Flower shows without its password")
@pytest.mark.parametrize(
    "path", ["/metrics", "/healthcheck", "//metrics", "/x/../metrics", "/%6detrics"]
)
def test_what_flower_shows_to_anybody_stays_inside(path: str, compose: Compose) -> None:
    answer = exchange(
        int(compose.flower_url.rpartition(":")[2]),
        f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode(),
    )

    assert answer.split()[1] in {b"401", b"404"}
