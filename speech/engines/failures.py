"""What goes wrong inside an engine's library, as errors of ours."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Callable, Iterator

import errors

#: Neither torch, outside its CUDA allocator, nor CTranslate2 has a class for these.
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "alloc_failed", "bad_alloc")


@contextlib.contextmanager
def translated(
    otherwise: type[errors.EngineError] = errors.EngineError,
    *,
    on_out_of_memory: Callable[[], None] = lambda: None,
) -> Iterator[None]:
    """Raise a library's errors as ``EngineOutOfMemory`` or ``otherwise``; ours pass.

    The cause keeps its traceback but not its local variables: they would keep alive, as long as
    the error is looked at, the very tensors that did not fit. So whoever holds such a thing should
    do so in a function called within this block, not beside it.

    Args:
        on_out_of_memory: Called once those are gone.
    """
    try:
        yield
    except errors.ServiceError as error:
        traceback.clear_frames(error.__traceback__)
        raise
    except Exception as error:
        traceback.clear_frames(error.__traceback__)
        if not is_out_of_memory(error):
            raise otherwise from error
        on_out_of_memory()
        raise errors.EngineOutOfMemory from error


def is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, MemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in text for words in _OUT_OF_MEMORY)
