"""Disks that are full: uploads are refused, jobs wait, nothing that was accepted is lost."""

import shutil
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import httpx2
import pytest
from sqlalchemy import func, select

from jobs.uploads import MARKER
from local_servers import PostgresServer
from models import TranscriptionJob
from tests.chaos.conftest import (
    HEARTBEAT,
    LEASE,
    LONG_TEXT,
    SHORT_TEXT,
    WINDOW,
    WRITTEN,
    Chaos,
    browsing,
    retried,
    running,
    upload,
    words_of,
)
from tests.conftest import administration
from tests.recordings import repeated
from tests.stack.conftest import wait_for

pytestmark = [pytest.mark.chaos, pytest.mark.model]

MEGABYTE: Final = 2**20
#: Submissions after which a database that is full must have said so.
SUBMISSIONS_MAX: Final = 200


class Volume:
    """A file system of its own, of a size of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._filler = path / "filler"

    @property
    def free_bytes(self) -> int:
        return shutil.disk_usage(self.path).free

    def fill(self) -> None:
        """Leave not a byte."""
        with self._filler.open("ab", buffering=0) as filler:
            for size in (MEGABYTE, 1):
                try:
                    while filler.write(bytes(size)):
                        pass
                except OSError:
                    continue

    def clear(self) -> None:
        self._filler.unlink()

    def resize(self, size: str) -> None:
        remount = ["mount", "-o", f"remount,size={size}", str(self.path)]
        subprocess.run(remount, check=True)


@contextmanager
def mounted(size: str) -> Iterator[Volume]:
    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        mount = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=755", "tmpfs", folder]
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            pytest.skip(f"no volume of the test's own: {done.stderr.strip()}")
        try:
            yield Volume(Path(folder))
        finally:
            subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.fault("F32", "the uploads' disk is full, before an upload and in the middle of one")
def test_uploads_that_do_not_fit_are_refused_and_leave_nothing(chaos: Chaos) -> None:
    with mounted("4m") as volume:
        store = volume.path / "uploads"
        chaos.stack.environment["UPLOAD_DIR"] = str(store)
        with browsing(chaos.stack) as client:
            volume.fill()
            before = upload(client)
            volume.clear()
            during = client.post(
                "/transcribe",
                content=endless_form(8 * MEGABYTE),  # of a size that nobody tells
                headers={"Content-Type": "multipart/form-data; boundary=b"},
            )
            accepted = upload(client)
        chaos.jobs.append(uuid.UUID(accepted.json()["job_id"]))
        chaos.worker()
        done = chaos.end_of(chaos.jobs[0])

        assert [answer.status_code for answer in (before, during, accepted)] == [507, 507, 202]
        assert [answer.json()["code"] for answer in (before, during)] == ["disk_full"] * 2
        assert stored(store) == [str(done.id)]
        assert rows(chaos) == 1
        assert done.status == "completed"
        chaos.check()


def endless_form(size_bytes: int) -> Iterator[bytes]:
    yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
    for _ in range(size_bytes // 2**16):
        yield bytes(2**16)
    yield b"\r\n--b--\r\n"


def stored(store: Path) -> list[str]:
    return [path.name for path in store.rglob("*") if path.is_file() and path.name != MARKER]


def rows(chaos: Chaos) -> int:
    with chaos.stack.sessions() as session:
        return session.scalars(select(func.count()).select_from(TranscriptionJob)).one()


@pytest.mark.fault("D3", "the scratch disk fills up while audio is decoded")
def test_audio_that_does_not_fit_costs_no_attempt(chaos: Chaos, tmp_path: Path) -> None:
    recording = repeated("digits-en.wav", 8, tmp_path / "a minute.wav")
    with mounted("1m") as volume:
        chaos.stack.maintenance()
        chaos.worker(SCRATCH_DIR=str(volume.path))
        job_id = chaos.submit(recording, max_attempts=1)
        wait_for(lambda: chaos.stack.job(job_id).put_off_count >= 2, "it is put off")
        waiting = chaos.stack.job(job_id)
        volume.resize("16m")
        with chaos.recovery(retried(waiting.put_off_count + 1, pause=6)):
            wait_for(lambda: chaos.stack.job(job_id).audio_seconds, "it is decoded")
        done = chaos.end_of(job_id)

        assert (waiting.error_code, waiting.attempt) == ("disk_full", 0)
        assert (done.status, done.attempt) == ("completed", 1)
        assert words_of(chaos.stack, job_id) == 8 * SHORT_TEXT
        assert chaos.errors_of(job_id) == []
        chaos.check()


@pytest.fixture
def volume() -> Iterator[Volume]:
    with mounted("160m") as volume:
        yield volume


@pytest.fixture
def postgres(volume: Volume) -> Iterator[PostgresServer]:
    with running(PostgresServer(volume.path / "postgres", fast=True)) as server:
        yield server


@pytest.mark.fault("F31", "PostgreSQL's disk is full for longer than a lease")
def test_a_database_that_is_full_loses_nothing_that_was_accepted(
    broken: Chaos, postgres: PostgresServer, volume: Volume, long_recording: Path
) -> None:
    broken.stack.maintenance()
    worker = broken.worker()
    job_id = broken.submit(long_recording)
    broken.stack.wait_for_windows(job_id, 1)
    with browsing(broken.stack) as client:
        give_wal_room(postgres)
        volume.fill()
        refused = submit_until_refused(broken, client)
        wait_for(lambda: worker.said("database is away"), "the worker noticed")
        before = broken.ticks.count
        wait_for(lambda: broken.ticks.count > before + 1.5 * LEASE / HEARTBEAT, "a lease passes")
        volume.clear()
        with broken.recovery(WRITTEN + WINDOW):
            broken.goes_on(job_id)
        after = upload(client)
    broken.jobs.append(uuid.UUID(after.json()["job_id"]))
    done = broken.end_of(job_id)

    assert (refused.status_code, refused.json()["code"]) == (503, "database_unavailable")
    assert "Retry-After" in refused.headers
    assert rows(broken) == len(broken.jobs) == len(stored(broken.stack.uploads.root))
    assert (done.status, done.attempt, done.lease_epoch) == ("completed", 1, 1)
    assert words_of(broken.stack, job_id) == LONG_TEXT
    assert [broken.end_of(other).status for other in broken.jobs] == ["completed"] * rows(broken)
    assert all(process.popen.poll() is None for process in broken.stack.processes)
    broken.check()


def give_wal_room(postgres: PostgresServer) -> None:
    """Begin a new file of 16 MB: where the log itself finds no room, PostgreSQL stops (F27)."""
    with administration(postgres) as execute:
        execute("SELECT pg_switch_wal()")
        # flushed, since the file is made by whoever writes first, which may else be after the disk
        # is full
        execute("SELECT pg_logical_emit_message(false, 'tests', 'the first of that file', true)")


def submit_until_refused(chaos: Chaos, client: httpx2.Client) -> httpx2.Response:
    for _ in range(SUBMISSIONS_MAX):
        answer = upload(client)
        if answer.status_code != 202:
            return answer
        chaos.jobs.append(uuid.UUID(answer.json()["job_id"]))
    raise AssertionError("a full database took everything")
