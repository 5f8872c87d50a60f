"""A batch of files on real processes: followed, told of, read, cancelled, retried."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.outgoing.conftest import serve
from tests.recordings import PROJECT_DIR, SAMPLES, repeated, sample
from tests.stack.conftest import Stack, wait_for
from tests.stack.test_webhooks import KEY, Service
from tests.webhooks.conftest import Receiver, receive

__all__ = ["receive", "serve"]

pytestmark = [pytest.mark.stack, pytest.mark.model]

NAMES = ("digits-en.wav", "digits-es.wav", "digits-de.wav")


@pytest.fixture
def receiver(receive: Any) -> Receiver:
    made: Receiver = receive()
    return made


@pytest.fixture
def client(stack: Stack, receiver: Receiver) -> Iterator[httpx2.Client]:
    made = Service(stack, receiver.server.port)
    yield made.client
    made.client.close()


def begin(client: httpx2.Client, **body: Any) -> dict[str, Any]:
    made: dict[str, Any] = client.post("/batches", json=body).raise_for_status().json()
    return made


def add(client: httpx2.Client, batch: dict[str, Any], path: Path) -> str:
    with path.open("rb") as file:
        answer = client.post(batch["links"]["files"], files={"file": (path.name, file)})
    return str(answer.raise_for_status().json()["job_id"])


def look(client: httpx2.Client, batch: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = client.get(batch["links"]["self"]).raise_for_status().json()
    return found


def test_what_the_documentation_says_can_be_typed(
    stack: Stack, client: httpx2.Client, tmp_path: Path
) -> None:
    page = (PROJECT_DIR / "docs/batches.md").read_text("utf-8")
    (typed,) = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
    for number, name in enumerate(NAMES):
        shutil.copy(SAMPLES / name, tmp_path / f"no. {number}.mp3")
    done = subprocess.run(
        [
            "bash",
            "-euo",
            "pipefail",
            "-c",
            typed.replace("http://127.0.0.1:8000", str(client.base_url).rstrip("/")),
        ],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "KEY": KEY},
        capture_output=True,
        text=True,
    )
    (batch,) = client.get("/batches").json()["batches"]

    assert (done.returncode, done.stderr) == (0, "")
    assert "not sent" not in done.stdout
    assert (batch["status"], batch["jobs"]["total"]) == ("closed", len(NAMES))


def told(receiver: Receiver) -> list[dict[str, Any]]:
    return [m.body["data"] for m in receiver.messages if m.body["type"] == "batch.ended"]


def test_a_batch_is_told_of_once_and_read_at_once(
    stack: Stack, client: httpx2.Client, receiver: Receiver, tmp_path: Path
) -> None:
    stack.maintenance()
    worker = stack.worker()
    stack.webhooks()
    client.post("/webhooks", json={}).raise_for_status()
    broken = tmp_path / "broken.mp3"
    broken.write_bytes(b"this is no sound" * 100)
    batch = begin(client, name="numbers", callback_url=receiver.url)
    for name in NAMES:
        add(client, batch, SAMPLES / name)
    long = add(client, batch, repeated(NAMES[0], 30, tmp_path / "long.wav"))
    add(client, batch, broken)
    stack.wait_for_windows(long, 1)  # type: ignore[arg-type]
    worker.signal(signal.SIGKILL)
    client.post(f"{batch['links']['self']}/close").raise_for_status()
    assert look(client, batch)["status"] == "closed"
    stack.worker()
    wait_for(lambda: told(receiver), "its end is told of")

    shown = look(client, batch)
    (message,) = told(receiver)
    assert message["batch_id"] == batch["id"]
    assert message["jobs"] == {"completed": 4, "failed": 1, "cancelled": 0}
    assert (shown["status"], shown["progress"]) == ("ended", 100.0)
    answer = client.get(batch["links"]["result"], params={"format": "txt"})
    archive = zipfile.ZipFile(io.BytesIO(answer.raise_for_status().content))
    said = {name: archive.read(name).decode().split() for name in archive.namelist()}
    manifest = json.loads(" ".join(said.pop("batch.json")))["jobs"]
    assert said == {
        **{Path(name).stem + ".txt": sample(name).text.split() for name in NAMES},
        "long.txt": 30 * sample(NAMES[0]).text.split(),
    }
    assert [job["error_code"] for job in manifest if job["file"] is None] == ["not_audio"]


def test_a_cancelled_batch_ends_and_what_failed_goes_round_again(
    stack: Stack, client: httpx2.Client, receiver: Receiver, tmp_path: Path
) -> None:
    stack.maintenance()
    stack.webhooks()
    client.post("/webhooks", json={}).raise_for_status()
    batch = begin(client, callback_url=receiver.url)
    broken = tmp_path / "broken.mp3"
    broken.write_bytes(b"this is no sound" * 100)
    failing = add(client, batch, broken)
    worker = stack.worker()
    stack.wait_for_status(failing, "failed")  # type: ignore[arg-type]
    worker.signal(signal.SIGTERM)
    worker.wait()
    waiting = [add(client, batch, SAMPLES / name) for name in NAMES]
    client.post(f"{batch['links']['self']}/cancel").raise_for_status()
    wait_for(lambda: len(told(receiver)) == 1, "its end is told of")
    client.post(f"{batch['links']['self']}/retry").raise_for_status()
    assert look(client, batch)["jobs"]["pending"] == 1
    stack.worker()
    wait_for(lambda: len(told(receiver)) == 2, "its second end is told of")

    assert [message["jobs"]["cancelled"] for message in told(receiver)] == [len(waiting)] * 2
    assert look(client, batch)["status"] == "ended"
