"""Backups from the command line, as an operator types it."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import create_engine, make_url, text

from backups.uploads import path_in
from tests.backups.conftest import Service
from tests.recordings import PROJECT_DIR

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def service(database_url: str, tmp_path: Path) -> Service:
    made = Service(database_url, tmp_path / "uploads")
    made.uploads.prepare()
    return made


@pytest.fixture
def run(tmp_path: Path) -> Run:
    def command(
        service: Service, *arguments: str, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "cli.py", *arguments],
            cwd=PROJECT_DIR,
            env={
                **os.environ,
                "DATABASE_URL": service.url.replace("+psycopg2", ""),
                "UPLOAD_DIR": str(service.uploads.root),
                "STATE_DIR": str(tmp_path),
                "MIN_FREE_DISK_MB": "0",
                **environment,
            },
            capture_output=True,
            text=True,
        )

    return command


def test_a_backup_is_taken_checked_and_restored(
    service: Service, run: Run, tmp_path: Path, empty_database_url: str
) -> None:
    service.submit(b"sound")
    folder = tmp_path / "backup"
    taken = run(service, "backup", str(folder))
    checked = run(service, "check-backup", str(folder), DATABASE_URL="")
    there = Service(empty_database_url, tmp_path / "new uploads")
    restored = run(there, "restore", str(folder))
    there.engine.dispose()

    assert [done.returncode for done in (taken, checked, restored)] == [0, 0, 0], restored.stderr
    (manifest,) = {
        line for done in (taken, checked) for line in done.stdout.splitlines() if "manifest" in line
    }
    assert len(manifest.split()[1]) == 64
    assert "jobs      1, of which 1 wait and go on" in restored.stdout
    assert "transcription_jobs: 1 rows" in taken.stderr


def test_taking_one_is_an_audit_event(service: Service, run: Run, tmp_path: Path) -> None:
    done = run(service, "backup", str(tmp_path / "backup"))
    (told,) = service.execute(
        "SELECT actor, detail FROM audit_events WHERE action = 'backup_taken'"
    )

    assert told.actor == "cli"
    assert f"manifest  {told.detail['sha256']}" in done.stdout


@pytest.mark.parametrize("command", ["check-backup", "restore"])
def test_a_damaged_one_is_told_of_in_a_line(
    command: str, service: Service, run: Run, tmp_path: Path
) -> None:
    job_id = service.submit(b"sound")
    folder = tmp_path / "backup"
    run(service, "backup", str(folder))
    path_in(folder, job_id).unlink()
    options = ["--replace"] if command == "restore" else []
    done = run(service, command, str(folder), *options)

    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"error: {path_in(folder, job_id)} is missing."


def test_the_same_folder_is_not_taken_twice(service: Service, run: Run, tmp_path: Path) -> None:
    first, second = (run(service, "backup", str(tmp_path / "backup")) for _ in range(2))

    assert (first.returncode, second.returncode) == (0, 1)
    assert "is there already" in second.stderr


def test_one_of_an_earlier_backup_and_without_audio(
    service: Service, run: Run, tmp_path: Path
) -> None:
    service.submit(b"sound")
    run(service, "backup", str(tmp_path / "first"))
    second = run(service, "backup", str(tmp_path / "second"), "--previous", str(tmp_path / "first"))
    third = run(service, "backup", str(tmp_path / "third"), "--without-audio")
    fourth = run(service, "backup", str(tmp_path / "fourth"), "--previous", "last night failed")

    assert [done.returncode for done in (second, third, fourth)] == [0, 0, 0]
    assert "last night failed is not there: every upload is copied." in fourth.stderr
    assert "1 left out" in third.stdout


def test_a_service_that_is_told_nothing_of_is_told_so(service: Service, run: Run, tmp_path: Path):
    done = run(service, "backup", str(tmp_path / "backup"), DATABASE_URL="")

    assert done.returncode == 2
    assert "DATABASE_URL is not set" in done.stderr


def test_a_role_that_may_only_read_takes_a_backup_of_all_but_the_event(
    service: Service, run: Run, tmp_path: Path
) -> None:
    service.execute(
        "CREATE ROLE reader LOGIN; GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader"
    )
    url = make_url(service.url).set(username="reader")
    reader = Service(url.render_as_string(hide_password=False), service.uploads.root)
    done = run(reader, "backup", str(tmp_path / "backup"))
    reader.engine.dispose()
    engine = create_engine(service.url)
    with engine.begin() as connection:
        connection.execute(text("DROP OWNED BY reader; DROP ROLE reader"))
    engine.dispose()

    assert done.returncode == 0, done.stderr
    assert "No audit event tells of this backup" in done.stderr
    assert (tmp_path / "backup" / "manifest.json").exists()
