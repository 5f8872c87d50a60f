"""What goes wrong inside an engine's library, as errors of ours."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from types import TracebackType

import errors

#: Neither torch, outside its CUDA allocator, nor CTranslate2 has a class for these.
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "alloc_failed", "bad_alloc")


class translated:  # noqa: N801 - reads as a statement: ``with translated():``
    """Raises a library's errors as ``EngineOutOfMemory`` or ``otherwise``; ours pass.

    A traceback holds the local variables of its functions: the very tensors that did not fit, as
    long as somebody looks at the error. So of running out of memory only the text of it is kept.
    Whoever holds such tensors does so in a function called within the block, not beside it.

    Args:
        on_out_of_memory: Called once those are gone.
    """

    def __init__(
        self,
        otherwise: Callable[[], errors.EngineError] = errors.EngineError,
        *,
        on_out_of_memory: Callable[[], None] = lambda: None,
    ) -> None:
        self._otherwise = otherwise
        self._on_out_of_memory = on_out_of_memory

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not isinstance(error, Exception) or isinstance(error, errors.ServiceError):
            return
        if not is_out_of_memory(error):
            raise self._otherwise() from error
        error.add_note("".join(traceback.format_tb(trace)))
        # Clearing its frames would not do: each also holds its function, and that its closure.
        error.__traceback__ = None
        del trace
        self._on_out_of_memory()
        raise errors.EngineOutOfMemory from error


def is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, MemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in text for words in _OUT_OF_MEMORY)
