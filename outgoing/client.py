"""The HTTP client for addresses that a client named.

It knows no redirects, proxies, cookies, passwords, caches or compression: what is not there cannot
be turned on by an answer or by an environment.
"""

from __future__ import annotations

import logging
import re
import ssl
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from ipaddress import ip_address
from typing import Final

import httpcore2

from errors import AddressRefused, OutgoingFailed, ReplyRefused, ReplyTooLarge
from outgoing.addresses import Address, AddressRule, Network
from outgoing.deadlines import Deadline
from outgoing.names import Names, Resolver, system_resolver
from outgoing.urls import Target, parse
from outgoing.wire import SecureWire, Wire, connect

logger = logging.getLogger(__name__)

#: Read of the reply to a POST; what follows is left unread.
REPLY_BYTES: Final = 64 * 1024
#: Everything before a reply's body: its headers, and replies of the kind 100 before it.
_HEADER_BYTES: Final = 64 * 1024
#: Of TLS, before anything of HTTP: a chain of certificates, mostly.
_HANDSHAKE_BYTES: Final = 128 * 1024
#: All addresses of a name are judged, and so many tried.
_TRIED_ADDRESSES: Final = 4
_PLAIN_PORT: Final = 80
_PRINTABLE: Final = re.compile(r"[ -~]*")
_CONTENT_RANGE: Final = re.compile(r"bytes ([0-9]{1,18})-[0-9]{1,18}/(?:([0-9]{1,18})|\*)")
_STRONG_ETAG: Final = re.compile(r'"[!#-~]*"')
_LENGTH: Final = re.compile(r"[0-9]{1,18}")


@dataclass(frozen=True, slots=True)
class Limits:
    """How long a call may take, in seconds."""

    #: From looking up the name to the end of TLS's handshake.
    connect_seconds: float = 5.0
    #: Until all headers of the reply have come.
    headers_seconds: float = 15.0
    #: Without one further byte of the body.
    idle_seconds: float = 15.0
    #: The whole, the reply's last byte included.
    total_seconds: float = 15.0


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back of a POST. A redirect is a status like any other."""

    status: int
    #: By names in lower case; those that came twice are joined by a comma.
    headers: Mapping[str, str]
    #: The first 64 KiB.
    body: bytes
    #: Whether that is all of it; not where it was longer, came too slowly or broke off.
    whole: bool


@dataclass(frozen=True, slots=True)
class Download:
    """A reply to a GET while it comes. A redirect is a status like any other."""

    status: int
    #: By names in lower case; those that came twice are joined by a comma.
    headers: Mapping[str, str]
    #: Where in the file ``chunks`` begin: 0 unless the server goes on where it was asked to.
    start: int
    #: Bytes of the whole file, where the server says so. Over plain HTTP nobody can tell otherwise
    #: whether it came whole, unless it came in chunks.
    size: int | None
    #: The bytes; raises OutgoingFailed where they break off or are too many.
    chunks: Iterator[bytes]


class Outgoing:
    """Calls what may be called; one for each use, as limits differ. Threads may share it."""

    def __init__(
        self,
        *,
        allow: Iterable[Network] = (),
        allow_http: bool = False,
        ports: Collection[int] = (443,),
        limits: Limits | None = None,
        resolver: Resolver = system_resolver,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Set the rules.

        Args:
            allow: Networks beside the public internet. The services of clouds that hand out
                credentials, and all of 169.254.0.0/16, count only where listed by single address.
            allow_http: Whether ``http://`` is fine; port 80 is then.
            ports: Those that may be called.
            tls: Whose certificates to trust; the system's, or SSL_CERT_FILE's, by default.
        """
        self._rule = AddressRule(tuple(allow))
        self._allow_http = allow_http
        self._ports = frozenset(ports) | ({_PLAIN_PORT} if allow_http else set())
        self._limits = limits or Limits()
        self._names = Names(resolver)
        self._tls = tls or httpcore2.default_ssl_context()
        self._tls.set_alpn_protocols(["http/1.1"])

    def read(self, url: str) -> str:
        """Return the canonical form of a URL with which nothing is wrong to see.

        No name is looked up: see ``check``.

        Raises:
            AddressRefused: It may not be called.
        """
        target = self._target(url)
        if target.is_number and not self._rule.permits_all((target.host,)):
            raise AddressRefused
        return str(target)

    def check(self, url: str) -> str:
        """Return the canonical form of a URL that may be called as things are now.

        It saves nobody from a name that leads elsewhere later: every call judges again.

        Raises:
            AddressRefused: It may not be called.
            OutgoingFailed: Its name cannot be looked up now.
        """
        target = self._target(url)
        with _translated():
            self._addresses(target, Deadline.after(self._limits.connect_seconds))
        return str(target)

    def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Reply:
        """Send a body; whatever status comes back is a reply.

        Raises:
            AddressRefused: The URL may not be called.
            ReplyTooLarge: The headers of the reply do not end.
            OutgoingFailed: No reply came; see its ``reason``.
        """
        sent = {**headers, "content-length": str(len(body))}
        deadline = Deadline.after(self._limits.total_seconds)
        with self._exchange("POST", url, sent, body, deadline) as (wire, response):
            wire.room = 2 * REPLY_BYTES
            received, whole = _first_bytes(response)
            return Reply(response.status, _fields(response), received, whole)

    @contextmanager
    def stream(
        self, url: str, *, max_bytes: int, range_from: int = 0, if_range: str | None = None
    ) -> Iterator[Download]:
        """Fetch a file, or go on fetching it; whatever status comes back is a download.

        Args:
            max_bytes: Largest file, what was fetched before included.
            range_from: How many bytes are here already. A server may ignore it: see ``start``.
            if_range: The ETag of the file that they are of. One that no server would take, as a
                weak one is, has the file sent from its beginning.

        Raises:
            AddressRefused: The URL may not be called.
            ReplyTooLarge: The file is larger than ``max_bytes``.
            ReplyRefused: It is compressed, or another part than was asked for.
            OutgoingFailed: No reply came, or not all of it; see its ``reason``.
        """
        sent = _from(range_from, if_range)
        deadline = Deadline.after(self._limits.total_seconds)
        with self._exchange("GET", url, sent, b"", deadline) as (wire, response):
            fields = _fields(response)
            start, size = _extent(response.status, fields, range_from)
            if max(start, size or 0) > max_bytes:
                raise ReplyTooLarge
            room = max_bytes - start
            # twice: what chunks are wrapped in is no part of the file
            wire.room = 2 * room + _HEADER_BYTES
            yield Download(response.status, fields, start, size, _chunks(response, room))

    @contextmanager
    def _exchange(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes, deadline: Deadline
    ) -> Iterator[tuple[Wire, httpcore2.Response]]:
        """Send a request and receive the headers of its reply, over a connection of its own."""
        target = self._target(url)
        request = _request(method, target, headers, body)
        headers_by = deadline.sooner(self._limits.headers_seconds)
        with _translated():
            wire = self._dial(target, deadline.sooner(self._limits.connect_seconds))
        try:
            with _translated():
                stream = self._secured(wire, target)
                wire.deadline, wire.room = headers_by, _HEADER_BYTES
                connection = httpcore2.HTTP11Connection(request.url.origin, stream)
                response = connection.handle_request(request)
            wire.deadline, wire.idle_seconds = deadline, self._limits.idle_seconds
            yield wire, response
        finally:
            wire.close()

    def _dial(self, target: Target, deadline: Deadline) -> Wire:
        addresses = self._addresses(target, deadline)
        sock = connect(addresses[:_TRIED_ADDRESSES], target.port, deadline)
        return Wire(sock, deadline, _HANDSHAKE_BYTES)

    def _secured(self, wire: Wire, target: Target) -> httpcore2.NetworkStream:
        return SecureWire(wire, target.host, self._tls) if target.scheme == "https" else wire

    def _target(self, url: str) -> Target:
        return parse(url, allow_http=self._allow_http, ports=self._ports)

    def _addresses(self, target: Target, deadline: Deadline) -> list[Address]:
        """Look up the host, once, and judge every address: one bad one spoils the name."""
        host = target.host
        found = (host,) if target.is_number else self._names.look_up(host, deadline)
        if not self._rule.permits_all(found):
            # which address it was is the operator's business: the client may be feeling its way
            logger.warning("refused to call an address", extra={"host": host, "addresses": found})
            raise AddressRefused
        return [ip_address(text) for text in found]


def _request(
    method: str, target: Target, headers: Mapping[str, str], body: bytes
) -> httpcore2.Request:
    sent = {
        "host": target.authority,
        "user-agent": "transcription",
        "accept": "*/*",
        **{name.lower(): value for name, value in headers.items()},
    }
    sent |= {"host": target.authority, "accept-encoding": "identity", "connection": "close"}
    if not all(_PRINTABLE.fullmatch(text) for field in sent.items() for text in field):
        raise ValueError("a header that is sent is one line of ASCII")
    url = httpcore2.URL(
        scheme=target.scheme, host=target.host, port=target.port, target=target.path
    )
    return httpcore2.Request(method, url, headers=list(sent.items()), content=body)


def _from(range_from: int, if_range: str | None) -> dict[str, str]:
    """The headers that ask for the rest of a file; none where a server could not tell which."""
    if not range_from:
        return {}
    asked = {"range": f"bytes={range_from}-"}
    if if_range is None:
        return asked
    return {**asked, "if-range": if_range} if _STRONG_ETAG.fullmatch(if_range) else {}


def _fields(response: httpcore2.Response) -> dict[str, str]:
    fields: dict[str, str] = {}
    for raw_name, raw_value in response.headers:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        fields[name] = f"{fields[name]}, {value}" if name in fields else value
    return fields


def _first_bytes(response: httpcore2.Response) -> tuple[bytes, bool]:
    """Return what there is of a body, and whether it is all: the status alone is the answer."""
    received = bytearray()
    try:
        for chunk in _chunks(response, REPLY_BYTES):
            received += chunk
    except OutgoingFailed:
        return bytes(received), False
    return bytes(received), True


def _extent(status: int, fields: Mapping[str, str], range_from: int) -> tuple[int, int | None]:
    """Where the bytes that come begin, and how long the whole file is."""
    if status not in {HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT}:
        return 0, None
    if fields.get("content-encoding", "identity").strip().lower() != "identity":
        raise ReplyRefused("The other server compressed its answer, although it was asked not to.")
    if status == HTTPStatus.OK:
        length = fields.get("content-length", "")
        return 0, int(length) if _LENGTH.fullmatch(length) else None
    found = _CONTENT_RANGE.fullmatch(fields.get("content-range", ""))
    if found is None or int(found[1]) != range_from:
        raise ReplyRefused("The other server sent another part of the file.")
    return range_from, int(found[2]) if found[2] else None


def _chunks(response: httpcore2.Response, room: int) -> Iterator[bytes]:
    with _translated():
        for chunk in response.iter_stream():
            if len(chunk) > room:
                yield chunk[:room]
                raise ReplyTooLarge
            room -= len(chunk)
            yield chunk


@contextmanager
def _translated() -> Iterator[None]:
    """Make one of our errors of whatever a connection may end with."""
    try:
        yield
    except TimeoutError as error:
        raise OutgoingFailed("The other server took too long.", reason="timeout") from error
    except ssl.SSLCertVerificationError as error:
        message = "The other server's certificate is not trusted, or not for that name."
        raise OutgoingFailed(message, reason="tls") from error
    except ssl.SSLEOFError as error:
        raise OutgoingFailed("The connection broke.", reason="connection") from error
    except ssl.SSLError as error:
        raise OutgoingFailed("The other server speaks no safe TLS.", reason="tls") from error
    except (OSError, httpcore2.NetworkError) as error:
        raise OutgoingFailed("The connection broke.", reason="connection") from error
    except httpcore2.ProtocolError as error:
        raise OutgoingFailed("The answer broke off, or is no HTTP.", reason="protocol") from error
