"""One connection, to an address and never to a name, that ends in time and reads what it may.

The limits hold below TLS and HTTP, where nothing that a server sends can get round them: neither
TLS's own messages, nor replies before the reply, nor headers without end, nor one byte a second.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Sequence
from functools import partial
from ipaddress import IPv6Address
from typing import Final, TypeVar

import httpcore2

from errors import OutgoingFailed, ReplyTooLarge
from outgoing.addresses import Address
from outgoing.deadlines import Deadline

#: Taken from the network, or put into TLS, at once: the most that is done between two looks at the
#: clock.
_PIECE_BYTES: Final = 16 * 1024

T = TypeVar("T")


class Wire(httpcore2.NetworkStream):
    """A connection as it is."""

    def __init__(self, sock: socket.socket, deadline: Deadline, room: int) -> None:
        self._socket = sock
        #: When reading and writing end.
        self.deadline = deadline
        #: Longest wait for one further byte.
        self.idle_seconds = float("inf")
        #: Bytes that may still be read.
        self.room = room

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        if self.room <= 0:
            raise ReplyTooLarge
        self._socket.settimeout(self.deadline.sooner(self.idle_seconds).left())
        data = self._socket.recv(min(max_bytes, self.room))
        self.room -= len(data)
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        rest = memoryview(buffer)
        while rest:
            self._socket.settimeout(self.deadline.left())
            try:
                rest = rest[self._socket.send(rest) :]
            except TimeoutError:
                raise
            except OSError as error:
                # httpcore2 goes on to read then: a server may refuse before it has heard everything
                raise httpcore2.WriteError from error

    def close(self) -> None:
        self._socket.close()


class SecureWire(httpcore2.NetworkStream):
    """TLS over a wire, with a certificate that must be the host's.

    An ``SSLSocket`` would read for itself, as long as it is sent messages of TLS's own.
    """

    def __init__(self, wire: Wire, host: str, context: ssl.SSLContext) -> None:
        self._wire = wire
        self._received = ssl.MemoryBIO()
        self._to_send = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._received, self._to_send, server_hostname=host)
        self._do(self._tls.do_handshake)

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._do(partial(self._tls.read, max_bytes))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        rest = memoryview(buffer)
        while rest:
            rest = rest[self._do(partial(self._tls.write, rest[:_PIECE_BYTES])) :]

    def close(self) -> None:
        self._wire.close()

    def _do(self, step: Callable[[], T]) -> T:
        """Take a step of TLS, with as much from the network as it needs."""
        while True:
            try:
                result = step()
            except ssl.SSLWantReadError:
                self._flush()
                self._receive()
            else:
                self._flush()
                return result

    def _flush(self) -> None:
        self._wire.write(self._to_send.read())

    def _receive(self) -> None:
        if data := self._wire.read(_PIECE_BYTES):
            self._received.write(data)
        else:
            self._received.write_eof()


def connect(addresses: Sequence[Address], port: int, deadline: Deadline) -> socket.socket:
    """Connect to the first that answers, each with an equal share of what time is left.

    Raises:
        OutgoingFailed: None of them did.
    """
    failure: OSError | None = None
    for number, address in enumerate(addresses):
        try:
            return _connect(address, port, deadline.left() / (len(addresses) - number))
        except OSError as error:
            failure = error
    raise OutgoingFailed("The host cannot be reached.", reason="connection") from failure


def _connect(address: Address, port: int, seconds: float) -> socket.socket:
    family = socket.AF_INET6 if isinstance(address, IPv6Address) else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.settimeout(seconds)
        sock.connect((str(address), port))
    except OSError:
        sock.close()
        raise
    return sock
