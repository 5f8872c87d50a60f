"""Servers that end with their test, and an authority of the tests' own."""

import ssl
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
import trustme

from tests.outgoing.servers import Answer, Caller, Serve, Server


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start a server that notes a request and then answers: bytes, or by a function."""
    with ExitStack() as stack:

        def start(answer: bytes | Answer, *, tls: ssl.SSLContext | None = None) -> Server:
            def note_and_answer(caller: Caller) -> None:
                server.requests.append(caller.read())
                if isinstance(answer, bytes):
                    caller.send(answer)
                else:
                    answer(caller)

            server = Server(note_and_answer, tls)
            stack.callback(server.stop)
            return server

        yield start


@pytest.fixture
def accept() -> Iterator[Serve]:
    """Start a server that does as it likes from the first byte."""
    with ExitStack() as stack:

        def start(answer: Answer) -> Server:
            server = Server(answer)
            stack.callback(server.stop)
            return server

        yield start


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="session")
def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context
