"""What operators see of the dead letter queue, and do with it."""

import uuid
from datetime import UTC, datetime, timedelta

import pytest
import redis
from sqlalchemy import text

from api.dead_letter_schemas import SWEEP_JOBS
from jobs import sweeps
from jobs.lifecycle import Failure

BAD_INPUT = Failure(code="not_audio", message="No audio.")
OUT_OF_MEMORY = Failure(code="out_of_memory", message="Too little memory.")
VERBS = ["retry", "resolve", "quarantine", "release"]


def name_of(headers):
    """The shown name of a key."""
    return headers["X-API-Key"][:17]


def post(client, admin, path, **body):
    return client.post(f"/admin/errors/{path}", headers=admin, json=body)


def errors(client, admin, query=""):
    return client.get(f"/admin/errors{query}", headers=admin).json()


def test_errors_keep_the_first_versions_keys(client, admin, jobs):
    job_id = str(jobs.failed())
    seen = errors(client, admin)
    (error,) = seen["errors"]

    assert seen["total"] == 1
    assert (error["id"], error["job_id"], error["resolved"]) == (job_id, job_id, False)
    assert (error["type"], error["message"]) == ("engine_error", "It broke.")
    assert error["created_at"]


def test_a_failed_job_is_listed_once_with_its_attempts(client, admin, jobs):
    jobs.exhausted()
    (error,) = errors(client, admin)["errors"]

    assert [attempt["attempt"] for attempt in error["attempts"]] == [1, 2]
    assert (error["type"], error["code"]) == ("attempts_exhausted", "engine_error")


def test_a_list_tells_of_attempts_in_short(client, admin, jobs):
    jobs.failed()
    (error,) = errors(client, admin)["errors"]

    assert error["attempts"][0]["message"] == "It broke."
    assert "secret" not in str(error)


def test_owners_do_not_see_the_traceback(client, alice, jobs):
    assert "secret" not in client.get(f"/jobs/{jobs.failed()}", headers=alice).text


def test_jobs_that_did_not_fail_are_no_errors(client, admin, jobs):
    jobs.completed()
    jobs.submit()

    assert errors(client, admin) == {"errors": [], "total": 0, "next_cursor": None}


def test_bad_input_is_shown_on_request_only(client, admin, jobs):
    jobs.failed(failure=BAD_INPUT)

    assert errors(client, admin)["total"] == 0
    assert errors(client, admin, "?permanent=true")["errors"][0]["permanent"]


def test_pages_of_errors_follow_each_other(client, admin, jobs):
    ids = [str(jobs.failed()) for _ in range(3)]
    first = errors(client, admin, "?limit=2")
    second = errors(client, admin, f"?limit=2&cursor={first['next_cursor']}")

    assert [error["id"] for error in first["errors"] + second["errors"]] == ids[::-1]
    assert (first["total"], second["next_cursor"]) == (3, None)


def test_a_cursor_of_the_jobs_is_none_of_the_errors(client, admin, jobs):
    for _ in range(2):
        jobs.failed()
    cursor = client.get("/jobs?limit=1", headers=admin).json()["next_cursor"]
    answer = client.get(f"/admin/errors?cursor={cursor}", headers=admin)

    assert answer.json()["code"] == "bad_cursor"


def test_an_error_can_be_resolved(client, admin, jobs):
    job_id = jobs.failed()
    answer = client.post(
        f"/admin/errors/{job_id}/resolve", headers=admin, json={"notes": "bought a disk"}
    )

    (attempt,) = answer.json()["attempts"]
    assert (answer.json()["resolved"], attempt["notes"]) == (True, "bought a disk")
    assert attempt["resolved_by"] == answer.json()["resolution"]["by"] == name_of(admin)


def test_a_resolved_error_is_out_of_sight(client, admin, jobs):
    client.post(f"/admin/errors/{jobs.failed()}/resolve", headers=admin)

    assert errors(client, admin)["total"] == 0


def test_a_resolved_error_is_shown_on_request(client, admin, jobs):
    client.post(f"/admin/errors/{jobs.failed()}/resolve", headers=admin)

    assert errors(client, admin, "?resolved=true")["total"] == 1


def test_resolving_twice_keeps_the_first_notes(client, admin, jobs):
    job_id = jobs.failed()
    url = f"/admin/errors/{job_id}/resolve"
    client.post(url, headers=admin, json={"notes": "first"})
    answer = client.post(url, headers=admin, json={"notes": "second"})

    assert answer.json()["attempts"][0]["notes"] == "first"


@pytest.mark.parametrize("status", ["submit", "processing", "completed"])
@pytest.mark.parametrize("verb", VERBS)
def test_what_did_not_fail_is_not_there_to_work_through(client, admin, jobs, verb, status):
    job_id = getattr(jobs, status)()
    answer = client.post(f"/admin/errors/{job_id}/{verb}", headers=admin)

    assert (answer.status_code, answer.json()["code"]) == (409, "job_not_failed")


@pytest.mark.parametrize("verb", VERBS)
def test_what_is_not_there_cannot_be_worked_through(client, admin, verb):
    answer = client.post(f"/admin/errors/{uuid.uuid4()}/{verb}", headers=admin)

    assert answer.status_code == 404


def test_a_failed_job_can_be_sent_round_again(client, admin, jobs):
    job_id = jobs.failed()
    answer = client.post(f"/admin/errors/{job_id}/retry", headers=admin)

    assert (answer.status_code, answer.json()["status"]) == (202, "pending")
    assert jobs.row(job_id).attempt == 0


def test_a_job_sent_round_again_is_rung_for(client, admin, jobs, redis_url):
    client.post(f"/admin/errors/{jobs.failed()}/retry", headers=admin)
    with redis.Redis.from_url(redis_url) as broker:
        assert broker.llen("normal") == 1


def test_a_job_sent_round_again_is_no_error_any_more(client, admin, jobs):
    client.post(f"/admin/errors/{jobs.failed()}/retry", headers=admin)

    assert errors(client, admin, "?resolved=true")["total"] == 0


def test_a_job_can_be_sent_round_with_another_model(client, admin, jobs):
    answer = client.post(
        f"/admin/errors/{jobs.failed()}/retry", headers=admin, json={"model_size": "large"}
    )

    assert answer.json()["model_size"] == "large-v3"


def test_a_job_is_not_sent_round_with_a_model_that_is_not_there(client, admin, jobs):
    job_id = jobs.failed()
    answer = client.post(f"/admin/errors/{job_id}/retry", headers=admin, json={"model_size": "gpt"})

    assert (answer.status_code, answer.json()["code"]) == (422, "unknown_model")
    assert jobs.row(job_id).status == "failed"


def test_a_job_without_upload_is_not_sent_round(client, admin, jobs, engine):
    job_id = jobs.failed()
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE transcription_jobs SET upload_deleted_at = now()")
    answer = client.post(f"/admin/errors/{job_id}/retry", headers=admin)

    assert (answer.status_code, answer.json()["code"]) == (410, "upload_missing")


@pytest.mark.parametrize("body", [b'{"status": "x"}', b'{"notes": 1, "model_size": 1}', b"[]"])
@pytest.mark.parametrize("verb", ["retry", "resolve", "quarantine"])
def test_a_wrong_body_is_refused(client, admin, jobs, verb, body):
    headers = {**admin, "Content-Type": "application/json"}
    answer = client.post(f"/admin/errors/{jobs.failed()}/{verb}", headers=headers, content=body)

    assert answer.status_code == 422


@pytest.mark.parametrize("verb", ["resolve", "quarantine"])
def test_notes_hold_no_nul(client, admin, jobs, verb):
    answer = client.post(
        f"/admin/errors/{jobs.failed()}/{verb}", headers=admin, json={"notes": "a\0b"}
    )

    assert answer.status_code == 422


# One of them


def test_one_is_shown_with_its_traceback_and_its_job(client, admin, jobs):
    job_id = jobs.failed()
    seen = client.get(f"/admin/errors/{job_id}", headers=admin).json()

    assert seen["attempts"][0]["traceback"] == "Traceback: secret"
    assert (seen["attempts"][0]["worker"], seen["attempts"][0]["context"]) == ("worker:1", {})
    assert (seen["job"]["id"], seen["job"]["upload_bytes"]) == (str(job_id), 5)


def test_one_shows_the_key_that_it_came_with(client, admin, make_key, jobs):
    key = make_key("alice")
    sent = client.post("/transcribe", headers=key, files={"file": ("a.mp3", b"sound")}).json()
    lease = jobs.claim(uuid.UUID(sent["id"]))
    jobs.fail(lease, BAD_INPUT)
    seen = client.get(f"/admin/errors/{sent['id']}", headers=admin).json()

    assert (seen["owner"], seen["key"]) == ("alice", name_of(key))


def test_faults_of_the_input_are_shown_one_by_one(client, admin, jobs):
    seen = client.get(f"/admin/errors/{jobs.failed(failure=BAD_INPUT)}", headers=admin)

    assert seen.json()["permanent"]


@pytest.mark.parametrize("status", ["submit", "processing", "completed"])
def test_what_did_not_fail_is_not_shown(client, admin, jobs, status):
    answer = client.get(f"/admin/errors/{getattr(jobs, status)()}", headers=admin)

    assert answer.status_code == 404


# Filters


@pytest.fixture
def bobs_key(bob, engine):
    """The id of a key of Bob's, which is shown as ``stt_live_bob``."""
    with engine.begin() as connection:
        return connection.execute(
            text("UPDATE api_keys SET prefix = 'stt_live_bob' WHERE prefix = :prefix RETURNING id"),
            {"prefix": name_of(bob)},
        ).scalar_one()


@pytest.fixture
def mixed(jobs, engine, bobs_key):
    """Five failed jobs that differ; returns their ids by name."""
    found = {
        "plain": jobs.failed(),
        "memory": jobs.failed(failure=OUT_OF_MEMORY, model_name="large-v3-turbo"),
        "fast": jobs.failed("bob", engine_name="faster-whisper", api_key_id=bobs_key),
        "exhausted": jobs.exhausted(),
        "input": jobs.failed(failure=BAD_INPUT),
    }
    worker = {
        "plain": "gpu-1:7:aa",
        "memory": "gpu-10:8:bb",
        "fast": "gpu-2:9:cc",
    }
    with engine.begin() as connection:
        for number, (name, job_id) in enumerate(found.items()):
            values = {"id": job_id, "hours": number, "worker": worker.get(name, "host:1:x")}
            connection.execute(
                text(
                    "UPDATE transcription_jobs SET completed_at = timestamptz"
                    " '2026-11-22 12:00:00Z' + make_interval(hours => :hours) WHERE id = :id"
                ),
                values,
            )
            connection.execute(
                text("UPDATE error_logs SET worker_name = :worker WHERE job_id = :id"), values
            )
    return {str(job_id): name for name, job_id in found.items()}


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ({}, ["exhausted", "fast", "memory", "plain"]),
        ({"code": "out_of_memory"}, ["memory"]),
        ({"code": "engine_error"}, ["exhausted", "fast", "plain"]),
        ({"code": "attempts_exhausted"}, ["exhausted"]),
        ({"code": "not_audio"}, ["input"]),
        ({"permanent": "true"}, ["input", "exhausted", "fast", "memory", "plain"]),
        ({"model": "turbo"}, ["memory"]),
        ({"model": "large-v3-turbo"}, ["memory"]),
        ({"engine": "faster-whisper"}, ["fast"]),
        ({"since": "2026-11-22T14:00:00Z"}, ["exhausted", "fast"]),
        ({"since": "2026-11-22T15:00:00+01:00"}, ["exhausted", "fast"]),
        ({"until": "2026-11-22T14:00:00Z"}, ["memory", "plain"]),
        ({"since": "2026-11-22T13:00:00Z", "until": "2026-11-22T14:00:00Z"}, ["memory"]),
        ({"worker": "gpu-1"}, ["plain"]),
        ({"worker": "gpu-10:8:bb"}, ["memory"]),
        ({"worker": "gpu_1"}, []),
        ({"key": "bob"}, ["fast"]),
        ({"key": "stt_live_bob"}, ["fast"]),
        ({"key": "nobody"}, []),
        ({"code": "engine_error", "key": "bob"}, ["fast"]),
    ],
)
def test_a_filter_narrows_the_list_down(client, admin, mixed, query, names):
    seen = client.get("/admin/errors", headers=admin, params=query).json()

    assert [mixed[error["id"]] for error in seen["errors"]] == names
    assert seen["total"] == len(names)


def test_a_plus_that_was_not_escaped_is_understood(client, admin, mixed):
    query = "?since=2026-11-22T15:00:00+01:00"

    assert errors(client, admin, query)["total"] == 2


@pytest.mark.parametrize(
    "query",
    [
        "since=yesterday",
        "since=2026-11-22",
        "since=2026-11-22T15:00:00",
        "since=1700000000",
        "until=2026-13-22T15:00:00Z",
        "code=",
        "code=%00",
        "kode=x",
        "code=a&code=b",
    ],
)
def test_a_wrong_filter_is_refused(client, admin, query):
    answer = client.get(f"/admin/errors?{query}", headers=admin)

    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


def test_pages_of_a_filter_follow_each_other(client, admin, mixed):
    first = errors(client, admin, "?code=engine_error&limit=2")
    link = client.get("/admin/errors?code=engine_error&limit=2", headers=admin).headers["Link"]
    second = client.get(link.split(">")[0].strip("<"), headers=admin).json()

    names = [mixed[error["id"]] for error in first["errors"] + second["errors"]]
    assert names == ["exhausted", "fast", "plain"]
    assert second["next_cursor"] is None


def test_a_cursor_of_another_filter_is_refused(client, admin, mixed):
    cursor = errors(client, admin, "?limit=1")["next_cursor"]
    answer = client.get(f"/admin/errors?code=engine_error&cursor={cursor}", headers=admin)

    assert (answer.status_code, answer.json()["code"]) == (400, "bad_cursor")


# Sent round again, with something else


def test_a_job_can_be_sent_round_with_another_engine_and_priority(client, admin, jobs, redis_url):
    job_id = jobs.failed()
    answer = post(client, admin, f"{job_id}/retry", engine="faster-whisper", priority="high")

    assert (answer.json()["engine"], answer.json()["priority"]) == ("faster-whisper", "high")
    with redis.Redis.from_url(redis_url) as broker:
        assert broker.llen("high") == 1


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"engine": "other"}, "unknown_value"),
        ({"priority": "urgent"}, "enum"),
        ({"model_size": "tiny.en"}, "unknown_language"),
    ],
)
def test_a_job_is_not_sent_round_with_what_cannot_do_it(client, admin, jobs, body, code):
    job_id = jobs.failed(language="de")
    answer = post(client, admin, f"{job_id}/retry", **body)

    assert (answer.status_code, answer.json()["errors"][0]["code"]) == (422, code)
    assert jobs.row(job_id).status == "failed"


def test_a_job_that_is_to_be_translated_is_not_sent_round_with_turbo(client, admin, jobs):
    answer = post(client, admin, f"{jobs.failed(translate=True)}/retry", model_size="turbo")

    assert answer.json()["errors"][0]["code"] == "cannot_translate"


def test_what_a_job_was_sent_round_with_is_noted(client, admin, jobs, engine):
    post(client, admin, f"{jobs.failed()}/retry", model_size="turbo", priority="high")
    with engine.connect() as connection:
        noted = connection.execute(text("SELECT resolution_notes, resolved_by FROM error_logs"))

        assert noted.one() == (
            "sent round again, model large-v3-turbo, priority high",
            name_of(admin),
        )


# Quarantine


def test_a_failed_job_can_be_set_aside(client, admin, jobs):
    job_id = jobs.failed()
    answer = post(client, admin, f"{job_id}/quarantine", notes="for the lab")

    assert answer.status_code == 200
    mark = answer.json()["quarantine"]
    assert (mark["by"], mark["notes"]) == (name_of(admin), "for the lab")
    assert datetime.now(UTC) - datetime.fromisoformat(mark["at"]) < timedelta(hours=1)


def test_what_is_set_aside_is_in_a_list_of_its_own(client, admin, jobs):
    job_id = str(jobs.failed())
    other = str(jobs.failed())
    post(client, admin, f"{job_id}/quarantine")

    assert [error["id"] for error in errors(client, admin)["errors"]] == [other]
    for also in ("", "&resolved=true", "&permanent=true"):
        listed = errors(client, admin, f"?quarantined=true{also}")
        assert ([error["id"] for error in listed["errors"]], listed["total"]) == ([job_id], 1)


@pytest.mark.parametrize("before", ["resolve", "permanent"])
def test_whatever_is_set_aside_is_listed(client, admin, jobs, before):
    job_id = jobs.failed(failure=BAD_INPUT) if before == "permanent" else jobs.failed()
    post(client, admin, f"{job_id}/resolve")
    post(client, admin, f"{job_id}/quarantine")

    assert errors(client, admin, "?quarantined=true")["total"] == 1


def test_what_is_set_aside_is_no_unresolved_error(client, admin, jobs):
    post(client, admin, f"{jobs.failed()}/quarantine")

    assert client.get("/admin/health", headers=admin).json()["unresolved_errors"] == 0


@pytest.mark.parametrize("verb", ["retry", "resolve"])
def test_what_is_set_aside_is_left_alone(client, admin, jobs, verb):
    job_id = jobs.failed()
    post(client, admin, f"{job_id}/quarantine")
    answer = post(client, admin, f"{job_id}/{verb}")

    assert (answer.status_code, answer.json()["code"]) == (409, "job_quarantined")
    assert jobs.row(job_id).status == "failed"


def test_setting_aside_again_keeps_who_did_it_and_takes_the_new_note(client, admin, make_key, jobs):
    job_id = jobs.failed()
    other = make_key("root", scopes=("admin",))
    post(client, admin, f"{job_id}/quarantine", notes="first")
    post(client, other, f"{job_id}/quarantine")
    mark = post(client, other, f"{job_id}/quarantine", notes="second").json()["quarantine"]

    assert (mark["by"], mark["notes"]) == (name_of(admin), "second")


@pytest.mark.parametrize(("method", "path"), [("post", "release"), ("delete", "quarantine")])
def test_what_was_set_aside_can_be_taken_back(client, admin, jobs, method, path):
    job_id = jobs.failed()
    post(client, admin, f"{job_id}/quarantine")
    answer = client.request(method, f"/admin/errors/{job_id}/{path}", headers=admin)

    assert (answer.status_code, answer.json()["quarantine"]) == (200, None)
    assert errors(client, admin)["total"] == 1
    assert post(client, admin, f"{job_id}/retry").status_code == 202


def test_releasing_what_is_free_changes_nothing(client, admin, jobs):
    assert post(client, admin, f"{jobs.failed()}/release").status_code == 200


def test_its_owner_may_delete_what_is_set_aside(client, admin, alice, jobs):
    job_id = jobs.failed("alice")
    post(client, admin, f"{job_id}/quarantine")

    assert client.delete(f"/jobs/{job_id}", headers=alice).status_code == 204


# Many at once


def test_many_are_sent_round_again(client, admin, jobs, mixed):
    answer = post(client, admin, "retry", filter={"code": "engine_error"}, model_size="small")

    assert answer.status_code == 200
    seen = answer.json()
    assert [mixed[job_id] for job_id in seen["jobs"]] == ["exhausted", "fast", "plain"]
    assert (seen["retried"], seen["skipped"], seen["next_cursor"]) == (3, [], None)
    states = {(jobs.row(job).status, jobs.row(job).model_name) for job in seen["jobs"]}
    assert states == {("pending", "small")}


def test_many_are_resolved(client, admin, mixed):
    seen = post(client, admin, "resolve", filter={"engine": "openai-whisper"}, notes="old").json()
    left = errors(client, admin)["errors"]
    all_of_them = errors(client, admin, "?resolved=true")["errors"]

    assert seen["resolved"] == 3
    assert [mixed[error["id"]] for error in left] == ["fast"]
    notes = {error["resolution"]["notes"] for error in all_of_them if error["resolved"]}
    assert notes == {"old"}


@pytest.mark.parametrize("verb", ["retry", "resolve"])
@pytest.mark.parametrize("body", [{}, {"filter": {}}, {"filter": {"permanent": True}}])
def test_all_of_them_have_to_be_meant(client, admin, jobs, verb, body):
    job_id = jobs.failed()
    refused = post(client, admin, verb, **body)
    meant = post(client, admin, verb, **body, all=True)

    assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, "#/filter")
    assert meant.json()["jobs"] == [str(job_id)]


@pytest.mark.parametrize("verb", ["retry", "resolve"])
def test_a_dry_run_tells_and_changes_nothing(client, admin, jobs, verb):
    job_id = jobs.failed()
    seen = post(client, admin, verb, all=True, dry_run=True).json()

    assert (seen["jobs"], seen["dry_run"]) == ([str(job_id)], True)
    assert errors(client, admin)["total"] == 1


@pytest.mark.parametrize("verb", ["retry", "resolve"])
def test_what_is_set_aside_is_passed_by(client, admin, jobs, verb):
    post(client, admin, f"{jobs.failed()}/quarantine")
    seen = post(client, admin, verb, all=True).json()

    assert (seen["jobs"], seen["skipped"]) == ([], [])


def test_what_cannot_be_sent_round_is_passed_by_with_the_reason(client, admin, jobs, engine):
    german, translated, gone = (
        jobs.failed(language="de"),
        jobs.failed(translate=True),
        jobs.failed(),
    )
    good = jobs.failed()
    with engine.begin() as connection:
        connection.execute(
            text("UPDATE transcription_jobs SET upload_deleted_at = now() WHERE id = :id"),
            {"id": gone},
        )
    seen = post(client, admin, "retry", all=True, model_size="tiny.en", dry_run=True).json()
    turbo = post(client, admin, "retry", all=True, model_size="turbo").json()

    def skipped(answer):
        return {each["job_id"]: each["code"] for each in answer["skipped"]}

    assert skipped(seen) == {str(german): "unknown_language", str(gone): "upload_missing"}
    assert skipped(turbo) == {str(translated): "cannot_translate", str(gone): "upload_missing"}
    assert turbo["jobs"] == [str(good), str(german)]


def test_a_sweep_goes_on_where_it_ended(client, admin, jobs):
    ids = [str(jobs.failed()) for _ in range(5)][::-1]
    found, cursor = [], None
    for _ in range(3):
        seen = post(client, admin, "retry", all=True, limit=2, cursor=cursor).json()
        found += seen["jobs"]
        cursor = seen["next_cursor"]

    assert (found, cursor) == (ids, None)


def test_a_sweep_goes_over_more_than_one_batch(client, admin, jobs, engine):
    copied = sweeps.BATCH + 5
    with engine.begin() as connection:
        columns = connection.execute(
            text(
                "SELECT string_agg(column_name, ', ') FROM information_schema.columns"
                " WHERE table_name = 'transcription_jobs' AND is_generated = 'NEVER'"
                " AND column_name <> 'id'"
            )
        ).scalar_one()
        job_id = jobs.failed()
        connection.execute(
            text(
                f"INSERT INTO transcription_jobs (id, {columns})"
                f" SELECT gen_random_uuid(), {columns}"
                f" FROM transcription_jobs, generate_series(1, {copied}) WHERE id = :id"
            ),
            {"id": job_id},
        )
    seen = post(client, admin, "retry", all=True).json()

    assert (seen["retried"], len(set(seen["jobs"]))) == (copied + 1, copied + 1)
    assert errors(client, admin)["total"] == 0


def test_a_cursor_of_another_choice_is_refused(client, admin, jobs):
    for _ in range(2):
        jobs.failed()
    cursor = post(client, admin, "retry", all=True, limit=1).json()["next_cursor"]
    answer = post(client, admin, "retry", filter={"code": "x"}, cursor=cursor)

    assert answer.json()["code"] == "bad_cursor"


def test_a_cursor_of_the_list_begins_a_sweep(client, admin, jobs):
    ids = [str(jobs.failed()) for _ in range(3)]
    cursor = errors(client, admin, "?limit=2")["next_cursor"]

    assert post(client, admin, "retry", all=True, cursor=cursor).json()["jobs"] == ids[:1]


@pytest.mark.parametrize(
    "body",
    [
        {"all": True, "limit": 0},
        {"all": True, "limit": SWEEP_JOBS + 1},
        {"all": "yes"},
        {"filter": {"since": "today"}},
        {"filter": {"quarantined": True}},
        {"filter": "code"},
        {"all": True, "notes": "x", "model_size": "tiny"},
        [],
    ],
)
@pytest.mark.parametrize("verb", ["retry", "resolve"])
def test_a_wrong_choice_is_refused(client, admin, verb, body):
    answer = client.post(f"/admin/errors/{verb}", headers=admin, json=body)

    assert answer.status_code == 422
