"""One connection below HTTP."""

import socket
from collections.abc import Iterator

import httpcore2
import pytest

from errors import ReplyTooLarge
from outgoing.deadlines import Deadline
from outgoing.wire import Wire


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def test_no_byte_is_read_beyond_the_room(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    theirs.sendall(b"0123456789")
    wire = Wire(ours, Deadline.after(60), room=4)

    assert wire.read(100) == b"0123"
    with pytest.raises(ReplyTooLarge):
        wire.read(100)


def test_what_was_said_before_hanging_up_can_still_be_read(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = pair
    theirs.sendall(b"HTTP/1.1 413 Too Large\r\n\r\n")
    theirs.close()
    wire = Wire(ours, Deadline.after(60), room=100)

    with pytest.raises(httpcore2.WriteError):
        wire.write(b"more")
    assert wire.read(100).startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize("seconds", [0, -1])
def test_after_the_deadline_nothing_is_read_or_written(
    seconds: float, pair: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = pair
    theirs.sendall(b"late")
    wire = Wire(ours, Deadline.after(seconds), room=100)

    with pytest.raises(TimeoutError):
        wire.read(100)
    with pytest.raises(TimeoutError):
        wire.write(b"late")


def test_a_sooner_deadline_is_never_a_later_one() -> None:
    deadline = Deadline.after(5)

    assert deadline.sooner(60) == deadline
    assert deadline.sooner(1).at < deadline.at
