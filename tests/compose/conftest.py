"""The Compose stack, built once and used by all: needs a Docker engine and its images."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.recordings import PROJECT_DIR

#: Two working copies may be tested on one machine at once.
COPY = zlib.crc32(str(PROJECT_DIR).encode()) % 100
PROJECT = f"transcription-test-{COPY}"
PATIENCE_SECONDS = 300.0
#: What stays up, and how many of each.
LASTING = {
    "postgres": 1, "redis": 1, "web": 1, "door": 1, "maintenance": 1, "webhooks": 1, "flower": 1,
    "worker": 2,
}  # fmt: skip
#: 401s of one address in a minute, after which it is not listened to.
MAX_AUTH_FAILURES = 5
MAX_UPLOAD_SIZE_MB = 40


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(fact: Callable[[], Any], what: str) -> Any:
    until = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < until:
        with contextlib.suppress(httpx2.HTTPError):
            if found := fact():
                return found
        time.sleep(0.1)
    raise AssertionError(f"never came true: {what}")


@dataclass(frozen=True)
class Compose:
    """The stack, and how to reach it."""

    environment: dict[str, str]
    port: int
    flower_url: str

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __call__(self, *arguments: str, check: bool = True, **environment: str) -> str:
        done = subprocess.run(
            ["docker", "compose", "--project-name", PROJECT, *arguments],
            cwd=PROJECT_DIR,
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
        )
        if check and done.returncode:
            raise AssertionError(f"docker compose {arguments}: {done.stderr[-4000:]}")
        return done.stdout

    def containers(self, service: str, *options: str) -> list[str]:
        return self("ps", "--quiet", *options, service).split()

    def python(self, service: str, program: str) -> str:
        """Run a program in a container of ours, and return what it prints."""
        return self("exec", "-T", service, "python", "-c", program).strip()

    def is_up(self) -> bool:
        """Whether everything that stays up is there and healthy."""
        return all(
            [health(c) for c in self.containers(service, "--all")] == count * ["healthy"]
            for service, count in LASTING.items()
        )


def inspect(kind: str, name: str) -> Any:
    done = subprocess.run(
        ["docker", kind, "inspect", name], check=True, capture_output=True, text=True
    )
    return json.loads(done.stdout)[0]


def health(container: str) -> str:
    state = inspect("container", container)["State"]
    return str(state.get("Health", state)["Status"])


def images(*wanted: str) -> set[str]:
    """Images, by what is in them."""
    command = ["docker", "image", "ls", "--quiet", "--no-trunc", *wanted]
    return set(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())


def nameless() -> set[str]:
    """Those that a build has left on its way, or taken the name of."""
    return images("--filter", "dangling=true")


def remove_images(left: set[str]) -> None:
    """Leave none behind: each may be gigabytes."""
    for image in left:
        # one that a container or another image is made of stays
        subprocess.run(["docker", "image", "rm", image], capture_output=True)


def post(client: httpx2.Client, path: Path, **headers: str) -> str:
    with path.open("rb") as file:
        answer = client.post("/transcribe/", files={"file": (path.name, file)}, headers=headers)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["job_id"])


def wait_for_end(client: httpx2.Client, job_id: str) -> dict[str, Any]:
    def ended() -> dict[str, Any] | None:
        job: dict[str, Any] = client.get(f"/jobs/{job_id}").json()
        return job if job["status"] in {"completed", "failed", "cancelled"} else None

    found: dict[str, Any] = wait_for(ended, f"job {job_id} ended")
    return found


def _require_engine() -> None:
    if (
        shutil.which("docker")
        and not subprocess.run(["docker", "info"], capture_output=True).returncode
    ):
        return
    if os.environ.get("CI"):
        pytest.fail("no Docker engine answers, and CI asked for this test")
    pytest.skip("no Docker engine answers")


@pytest.fixture(scope="session")
def compose() -> Iterator[Compose]:
    _require_engine()
    port, flower_port = free_port(), free_port()
    environment = {
        **os.environ,
        "PORT": str(port),
        "FLOWER_PORT": str(flower_port),
        "DOOR_NETWORK": f"10.213.{100 + COPY}",
        "WHISPER_MODEL_SIZE": "demo",
        "MIN_FREE_DISK_MB": "0",
        "LEASE_SECONDS": "15",
        "HEARTBEAT_SECONDS": "1",
        "RETRY_BASE_SECONDS": "1",
        "CELERY_CONCURRENCY": "1",
        # what runs for longer when a worker is told to stop is handed back
        "DRAIN_SECONDS": "2",
        # the tests ask more often than clients should
        "RATE_LIMIT_ENABLED": "false",
        "MAX_AUTH_FAILURES": str(MAX_AUTH_FAILURES),
        "MAX_UPLOAD_SIZE_MB": str(MAX_UPLOAD_SIZE_MB),
        "HEADER_TIMEOUT_SECONDS": "3",
        "BODY_TIMEOUT_SECONDS": "5",
        "KEEP_ALIVE_SECONDS": "3",
    }
    stack = Compose(environment, port, f"http://127.0.0.1:{flower_port}")
    before = nameless()
    stack("build")
    remove_images(nameless() - before)
    try:
        # not --wait: it takes `models`, which ends when it is done, for a failure
        stack("up", "--detach", "--scale", f"worker={LASTING['worker']}")
        wait_for(stack.is_up, "everything is healthy")
        yield stack
    finally:
        if os.environ.get("COMPOSE_TEST_LOGS"):
            print(stack("logs", "--no-color", check=False)[-20000:])
        stack("down", "--volumes", "--remove-orphans", "--timeout", "5", check=False)


@pytest.fixture(scope="session")
def key(compose: Compose) -> str:
    return compose("exec", "-T", "web", "cat", "/data/state/admin.key").strip()


@pytest.fixture
def client(compose: Compose, key: str) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=compose.url, headers={"X-API-Key": key}, timeout=60) as client:
        yield client
