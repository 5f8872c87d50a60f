"""Submitting, and the first version's words for asking and cancelling."""

import hashlib
from typing import Any

import pytest
import redis
from starlette.testclient import TestClient

from tests.api.conftest import Jobs, stored

SOUND = b"ID3" + bytes(range(256)) * 50


def post(
    client: TestClient, headers: dict[str, str], path: str = "/transcribe/", **data: str
) -> Any:
    return client.post(path, headers=headers, files={"file": ("a.mp3", SOUND)}, data=data)


def test_a_submission_is_accepted(client, alice):
    assert post(client, alice).status_code == 202


@pytest.mark.parametrize("path", ["/transcribe", "/transcribe/"])
def test_both_slash_forms_accept(client, alice, path):
    assert post(client, alice, path).status_code == 202


def test_the_answer_says_where_the_job_is(client, alice):
    answer = post(client, alice)

    assert answer.headers["location"] == f"/jobs/{answer.json()['job_id']}"


def test_the_answer_says_when_to_ask(client, alice):
    assert int(post(client, alice).headers["retry-after"]) >= 1


def test_the_answer_is_the_job(client, alice):
    answer = post(client, alice).json()
    asked = client.get(f"/jobs/{answer['id']}", headers=alice).json()

    assert {**answer, "message": ""} == {**asked, "message": ""}


def test_the_answer_has_the_first_versions_words(client, alice):
    answer = post(client, alice).json()

    assert answer["status"] == "pending"
    assert answer["message"].startswith("Transcription job submitted successfully.")


def test_the_file_is_stored_under_the_jobs_id(client, alice, settings):
    job_id = post(client, alice).json()["job_id"]

    (path,) = stored(settings)
    assert path.name == job_id
    assert path.read_bytes() == SOUND


def test_the_digest_is_kept(client, alice):
    assert post(client, alice).json()["upload_sha256"] == hashlib.sha256(SOUND).hexdigest()


def test_the_length_is_an_estimate(client, alice):
    answer = post(client, alice).json()

    assert answer["estimated"]
    assert answer["audio_seconds"] > 0


def test_the_job_belongs_to_the_keys_owner(client, make_key, sessions, jobs):
    job_id = post(client, make_key("carol")).json()["job_id"]

    assert client.get(f"/jobs/{job_id}", headers=make_key("carol")).status_code == 200


def test_every_wish_is_kept(client, alice, jobs):
    wishes = {
        "model_size": "small",
        "language": "de",
        "task": "translate",
        "priority": "high",
        "word_timestamps": "true",
        "initial_prompt": "Namen",
        "engine": "faster-whisper",
        "metadata": '{"a": 1}',
    }
    row = jobs.row(post(client, alice, **wishes).json()["job_id"])

    assert (row.model_name, row.language, row.translate, row.priority) == (
        "small",
        "de",
        True,
        "high",
    )
    assert (row.word_timestamps, row.initial_prompt, row.engine_name, row.client_metadata) == (
        True,
        "Namen",
        "faster-whisper",
        {"a": 1},
    )


def test_wishes_are_read_from_the_query_too(client, alice):
    answer = post(client, alice, "/transcribe/?language=de&model_size=small").json()

    assert (answer["language"], answer["model_size"]) == ("de", "small")


def test_two_different_wishes_are_refused(client, alice):
    answer = post(client, alice, "/transcribe/?language=de", language="en")

    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == "#/language"


def test_the_settings_say_the_rest(client, alice, jobs):
    row = jobs.row(post(client, alice).json()["job_id"])

    assert (row.model_name, row.engine_name, row.max_attempts) == ("tiny", "openai-whisper", 4)


def test_the_demo_model_warns(client, alice):
    assert post(client, alice, model_size="demo").json()["warnings"] == ["demo_model"]


def test_priority_high_is_refused_to_keys_that_may_not(client, make_key):
    answer = post(client, make_key(may_use_high=False), priority="high")

    assert (answer.status_code, answer.json()["code"]) == (403, "not_allowed")


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [
        ("model_size", "gpt", "unknown_model"),
        ("model_size", "../../x", "unknown_model"),
        ("language", "xx", "invalid_request"),
        ("priority", "urgent", "invalid_request"),
        ("initial_prompt", "x" * 60_000, "invalid_request"),
        ("initial_prompt", "x" * 2**20, "invalid_request"),
        ("metadata", '{"name": "\\ud800"}', "invalid_request"),
        ("owner_id", "550e8400-e29b-41d4-a716-446655440000", "invalid_request"),
        ("status", "completed", "invalid_request"),
        ("id", "550e8400-e29b-41d4-a716-446655440000", "invalid_request"),
        ("temperature", "-1", "invalid_request"),
    ],
)
def test_a_wrong_field_is_refused(client, alice, settings, jobs, field, value, code):
    answer = post(client, alice, **{field: value})

    assert (answer.status_code, answer.json()["code"]) == (422, code)
    assert (stored(settings), jobs.count()) == ([], 0)


@pytest.mark.parametrize("query", ["language=en&language=de", "language=xx", "api_key=x", "x=1"])
def test_a_wrong_query_is_refused(client, alice, query):
    assert post(client, alice, f"/transcribe?{query}").status_code == 422


def test_a_refusal_does_not_repeat_what_was_sent(client, alice):
    assert "canary" not in post(client, alice, language="canary", model_size="canary").text


def test_an_empty_file_is_refused(client, alice, settings, jobs):
    answer = client.post("/transcribe/", headers=alice, files={"file": ("a.mp3", b"")})

    assert (answer.status_code, answer.json()["code"]) == (422, "empty_file")
    assert (stored(settings), jobs.count()) == ([], 0)


def test_a_form_without_file_is_refused(client, alice):
    answer = client.post("/transcribe/", headers=alice, files={"language": (None, "en")})

    assert answer.json()["errors"][0] == {
        "pointer": "#/file",
        "code": "missing",
        "message": "A file is needed.",
    }


def test_two_files_are_refused(client, alice, settings):
    files = [("file", ("a.mp3", SOUND)), ("file", ("b.mp3", SOUND))]

    assert client.post("/transcribe/", headers=alice, files=files).status_code == 422
    assert stored(settings) == []


@pytest.mark.parametrize("content_type", ["application/json", "audio/mpeg", ""])
def test_what_is_no_form_is_refused(client, alice, content_type):
    headers = {**alice, "Content-Type": content_type}

    assert client.post("/transcribe/", headers=headers, content=SOUND).status_code == 415


def test_a_compressed_body_is_refused(client, alice):
    headers = {**alice, "Content-Encoding": "gzip"}

    assert post(client, headers).status_code == 415


def test_a_large_file_is_refused(client, alice, settings, jobs):
    answer = client.post(
        "/transcribe/", headers=alice, files={"file": ("a.mp3", b"x" * (2**20 + 1))}
    )

    assert (answer.status_code, answer.json()["code"]) == (413, "upload_too_large")
    assert answer.json()["max_bytes"] == 2**20
    assert (stored(settings), jobs.count()) == ([], 0)


def test_the_largest_file_is_taken(client, alice):
    answer = client.post("/transcribe/", headers=alice, files={"file": ("a.mp3", b"x" * 2**20)})

    assert answer.json()["upload_bytes"] == 2**20


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("../../etc/passwd", "passwd"),
        ("..\\x", "x"),
        ("http://127.0.0.1/x.mp3", "x.mp3"),
        ("\u202egnp.mp3", "gnp.mp3"),
        ("a" * 5000 + ".mp3", "a" * 251 + ".mp3"),
    ],
)
def test_a_name_is_text_and_never_a_path(client, alice, settings, name, shown):
    answer = client.post("/transcribe/", headers=alice, files={"file": (name, SOUND)})

    assert answer.json()["filename"] == shown
    assert [path.name for path in stored(settings)] == [answer.json()["job_id"]]


def test_the_worker_is_rung_for(client, alice, redis_url):
    job_id = post(client, alice).json()["job_id"]
    with redis.Redis.from_url(redis_url) as broker:
        (message,) = broker.lrange("normal", 0, -1)

    assert job_id.encode() in message or b"body" in message


def test_a_job_that_was_rung_for_is_not_due_again_at_once(client, alice, jobs):
    row = jobs.row(post(client, alice).json()["job_id"])

    assert row.dispatch_count == 1
    assert row.dispatch_due_at > row.created_at


def test_a_job_that_could_not_be_stored_leaves_no_file(client, alice, engine, settings):
    with engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE transcription_jobs RENAME TO away")
    try:
        answer = post(client, alice)
    finally:
        with engine.begin() as connection:
            connection.exec_driver_sql("ALTER TABLE away RENAME TO transcription_jobs")

    assert answer.status_code == 503
    assert stored(settings) == []


def test_a_job_is_asked_after_by_the_first_versions_path(client, alice, jobs):
    job_id = jobs.completed()

    assert (
        client.get(f"/transcribe/{job_id}", headers=alice).json()
        == client.get(f"/jobs/{job_id}", headers=alice).json()
    )


def test_a_job_is_cancelled_by_the_first_versions_path(client, alice, jobs):
    answer = client.delete(f"/transcribe/{jobs.submit()}", headers=alice)

    assert answer.status_code == 200
    assert answer.json()["status"] == "cancelled"
    assert answer.json()["message"] == "Job cancelled successfully"


def test_the_first_versions_path_deletes_nothing(client, alice, jobs):
    job_id = jobs.completed()

    assert client.delete(f"/transcribe/{job_id}", headers=alice).status_code == 409
    assert jobs.row(job_id)


def test_the_first_versions_keys_work(client):
    assert post(client, {"X-API-Key": "an-operators-own-words"}).status_code == 202


def test_a_job_counts_for_whoever_lists(client, alice, jobs: Jobs):
    post(client, alice)

    assert client.get("/jobs/", headers=alice).json()["total"] == 1
