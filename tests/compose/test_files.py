"""What the Compose files say, without a Docker engine."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]  # uvicorn brings it, without types

from api.errors import HTTP_CODES, RETRY_AFTER
from api.middleware import SECURITY_HEADERS
from api.multipart import MAX_OVERHEAD_BYTES
from config import Settings
from errors import TooManyConnections, UploadTooLarge
from tests.compose.files import BASE, composed
from tests.recordings import PROJECT_DIR

SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(
    (PROJECT_DIR / "docker-compose.yml").read_text("utf-8")
)["services"]
#: Services that read the settings.
OURS = ["cli", "flower", "maintenance", "migrations", "models", "web", "webhooks", "worker"]
#: Where each looks for what it is given.
SECRETS = dict.fromkeys(OURS, "/run/secrets/app") | {
    "flower": "/run/secrets/flower",
    "models": "",
}


def environment(service: str) -> dict[str, str | None]:
    """None stands for what is passed through."""
    found: dict[str, str | None] = SERVICES[service]["environment"]
    return found


@pytest.mark.parametrize("service", OURS)
def test_every_setting_is_fixed_or_passed_through(service: str) -> None:
    settings = {name.upper() for name in Settings.model_fields}

    assert set(environment(service)) - {"SECRETS_DIR"} == settings


@pytest.mark.parametrize("service", OURS)
def test_what_the_shell_says_reaches_the_containers(service: str) -> None:
    assert composed(BASE, MAX_RETRIES="7")["services"][service]["environment"]["MAX_RETRIES"] == "7"


@pytest.mark.parametrize("service", OURS)
def test_secrets_are_mounted_where_they_are_looked_for(service: str) -> None:
    volumes = SERVICES[service].get("volumes", ())
    mounted = [volume.split(":")[1] for volume in volumes if ":/run/secrets/" in volume]

    assert environment(service)["SECRETS_DIR"] == SECRETS[service]
    assert mounted == [target for target in (SECRETS[service],) if target]


def test_operators_keys_reach_the_web_process_alone() -> None:
    given = {s for s in OURS if environment(s)["API_KEYS"] is None}

    assert given == {"web"}
    assert {environment(service)["API_KEYS"] for service in OURS if service != "web"} == {""}


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


# The door


DOOR = (PROJECT_DIR / "compose/door/nginx.conf").read_text("utf-8")


@pytest.mark.parametrize(
    "name", [name for name in SERVICES["door"]["environment"] if name != "TRUSTED_PROXIES"]
)
def test_the_door_has_the_limits_of_the_settings(name: str) -> None:
    default = Settings.model_fields[name.lower()].default

    assert SERVICES["door"]["environment"][name] == f"${{{name}:-{default:g}}}"


def test_the_door_lets_through_what_a_form_may_hold_beside_its_file() -> None:
    start = (PROJECT_DIR / "compose/door/start.sh").read_text("utf-8")

    assert "MAX_UPLOAD_SIZE_MB + 1))m" in start
    assert MAX_OVERHEAD_BYTES < 2**20


@pytest.mark.parametrize("name", SECURITY_HEADERS)
def test_what_the_door_answers_has_the_headers_of_every_answer(name: str) -> None:
    assert re.search(rf'add_header {name} "?{re.escape(SECURITY_HEADERS[name])}"? always;', DOOR)


@pytest.mark.parametrize("status", re.findall(r"return (4\d\d|503) '", DOOR))
def test_what_the_door_answers_has_the_codes_of_every_answer(status: str) -> None:
    ours = {
        400: "bad_request",
        413: UploadTooLarge.code,
        429: TooManyConnections.code,
    }
    (body,) = re.findall(rf"return {status} '(.*)'; }}", DOOR)
    said = json.loads(body.replace("\\'", "'"))

    assert said["status"] == int(status)
    assert said["code"] == {**HTTP_CODES, **ours}[int(status)]
    assert said["request_id"] == "$request_id"


@pytest.mark.parametrize("status", [429, 503])
def test_the_door_says_when_to_try_again(status: int) -> None:
    assert f"{status} {RETRY_AFTER[status]};" in DOOR
