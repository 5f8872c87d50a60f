"""What both local servers have in common: folders, users, and the way up and down."""

import contextlib
import fcntl
import hashlib
import logging
import os
import shutil
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from signal import Signals
from typing import ClassVar

import psutil

from errors import LocalServerFailed
from local_servers import programs

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.05
#: How long a running server that was found may take to answer before it is started anew.
_ADOPT_SECONDS = 5.0
_LOG_BYTES_MAX = 10_000_000
_LOG_TAIL_LINES = 12
#: Where root keeps the data when the state folder is closed to everybody else.
_SPARE_FOLDER = Path("/var/lib")


class LocalServer(ABC):
    """A server of ours on this machine, with its data in a folder of ours.

    Several processes may use one server: it ends with the ``stop`` of the last that lives. One
    that was left running by a killed user is adopted by the next ``start``.
    """

    #: What people call it, and what the process is called.
    title: ClassVar[str]
    program: ClassVar[str]
    package: ClassVar[str]
    distribution: ClassVar[str]

    def __init__(
        self, folder: Path, *, fast: bool = False, spare_folder: Path = _SPARE_FOLDER
    ) -> None:
        """Describe a server; nothing is made or started.

        Args:
            folder: For this server alone; made when missing.
            fast: Trade the safety of the data for speed; for tests.
            spare_folder: Where root puts the data when others cannot enter ``folder``.
        """
        # One spelling, because the server is recognised by it.
        self._folder = folder.resolve()
        self._fast = fast
        self._spare_folder = spare_folder
        self._account: programs.Account | None = None
        self._place = self._folder
        self._users: int | None = None

    @property
    @abstractmethod
    def url(self) -> str:
        """What a client connects to; known once ``start`` has returned."""

    def start(self, *, timeout_seconds: float = 60.0) -> str:
        """Use the running server, or start one, and return its URL once it answers.

        Raises:
            LocalServerFailed: it does not come up; the message ends with the server's own words.
        """
        deadline = time.monotonic() + timeout_seconds
        with self._translated(), self._locked(deadline):
            self._settle()
            self._ensure_reachable()
            self._prepare(deadline)
            if not self._adopt(deadline):
                self._bring_up(deadline)
            self._join()
        logger.info("local server ready", extra={"server": self.title})
        return self.url

    def stop(self, *, timeout_seconds: float = 20.0) -> bool:
        """Stop the server unless somebody else uses it; return whether it is down.

        Raises:
            LocalServerFailed: it does not end, not even by force.
        """
        if not self._folder.exists():
            return True
        deadline = time.monotonic() + timeout_seconds
        with self._translated(), self._locked(deadline):
            if not self._leave():
                return False
            self._settle()
            self._bring_down(timeout_seconds)
            self._clear()
        return True

    @property
    def data(self) -> Path:
        """The folder that holds what must not be lost; only the server's account may enter."""
        return self._place / "data"

    @property
    def log(self) -> Path:
        return self.data / "server.log"

    @property
    def pid(self) -> int | None:
        """The server's process, whoever started it; None when it does not run."""
        process = self._process()
        return None if process is None else process.pid

    # What differs.

    @property
    @abstractmethod
    def _marker(self) -> str:
        """A word on the server's command line that no other process has."""

    @property
    @abstractmethod
    def _signals(self) -> Sequence[tuple[Signals, float]]:
        """How to end it when asking nicely did not help; seconds to wait after each."""

    @property
    @abstractmethod
    def _nicely(self) -> Signals:
        """The signal that ends it with everything on disk."""

    @abstractmethod
    def _prepare(self, deadline: float) -> None:
        """Make what the server needs before it can run, or be talked to."""

    @abstractmethod
    def _launch(self, deadline: float) -> None:
        """Start the server in the background."""

    @abstractmethod
    def _answers(self) -> bool:
        """Whether the server that runs is ours and takes commands."""

    @abstractmethod
    def _furnish(self) -> None:
        """Make what clients expect to find in a server that answers."""

    @abstractmethod
    def _clear(self) -> None:
        """Remove what a server that is down has left outside of its data folder."""

    # What is the same.

    def _settle(self) -> None:
        """Find out where the data is and whose it is."""
        self._place = self._remembered("place") or self._folder
        self._account = programs.account_for(self.data)

    def _ensure_reachable(self) -> None:
        """Move to a place that the server's account can enter, where ours is closed to it."""
        if programs.may_enter(self._place, self._account):
            return
        self._place = self._spare_place()
        self._account = programs.account_for(self.data)
        if not programs.may_enter(self._place, self._account):
            raise LocalServerFailed(
                f"{self.title} runs as another account than root, which can enter neither "
                f"{self._folder} nor {self._place}: set STATE_DIR to a folder that it can."
            )

    def _spare_place(self) -> Path:
        self._spare_folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        place = Path(tempfile.mkdtemp(prefix="transcription-", dir=self._spare_folder))
        place.chmod(0o711)
        self._remember("place", str(place))
        logger.warning(
            "state folder is closed to the servers' account, data is kept elsewhere",
            extra={"server": self.title, "folder": str(place)},
        )
        return place

    def _remembered(self, name: str) -> Path | None:
        """Return a folder that an earlier start has noted, if it is still there."""
        with contextlib.suppress(FileNotFoundError):
            path = Path((self._folder / name).read_text(encoding="utf-8"))
            if path.is_dir():
                return path
        return None

    def _remember(self, name: str, value: str) -> None:
        """Note a value for the next start; all of it or nothing."""
        scratch = self._folder / f"{name}.new"
        scratch.touch(mode=0o600)
        scratch.write_text(value, encoding="utf-8")
        scratch.replace(self._folder / name)

    def _make_folder(self, path: Path) -> None:
        """Make a folder that only the server's account may enter."""
        path.mkdir(mode=0o700, exist_ok=True)
        if self._account is not None:
            self._account.give(path)

    def _wheel(self) -> Path:
        return programs.installed(
            self.package,
            self.distribution,
            spare=self._place / "programs",
            account=self._account,
        )

    def _adopt(self, deadline: float) -> bool:
        """Whether a server that was left running serves us; one that doesn't is ended."""
        process = self._process()
        if process is None:
            return False
        if self._comes_to_answer(process, min(deadline, time.monotonic() + _ADOPT_SECONDS)):
            self._furnish()
            logger.info("adopted a running server", extra={"server": self.title})
            return True
        logger.warning("replacing a server that does not answer", extra={"server": self.title})
        self._bring_down(5.0)
        return False

    def _bring_up(self, deadline: float) -> None:
        self._rotate_log()
        offset = self.log.stat().st_size if self.log.exists() else 0
        try:
            self._launch(deadline)
            self._await_answer(deadline)
            self._furnish()
        except LocalServerFailed as error:
            self._bring_down(1.0)
            raise self._explained(error.message, self._log_tail(offset)) from error
        except BaseException:
            # Ctrl-C while it starts: nobody has joined yet, so nobody else would end it.
            self._bring_down(1.0)
            raise

    def _await_answer(self, deadline: float) -> None:
        process = self._process()
        if process is None or not self._comes_to_answer(process, deadline):
            raise LocalServerFailed(f"{self.title} did not come up.")

    def _bring_down(self, timeout_seconds: float) -> None:
        process = self._process()
        signals = ((self._nicely, timeout_seconds), *self._signals)
        if process is not None and not programs.end(process, signals):
            raise LocalServerFailed(f"{self.title} (process {process.pid}) cannot be stopped.")

    def _process(self) -> psutil.Process | None:
        """Return the server's main process; its children bear other names or have it as parent."""
        family = programs.running(self.program, self._marker)
        pids = {process.pid for process in family}
        for process in family:
            with contextlib.suppress(psutil.Error):
                # of a child that has just ended nothing is left to read
                words = process.cmdline()
                is_main = bool(words) and Path(words[0]).name == self.program
                if is_main and process.ppid() not in pids:
                    return process
        return None

    def _comes_to_answer(self, process: psutil.Process, deadline: float) -> bool:
        while not self._answers():
            if time.monotonic() > deadline or programs.gone([process], 0):
                return False
            time.sleep(_POLL_SECONDS)
        return True

    def _rotate_log(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            if self.log.stat().st_size > _LOG_BYTES_MAX:
                self.log.replace(self.log.with_suffix(".log.1"))

    def _log_tail(self, offset: int) -> str:
        try:
            with self.log.open("rb") as log:
                log.seek(offset)
                text = log.read(_LOG_BYTES_MAX).decode(errors="replace")
        except OSError:
            return ""
        return "\n".join(text.splitlines()[-_LOG_TAIL_LINES:])

    def _explained(self, message: str, said: str) -> LocalServerFailed:
        said = said.strip()
        return LocalServerFailed(f"{message}\n{said}" if said else message)

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn the file system's refusals into one sentence that says what can be done."""
        try:
            yield
        except OSError as error:
            raise LocalServerFailed(
                f"{self.title} cannot use its folder {self._folder}: {error}. It must be on a "
                "local disk with free space and belong to whoever starts the service; STATE_DIR "
                "moves it."
            ) from error

    @contextlib.contextmanager
    def _locked(self, deadline: float) -> Iterator[None]:
        """Keep every other start and stop of this server out."""
        # Closed to others, except where another account must pass through to its data.
        self._folder.mkdir(mode=0o711 if os.geteuid() == 0 else 0o700, parents=True, exist_ok=True)
        descriptor = _open_lock(self._folder / "lock")
        try:
            while not _flock(descriptor, fcntl.LOCK_EX):
                if time.monotonic() > deadline:
                    raise LocalServerFailed(f"{self.title} is being started by another process.")
                time.sleep(_POLL_SECONDS)
            yield
        finally:
            os.close(descriptor)

    def _join(self) -> None:
        """Be counted as a user until ``stop``, or until the system sees this process end."""
        if self._users is None:
            self._users = _open_lock(self._folder / "users")
        _flock(self._users, fcntl.LOCK_SH)

    def _leave(self) -> bool:
        """Be no user any more; return whether there is none now."""
        descriptor = self._users if self._users is not None else _open_lock(self._folder / "users")
        self._users = None
        try:
            return _flock(descriptor, fcntl.LOCK_EX)
        finally:
            # Said aloud, because a child that was forked may hold the descriptor too.
            _flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)


def remove(folder: Path) -> None:
    """Delete a folder of ours that may be gone already."""
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(folder)


def digest(path: Path) -> str:
    """Name a path in a few letters that are safe anywhere."""
    return hashlib.sha256(os.fsencode(path)).hexdigest()[:20]


def _open_lock(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _flock(descriptor: int, operation: int) -> bool:
    try:
        fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
