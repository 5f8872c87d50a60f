"""The sandbox that the decode child enters before it reads a byte of an upload.

Every Unix limits memory, time and output. On Linux, the kernel also refuses each system call but
those that compute, that read and write what is open already, and that end (seccomp); and whatever
names a file, a port or another process (Landlock). Neither takes a privilege, nor a namespace,
which hardened containers refuse. What a kernel lacks is left out.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import resource
import signal
import struct
import sys
from collections.abc import Iterable

#: What is left to do, and its number on x86_64 and on aarch64. Without threads, handlers of signals
#: or descriptors to come, that is little. Source: the kernel's syscall_64.tbl and asm/unistd.h.
_CALLS = {
    "brk": (12, 214),
    "clock_gettime": (228, 113),
    "clock_nanosleep": (230, 115),
    "close": (3, 57),
    "exit": (60, 93),
    "exit_group": (231, 94),
    "futex": (202, 98),
    "getpid": (39, 172),
    "getrandom": (318, 278),
    "gettid": (186, 178),
    "gettimeofday": (96, 169),
    "madvise": (28, 233),
    "mremap": (25, 216),
    "munmap": (11, 215),
    "nanosleep": (35, 101),
    "pread64": (17, 67),
    "read": (0, 63),
    "restart_syscall": (219, 128),
    "sched_getaffinity": (204, 123),
    "sched_yield": (24, 124),
    "write": (1, 64),
}
#: … unless it is for memory that can be executed: there is no new code.
_DATA_ONLY_CALLS = {"mmap": (9, 222), "mprotect": (10, 226)}
#: Which of the numbers count, and how the kernel names the machine (linux/audit.h).
_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
_64_BIT = 2**32

# linux/prctl.h
_PR_SET_DUMPABLE = 4
_PR_SET_SECCOMP = 22
_PR_SET_NO_NEW_PRIVS = 38
_SECCOMP_MODE_FILTER = 2

# linux/bpf_common.h and linux/seccomp.h
_LOAD, _IF_EQUAL, _IF_ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06
_NUMBER_AT, _MACHINE_AT, _THIRD_ARGUMENT_AT = 0, 4, 32
_PROT_EXEC = 4
_ALLOW = 0x7FFF0000
_REFUSE = 0x00050000 | errno.EPERM

# linux/landlock.h; the numbers are the same on every machine
_CREATE_RULESET, _RESTRICT_SELF = 444, 446
_RULESET_VERSION = 1
#: How many kinds of access to files the versions before 5 know, and it and all later ones.
_FILE_RIGHTS, _ALL_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}, 16
_VERSION_WITH_PORTS, _VERSION_WITH_SCOPES = 4, 6


def enter(*, memory_bytes: int, seconds: float, output_bytes: int) -> list[str]:
    """Give up all that decoding does not need, for good.

    Standard input has to be a pipe that the parent holds open; the child ends when it closes.

    Args:
        memory_bytes: Address space.
        seconds: Wall clock and CPU time.
        output_bytes: The longest that a file may become.

    Returns:
        The fences that the kernel has put up: "landlock", "seccomp".
    """
    _reset_signals()
    _die_with_parent()
    signal.setitimer(signal.ITIMER_REAL, seconds)
    os.umask(0o077)
    libc = ctypes.CDLL(None)
    fences = []
    if sys.platform == "linux":
        _be_the_first_to_go()
        libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)  # cores may be piped, whatever RLIMIT_CORE says
        libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        fences += ["landlock"] * _landlock(libc)
        _limit(resource.RLIMIT_AS, memory_bytes)
    _limit(resource.RLIMIT_CPU, int(seconds) + 1, spare=1)  # SIGXCPU, and SIGKILL a second later
    _limit(resource.RLIMIT_FSIZE, output_bytes)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_NPROC, 0)  # no process, no thread (root is exempt)
    _limit(resource.RLIMIT_NOFILE, 0)  # from here on open() and socket() fail
    if sys.platform == "linux":
        fences += ["seccomp"] * _seccomp(libc)
    return fences


def _reset_signals() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # a thread that blocks some may have started us
    for number in (signal.SIGALRM, signal.SIGIO, signal.SIGXCPU):
        signal.signal(number, signal.SIG_DFL)
    # Who stops the whole service stops our parent, and it knows what is to become of us.
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _die_with_parent() -> None:
    """Let the kernel end us when the parent's end of the lifeline closes, however it closes.

    PR_SET_PDEATHSIG would follow the thread that started us, and not see a parent already gone.
    """
    fcntl.fcntl(0, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(0, fcntl.F_SETFL, os.O_NONBLOCK | os.O_ASYNC)  # SIGIO, which ends a process
    with contextlib.suppress(BlockingIOError):
        os.read(0, 1)  # nothing is ever written there: it has closed already
        os._exit(1)


def _be_the_first_to_go() -> None:
    """If memory runs out all the same, the kernel is to take us and not the worker."""
    with contextlib.suppress(OSError):  # /proc may be hidden
        score = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
        os.write(score, b"1000")
        os.close(score)


def _limit(kind: int, soft: int, *, spare: int = 0) -> None:
    ceiling = resource.getrlimit(kind)[1]
    hard = soft + spare if ceiling == resource.RLIM_INFINITY else min(soft + spare, ceiling)
    resource.setrlimit(kind, (min(soft, hard), hard))


def _landlock(libc: ctypes.CDLL) -> bool:
    """Give up all names: of files, of ports, and of processes to signal."""
    version = libc.syscall(_CREATE_RULESET, None, 0, _RULESET_VERSION)
    if version < 1:
        return False
    files = (1 << _FILE_RIGHTS.get(version, _ALL_FILE_RIGHTS)) - 1
    ports = 0b11 if version >= _VERSION_WITH_PORTS else 0
    scopes = 0b11 if version >= _VERSION_WITH_SCOPES else 0
    handled = struct.pack("QQQ", files, ports, scopes)
    ruleset = libc.syscall(_CREATE_RULESET, handled, len(handled), 0)
    if ruleset < 0:
        return False
    try:
        return bool(libc.syscall(_RESTRICT_SELF, ruleset, 0) == 0)
    finally:
        os.close(ruleset)


def _seccomp(libc: ctypes.CDLL) -> bool:
    """Give up all system calls but the few of the tables."""
    machine = os.uname().machine
    if machine not in _MACHINES or sys.maxsize < _64_BIT:
        return False
    column, name = _MACHINES[machine]
    program = _program(
        name,
        allowed=[numbers[column] for numbers in _CALLS.values()],
        data_only=[numbers[column] for numbers in _DATA_ONLY_CALLS.values()],
    )
    # struct sock_fprog: how many instructions, and where they are
    steps = ctypes.create_string_buffer(program, len(program))
    handle = struct.pack("HP", len(program) // 8, ctypes.addressof(steps))
    return bool(libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, handle, 0, 0) == 0)


def _program(machine: int, *, allowed: Iterable[int], data_only: Iterable[int]) -> bytes:
    """Assemble the filter: 8 bytes a step (code, jump if true, jump if false, operand)."""
    jumps = [*((number, "look") for number in data_only), *((number, "go") for number in allowed)]
    #: Steps after the last jump: refuse; look at the argument (2 steps), refuse; go.
    distance = {"look": 1, "go": 4}
    steps = [
        (_LOAD, 0, 0, _MACHINE_AT),
        (_IF_EQUAL, 1, 0, machine),  # 32-bit calls have other numbers
        (_RETURN, 0, 0, _REFUSE),
        (_LOAD, 0, 0, _NUMBER_AT),
    ]
    for left, (number, where) in zip(reversed(range(len(jumps))), jumps, strict=True):
        steps.append((_IF_EQUAL, left + distance[where], 0, number))
    steps += [
        (_RETURN, 0, 0, _REFUSE),
        (_LOAD, 0, 0, _THIRD_ARGUMENT_AT),
        (_IF_ANY_BIT, 0, 1, _PROT_EXEC),
        (_RETURN, 0, 0, _REFUSE),
        (_RETURN, 0, 0, _ALLOW),
    ]
    return b"".join(struct.pack("HBBI", *step) for step in steps)
