import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from stat import S_IMODE
from typing import Any

import psutil
import pytest
import sqlalchemy
from sqlalchemy.exc import ProgrammingError

from errors import LocalServerFailed
from local_servers import PostgresServer
from tests.local_servers.conftest import MakeServer, kill

PROJECT_DIR = Path(__file__).resolve().parent.parent.parent

START = """
import sys
from pathlib import Path
from local_servers import PostgresServer
PostgresServer(Path(sys.argv[1])).start()
"""


def ask(url: str, *statements: str) -> Any:
    """Run statements, and return the first value of the last."""
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
    value = None
    with engine.begin() as connection:
        for statement in statements:
            result = connection.execute(sqlalchemy.text(statement))
            value = result.scalar() if result.returns_rows else None
    return value


@pytest.fixture(scope="module")
def shared() -> Iterator[PostgresServer]:
    """A server with the settings that a newcomer gets, for tests that only look."""
    with tempfile.TemporaryDirectory(prefix="servers-") as name:
        Path(name).chmod(0o711)
        server = PostgresServer(Path(name) / "server")
        server.start()
        yield server
        server.stop()


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("SELECT current_database()", "transcription"),
        ("SHOW server_encoding", "UTF8"),
        ("SHOW timezone", "UTC"),
        ("SHOW fsync", "on"),
        ("SHOW full_page_writes", "on"),
        ("SHOW synchronous_commit", "on"),
        ("SHOW data_checksums", "on"),
        ("SELECT lower('ÄÖ')", "äö"),
        ("SELECT 'B' < 'a'", True),
    ],
)
def test_a_newcomer_gets_a_durable_database(
    shared: PostgresServer, question: str, expected: Any
) -> None:
    assert ask(shared.url, question) == expected


def test_nothing_listens_on_the_network(shared: PostgresServer) -> None:
    pid = shared.pid
    assert pid is not None

    assert psutil.Process(pid).net_connections(kind="inet") == []


def test_only_the_server_may_enter_the_folder_of_its_socket(shared: PostgresServer) -> None:
    (socket,) = shared.data.with_name("run").glob(".s.PGSQL.*[0-9]")

    assert S_IMODE(socket.parent.stat().st_mode) == 0o700


def test_a_failed_statement_is_not_logged(shared: PostgresServer) -> None:
    with pytest.raises(ProgrammingError):
        ask(shared.url, "SELECT 'what a client has said' FROM nowhere")

    assert "nowhere" in shared.log.read_text(encoding="utf-8")
    assert "what a client has said" not in shared.log.read_text(encoding="utf-8")


def test_the_environment_of_the_caller_changes_nothing(
    make_server: MakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPORT", "1")
    monkeypatch.setenv("PGDATA", "/nowhere")
    monkeypatch.setenv("LC_ALL", "xx_XX.UTF-8")

    assert ask(make_server(PostgresServer).start(), "SELECT 1") == 1


def test_rows_survive_a_killed_server(make_server: MakeServer) -> None:
    server = make_server(PostgresServer, fast=False)
    ask(server.start(), "CREATE TABLE kept (word text)", "INSERT INTO kept VALUES ('here')")
    kill(server)

    assert ask(server.start(), "SELECT word FROM kept") == "here"


def test_the_identifier_of_a_dead_server_may_be_somebody_elses_now(
    make_server: MakeServer,
) -> None:
    server = make_server(PostgresServer)
    server.start()
    kill(server)
    note = server.data / "postmaster.pid"
    _, *rest = note.read_text(encoding="utf-8").splitlines()
    # A process of the server's own account, which PostgreSQL takes for a server that lives.
    with subprocess.Popen(["sleep", "60"], user=server.data.stat().st_uid) as somebody:
        note.write_text("\n".join([str(somebody.pid), *rest]), encoding="utf-8")
        url = server.start()
        somebody.kill()

    assert ask(url, "SELECT 1") == 1


def test_an_initdb_that_was_killed_is_done_again(make_server: MakeServer, folder: Path) -> None:
    server = make_server(PostgresServer)
    with subprocess.Popen(
        [sys.executable, "-c", START, str(folder / "server")], cwd=PROJECT_DIR
    ) as starting:
        wait_for_file(folder / "server", "initdb-*/PG_VERSION", while_runs=starting)
        starting.kill()

    assert not server.data.exists()
    assert ask(server.start(), "SELECT 1") == 1


def wait_for_file(folder: Path, pattern: str, *, while_runs: subprocess.Popen[bytes]) -> None:
    while not list(folder.glob(pattern)):
        assert while_runs.poll() is None


def test_a_half_made_folder_is_cleared_away(make_server: MakeServer, folder: Path) -> None:
    half = folder / "server" / "initdb-half"
    half.mkdir(parents=True)
    (folder / "server").chmod(0o711)
    (half / "PG_VERSION").write_text("18\n", encoding="ascii")
    make_server(PostgresServer).start()

    assert not half.exists()


def test_data_of_another_version_is_refused(make_server: MakeServer, folder: Path) -> None:
    data = folder / "server" / "data"
    data.mkdir(parents=True)
    (data / "PG_VERSION").write_text("16\n", encoding="ascii")

    with pytest.raises(LocalServerFailed, match=r"made by PostgreSQL 16.*restore"):
        make_server(PostgresServer).start()


def test_a_folder_with_other_files_is_refused(make_server: MakeServer, folder: Path) -> None:
    data = folder / "server" / "data"
    data.mkdir(parents=True)
    (data / "thesis.txt").touch()

    with pytest.raises(LocalServerFailed, match="move it away"):
        make_server(PostgresServer).start()


def test_a_database_that_cannot_be_made_is_one_clear_error(make_server: MakeServer) -> None:
    server = make_server(PostgresServer)
    server.start()
    engine = sqlalchemy.create_engine(server.url_of("template1"), isolation_level="AUTOCOMMIT")
    # PostgreSQL copies no database that somebody is connected to.
    with engine.connect() as connection:
        connection.execute(sqlalchemy.text("DROP DATABASE transcription"))
        with pytest.raises(LocalServerFailed, match=r"no database for us.*template1"):
            server.start()
    engine.dispose()


def test_a_failed_start_gives_the_words_of_the_server(make_server: MakeServer) -> None:
    server = make_server(PostgresServer)
    server.start()
    server.stop()
    with (server.data / "postgresql.conf").open("a", encoding="utf-8") as settings:
        settings.write("no_such_setting = 1\n")

    with pytest.raises(LocalServerFailed, match="no_such_setting"):
        server.start()


def test_a_full_disk_is_one_clear_error(make_server: MakeServer, folder: Path) -> None:
    limited = 'ulimit -f 100; exec "$0" -c "$1" "$2"'  # blocks of 512 bytes or 1 KiB
    done = subprocess.run(
        ["/bin/sh", "-c", limited, sys.executable, START, str(folder / "server")],
        cwd=PROJECT_DIR,
        capture_output=True,
        text=True,
    )

    assert "errors.LocalServerFailed: PostgreSQL's initdb failed." in done.stderr
    assert not (folder / "server" / "data").exists()


def test_a_long_path_gets_a_short_socket(make_server: MakeServer, folder: Path) -> None:
    server = make_server(PostgresServer, folder / ("long" * 30))

    assert ask(server.start(), "SELECT 1") == 1


def test_a_stop_removes_the_short_socket(make_server: MakeServer, folder: Path) -> None:
    where = folder / ("long" * 30)
    server = make_server(PostgresServer, where)
    server.start()
    sockets = Path((where / "sockets").read_text(encoding="utf-8"))
    server.stop()

    assert not sockets.exists()


def open_to_others(path: Path) -> None:
    path.chmod(0o755)


def replace_by_a_link(path: Path) -> None:
    """Put a link to somewhere else where a folder was."""
    path.rename(path.with_name(f"{path.name}-away"))
    path.symlink_to(path.with_name(f"{path.name}-away"))


@pytest.mark.parametrize("change", [open_to_others, replace_by_a_link])
def test_a_noted_socket_folder_that_others_made_is_not_used(
    make_server: MakeServer, folder: Path, change: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    where = folder / ("long" * 30)
    server = make_server(PostgresServer, where)
    server.start()
    noted = Path((where / "sockets").read_text(encoding="utf-8"))
    kill(server)
    change(noted)
    server.start()

    assert (where / "sockets").read_text(encoding="utf-8") != str(noted)
