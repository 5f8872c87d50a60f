"""One key that sends too much, beside another that does not."""

import uuid
from pathlib import Path
from typing import Final

import pytest
from sqlalchemy import func, select

import keys
from keys import Grant
from maintenance import MIN_WINDOW
from models import JobStatus, TranscriptionJob
from rig.engines import Script, null_upload
from tests.chaos.conftest import NULL_MODEL, Chaos
from tests.stack.conftest import wait_for

pytestmark = [pytest.mark.chaos, pytest.mark.model]

FLOOD: Final = 1000
SLOTS: Final = 2


def make_key(chaos: Chaos, owner: str) -> tuple[uuid.UUID, uuid.UUID]:
    """A new key; returns its id and its owner's."""
    with chaos.stack.sessions.begin() as session:
        key = keys.create(session, Grant(owner=owner))[1]
        return key.id, key.owner_id


def submit(chaos: Chaos, upload: Path, script: Script, key: tuple[uuid.UUID, uuid.UUID]) -> None:
    chaos.stack.submit(
        upload,
        ring=False,
        model_name=NULL_MODEL,
        initial_prompt=str(script),
        api_key_id=key[0],
        owner_id=key[1],
    )


def count(chaos: Chaos, *conditions: object) -> int:
    with chaos.stack.sessions() as session:
        found = session.scalar(
            select(func.count()).select_from(TranscriptionJob).where(*conditions)  # type: ignore[arg-type] # columns' conditions
        )
        return found or 0


@pytest.mark.fault("F38", "one key floods the queue; another key's one job")
def test_a_thousand_jobs_of_one_key_do_not_keep_another_keys_one_waiting(chaos: Chaos) -> None:
    script = Script(windows=1, seconds=0.1, tag="T0")
    upload = chaos.stack.folder / "upload.null"
    upload.write_bytes(null_upload(script))
    flood, other = make_key(chaos, "flood"), make_key(chaos, "other")
    for _ in range(FLOOD):
        submit(chaos, upload, script, flood)
    of_flood = TranscriptionJob.api_key_id == flood[0]
    done = TranscriptionJob.status == JobStatus.COMPLETED

    chaos.stack.maintenance()
    chaos.worker(CELERY_CONCURRENCY=str(SLOTS))
    wait_for(lambda: count(chaos, of_flood, done) >= SLOTS, "the flood is under way")
    submit(chaos, upload, script, other)
    wait_for(lambda: count(chaos, ~of_flood, done) == 1, "the one job is done")
    with chaos.stack.sessions() as session:
        one = session.scalars(select(TranscriptionJob).where(~of_flood)).one()
    before = count(
        chaos,
        of_flood,
        TranscriptionJob.started_at > one.created_at,
        TranscriptionJob.started_at < one.started_at,
    )
    chaos.record("recovery", f"after {before} of {FLOOD}")

    # what lay in the lane before it, and one round of what was on its way into it
    assert before <= max(MIN_WINDOW, 2 * SLOTS) + 2 * SLOTS
    finished = count(chaos, of_flood, done)
    wait_for(lambda: count(chaos, of_flood, done) > finished, "the flood goes on")
