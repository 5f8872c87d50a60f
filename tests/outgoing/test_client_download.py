"""Files that are fetched, and fetched on."""

from collections.abc import Callable, Iterator

import pytest

from errors import OutgoingFailed, ReplyRefused, ReplyTooLarge
from outgoing import Limits
from tests.outgoing.servers import SHORT_BODY, Caller, Serve, client_of, url_of

FILE = b"0123456789"


def file_reply(*fields: str, status: str = "200 OK", body: bytes = FILE) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *fields]
    return "\r\n".join([*lines, "", ""]).encode() + body


def read_into(got: bytearray, chunks: Iterator[bytes]) -> None:
    for chunk in chunks:
        got += chunk


def rest(start: int, size: int | str = len(FILE)) -> bytes:
    """What a server sends that goes on."""
    part = FILE[start:]
    return file_reply(
        f"Content-Range: bytes {start}-9/{size}", status="206 Partial Content", body=part
    )


def test_a_file_comes_in_chunks(serve: Serve) -> None:
    server = serve(file_reply('ETag: "1"'))
    with client_of(server).stream(url_of(server, "/a"), max_bytes=10) as found:
        assert b"".join(found.chunks) == FILE

    assert (found.status, found.start, found.size, found.headers["etag"]) == (200, 0, 10, '"1"')
    assert server.requests[0].startswith(b"GET /a HTTP/1.1\r\n")
    assert b"\r\nrange:" not in server.requests[0].lower()


def test_a_file_without_a_length_comes_as_well(serve: Serve) -> None:
    server = serve(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n01\r\n0\r\n\r\n")
    with client_of(server).stream(url_of(server), max_bytes=10) as found:
        assert (b"".join(found.chunks), found.size) == (b"01", None)


def test_a_file_that_says_to_be_too_large_is_not_read(serve: Serve) -> None:
    server = serve(file_reply())
    client = client_of(server)
    with (
        pytest.raises(ReplyTooLarge),
        client.stream(url_of(server), max_bytes=9),
    ):
        pytest.fail("it began")


ENDLESS = {
    "chunks": (b"Transfer-Encoding: chunked\r\n", b"8\r\n01234567\r\n"),
    "no length": (b"Connection: close\r\n", b"01234567"),
}


@pytest.mark.parametrize("kind", ENDLESS)
def test_a_file_that_does_not_say_so_is_cut(kind: str, serve: Serve) -> None:
    header, piece = ENDLESS[kind]

    def answer(caller: Caller) -> None:
        caller.send(b"HTTP/1.1 200 OK\r\n" + header + b"\r\n")
        caller.send_for_ever(piece * 100)

    server = serve(answer)
    got = bytearray()
    client = client_of(server)
    with (
        client.stream(url_of(server), max_bytes=100_000) as found,
        pytest.raises(ReplyTooLarge),
    ):
        read_into(got, found.chunks)

    assert len(got) == 100_000


def test_what_chunks_are_wrapped_in_counts_as_well(serve: Serve) -> None:
    def answer(caller: Caller) -> None:
        caller.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        caller.send_for_ever(b"1;" + b"y" * 10_000 + b"\r\nx\r\n")

    server = serve(answer)
    client = client_of(server)
    with (
        client.stream(url_of(server), max_bytes=1_000_000) as found,
        pytest.raises(ReplyTooLarge),
    ):
        read_into(bytearray(), found.chunks)


def test_a_file_goes_on_where_it_broke_off(serve: Serve) -> None:
    server = serve(rest(4))
    client = client_of(server)
    url = url_of(server)
    with client.stream(url, max_bytes=10, range_from=4, if_range='"1"') as found:
        assert (found.start, found.size, b"".join(found.chunks)) == (4, 10, FILE[4:])

    assert b'\r\nrange: bytes=4-\r\nif-range: "1"\r\n' in server.requests[0].lower()


def test_a_server_that_begins_again_is_told_apart(serve: Serve) -> None:
    server = serve(file_reply())
    client = client_of(server)
    url = url_of(server)
    with client.stream(url, max_bytes=10, range_from=4) as found:
        assert (found.start, b"".join(found.chunks)) == (0, FILE)


@pytest.mark.parametrize("etag", ['W/"1"', "1", '"\xe9"', '"a\r\nb: c"'])
def test_a_file_that_cannot_be_told_from_another_is_fetched_anew(etag: str, serve: Serve) -> None:
    server = serve(file_reply())
    client = client_of(server)
    url = url_of(server)
    with client.stream(url, max_bytes=10, range_from=4, if_range=etag) as found:
        assert found.start == 0

    assert b"range:" not in server.requests[0].lower()


WRONG_PARTS = {
    "another part": rest(5),
    "no telling which": file_reply(status="206 Partial Content"),
    "several parts": file_reply(
        "Content-Type: multipart/byteranges; boundary=x", status="206 Partial Content"
    ),
    "no number": rest(4, "ten"),
    "other units": file_reply("Content-Range: lines 4-9/10", status="206 Partial Content"),
}


@pytest.mark.parametrize("what", WRONG_PARTS)
def test_another_part_than_was_asked_for_is_refused(what: str, serve: Serve) -> None:
    server = serve(WRONG_PARTS[what])
    client = client_of(server)
    url = url_of(server)
    with pytest.raises(ReplyRefused), client.stream(url, max_bytes=100, range_from=4):
        pytest.fail("it began")


def test_what_was_fetched_before_counts(serve: Serve) -> None:
    server = serve(rest(4))
    client = client_of(server)
    url = url_of(server)
    with pytest.raises(ReplyTooLarge), client.stream(url, max_bytes=9, range_from=4):
        pytest.fail("it began")


def test_a_rest_of_unknown_size_is_cut_where_the_whole_would_be(serve: Serve) -> None:
    server = serve(rest(4, "*"))
    client = client_of(server)
    url = url_of(server)
    got = bytearray()
    with client.stream(url, max_bytes=9, range_from=4) as found, pytest.raises(ReplyTooLarge):
        read_into(got, found.chunks)

    assert (found.size, bytes(got)) == (None, FILE[4:9])


@pytest.mark.parametrize("encoding", ["gzip", "br", "identity, gzip", "GZIP", "aes128gcm"])
def test_a_file_that_was_packed_on_the_way_is_refused(encoding: str, serve: Serve) -> None:
    server = serve(file_reply(f"Content-Encoding: {encoding}"))
    client = client_of(server)
    url = url_of(server)
    with pytest.raises(ReplyRefused), client.stream(url, max_bytes=100):
        pytest.fail("it began")


@pytest.mark.parametrize("status", ["404 Not Found", "416 Range Not Satisfiable", "500 Oh"])
def test_a_status_is_told_whatever_comes_with_it(status: str, serve: Serve) -> None:
    server = serve(file_reply("Content-Encoding: gzip", status=status))
    client = client_of(server)
    url = url_of(server)
    with client.stream(url, max_bytes=5, range_from=4) as found:
        assert (found.status, found.start, found.size) == (int(status[:3]), 0, None)


def test_a_file_that_breaks_off_says_so_after_what_came(serve: Serve) -> None:
    server = serve(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n0123")
    got = bytearray()
    with (
        client_of(server).stream(url_of(server), max_bytes=10) as found,
        pytest.raises(OutgoingFailed) as caught,
    ):
        read_into(got, found.chunks)

    assert (bytes(got), caught.value.data) == (b"0123", {"reason": "protocol"})


def drip(caller: Caller) -> None:
    caller.send_for_ever(b"x", pause_seconds=0.02)


@pytest.mark.parametrize(
    ("answer", "limits"),
    [(drip, SHORT_BODY), (Caller.hang, Limits(idle_seconds=0.2, total_seconds=3600))],
)
def test_a_file_that_comes_too_slowly_is_given_up(
    answer: Callable[[Caller], None], limits: Limits, serve: Serve
) -> None:
    def begin(caller: Caller) -> None:
        caller.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        answer(caller)

    server = serve(begin)
    client = client_of(server, limits=limits)
    with (
        client.stream(url_of(server), max_bytes=100_000) as found,
        pytest.raises(OutgoingFailed) as caught,
    ):
        read_into(bytearray(), found.chunks)

    assert caught.value.data == {"reason": "timeout"}


def test_a_file_may_take_longer_than_its_headers(serve: Serve) -> None:
    def answer(caller: Caller) -> None:
        caller.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n")
        caller.pause(3.5)
        caller.send(FILE)

    server = serve(answer)
    limits = Limits(headers_seconds=3, idle_seconds=60, total_seconds=60)
    with client_of(server, limits=limits).stream(url_of(server), max_bytes=10) as found:
        assert b"".join(found.chunks) == FILE


def test_a_fault_of_whoever_reads_stays_what_it_is(serve: Serve) -> None:
    server = serve(file_reply())
    client = client_of(server)
    url = url_of(server)
    with pytest.raises(OSError, match="disk"), client.stream(url, max_bytes=10) as found:
        raise OSError(f"disk full after {next(found.chunks)!r}")
