"""What uvicorn would answer by itself, over real sockets."""

import json

import httpx2
import pytest

from api.errors import MEDIA_TYPE
from api.middleware import SECURITY_HEADERS
from tests.api.conftest import connected, read_all
from tests.api.test_errors import Problem

UPGRADE = b"\r\n".join(
    [
        b"GET /health HTTP/1.1",
        b"Host: localhost",
        b"Connection: Upgrade",
        b"Upgrade: websocket",
        b"Sec-WebSocket-Version: 13",
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        b"\r\n",
    ]
)
LARGE = b"x" * 2**23


def told(port: int, sent: bytes) -> bytes:
    """All that comes back before the server closes."""
    with connected(port) as connection:
        connection.sendall(sent)
        return read_all(connection)


def parted(answer: bytes) -> tuple[bytes, httpx2.Headers, bytes]:
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *lines = head.split(b"\r\n")
    fields = [(name, value) for name, _, value in (line.partition(b": ") for line in lines)]
    return status, httpx2.Headers(fields), body


@pytest.mark.parametrize(
    "sent",
    [
        b"no HTTP at all\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"FROB /jobs HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /jobs HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n",
        b"GET /jobs HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        b"GET /jobs HTTP/1.1\r\nHost: a\r\nX-Bad: \x00\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n",
        b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n",
    ],
)
def test_what_is_no_http_is_refused_with_a_problem(port, sent):
    status, headers, body = parted(told(port, sent))

    assert status == b"HTTP/1.1 400 Bad Request"
    assert headers["content-type"] == MEDIA_TYPE
    assert int(headers["content-length"]) == len(body)
    assert Problem(**json.loads(body)).code == "bad_request"


def test_a_refusal_has_the_headers_of_every_answer(port):
    _, headers, body = parted(told(port, b"no HTTP\r\n\r\n"))

    assert (
        headers.items() >= {name.lower(): value for name, value in SECURITY_HEADERS.items()}.items()
    )
    assert headers["x-request-id"] == json.loads(body)["request_id"]
    assert headers["connection"] == "close"


def test_a_body_that_is_no_http_is_refused_with_a_problem(port, alice):
    head = b"POST /jobs/x/cancel HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    answer = told(port, head + b"not a length\r\n")

    assert MEDIA_TYPE.encode() in answer


def test_half_an_answer_is_not_followed_by_another(port, alice, jobs):
    job_id = jobs.submit()
    jobs.keep(job_id, LARGE)
    head = (
        f"GET /jobs/{job_id}/audio HTTP/1.1\r\nHost: a\r\nX-API-Key: {alice['X-API-Key']}\r\n\r\n"
    )
    with connected(port) as connection:
        connection.sendall(head.encode())
        begun = connection.recv(100)
        connection.sendall(b"no HTTP\r\n\r\n")
        answer = begun + read_all(connection)

    assert answer.startswith(b"HTTP/1.1 200")
    assert b"HTTP/1.1 400" not in answer


def test_who_wants_websockets_is_answered_in_http(port):
    status, headers, body = parted(told(port, UPGRADE))

    assert (status, json.loads(body)["status"]) == (b"HTTP/1.1 200 OK", "healthy")
    assert headers["connection"] == "close"


def test_who_wants_websockets_and_may_not_is_refused_with_a_problem(port):
    _, headers, body = parted(told(port, UPGRADE.replace(b"/health", b"/jobs")))

    assert headers["content-type"] == MEDIA_TYPE
    assert json.loads(body)["code"] == "not_authenticated"


def test_the_log_says_nothing_of_websockets(port, caplog):
    told(port, UPGRADE)

    assert "WebSocket" not in caplog.text
