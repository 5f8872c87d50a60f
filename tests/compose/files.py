"""What Compose makes of the project's files, asked without an engine."""

import functools
import json
import os
import shutil
import subprocess
from typing import Any

import pytest

from tests.recordings import PROJECT_DIR

BASE = "docker-compose.yml"
HTTPS = "docker-compose.https.yml"


def composed(*files: str, **variables: str) -> dict[str, Any]:
    """The files as Compose understands them, with variables in the shell that starts it."""
    return _composed(files, tuple(variables.items()))


@functools.cache
def has_compose() -> bool:
    """Whether this machine can read such files: Docker's command line alone cannot."""
    if shutil.which("docker") is None:
        return False
    return subprocess.run(["docker", "compose", "version"], capture_output=True).returncode == 0


@functools.cache
def _composed(files: tuple[str, ...], variables: tuple[tuple[str, str], ...]) -> dict[str, Any]:
    if not has_compose():
        pytest.skip("no Compose")
    named = [word for file in files for word in ("--file", file)]
    done = subprocess.run(
        ["docker", "compose", "--profile", "*", *named, "config", "--format", "json"],
        cwd=PROJECT_DIR,
        env={"PATH": os.environ["PATH"], "DOMAIN": "example.org", **dict(variables)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found
