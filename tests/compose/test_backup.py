"""Backups with Compose, as docs/operating.md has them."""

from pathlib import Path

import httpx2
import pytest

from tests.compose.conftest import LASTING, Compose, post, wait_for, wait_for_end
from tests.recordings import sample

pytestmark = pytest.mark.compose

STOPPED = ("web", "worker", "maintenance", "webhooks", "flower")


def test_what_was_backed_up_is_restored(
    compose: Compose, client: httpx2.Client, tmp_path: Path
) -> None:
    """By the user of the container, in a folder of the host, while the stack runs."""
    tmp_path.chmod(0o777)

    def cli(*arguments: str, check: bool = True) -> str:
        volume = f"{tmp_path}:/backups"
        run = ("run", "--rm", "--no-deps", "-T", "-v", volume, "cli")
        return compose(*run, *arguments, check=check)

    job_id = post(client, sample("digits-en.wav").path)
    done = wait_for_end(client, job_id)
    cli("backup", "/backups/one")
    assert client.delete(f"/jobs/{job_id}").status_code == 204
    refused = cli("restore", "/backups/one", "--replace", check=False)
    compose("stop", *STOPPED)
    told = cli("restore", "/backups/one", "--replace")
    compose("up", "--detach", "--scale", f"worker={LASTING['worker']}")
    wait_for(compose.is_up, "everything is healthy again")

    assert refused == ""
    assert "The service is what it was at" in told
    again = client.get(f"/jobs/{job_id}")
    assert again.status_code == 200, again.text
    assert again.json()["transcription"] == done["transcription"]
    assert client.get(f"/jobs/{job_id}/audio").content == sample("digits-en.wav").path.read_bytes()


def test_the_service_itself_does_not_restore(compose: Compose) -> None:
    restore = "python cli.py backup /tmp/one; python cli.py restore /tmp/one --replace"
    said = compose("exec", "-T", "maintenance", "sh", "-c", f"({restore}) 2>&1", check=False)

    assert "This role does not own the tables" in said
