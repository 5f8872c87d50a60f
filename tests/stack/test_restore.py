"""Everything is destroyed, and what a backup has comes back: on processes as they run."""

import shutil
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import httpx2
import pytest
from sqlalchemy import inspect, make_url, select, text

import keys
from backups.uploads import path_in
from jobs import dead_letters
from jobs.uploads import UNCLAIMED_DIR
from keys import Grant
from local_servers import PostgresServer
from models import Base, TranscriptionJob, TranscriptionResult, TranscriptionWindow
from rig.engines import Script, null_upload
from rig.ledger import events
from tests.chaos.test_deploy import migrate, new_version
from tests.conftest import administration
from tests.stack.conftest import Process, Stack, wait_for

pytestmark = pytest.mark.stack

#: Jobs with a model of this name do nothing for a while: see ``rig.engines``.
NULL_MODEL: Final = "base"
SLOTS: Final = 3
#: Windows that a long job has, and how long each takes.
LONG: Final = (30, 0.2)
#: Jobs that are sent while the backup is taken.
MEANWHILE: Final = 20
#: No lease of a service that was never restored has such a number.
RAISED: Final = 10**12

Row = dict[str, Any]


@dataclass
class Site:
    """A service that is destroyed and restored."""

    stack: Stack
    server: PostgresServer
    folder: Path
    scripts: dict[uuid.UUID, Script] = field(default_factory=dict)

    def worker(self, **variables: str) -> Process:
        process = self.stack.start("worker", "-m", "rig.worker", **variables)
        wait_for(lambda: process.said("ready"), "the worker is ready")
        return process

    def submit(self, windows: int = 1, seconds: float = 0.0, **values: Any) -> uuid.UUID:
        fault = values.pop("fault", None)
        tag = f"T{len(self.scripts)}"
        script = Script(windows=windows, seconds=seconds, tag=tag, fault=fault)
        upload = self.stack.folder / f"{tag}.null"
        upload.write_bytes(null_upload(script))
        values = {"model_name": NULL_MODEL, "initial_prompt": str(script), **values}
        job_id = self.stack.submit(upload, **values)
        self.scripts[job_id] = script
        return job_id

    def cli(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "cli.py", *arguments],
            cwd=self.stack.code,
            env={**self.stack.environment, **self.stack.as_owner, **environment},
            capture_output=True,
            text=True,
        )

    def must(self, *arguments: str, **environment: str) -> str:
        done = self.cli(*arguments, **environment)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def stop(self) -> None:
        """Stop whatever runs, in good order."""
        for process in self.stack.processes:
            if process.popen.poll() is None:
                process.signal(signal.SIGTERM)
                process.wait()

    def destroy_database(self) -> None:
        name = make_url(self.stack.environment["DATABASE_URL"]).database
        self.stack.sessions.kw["bind"].dispose()
        with administration(self.server) as execute:
            execute(f"DROP DATABASE {name} WITH (FORCE)")
            execute(f"CREATE DATABASE {name}")

    def destroy_uploads(self) -> None:
        shutil.rmtree(self.stack.uploads.root)

    def rows(self, table: type[Base]) -> list[Row]:
        with self.stack.sessions() as session:
            query = select(table.__table__).order_by(*inspect(table).primary_key)
            return [dict(row._mapping) for row in session.execute(query)]

    def make_key(self, **values: Any) -> str:
        with self.stack.sessions.begin() as session:
            return keys.create(session, Grant(owner="tests", **values))[0]


@pytest.fixture
def site(stack: Stack, postgres_server: PostgresServer, tmp_path: Path) -> Site:
    stack.environment |= {"NULL_MODEL": NULL_MODEL, "CELERY_CONCURRENCY": str(SLOTS)}
    (tmp_path / "backups").mkdir()
    return Site(stack, postgres_server, tmp_path / "backups" / "one")


def by_id(rows: list[Row]) -> dict[uuid.UUID, Row]:
    return {row["id"] if "id" in row else row["job_id"]: row for row in rows}


@contextmanager
def submitting(site: Site) -> Iterator[list[uuid.UUID]]:
    """Go on submitting while something else is done, some jobs long."""
    sent: list[uuid.UUID] = []

    def submit() -> None:
        for _ in range(MEANWHILE):
            sent.append(site.submit())  # noqa: PERF401 - each counts once it is sent

    thread = threading.Thread(target=submit, name="client")
    thread.start()
    try:
        yield sent
    finally:
        thread.join()


# Everything at once


def make_history(site: Site) -> None:
    """Jobs that ended in every way; those of them that failed for no fault of theirs, resolved."""
    rubbish = site.stack.folder / "rubbish"
    rubbish.write_bytes(b"no sound at all" * 100)
    ended = [site.submit() for _ in range(6)]
    ended += [site.submit(fault="error", max_attempts=1) for _ in range(4)]
    ended += [site.stack.submit(rubbish, model_name=NULL_MODEL) for _ in range(3)]
    # long enough that each is there when its turn comes to be cancelled
    ended += [site.submit(1000, 0.1) for _ in range(3)]
    for job_id in ended[-3:]:
        site.must("jobs", "cancel", str(job_id))
    for job_id in ended:
        site.stack.wait_for_status(job_id, "completed", "failed", "cancelled")
    with site.stack.sessions.begin() as session:
        assert dead_letters.resolve(session, ended[6:8], by="cli", notes="told them")


@dataclass(frozen=True)
class Before:
    """What was there when everything was destroyed."""

    #: Jobs that were over when the backup was taken, and results.
    ended: dict[uuid.UUID, Row]
    results: dict[uuid.UUID, Row]
    running: list[uuid.UUID]
    waiting: list[uuid.UUID]
    accepted: set[uuid.UUID]
    #: A worker that holds the leases of what ran, and is frozen.
    zombie: Process


def live_and_be_destroyed(site: Site) -> Before:
    stack = site.stack
    maintenance, zombie = stack.maintenance(), site.worker()
    make_history(site)
    running = [site.submit(*LONG) for _ in range(SLOTS)]
    for job_id in running:
        stack.wait_for_windows(job_id, 2)
    waiting = [site.submit() for _ in range(11)]
    ended = [row for row in site.rows(TranscriptionJob) if row["completed_at"] is not None]
    results = site.rows(TranscriptionResult)
    with submitting(site):
        site.must("backup", str(site.folder))
    zombie.signal(signal.SIGSTOP)
    maintenance.kill()
    accepted = {row["id"] for row in site.rows(TranscriptionJob)}
    site.destroy_database()
    site.destroy_uploads()
    stack.redis.flushdb()
    return Before(by_id(ended), by_id(results), running, waiting, accepted, zombie)


def test_all_that_was_in_the_backup_ends_as_it_should(site: Site, tmp_path: Path) -> None:
    """A worker that held leases meanwhile is thawed afterwards, and writes nothing."""
    before = live_and_be_destroyed(site)
    site.must("check-backup", str(site.folder))
    site.must("restore", str(site.folder))
    restored = {row["id"] for row in site.rows(TranscriptionJob)}
    windows = {(w["job_id"], w["index"]): w for w in site.rows(TranscriptionWindow)}
    ledger = tmp_path / "ledger"
    site.stack.maintenance()
    site.worker(LEDGER=str(ledger))
    for job_id in before.running:
        site.stack.wait_for_status(job_id, "processing")
    before.zombie.signal(signal.SIGCONT)
    abandoned = "attempt abandoned: another worker owns the job"
    wait_for(lambda: before.zombie.said(abandoned), "the zombie finds out")
    for job_id in restored:
        site.stack.wait_for_status(job_id, "completed", "failed", "cancelled")

    assert {*before.ended, *before.running, *before.waiting} <= restored <= before.accepted
    assert len(restored) >= 30
    require_what_had_ended(site, before)
    require_the_others_completed(site, restored - before.ended.keys())
    require_no_write_of_the_past(site, windows)
    for job_id in before.running:
        kept = sum(place[0] == job_id for place in windows)
        assert kept >= 2
        assert begun_at(ledger, site.scripts[job_id]) == kept
    attempts = [event["job"] for event in events(ledger) if event["what"] == "attempt"]
    assert len(attempts) == len({*attempts})


def require_what_had_ended(site: Site, before: Before) -> None:
    """What had ended is as it was, but for what lets it be sent round again, and is noted."""
    found = by_id(site.rows(TranscriptionJob))
    for job_id, row in before.ended.items():
        changed = {name for name in row if row[name] != found[job_id][name]}
        assert changed <= {
            "lease_epoch", "dispatch_due_at", "dispatch_count", "dead_letter_noted_at"
        }  # fmt: skip
    results = by_id(site.rows(TranscriptionResult))
    assert {job_id: results[job_id] for job_id in before.results} == before.results


def require_the_others_completed(site: Site, others: set[uuid.UUID]) -> None:
    """What had not ended, ended as if nothing had been."""
    found, results = (by_id(site.rows(table)) for table in (TranscriptionJob, TranscriptionResult))
    for job_id in others:
        job, result = found[job_id], results[job_id]
        assert (job["status"], job["attempt"], job["crash_count"]) == ("completed", 1, 0)
        assert result["text"] == site.scripts[job_id].text
        assert result["lease_epoch"] == job["lease_epoch"] > RAISED


def require_no_write_of_the_past(site: Site, windows: dict[tuple[uuid.UUID, int], Row]) -> None:
    """What was done is as it was, and the rest was done under leases of after the restore."""
    for window in site.rows(TranscriptionWindow):
        known = windows.get((window["job_id"], window["index"]))
        assert window["lease_epoch"] > RAISED if known is None else window == known


def begun_at(ledger: Path, script: Script) -> int:
    """The first window that was worked on."""
    starts = [
        event["start"]
        for event in events(ledger)
        if event["what"] == "window" and event["tag"] == script.tag
    ]
    return int(min(starts)) // 30


# Less than everything


def test_old_messages_in_redis_are_harmless(site: Site, tmp_path: Path) -> None:
    """Those of jobs that are not there any more, and those of jobs that are rung for again."""
    known = [site.submit() for _ in range(5)]
    site.must("backup", str(site.folder))
    unknown = [site.submit() for _ in range(5)]
    site.destroy_database()
    site.must("restore", str(site.folder))
    ledger = tmp_path / "ledger"
    site.stack.maintenance()
    worker = site.worker(LEDGER=str(ledger))
    for job_id in known:
        site.stack.wait_for_status(job_id, "completed")
    wait_for(lambda: not site.stack.redis.llen("normal"), "every message was taken")
    attempts = [event["job"] for event in events(ledger) if event["what"] == "attempt"]

    assert sorted(attempts) == sorted(map(str, known))
    assert worker.said("nothing to do for this message")
    for job_id in unknown:  # all that is left of them
        assert (site.stack.uploads.root / UNCLAIMED_DIR / str(job_id)).is_file()


@pytest.mark.parametrize("role", ["web", "maintenance", "worker"])
def test_a_service_that_runs_is_not_restored(role: str, site: Site) -> None:
    site.submit(ring=False)
    site.must("backup", str(site.folder))
    if role == "web":
        process, url = site.stack.web()
        wait_for(lambda: process.said("Uvicorn running"), "the web process is ready")
        assert httpx2.get(f"{url}/ready").status_code == 200
    else:
        process = site.stack.maintenance() if role == "maintenance" else site.worker()
    before = site.rows(TranscriptionJob)
    refused = site.cli("restore", str(site.folder), "--replace")
    unsettled = site.cli("after-restore")
    after = site.rows(TranscriptionJob)
    site.stop()
    site.must("restore", str(site.folder), "--replace")

    assert [done.returncode for done in (refused, unsettled)] == [1, 1]
    assert "The service runs on this database" in refused.stderr
    assert [row["lease_epoch"] for row in after] == [row["lease_epoch"] for row in before]


def test_a_restore_that_is_killed_leaves_the_database_as_it_was(site: Site) -> None:
    site.submit(ring=False)
    site.must("backup", str(site.folder))
    site.submit(ring=False)
    before = site.rows(TranscriptionJob)
    waits = text(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        " AND application_name = 'transcription-backup' AND datname = current_database()"
    )

    def it_waits() -> bool:
        with site.stack.sessions() as session:
            return bool(session.scalar(waits))

    with site.stack.sessions.begin() as session:
        # what it drops among the last, so that it waits with half of its work done
        session.execute(text("LOCK TABLE owners IN ACCESS SHARE MODE"))
        process = site.stack.start(
            "restore", "cli.py", "restore", str(site.folder), "--replace", **site.stack.as_owner
        )
        wait_for(it_waits, "it waits for the lock")
        process.kill()
    after = site.rows(TranscriptionJob)
    site.must("restore", str(site.folder), "--replace")

    assert after == before
    assert len(site.rows(TranscriptionJob)) == 1


def test_a_backup_is_restored_into_a_later_version(site: Site) -> None:
    done = site.submit(ring=False)
    site.must("backup", str(site.folder))
    site.destroy_database()
    later = replace(site, stack=new_version(site.stack))
    later.must("restore", str(site.folder))
    rows = later.rows(TranscriptionJob)
    with later.stack.sessions() as session:
        revision = session.scalar(text("SELECT version_num FROM alembic_version"))
        tones = session.scalars(text("SELECT tone FROM transcription_jobs")).all()
    again = later.folder.with_name("two")
    later.must("backup", str(again))
    refused = site.cli("restore", str(again), "--replace")

    assert revision == "yet_to_come"
    assert ([row["id"] for row in rows], tones) == ([done], ["plain"])
    assert refused.returncode == 1
    assert "restore it with that version, or a later one" in refused.stderr
    assert "nothing is changed" in migrate(site.stack)


def test_what_was_deleted_by_mistake_is_found_beside_the_service(
    site: Site, empty_database_url: str, tmp_path: Path
) -> None:
    key = {"X-API-Key": site.make_key()}
    job_id = site.submit()
    maintenance, worker = site.stack.maintenance(), site.worker()
    site.stack.wait_for_status(job_id, "completed")
    site.must("backup", str(site.folder))
    process, url = site.stack.web()
    wait_for(lambda: process.said("Uvicorn running"), "the web process is ready")
    deleted = httpx2.delete(f"{url}/jobs/{job_id}", headers=key)
    aside = {"DATABASE_URL": empty_database_url, "UPLOAD_DIR": str(tmp_path / "aside")}
    site.must("restore", str(site.folder), **aside)
    beside, there = site.stack.web(**aside)
    wait_for(lambda: beside.said("Uvicorn running"), "the one beside is ready")
    result = httpx2.get(f"{there}/jobs/{job_id}/result?format=txt", headers=key)
    audio = httpx2.get(f"{there}/jobs/{job_id}/audio", headers=key)

    assert deleted.status_code == 204
    assert result.text.split() == site.scripts[job_id].text.split()
    assert audio.content == null_upload(site.scripts[job_id])
    assert [p.popen.poll() for p in (maintenance, worker, process)] == [None] * 3


def test_uploads_that_were_lost_are_copied_back(site: Site) -> None:
    """As the page says, by hand: the database was never away."""
    known = [site.submit(ring=False) for _ in range(2)]
    site.must("backup", str(site.folder))
    lost = site.submit(ring=False)
    kept = site.stack.folder / "copied elsewhere"
    shutil.copytree(site.folder, kept)
    site.destroy_uploads()
    site.stack.uploads.root.mkdir()
    copied = ["cp", "-a", f"{kept}/uploads/.", f"{site.stack.uploads.root}/"]
    subprocess.run(copied, check=True)
    process, _ = site.stack.web()
    wait_for(lambda: process.said("Uvicorn running"), "the web process is ready")
    site.stack.maintenance()
    site.worker()
    ends = [site.stack.wait_for_status(job_id, "completed", "failed") for job_id in (*known, lost)]

    assert [job.failure_reason for job in ends] == [None, None, "upload_missing"]


def test_uploads_outlive_the_database(site: Site) -> None:
    """PostgreSQL's disk is lost, and the uploads are not."""
    known = site.submit(ring=False)
    kept = site.stack.folder / "copied elsewhere"
    site.must("backup", str(site.folder))
    shutil.copytree(site.folder, kept)
    path_in(kept, known).unlink()  # it is not needed
    shutil.rmtree(site.folder)
    site.destroy_database()
    refused = site.cli("restore", str(kept))
    site.must("restore", str(kept), "--without-audio")
    site.stack.maintenance()
    site.worker()

    assert refused.returncode == 1
    assert site.stack.wait_for_status(known, "completed").attempt == 1


def test_a_stolen_key_stays_revoked(site: Site) -> None:
    key = site.make_key()
    site.submit(ring=False)
    site.must("backup", str(site.folder))
    site.must("keys", "revoke", key[:12])
    replaced = site.must("restore", str(site.folder), "--replace")
    process, url = site.stack.web()
    wait_for(lambda: process.said("Uvicorn running"), "the web process is ready")
    refused = httpx2.get(f"{url}/jobs/", headers={"X-API-Key": key})
    site.stop()
    site.destroy_database()
    told = site.must("restore", str(site.folder))

    assert refused.status_code == 401
    assert "work again" not in replaced
    assert f"1 work again; revoke those that were revoked since: {key[:12]}" in told
