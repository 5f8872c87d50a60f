"""What the kernel refuses in the sandbox: asked from inside, under the limits of a decode child."""

import platform
import signal
import socket
import sys
from pathlib import Path

import pytest

from speech import child, sandbox

#: Prints what an expression gives in the sandbox, or how the system refuses it.
PROGRAM = """
import ctypes, errno, mmap, os, resource, signal, socket, sys, time
from speech import sandbox

libc = ctypes.CDLL(None, use_errno=True)

def checked(result):
    if result == -1:
        raise OSError(ctypes.get_errno(), "")
    return result

PREPARE
fences = sandbox.enter(memory_bytes=1 << 30, seconds=SECONDS, output_bytes=100_000)
try:
    print(eval(sys.argv[2]))
except OSError as error:
    print(errno.errorcode[error.errno])
sys.stdout.flush()
os._exit(0)
"""
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="the fences are Linux's")


def inside(
    expression: str,
    *,
    prepare: str = "",
    seconds: float = 20,
    descriptors: tuple[int, ...] = (),
    status: int = 0,
) -> str:
    """What an expression gives in the sandbox, whose process has to end with ``status``."""
    ending = child.run(
        PROGRAM.replace("PREPARE", prepare).replace("SECONDS", str(seconds)),
        expression,
        descriptors,
        timeout_seconds=60,
        attend=lambda said: None,
    )
    assert ending.status == status, ending.said.decode()
    return ending.said.decode().strip()


def test_it_names_the_fences_that_stand() -> None:
    named = inside("' '.join(fences)").split()

    assert set(named) <= {"landlock", "seccomp"}
    if platform.system() == "Linux" and platform.machine() in sandbox._MACHINES:
        assert "seccomp" in named


FORBIDDEN = {
    "a TCP socket": "socket.socket()",
    "a UDP socket": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM)",
    "an IPv6 socket": "socket.socket(socket.AF_INET6)",
    "a Unix socket": "socket.socket(socket.AF_UNIX)",
    "a netlink socket": "socket.socket(socket.AF_NETLINK)",
    "a raw socket": "socket.socket(socket.AF_INET, socket.SOCK_RAW)",
    "a pair of sockets": "socket.socketpair()",
    "reading a file": "os.open('/etc/passwd', os.O_RDONLY)",
    "reading a file, openat2": "checked(libc.syscall(437, -100, b'/etc/passwd', bytes(24), 24))",
    "reading a folder": "os.listdir('/')",
    "looking for a file": "os.stat('/etc/passwd')",
    "writing a file": "os.open('/tmp/sandbox', os.O_WRONLY | os.O_CREAT)",
    "deleting a file": "os.unlink('/tmp/sandbox-none')",
    "deleting a folder": "os.rmdir('/tmp/sandbox-none')",
    "renaming a file": "os.rename('/tmp/sandbox-none', '/tmp/sandbox-other')",
    "making a folder": "os.mkdir('/tmp/sandbox')",
    "making a link": "os.symlink('/etc/passwd', '/tmp/sandbox')",
    "making a pipe": "os.pipe()",
    "changing a mode": "os.chmod('/tmp', 0o777)",
    "shortening a file": "os.truncate('/tmp/sandbox-none', 0)",
    "a file in memory": "os.memfd_create('x')",
    "another program": "os.execv('/bin/true', ['true'])",
    "another process": "os.fork()",
    "another process, clone3": "checked(libc.syscall(435, bytes(88), 88))",
    "another process, posix_spawn": "os.posix_spawn('/bin/true', ['true'], {})",
    "a namespace": "checked(libc.unshare(0x10000000))",
    "a signal to its parent": "os.kill(os.getppid() or 1, 0)",
    "a signal to all": "os.kill(-1, 0)",
    "looking into a process": "checked(libc.ptrace(16, os.getpid(), 0, 0))",
    "reading a process's memory": "checked(libc.process_vm_readv(1, None, 0, None, 0, 0))",
    "writing a process's memory": "checked(libc.process_vm_writev(1, None, 0, None, 0, 0))",
    "a handle of a process": "os.pidfd_open(os.getpid())",
    "io_uring": "checked(libc.syscall(425, 8, bytes(120)))",
    "a system call's shadow": "checked(libc.syscall(9999))",
    "new code": "mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC)",
    "weaker limits": "checked(libc.setrlimit(resource.RLIMIT_NOFILE, bytes(16)))",
    "a new timer": "signal.setitimer(signal.ITIMER_REAL, 0)",
    "a deaf ear": "signal.signal(signal.SIGALRM, signal.SIG_IGN)",
}


@LINUX
@pytest.mark.parametrize(
    "expression",
    [
        pytest.param(code, id=name, marks=pytest.mark.security("media", f"decoder after {name}"))
        for name, code in FORBIDDEN.items()
    ],
)
def test_a_decoder_that_was_taken_over_is_refused(expression: str) -> None:
    assert inside(expression) == "EPERM"


@pytest.mark.security("media", "decoder with an open socket")
@LINUX
def test_a_socket_that_is_open_already_leads_nowhere() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as ours:
        address = socket.htons(server.getsockname()[1]).to_bytes(2, "little")
        name = b"\x02\x00" + address + socket.inet_aton("127.0.0.1") + bytes(8)
        call = f"checked(libc.connect({ours.fileno()}, {name!r}, 16))"

        assert inside(call, descriptors=(ours.fileno(),)) == "EPERM"


@LINUX
def test_every_system_call_that_is_not_in_the_tables_is_refused() -> None:
    # 335 and 336 belong to the kernel's own probes, which it lets past every filter
    attempt = (
        "{n: ctypes.get_errno() for n in range(460) if n not in known | {335, 336}"
        " if (libc.syscall(n, -1, -1, -1, -1, -1, -1), ctypes.get_errno()) != (-1, errno.EPERM)}"
    )
    known = (
        "column = sandbox._MACHINES[os.uname().machine][0]\n"
        "known = {numbers[column] for numbers in sandbox._CALLS.values()}"
    )

    assert inside(attempt, prepare=known) == "{}"


@pytest.mark.skipif(platform.machine() != "x86_64", reason="only there are 32-bit calls")
@LINUX
def test_calls_with_the_numbers_of_another_machine_are_refused() -> None:
    # mov eax, 20 (getpid of 32 bits, writev of 64); int 0x80; ret
    page = (
        "page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)\n"
        "page.write(bytes.fromhex('b814000000cd80c3'))\n"
        "call = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))\n"
    )
    try:
        inside("0", prepare=f"{page}call()")
    except AssertionError:
        pytest.skip("this kernel has no 32-bit calls")

    assert inside("call()", prepare=page) == "-1"


@LINUX
def test_memory_for_data_is_still_to_be_had() -> None:
    assert inside("len(bytearray(200 << 20))") == str(200 << 20)


@pytest.mark.security("media", "decoder after more memory")
@LINUX
def test_memory_beyond_the_limit_is_not() -> None:
    with pytest.raises(AssertionError, match="MemoryError"):
        inside("len(bytearray(1 << 30))")


@pytest.mark.security("media", "decoder that sleeps")
def test_time_beyond_the_limit_ends_it() -> None:
    inside("time.sleep(60)", seconds=0.1, status=-signal.SIGALRM)


@pytest.mark.security("media", "decoder that works without end")
def test_cpu_time_beyond_the_limit_ends_it() -> None:
    # its timer does not ring, as if two threads used up the time of both
    inside("[0 for _ in iter(int, 1)]", seconds=0, status=-signal.SIGXCPU)


@pytest.mark.security("media", "decoder that writes without end")
def test_output_beyond_the_limit_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "samples").open("wb") as file:
        number = file.fileno()
        write = f"[os.write({number}, bytes(1 << 14)) for _ in range(9)]"

        assert inside(write, descriptors=(number,)) == "EFBIG"

    assert (tmp_path / "samples").stat().st_size == 100_000


WITHOUT_SECCOMP = "from tests.speech import older_kernel; older_kernel.without_seccomp()"
WITHOUT_BOTH = WITHOUT_SECCOMP.replace(";", "; older_kernel.without_landlock();")


@LINUX
@pytest.mark.parametrize(
    "expression",
    [
        "os.unlink({file!r})",
        "os.truncate({file!r}, 0)",
        "os.mkdir({file!r} + '.folder')",
        "os.symlink({file!r}, {file!r} + '.link')",
        "os.execv('/bin/true', ['true'])",
    ],
)
def test_without_seccomp_landlock_keeps_the_files(expression: str, tmp_path: Path) -> None:
    if "landlock" not in inside("fences"):
        pytest.skip("this kernel has no Landlock")
    (tmp_path / "private").touch()
    expression = expression.format(file=str(tmp_path / "private"))

    assert inside("fences", prepare=WITHOUT_SECCOMP) == "['landlock']"
    assert inside(expression, prepare=WITHOUT_SECCOMP) == "EACCES"


@LINUX
@pytest.mark.parametrize(
    "expression", ["open('/etc/passwd')", "socket.socket()", "os.pipe()", "os.listdir('/')"]
)
def test_without_both_there_is_no_descriptor_to_be_had(expression: str) -> None:
    assert inside("fences", prepare=WITHOUT_BOTH) == "[]"
    assert inside(expression, prepare=WITHOUT_BOTH) == "EMFILE"
