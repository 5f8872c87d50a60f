"""A kernel without the fences of the sandbox, as this process and its children see it."""

import ctypes
import errno
import platform
import struct

# See speech/sandbox.py.
_LOAD, _IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_REFUSE, _ALLOW = 0x00050000, 0x7FFF0000
_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 22, 38
_PRCTL = {"x86_64": 157, "aarch64": 167}
_LANDLOCK_CREATE_RULESET = 444

Step = tuple[int, int, int, int]


def without_landlock() -> None:
    _install(
        (_LOAD, 0, 0, 0),
        (_IF_EQUAL, 0, 1, _LANDLOCK_CREATE_RULESET),
        (_RETURN, 0, 0, _REFUSE | errno.ENOSYS),
        (_RETURN, 0, 0, _ALLOW),
    )


def without_seccomp() -> None:
    """The last filter that this process can install: one that refuses filters."""
    _install(
        (_LOAD, 0, 0, 0),
        (_IF_EQUAL, 0, 3, _PRCTL[platform.machine()]),
        (_LOAD, 0, 0, 16),  # the first argument
        (_IF_EQUAL, 0, 1, _PR_SET_SECCOMP),
        (_RETURN, 0, 0, _REFUSE | errno.EINVAL),
        (_RETURN, 0, 0, _ALLOW),
    )


def _install(*steps: Step) -> None:
    program = b"".join(struct.pack("HBBI", *step) for step in steps)
    buffer = ctypes.create_string_buffer(program, len(program))
    handle = struct.pack("HP", len(steps), ctypes.addressof(buffer))
    libc = ctypes.CDLL(None)
    assert libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
    assert libc.prctl(_PR_SET_SECCOMP, 2, handle, 0, 0) == 0
