"""Listeners to events of jobs that wait: memory and CPU of each, beside a bare stream's."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

import psutil
from sqlalchemy import create_engine
from sqlalchemy.orm import Session
from uuid_utils.compat import uuid7

from bench.service import Service, service
from jobs import lifecycle
from jobs.lifecycle import NewJob
from models import Owner
from rig.processes import Process, free_port, wait_for

LISTENERS = 2_000
IDLE_SECONDS = 30.0
#: Requests that are on their way at once, while all come.
AT_ONCE = 20
FIRST_SECONDS = 60.0
#: Where the figures should be.
MAX_MEMORY_RATIO = 6.0
MAX_CPU_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Cost:
    """What idle listeners take."""

    kilobytes_each: float
    #: Of one core.
    cpu_share: float


def make_jobs(place: Service, count: int) -> list[uuid.UUID]:
    engine = create_engine(place.settings.require_database_url())
    ids = [uuid7() for _ in range(count)]
    with Session(engine) as session, session.begin():
        owner = Owner(name="bench")
        session.add(owner)
        session.flush()
        for job_id in ids:
            job = NewJob(
                id=job_id,
                owner_id=owner.id,
                engine_name="openai-whisper",
                model_name="demo",
                client_filename="a.wav",
                upload_bytes=1,
                upload_sha256=bytes(32),
                max_attempts=1,
            )
            lifecycle.submit(session, job)
    engine.dispose()
    return ids


async def listen(port: int, paths: Sequence[str], key: str, server: psutil.Process) -> Cost:
    """Open a stream for each path, and measure the server while nothing happens."""
    turn = asyncio.Semaphore(AT_ONCE)
    writers: list[asyncio.StreamWriter] = []

    async def open_one(path: str) -> None:
        async with turn, asyncio.timeout(FIRST_SECONDS):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writers.append(writer)
            writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nX-API-Key: {key}\r\n\r\n".encode())
            await reader.readuntil(b"event: progress")

    # what the first one takes, everybody has
    await asyncio.gather(*(open_one(path) for path in paths[:AT_ONCE]))
    before = server.memory_info().rss
    rest = paths[AT_ONCE:]
    await asyncio.gather(*(open_one(path) for path in rest))
    each = (server.memory_info().rss - before) / len(rest) / 1024
    began, cpu = time.monotonic(), server.cpu_times()
    await asyncio.sleep(IDLE_SECONDS)
    now = server.cpu_times()
    used = now.user - cpu.user + now.system - cpu.system
    share = used / (time.monotonic() - began)
    for writer in writers:
        writer.close()
    return Cost(each, share)


def ours(place: Service) -> Cost:
    server, client = place.web()
    key = client.headers["X-API-Key"]
    client.close()
    paths = [f"/jobs/{job_id}/events" for job_id in make_jobs(place, LISTENERS)]
    return asyncio.run(listen(place.port, paths, key, server))


def bare(place: Service) -> Cost:
    port = free_port()
    process: Process = place.start(
        "-m", "uvicorn", "--no-access-log", "--port", str(port), "bench.bare_events:app"
    )

    def answers() -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return True
        return False

    wait_for(answers, "the bare server answers")
    paths = [f"/{number}" for number in range(LISTENERS)]
    return asyncio.run(listen(port, paths, "none", psutil.Process(process.pid)))


def main() -> bool:
    with service() as place:
        place.environment["MAX_CONNECTIONS"] = str(2 * LISTENERS)
        mine, least = ours(place), bare(place)
    memory = mine.kilobytes_each / least.kilobytes_each
    print(f"idle listeners: {LISTENERS} for {IDLE_SECONDS:.0f} s")
    print(
        f"memory of one: {mine.kilobytes_each:.0f} kB, {memory:.1f} of a bare stream's"
        f" {least.kilobytes_each:.0f} kB (at most {MAX_MEMORY_RATIO})"
    )
    print(
        f"CPU of all: {mine.cpu_share:.1%} of a core (at most {MAX_CPU_SHARE:.0%}),"
        f" a bare server's {least.cpu_share:.1%}"
    )
    return memory <= MAX_MEMORY_RATIO and mine.cpu_share <= MAX_CPU_SHARE
