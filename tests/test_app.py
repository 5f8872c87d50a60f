"""The web process as it is started: by uvicorn, from the environment."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import psutil
import pytest

PROJECT_DIR = Path(__file__).resolve().parent.parent
KEY = "an-operators-own-words"
ENGINES = "torch whisper faster_whisper ctranslate2 openvino av numpy"

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def environment(database_url: str, redis_url: str, tmp_path: Path) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "DATABASE_URL": database_url.replace("postgresql+psycopg2", "postgresql"),
        "REDIS_URL": redis_url,
        "STATE_DIR": str(tmp_path),
        "API_KEYS": KEY,
        "MIN_FREE_DISK_MB": "0",
    }


@pytest.fixture
def start(environment: dict[str, str]) -> Iterator[Start]:
    """Run uvicorn as a user would; a file descriptor tells it which port is free."""
    running = []

    def run(*options: str, **variables: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "uvicorn", "app:app", "--port", "0", *options],
            cwd=PROJECT_DIR,
            env={**environment, **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        running.append(process)
        return process

    yield run
    for process in running:
        process.kill()
        process.communicate()


def address(process: subprocess.Popen[str]) -> str:
    """Where uvicorn says that it listens."""
    assert process.stdout is not None
    for line in process.stdout:
        if "Uvicorn running on " in line:
            return line.split("Uvicorn running on ")[1].split()[0]
    raise AssertionError("it ended before it listened")


def test_uvicorn_finds_the_app(start):
    assert httpx2.get(f"{address(start())}/health").json()["status"] == "healthy"


def test_python_serves_it_with_problems_for_what_is_no_http(environment):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "app.py"], cwd=PROJECT_DIR, env={**environment, "PORT": str(port)}
    )
    try:
        with contextlib.closing(connection(process, port)) as connected:
            connected.sendall(b"no HTTP\r\n\r\n")
            answer = connected.recv(65536)
    finally:
        process.terminate()
        process.wait(timeout=30)

    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"application/problem+json" in answer


def connection(process: subprocess.Popen[bytes], port: int) -> socket.socket:
    """Connect as soon as it listens."""
    for _ in range(600):
        with contextlib.suppress(ConnectionRefusedError):
            return socket.create_connection(("127.0.0.1", port), timeout=20)
        with contextlib.suppress(subprocess.TimeoutExpired):
            raise AssertionError(f"it ended: {process.wait(timeout=0.1)}")
    raise AssertionError("it never listened")


def test_a_recording_can_be_submitted(start):
    answer = httpx2.post(
        f"{address(start())}/transcribe/",
        headers={"X-API-Key": KEY},
        files={"file": ("a.mp3", b"sound")},
    )

    assert answer.status_code == 202


def test_the_web_process_is_small(start):
    process = start()
    httpx2.get(f"{address(process)}/jobs", headers={"X-API-Key": KEY})

    assert psutil.Process(process.pid).memory_info().rss < 150 * 2**20


def test_the_first_key_is_written_for_the_operator(start, tmp_path):
    url = address(start(API_KEYS=""))
    key = (tmp_path / "admin.key").read_text().strip()

    assert httpx2.get(f"{url}/jobs", headers={"X-API-Key": key}).status_code == 200


def test_a_stop_is_orderly(start):
    process = start()
    address(process)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=30)

    assert process.returncode in {0, -signal.SIGTERM}
    assert "Traceback" not in output


def test_a_process_can_say_less_of_itself(start):
    answer = httpx2.get(f"{address(start('--no-server-header'))}/health")

    assert "server" not in answer.headers


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("WHISPER_MODEL_SIZE", "gpt"),
        ("PORT", "http"),
        ("API_KEYS", "short"),
        ("DATABASE_URL", ""),
        ("REDIS_URL", ""),
    ],
)
def test_a_wrong_setting_stops_the_start_in_one_line(start, name, value):
    process = start(**{name: value})
    output, _ = process.communicate(timeout=60)

    assert process.returncode != 0
    assert name in output
    assert len(output.strip().splitlines()) == 1


def imported(module: str) -> str:
    """What a fresh process has loaded after it imported a module."""
    code = f"import sys, {module}; print(*set(sys.modules) & set('{ENGINES}'.split()))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT_DIR, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.mark.parametrize("module", ["app", "cli"])
def test_no_engine_is_loaded(module):
    assert imported(module) == ""


def test_importing_the_app_reads_no_settings():
    done = subprocess.run(
        [sys.executable, "-c", "import app"],
        cwd=PROJECT_DIR,
        env={"PORT": "no port"},
        capture_output=True,
    )

    assert done.returncode == 0
