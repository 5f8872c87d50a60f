"""The wheels' programs: where they lie, and how to run one as the account that may."""

import contextlib
import errno
import importlib.metadata
import importlib.util
import os
import pwd
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from errors import LocalServerFailed

#: The caller's own is not passed on: PGDATA, PGOPTIONS or a locale of theirs would change what
#: the programs do. LC_ALL also keeps macOS from starting threads in PostgreSQL.
_ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}
_PROBE_SECONDS = 10.0
_POLL_SECONDS = 0.02
#: Parts of a wheel that nothing runs; left out of a copy.
_NOT_RUN = shutil.ignore_patterns("include", "pkgconfig", "*.a", "*.py", "__pycache__")


@dataclass(frozen=True, slots=True)
class Account:
    """Whom a server runs as where we are root, which PostgreSQL refuses to run as."""

    uid: int
    gid: int

    def give(self, path: Path) -> None:
        os.chown(path, self.uid, self.gid, follow_symlinks=False)


def account_for(owned: Path) -> Account | None:
    """Return whom to run as: nobody else where we are not root, or whoever owns ``owned``."""
    if os.geteuid() != 0:
        return None
    with contextlib.suppress(FileNotFoundError):
        owner = owned.stat()
        if owner.st_uid != 0:
            return Account(owner.st_uid, owner.st_gid)
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError as error:
        raise LocalServerFailed(
            "As root, the local servers run as the account 'nobody', which this system lacks: "
            "start as an ordinary user, or set DATABASE_URL and REDIS_URL."
        ) from error
    return Account(nobody.pw_uid, nobody.pw_gid)


def run(
    command: Sequence[str | Path], *, cwd: Path, account: Account | None, timeout_seconds: float
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, out of reach of our terminal's Ctrl-C.

    Raises:
        LocalServerFailed: it cannot be run, or takes longer than ``timeout_seconds``.
    """
    identity: dict[str, Any] = {}
    if account is not None:
        identity = {"user": account.uid, "group": account.gid, "extra_groups": []}
    name = Path(command[0]).name
    try:
        return subprocess.run(
            command,
            cwd=cwd,
            env=_ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_seconds,
            check=False,
            start_new_session=True,
            umask=0o077,
            **identity,
        )
    except subprocess.TimeoutExpired as error:
        raise LocalServerFailed(f"{name} took longer than {timeout_seconds:.0f} s.") from error
    except OSError as error:
        if error.errno == errno.EPERM and account is not None:
            raise LocalServerFailed(
                "Root may not change to another account here, and PostgreSQL does not run as "
                "root: start as an ordinary user, or set DATABASE_URL and REDIS_URL."
            ) from error
        raise LocalServerFailed(f"{name} cannot be run: {error}") from error


def may_enter(folder: Path, account: Account | None) -> bool:
    """Ask the system itself, which knows access lists and mounts that mode bits don't show."""
    if account is None:
        return True
    asked = ["/bin/sh", "-c", 'cd -- "$0"', str(folder)]
    return (
        run(asked, cwd=Path("/"), account=account, timeout_seconds=_PROBE_SECONDS).returncode == 0
    )


def installed(package: str, distribution: str, *, spare: Path, account: Account | None) -> Path:
    """Return the folder of an installed ``package`` whose programs ``account`` may run.

    A wheel under a closed folder, such as root's home, is copied to ``spare`` once: the closed
    folder is not ours to open.

    Raises:
        LocalServerFailed: the wheel is not installed, or cannot be copied.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise LocalServerFailed(
            f"{distribution} is not installed: `pip install -r requirements-local.txt`, "
            "or set DATABASE_URL and REDIS_URL to servers of your own."
        )
    origin = Path(spec.submodule_search_locations[0])
    if may_enter(origin, account):
        return origin
    version = importlib.metadata.version(distribution)
    return _copied(origin, spare / f"{package}-{version}")


def _copied(origin: Path, target: Path) -> Path:
    """Copy a package, and the libraries that its wheel keeps beside it, unless that is done."""
    if target.is_dir():
        return target / origin.name
    target.parent.mkdir(mode=0o755, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        whole = Path(scratch) / "whole"
        for source in (origin, origin.with_name(f"{origin.name}.libs")):
            if source.is_dir():
                shutil.copytree(source, whole / source.name, symlinks=True, ignore=_NOT_RUN)
        for path in (whole, *whole.rglob("*")):
            if not path.is_symlink():
                _open_to_all(path)
        whole.rename(target)
    return target / origin.name


def _open_to_all(path: Path) -> None:
    """Let everybody read what its owner reads, and enter or run what its owner does."""
    mode = path.stat().st_mode
    path.chmod(mode | (0o555 if mode & stat.S_IXUSR else 0o444))


def running(name: str, marker: str) -> list[psutil.Process]:
    """Return the living processes called ``name`` that bear ``marker`` on their command line.

    The marker is made for one data folder, so a process identifier that the system has given
    to somebody else is never mistaken for ours.
    """
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.name() == name and _is_alive(process) and _bears(process, marker):
                found.append(process)
    return found


def _bears(process: psutil.Process, marker: str) -> bool:
    return any(marker in argument for argument in process.cmdline())


def end(process: psutil.Process, signals: Sequence[tuple[signal.Signals, float]]) -> bool:
    """Send each signal and wait its seconds; return whether the process is gone."""
    for number, seconds in signals:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)
        if gone([process], seconds):
            return True
    return False


def gone(processes: Sequence[psutil.Process], timeout_seconds: float) -> bool:
    """Wait until none of them lives; return whether that came in time."""
    deadline = time.monotonic() + timeout_seconds
    while any(_is_alive(process) for process in processes):
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def _is_alive(process: psutil.Process) -> bool:
    """Tell the living from zombies, which stay for ever where nobody collects orphans."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
