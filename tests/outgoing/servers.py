"""Real servers on loopback for the client to call, or not to; and words for calling them."""

import socket
import ssl
import struct
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from ipaddress import ip_network

import pytest
import trustme

from errors import OutgoingFailed
from outgoing import Limits, Outgoing, Reply

#: What a server does with a connection. It ends when the connection does.
Answer = Callable[["Caller"], None]
LOOPBACK = (ip_network("127.0.0.0/8"), ip_network("::1"))
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
#: For calls that are to end by themselves, however busy this machine is.
PATIENT = Limits(60, 60, 60, 60)
#: For calls that are to run out of time.
SHORT = Limits(connect_seconds=0.5, headers_seconds=0.5, idle_seconds=0.5, total_seconds=0.5)
#: For calls that are to run out of time after their headers came, however busy this machine is.
SHORT_BODY = Limits(total_seconds=3)
#: Names that every test's resolver knows.
NAMES = {"receiver.test": ("127.0.0.1",), "six.test": ("::1",)}


class Caller:
    """A connection as a server sees it."""

    def __init__(self, sock: socket.socket, stopping: threading.Event) -> None:
        self._socket = sock
        self._stopping = stopping

    def read(self) -> bytes:
        """The request, headers and body."""
        got = b""
        while b"\r\n\r\n" not in got:
            got += self._more()
        head, _, body = got.partition(b"\r\n\r\n")
        lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-len")]
        missing = int(lengths[0].split(b":")[1]) - len(body) if lengths else 0
        while missing > 0:
            more = self._more()
            got, missing = got + more, missing - len(more)
        return got

    def _more(self) -> bytes:
        if not (data := self._socket.recv(65536)):
            raise ConnectionResetError
        return data

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def send_for_ever(self, data: bytes, *, pause_seconds: float = 0) -> None:
        """Send it again and again, until nobody listens any more."""
        while not self._stopping.wait(pause_seconds):
            self.send(data)

    def pause(self, seconds: float) -> None:
        self._stopping.wait(seconds)

    def hang(self) -> None:
        """Say nothing, and hear nothing."""
        self._stopping.wait(300)

    def detach(self) -> socket.socket:
        """The connection itself, for whoever closes it."""
        return self._socket

    def reset(self) -> None:
        """Break the connection off."""
        at_once = struct.pack("ii", 1, 0)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
        self._socket.close()


class Server:
    """Answers on 127.0.0.1 and ::1, at one port, and counts who comes."""

    def __init__(self, answer: Answer, tls: ssl.SSLContext | None = None) -> None:
        self._answer = answer
        self._tls = tls
        self._stopping = threading.Event()
        self._callers: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._accepted = threading.Condition()
        self._hits = 0
        self.requests: list[bytes] = []
        self.server_names: list[str | None] = []
        self._listeners = _listeners()
        self.port: int = self._listeners[0].getsockname()[1]
        for listener in self._listeners:
            self._start(self._accept, listener)

    def _start(self, target: Callable[[socket.socket], None], sock: socket.socket) -> None:
        thread = threading.Thread(target=target, args=(sock,))
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                sock, _ = listener.accept()
                self._callers.append(sock)
                with self._accepted:
                    self._hits += 1
                    self._accepted.notify_all()
                self._start(self._serve, sock)

    def _serve(self, sock: socket.socket) -> None:
        with suppress(OSError, ValueError), ExitStack() as stack:
            if self._tls is not None:
                sock = stack.enter_context(self._tls.wrap_socket(sock, server_side=True))
            caller = Caller(sock, self._stopping)
            stack.callback(sock.close)
            self._answer(caller)

    def hits(self) -> int:
        """How many connections there were.

        One of our own comes last, so that none is still on its way when they are counted.
        """
        for listener in self._listeners:
            with self._accepted, socket.create_connection(listener.getsockname()[:2]):
                before = self._hits
                assert self._accepted.wait_for(lambda: self._hits > before, timeout=60)  # noqa: B023
        with self._accepted:
            self._hits -= len(self._listeners)
            return self._hits

    def stop(self) -> None:
        self._stopping.set()
        for sock in (*self._listeners, *self._callers):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()
        for thread in self._threads:
            thread.join(60)


def _listeners() -> tuple[socket.socket, socket.socket]:
    """Two sockets at one port."""
    while True:
        four = socket.create_server(("127.0.0.1", 0))
        try:
            return four, socket.create_server(
                ("::1", four.getsockname()[1]), family=socket.AF_INET6
            )
        except OSError:
            four.close()


Serve = Callable[..., Server]


def named(host: str, /) -> tuple[str, ...]:
    """A resolver that knows `NAMES`."""
    if host not in NAMES:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    return NAMES[host]


def client_of(server: Server, **options: object) -> Outgoing:
    """A client that may call a server on loopback, at its port, without TLS."""
    given = {
        "allow": LOOPBACK,
        "allow_http": True,
        "ports": {server.port},
        "resolver": named,
        "limits": PATIENT,
        **options,
    }
    return Outgoing(**given)  # type: ignore[arg-type]  # a test says what differs


def client_of_tls(server: Server, trusting: ssl.SSLContext, **options: object) -> Outgoing:
    return client_of(server, tls=trusting, allow_http=False, **options)


def url_of(server: Server, path: str = "/") -> str:
    return f"http://receiver.test:{server.port}{path}"


def reason(caught: pytest.ExceptionInfo[OutgoingFailed]) -> str | None:
    found: str | None = caught.value.data.get("reason")
    return found


def post(client: Outgoing, url: str) -> Reply:
    return client.post(url, b"{}", {})


def download(client: Outgoing, url: str) -> bytes:
    with client.stream(url, max_bytes=1000) as found:
        return b"".join(found.chunks)


def fields(request: bytes) -> dict[str, str]:
    """The headers of a request, by names in lower case."""
    lines = request.partition(b"\r\n\r\n")[0].decode("ascii").split("\r\n")[1:]
    return {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}


def server_tls(certificate: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context
