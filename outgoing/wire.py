"""One connection, to an address and never to a name, that ends in time and reads what it may.

The limits hold below TLS's plain text and below HTTP, where nothing that a server sends can get
round them: neither many replies before the reply, nor headers without end, nor one byte a second.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Sequence
from ipaddress import IPv6Address

import httpcore2

from errors import OutgoingFailed, ReplyTooLarge
from outgoing.addresses import Address
from outgoing.deadlines import Deadline


class Wire(httpcore2.NetworkStream):
    """What HTTP is read from and written to."""

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


def secure(
    sock: socket.socket, host: str, context: ssl.SSLContext, deadline: Deadline
) -> socket.socket:
    """Put TLS over a connection, with a certificate that must be the host's.

    Raises:
        OSError: The other side has none, or speaks no TLS.
    """
    try:
        sock.settimeout(deadline.left())
        return context.wrap_socket(sock, server_hostname=host)
    except OSError:
        sock.close()
        raise
