"""Calls that leave, to real servers on loopback, and those that must not."""

import itertools
import logging
import ssl
from collections.abc import Callable, Collection
from ipaddress import ip_network
from pathlib import Path

import pytest

from errors import AddressRefused, OutgoingFailed, ReplyRefused, ReplyTooLarge, ServiceError
from outgoing import Limits, Outgoing, Reply
from retries import Course, policy_of
from tests.outgoing.servers import (
    LOOPBACK,
    OK,
    Serve,
    client_of,
    download,
    fields,
    named,
    post,
    reason,
    url_of,
)

PUBLIC = "93.184.215.14"


# What may be called


def test_a_body_is_posted_and_the_answer_comes_back(serve: Serve) -> None:
    server = serve(b"HTTP/1.1 202 Accepted\r\nX-A: 1\r\nx-a: 2\r\nContent-Length: 2\r\n\r\nhi")
    client = client_of(server)
    url = url_of(server, "/hook?a=b")
    reply = client.post(url, b'{"id": 1}', {"webhook-id": "msg_1"})

    assert reply == Reply(202, {"x-a": "1, 2", "content-length": "2"}, b"hi", whole=True)
    (request,) = server.requests
    assert request.startswith(b"POST /hook?a=b HTTP/1.1\r\n")
    assert request.endswith(b'\r\n\r\n{"id": 1}')
    assert fields(request) == {
        "host": f"receiver.test:{server.port}",
        "user-agent": "transcription",
        "accept": "*/*",
        "accept-encoding": "identity",
        "connection": "close",
        "content-length": "9",
        "webhook-id": "msg_1",
    }


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "receiver.test", "six.test"])
def test_what_an_operator_has_listed_may_be_called(host: str, serve: Serve) -> None:
    server = serve(OK)
    reply = post(client_of(server), f"http://{host}:{server.port}/")

    assert (reply.status, reply.body, server.hits()) == (200, b"hi", 1)


def test_a_url_that_may_be_called_is_brought_into_one_form() -> None:
    client = Outgoing(resolver=lambda host, /: (PUBLIC,))

    assert client.check("https://Receiver.TEST:443/a#b") == "https://receiver.test/a"


def test_headers_of_the_clients_own_cannot_be_replaced(serve: Serve) -> None:
    server = serve(OK)
    client_of(server).post(
        url_of(server),
        b"",
        {"HOST": "evil.test", "Accept-Encoding": "gzip", "Connection": "keep-alive"},
    )

    sent = fields(server.requests[0])
    assert (sent["host"], sent["accept-encoding"], sent["connection"]) == (
        f"receiver.test:{server.port}",
        "identity",
        "close",
    )


@pytest.mark.security("address", "header of two lines")
@pytest.mark.parametrize("header", [("a", "b\r\nc: d"), ("a\r\nb", "c"), ("a", "é"), ("a", "\0")])
def test_a_header_of_two_lines_is_not_sent(header: tuple[str, str], serve: Serve) -> None:
    server = serve(OK)
    with pytest.raises(ValueError, match="one line"):
        client_of(server).post(f"http://127.0.0.1:{server.port}/", b"", dict([header]))

    assert server.hits() == 0


# What may not be called

#: What a hostile client would give as a webhook; {port} is that of a server which counts.
REFUSED = [
    "http://127.0.0.1:{port}/",
    "http://127.0.0.2:{port}/",
    "http://2130706433:{port}/",
    "http://0x7f000001:{port}/",
    "http://0x7f.1:{port}/",
    "http://0177.0.0.1:{port}/",
    "http://127.1:{port}/",
    "http://0:{port}/",
    "http://0.0.0.0:{port}/",
    "http://[::]:{port}/",
    "http://[::1]:{port}/",
    "http://[0:0:0:0:0:0:0:1]:{port}/",
    "http://[::127.0.0.1]:{port}/",
    "http://[::ffff:127.0.0.1]:{port}/",
    "http://[::ffff:7f00:1]:{port}/",
    "http://[::ffff:10.0.0.1]:{port}/",
    "http://[::ffff:0:127.0.0.1]:{port}/",
    "http://[64:ff9b::7f00:1]:{port}/",
    "http://[64:ff9b::a9fe:a9fe]:{port}/",
    "http://[64:ff9b:1::7f00:1]:{port}/",
    "http://[2002:7f00:1::]:{port}/",
    "http://[2001:0:7f00:1::]:{port}/",
    "http://[fe80::1%25lo]:{port}/",
    "http://[::1%25lo]:{port}/",
    "http://[fec0::1]:{port}/",
    "http://[ff02::1]:{port}/",
    "http://169.254.169.254:{port}/latest/meta-data/",
    "http://[fd00:ec2::254]:{port}/latest/meta-data/",
    "http://10.0.0.1:{port}/",
    "http://224.0.0.1:{port}/",
    "http://１２７.0.0.1:{port}/",
    "http://①②⑦.0.0.1:{port}/",
    "http://127。0。0。1:{port}/",
    "http://localhost:{port}/",
    "http://LOCALHOST.:{port}/",
    "http://127.0.0.1.nip.io:{port}/",
    "http://receiver.test:{port}/",
    "http://mixed.test:{port}/",
    "http://mapped.test:{port}/",
    "http://zone.test:{port}/",
    "http://nonsense.test:{port}/",
    "http://user@receiver.test:{port}/",
    "http://public.test@127.0.0.1:{port}/",
    "http://public.test:80@127.0.0.1:{port}/",
    "http://public.test\\@127.0.0.1:{port}/",
    "http://127.0.0.1:{port}\\@public.test/",
    "http://127.0.0.1:{port}#@public.test/",
    "http://127.0.0.1:{port}/\r\nX-Evil: 1",
    "http://127.0.0.1:{port}\r\n\r\nGET / HTTP/1.1/",
    "http://127.0.0.1:22/",
    "http://127.0.0.1:6379/",
    "file:///etc/passwd",
    "file://127.0.0.1:{port}/",
    "gopher://127.0.0.1:{port}/_GET%20/",
    "ftp://127.0.0.1:{port}/",
    "dict://127.0.0.1:{port}/",
    "unix://127.0.0.1:{port}/",
    "http+unix://%2Fvar%2Frun%2Fdocker.sock/",
    "//127.0.0.1:{port}/",
    "127.0.0.1:{port}",
]
HOSTILE_NAMES = {
    "localhost": ("127.0.0.1",),
    "127.0.0.1.nip.io": ("127.0.0.1",),
    "receiver.test": ("127.0.0.1",),
    "public.test": (PUBLIC,),
    "mixed.test": (PUBLIC, "127.0.0.1"),
    "mapped.test": ("::ffff:127.0.0.1",),
    "zone.test": ("::1%lo",),
    "nonsense.test": ("127.1",),
}
CALLS: list[Callable[[Outgoing, str], object]] = [Outgoing.check, post, download]


@pytest.mark.security("address", "what a hostile client would give as a webhook")
@pytest.mark.parametrize("call", CALLS, ids=["check", "post", "stream"])
@pytest.mark.parametrize("url", REFUSED)
def test_what_may_not_be_called_is_not(
    url: str, call: Callable[[Outgoing, str], object], serve: Serve, trusting: ssl.SSLContext
) -> None:
    server = serve(OK)
    client = Outgoing(
        allow_http=True,
        ports={server.port},
        resolver=lambda host, /: HOSTILE_NAMES[host],
        tls=trusting,
    )
    with pytest.raises(AddressRefused) as caught:
        call(client, url.format(port=server.port))

    assert caught.value.code == "address_refused"
    assert server.hits() == 0


@pytest.mark.security("address", "another form of an address that is listed")
@pytest.mark.parametrize("call", CALLS, ids=["check", "post", "stream"])
@pytest.mark.parametrize(
    "url",
    [
        "http://2130706433:{port}/",
        "http://0x7f.1:{port}/",
        "http://0177.0.0.1:{port}/",
        "http://127.1:{port}/",
        "http://１２７.0.0.1:{port}/",
        "http://[::ffff:127.0.0.1]:{port}/",
        "http://[64:ff9b::7f00:1]:{port}/",
        "http://[::1%25lo]:{port}/",
        "http://user@127.0.0.1:{port}/",
        "http://public.test\\@127.0.0.1:{port}/",
        "http://127.0.0.1:{port}\\@public.test/",
        "http://127.0.0.1:{port}/\r\nX-Evil: 1",
        "http://127.0.0.1:{port}/ HTTP/1.1",
        "http://127.0.0.1:0{port}0/",
        "gopher://127.0.0.1:{port}/",
        "ftp://127.0.0.1:{port}/",
        "unix://127.0.0.1:{port}/",
        "127.0.0.1:{port}",
    ],
)
def test_of_a_listed_machine_nothing_is_called_in_another_form(
    url: str, call: Callable[[Outgoing, str], object], serve: Serve, trusting: ssl.SSLContext
) -> None:
    server = serve(OK)
    with pytest.raises(AddressRefused):
        call(client_of(server, tls=trusting), url.format(port=server.port))

    assert server.hits() == 0


@pytest.mark.security("address", "another port of a machine that is listed")
@pytest.mark.parametrize("call", CALLS, ids=["check", "post", "stream"])
def test_of_a_listed_machine_no_other_port_is_called(
    call: Callable[[Outgoing, str], object], serve: Serve
) -> None:
    server = serve(OK)
    with pytest.raises(AddressRefused, match="port must be"):
        call(client_of(server, ports={443}), url_of(server))

    assert server.hits() == 0


@pytest.mark.security("address", "a name of this machine")
@pytest.mark.parametrize("host", ["localhost", "ip6-localhost", "127.0.0.1", "[::1]"])
def test_this_machine_is_refused_by_whatever_name_it_goes(host: str, serve: Serve) -> None:
    server = serve(OK)
    client = Outgoing(allow_http=True, ports={server.port})
    with pytest.raises(OutgoingFailed) as caught:
        post(client, f"http://{host}:{server.port}/")

    # a machine may do without the second name
    assert isinstance(caught.value, AddressRefused) or caught.value.data == {"reason": "name"}
    assert server.hits() == 0


@pytest.mark.security("address", "a name that leads elsewhere after the check")
def test_a_name_that_leads_elsewhere_after_the_check_is_not_followed(serve: Serve) -> None:
    server = serve(OK)
    answers = itertools.cycle([(PUBLIC,), ("127.0.0.1",)])
    client = Outgoing(allow_http=True, ports={server.port}, resolver=lambda host, /: next(answers))
    url = client.check(f"http://rebinding.test:{server.port}/")
    with pytest.raises(AddressRefused):
        post(client, url)

    assert server.hits() == 0


def test_a_call_looks_its_name_up_once(serve: Serve) -> None:
    server = serve(OK)
    asked: list[str] = []

    def resolver(host: str, /) -> Collection[str]:
        asked.append(host)
        return ("127.0.0.1",) if len(asked) == 1 else ("127.0.0.9",)

    post(client_of(server, resolver=resolver), url_of(server))

    assert asked == ["receiver.test"]


def test_every_call_looks_its_name_up_anew(serve: Serve) -> None:
    server = serve(OK)
    answers = iter([("127.0.0.1",), ("10.0.0.1",)])
    client = client_of(server, resolver=lambda host, /: next(answers))
    url = url_of(server)
    post(client, url)
    with pytest.raises(AddressRefused):
        post(client, url)

    assert server.hits() == 1


def test_a_refusal_does_not_tell_the_client_what_the_name_leads_to(
    caplog: pytest.LogCaptureFixture,
) -> None:
    client = Outgoing(resolver=lambda host, /: ("10.11.12.13",))
    with caplog.at_level(logging.WARNING), pytest.raises(AddressRefused) as caught:
        client.check("https://intranet.test/secret-path")

    assert "10.11" not in f"{caught.value} {caught.value.data}"
    (record,) = caplog.records
    assert (record.__dict__["host"], record.__dict__["addresses"]) == (
        "intranet.test",
        ("10.11.12.13",),
    )
    assert "secret-path" not in str(vars(record))


@pytest.mark.security("address", "a metadata service in a network that is listed")
def test_metadata_services_need_a_listing_of_their_own(serve: Serve) -> None:
    client = Outgoing(allow=[ip_network("169.254.0.0/16")], allow_http=True)
    with pytest.raises(AddressRefused):
        client.check("http://169.254.169.254/latest/meta-data/")

    listed = Outgoing(allow=[ip_network("169.254.169.254")], allow_http=True)
    assert listed.check("http://169.254.169.254/") == "http://169.254.169.254/"


def test_what_is_not_asked_for_is_https_at_443_to_the_public_internet() -> None:
    client = Outgoing(resolver=lambda host, /: (PUBLIC,))

    assert client.check("https://public.test/") == "https://public.test/"
    for url in ("http://public.test/", "https://public.test:8443/", "http://public.test:443/"):
        with pytest.raises(AddressRefused):
            client.check(url)


@pytest.mark.parametrize(
    ("error", "course"),
    [
        (OutgoingFailed, Course.RETRY),
        (AddressRefused, Course.GIVE_UP),
        (ReplyTooLarge, Course.GIVE_UP),
        (ReplyRefused, Course.GIVE_UP),
    ],
)
def test_only_what_may_pass_is_tried_again(error: type[ServiceError], course: Course) -> None:
    assert policy_of(error).course is course


# Redirects, proxies, cookies, passwords


@pytest.mark.security("address", "a redirect to this machine")
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_a_status_and_is_not_followed(status: int, serve: Serve) -> None:
    target = serve(OK)
    location = f"http://127.0.0.1:{target.port}/"
    server = serve(
        f"HTTP/1.1 {status} Moved\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode()
    )
    client = client_of(server, ports={server.port, target.port})
    reply = post(client, url_of(server))
    with client.stream(url_of(server), max_bytes=10) as found:
        assert (found.status, found.headers["location"]) == (status, location)

    assert (reply.status, reply.headers["location"]) == (status, location)
    assert (server.hits(), target.hits()) == (2, 0)


def test_no_proxy_is_taken_from_the_environment(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy, server = serve(OK), serve(OK)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "SOCKS_PROXY"):
        for spelt in (name, name.lower()):
            monkeypatch.setenv(spelt, f"http://127.0.0.1:{proxy.port}")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    post(client_of(server), url_of(server))

    assert (server.hits(), proxy.hits()) == (1, 0)


def test_no_password_is_taken_from_a_file(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    server = serve(OK)
    netrc = tmp_path / ".netrc"
    netrc.write_text("machine receiver.test login me password secret\n", "utf-8")
    netrc.chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(netrc))
    post(client_of(server), url_of(server))

    assert "authorization" not in fields(server.requests[0])


def test_no_cookie_is_kept(serve: Serve) -> None:
    server = serve(b"HTTP/1.1 200 OK\r\nSet-Cookie: a=b; Path=/\r\nContent-Length: 0\r\n\r\n")
    client = client_of(server)
    for _ in range(2):
        post(client, url_of(server))

    assert [("cookie" in fields(request)) for request in server.requests] == [False, False]
    assert server.hits() == 2


# Reaching a host


def test_who_says_nothing_else_waits_for_seconds() -> None:
    limits = Limits()

    assert limits == Limits(
        connect_seconds=5, headers_seconds=15, idle_seconds=15, total_seconds=15
    )


def test_where_one_address_is_dead_the_next_is_tried(serve: Serve) -> None:
    server = serve(OK)
    client = client_of(server, resolver=lambda host, /: ("127.0.0.9", "::1"))

    assert post(client, url_of(server)).status == 200
    assert server.hits() == 1


def test_where_all_addresses_are_dead_a_later_try_may_help(serve: Serve) -> None:
    server = serve(OK)
    client = client_of(server, resolver=lambda host, /: ("127.0.0.9", "127.0.0.10"))
    with pytest.raises(OutgoingFailed) as caught:
        post(client, url_of(server))

    assert reason(caught) == "connection"


def test_a_name_that_nobody_knows_is_no_refusal() -> None:
    client = Outgoing(resolver=named)
    with pytest.raises(OutgoingFailed) as caught:
        client.check("https://unknown.test/")

    assert not isinstance(caught.value, AddressRefused)
    assert reason(caught) == "name"


def test_whoever_is_listed_is_still_judged_by_address(serve: Serve) -> None:
    server = serve(OK)
    client = client_of(server, allow=[*LOOPBACK, ip_network("10.0.0.0/8")])
    with pytest.raises(AddressRefused):
        client.check(f"http://192.168.0.1:{server.port}/")
