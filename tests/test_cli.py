"""The command line, as an operator types it."""

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import create_engine, select
from sqlalchemy.orm import sessionmaker
from uuid_utils.compat import uuid7

import auth
import cli
from auth import Allowance
from config import SERVERS_FILE
from errors import NotAuthenticated
from jobs import lifecycle, queues
from jobs.lifecycle import Failure, NewJob
from models import ApiKey, Scope, TranscriptionJob
from speech.engines.store import DEMO_CHECKPOINT
from tests.first_version import IDS, fill

PROJECT_DIR = Path(__file__).resolve().parent.parent

Run = Callable[..., str]


@pytest.fixture
def run(database_url, tmp_path, monkeypatch, capsys) -> Run:
    """Run a command; returns what it prints."""
    monkeypatch.setenv("DATABASE_URL", database_url.replace("+psycopg2", ""))
    monkeypatch.setenv("STATE_DIR", str(tmp_path))

    def command(*arguments: str) -> str:
        with pytest.raises(SystemExit) as ended:
            cli.main(arguments)
        assert ended.value.code == 0
        printed: str = capsys.readouterr().out
        return printed

    return command


@pytest.fixture
def fail(run, capsys) -> Callable[..., tuple[int, str]]:
    """Run a command that fails; returns its exit status and what it complains of."""

    def command(*arguments: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as ended:
            cli.main(arguments)
        assert isinstance(ended.value.code, int)
        return ended.value.code, capsys.readouterr().err

    return command


@pytest.fixture
def sessions(database_url):
    engine = create_engine(database_url)
    yield sessionmaker(engine, expire_on_commit=False)
    engine.dispose()


@pytest.fixture
def make_job(sessions):
    def make(*, failed: bool = False) -> uuid.UUID:
        with sessions.begin() as session:
            job = lifecycle.submit(
                session,
                NewJob(
                    id=uuid7(),
                    owner_id=auth.owner_id(session, "alice"),
                    engine_name="openai-whisper",
                    model_name="tiny",
                    client_filename="speech.mp3",
                    upload_bytes=5,
                    upload_sha256=b"\1" * 32,
                    max_attempts=2,
                    audio_seconds=12.0,
                ),
            )
            if failed:
                claimed = lifecycle.claim(session, job.id, "worker:1")
                assert claimed is not None
                lifecycle.fail(session, claimed.lease, Failure(code="engine_error", message="No."))
            return job.id

    return make


def principal(sessions, key):
    with sessions.begin() as session:
        return auth.authenticate(session, key)


def test_a_key_is_printed_alone(run):
    assert auth.is_well_formed(run("keys", "create", "--owner", "alice").removesuffix("\n"))


def test_a_key_works(run, sessions):
    assert principal(sessions, run("keys", "create", "--owner", "alice").strip())


def test_a_key_is_for_jobs_by_default(run, sessions):
    key = run("keys", "create", "--owner", "alice").strip()

    assert principal(sessions, key).scopes == set(auth.JOB_SCOPES)


def test_a_key_gets_the_scopes_that_are_named(run, sessions):
    key = run("keys", "create", "--owner", "a", "--scope", "admin", "--scope", "jobs:read").strip()

    assert principal(sessions, key).scopes == {Scope.ADMIN, Scope.JOBS_READ}


def test_a_key_can_be_kept_from_high(run, sessions):
    key = run("keys", "create", "--owner", "alice", "--no-high").strip()

    assert not principal(sessions, key).may_use_high


def test_a_key_can_expire(run):
    run("keys", "create", "--owner", "alice", "--expires-days", "1")

    assert "until 2" in run("keys", "list")


@pytest.mark.parametrize("days", ["0.001", "0.5", "36500"])
def test_a_key_lasts_as_long_as_somebody_may_mean(run, sessions, days):
    key = run("keys", "create", "--owner", "alice", "--expires-days", days).strip()

    assert principal(sessions, key)


@pytest.mark.parametrize("days", ["0", "-1", "0.0001", "36501", "1e30", "inf", "nan", "soon"])
def test_a_key_lasts_no_shorter_and_no_longer(fail, days):
    status, complaint = fail("keys", "create", "--owner", "alice", "--expires-days", days)

    assert status == 2
    assert "--expires-days" in complaint
    assert "Traceback" not in complaint


def test_keys_are_listed_with_their_notes(run):
    run("keys", "create", "--owner", "alice", "--note", "the laptop")

    assert "alice" in run("keys", "list")
    assert "the laptop" in run("keys", "list")


def test_a_list_shows_no_key(run):
    key = run("keys", "create", "--owner", "alice").strip()

    assert key not in run("keys", "list")


def test_a_key_can_be_revoked_by_its_shown_prefix(run):
    prefix = run("keys", "create", "--owner", "alice")[:17]
    run("keys", "revoke", prefix)

    assert "revoked" in run("keys", "list")


def test_a_key_can_be_changed(run, sessions):
    key = run("keys", "create", "--owner", "alice", "--note", "the laptop").strip()
    run("keys", "change", key[:17], "--scope", "jobs:read", "--no-high")
    caller = principal(sessions, key)

    assert (caller.scopes, caller.may_use_high) == ({Scope.JOBS_READ}, False)
    assert "the laptop" in run("keys", "list")


def test_the_end_of_a_key_can_be_set_and_taken_away(run):
    prefix = run("keys", "create", "--owner", "alice")[:17]

    assert "until 2" in run("keys", "change", prefix, "--expires-days", "1")
    assert "works" in run("keys", "change", prefix, "--expires-days", "0")


def test_a_change_says_what_should_change(run, fail):
    prefix = run("keys", "create", "--owner", "alice")[:17]

    assert fail("keys", "change", prefix)[0] == 1


def test_a_rotated_key_is_printed_alone(run, sessions):
    before = run("keys", "create", "--owner", "alice").strip()
    after = run("keys", "rotate", before[:17]).strip()

    assert principal(sessions, after).key_id == principal(sessions, before).key_id


def test_a_key_can_be_rotated_without_grace(run, sessions):
    before = run("keys", "create", "--owner", "alice").strip()
    run("keys", "rotate", before[:17], "--grace-hours", "0")

    with pytest.raises(NotAuthenticated):
        principal(sessions, before)


def test_the_last_admin_key_is_revoked_by_force_alone(run, fail):
    prefix = run("keys", "create", "--owner", "root", "--scope", "admin")[:17]

    assert fail("keys", "revoke", prefix)[0] == 1
    assert "revoked" in run("keys", "revoke", prefix, "--force")


def test_a_key_can_be_limited(run, sessions):
    key = run("keys", "create", "--owner", "alice").strip()
    run("keys", "limit", key[:17], "--requests", "5", "--stored-mb", "1")
    run("keys", "limit", key[:17], "--jobs-at-once", "0")
    allowed = principal(sessions, key).allowance

    assert allowed == Allowance(requests=5, bytes_stored=2**20, jobs_at_once=0)


def test_a_key_can_have_the_defaults_again(run, sessions):
    key = run("keys", "create", "--owner", "alice").strip()
    run("keys", "limit", key[:17], "--requests", "5", "--jobs-at-once", "3")
    run("keys", "limit", key[:17], "--jobs-at-once", "4", "--default")

    assert principal(sessions, key).allowance == Allowance(jobs_at_once=4)


def kept(sessions, key):
    with sessions() as session:
        row = session.scalars(select(ApiKey).where(ApiKey.prefix == key[:17])).one()
        return row.audio_retention_seconds, row.transcript_retention_seconds


def test_a_key_can_keep_its_jobs_for_another_time(run, sessions):
    key = run("keys", "create", "--owner", "alice").strip()
    run("keys", "limit", key[:17], "--audio-retention", "12h", "--transcript-retention", "forever")
    asked = kept(sessions, key)
    run("keys", "limit", key[:17], "--default")

    assert asked == (12 * 3600.0, 0.0)
    assert kept(sessions, key) == (None, None)


def test_a_time_without_a_unit_is_refused(run, fail):
    prefix = run("keys", "create", "--owner", "alice")[:17]
    status, said = fail("keys", "limit", prefix, "--audio-retention", "7")

    assert status == 2
    assert "12h" in said


def test_a_key_can_be_given_weight(run):
    prefix = run("keys", "create", "--owner", "alice")[:17]

    assert run("keys", "limit", prefix, "--weight", "2.5").split()[-1] == "2.5"
    assert run("keys", "limit", prefix, "--default").split()[-1] == "1"


def test_a_limit_says_what_should_be_limited(run, fail):
    prefix = run("keys", "create", "--owner", "alice")[:17]

    assert fail("keys", "limit", prefix)[0] == 1


def test_usage_of_all_keys_is_listed(run):
    prefix = run("keys", "create", "--owner", "alice")[:17]
    run("keys", "limit", prefix, "--jobs-at-once", "7")

    assert "0 of 7" in run("keys", "usage")


def test_owners_are_listed(run):
    run("keys", "create", "--owner", "alice")

    assert "alice" in run("keys", "owners")


def test_revoking_what_is_not_there_fails_in_one_line(fail):
    status, complaint = fail("keys", "revoke", "nothing")

    assert (status, complaint.count("\n")) == (1, 1)
    assert complaint.startswith("error: ")


@pytest.mark.parametrize(
    "arguments",
    [
        ("keys", "create"),
        ("keys", "create", "--owner", "a", "--scope", "root"),
        ("jobs", "show", "not-an-id"),
        ("jobs", "list", "--status", "done"),
        ("nonsense",),
    ],
)
def test_wrong_use_is_refused(fail, arguments):
    assert fail(*arguments)[0] == 2


def test_a_key_needs_an_owner_with_a_name(fail):
    assert fail("keys", "create", "--owner", " ")[0] == 1


def test_jobs_are_listed(run, make_job):
    job_id = make_job()

    assert str(job_id) in run("jobs", "list")


def test_jobs_of_one_status_are_listed(run, make_job):
    make_job()
    failed = make_job(failed=True)
    _, *rows = run("jobs", "list", "--status", "failed").splitlines()

    assert [row.split()[0] for row in rows] == [str(failed)]


def test_a_job_is_shown_with_its_attempts(run, make_job):
    shown = run("jobs", "show", str(make_job(failed=True)))

    assert "speech.mp3" in shown
    assert "attempt 1" in shown


def test_a_job_can_be_cancelled(run, make_job, sessions):
    job_id = make_job()
    run("jobs", "cancel", str(job_id))
    with sessions.begin() as session:
        assert session.get(TranscriptionJob, job_id).status == "cancelled"


def test_a_final_job_cannot_be_cancelled(fail, make_job):
    status, complaint = fail("jobs", "cancel", str(make_job(failed=True)))

    assert (status, complaint) == (1, "error: The job has ended already.\n")


@pytest.mark.parametrize("verb", ["show", "cancel"])
def test_a_job_that_is_not_there_is_refused(fail, verb):
    assert fail("jobs", verb, str(uuid.uuid4())) == (1, "error: There is no such job.\n")


# Queues


def test_queues_are_paused_and_resumed(run, sessions):
    run("queues", "pause", "all", "--note", "new disk")
    run("queues", "resume", "high")
    listed = run("queues", "list").splitlines()

    states = [line.split()[:2] for line in listed[1:]]
    assert states == [["high", "works"], ["normal", "paused"], ["retry", "paused"]]
    assert listed[2].endswith("cli        new disk")
    with sessions() as session:
        assert queues.paused(session).keys() == {"normal", "retry"}


def test_the_list_of_queues_tells_how_long_the_oldest_waits(run, make_job):
    make_job()
    normal = run("queues", "list").splitlines()[2].split()

    assert normal[:4] == ["normal", "works", "1", "0"]


def test_a_queue_that_is_not_there_is_refused(fail):
    assert fail("queues", "pause", "dlq")[0] == 2


@pytest.mark.parametrize("arguments", [["--help"], ["keys", "--help"], ["jobs", "--help"]])
def test_every_noun_explains_itself(arguments):
    done = subprocess.run(
        [sys.executable, "cli.py", *arguments], cwd=PROJECT_DIR, capture_output=True, text=True
    )

    assert done.returncode == 0
    assert "Usage: cli.py" in done.stdout


# Where the database is


@pytest.fixture
def typed(tmp_path):
    """Run a command in a process with no more than these variables."""

    def command(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, PROJECT_DIR / "cli.py", *arguments],
            env={"PATH": os.environ["PATH"], "STATE_DIR": str(tmp_path), **variables},
            capture_output=True,
            text=True,
        )

    return command


def test_without_a_database_it_says_why_in_one_line(typed):
    done = typed("keys", "list", DATABASE_URL="postgresql://127.0.0.1:1/x")

    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith("error: The database cannot be reached: ")
    assert "Connection refused" in done.stderr


def test_a_database_that_is_not_migrated_is_named_with_what_helps(typed, empty_database_url):
    done = typed("keys", "list", DATABASE_URL=empty_database_url)

    complaint = "error: The database is not migrated: run alembic upgrade head.\n"
    assert (done.returncode, done.stderr) == (1, complaint)


def test_where_nothing_runs_it_says_so_in_one_line(typed, tmp_path):
    done = typed("jobs", "list")

    complaint = f"error: DATABASE_URL is not set, and no `make run` is under way on {tmp_path}\n"
    assert (done.returncode, done.stderr) == (2, complaint)


def test_the_servers_of_make_run_are_found(typed, tmp_path, database_url):
    (tmp_path / SERVERS_FILE).write_text(json.dumps({"DATABASE_URL": database_url}))
    typed("keys", "create", "--owner", "alice")

    assert "alice" in typed("keys", "list").stdout


def test_a_database_that_is_set_wins_over_the_one_of_make_run(typed, tmp_path, database_url):
    (tmp_path / SERVERS_FILE).write_text(json.dumps({"DATABASE_URL": "postgresql://127.0.0.1:1/x"}))

    assert typed("keys", "list", DATABASE_URL=database_url).returncode == 0


# Models


def test_a_model_is_converted_into_no_folder_that_is_in_use(fail, tmp_path):
    (tmp_path / "thesis.txt").touch()
    status, complaint = fail("models", "convert", str(DEMO_CHECKPOINT), str(tmp_path))

    assert status == 1
    assert complaint.endswith("something is there already. Name a new folder.\n")
    assert (tmp_path / "thesis.txt").exists()


@pytest.mark.parametrize(
    ("checkpoint", "options", "said"),
    [
        ("/no/such.pt", [], "/no/such.pt cannot be read: No such file or directory."),
        (__file__, [], "test_cli.py is not a checkpoint of openai-whisper's."),
        (str(DEMO_CHECKPOINT), ["--quantization", "int9"], "There is no quantization 'int9'"),
    ],
)
def test_what_cannot_be_converted_is_named(fail, tmp_path, checkpoint, options, said):
    status, complaint = fail("models", "convert", checkpoint, str(tmp_path / "new"), *options)

    assert status == 1
    assert complaint.startswith(f"error: {said}")


# Version 2


@pytest.fixture
def old_url(empty_database_url, tmp_path):
    """The first version's database, whose files lie under a relative path."""
    (tmp_path / "old" / "work").mkdir(parents=True)
    (tmp_path / "old" / "work" / "talk.mp3").write_bytes(b"old upload")
    engine = create_engine(empty_database_url)
    with engine.connect() as connection:
        fill(connection, "./work")
    engine.dispose()
    return empty_database_url


@pytest.fixture
def with_room(monkeypatch):
    monkeypatch.setenv("MIN_FREE_DISK_MB", "0")


def counts(printed: str) -> dict[str, int]:
    return {name: int(count) for name, count in map(str.split, printed.splitlines())}


def test_version_2_is_imported_with_its_files(run, with_room, old_url, tmp_path, sessions):
    printed = run("import-v1", "--from", old_url, "--files", str(tmp_path / "old"))

    assert counts(printed) == {
        "jobs": 6,
        "results": 1,
        "errors": 2,
        "resubmitted": 1,
        "given_up": 1,
        "skipped": 0,
    }
    with sessions() as session:
        job = session.get_one(TranscriptionJob, IDS["waiting"])
        assert (job.status, job.owner.name, job.upload_bytes) == ("pending", "admin", 10)


def test_relative_paths_are_meant_from_the_current_folder(
    run, with_room, old_url, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path / "old")

    assert counts(run("import-v1", "--from", old_url))["resubmitted"] == 1


def test_a_second_import_submits_what_the_first_did_not_find(
    run, with_room, old_url, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    first = counts(run("import-v1", "--from", old_url))
    second = counts(run("import-v1", "--from", old_url, "--files", "old"))

    assert (first["given_up"], second["resubmitted"], second["skipped"]) == (2, 1, 4)


def test_a_full_disk_ends_the_import_in_one_line(fail, old_url, tmp_path, monkeypatch):
    monkeypatch.setenv("MIN_FREE_DISK_MB", str(2**24))
    arguments = ("import-v1", "--from", old_url, "--files", str(tmp_path / "old"))
    status, complaint = fail(*arguments)

    assert status == 1
    assert complaint.startswith("error: There is not enough free disk space for this upload. ")
    assert complaint.endswith(" jobs were copied and stay; the same command goes on from there.\n")


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (("--from", "mysql://h/d"), 2),
        (("--from", "postgresql://127.0.0.1:1/x"), 1),
        (("--from", "postgresql://127.0.0.1:1/x", "--files", "/no/such"), 2),
        ((), 2),
    ],
)
def test_what_cannot_be_imported_is_refused_without_a_traceback(fail, arguments, status):
    found, complaint = fail("import-v1", *arguments)

    assert found == status
    assert "Traceback" not in complaint


def test_another_database_than_version_2_is_refused(fail, database_url):
    complaint = "error: --from does not point at a database of version 2.\n"

    assert fail("import-v1", "--from", database_url) == (2, complaint)
