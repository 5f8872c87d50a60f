"""The Compose stack, built and used as its users would."""

import subprocess
from pathlib import Path

import httpx2
import pytest

from tests.compose.conftest import Compose, inspect, post, wait_for, wait_for_end
from tests.recordings import repeated, sample

pytestmark = [pytest.mark.compose, pytest.mark.timeout(1800)]

#: A minute and a half, of which the first half minute shows that somebody is at it.
TIMES = 12
#: Image sizes in MB without the base image's own, which differs between distributors.
MAX_WEB_MB = 400
MAX_WORKER_MB = 2200


def test_models_ends_when_the_model_is_there(compose: Compose) -> None:
    def ended() -> tuple[int, int] | None:
        found = inspect("container", container)
        over = found["State"]["Status"] == "exited" or found["RestartCount"]
        return (found["State"]["ExitCode"], found["RestartCount"]) if over else None

    (container,) = compose.containers("models", "--all")

    assert wait_for(ended, "models has ended") == (0, 0)


@pytest.mark.parametrize("name", ["digits-en.wav", "digits-de.wav"])  # and letters beyond ASCII
def test_speech_comes_back_as_text(name: str, client: httpx2.Client) -> None:
    said = sample(name)

    job = wait_for_end(client, post(client, said.path))

    assert job["status"] == "completed", job
    assert job["transcription"] == said.text


def test_a_killed_workers_job_is_finished_by_another(
    compose: Compose, client: httpx2.Client, tmp_path: Path
) -> None:
    said = sample("digits-en.wav")
    job_id = post(client, repeated("digits-en.wav", TIMES, tmp_path / "long.wav"))

    def busy_worker() -> str | None:
        if client.get(f"/jobs/{job_id}").json()["progress"] == 0:
            return None
        workers = client.get("/admin/health").json()["workers"]
        names = [w["name"] for w in workers if w["role"] == "worker" and w["running"]]
        return names[0] if names else None

    busy = wait_for(busy_worker, "a worker is at it")
    victim = next(c for c in compose.containers("worker") if c.startswith(busy.split(":")[0]))
    subprocess.run(["docker", "kill", victim], check=True, capture_output=True)
    assert client.get(f"/jobs/{job_id}").json()["status"] == "processing"
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


@pytest.mark.parametrize("service", ["web", "maintenance", "webhooks", "flower"])
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
        *compose("exec", "-T", "postgres", "sh", "-c", "cat /run/secrets/postgres/*").split(),
        key,
    ]
    logs = compose("logs", "--no-color")

    assert all(secret and secret not in logs for secret in secrets)
    assert "admin.key" in logs
