"""Recordings whose address is named instead of sending them."""

import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import select
from starlette.testclient import TestClient

from app import create_app
from auth import Allowance
from config import Settings
from jobs import lifecycle
from models import NOT_YET, AuditEvent, UploadFetch
from tests.api.conftest import FAILURE, stored

URL = "https://files.test/talks/monday%20talk.mp3?X-Signature=canary-of-a-secret"
FILE = {"file": ("a.mp3", b"sound")}


@pytest.fixture
def settings(make_settings) -> Settings:
    made: Settings = make_settings(source_urls=True)
    return made


@pytest.fixture
def submit(client, alice):
    def post(headers=None, *, files=None, params=None, **data):
        # what is no file goes as a form all the same
        fields = {name: (None, value) for name, value in data.items()}
        return client.post(
            "/transcribe",
            files={**fields, **(files or {})} or None,
            params=params,
            headers={**alice, **(headers or {})},
        )

    return post


def field_of(answer) -> tuple[int, str, str]:
    (error,) = answer.json()["errors"]
    return answer.status_code, error["pointer"], error["code"]


def test_an_address_is_taken_at_once_and_nothing_is_fetched(submit, jobs, settings):
    answer = submit(source_url=URL, language="de")
    shown = answer.json()
    row = jobs.row(shown["job_id"])

    assert (answer.status_code, shown["status"], shown["current_step"]) == (
        202,
        "pending",
        "fetching",
    )
    assert shown["source_url"] == URL
    assert shown["filename"] == "monday talk.mp3"
    assert (shown["upload_bytes"], shown["upload_sha256"], shown["source_bytes"]) == (0, "", None)
    assert (shown["next_attempt_at"], shown["audio_seconds"]) == (None, None)
    assert shown["links"]["audio"] is None
    assert (row.not_before, row.upload_awaited, row.language) == (NOT_YET, True, "de")
    assert stored(settings) == []


@pytest.mark.parametrize("where", ["query", "form", "both"])
def test_it_may_stand_in_the_query_or_in_the_form(client, alice, where):
    params = {"source_url": URL} if where != "form" else None
    files = {"source_url": (None, URL)} if where != "query" else None
    answer = client.post("/transcribe", params=params, files=files, headers=alice)

    assert (answer.status_code, answer.json()["source_url"]) == (202, URL)


@pytest.mark.parametrize("first", ["file", "source_url"])
def test_a_file_and_an_address_are_too_much(submit, settings, jobs, first):
    fields = {"file": FILE["file"], "source_url": (None, URL)}
    order = {first: fields[first], **fields}
    answer = submit(files=order)

    assert field_of(answer) == (422, "#/source_url", "contradiction")
    assert (stored(settings), jobs.count()) == ([], 0)


def test_a_file_and_an_address_in_the_query_are_too_much(submit, settings):
    assert field_of(submit(files=FILE, params={"source_url": URL}))[2] == "contradiction"
    assert stored(settings) == []


def test_neither_is_too_little(submit):
    assert field_of(submit(language="en")) == (422, "#/file", "missing")


@pytest.mark.parametrize("how", ["form", "query"])
def test_where_it_is_turned_off_it_is_refused(make_settings, alice, how):
    with TestClient(create_app(make_settings())) as client:
        if how == "form":
            answer = client.post("/transcribe", files={"source_url": (None, URL)}, headers=alice)
        else:
            answer = client.post("/transcribe", params={"source_url": URL}, headers=alice)

    assert field_of(answer) == (422, "#/source_url", "turned_off")


@pytest.mark.parametrize(
    "url",
    [
        "http://files.test/",
        "https://10.0.0.1/",
        "https://169.254.169.254/latest/",
        "https://files.test:8443/",
        "https://user:word@files.test/",
        "ftp://files.test/",
        "file:///etc/passwd",
    ],
)
def test_what_may_not_be_called_is_refused(submit, jobs, url):
    assert field_of(submit(source_url=url)) == (422, "#/source_url", "address_refused")
    assert jobs.count() == 0


def test_one_that_is_too_long_is_refused(submit):
    assert field_of(submit(source_url="https://files.test/" + "a" * 3000))[2] == "too_long"


def test_sent_again_under_its_key_it_is_the_same_job(submit, jobs):
    key = {"Idempotency-Key": "one"}
    first, again = submit(key, source_url=URL), submit(key, source_url=URL)
    other = submit(key, source_url=f"{URL}2")
    file = submit(key, files=FILE)

    assert first.json()["job_id"] == again.json()["job_id"]
    assert again.headers["Idempotency-Replayed"] == "true"
    assert [other.json()["code"], file.json()["code"]] == 2 * ["idempotency_mismatch"]
    assert jobs.count() == 1


def test_of_many_at_once_under_one_key_one_makes_the_job(submit, jobs):
    def send(_: int) -> int:
        return int(submit({"Idempotency-Key": "one"}, source_url=URL).status_code)

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(send, range(8)))

    assert {*answers} <= {202, 409}
    assert jobs.count() == 1


def test_without_a_key_it_is_another_job_each_time(make_settings, alice, jobs):
    settings = make_settings(source_urls=True, duplicate_detection="finished")
    with TestClient(create_app(settings)) as client:
        for _ in range(2):
            client.post("/transcribe", params={"source_url": URL}, headers=alice)

    assert jobs.count() == 2


def test_strangers_do_not_see_it_and_operators_not_its_secrets(client, submit, bob, admin):
    path = f"/jobs/{submit(source_url=URL).json()['job_id']}"
    one = client.get(path, headers=admin).json()
    many = client.get("/jobs", headers=admin).json()["jobs"]

    assert client.get(path, headers=bob).status_code == 404
    assert one["source_url"] == "https://files.test/talks/monday%20talk.mp3"
    assert [each["source_url"] for each in many] == [one["source_url"]]


def test_an_audit_event_names_the_host_and_no_more(submit, sessions):
    submit(source_url=URL)
    with sessions() as session:
        events = session.scalars(select(AuditEvent).where(AuditEvent.action == "job_submitted"))
        details = [event.detail for event in events]

    assert [detail["source"] for detail in details] == ["files.test"]
    assert "canary" not in str(details)


def test_cancelled_it_is_not_fetched_any_more(client, alice, submit, jobs):
    job_id = submit(source_url=URL).json()["job_id"]
    answer = client.post(f"/jobs/{job_id}/cancel", headers=alice)

    assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")
    assert answer.json()["current_step"] is None


def test_deleted_it_leaves_nothing(client, alice, submit, settings, sessions):
    job_id = submit(source_url=URL).json()["job_id"]
    part = settings.uploads_path / ".part" / job_id
    part.write_bytes(b"the beginning")
    answer = client.delete(f"/jobs/{job_id}", headers=alice)
    with sessions() as session:
        rows = session.scalars(select(UploadFetch)).all()

    assert answer.status_code == 204
    assert (rows, stored(settings)) == ([], [])


def test_what_is_not_here_is_neither_read_nor_transcribed_once_more(client, alice, submit):
    path = f"/jobs/{submit(source_url=URL).json()['job_id']}"

    assert client.get(f"{path}/audio", headers=alice).status_code == 404
    assert client.post(f"{path}/rerun", headers=alice).status_code == 409


def test_it_counts_as_a_job_of_its_key(make_settings, make_key, jobs):
    key = make_key("carol", allowance=Allowance(jobs_at_once=1))
    with TestClient(create_app(make_settings(source_urls=True))) as client:
        codes = [
            client.post("/transcribe", params={"source_url": URL}, headers=key).status_code
            for _ in range(2)
        ]

    assert codes == [202, 429]


def test_a_failed_fetch_can_be_sent_round_again(client, admin, submit, jobs, sessions):
    job_id = uuid.UUID(submit(source_url=URL).json()["job_id"])
    with sessions.begin() as session:
        holder = uuid.uuid4()
        session.get_one(UploadFetch, job_id).holder = holder
        session.flush()
        lifecycle.fail_fetch(session, job_id, holder, FAILURE, reason="attempts_exhausted")
    shown = client.post(f"/admin/errors/{job_id}/retry", headers=admin)
    with sessions() as session:
        rows = session.scalars(select(UploadFetch.job_id)).all()

    assert shown.status_code == 202
    assert (jobs.row(job_id).status, jobs.row(job_id).not_before) == ("pending", NOT_YET)
    assert rows == [job_id]


def test_a_file_of_a_batch_may_be_elsewhere_too(client, alice, make_batch, jobs):
    batch_id = make_batch("alice")
    answer = client.post(
        f"/batches/{batch_id}/files", files={"source_url": (None, URL)}, headers=alice
    )

    assert (answer.status_code, answer.json()["batch_id"]) == (202, str(batch_id))
    assert jobs.row(answer.json()["job_id"]).upload_awaited


def test_a_batch_is_begun_with_files_that_are_elsewhere(client, alice, jobs, sessions):
    wanted = {"profile": {"language": "de"}, "urls": [URL, "https://files.test/b.mp3"]}
    answer = client.post("/batches", json=wanted, headers=alice)
    batch = answer.json()
    listed = client.get(f"/jobs?batch_id={batch['id']}", headers=alice).json()["jobs"]
    with sessions() as session:
        actions = sorted(session.scalars(select(AuditEvent.action)))

    assert (answer.status_code, batch["jobs"]["pending"]) == (201, 2)
    assert sorted(job["filename"] for job in listed) == ["b.mp3", "monday talk.mp3"]
    assert {(job["language"], job["current_step"]) for job in listed} == {("de", "fetching")}
    assert actions.count("job_submitted") == 2


def test_of_a_batch_with_a_bad_address_nothing_is_made(client, alice, jobs):
    answer = client.post("/batches", json={"urls": [URL, "https://10.0.0.1/"]}, headers=alice)
    batches = client.get("/batches", headers=alice).json()["batches"]

    assert field_of(answer) == (422, "#/urls/1", "address_refused")
    assert (batches, jobs.count()) == ([], 0)


def test_a_batch_that_is_more_than_its_key_may_have_is_not_made(make_settings, make_key, jobs):
    key = make_key("carol", allowance=Allowance(jobs_at_once=1))
    with TestClient(create_app(make_settings(source_urls=True))) as client:
        answer = client.post("/batches", json={"urls": [URL, URL]}, headers=key)
        batches = client.get("/batches", headers=key).json()["batches"]

    assert (answer.status_code, batches, jobs.count()) == (429, [], 0)


def test_without_the_setting_a_batch_takes_no_addresses(make_settings, alice):
    with TestClient(create_app(make_settings())) as client:
        answer = client.post("/batches", json={"urls": [URL]}, headers=alice)

    assert field_of(answer) == (422, "#/urls/0", "turned_off")
