"""What uvicorn would answer by itself, over real sockets."""

import contextlib
import json
import logging
import re
import socket
import threading
from collections.abc import Iterator

import httpx2
import pytest

from api.connections import SPARE, Limits
from api.errors import MEDIA_TYPE
from api.middleware import SECURITY_HEADERS
from api.protocol import protocol
from tests.api.conftest import connected, poll, read_all, serving
from tests.api.test_errors import Problem

GET = b"GET /health HTTP/1.1\r\nHost: a\r\n"
#: Limits that a test reaches in no time; those that it does not mean stay as they are.
HASTY = {"head_seconds": 0.4, "linger_seconds": 0.4}

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
        b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /jobs HTTP/1.1\r\n\r\n",
        b"GET /jobs HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
        b"GET /jobs HTTP/1.1\r\nHost: a/b@c\r\n\r\n",
        b"GET /jobs HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"GET /jobs HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"GET /jobs HTTP/1.1\r\nHost: a\r\nX-A: 1\r\n folded\r\n\r\n",
        b"GET /jobs HTTP/1.1\r\nHost : a\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /jobs HTTP/2.0\r\nHost: a\r\n\r\n",
        b"POST /jobs HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ],
)
@pytest.mark.security("http", "what is no HTTP, or can be read in two ways")
def test_what_is_no_http_is_refused_with_a_problem(port, sent):
    status, headers, body = parted(told(port, sent))

    assert status == b"HTTP/1.1 400 Bad Request"
    assert headers["content-type"] == MEDIA_TYPE
    assert int(headers["content-length"]) == len(body)
    assert Problem(**json.loads(body)).code == "bad_request"


@pytest.mark.parametrize("version", [b"HTTP/1.0", b"HTTP/1.1"])
def test_an_old_client_needs_no_host(port, version):
    host = b"" if version == b"HTTP/1.0" else b"Host: a\r\nConnection: close\r\n"

    assert told(port, b"GET /health " + version + b"\r\n" + host + b"\r\n").startswith(
        b"HTTP/1.1 200"
    )


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


# Limits


@contextlib.contextmanager
def limited(settings, **values) -> Iterator[int]:
    limits = Limits(**{**HASTY, **values})
    with serving(settings, http=protocol(limits, settings.trusted_proxies)) as port:
        yield port


def refusal(answer: bytes) -> tuple[int, str]:
    _, headers, body = parted(answer)
    problem = Problem(**json.loads(body))

    assert headers["connection"] == "close"
    return problem.status, problem.code


@pytest.mark.security("http", "a connection on which nothing comes")
def test_a_silent_connection_is_ended_without_a_word(settings):
    with limited(settings) as port:
        assert told(port, b"") == b""


@pytest.mark.security("http", "a head that does not end")
@pytest.mark.parametrize("sent", [b"G", b"GET / HTTP/1.1\r\n", GET, GET + b"X-A: 1\r\nX-B"])
def test_half_a_head_is_given_up(settings, sent):
    with limited(settings) as port:
        assert refusal(told(port, sent)) == (408, "request_timeout")


@pytest.mark.security("http", "a head that comes in drops")
def test_a_head_that_comes_in_drops_is_given_up(settings):
    with limited(settings) as port, connected(port) as connection:
        connection.sendall(GET + b"X-A: ")
        answer = dripped(connection, b"x")

    assert refusal(answer) == (408, "request_timeout")


@pytest.mark.security("http", "a connection that is kept alive with empty lines")
def test_empty_lines_keep_no_connection(settings):
    with limited(settings) as port, connected(port) as connection:
        connection.sendall(GET + b"\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")
        answer = dripped(connection, b"\r\n")

    assert refusal(answer) == (408, "request_timeout")


def dripped(connection: socket.socket, drop: bytes) -> bytes:
    """Send drop by drop until the server answers, for a bounded number of drops."""
    connection.settimeout(0.05)
    for _ in range(400):
        with contextlib.suppress(TimeoutError):
            return read_all(connection)
        connection.sendall(drop)
    raise AssertionError("it took every drop")


@pytest.mark.security("http", "a connection that is kept for nothing")
def test_a_connection_is_not_kept_for_ever(make_settings):
    with serving(make_settings(keep_alive_seconds=0.2)) as port:
        assert told(port, GET + b"\r\n").startswith(b"HTTP/1.1 200")


@pytest.mark.security("http", "a client that closes its half and goes silent")
@pytest.mark.parametrize("sent", [b"", b"GET /", GET])
def test_half_a_connection_is_closed(port, sent):
    with connected(port) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)

        assert read_all(connection) == b""


HUGE = b"x" * 2**20


@pytest.mark.security("http", "a head of a megabyte")
@pytest.mark.parametrize(
    ("sent", "told_as"),
    [
        (b"GET /" + HUGE, (414, "uri_too_long")),
        (b"GET /?" + HUGE + b" HTTP/1.1\r\nHost: a\r\n\r\n", (414, "uri_too_long")),
        (GET + b"X-A: " + HUGE, (431, "headers_too_large")),
        (GET + HUGE + b": 1\r\n\r\n", (431, "headers_too_large")),
        (GET + b"X-A: 1\r\n" * 101 + b"\r\n", (431, "headers_too_large")),
        (GET + b"Authorization: Bearer " + HUGE + b"\r\n\r\n", (431, "headers_too_large")),
    ],
    ids=["endless target", "target", "endless field", "name", "count", "key"],
)
def test_a_head_that_is_too_large_is_refused(port, sent, told_as):
    assert refusal(told(port, sent)) == told_as


def test_a_head_as_large_as_it_may_be_is_read(port):
    fields = b"".join(b"X-%02d: %s\r\n" % (number, b"x" * 300) for number in range(98))
    answer = told(port, GET + fields + b"Connection: close\r\n\r\n")

    assert answer.startswith(b"HTTP/1.1 200")


CHUNKED = b"POST /jobs/x/cancel HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n"


@pytest.mark.security("http", "trailers and extensions without end")
@pytest.mark.parametrize(
    "sent",
    [b"0\r\nX-A: " + HUGE, b"0\r\n" + b"X-A: 1\r\n" * 10_000, b"1;x=" + HUGE],
    ids=["trailer", "trailers", "extension"],
)
def test_what_surrounds_a_body_is_limited_too(port, sent):
    # whoever has no key is answered before the body, and the connection ends either way
    assert told(port, CHUNKED + b"\r\n" + sent).startswith(b"HTTP/1.1 4")


def test_trailers_are_no_headers(port, alice):
    key = f"X-API-Key: {alice['X-API-Key']}\r\n".encode()
    answer = told(port, CHUNKED + b"Connection: close\r\n\r\n0\r\n" + key + b"\r\n")

    assert answer.startswith(b"HTTP/1.1 401")


@pytest.mark.security("http", "requests without end before the first is answered")
def test_requests_that_are_not_waited_for_are_answered_up_to_a_number(settings):
    with limited(settings, max_pipelined=3) as port:
        answers = told(port, (GET + b"\r\n") * 1000)

    # the first is worked on while three wait
    assert answers.count(b"HTTP/1.1 200") == 4
    assert answers.lower().count(b"connection: close") == 1


def test_requests_that_are_not_waited_for_are_answered_in_order(port):
    answers = told(port, (GET + b"\r\n") * 3 + GET.replace(b"health", b"jobs") + b"\r\n" + GET
                   + b"Connection: close\r\n\r\n")  # fmt: skip

    assert re.findall(rb"HTTP/1.1 (\d+)", answers) == [b"200", b"200", b"200", b"401", b"200"]


def test_what_was_asked_before_what_is_no_http_is_answered_first(port):
    answers = told(port, GET + b"\r\nno HTTP\r\n\r\n")

    assert answers.startswith(b"HTTP/1.1 200")


@contextlib.contextmanager
def downloading(port, jobs, key) -> Iterator[socket.socket]:
    """A connection on which a large answer is on its way, and little room for it."""
    job_id = jobs.submit()
    jobs.keep(job_id, LARGE)
    head = f"GET /jobs/{job_id}/audio HTTP/1.1\r\nHost: a\r\nX-API-Key: {key['X-API-Key']}\r\n"
    with connected(port) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        connection.sendall(head.encode() + b"Connection: close\r\n\r\n")
        yield connection


@pytest.mark.security("http", "a client that reads nothing of a large answer")
def test_an_answer_that_nobody_takes_is_cut(settings, alice, jobs, caplog):
    caplog.set_level(logging.INFO)
    with limited(settings, stall_seconds=0.3) as port, downloading(port, jobs, alice) as connection:
        assert poll(lambda: "answer was not taken" in caplog.messages)
        assert len(read_all(connection)) < len(LARGE)


def test_an_answer_that_is_taken_slowly_is_not_cut(settings, alice, jobs):
    limits = {"stall_seconds": 1.0, "least_bytes_per_second": 1.0}
    with limited(settings, **limits) as port, downloading(port, jobs, alice) as connection:
        pieces = [connection.recv(65536)]
        while pieces[-1]:
            threading.Event().wait(0.02)
            pieces.append(connection.recv(65536))

    assert b"".join(pieces).endswith(LARGE)


@pytest.mark.security("http", "more connections than there may be")
def test_one_connection_too_many_is_told_so(settings):
    with (
        limited(settings, max_connections=1, head_seconds=60) as port,
        contextlib.ExitStack() as opened,
    ):
        # from this machine there is some room to spare
        for _ in range(1 + SPARE):
            held = opened.enter_context(connected(port))
            held.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\n")
        answer = told(port, b"")

        assert refusal(answer) == (503, "unavailable")
        assert b"retry-after: 5" in answer


def test_a_connection_that_has_ended_makes_room(settings):
    with limited(settings, max_connections=1) as port:
        for _ in range(3 * (1 + SPARE)):
            assert told(port, GET + b"Connection: close\r\n\r\n").startswith(b"HTTP/1.1 200")
