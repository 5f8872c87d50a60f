"""The service under test: servers of its own, processes that are started again when they end."""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from local_servers import PostgresServer, ValkeyServer
from rig.processes import Process

#: The model of null jobs, which is never loaded.
NULL_MODEL: Final = "tiny"

#: What is slow on purpose, made quick; whatever else is set stays as it is.
SETTINGS: Final[dict[str, str]] = {
    "LEASE_SECONDS": "6",
    "HEARTBEAT_SECONDS": "1",
    "DISPATCH_SECONDS": "0.2",
    "REDISPATCH_SECONDS": "20",
    "RETRY_BASE_SECONDS": "0.2",
    "RETRY_CAP_SECONDS": "5",
    "MAX_RETRIES": "2",
    "DRAIN_SECONDS": "1",
    "DRAIN_FORCE_SECONDS": "10",
    "CELERY_CONCURRENCY": "4",
    "WHISPER_MODEL_SIZE": "demo",
    "WHISPER_THREADS": "1",
    "MODEL_DOWNLOAD": "false",
    "MIN_FREE_DISK_MB": "0",
    # one client sends what many would
    "RATE_LIMIT_REQUESTS": "1000000",
    "LOG_LEVEL": "INFO",
    "NULL_MODEL": NULL_MODEL,
}
#: A worker that freezes in the middle of a transaction keeps its job's row for so long; PostgreSQL
#: then ends the session. Half of a lease, as it is with the service's own settings.
OPTIONS: Final = "options=-c%20idle_in_transaction_session_timeout%3D3s"
#: A supervisor's pause before it starts a process again.
RESTART_SECONDS: Final = 0.5
POLL_SECONDS: Final = 0.1
#: What a process may take to end, on a busy machine, when it is told to.
END_SECONDS: Final = 120.0


@dataclass
class Place:
    """Where everything is."""

    folder: Path
    postgres: PostgresServer
    valkey: ValkeyServer
    port: int

    def start(self) -> None:
        """Start the servers that do not run."""
        self.postgres.start()
        self.valkey.start()

    @property
    def state(self) -> Path:
        return self.folder / "state"

    @property
    def ledger(self) -> Path:
        return self.folder / "ledger.jsonl"

    def database_url(self, name: str) -> str:
        """The database, for a process that is to be known there by that name."""
        return f"{self.postgres.url}&application_name={name}&{OPTIONS}"

    def environment(self, name: str) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if key in {"PATH", "HOME", "LANG"}}
        return {
            **kept,
            **SETTINGS,
            "DATABASE_URL": self.database_url(name),
            "REDIS_URL": self.valkey.url,
            "STATE_DIR": str(self.state),
            "LEDGER": str(self.ledger),
            "PORT": str(self.port),
        }


@contextlib.contextmanager
def servers(port: int) -> Iterator[Place]:
    """Run PostgreSQL, with the safety that production has, and Valkey, in a folder of their own."""
    with tempfile.TemporaryDirectory(prefix="transcription-soak-") as name:
        folder = Path(name)
        folder.chmod(0o711)  # as root, the servers run as somebody else, who must pass
        place = Place(
            folder, PostgresServer(folder / "postgres"), ValkeyServer(folder / "valkey"), port
        )
        place.state.mkdir()
        try:
            place.start()
            yield place
        finally:
            for server in (place.valkey, place.postgres):
                if server.pid is not None:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(server.pid, signal.SIGCONT)
                server.stop()


@dataclass
class Life:
    """One run of a process, from its start to its end."""

    role: str
    #: ``worker-2.3``: the third life of the second worker; what PostgreSQL knows it by.
    name: str
    process: Process
    started_at: float
    ended_at: float | None = None
    status: int | None = None
    #: The fault that ended it, or froze it last.
    fault: str | None = None

    @property
    def lives(self) -> bool:
        return self.ended_at is None and self.process.popen.poll() is None


@dataclass
class _Post:
    """A place for one process at a time."""

    role: str
    name: str
    arguments: tuple[str, ...]
    lives: list[Life] = field(default_factory=list)


class Supervisor:
    """Starts processes, and starts again what ends, as whoever runs the service would."""

    def __init__(self, folder: Path, environment: Callable[[str], Mapping[str, str]]) -> None:
        self._folder = folder
        self._environment = environment
        self._posts: list[_Post] = []
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="supervisor", daemon=True)

    def add(self, role: str, count: int, arguments: tuple[str, ...]) -> None:
        for number in range(1, count + 1):
            post = _Post(role, f"{role}-{number}", arguments)
            self._posts.append(post)
            self._start(post)

    def start(self) -> None:
        self._thread.start()

    @property
    def lives(self) -> list[Life]:
        """All that ever ran."""
        with self._lock:
            return [life for post in self._posts for life in post.lives]

    def alive(self, role: str) -> list[Life]:
        return [life for life in self.lives if life.role == role and life.lives]

    def await_ready(self, seconds: float) -> None:
        """Wait until every process said that it is ready.

        Raises:
            TimeoutError: One did not.
        """
        until = time.monotonic() + seconds
        waiting = list(self._posts)
        while waiting:
            if time.monotonic() > until:
                raise TimeoutError(f"not ready: {', '.join(post.name for post in waiting)}")
            waiting = [post for post in waiting if not _is_ready(post.lives[-1])]
            time.sleep(POLL_SECONDS)

    def end(self, life: Life) -> float:
        """Tell a process to end, and wait for it; returns the seconds that it took.

        Raises:
            subprocess.TimeoutExpired: It did not.
        """
        began = time.monotonic()
        life.process.signal(signal.SIGTERM)
        life.process.wait(END_SECONDS)
        return time.monotonic() - began

    def close(self) -> None:
        """Start nothing again."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join()

    def kill(self) -> None:
        """End whatever still runs."""
        self.close()
        for life in self.lives:
            if life.process.popen.poll() is None:
                life.process.kill()

    def _start(self, post: _Post) -> None:
        name = f"{post.name}.{len(post.lives) + 1}"
        process = Process.start(
            name,
            *post.arguments,
            log=self._folder / f"{name}.log",
            environment=self._environment(name),
        )
        with self._lock:
            post.lives.append(Life(post.role, name, process, time.time()))

    def _run(self) -> None:
        while not self._closing.wait(POLL_SECONDS):
            for post in self._posts:
                self._look_after(post)

    def _look_after(self, post: _Post) -> None:
        life = post.lives[-1]
        status = life.process.popen.poll()
        if status is None:
            return
        if life.ended_at is None:
            life.status, life.ended_at = status, time.time()
        elif time.time() - life.ended_at >= RESTART_SECONDS:
            self._start(post)


def _is_ready(life: Life) -> bool:
    return life.process.said("Uvicorn running" if life.role == "web" else "ready")
