"""``make run``: the whole service on this machine, from its first start to Ctrl-C.

Starts PostgreSQL and Valkey where none are set, migrates, starts web, worker and maintenance,
transcribes a sample through the public API, and stays. Each process is in a session of its own,
so Ctrl-C reaches only this one, which ends the others in order; no job is lost by it.

``python serve.py restore FOLDER`` runs a command of ``cli.py`` on these servers instead, for what
is to be done while the service does not run.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Final

import httpx2
from alembic import command
from alembic.config import Config as AlembicConfig
from alembic.util import CommandError
from pydantic import SecretStr
from sqlalchemy.exc import SQLAlchemyError

import first_keys
import welcome
from config import PROJECT_DIR, SERVERS_FILE, Settings
from errors import ServiceError, SettingsError
from local_servers import PostgresServer, ValkeyServer
from local_servers.server import LocalServer

POLL_SECONDS: Final = 0.1
READY_SECONDS: Final = 60.0
#: A process that ends by itself is started again, unless it does so this often in a row.
MAX_RESTARTS: Final = 5
SETTLED_SECONDS: Final = 30.0
#: What this way of running chooses where nobody did: a model that needs no download, and an end
#: that does not keep somebody waiting at a terminal.
OWN_DEFAULTS: Final = {"whisper_model_size": "demo", "drain_seconds": "2"}
#: Ports from here on are for everybody.
FIRST_FREE_PORT: Final = 1024
LAST_PORT: Final = 65_535
#: How long a process may take to end beyond what it promises.
GRACE_SECONDS: Final = 15.0


class StartFailed(Exception):
    """The service did not come up; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Program:
    """One process of the service."""

    name: str
    arguments: tuple[str, ...]


class Supervised:
    """One process that is kept running, with its log in a file."""

    def __init__(self, program: Program, environment: Mapping[str, str], log: Path) -> None:
        self.name = program.name
        self.log = log
        self._arguments = [sys.executable, *program.arguments]
        self._environment = environment
        self._restarts = 0
        self._started_at = 0.0
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        self._started_at = time.monotonic()
        with self.log.open("ab") as log:
            return subprocess.Popen(
                self._arguments,
                cwd=PROJECT_DIR,
                env=dict(self._environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def keep(self) -> None:
        """Start it again if it has ended.

        Raises:
            StartFailed: It ends again and again.
        """
        status = self.process.poll()
        if status is None:
            return
        if time.monotonic() - self._started_at > SETTLED_SECONDS:
            self._restarts = 0
        if self._restarts >= MAX_RESTARTS:
            raise StartFailed(f"{self.name} ends again and again:\n{tail(self.log)}")
        self._restarts += 1
        say(f"{self.name} ended with status {status}: starting it again (log: {self.log})")
        self.process = self._start()

    def require_running(self) -> None:
        """Notice while starting that it could not.

        Raises:
            StartFailed: It has ended.
        """
        if self.process.poll() is not None:
            raise StartFailed(f"{self.name} did not start:\n{tail(self.log)}")

    def terminate(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()

    def end(self, until: float) -> None:
        """Wait until ``until`` on the monotonic clock, then insist."""
        try:
            self.process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            say(f"{self.name} does not end: killing it")
            self.process.kill()
            self.process.wait()


class Interrupts:
    """Ctrl-C and SIGTERM: the first asks for an orderly end, the second for a quick one."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.insisted = threading.Event()
        signal.signal(signal.SIGINT, self._note)
        signal.signal(signal.SIGTERM, self._note)

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        (self.insisted if self.asked.is_set() else self.asked).set()


def say(line: str) -> None:
    print(line, flush=True)  # noqa: T201 - this is the terminal's own program


def tail(log: Path, lines: int = 12) -> str:
    text = log.read_text("utf-8", errors="replace") if log.exists() else ""
    return "\n".join(f"    {line}" for line in text.splitlines()[-lines:])


@contextlib.contextmanager
def only_one(state_dir: Path) -> Iterator[None]:
    """Hold the state folder for this run.

    Raises:
        StartFailed: Another run holds it.
    """
    with (state_dir / "serve.lock").open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StartFailed(
                f"The service is running already on {state_dir}. Stop it with Ctrl-C there, "
                "or set STATE_DIR and PORT for a second one."
            ) from None
        yield


def require_free(host: str, port: int) -> None:
    """Check that the web process can listen.

    Raises:
        StartFailed: Somebody else does, or the address is none of this machine.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise StartFailed(f"HOST={host} is no address ({error.strerror}).") from error
    for family, kind, protocol, _, place in found:
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:  # as asyncio does: it listens on IPv4 by itself
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                probe.bind(place)
            except OSError as error:
                raise StartFailed(_why_taken(error, host, port)) from None


def _why_taken(error: OSError, host: str, port: int) -> str:
    if error.errno not in {errno.EADDRINUSE, errno.EACCES}:
        return f"HOST={host} is no address of this machine ({error.strerror})."
    other = port + 1 if FIRST_FREE_PORT <= port < LAST_PORT else 8000
    return (
        f"Port {port} on {host} cannot be had ({error.strerror}). "
        f"Choose another one: PORT={other} make run"
    )


def own_servers(settings: Settings) -> dict[str, LocalServer]:
    """The servers that no variable points at, by the variable that is to point at them."""
    folder = settings.state_dir.absolute()
    servers: dict[str, LocalServer] = {}
    if settings.database_url is None:
        servers["DATABASE_URL"] = PostgresServer(folder / "postgres")
    if settings.celery_broker_url is None and settings.redis_url is None:
        servers["REDIS_URL"] = ValkeyServer(folder / "valkey")
    return servers


def note_choices(settings: Settings, found: Mapping[str, str]) -> None:
    """Leave word of the servers and the model for ``cli.py``, as long as this runs.

    Raises:
        SettingsError: It cannot be written.
    """
    chosen = {**found, "WHISPER_MODEL_SIZE": model_of(settings)}
    first_keys.write_secret(settings.state_dir / SERVERS_FILE, json.dumps(chosen))


def forget(settings: Settings) -> None:
    """Remove what holds only while this runs."""
    (settings.state_dir / SERVERS_FILE).unlink(missing_ok=True)
    welcome.forget_key(settings)


def keep_servers(servers: Iterable[LocalServer]) -> None:
    """Start again whichever has died; the others are left alone."""
    for server in servers:
        if server.pid is None:
            say(f"{server.title} has died: starting it again (log: {server.log})")
            server.start()


def migrate(settings: Settings, found: Mapping[str, str]) -> None:
    """Bring the database to the newest migration.

    Raises:
        StartFailed: It cannot be.
        SettingsError: It is the first version's.
    """
    alembic = AlembicConfig(PROJECT_DIR / "alembic.ini")
    url = found.get("DATABASE_URL") or settings.require_database_url()
    alembic.attributes["settings"] = settings.model_copy(update={"database_url": SecretStr(url)})
    try:
        command.upgrade(alembic, "head")
    except (SQLAlchemyError, CommandError) as error:
        raise StartFailed(f"The database cannot be migrated: {error}") from error


def programs(settings: Settings) -> tuple[Program, ...]:
    return (
        Program("web", ("app.py",)),
        Program("maintenance", ("worker.py", "--role", "maintenance")),
        Program("webhooks", ("worker.py", "--role", "webhooks")),
        Program("worker", ("worker.py",)),
    )


def wait_until_ready(client: httpx2.Client, running: list[Supervised], stop: Interrupts) -> bool:
    """Wait until a job can be submitted; False when told to stop meanwhile.

    Raises:
        StartFailed: A process ended, or it takes too long.
    """
    until = time.monotonic() + READY_SECONDS
    while time.monotonic() < until:
        for program in running:
            program.require_running()
        with contextlib.suppress(httpx2.HTTPError):
            if client.get("/ready").status_code == httpx2.codes.OK:
                return True
        if stop.asked.wait(POLL_SECONDS):
            return False
    raise StartFailed(f"The service is not ready after {READY_SECONDS:.0f} s: see {running[0].log}")


def environment_of(settings: Settings, found: Mapping[str, str]) -> dict[str, str]:
    """What the processes of the service get: ours, and where the servers are."""
    defaults = {
        name.upper(): value
        for name, value in OWN_DEFAULTS.items()
        if name not in settings.model_fields_set
    }
    return {
        **os.environ,  # noqa: TID251 - handed on, not read
        **defaults,
        **found,
        "STATE_DIR": str(settings.state_dir.absolute()),
        "PYTHONUNBUFFERED": "1",
    }


def model_of(settings: Settings) -> str:
    given = "whisper_model_size" in settings.model_fields_set
    return settings.whisper_model_size if given else OWN_DEFAULTS["whisper_model_size"]


def serve(settings: Settings, stop: Interrupts) -> None:
    """Run until interrupted.

    Raises:
        StartFailed: Something did not come up, or does not stay up.
    """
    began = time.monotonic()
    require_free(settings.host, settings.port)
    logs = settings.state_dir / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        say("Starting ...")
        forget(settings)  # what a run left that was killed
        servers = own_servers(settings)
        found = {}
        for variable, server in servers.items():
            found[variable] = server.start()
            stack.callback(server.stop)
        stack.callback(forget, settings)
        note_choices(settings, found)
        migrate(settings, found)
        environment = environment_of(settings, found)
        running: list[Supervised] = []
        stack.callback(stop_all, running, settings, stop)
        for program in programs(settings):
            running.append(Supervised(program, environment, logs / f"{program.name}.log"))  # noqa: PERF401 - each counts once started
        # no proxy of the environment's stands between us and our own
        url = welcome.address(settings)
        with httpx2.Client(base_url=url, timeout=30, trust_env=False) as client:
            if not wait_until_ready(client, running, stop):
                return
            say(f"Ready after {time.monotonic() - began:.1f} s.\n")
            access = welcome.find_access(client, settings)
            if access.works:
                say(welcome.try_sample(client, stop.asked))
        for line in welcome.greeting(settings, access, model_of(settings)):
            say(line)
        while not stop.asked.wait(1.0):
            keep_servers(servers.values())
            for supervised in running:
                supervised.keep()


def run_alone(settings: Settings, arguments: Sequence[str]) -> int:
    """Run a command of ``cli.py`` on the servers of this run, with nothing else beside it.

    Returns:
        Its exit status.
    """
    with contextlib.ExitStack() as stack:
        found = {}
        for variable, server in own_servers(settings).items():
            found[variable] = server.start()
            stack.callback(server.stop)
        command_line = [sys.executable, "cli.py", *arguments]
        environment = environment_of(settings, found)
        return subprocess.run(
            command_line, cwd=PROJECT_DIR, env=environment, check=False
        ).returncode


def stop_all(running: list[Supervised], settings: Settings, stop: Interrupts) -> None:
    """End the processes in order: first what takes jobs in, then what works on them."""
    say("\nStopping: running jobs are handed back, and go on at the next start ...")
    for program in running:
        program.terminate()
    until = time.monotonic() + settings.drain_seconds + settings.drain_force_seconds + GRACE_SECONDS
    while any(p.process.poll() is None for p in running) and time.monotonic() < until:
        if stop.insisted.wait(POLL_SECONDS):
            until = time.monotonic()
    for program in running:
        program.end(until)
    say("Stopped.")


def main() -> int | str:
    try:
        settings = Settings.from_env()
        settings.state_dir.mkdir(parents=True, exist_ok=True)
        with only_one(settings.state_dir):
            if sys.argv[1:]:
                return run_alone(settings, sys.argv[1:])
            serve(settings, Interrupts())
    except (StartFailed, SettingsError) as error:
        return str(error)
    except ServiceError as error:
        return error.message
    return 0


if __name__ == "__main__":
    sys.exit(main())
