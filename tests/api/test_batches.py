"""Many files with one profile, as their client sees them."""

import io
import json
import uuid
import zipfile
from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select

from app import create_app
from auth import JOB_SCOPES, Allowance
from jobs import batches, lifecycle
from models import AuditAction, AuditEvent, Batch, Scope, TranscriptionJob

FILE = {"file": ("talk.mp3", b"sound")}

Make = Callable[..., dict[str, Any]]


@pytest.fixture
def make(client, alice) -> Make:
    def begin(**body: object) -> dict[str, Any]:
        answer = client.post("/batches", json=body, headers=alice)
        assert answer.status_code == 201, answer.text
        made: dict[str, Any] = answer.json()
        return made

    return begin


def add(client, headers, batch, name="talk.mp3", **data):
    url = f"/batches/{batch['id']}/files"
    return client.post(url, files={"file": (name, b"sound")}, data=data, headers=headers)


def do(client, headers, batch, verb):
    return client.post(f"/batches/{batch['id']}/{verb}", headers=headers)


def code_of(answer):
    return answer.status_code, answer.json()["code"]


def test_a_new_one_is_open_and_empty(client, alice, make):
    batch = make(name="interviews", profile={"language": "en", "word_timestamps": True})

    assert (batch["name"], batch["status"]) == ("interviews", "open")
    assert batch["profile"] == {"language": "en", "word_timestamps": "true"}
    assert set(batch["jobs"].values()) == {0}
    assert client.get(batch["links"]["self"], headers=alice).json() == batch


def test_its_files_are_submitted_with_its_profile(client, alice, make, sessions):
    profile = {
        "language": "es",
        "priority": "high",
        "start_seconds": 1.5,
        "track": 2,
        "metadata": {"of": "ä"},
        "initial_prompt": "Anna, Bjørn",
    }
    batch = make(profile=profile)
    answer = add(client, alice, batch)
    assert answer.status_code == 202, answer.text
    with sessions() as session:
        job = session.get_one(TranscriptionJob, uuid.UUID(answer.json()["job_id"]))

    assert answer.json()["batch_id"] == batch["id"]
    assert (job.language, job.priority, job.start_seconds) == ("es", "high", 1.5)
    assert (job.track, job.client_metadata) == (2, {"of": "ä"})
    assert job.initial_prompt == "Anna, Bjørn"
    assert job.wishes_version == 2


def test_what_a_file_says_itself_goes_before(client, alice, make):
    batch = make(profile={"language": "es", "task": "translate"})
    of_form = add(client, alice, batch, language="en").json()
    url = f"/batches/{batch['id']}/files?language=de"
    of_query = client.post(url, files=FILE, headers=alice).json()

    assert [job["language"] for job in (of_form, of_query)] == ["en", "de"]
    assert [job["task"] for job in (of_form, of_query)] == ["translate", "translate"]


@pytest.mark.parametrize(
    ("profile", "pointer"),
    [
        ({"language": "xx"}, "#/profile/language"),
        ({"model_size": "enormous"}, "#/profile/model_size"),
        ({"end_seconds": 1, "start_seconds": 2}, "#/profile/end_seconds"),
        ({"track": 0}, "#/profile/track"),
        # not by a name that a client made up
        ({"callback_url": "https://a.test/"}, "#/profile"),
        ({"shoe_size": 44}, "#/profile"),
        ({"word_timestamps": "true"}, "#/profile/word_timestamps"),
    ],
)
def test_a_profile_that_no_file_could_have_is_refused(client, alice, profile, pointer):
    answer = client.post("/batches", json={"profile": profile}, headers=alice)

    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == pointer


def test_a_key_that_may_not_go_first_makes_no_batch_that_does(client, make_key):
    headers = make_key("alice", may_use_high=False)
    answer = client.post("/batches", json={"profile": {"priority": "high"}}, headers=headers)

    assert code_of(answer) == (403, "not_allowed")


def test_one_that_is_closed_takes_no_file(client, alice, make, jobs):
    batch = make()
    closed = [do(client, alice, batch, "close").json() for _ in range(2)]

    assert code_of(add(client, alice, batch)) == (409, "batch_closed")
    assert closed[0]["closed_at"] == closed[1]["closed_at"]
    assert (closed[0]["status"], closed[0]["links"]["files"]) == ("closed", None)
    assert jobs.count() == 0


def test_a_file_that_is_sent_again_is_one(client, alice, make):
    batch = make()
    url = f"/batches/{batch['id']}/files"
    headers = {**alice, "Idempotency-Key": "one"}
    answers = [client.post(url, files=FILE, headers=headers) for _ in range(3)]

    assert len({answer.json()["job_id"] for answer in answers}) == 1
    assert client.get(url.removesuffix("/files"), headers=alice).json()["jobs"]["total"] == 1


def test_a_batch_has_jobs_of_its_own_whatever_was_done_before(make_settings, alice, jobs):
    with TestClient(create_app(make_settings(duplicate_detection="finished"))) as client:
        batch = client.post("/batches", json={}, headers=alice).json()
        alone = client.post("/transcribe", files=FILE, headers=alice).json()
        jobs.finish(alone["job_id"])
        again = client.post("/transcribe", files=FILE, headers=alice).json()
        added = add(client, alice, batch).json()

    assert again["job_id"] == alone["job_id"]
    assert added["job_id"] != alone["job_id"]
    assert added["batch_id"] == batch["id"]


def test_jobs_are_listed_by_their_batch(client, alice, make, jobs):
    batch = make()
    jobs.submit()
    own = [add(client, alice, batch).json()["job_id"] for _ in range(3)]
    url = batch["links"]["jobs"]
    first = client.get(f"{url}&limit=2", headers=alice)
    second = client.get(first.links["next"]["url"], headers=alice).json()

    shown = [job["id"] for job in (*first.json()["jobs"], *second["jobs"])]
    assert shown == own[::-1]
    assert first.json()["total"] == 3


def test_batches_are_listed_newest_first(client, alice, bob, make):
    made = [make(name=name)["id"] for name in "abc"]
    first = client.get("/batches?limit=2", headers=alice)
    second = client.get(first.links["next"]["url"], headers=alice).json()

    shown = [batch["id"] for batch in (*first.json()["batches"], *second["batches"])]
    assert shown == made[::-1]
    assert client.get("/batches", headers=bob).json()["total"] == 0


def test_progress_is_that_of_the_audio(client, alice, make_batch, jobs, sessions):
    long, short = jobs.submit(audio_seconds=90.0), jobs.submit(audio_seconds=10.0)
    batch_id = make_batch("alice", long, short)
    with sessions.begin() as session:
        lifecycle.cancel(session, short)
    batch = client.get(f"/batches/{batch_id}", headers=alice).json()

    assert (batch["progress"], batch["audio_seconds"]) == (10.0, 100.0)
    assert batch["jobs"]["cancelled"] == batch["jobs"]["pending"] == 1


def test_cancelling_takes_all_that_has_not_ended(client, alice, make_batch, jobs):
    done, waiting, running = jobs.completed(), jobs.submit(), jobs.processing()
    batch_id = make_batch("alice", done, waiting, running)
    batch = client.post(f"/batches/{batch_id}/cancel", headers=alice).json()

    assert batch["status"] == "closed"
    assert batch["jobs"] == {
        "total": 3,
        "pending": 0,
        "processing": 1,
        "completed": 1,
        "failed": 0,
        "cancelled": 1,
    }
    assert client.get(f"/jobs/{running}", headers=alice).json()["cancel_requested_at"]


def test_retrying_takes_what_failed(client, alice, make_batch, jobs, sessions):
    done, failed, aside = jobs.completed(), jobs.failed(), jobs.failed()
    batch_id = make_batch("alice", done, failed, aside)
    with sessions.begin() as session:
        row = session.get_one(Batch, batch_id)
        batches.close(session, row)
        batches.end(session)
        session.get_one(TranscriptionJob, aside).quarantined_at = row.closed_at
    batch = client.post(f"/batches/{batch_id}/retry", headers=alice).json()

    assert (batch["status"], batch["ended_at"]) == ("closed", None)
    assert (batch["jobs"]["pending"], batch["jobs"]["failed"]) == (1, 1)
    assert client.get(f"/jobs/{failed}", headers=alice).json()["status"] == "pending"


def test_retrying_nothing_changes_nothing(client, alice, make_batch, jobs, sessions):
    batch_id = make_batch("alice", jobs.completed())
    with sessions.begin() as session:
        batches.close(session, session.get_one(Batch, batch_id))
        batches.end(session)

    assert client.post(f"/batches/{batch_id}/retry", headers=alice).json()["status"] == "ended"


def test_retrying_keeps_to_the_keys_limits(client, make_key, make_batch, jobs):
    failed = [jobs.failed() for _ in range(2)]
    batch_id = make_batch("alice", *failed)
    headers = make_key("alice", allowance=Allowance(jobs_at_once=1))
    holder = client.post("/transcribe", files=FILE, headers=headers)
    answer = client.post(f"/batches/{batch_id}/retry", headers=headers)

    assert holder.status_code == 202
    assert code_of(answer) == (429, "quota_exceeded")
    assert client.get(f"/batches/{batch_id}", headers=headers).json()["jobs"]["failed"] == 2


def unzipped(answer) -> zipfile.ZipFile:
    return zipfile.ZipFile(io.BytesIO(answer.content))


@pytest.mark.parametrize(("name", "suffix"), [("txt", "txt"), ("srt", "srt"), ("json", "json")])
def test_all_transcripts_come_in_one_archive(client, alice, make_batch, jobs, name, suffix):
    done = [jobs.completed(client_filename="talk.mp3") for _ in range(2)]
    failed, waiting = jobs.failed(), jobs.submit()
    batch_id = make_batch("alice", *done, failed, waiting)
    answer = client.get(f"/batches/{batch_id}/result?format={name}", headers=alice)
    archive = unzipped(answer)
    manifest = json.loads(archive.read("batch.json"))["jobs"]

    assert answer.headers["content-type"] == "application/zip"
    assert archive.namelist() == [f"talk.{suffix}", f"talk (2).{suffix}", "batch.json"]
    alone = client.get(f"/jobs/{done[0]}/result?format={name}", headers=alice)
    assert archive.read(f"talk.{suffix}") == alone.content
    assert {job["job_id"]: (job["status"], job["file"]) for job in manifest} == {
        str(done[0]): ("completed", f"talk.{suffix}"),
        str(done[1]): ("completed", f"talk (2).{suffix}"),
        str(failed): ("failed", None),
        str(waiting): ("pending", None),
    }


def test_the_archive_is_called_as_the_batch(client, alice, make):
    batch = make(name="Tür/../1")
    answer = client.get(batch["links"]["result"], headers=alice)
    called = answer.headers["content-disposition"]

    assert called == "attachment; filename=\"1.zip\"; filename*=UTF-8''1.zip"
    assert unzipped(answer).namelist() == ["batch.json"]


def test_a_format_that_is_none_is_refused(client, alice, make):
    answer = client.get(make()["links"]["result"] + "?format=docx", headers=alice)

    assert answer.json()["errors"][0]["code"] == "unknown_format"


def test_a_callback_needs_a_secret(client, alice, make_key):
    headers = make_key("alice", scopes=[Scope.JOBS_WRITE, Scope.WEBHOOKS])
    body = {"callback_url": "https://receiver.test/"}
    without_scope = client.post("/batches", json=body, headers=alice)
    without_secret = client.post("/batches", json=body, headers=headers)
    client.post("/webhooks", json={}, headers=headers)
    made = client.post("/batches", json=body, headers=headers)

    assert code_of(without_scope) == (403, "not_allowed")
    assert without_secret.json()["errors"][0]["code"] == "no_secret"
    assert made.json()["callback_url"] == "https://receiver.test/"


def test_deleting_takes_all_its_jobs(client, make_key, make_batch, jobs, told_of):
    headers = make_key("alice", scopes=tuple(JOB_SCOPES))
    done, running, other = jobs.completed(), jobs.processing(), jobs.submit()
    kept = jobs.keep(done, b"sound")
    batch_id = make_batch("alice", done, running)

    assert client.delete(f"/batches/{batch_id}", headers=headers).status_code == 204
    assert client.get(f"/batches/{batch_id}", headers=headers).status_code == 404
    for job_id in (done, running):
        assert code_of(client.get(f"/jobs/{job_id}", headers=headers)) == (410, "job_deleted")
    assert client.get(f"/jobs/{other}", headers=headers).is_success
    assert not kept.exists()
    assert told_of(AuditAction.JOB_DELETED) == {done, running}


@pytest.fixture
def told_of(sessions) -> Callable[[AuditAction], set[uuid.UUID | None]]:
    def read(action: AuditAction) -> set[uuid.UUID | None]:
        with sessions() as session:
            query = select(AuditEvent.job_id).where(AuditEvent.action == action)
            return set(session.scalars(query))

    return read
