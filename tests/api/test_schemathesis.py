"""What the OpenAPI document allows, and what it does not, sent to the service as it runs.

schemathesis makes both up and holds every answer to the document: no 5xx, no status, header or
body that is not in it, nothing taken that it forbids, nothing done without a key. A longer run:
``schemathesis run http://127.0.0.1:8000/openapi.json -H "X-API-Key: $KEY" --max-time 600``, with
the configuration that lies here.
"""

import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from config import Settings
from models import Scope
from tests.api.conftest import Jobs, MakeKey, OneWebhook, serving

CONFIGURATION = Path(__file__).with_name("schemathesis.toml")
HOOKS = CONFIGURATION.with_name("schemathesis_hooks.py")
#: They take away the key that the others are asked with, or the jobs that they are asked about.
ENDING = (
    "revoke_key",
    "rotate_key",
    "delete_job",
    "delete_webhook",
    "delete_batch",
    "discard_upload",
)

Try = Callable[..., str]


@pytest.fixture
def attempt(
    make_settings: Callable[..., Settings],
    jobs: Jobs,
    make_webhook: Callable[..., OneWebhook],
    make_batch: Callable[..., uuid.UUID],
    make_upload: Callable[..., uuid.UUID],
    tmp_path: Path,
) -> Try:
    """Run schemathesis against uvicorn; returns what it says if it finds nothing."""
    folder = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    program = shutil.which("schemathesis", path=folder)
    if program is None:
        if os.environ.get("CI"):
            pytest.fail("schemathesis is not installed, and CI asked for this test")
        pytest.skip("schemathesis is not installed")
    # limits are tried elsewhere: here nothing but them would be seen
    settings = make_settings(rate_limit_enabled=False, max_auth_failures=0)
    completed, failed = jobs.completed(), jobs.failed()
    for job_id in (completed, failed):
        jobs.keep(job_id, b"sound")
    webhook = make_webhook("alice")
    ids = {
        "COMPLETED_JOB": str(completed),
        "FAILED_JOB": str(failed),
        "WEBHOOK": str(webhook.webhook_id),
        "DELIVERY": str(webhook.delivery_id),
        "BATCH": str(make_batch("alice", completed, failed)),
        "UPLOAD": str(make_upload("alice")),
    }

    def run(key: dict[str, str], *options: str) -> str:
        with serving(settings) as port:
            url = f"http://127.0.0.1:{port}/openapi.json"
            header = f"--header=X-API-Key: {key['X-API-Key']}"
            always = (header, "--generation-deterministic", "--no-shrink", "--no-color")
            done = subprocess.run(
                [program, "--config-file", str(CONFIGURATION), "run", url, *always, *options],
                cwd=tmp_path,  # it leaves a cache of what it found
                env={"PATH": folder, "SCHEMATHESIS_HOOKS": str(HOOKS), **ids},
                capture_output=True,
                text=True,
                timeout=240,
            )
        assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2000:]
        return done.stdout

    return run


def without(*names: str) -> list[str]:
    return [f"--exclude-operation-id={name}" for name in names]


def only(*names: str) -> list[str]:
    return [f"--include-operation-id={name}" for name in names]


@pytest.mark.security("fuzz", "what the OpenAPI document allows, and what it does not")
def test_every_answer_is_as_the_document_says(attempt: Try, make_key: MakeKey) -> None:
    key = make_key("alice", scopes=tuple(Scope))
    phases = "--phases=examples,coverage,fuzzing"
    said = attempt(key, phases, "--max-examples=10", *without(*ENDING))

    assert " passed" in said


@pytest.mark.security("fuzz", "what the OpenAPI document allows, by a key that may only read")
def test_so_is_every_answer_to_a_key_that_may_only_read(attempt: Try, make_key: MakeKey) -> None:
    key = make_key("alice", scopes=[Scope.JOBS_READ])

    assert attempt(key, "--phases=fuzzing", "--max-examples=3")


@pytest.mark.parametrize("name", ENDING)
def test_so_is_every_answer_about_what_ends(attempt: Try, make_key: MakeKey, name: str) -> None:
    key = make_key("root", scopes=tuple(Scope))

    assert attempt(key, "--phases=fuzzing", "--max-examples=5", *only(name))
