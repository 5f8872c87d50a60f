"""Telling answers that go on for long that the process stops, so that they end by themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from starlette.types import Scope

#: What is called, and whether it is time, in the state of a request.
_ACT: Final = "when_stopping"
_STOPPING: Final = "stopping"


def when_stopping(scope: Scope, act: Callable[[], object]) -> None:
    """Have something done when the process is told to stop; at once if it was."""
    scope["state"][_ACT] = act
    if scope["state"].get(_STOPPING):
        act()


def stop(scope: Scope) -> None:
    """Tell a request that the process stops."""
    scope["state"][_STOPPING] = True
    if act := scope["state"].get(_ACT):
        act()
