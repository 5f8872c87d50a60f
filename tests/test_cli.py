"""The command line, as an operator types it."""

import os
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.orm import sessionmaker
from uuid_utils.compat import uuid7

import auth
import cli
from jobs import lifecycle
from jobs.lifecycle import Failure, NewJob
from models import Scope, TranscriptionJob

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


def test_revoking_what_is_not_there_fails_in_one_line(fail):
    status, complaint = fail("keys", "revoke", "nothing")

    assert (status, complaint.count("\n")) == (1, 1)
    assert complaint.startswith("error: ")


@pytest.mark.parametrize(
    "arguments",
    [
        ("keys", "create"),
        ("keys", "create", "--owner", "a", "--scope", "root"),
        ("keys", "create", "--owner", "a", "--expires-days", "-1"),
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


def test_a_failed_job_can_be_sent_round_again(run, make_job, sessions):
    job_id = make_job(failed=True)
    run("jobs", "redrive", str(job_id), "--model", "turbo")
    with sessions.begin() as session:
        job = session.get(TranscriptionJob, job_id)

    assert (job.status, job.model_name) == ("pending", "large-v3-turbo")


def test_a_job_that_did_not_fail_is_not_sent_round(fail, make_job):
    assert fail("jobs", "redrive", str(make_job()))[0] == 1


def test_a_job_without_upload_is_not_sent_round(fail, make_job, sessions):
    job_id = make_job(failed=True)
    with sessions.begin() as session:
        session.execute(text("UPDATE transcription_jobs SET upload_deleted_at = now()"))

    assert "no longer kept" in fail("jobs", "redrive", str(job_id))[1]


def test_a_model_that_is_not_there_is_refused(fail, make_job):
    assert fail("jobs", "redrive", str(make_job(failed=True)), "--model", "gpt")[0] == 1


@pytest.mark.parametrize("verb", ["show", "cancel", "redrive"])
def test_a_job_that_is_not_there_is_refused(fail, verb):
    assert fail("jobs", verb, str(uuid.uuid4())) == (1, "error: There is no such job.\n")


@pytest.mark.parametrize("arguments", [["--help"], ["keys", "--help"], ["jobs", "--help"]])
def test_every_noun_explains_itself(arguments):
    done = subprocess.run(
        [sys.executable, "cli.py", *arguments], cwd=PROJECT_DIR, capture_output=True, text=True
    )

    assert done.returncode == 0
    assert "Usage: cli.py" in done.stdout


def test_without_a_database_it_fails_in_one_line(tmp_path):
    done = subprocess.run(
        [sys.executable, PROJECT_DIR / "cli.py", "keys", "list"],
        env={"PATH": os.environ["PATH"], "DATABASE_URL": "postgresql://127.0.0.1:1/x"},
        capture_output=True,
        text=True,
    )

    assert (done.returncode, done.stderr) == (1, "error: The database cannot be reached.\n")
