"""The Compose stack, built and used as its users would: needs a Docker engine and its images."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.recordings import PROJECT_DIR, repeated, sample

pytestmark = [pytest.mark.compose, pytest.mark.timeout(1800)]

PROJECT = "transcription-test"
PATIENCE_SECONDS = 300.0
#: What stays up, and how many of each.
LASTING = {"postgres": 1, "redis": 1, "web": 1, "maintenance": 1, "flower": 1, "worker": 2}
#: So long a recording takes longer than the heartbeat that shows who has it.
TIMES = 200
#: Image sizes in MB without the base image's own, which differs between distributors.
MAX_WEB_MB = 400
MAX_WORKER_MB = 2200


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
        time.sleep(0.3)
    raise AssertionError(f"never came true: {what}")


@dataclass(frozen=True)
class Compose:
    """The stack, and how to reach it."""

    environment: dict[str, str]
    url: str
    flower_url: str

    def __call__(self, *arguments: str, check: bool = True) -> str:
        done = subprocess.run(
            ["docker", "compose", "--project-name", PROJECT, *arguments],
            cwd=PROJECT_DIR,
            env=self.environment,
            capture_output=True,
            text=True,
        )
        if check and done.returncode:
            raise AssertionError(f"docker compose {arguments}: {done.stderr[-4000:]}")
        return done.stdout

    def containers(self, service: str, *options: str) -> list[str]:
        return self("ps", "--quiet", *options, service).split()

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


@pytest.fixture(scope="module")
def compose() -> Iterator[Compose]:
    if (
        shutil.which("docker") is None
        or subprocess.run(["docker", "info"], capture_output=True).returncode
    ):
        if os.environ.get("CI"):
            pytest.fail("no Docker engine answers, and CI asked for this test")
        pytest.skip("no Docker engine answers")
    port, flower_port = free_port(), free_port()
    environment = {
        **os.environ,
        "PORT": str(port),
        "FLOWER_PORT": str(flower_port),
        "WHISPER_MODEL_SIZE": "demo",
        "MIN_FREE_DISK_MB": "0",
        "LEASE_SECONDS": "15",
        "HEARTBEAT_SECONDS": "1",
        "RETRY_BASE_SECONDS": "1",
        "CELERY_CONCURRENCY": "1",
        # the tests ask more often than clients should
        "RATE_LIMIT_ENABLED": "false",
    }
    stack = Compose(environment, f"http://127.0.0.1:{port}", f"http://127.0.0.1:{flower_port}")
    stack("build")
    try:
        # not --wait: it takes `models`, which ends when it is done, for a failure
        stack("up", "--detach", "--scale", f"worker={LASTING['worker']}")
        wait_for(stack.is_up, "everything is healthy")
        yield stack
    finally:
        if os.environ.get("COMPOSE_TEST_LOGS"):
            print(stack("logs", "--no-color", check=False)[-20000:])
        stack("down", "--volumes", "--remove-orphans", "--timeout", "5", check=False)


@pytest.fixture(scope="module")
def key(compose: Compose) -> str:
    return compose("exec", "-T", "web", "cat", "/data/state/admin.key").strip()


@pytest.fixture
def client(compose: Compose, key: str) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=compose.url, headers={"X-API-Key": key}, timeout=60) as client:
        yield client


def post(client: httpx2.Client, path: Path) -> str:
    with path.open("rb") as file:
        answer = client.post("/transcribe/", files={"file": (path.name, file)})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["job_id"])


def wait_for_end(client: httpx2.Client, job_id: str) -> dict[str, Any]:
    def ended() -> dict[str, Any] | None:
        job: dict[str, Any] = client.get(f"/jobs/{job_id}").json()
        return job if job["status"] in {"completed", "failed", "cancelled"} else None

    found: dict[str, Any] = wait_for(ended, f"job {job_id} ended")
    return found


def test_models_ends_when_the_model_is_there(compose: Compose) -> None:
    def ended() -> tuple[int, int] | None:
        found = inspect("container", container)
        over = found["State"]["Status"] == "exited" or found["RestartCount"]
        return (found["State"]["ExitCode"], found["RestartCount"]) if over else None

    (container,) = compose.containers("models", "--all")

    assert wait_for(ended, "models has ended") == (0, 0)


def test_speech_comes_back_as_text(client: httpx2.Client) -> None:
    said = sample("digits-en.wav")

    job = wait_for_end(client, post(client, said.path))

    assert job["status"] == "completed", job
    assert job["transcription"] == said.text


def test_a_killed_workers_job_is_finished_by_another(
    compose: Compose, client: httpx2.Client, tmp_path: Path
) -> None:
    said = sample("digits-en.wav")
    job_id = post(client, repeated("digits-en.wav", TIMES, tmp_path / "long.wav"))

    def busy_worker() -> str | None:
        workers = client.get("/admin/health").json()["workers"]
        names = [w["name"] for w in workers if w["role"] == "worker" and w["running"]]
        under_way = client.get(f"/jobs/{job_id}").json()["progress"] > 0
        return names[0] if names and under_way else None

    busy = wait_for(busy_worker, "a worker is at it")
    victim = next(c for c in compose.containers("worker") if c.startswith(busy.split(":")[0]))
    subprocess.run(["docker", "kill", victim], check=True, capture_output=True)
    job = wait_for_end(client, job_id)

    assert job["status"] == "completed", job
    assert job["transcription"].split() == TIMES * said.text.split()


def test_flower_answers_with_its_password_only(compose: Compose) -> None:
    password = compose("exec", "-T", "flower", "cat", "/run/secrets/flower/password").strip()

    without = httpx2.get(compose.flower_url, timeout=30)
    wrong = httpx2.get(compose.flower_url, auth=("admin", "guess"), timeout=30)
    right = httpx2.get(compose.flower_url, auth=("admin", password), timeout=30)

    assert (without.status_code, wrong.status_code, right.status_code) == (401, 401, 200)
    assert "Flower" in right.text


def test_only_web_and_flower_are_published_and_flower_on_loopback_alone(compose: Compose) -> None:
    services = json.loads(compose("config", "--format", "json"))["services"]
    published = {
        name: [port.get("host_ip") for port in service["ports"]]
        for name, service in services.items()
        if service.get("ports")
    }

    assert published == {"web": [None], "flower": ["127.0.0.1"]}


@pytest.mark.parametrize("service", ["web", "worker", "maintenance", "flower"])
def test_our_containers_are_neither_root_nor_writable(compose: Compose, service: str) -> None:
    assert compose("exec", "-T", service, "id", "-u").strip() == "10001"
    done = compose("exec", "-T", service, "sh", "-c", "touch /app/x 2>&1; exit 0")
    assert "Read-only file system" in done


@pytest.mark.parametrize(
    ("service", "networks"),
    [
        ("worker", {"data"}),
        ("maintenance", {"data"}),
        ("postgres", {"data"}),
        ("redis", {"data"}),
        ("web", {"data", "edge"}),
        ("flower", {"data", "edge"}),
    ],
)
def test_nothing_but_models_has_a_way_out(
    compose: Compose, service: str, networks: set[str]
) -> None:
    (container, *_) = compose.containers(service)

    joined = inspect("container", container)["NetworkSettings"]["Networks"]

    assert set(joined) == {f"{PROJECT}_{name}" for name in networks}


def test_the_networks_lead_nowhere(compose: Compose) -> None:
    data, edge = (inspect("network", f"{PROJECT}_{name}") for name in ("data", "edge"))

    assert data["Internal"] is True
    assert edge["Options"]["com.docker.network.bridge.enable_ip_masquerade"] == "false"


@pytest.mark.parametrize("service", ["web", "maintenance", "flower"])
def test_nothing_without_a_model_holds_torch(compose: Compose, service: str) -> None:
    find = "import importlib.util as u; print(u.find_spec('torch'), u.find_spec('numpy'))"

    assert compose("exec", "-T", service, "python", "-c", find).strip() == "None None"


def test_images_are_no_larger_than_they_need_be(
    compose: Compose, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = {name: own_megabytes(name) for name in ("transcription-web", "transcription-worker")}
    with capsys.disabled():
        print(f"\nimage sizes beyond the base image, in MB: {sizes}")

    assert sizes["transcription-web"] < MAX_WEB_MB
    assert sizes["transcription-worker"] < MAX_WORKER_MB


def own_megabytes(image: str) -> int:
    def size(name: str) -> int:
        command = ["docker", "image", "inspect", "--format", "{{.Size}}", name]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    return (size(image) - size("python:3.11-slim-bookworm")) // 10**6


def test_no_secret_stands_in_the_configuration_or_the_logs(compose: Compose, key: str) -> None:
    secrets = [
        compose("exec", "-T", "flower", "cat", "/run/secrets/flower/password").strip(),
        compose("exec", "-T", "redis", "cat", "/run/secrets/redis/password").strip(),
        compose("exec", "-T", "postgres", "cat", "/run/secrets/postgres/password").strip(),
        key,
    ]
    logs = compose("logs", "--no-color")

    assert all(secret and secret not in logs for secret in secrets)
    assert "admin.key" in logs
