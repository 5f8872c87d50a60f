"""What the Compose files say, without a Docker engine."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]  # uvicorn brings it, without types

from config import Settings
from tests.recordings import PROJECT_DIR

SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(
    (PROJECT_DIR / "docker-compose.yml").read_text("utf-8")
)["services"]
#: Services that read the settings.
OURS = ["flower", "maintenance", "migrations", "models", "web", "worker"]
SECRETS = "/run/secrets/app"


def environment(service: str) -> dict[str, str | None]:
    """None stands for what is passed through."""
    found: dict[str, str | None] = SERVICES[service]["environment"]
    return found


def composed(**variables: str) -> dict[str, Any]:
    """The services as Compose understands them, with variables in the shell that starts it."""
    if shutil.which("docker") is None:
        pytest.skip("no Docker command line")
    done = subprocess.run(
        ["docker", "compose", "config", "--format", "json"],
        cwd=PROJECT_DIR,
        env={"PATH": os.environ["PATH"], **variables},
        capture_output=True,
        text=True,
    )
    if "is not a docker command" in done.stderr:
        pytest.skip("no Compose")
    assert done.returncode == 0, done.stderr
    services: dict[str, Any] = json.loads(done.stdout)["services"]
    return services


@pytest.mark.parametrize("service", OURS)
def test_every_setting_is_fixed_or_passed_through(service: str) -> None:
    settings = {name.upper() for name in Settings.model_fields}

    assert set(environment(service)) - {"SECRETS_DIR"} == settings


@pytest.mark.parametrize("service", OURS)
def test_what_the_shell_says_reaches_the_containers(service: str) -> None:
    assert composed(MAX_RETRIES="7")[service]["environment"]["MAX_RETRIES"] == "7"


@pytest.mark.parametrize("service", OURS)
def test_secrets_are_mounted_where_they_are_looked_for(service: str) -> None:
    mounted = any(f":{SECRETS}:" in volume for volume in SERVICES[service].get("volumes", ()))

    assert environment(service)["SECRETS_DIR"] == (SECRETS if mounted else "")


def test_who_has_a_way_out_is_given_no_key_and_no_password() -> None:
    secret = {
        name.upper()
        for name, field in Settings.model_fields.items()
        if "SecretStr" in str(field.annotation)
    }

    assert {environment("models")[name] for name in secret} == {""}


def test_models_are_fetched_with_the_settings_that_there_are(tmp_path: Path) -> None:
    given = {name: value for name, value in environment("models").items() if value is not None}
    done = subprocess.run(
        [sys.executable, *SERVICES["models"]["command"][1:]],
        cwd=PROJECT_DIR,
        env={
            "PATH": os.environ["PATH"],
            **given,
            "STATE_DIR": str(tmp_path),
            "MODEL_CACHE_DIR": str(tmp_path),
            "WHISPER_MODEL_SIZE": "demo",
            "LOG_FORMAT": "json",
        },
        capture_output=True,
        text=True,
    )

    assert (done.returncode, done.stdout[:5]) == (0, "demo:"), done.stderr


@pytest.mark.parametrize("service", SERVICES)
def test_no_log_grows_without_end(service: str) -> None:
    logging = SERVICES[service]["logging"]

    assert logging["driver"] == "json-file"
    assert {"max-size", "max-file"} <= set(logging["options"])


def test_a_worker_is_given_the_time_that_it_takes_to_stop() -> None:
    takes = sum(
        Settings.model_fields[name].default for name in ("drain_seconds", "drain_force_seconds")
    )

    assert int(SERVICES["worker"]["stop_grace_period"].removesuffix("s")) >= takes + 15


def test_the_server_that_only_sets_postgresql_up_does_not_count_as_healthy() -> None:
    # it listens on a socket and on no address
    check = SERVICES["postgres"]["healthcheck"]["test"]

    assert check[:4] == ["CMD", "pg_isready", "-h", "127.0.0.1"]
