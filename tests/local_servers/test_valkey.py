import asyncio
import socket
import subprocess
import sys
from pathlib import Path
from stat import S_IMODE

import psutil
import pytest
import redis
from flower.utils.broker import Broker

from errors import LocalServerFailed
from local_servers import ValkeyServer
from tests.local_servers.conftest import MakeServer, kill

#: A program for Celery: one task, broker and results at the URL given.
TASKS = """
import sys
from celery import Celery
app = Celery("tasks", broker=sys.argv[1], backend=sys.argv[1])
app.conf.update(worker_hijack_root_logger=False, task_routes={"late": {"queue": "normal"}})
@app.task(name="double")
def double(number):
    return 2 * number
if __name__ == "__main__":
    from celery.contrib.testing.worker import start_worker
    app.send_task("late", args=(1,))
    with start_worker(app, perform_ping_check=False, pool="threads"):
        print(double.delay(21).get(timeout=30), app.control.ping(timeout=5) != [])
"""


@pytest.fixture
def server(make_server: MakeServer) -> ValkeyServer:
    made: ValkeyServer = make_server(ValkeyServer)
    made.start()
    return made


def port_of(server: ValkeyServer) -> int:
    return server._address.port


def test_one_url_suits_celery_and_flower(server: ValkeyServer, tmp_path: Path) -> None:
    (tmp_path / "tasks.py").write_text(TASKS, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, tmp_path / "tasks.py", server.url],
        capture_output=True,
        text=True,
    )
    queues = asyncio.run(Broker(server.url, broker_options={}).queues(["normal"]))

    assert done.stdout == "42 True\n", done.stderr
    assert queues == [{"name": "normal", "messages": 1}]


def test_numbered_databases_are_apart(server: ValkeyServer) -> None:
    with (
        redis.Redis.from_url(server.url_of(0)) as zero,
        redis.Redis.from_url(server.url_of(1)) as one,
    ):
        zero.set("key", "value")

        assert one.get("key") is None


def test_a_client_without_the_password_is_refused(server: ValkeyServer) -> None:
    with (
        redis.Redis(host="127.0.0.1", port=port_of(server)) as stranger,
        pytest.raises(redis.AuthenticationError),
    ):
        stranger.ping()


def test_it_listens_on_loopback_alone(server: ValkeyServer) -> None:
    pid = server.pid
    assert pid is not None
    listening = psutil.Process(pid).net_connections(kind="inet")

    assert {connection.laddr.ip for connection in listening} == {"127.0.0.1"}


def test_the_password_is_on_no_command_line(server: ValkeyServer) -> None:
    pid = server.pid
    assert pid is not None

    assert server._address.password not in " ".join(psutil.Process(pid).cmdline())


@pytest.mark.parametrize("name", ["address", "data/valkey.conf"])
def test_nobody_else_may_read_the_password(server: ValkeyServer, folder: Path, name: str) -> None:
    assert S_IMODE((folder / "server" / name).stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("appendonly", "yes"),
        ("appendfsync", "everysec"),
        ("save", ""),
        ("maxmemory-policy", "noeviction"),
        ("maxmemory", "0"),
    ],
)
def test_a_newcomer_gets_a_server_that_keeps_everything(
    make_server: MakeServer, setting: str, expected: str
) -> None:
    url = make_server(ValkeyServer, fast=False).start()
    with redis.Redis.from_url(url, decode_responses=True) as client:
        assert client.config_get(setting) == {setting: expected}


def test_keys_survive_a_killed_server(make_server: MakeServer) -> None:
    server = make_server(ValkeyServer, fast=False)
    with redis.Redis.from_url(server.start()) as client:
        client.set("key", "value")
    kill(server)
    with redis.Redis.from_url(server.start()) as client:
        assert client.get("key") == b"value"


def test_keys_survive_a_stop(make_server: MakeServer) -> None:
    server = make_server(ValkeyServer, fast=False)
    with redis.Redis.from_url(server.start()) as client:
        client.set("key", "value")
    server.stop()
    with redis.Redis.from_url(server.start()) as client:
        assert client.get("key") == b"value"


def test_a_port_that_somebody_took_is_left_to_them(server: ValkeyServer) -> None:
    port = port_of(server)
    server.stop()
    with socket.create_server(("127.0.0.1", port)):
        server.start()

    assert port_of(server) != port


def test_a_damaged_note_of_the_address_is_made_again(make_server: MakeServer, folder: Path) -> None:
    (folder / "server").mkdir(mode=0o711)
    (folder / "server" / "address").write_text('{"port": 1', encoding="utf-8")

    assert make_server(ValkeyServer).start().startswith("redis://:")


def test_a_failed_start_gives_the_words_of_the_server(make_server: MakeServer) -> None:
    server = make_server(ValkeyServer, fast=False)
    server.start()
    server.stop()
    for part in (server.data / "appendonlydir").glob("*.incr.aof"):
        part.write_bytes(b"no commands at all")

    with pytest.raises(LocalServerFailed, match="append only file"):
        server.start()
