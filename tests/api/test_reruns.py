"""Transcribing once more what is here already."""

import uuid

import pytest
from starlette.testclient import TestClient

from app import create_app
from models import TranscriptionJob
from tests.api.conftest import stored

SOUND = b"sound"


@pytest.fixture
def kept(jobs):
    """A job whose upload is kept, and that asked for much."""

    def make(owner="alice", **values):
        asked = {"language": "de", "initial_prompt": "Names", "word_timestamps": True, **values}
        job_id = jobs.completed(owner, **asked)
        jobs.keep(job_id, SOUND)
        return job_id

    return make


@pytest.fixture
def rerun(client, alice):
    def ask(job_id, headers=None, **said):
        return client.post(f"/jobs/{job_id}/rerun", json=said, headers=headers or alice)

    return ask


def wishes(job: TranscriptionJob) -> dict[str, object]:
    names = (
        "engine_name", "model_name", "language", "translate", "priority", "initial_prompt",
        "word_timestamps", "track", "start_seconds", "end_seconds", "client_metadata",
        "client_filename", "upload_bytes", "upload_sha256",
    )  # fmt: skip
    return {name: getattr(job, name) for name in names}


def test_it_is_a_new_job_of_the_same_recording(kept, rerun, jobs, settings):
    values = {"track": 2, "start_seconds": 1.5, "end_seconds": 9.0, "translate": True}
    old = kept(client_metadata={"a": [1]}, wishes_version=2, **values)
    answer = rerun(old)
    new = answer.json()["job_id"]

    assert (answer.status_code, answer.headers["location"]) == (202, f"/jobs/{new}")
    assert answer.json()["status"] == "pending"
    assert wishes(jobs.row(new)) == wishes(jobs.row(old))
    assert len(stored(settings)) == 2
    assert jobs.settings.uploads_path.joinpath(new[-2:], new).read_bytes() == SOUND


def test_what_is_said_is_changed(kept, rerun, jobs):
    new = rerun(
        kept(), model_size="base", language="en", task="translate", word_timestamps=False,
        end_seconds=5, priority="high", metadata={"b": 2},
    ).json()["job_id"]  # fmt: skip
    row = jobs.row(new)

    assert (row.model_name, row.language, row.translate) == ("base", "en", True)
    assert (row.word_timestamps, row.end_seconds, row.priority) == (False, 5.0, "high")
    assert (row.client_metadata, row.initial_prompt) == ({"b": 2}, "Names")
    assert row.wishes_version == 2


def test_null_takes_a_wish_back(kept, rerun, jobs):
    new = rerun(kept(), language=None, initial_prompt=None).json()["job_id"]
    row = jobs.row(new)

    assert (row.language, row.initial_prompt, row.word_timestamps) == (None, None, True)


@pytest.mark.parametrize("gone", ["old", "new"])
def test_either_is_deleted_by_itself(client, alice, kept, rerun, jobs, gone):
    old = kept()
    ids = {"old": str(old), "new": rerun(old).json()["job_id"]}
    assert client.delete(f"/jobs/{ids.pop(gone)}", headers=alice).status_code == 204
    (left,) = ids.values()

    assert client.get(f"/jobs/{left}/audio", headers=alice).content == SOUND
    assert rerun(left).status_code == 202


def test_sent_again_with_its_key_it_is_one_job(kept, rerun, jobs, alice):
    old = kept()
    headers = {**alice, "Idempotency-Key": "again"}
    answers = [rerun(old, headers, model_size="base") for _ in range(2)]

    assert answers[0].json()["job_id"] == answers[1].json()["job_id"]
    assert jobs.count() == 2
    assert rerun(old, headers, model_size="small").status_code == 422


def test_a_recording_that_is_gone_is_not_transcribed_again(kept, rerun, jobs, settings):
    deleted, lost = kept(), jobs.completed()
    with jobs.sessions.begin() as session:
        session.get_one(TranscriptionJob, deleted).upload_deleted_at = session.get_one(
            TranscriptionJob, deleted
        ).completed_at
    answers = [rerun(job_id) for job_id in (deleted, lost)]

    assert [answer.status_code for answer in answers] == [410, 410]
    assert jobs.count() == 2


def test_nobody_repeats_somebody_elses(kept, rerun, jobs, bob, admin):
    old = kept()

    assert [rerun(old, who).status_code for who in (bob, admin)] == [404, 404]
    assert rerun(uuid.uuid4()).status_code == 404
    assert jobs.count() == 1


@pytest.mark.parametrize(
    ("said", "field"),
    [
        ({"model_size": "nothing"}, "model_size"),
        ({"language": "klingon"}, "language"),
        ({"start_seconds": 5, "end_seconds": 4}, "end_seconds"),
        ({"model_size": "tiny.en", "language": "de"}, "language"),
    ],
)
def test_what_cannot_be_done_is_refused(kept, rerun, jobs, settings, said, field):
    answer = rerun(kept(), **said)

    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == f"#/{field}"
    assert len(stored(settings)) == jobs.count() == 1


def test_it_counts_against_the_limits(make_settings, kept, alice, settings):
    old = kept()
    with TestClient(create_app(make_settings(key_jobs_at_once=1))) as client:
        first, second = (client.post(f"/jobs/{old}/rerun", headers=alice) for _ in range(2))

    assert first.status_code == 202
    assert (second.status_code, second.json()["code"]) == (429, "quota_exceeded")
    assert len(stored(settings)) == 2  # the old one's, and the first one's
