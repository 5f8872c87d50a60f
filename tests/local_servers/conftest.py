"""Servers of their own for the tests that start, kill and break them."""

import os
import pwd
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from local_servers import PostgresServer, ValkeyServer
from local_servers.server import LocalServer

MakeServer = Callable[..., Any]

as_root_only = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that the account which servers run as under root may pass; tmp_path is closed."""
    with tempfile.TemporaryDirectory(prefix="servers-") as name:
        path = Path(name).resolve()
        path.chmod(0o711)
        yield path


@pytest.fixture
def make_server(folder: Path) -> Iterator[MakeServer]:
    """Make servers that are stopped after the test, whoever uses them by then."""
    made: list[LocalServer] = []

    def make(kind: type[LocalServer], where: Path = folder / "server", **options: Any) -> Any:
        options = {"fast": True, "spare_folder": folder / "spare", **options}
        made.append(kind(where, **options))
        return made[-1]

    yield make
    for server in made:
        server.stop()


@pytest.fixture(params=[PostgresServer, ValkeyServer])
def kind(request: pytest.FixtureRequest) -> type[LocalServer]:
    chosen: type[LocalServer] = request.param
    return chosen


def kill(server: LocalServer) -> None:
    pid = server.pid
    assert pid is not None
    psutil.Process(pid).kill()


def as_ordinary_user(told: Callable[[], str]) -> str:
    """Return what a function, or its error, says in a child that is no longer root."""
    ordinary = pwd.getpwnam("daemon")  # another one than root's servers run as
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(ordinary.pw_gid)
            os.setuid(ordinary.pw_uid)
            said = told()
        except BaseException as error:  # noqa: BLE001 - a forked child must not return to pytest
            said = f"{type(error).__name__}: {error}"
        os.write(writer, said.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, encoding="utf-8") as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    return said
