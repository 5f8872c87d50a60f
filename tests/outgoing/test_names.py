"""Looking up names in time."""

import socket
import threading
from collections.abc import Collection

import pytest

from errors import OutgoingFailed
from outgoing.deadlines import Deadline
from outgoing.names import _LOOKUPS, Names, system_resolver


class Hanging:
    """Name servers that say nothing until they are let."""

    def __init__(self) -> None:
        self.let = threading.Event()

    def __call__(self, host: str, /) -> Collection[str]:
        self.let.wait(60)
        return ("192.0.2.1",)


def raising(error: Exception) -> Names:
    def resolver(host: str, /) -> Collection[str]:
        raise error

    return Names(resolver)


def test_the_system_knows_itself() -> None:
    assert {*system_resolver("localhost")} & {"127.0.0.1", "::1"}


def test_the_system_tells_each_address_once() -> None:
    found = system_resolver("localhost")

    assert len(found) == len({*found})


def test_a_name_server_that_says_nothing_is_not_waited_for() -> None:
    hanging = Hanging()
    with pytest.raises(TimeoutError):
        Names(hanging).look_up("host.test", Deadline.after(0.05))
    hanging.let.set()


def test_so_many_may_hang_and_then_come_back() -> None:
    hanging = Hanging()
    names = Names(hanging)
    before = threading.active_count()
    for _ in range(_LOOKUPS + 5):
        with pytest.raises(TimeoutError):
            names.look_up("host.test", Deadline.after(0.01))
    hung = threading.active_count() - before
    hanging.let.set()

    assert hung <= _LOOKUPS
    assert names.look_up("host.test", Deadline.after(60)) == ("192.0.2.1",)


@pytest.mark.parametrize(
    "error",
    [
        socket.gaierror(socket.EAI_NONAME, "Name or service not known"),
        socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"),
        OSError("out of files"),
        UnicodeError("label too long"),
    ],
)
def test_a_name_that_nobody_knows_may_be_known_later(error: Exception) -> None:
    with pytest.raises(OutgoingFailed) as caught:
        raising(error).look_up("host.test", Deadline.after(60))

    assert caught.value.data == {"reason": "name"}


def test_a_name_without_an_address_is_as_good_as_none() -> None:
    with pytest.raises(OutgoingFailed, match="no address"):
        Names(lambda host, /: ()).look_up("host.test", Deadline.after(60))


def test_a_fault_of_the_resolver_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        raising(ZeroDivisionError()).look_up("host.test", Deadline.after(60))


def test_after_the_deadline_nobody_is_asked() -> None:
    names = raising(ZeroDivisionError())
    with pytest.raises(TimeoutError):
        names.look_up("host.test", Deadline.after(0))
