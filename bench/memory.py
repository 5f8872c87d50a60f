"""A worker's memory after many jobs, and how long jobs wait for the model, with the demo model."""

from __future__ import annotations

from pathlib import Path

import httpx2
import psutil

from bench.service import service
from config import PROJECT_DIR
from rig.processes import wait_for

SAMPLE = PROJECT_DIR / "samples" / "digits-en.wav"
FIRST, LAST = 20, 200
MAX_GROWTH = 1.05


def submit(client: httpx2.Client, path: Path) -> str:
    with path.open("rb") as file:
        answer = client.post("/transcribe/", files={"file": (path.name, file)})
    answer.raise_for_status()
    return str(answer.json()["job_id"])


def run(client: httpx2.Client, count: int) -> None:
    """Keep a few jobs in the queue until ``count`` are done."""
    jobs: list[str] = []
    for _ in range(count):
        jobs.append(submit(client, SAMPLE))
        if len(jobs) >= 8:
            wait_for_end(client, jobs.pop(0))
    for job_id in jobs:
        wait_for_end(client, job_id)


def wait_for_end(client: httpx2.Client, job_id: str) -> None:
    wait_for(
        lambda: client.get(f"/jobs/{job_id}").json()["status"] == "completed", "the job is done"
    )


def pool(client: httpx2.Client) -> dict[str, float]:
    found: dict[str, float] = client.get("/admin/health").json()["model_pool"]
    return found


def resident(process: psutil.Process) -> int:
    return int(process.memory_info().rss)


def main() -> bool:
    with service() as place:
        _, client = place.web()
        worker = place.worker(CELERY_CONCURRENCY="1", HEARTBEAT_SECONDS="0.5")
        run(client, 1)
        run(client, 1)
        wait_for(lambda: pool(client).get("hits", 0) >= 1, "the pool was heard of")
        stats = pool(client)
        run(client, FIRST - 2)
        early = resident(worker)
        run(client, LAST - FIRST)
        late = resident(worker)
    growth = late / early
    print(f"worker after {LAST} jobs / after {FIRST}: {growth:.3f} (at most {MAX_GROWTH})")
    print(
        f"first job: {stats['loads']:.0f} load, {stats['waits']:.0f} waits; "
        f"second job: {stats['hits']:.0f} hit, waited {stats['wait_seconds']:.3f} s"
    )
    return growth <= MAX_GROWTH and stats["waits"] == 0 and stats["loads"] == 1
