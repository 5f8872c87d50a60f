"""Servers of their own for the tests that start, kill and break them."""

import os
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
