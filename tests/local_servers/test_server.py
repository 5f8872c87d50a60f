import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from stat import S_IMODE

import psutil
import pytest
import redis
import sqlalchemy

from errors import LocalServerFailed
from local_servers import PostgresServer, programs
from local_servers.server import LocalServer
from tests.local_servers.conftest import MakeServer, as_ordinary_user, as_root_only, kill

PROJECT_DIR = Path(__file__).resolve().parent.parent.parent
#: Starts a server, says so, and uses it until its standard input ends.
USER = """
import sys
from pathlib import Path
import local_servers
getattr(local_servers, sys.argv[1])(Path(sys.argv[2]), fast=True).start()
print("ready", flush=True)
sys.stdin.read()
"""


def answers(url: str) -> bool:
    if url.startswith("redis"):
        with redis.Redis.from_url(url) as client:
            return bool(client.ping())
    with sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool).connect() as connection:
        return bool(connection.scalar(sqlalchemy.text("SELECT 1")))


def spawn_user(kind: type[LocalServer], folder: Path) -> subprocess.Popen[str]:
    """Start a process of its own group that uses the server in ``folder``."""
    user = subprocess.Popen(
        [sys.executable, "-c", USER, kind.__name__, str(folder)],
        cwd=PROJECT_DIR,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    assert user.stdout is not None
    assert user.stdout.readline() == "ready\n"
    return user


def test_a_started_server_answers(kind: type[LocalServer], make_server: MakeServer) -> None:
    assert answers(make_server(kind).start())


def test_a_second_start_uses_the_running_server(
    kind: type[LocalServer], make_server: MakeServer
) -> None:
    first, second = make_server(kind), make_server(kind)
    urls = {first.start(), second.start()}

    assert len(urls) == 1
    assert first.pid == second.pid


def test_a_server_is_found_through_a_link_too(
    kind: type[LocalServer], make_server: MakeServer, folder: Path
) -> None:
    (folder / "link").symlink_to(folder)
    first, second = make_server(kind), make_server(kind, folder / "link" / "server")
    first.start()
    second.start()

    assert first.pid == second.pid


def test_two_starts_at_once_make_one_server(
    kind: type[LocalServer], make_server: MakeServer
) -> None:
    servers = [make_server(kind), make_server(kind)]
    threads = [threading.Thread(target=server.start) for server in servers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert servers[0].url == servers[1].url
    assert answers(servers[0].url)


def test_a_server_outlives_a_stop_while_others_use_it(
    kind: type[LocalServer], make_server: MakeServer
) -> None:
    first, second = make_server(kind), make_server(kind)
    first.start()
    url = second.start()

    assert not first.stop()
    assert answers(url)


def test_a_server_ends_with_its_last_user(kind: type[LocalServer], make_server: MakeServer) -> None:
    first, second = make_server(kind), make_server(kind)
    first.start()
    second.start()
    first.stop()

    assert second.stop()
    assert second.pid is None


def test_a_stopped_server_starts_again(kind: type[LocalServer], make_server: MakeServer) -> None:
    server = make_server(kind)
    url = server.start()
    server.stop()

    assert server.start() == url
    assert answers(url)


def test_stopping_what_never_ran_makes_nothing(kind: type[LocalServer], folder: Path) -> None:
    assert kind(folder / "never").stop()
    assert not (folder / "never").exists()


def test_the_server_of_a_killed_user_is_adopted(
    kind: type[LocalServer], make_server: MakeServer, folder: Path
) -> None:
    server = make_server(kind)
    with spawn_user(kind, folder / "server") as user:
        left_running = server.pid
        user.kill()
    server.start()

    assert left_running is not None
    assert server.pid == left_running


def test_a_killed_user_no_longer_counts(
    kind: type[LocalServer], make_server: MakeServer, folder: Path
) -> None:
    server = make_server(kind)
    with spawn_user(kind, folder / "server") as user:
        user.kill()

    assert server.stop()


def test_ctrl_c_in_a_user_does_not_reach_the_server(
    kind: type[LocalServer], make_server: MakeServer, folder: Path
) -> None:
    server = make_server(kind)
    with spawn_user(kind, folder / "server") as user:
        pid = server.pid
        os.killpg(user.pid, signal.SIGINT)
    url = server.start()

    assert server.pid == pid
    assert answers(url)


def test_a_killed_server_is_replaced(kind: type[LocalServer], make_server: MakeServer) -> None:
    server = make_server(kind)
    url = server.start()
    kill(server)

    assert server.start() == url
    assert answers(url)


def test_a_server_that_answers_no_more_is_replaced(
    kind: type[LocalServer], make_server: MakeServer, folder: Path
) -> None:
    server = make_server(kind)
    old = psutil.Process(_pid_of(server))
    # What a client needs to reach the server is gone, as after a folder was deleted by hand.
    for lost in ("address", "run/.s.PGSQL.5432"):
        (folder / "server" / lost).unlink(missing_ok=True)
    server = make_server(kind)
    server.start(timeout_seconds=30.0)

    assert not old.is_running() or old.status() == psutil.STATUS_ZOMBIE
    assert answers(server.url)


def test_a_child_that_ends_while_it_is_looked_at_is_not_the_server(
    kind: type[LocalServer], make_server: MakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = make_server(kind)
    pid = _pid_of(server)
    found, read = programs.running, psutil.Process.cmdline
    ending = psutil.Process()

    def cmdline(process: psutil.Process) -> list[str]:
        # so it is for the moment in which its memory is gone and it is no zombie yet
        return [] if process == ending else read(process)

    monkeypatch.setattr(psutil.Process, "cmdline", cmdline)
    monkeypatch.setattr(programs, "running", lambda *of: [ending, *found(*of)])

    assert server.pid == pid


def _pid_of(server: LocalServer) -> int:
    server.start()
    pid = server.pid
    assert pid is not None
    return pid


def test_only_the_server_may_enter_its_data(
    kind: type[LocalServer], make_server: MakeServer
) -> None:
    server = make_server(kind)
    server.start()

    assert S_IMODE(server.data.stat().st_mode) == 0o700


def test_a_folder_that_exists_keeps_its_mode(
    kind: type[LocalServer], make_server: MakeServer, folder: Path
) -> None:
    (folder / "server").mkdir()
    (folder / "server").chmod(0o755)
    make_server(kind).start()

    assert S_IMODE((folder / "server").stat().st_mode) == 0o755


def test_odd_letters_in_a_path_are_fine(
    kind: type[LocalServer], make_server: MakeServer, folder: Path
) -> None:
    assert answers(make_server(kind, folder / "a b'c\"$HOME`id`\\ü,;#").start())


def test_a_folder_that_cannot_be_made_is_one_clear_error(
    kind: type[LocalServer], folder: Path
) -> None:
    (folder / "file").touch()

    with pytest.raises(LocalServerFailed, match="STATE_DIR"):
        kind(folder / "file" / "server").start()


def test_a_missing_wheel_says_what_to_install(make_server: MakeServer) -> None:
    class Missing(PostgresServer):
        package = "no_such_package"

    with pytest.raises(LocalServerFailed, match="pip install"):
        make_server(Missing).start()


def test_a_start_elsewhere_that_takes_too_long_is_an_error(
    kind: type[LocalServer], make_server: MakeServer
) -> None:
    busy, waiting = make_server(kind), make_server(kind)
    with busy._locked(0.0), pytest.raises(LocalServerFailed, match="another process"):
        waiting.start(timeout_seconds=0.1)


@as_root_only
def test_root_runs_servers_as_somebody_else(
    kind: type[LocalServer], make_server: MakeServer
) -> None:
    server = make_server(kind)

    assert psutil.Process(_pid_of(server)).uids().effective != 0


@as_root_only
def test_data_moves_out_of_a_folder_closed_to_the_server(
    kind: type[LocalServer], make_server: MakeServer, folder: Path
) -> None:
    closed = folder / "closed"
    closed.mkdir(mode=0o700)
    server = make_server(kind, closed / "server")

    assert answers(server.start())
    assert server.data.is_relative_to(folder / "spare")
    assert S_IMODE(closed.stat().st_mode) == 0o700


@as_root_only
def test_data_that_moved_is_found_again(
    kind: type[LocalServer], make_server: MakeServer, folder: Path
) -> None:
    closed = folder / "closed"
    closed.mkdir(mode=0o700)
    first, second = make_server(kind, closed / "server"), make_server(kind, closed / "server")
    first.start()
    second.start()

    assert first.data == second.data
    assert first.pid == second.pid


@as_root_only
def test_an_ordinary_user_runs_servers_too(kind: type[LocalServer], folder: Path) -> None:
    folder.chmod(0o777)

    assert (
        as_ordinary_user(lambda: _start_and_stop(kind(folder / "server", fast=True))) == "stopped"
    )


def _start_and_stop(server: LocalServer) -> str:
    assert answers(server.start())
    return "stopped" if server.stop() and server.pid is None else "runs"


@as_root_only
def test_a_folder_of_another_account_is_one_clear_error(
    kind: type[LocalServer], make_server: MakeServer, folder: Path
) -> None:
    make_server(kind).start()

    assert "belong to whoever starts the service" in as_ordinary_user(
        lambda: kind(folder / "server").start()
    )


@as_root_only
def test_root_leaves_the_data_of_an_ordinary_user_theirs(
    kind: type[LocalServer], make_server: MakeServer, folder: Path
) -> None:
    folder.chmod(0o777)
    as_ordinary_user(lambda: _start_and_stop(kind(folder / "server", fast=True)))
    owner = (folder / "server" / "data").stat().st_uid
    server = make_server(kind)

    assert answers(server.start())
    assert psutil.Process(_pid_of(server)).uids().effective == owner
