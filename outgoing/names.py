"""Looking up names, within a time that the C library knows nothing of."""

from __future__ import annotations

import socket
import threading
from collections.abc import Collection
from concurrent.futures import Future
from typing import Final, Protocol

from errors import OutgoingFailed
from outgoing.deadlines import Deadline

#: Look-ups at once. One that hangs keeps its thread until the C library gives up, for half a minute
#: or so; whoever names hosts whose name servers are silent must not fill the process with them.
_LOOKUPS: Final = 32


class Resolver(Protocol):
    """Knows every address of a name."""

    def __call__(self, host: str, /) -> Collection[str]:
        """Look up a name, which may block.

        Returns:
            Addresses as text, the most promising first.

        Raises:
            OSError: There is no such name, or nobody who knows.
        """


def system_resolver(host: str, /) -> Collection[str]:
    """Ask as everything else on this machine does: /etc/hosts, then name servers."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return tuple(dict.fromkeys(str(address[0]) for *_, address in found))


class Names:
    """The resolver, bounded in time and in how often it may hang at once."""

    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver
        self._slots = threading.BoundedSemaphore(_LOOKUPS)

    def look_up(self, host: str, deadline: Deadline) -> tuple[str, ...]:
        """Return every address of a name, one or more.

        Raises:
            OutgoingFailed: There is none.
            TimeoutError: The deadline has passed.
        """
        if not self._slots.acquire(timeout=deadline.left()):
            raise TimeoutError
        answer: Future[tuple[str, ...]] = Future()
        thread = threading.Thread(
            target=self._answer, args=(host, answer), name="outgoing-lookup", daemon=True
        )
        try:
            thread.start()
        except RuntimeError as error:
            self._slots.release()
            raise OutgoingFailed("No thread could be started.", reason="name") from error
        try:
            addresses = answer.result(deadline.left())
        except TimeoutError:
            raise
        except (OSError, UnicodeError) as error:
            raise OutgoingFailed("The host's name cannot be looked up.", reason="name") from error
        if not addresses:
            raise OutgoingFailed("The host's name has no address.", reason="name")
        return addresses

    def _answer(self, host: str, answer: Future[tuple[str, ...]]) -> None:
        try:
            answer.set_result(tuple(self._resolver(host)))
        except Exception as error:  # noqa: BLE001 - whoever waits raises it
            answer.set_exception(error)
        finally:
            self._slots.release()
