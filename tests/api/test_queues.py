"""Pausing queues, over HTTP."""

import pytest
import redis

from tests.api.conftest import poll


@pytest.fixture
def broker(redis_url):
    with redis.Redis.from_url(redis_url) as broker:
        yield broker


def submit(client, headers, priority="normal"):
    answer = client.post(
        f"/transcribe/?priority={priority}", headers=headers, files={"file": ("a.mp3", b"sound")}
    )
    assert answer.status_code == 202
    return answer.json()


def pause(client, admin, name, **body):
    return client.post(f"/admin/queues/{name}/pause", headers=admin, json=body)


def by_name(answer):
    return {queue["name"]: queue for queue in answer.json()["queues"]}


def test_queues_are_listed_in_their_order(client, admin, jobs):
    jobs.submit(priority="high")
    jobs.submit()
    jobs.submit()
    listed = client.get("/admin/queues", headers=admin).json()["queues"]

    assert [(queue["name"], queue["waiting"]) for queue in listed] == [
        ("high", 1),
        ("normal", 2),
        ("retry", 0),
    ]
    assert not any(queue["paused"] for queue in listed)


def test_a_paused_queue_tells_who_paused_it_since_when_and_why(client, admin):
    answer = pause(client, admin, "normal", note="new disk")
    queue = by_name(answer)["normal"]

    assert answer.status_code == 200
    assert (queue["paused"], queue["note"]) == (True, "new disk")
    assert queue["paused_by"] == admin["X-API-Key"][:17]
    assert queue["paused_at"]
    assert by_name(client.get("/admin/queues", headers=admin)) == by_name(answer)


def test_a_queue_can_be_paused_without_a_word(client, admin):
    answer = client.post("/admin/queues/high/pause", headers=admin)

    assert by_name(answer)["high"]["paused"]


def test_all_queues_can_be_paused_and_resumed_at_once(client, admin):
    paused = by_name(pause(client, admin, "all"))
    resumed = by_name(client.post("/admin/queues/all/resume", headers=admin))

    assert [queue["paused"] for queue in paused.values()] == [True, True, True]
    assert [queue["paused"] for queue in resumed.values()] == [False, False, False]


def test_resuming_one_leaves_the_others_paused(client, admin):
    pause(client, admin, "all")
    found = by_name(client.post("/admin/queues/high/resume", headers=admin))

    assert {name for name, queue in found.items() if queue["paused"]} == {"normal", "retry"}


@pytest.mark.parametrize("name", ["dlq", "low", "HIGH"])
def test_there_are_no_other_queues(client, admin, name):
    assert pause(client, admin, name).status_code == 404


def test_a_note_has_its_limits(client, admin):
    assert pause(client, admin, "high", note="x" * 5000).status_code == 422
    assert pause(client, admin, "high", reason="x").status_code == 422


def test_a_paused_queue_takes_jobs_and_says_that_they_wait(client, admin, alice):
    pause(client, admin, "normal")
    submitted = submit(client, alice)
    job = client.get(f"/jobs/{submitted['job_id']}", headers=alice).json()

    assert submitted["queue_paused"]
    assert (job["status"], job["queue_paused"]) == ("pending", True)
    assert "paused" in job["message"]


def test_lists_tell_which_jobs_wait_in_a_paused_queue(client, admin, alice, jobs):
    ids = {jobs.submit(priority="high"): False, jobs.submit(): True}
    pause(client, admin, "normal")
    listed = client.get("/jobs", headers=alice).json()["jobs"]

    assert {job["job_id"]: job["queue_paused"] for job in listed} == {
        str(job_id): paused for job_id, paused in ids.items()
    }


@pytest.mark.parametrize("status", ["processing", "completed", "failed"])
def test_what_does_not_wait_is_not_kept_back(client, admin, alice, jobs, status):
    job_id = getattr(jobs, status)()
    pause(client, admin, "all")

    assert not client.get(f"/jobs/{job_id}", headers=alice).json()["queue_paused"]


def test_nobody_is_rung_for_a_job_of_a_paused_queue(client, admin, alice, broker, jobs):
    failed = jobs.failed()
    pause(client, admin, "normal")
    kept_back = submit(client, alice)
    client.post(f"/admin/errors/{failed}/retry", headers=admin)
    submit(client, alice, "high")
    poll(lambda: broker.llen("high"))

    assert broker.llen("normal") == 0
    client.patch(f"/jobs/{kept_back['job_id']}", headers=alice, json={"priority": "high"})
    poll(lambda: broker.llen("high") == 2)


def test_health_tells_which_queues_are_paused(client, admin):
    pause(client, admin, "retry")
    seen = client.get("/admin/health", headers=admin).json()["queues"]

    assert {name: seen[name]["paused"] for name in ("high", "normal", "retry", "dlq")} == {
        "high": False,
        "normal": False,
        "retry": True,
        "dlq": False,
    }
