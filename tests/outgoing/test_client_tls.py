"""Whose certificate is trusted."""

import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme

from errors import OutgoingFailed, ReplyTooLarge
from outgoing.client import REPLY_BYTES
from tests.outgoing.servers import (
    OK,
    SHORT,
    Caller,
    Serve,
    Server,
    client_of,
    client_of_tls,
    download,
    fields,
    post,
    reason,
    server_tls,
)


def https(server: Server) -> str:
    return f"https://receiver.test:{server.port}/"


def test_the_name_that_was_asked_for_is_told_to_the_server(
    serve: Serve, authority: trustme.CA, trusting: ssl.SSLContext
) -> None:
    context = server_tls(authority.issue_cert("receiver.test"))
    told: list[str] = []
    context.sni_callback = lambda sock, name, context: told.append(name)
    server = serve(OK, tls=context)
    reply = post(client_of_tls(server, trusting), https(server))

    assert (reply.status, told) == (200, ["receiver.test"])
    assert fields(server.requests[0])["host"] == f"receiver.test:{server.port}"


def test_an_address_may_have_a_certificate_as_well(
    serve: Serve, authority: trustme.CA, trusting: ssl.SSLContext
) -> None:
    server = serve(OK, tls=server_tls(authority.issue_cert("::1")))

    assert post(client_of_tls(server, trusting), f"https://[::1]:{server.port}/").status == 200


@pytest.mark.security("server", "a certificate of somebody else")
@pytest.mark.parametrize("name", ["other.test", "127.0.0.1", "*.test"])
def test_a_certificate_of_somebody_else_is_refused(
    name: str, serve: Serve, authority: trustme.CA, trusting: ssl.SSLContext
) -> None:
    server = serve(OK, tls=server_tls(authority.issue_cert(name)))
    with pytest.raises(OutgoingFailed, match="certificate is not trusted") as caught:
        post(client_of_tls(server, trusting), https(server))

    assert reason(caught) == "tls"
    assert server.requests == []


@pytest.mark.security("server", "a certificate of an unknown authority")
def test_a_certificate_of_an_unknown_authority_is_refused(
    serve: Serve, trusting: ssl.SSLContext
) -> None:
    server = serve(OK, tls=server_tls(trustme.CA().issue_cert("receiver.test")))
    with pytest.raises(OutgoingFailed) as caught:
        post(client_of_tls(server, trusting), https(server))

    assert reason(caught) == "tls"
    assert server.requests == []


def test_by_default_the_systems_authorities_are_trusted_and_nobody_else(
    serve: Serve, authority: trustme.CA
) -> None:
    server = serve(OK, tls=server_tls(authority.issue_cert("receiver.test")))
    with pytest.raises(OutgoingFailed) as caught:
        post(client_of(server), https(server))

    assert reason(caught) == "tls"
    assert server.requests == []


def test_an_authority_of_the_operators_own_is_named_by_a_variable(
    serve: Serve, authority: trustme.CA, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    server = serve(OK, tls=server_tls(authority.issue_cert("receiver.test")))

    assert post(client_of(server), https(server)).status == 200


def test_plain_http_is_no_tls(accept: Serve, trusting: ssl.SSLContext) -> None:
    server = accept(lambda caller: caller.send(OK))
    with pytest.raises(OutgoingFailed) as caught:
        post(client_of_tls(server, trusting), https(server))

    assert reason(caught) == "tls"


@pytest.mark.security("server", "a handshake that does not end")
@pytest.mark.parametrize("pause_seconds", [None, 0.02])
def test_a_handshake_that_does_not_end_is_given_up(
    pause_seconds: float | None, accept: Serve, trusting: ssl.SSLContext
) -> None:
    def answer(caller: Caller) -> None:
        if pause_seconds is None:
            caller.hang()
        else:  # a server's hello, of 16 KiB, a byte at a time
            caller.send(b"\x16\x03\x03\x40\x00")
            caller.send_for_ever(b"\x02", pause_seconds=pause_seconds)

    server = accept(answer)
    with pytest.raises(OutgoingFailed) as caught:
        post(client_of_tls(server, trusting, limits=SHORT), https(server))

    assert reason(caught) == "timeout"


def test_messages_of_tls_itself_have_an_end(
    serve: Serve, authority: trustme.CA, trusting: ssl.SSLContext
) -> None:
    context = server_tls(authority.issue_cert("receiver.test"))
    context.num_tickets = 10_000  # megabytes, all before the reply
    server = serve(OK, tls=context)
    with pytest.raises(ReplyTooLarge):
        post(client_of_tls(server, trusting), https(server))


def file_without_length(context: ssl.SSLContext, *, farewell: bool) -> Callable[[Caller], None]:
    def answer(caller: Caller) -> None:
        with context.wrap_socket(caller.detach(), server_side=True) as sock:
            sock.recv(65536)
            sock.sendall(b"HTTP/1.1 200 OK\r\n\r\nhi")
            if farewell:
                sock.unwrap()

    return answer


def test_a_file_without_a_length_ends_with_tls(
    accept: Serve, authority: trustme.CA, trusting: ssl.SSLContext
) -> None:
    context = server_tls(authority.issue_cert("receiver.test"))
    server = accept(file_without_length(context, farewell=True))

    assert download(client_of_tls(server, trusting), https(server)) == b"hi"


def test_a_file_without_a_length_does_not_end_where_somebody_cut_it(
    accept: Serve, authority: trustme.CA, trusting: ssl.SSLContext
) -> None:
    context = server_tls(authority.issue_cert("receiver.test"))
    server = accept(file_without_length(context, farewell=False))
    with pytest.raises(OutgoingFailed) as caught:
        download(client_of_tls(server, trusting), https(server))

    assert reason(caught) == "connection"


def test_much_is_sent_and_received(
    serve: Serve, authority: trustme.CA, trusting: ssl.SSLContext
) -> None:
    file = bytes(range(256)) * 4096
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(file)}\r\n\r\n".encode()
    server = serve(head + file, tls=server_tls(authority.issue_cert("receiver.test")))
    client = client_of_tls(server, trusting)
    with client.stream(https(server), max_bytes=len(file)) as found:
        assert b"".join(found.chunks) == file
    assert client.post(https(server), file, {}).body == file[:REPLY_BYTES]

    assert server.requests[1].endswith(b"\r\n\r\n" + file)


def test_a_connection_that_breaks_is_told_apart(accept: Serve, trusting: ssl.SSLContext) -> None:
    server = accept(Caller.reset)
    with pytest.raises(OutgoingFailed) as caught:
        post(client_of_tls(server, trusting), https(server))

    assert reason(caught) == "connection"
