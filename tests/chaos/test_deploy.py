"""A new version beside the old one, over a migration: both go on, neither does the other's work."""

import shutil
import signal
import subprocess
import sys
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Final

import httpx2
import pytest
from alembic.config import Config as AlembicConfig
from alembic.script import ScriptDirectory

from models import WISHES_VERSION
from tests.chaos.conftest import NULL_MODEL, Chaos, browsing
from tests.recordings import PROJECT_DIR
from tests.stack.conftest import Stack, wait_for

pytestmark = [pytest.mark.chaos, pytest.mark.model]

#: What a version yet to come adds: a column that it reads and writes, with a default for those that
#: do not, and a priority that they have never heard of.
MIGRATION: Final = """
import sqlalchemy as sa
from alembic import op

revision: str = 'yet_to_come'
down_revision: str | None = '{head}'
branch_labels = depends_on = None


def upgrade():
    op.add_column("transcription_jobs", sa.Column("tone", sa.Text, server_default="plain"))
    op.execute("ALTER TABLE transcription_jobs DROP CONSTRAINT ck_transcription_jobs_priority")
    op.create_check_constraint(
        "priority", "transcription_jobs", "priority IN ('high', 'normal', 'whenever')"
    )
"""
COLUMN: Final = "    wishes_version: Mapped[int]"
NEW_COLUMN: Final = "    tone: Mapped[str | None]\n"
ALIAS: Final = '"large": "large-v3"'


def new_version(stack: Stack) -> Stack:
    """The stack, run from a copy of the code that is one version on."""
    code = stack.folder / "new version"
    shutil.copytree(PROJECT_DIR, code, ignore=shutil.ignore_patterns(".*", "tests", "training"))
    head = ScriptDirectory.from_config(AlembicConfig(PROJECT_DIR / "alembic.ini")).get_heads()[0]
    (code / "migrations/versions/yet_to_come.py").write_text(MIGRATION.format(head=head))
    knows = f"WISHES_VERSION: Final = {WISHES_VERSION}"
    change(code / "models.py", knows, f"{knows} + 1")
    change(code / "models.py", COLUMN, NEW_COLUMN + COLUMN)
    change(code / "speech/engines/catalogue.py", ALIAS, f'{ALIAS}, "grand": "small"')
    return replace(stack, code=code)


def change(file: Path, old: str, new: str) -> None:
    before = file.read_text("utf-8")
    assert before.count(old) == 1
    file.write_text(before.replace(old, new), "utf-8")


def migrate(stack: Stack) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "alembic", "upgrade", "head"],
        cwd=stack.code,
        env={**stack.environment, **stack.as_owner},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stderr


def shown(client: httpx2.Client, job_id: uuid.UUID) -> list[int]:
    paths = ("/jobs/", f"/jobs/{job_id}")
    return [client.get(path).status_code for path in paths]


@pytest.fixture
def new(chaos: Chaos) -> Chaos:
    return replace(chaos, stack=new_version(chaos.stack))


@pytest.mark.fault("F40", "a web process waits for its migration; an older one goes on after it")
def test_processes_start_before_and_after_a_migration(chaos: Chaos, new: Chaos) -> None:
    job_id = chaos.submit_null(1, ring=False)
    with browsing(new.stack) as client:
        before = shown(client, job_id)
        migrate(new.stack)
        after = shown(client, job_id)
    told = migrate(chaos.stack)
    strange = chaos.submit_null(1, priority="whenever", ring=False)
    with browsing(chaos.stack) as client:
        known = shown(client, strange)
        client.post(f"/jobs/{strange}/cancel").raise_for_status()
    chaos.stack.maintenance()
    chaos.worker()

    assert (before, after, known) == ([503, 503], [200, 200], [200, 200])
    assert "A newer version has migrated this database: nothing is changed." in told
    assert chaos.end_of(job_id).status == "completed"
    chaos.check()


@pytest.mark.fault("F40", "old and new workers side by side, with jobs that only new ones know")
def test_old_and_new_workers_do_what_each_knows(chaos: Chaos, new: Chaos) -> None:
    old_worker = chaos.worker()
    long = chaos.submit_null(40, 0.5)
    chaos.stack.wait_for_windows(long, 1)
    migrate(new.stack)
    chaos.stack.maintenance()
    wish = chaos.submit_null(1, wishes_version=WISHES_VERSION + 1)
    model = chaos.submit_null(1, model_name="grand")
    plain = [chaos.submit_null(1) for _ in range(4)]
    wait_for(lambda: old_worker.said("nothing to do for this message"), "the wish was left alone")
    wait_for(lambda: chaos.stack.job(model).put_off_count, "the model was put off")
    new.worker(NULL_MODEL=f"{NULL_MODEL},small")
    old_worker.signal(signal.SIGTERM)
    status = old_worker.wait()
    done = [chaos.end_of(job_id) for job_id in (wish, model, long, *plain)]

    assert status == 0
    assert [(job.status, job.attempt, job.crash_count) for job in done] == [("completed", 1, 0)] * 7
    assert [chaos.errors_of(job.id) for job in done] == [[]] * 7
    assert done[0].lease_epoch == 1
    chaos.check()
