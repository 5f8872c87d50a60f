"""A web process that dies in the middle of a submission."""

import socket

import httpx2
import pytest
from sqlalchemy import select

from models import TranscriptionJob
from tests.chaos.conftest import DISPATCH, SHORT, SHORT_TEXT, Chaos, words_of
from tests.stack.conftest import wait_for

pytestmark = [pytest.mark.chaos, pytest.mark.model]


def submit_to_one_that_dies(chaos: Chaos, moment: str) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    web = chaos.stack.start(
        "web", "-m", "tests.chaos.faulty_web", DIE_AT=moment, PORT=str(port), AUTH_REQUIRED="false"
    )
    wait_for(lambda: web.said("Uvicorn running"), "the web process is ready")
    with pytest.raises(httpx2.HTTPError):
        httpx2.post(
            f"http://127.0.0.1:{port}/transcribe",
            files={"file": ("a.wav", SHORT.read_bytes())},
            timeout=60,
        )
    assert web.wait() < 0
    with chaos.stack.sessions() as session:
        chaos.jobs += session.scalars(select(TranscriptionJob.id)).all()


@pytest.mark.fault("F5", "the web process is killed between COMMIT and publish")
def test_a_job_that_nobody_was_rung_for_is_published(chaos: Chaos) -> None:
    chaos.worker()
    submit_to_one_that_dies(chaos, "after-commit")
    (job_id,) = chaos.jobs
    chaos.stack.maintenance()
    with chaos.recovery(2 * DISPATCH):
        wait_for(lambda: chaos.stack.job(job_id).status != "pending", "a worker has it")
    done = chaos.end_of(job_id)

    assert (done.status, done.attempt) == ("completed", 1)
    assert words_of(chaos.stack, job_id) == SHORT_TEXT
    chaos.check()


@pytest.mark.fault("F6", "the web process is killed before COMMIT")
def test_a_submission_that_was_not_committed_is_no_job(chaos: Chaos) -> None:
    submit_to_one_that_dies(chaos, "before-commit")

    assert chaos.jobs == []
    # its file is an orphan, which the janitor deletes after an hour
    assert len(list(chaos.stack.uploads.stored_before(2**40))) == 1
