"""Submitting: beside writing and syncing the same bytes plus one bare INSERT and COMMIT."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterator

import httpx2
import psutil
from sqlalchemy import create_engine, text

from bench.service import Service, service

SIZE_BYTES = 10 * 2**20
TIMES = 15
LARGE_BYTES = 2**30
CHUNK_BYTES = 2**20
#: Where the figure should be.
MAX_RATIO = 3.0
MAX_GROWTH_MB = 10.0
MAX_RESIDENT_MB = 150.0
#: As long as curl's; a parser skips by the boundary's length, so one letter would be the worst.
BOUNDARY = "------------------------d74496d66958873e"


def body(size: int) -> Iterator[bytes]:
    """A multipart form with one file of that size, as a stream."""
    yield f"--{BOUNDARY}\r\n".encode()
    yield b'Content-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
    block = os.urandom(CHUNK_BYTES)
    for _ in range(size // CHUNK_BYTES):
        yield block
    yield f"\r\n--{BOUNDARY}--\r\n".encode()


def submit(client: httpx2.Client, size: int) -> float:
    form = b"".join(body(size)) if size == SIZE_BYTES else body(size)
    began = time.perf_counter()
    answer = client.post(
        "/transcribe/",
        content=form,
        headers={"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"},
    )
    elapsed = time.perf_counter() - began
    answer.raise_for_status()
    return elapsed


def write_and_insert(place: Service) -> float:
    """The ceiling: the same bytes to the same disk, and one row."""
    engine = create_engine(place.settings.require_database_url())
    data = os.urandom(SIZE_BYTES)
    path = place.folder / "state" / "ceiling"
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE IF NOT EXISTS ceiling (id serial, data text)"))
    began = time.perf_counter()
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO ceiling (data) VALUES ('x')"))
    elapsed = time.perf_counter() - began
    path.unlink()
    engine.dispose()
    return elapsed


def resident_mb(process: psutil.Process) -> float:
    return float(process.memory_info().rss) / 2**20


def main() -> bool:
    with service() as place:
        web, client = place.web()
        submit(client, SIZE_BYTES)
        ours, ceiling = [], []
        for _ in range(TIMES):  # by turns, so that the disk is the same for both
            ceiling.append(write_and_insert(place))
            ours.append(submit(client, SIZE_BYTES))
        small = resident_mb(web)
        submit(client, LARGE_BYTES)
        large = resident_mb(web)
    ratio = statistics.median(ours) / statistics.median(ceiling)
    print(f"submit 10 MB / (write + sync + INSERT): {ratio:.2f} (at most {MAX_RATIO})")
    print(f"web process: {small:.0f} MB, after 1 GB {large:.0f} MB (growth at most 10 MB)")
    return ratio <= MAX_RATIO and large - small <= MAX_GROWTH_MB and large <= MAX_RESIDENT_MB
