"""What can go wrong, and the status that the program ends with then.

0 all is well; 1 a job failed or was cancelled; 2 wrong use; 3 not signed in, or not allowed; 4 the
server cannot be reached, or has no room; 130 stopped by Ctrl-C.
"""

from __future__ import annotations

from typing import ClassVar, Final

STOPPED: Final = 130


class Trouble(Exception):
    """What keeps a command from its end, in words for who typed it."""

    status: ClassVar[int]

    def __init__(self, message: str, *, answered: int | None = None) -> None:
        """Say what is wrong; ``answered`` is the status of the server's answer, if it was that."""
        super().__init__(message)
        self.message = message
        self.answered = answered


class JobTrouble(Trouble):
    """A job failed, was cancelled, or is not where the command needs it."""

    status = 1


class WrongUse(Trouble):
    """What was typed cannot be done: no such file, job or field."""

    status = 2


class NotAllowed(Trouble):
    """There is no key, or the server does not take it for this."""

    status = 3


class Unreachable(Trouble):
    """The server does not answer, or has had no room for a long time."""

    status = 4
