"""Lists, one job, changes, cancelling and deleting."""

import re
import uuid

import pytest
import redis
from starlette.testclient import TestClient

from app import create_app
from errors import LeaseLost
from jobs import lifecycle
from jobs.lifecycle import Failure
from tests.api.conftest import FAILURE, NO_PAUSE, TRANSCRIPT, Jobs, stored

V1_KEYS = {
    "job_id", "status", "message", "filename", "progress", "current_step", "model_size",
    "created_at", "started_at", "completed_at", "transcription", "language", "duration",
    "word_count", "error_type", "error_message",
}  # fmt: skip


def test_a_job_has_the_first_versions_keys(client, alice, jobs):
    assert set(client.get(f"/jobs/{jobs.submit()}", headers=alice).json()) >= V1_KEYS


def test_a_completed_job_has_its_text(client, alice, jobs):
    job = client.get(f"/jobs/{jobs.completed()}", headers=alice).json()

    assert (job["status"], job["progress"], job["transcription"]) == ("completed", 100.0, "one two")
    assert (job["language"], job["duration"], job["word_count"]) == ("en", 30.0, 2)


def test_a_completed_job_links_to_its_result(client, alice, jobs):
    job_id = jobs.completed()
    job = client.get(f"/jobs/{job_id}", headers=alice).json()

    assert job["links"]["result"] == f"/jobs/{job_id}/result"


def test_a_failed_job_says_why(client, alice, jobs):
    job = client.get(f"/jobs/{jobs.failed()}", headers=alice).json()

    assert (job["status"], job["error_type"], job["error_message"]) == (
        "failed",
        "engine_error",
        "It broke.",
    )


def test_a_job_between_attempts_says_what_went_wrong(client, alice, jobs, sessions):
    job_id = jobs.submit()
    with sessions.begin() as session:
        lifecycle.retry(session, jobs.claim(job_id), FAILURE, NO_PAUSE)
    job = client.get(f"/jobs/{job_id}", headers=alice).json()

    assert (job["status"], job["error_code"], job["attempt"]) == ("pending", "engine_error", 1)
    assert "failed" in job["message"]


def test_a_job_that_is_put_off_says_that_it_waits(client, alice, jobs, sessions):
    job_id = jobs.submit()
    full = Failure(code="disk_full", message="No room.")
    with sessions.begin() as session:
        lifecycle.put_off(session, jobs.claim(job_id), full, NO_PAUSE)
    job = client.get(f"/jobs/{job_id}", headers=alice).json()

    assert (job["status"], job["error_code"], job["attempt"]) == ("pending", "disk_full", 0)
    assert "waits for something" in job["message"]


def test_progress_is_in_percent(client, alice, jobs):
    assert client.get(f"/jobs/{jobs.transcribing()}", headers=alice).json()["progress"] == 50.0


def test_progress_is_in_seconds_of_audio_once_its_length_is_known(client, alice, jobs, sessions):
    guessed, known = jobs.transcribing(), jobs.transcribing()
    with sessions.begin() as session:
        lifecycle.probed(session, known, 61.0, estimated=False)

    def done(job_id):
        return client.get(f"/jobs/{job_id}", headers=alice).json()["audio_seconds_done"]

    assert (done(guessed), done(known)) == (None, 30.5)


def test_times_are_utc(client, alice, jobs):
    job = client.get(f"/jobs/{jobs.submit()}", headers=alice).json()

    assert re.fullmatch(r"[\d-]{10}T[\d:.]+\+00:00", job["created_at"])


def test_a_client_is_told_to_ask_again(client, alice, jobs):
    assert "retry-after" in client.get(f"/jobs/{jobs.processing()}", headers=alice).headers


def test_a_client_need_not_ask_again_after_a_final_job(client, alice, jobs):
    assert "retry-after" not in client.get(f"/jobs/{jobs.completed()}", headers=alice).headers


def test_the_place_in_the_queue_counts_those_who_came_first(client, alice, jobs):
    jobs.submit("bob")
    job_id = jobs.submit()

    assert client.get(f"/jobs/{job_id}", headers=alice).json()["queue_position"] == 2


def test_high_goes_before_normal_in_the_queue(client, alice, jobs):
    jobs.submit("bob")
    job_id = jobs.submit(priority="high")

    assert client.get(f"/jobs/{job_id}", headers=alice).json()["queue_position"] == 1


def test_a_job_that_does_not_wait_has_no_place(client, alice, jobs):
    job = client.get(f"/jobs/{jobs.processing()}", headers=alice).json()

    assert job["queue_position"] is None


@pytest.mark.parametrize("job_id", ["1", "x" * 5000, "%00", "..%2f..%2fetc", "é", "{}"])
def test_an_id_that_cannot_be_is_nobodys_job(client, alice, job_id):
    assert client.get(f"/jobs/{job_id}", headers=alice).status_code == 404


def test_jobs_are_listed_newest_first(client, alice, jobs):
    ids = [str(jobs.submit()) for _ in range(3)]
    listed = client.get("/jobs/", headers=alice).json()["jobs"]

    assert [job["id"] for job in listed] == ids[::-1]


def test_a_list_shows_no_text(client, alice, jobs):
    jobs.completed()
    (job,) = client.get("/jobs/", headers=alice).json()["jobs"]

    assert "transcription" not in job


def test_pages_follow_each_other(client, alice, jobs):
    ids = [str(jobs.submit()) for _ in range(5)]
    seen, url = [], "/jobs/?limit=2"
    for _ in range(3):
        page = client.get(url, headers=alice)
        seen += [job["id"] for job in page.json()["jobs"]]
        url = re.sub(r"<(.*)>.*", r"\1", page.headers.get("link", ""))

    assert seen == ids[::-1]
    assert url == ""


def test_a_page_tells_how_many_there_are_on_all(client, alice, jobs):
    for _ in range(3):
        jobs.submit()

    assert client.get("/jobs/?limit=1", headers=alice).json()["total"] == 3


def test_a_list_can_be_of_one_status(client, alice, jobs):
    jobs.submit()
    job_id = jobs.completed()
    page = client.get("/jobs/?status=completed", headers=alice).json()

    assert ([job["id"] for job in page["jobs"]], page["total"]) == ([str(job_id)], 1)


def test_the_next_page_keeps_the_filter(client, alice, jobs):
    for _ in range(2):
        jobs.completed()
    link = client.get("/jobs/?status=completed&limit=1", headers=alice).headers["link"]

    assert "status=completed" in link


def test_a_cursor_of_another_owner_is_refused(client, alice, bob, jobs):
    for _ in range(2):
        jobs.submit("bob")
    cursor = client.get("/jobs/?limit=1", headers=bob).json()["next_cursor"]
    answer = client.get("/jobs/", params={"cursor": cursor}, headers=alice)

    assert (answer.status_code, answer.json()["code"]) == (400, "bad_cursor")


@pytest.mark.parametrize("cursor", ["x", "", "%00", "é", "A" * 32, "'; DROP TABLE jobs;--"])
def test_a_cursor_that_we_did_not_make_is_refused(client, alice, cursor):
    answer = client.get("/jobs/", params={"cursor": cursor}, headers=alice)

    assert (answer.status_code, answer.json()["code"]) == (400, "bad_cursor")


@pytest.mark.parametrize(
    "query",
    [
        "limit=0", "limit=101", "limit=1e1", "limit=\uff11\uff12", "limit=%00", "limit=", "limit=x",
        "limit=-1", "limit=5&limit=99", "status=done", "status=", "status=%00", "stauts=failed",
        "owner_id=1",
    ],
)  # fmt: skip
def test_a_list_is_not_asked_for_like_that(client, alice, query):
    assert client.get(f"/jobs/?{query}", headers=alice).status_code == 422


@pytest.mark.parametrize("path", ["/jobs", "/jobs/"])
def test_both_slash_forms_list(client, alice, path):
    assert client.get(path, headers=alice, follow_redirects=False).status_code == 200


def test_owners_see_their_own_jobs(client, alice, jobs):
    jobs.submit("bob")

    assert client.get("/jobs/", headers=alice).json() == {
        "jobs": [],
        "total": 0,
        "next_cursor": None,
    }


def test_admin_sees_everybodys_jobs(client, admin, jobs):
    jobs.submit("alice")
    jobs.submit("bob")

    assert client.get("/jobs/", headers=admin).json()["total"] == 2


def test_metadata_can_be_replaced(client, alice, jobs):
    job_id = jobs.completed(client_metadata={"a": 1, "b": 2})
    answer = client.patch(f"/jobs/{job_id}", headers=alice, json={"metadata": {"a": 3}})

    assert answer.json()["metadata"] == {"a": 3}


def test_priority_can_be_changed_while_a_job_waits(client, alice, jobs):
    job_id = jobs.submit()
    answer = client.patch(f"/jobs/{job_id}", headers=alice, json={"priority": "high"})

    assert answer.json()["priority"] == "high"


def test_a_changed_priority_rings_in_the_new_lane(client, alice, jobs, redis_url):
    client.patch(f"/jobs/{jobs.submit()}", headers=alice, json={"priority": "high"})
    with redis.Redis.from_url(redis_url) as broker:
        assert broker.llen("high") == 1


@pytest.mark.parametrize("status", ["processing", "completed", "failed"])
def test_priority_cannot_be_changed_later(client, alice, jobs, status):
    job_id = getattr(jobs, status)()
    answer = client.patch(f"/jobs/{job_id}", headers=alice, json={"priority": "high"})

    assert (answer.status_code, answer.json()["code"]) == (409, "conflict")


def test_a_refused_change_changes_nothing(client, alice, jobs):
    job_id = jobs.processing()
    client.patch(f"/jobs/{job_id}", headers=alice, json={"priority": "high", "metadata": {"a": 1}})

    assert jobs.row(job_id).client_metadata == {}


def test_priority_high_is_refused_to_keys_that_may_not(client, make_key, jobs):
    headers = make_key("alice", may_use_high=False)
    answer = client.patch(f"/jobs/{jobs.submit()}", headers=headers, json={"priority": "high"})

    assert answer.status_code == 403


@pytest.mark.security("json", "a body that is not what it should be")
@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"owner_id": "x"}', 422),
        (b'{"status": "completed"}', 422),
        (b'{"priority": "urgent"}', 422),
        (b'{"priority": 1}', 422),
        (b'{"metadata": []}', 422),
        (b'{"metadata": {"a": NaN}}', 422),
        (b'{"metadata": {"a": 1e999}}', 422),
        (b'{"metadata": {"a": "\\u0000"}}', 422),
        (b'{"metadata": {"a": ' + b"1" * 5000 + b"}}", 400),
        (b'{"metadata": {"a": "\\ud800"}}', 422),
        (b'{"metadata": {}, "metadata": {"a": 1}}', 400),
        (b'{"priority": true}', 422),
        (b'"x"', 422),
        (b"priority=high", 400),
        (b'{"metadata": ' + b"[" * 30_000 + b"]" * 30_000 + b"}", 400),
        (b"[" * 100_000, 413),
        (b"[]", 422),
        (b"null", 422),
        (b"", 400),
        (b"{", 400),
        (b"\xff", 400),
        (b'{"metadata": {"a": "' + b"x" * 20_000 + b'"}}', 422),
        (b" " * 70_000, 413),
    ],
)
def test_a_change_that_cannot_be_is_refused(client, alice, jobs, body, status):
    headers = {**alice, "Content-Type": "application/json"}
    answer = client.patch(f"/jobs/{jobs.submit()}", headers=headers, content=body)

    assert (answer.status_code, answer.headers["content-type"]) == (
        status,
        "application/problem+json",
    )


def test_a_change_is_json(client, alice, jobs):
    answer = client.patch(f"/jobs/{jobs.submit()}", headers=alice, data={"priority": "high"})

    assert answer.status_code == 415


def test_a_key_is_asked_for_before_the_body_is_read(client, jobs):
    assert client.patch(f"/jobs/{jobs.submit()}", content=b"{").status_code == 401


def test_a_waiting_job_is_cancelled_at_once(client, alice, jobs):
    answer = client.post(f"/jobs/{jobs.submit()}/cancel", headers=alice)

    assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")


def test_a_running_job_is_cancelled_by_its_worker(client, alice, jobs):
    answer = client.post(f"/jobs/{jobs.processing()}/cancel", headers=alice)

    assert (answer.status_code, answer.json()["status"]) == (202, "processing")
    assert answer.json()["cancel_requested_at"]


def test_cancelling_twice_is_as_good_as_once(client, alice, jobs):
    job_id = jobs.processing()
    client.post(f"/jobs/{job_id}/cancel", headers=alice)

    assert client.post(f"/jobs/{job_id}/cancel", headers=alice).status_code == 202


@pytest.mark.parametrize("status", ["completed", "failed"])
def test_a_final_job_cannot_be_cancelled(client, alice, jobs, status):
    answer = client.post(f"/jobs/{getattr(jobs, status)()}/cancel", headers=alice)

    assert (answer.status_code, answer.json()["code"]) == (409, "job_finished")


@pytest.mark.parametrize("status", ["submit", "processing", "completed", "failed"])
def test_a_job_in_any_status_can_be_deleted(client, alice, jobs, status):
    job_id = getattr(jobs, status)()

    assert client.delete(f"/jobs/{job_id}", headers=alice).status_code == 204
    assert jobs.row(job_id) is None


def test_deleting_a_job_deletes_its_upload(client, alice, jobs, settings):
    job_id = jobs.submit()
    jobs.keep(job_id, b"sound")
    client.delete(f"/jobs/{job_id}", headers=alice)

    assert stored(settings) == []


def test_a_worker_loses_a_job_that_is_deleted(client, alice, jobs, sessions):
    job_id = jobs.submit()
    lease = jobs.claim(job_id)
    client.delete(f"/jobs/{job_id}", headers=alice)

    with pytest.raises(LeaseLost), sessions.begin() as session:
        lifecycle.complete(session, lease, TRANSCRIPT, lifecycle.Outcome(model_used="m"))


def test_what_is_deleted_is_told_its_owner_to_be_gone_whatever_is_asked(client, alice, jobs):
    job_id = jobs.completed()
    client.delete(f"/jobs/{job_id}", headers=alice)
    paths = ("", "/result", "/audio")
    answers = [client.get(f"/jobs/{job_id}{path}", headers=alice) for path in paths]
    answers.append(client.delete(f"/jobs/{job_id}", headers=alice))

    told = {(answer.status_code, answer.json()["code"]) for answer in answers}
    assert told == {(410, "job_deleted")}
    assert answers[0].json()["deleted_by"] == "client"


@pytest.mark.security("access", "asking after a job that somebody else deleted")
def test_a_job_that_was_deleted_is_nothing_to_strangers(client, alice, make_key, jobs):
    job_id = jobs.completed()
    client.delete(f"/jobs/{job_id}", headers=alice)
    stranger = make_key("mallory")

    answer = client.get(f"/jobs/{job_id}", headers=stranger).json()
    nobodys = client.get(f"/jobs/{uuid.uuid4()}", headers=stranger).json()
    assert (answer["status"], answer["code"]) == (404, "not_found")
    assert answer.keys() == nobodys.keys()


def test_a_job_that_an_operator_deleted_says_so(client, alice, make_key, jobs):
    job_id = jobs.completed()
    client.delete(f"/jobs/{job_id}", headers=make_key("boss", scopes=["admin", "jobs:delete"]))

    assert client.get(f"/jobs/{job_id}", headers=alice).json()["deleted_by"] == "admin"


def test_a_random_id_is_nobodys_job(client, alice):
    assert client.get(f"/jobs/{uuid.uuid4()}", headers=alice).status_code == 404


def test_a_proxys_prefix_is_in_every_link(settings, alice, jobs):
    job_id = jobs.submit()
    with TestClient(create_app(settings), root_path="/stt") as client:
        job = client.get(f"/stt/jobs/{job_id}", headers=alice).json()

    assert job["links"]["self"] == f"/stt/jobs/{job_id}"


@pytest.mark.parametrize(
    ("wanted", "found"),
    [("talk", {"Talk 1.mp3", "small talk.ogg"}), ("100%", {"100% Rock.mp3"}), ("_", set()),
     ("\\", set()), ("1.mp3", {"Talk 1.mp3"})],
)  # fmt: skip
def test_jobs_are_found_by_a_part_of_the_files_name(
    client: TestClient, alice: dict[str, str], jobs: Jobs, wanted: str, found: set[str]
) -> None:
    """As it is written: nothing in it means something else."""
    for name in ("Talk 1.mp3", "small talk.ogg", "100% Rock.mp3", "1000 Rocks.mp3"):
        jobs.submit(client_filename=name)
    jobs.submit("bob", client_filename="bob's talk.mp3")
    told = client.get("/jobs", params={"search": wanted}, headers=alice).json()

    assert {job["filename"] for job in told["jobs"]} == found
    assert told["total"] == len(found)


def test_jobs_are_found_by_their_title_as_well(
    client: TestClient, alice: dict[str, str], jobs: Jobs
) -> None:
    jobs.submit(client_filename="a.mp3", client_metadata={"title": "With Ada"})
    jobs.submit(client_filename="b.mp3", client_metadata={"title": ["Ada"], "other": "ada"})
    jobs.submit(client_filename="c.mp3", client_metadata={"other": "ada"})
    told = client.get("/jobs", params={"search": "ada"}, headers=alice).json()

    assert [job["filename"] for job in told["jobs"]] == ["b.mp3", "a.mp3"]


def test_the_next_page_is_of_the_same_search(
    client: TestClient, alice: dict[str, str], jobs: Jobs
) -> None:
    for number in range(3):
        jobs.submit(client_filename=f"talk {number}.mp3")
        jobs.submit(client_filename=f"song {number}.mp3")
    wanted = {"search": "talk", "limit": "2"}
    first = client.get("/jobs", params=wanted, headers=alice).json()
    rest = {**wanted, "cursor": first["next_cursor"]}
    second = client.get("/jobs", params=rest, headers=alice).json()
    other = client.get("/jobs", params={**rest, "search": "song"}, headers=alice)

    names = [job["filename"] for page in (first, second) for job in page["jobs"]]
    assert names == ["talk 2.mp3", "talk 1.mp3", "talk 0.mp3"]
    assert other.status_code == 400
