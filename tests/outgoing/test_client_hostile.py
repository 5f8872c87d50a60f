"""Servers that mean ill, or cannot do better: every call ends, and reads what it may."""

import gzip
from collections.abc import Callable

import pytest

from errors import OutgoingFailed, ReplyTooLarge
from outgoing import Outgoing
from outgoing.client import REPLY_BYTES
from tests.outgoing.servers import (
    OK,
    SHORT,
    SHORT_BODY,
    Caller,
    Serve,
    client_of,
    download,
    post,
    reason,
    url_of,
)


@pytest.mark.security("server", "a reply without end")
def test_a_reply_without_end_is_cut(serve: Serve) -> None:
    def answer(caller: Caller) -> None:
        caller.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10000000000\r\n\r\n")
        caller.send_for_ever(b"x" * 65536)

    server = serve(answer)
    reply = post(client_of(server), url_of(server))

    assert (reply.status, len(reply.body), reply.whole) == (200, REPLY_BYTES, False)


def test_a_reply_of_just_the_size_is_whole(serve: Serve) -> None:
    body = b"x" * REPLY_BYTES
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {REPLY_BYTES}\r\n\r\n".encode()
    server = serve(head + body)
    reply = post(client_of(server), url_of(server))

    assert (reply.body, reply.whole) == (body, True)


@pytest.mark.security("server", "chunks without end")
@pytest.mark.parametrize(
    "chunk",
    [b"1\r\nx\r\n", b"1;" + b"y" * 1000 + b"\r\nx\r\n", b"10000\r\n" + b"x" * 65536 + b"\r\n"],
)
def test_chunks_without_end_are_cut(chunk: bytes, serve: Serve) -> None:
    def answer(caller: Caller) -> None:
        caller.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        caller.send_for_ever(chunk * 10)

    server = serve(answer)
    reply = post(client_of(server), url_of(server))

    assert (reply.status, reply.whole) == (200, False)
    assert len(reply.body) <= REPLY_BYTES


@pytest.mark.security("server", "chunks that are wrapped in more")
def test_what_chunks_are_wrapped_in_counts_as_well(serve: Serve) -> None:
    def answer(caller: Caller) -> None:
        caller.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        caller.send_for_ever(b"1;" + b"y" * 10_000 + b"\r\nx\r\n")

    server = serve(answer)
    reply = post(client_of(server), url_of(server))

    assert (reply.status, reply.whole) == (200, False)
    assert len(reply.body) < 100


def test_a_status_counts_though_its_body_comes_a_byte_at_a_time(serve: Serve) -> None:
    def answer(caller: Caller) -> None:
        caller.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
        caller.send_for_ever(b"x", pause_seconds=0.02)

    server = serve(answer)
    reply = post(client_of(server, limits=SHORT_BODY), url_of(server))

    assert (reply.status, reply.whole) == (200, False)


def drip(caller: Caller) -> None:
    caller.send(b"HTTP/1.1 200 OK\r\nX-Drip: ")
    caller.send_for_ever(b"x", pause_seconds=0.02)


@pytest.mark.security("server", "headers that do not end")
@pytest.mark.parametrize("answer", [drip, Caller.hang])
@pytest.mark.parametrize("call", [post, download])
def test_headers_that_do_not_end_in_time_are_no_answer(
    answer: Callable[[Caller], None], call: Callable[[Outgoing, str], object], serve: Serve
) -> None:
    server = serve(answer)
    with pytest.raises(OutgoingFailed) as caught:
        call(client_of(server, limits=SHORT), url_of(server))

    assert reason(caught) == "timeout"


@pytest.mark.security("server", "a server that does not listen")
def test_who_does_not_listen_is_not_talked_to_for_ever(accept: Serve) -> None:
    server = accept(Caller.hang)
    client = client_of(server, limits=SHORT)
    with pytest.raises(OutgoingFailed) as caught:
        client.post(url_of(server), bytes(100_000_000), {})

    assert reason(caught) == "timeout"


BEFORE_THE_REPLY = {
    "one long header": (b"HTTP/1.1 200 OK\r\nX: ", b"x" * 65536),
    "many headers": (b"HTTP/1.1 200 OK\r\n", b"X: y\r\n" * 1000),
    "a long status": (b"HTTP/1.1 200 ", b"x" * 65536),
    "many replies before it": (b"", b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" * 100),
    "many continues": (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100),
}


@pytest.mark.security("server", "replies before the reply")
@pytest.mark.parametrize("what", BEFORE_THE_REPLY)
def test_what_comes_before_a_body_has_an_end(what: str, serve: Serve) -> None:
    first, rest = BEFORE_THE_REPLY[what]

    def answer(caller: Caller) -> None:
        caller.send(first)
        caller.send_for_ever(rest)

    server = serve(answer)
    with pytest.raises(ReplyTooLarge):
        post(client_of(server), url_of(server))


def test_a_few_replies_before_the_reply_are_passed_over(serve: Serve) -> None:
    server = serve(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" * 3 + OK)

    assert post(client_of(server), url_of(server)).status == 200


@pytest.mark.security("server", "a packed reply")
def test_nothing_is_unpacked(serve: Serve) -> None:
    bomb = gzip.compress(bytes(20_000_000))
    head = "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n"
    server = serve(f"{head}Content-Length: {len(bomb)}\r\n\r\n".encode() + bomb)
    reply = post(client_of(server), url_of(server))

    assert (reply.body, reply.whole) == (bomb, True)


NO_HTTP = {
    "nothing": b"",
    "junk": b"\x00\xff\x00\xff\r\n\r\n",
    "a greeting": b"220 mail.example ESMTP\r\n",
    "another protocol": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nhi",
    "a negative length": b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nhi",
    "a packed transfer": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
}


@pytest.mark.security("server", "what is no HTTP")
@pytest.mark.parametrize("what", NO_HTTP)
def test_what_is_no_http_is_no_answer(what: str, serve: Serve) -> None:
    server = serve(NO_HTTP[what])
    with pytest.raises(OutgoingFailed) as caught:
        post(client_of(server), url_of(server))

    assert reason(caught) == "protocol"


def test_a_body_that_breaks_off_is_not_whole(serve: Serve) -> None:
    server = serve(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhi")
    reply = post(client_of(server), url_of(server))

    assert (reply.status, reply.body, reply.whole) == (200, b"hi", False)
