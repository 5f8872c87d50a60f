"""Events of a job: what is told, from where, how it ends, and who is told."""

import contextlib
import json
import re
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import httpx2
import pytest
from sqlalchemy import ColumnElement, func, select, update

from jobs import lifecycle
from jobs.lifecycle import Redrive
from models import ApiKey, Scope
from tests.api.conftest import SEGMENT, WINDOW, Jobs, poll, serving
from tests.recordings import PROJECT_DIR

PAPER = (PROJECT_DIR / "docs/events.md").read_text("utf-8")

Event = dict[str, Any]
Headers = dict[str, str]


def parsed(block: str) -> Event:
    fields: Event = {}
    for line in block.split("\n"):
        name, _, value = line.partition(": ")
        fields[name] = json.loads(value) if name == "data" else value
    return fields


def events(text: str) -> list[Event]:
    return [parsed(block) for block in text.split("\n\n") if "data: " in block]


def keep(jobs: Jobs, lease: lifecycle.Lease, *indices: int) -> None:
    for index in indices:
        with jobs.sessions.begin() as session:
            lifecycle.save_window(session, lease, index, WINDOW, progress=0.5, model_used="m")


@pytest.fixture
def follow(client, alice) -> Callable[..., list[Event]]:
    """Hear all of a job that has ended."""

    def hear(job_id: uuid.UUID, last: str | None = None) -> list[Event]:
        more = {} if last is None else {"Last-Event-ID": last}
        answer = client.get(f"/jobs/{job_id}/events", headers={**alice, **more})
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        return events(answer.text)

    return hear


@pytest.fixture
def failed(jobs: Jobs) -> uuid.UUID:
    """A job that failed after two windows."""
    job_id = jobs.submit()
    lease = jobs.claim(job_id)
    keep(jobs, lease, 0, 1)
    jobs.fail(lease)
    return job_id


def is_of(key: Headers) -> ColumnElement[bool]:
    return ApiKey.prefix == key["X-API-Key"][:17]


class Ear:
    """Follows a job over a socket; tells what it has heard."""

    def __init__(self, port: int, key: Headers) -> None:
        self._url = f"http://127.0.0.1:{port}"
        self._key = key
        self._pool = ThreadPoolExecutor()
        self.heard: list[Event] = []

    def follow(self, job_id: uuid.UUID) -> threading.Event:
        ended = threading.Event()

        def read() -> None:
            url = f"{self._url}/jobs/{job_id}/events"
            with httpx2.stream("GET", url, headers=self._key, timeout=60) as answer:
                block: list[str] = []
                for line in answer.iter_lines():
                    if line:
                        block.append(line)
                    elif any(part.startswith("data") for part in block):
                        self.heard.append(parsed("\n".join(block)))
                        block = []
                    else:
                        block = []
            ended.set()

        self._pool.submit(read)
        return ended

    def names(self) -> list[str]:
        return [event["event"] for event in self.heard]


@pytest.fixture
def ear(port: int, alice: Headers) -> Iterator[Ear]:
    ear = Ear(port, alice)
    yield ear
    ear._pool.shutdown()


def test_segments_are_told_and_then_the_end(follow, failed):
    heard = follow(failed)

    assert [event["event"] for event in heard] == ["segments", "segments", "failed"]
    assert [event["data"]["segments"][0]["id"] for event in heard[:2]] == [0, 1]
    assert heard[0]["data"]["segments"][0]["text"] == SEGMENT.text
    assert heard[2]["data"]["failure_reason"] == "engine_error"


def test_ids_rise(follow, failed):
    ids = [event["id"] for event in follow(failed)]
    (run,) = {name.split("-")[0] for name in ids}

    assert ids == [f"{run}-1", f"{run}-2", f"{run}-2-end"]


@pytest.mark.parametrize("heard", [0, 1, 2])
def test_who_comes_again_hears_the_rest(follow, failed, heard):
    whole = follow(failed)
    last = whole[heard - 1]["id"] if heard else None

    assert follow(failed, last) == whole[heard:]


def test_who_has_heard_the_end_is_told_not_to_come_again(client, alice, follow, failed):
    last = {"Last-Event-ID": follow(failed)[-1]["id"]}
    answer = client.get(f"/jobs/{failed}/events", headers={**alice, **last})

    assert (answer.status_code, answer.content) == (204, b"")


@pytest.mark.parametrize("last", ["", "nonsense", "1", "0-7", "999-1", "-1-1", "1-1-1"])
def test_an_id_that_was_not_given_out_is_as_good_as_none(follow, failed, last):
    assert len(follow(failed, last)) == 3


def test_another_transcription_of_the_job_is_told_from_its_beginning(follow, failed, jobs):
    last = follow(failed)[-1]["id"]
    with jobs.sessions.begin() as session:
        lifecycle.redrive(session, [failed], Redrive(max_attempts=2, model_name="base"))
    lease = jobs.claim(failed)
    keep(jobs, lease, 0, 1, 2)
    jobs.fail(lease)

    assert len(follow(failed, last)) == 4


def test_the_end_of_a_completed_job_holds_its_text(follow, jobs):
    *_, end = follow(jobs.completed())

    assert (end["event"], end["data"]["transcription"]) == ("completed", "one two")


def test_a_job_that_is_deleted_is_gone(client, alice, jobs):
    job_id = jobs.completed()
    client.delete(f"/jobs/{job_id}", headers=alice)

    assert client.get(f"/jobs/{job_id}/events", headers=alice).status_code == 410


# While it goes on


def test_what_happens_is_told_as_it_does(ear, jobs):
    job_id = jobs.submit()
    ended = ear.follow(job_id)
    poll(lambda: ear.heard)
    lease = jobs.claim(job_id)
    poll(lambda: ear.heard[-1]["data"]["status"] == "processing")
    keep(jobs, lease, 0)
    poll(lambda: "segments" in ear.names())
    jobs.fail(lease)
    assert ended.wait(60)
    waiting = ear.heard[0]["data"]
    running = [event["data"] for event in ear.heard if event["event"] == "progress"][-1]

    assert (waiting["status"], waiting["queue_position"]) == ("pending", 1)
    assert (running["status"], running["progress"]) == ("processing", 50.0)
    assert ear.names()[-1] == "failed"


def test_progress_is_in_seconds_of_audio_once_its_length_is_known(ear, jobs):
    job_id = jobs.submit()
    lease = jobs.claim(job_id)
    with jobs.sessions.begin() as session:
        lifecycle.report(session, lease, "transcribing", audio_seconds=60.0, warnings=())
    keep(jobs, lease, 0)
    ear.follow(job_id)
    poll(lambda: "progress" in ear.names())
    told = next(event["data"] for event in ear.heard if event["event"] == "progress")
    jobs.fail(lease)

    assert (told["audio_seconds"], told["audio_seconds_done"]) == (60.0, 30.0)


def test_deleting_the_job_ends_it(ear, jobs, port, alice):
    job_id = jobs.submit()
    ended = ear.follow(job_id)
    poll(lambda: ear.heard)
    httpx2.delete(f"http://127.0.0.1:{port}/jobs/{job_id}", headers=alice)
    assert ended.wait(60)

    assert ear.heard[-1]["event"] == "deleted"
    assert ear.heard[-1]["data"] == {"job_id": str(job_id), "status": "deleted"}


def test_a_key_that_is_revoked_hears_no_more(ear, jobs):
    job_id = jobs.submit()
    ended = ear.follow(job_id)
    poll(lambda: ear.heard)
    with jobs.sessions.begin() as session:
        session.execute(update(ApiKey).values(revoked_at=func.now()))
    keep(jobs, jobs.claim(job_id), 0)
    assert ended.wait(60)

    assert "segments" not in ear.names()


@pytest.mark.parametrize(
    "change",
    [
        {"revoked_at": func.now()},
        {"expires_at": func.now()},
        {"scopes": [Scope.JOBS_WRITE]},
        {"key_sha256": b"\2" * 32},
    ],
    ids=["revoked", "expired", "demoted", "rotated"],
)
def test_a_key_that_is_good_no_more_ends_it_though_nothing_happens(ear, alice, jobs, change):
    ended = ear.follow(jobs.submit())
    poll(lambda: ear.heard)
    with jobs.sessions.begin() as session:
        session.execute(update(ApiKey).where(is_of(alice)).values(change))

    assert ended.wait(60)


def test_a_key_that_was_rotated_is_told_on_for_as_long_as_it_works(ear, alice, jobs):
    job_id = jobs.submit()
    ended = ear.follow(job_id)
    poll(lambda: ear.heard)
    rotated = {
        "key_sha256": b"\2" * 32,
        "previous_prefix": ApiKey.prefix,
        "previous_sha256": ApiKey.key_sha256,
        "previous_expires_at": func.now() + timedelta(hours=1),
    }
    with jobs.sessions.begin() as session:
        session.execute(update(ApiKey).where(is_of(alice)).values(rotated))
    jobs.fail(jobs.claim(job_id))
    assert ended.wait(60)

    assert ear.names()[-1] == "failed"


def test_a_server_that_stops_says_so(settings, alice, jobs):
    job_id = jobs.submit()
    with contextlib.ExitStack() as stack:
        port = stack.enter_context(serving(settings, timeout_graceful_shutdown=60))
        ear = Ear(port, alice)
        ended = ear.follow(job_id)
        poll(lambda: ear.heard)
    assert ended.wait(60)
    ear._pool.shutdown()

    assert ear.names()[-1] == "stopping"
    assert 2000 <= int(ear.heard[-1]["retry"]) <= 8000


def test_whoever_hangs_up_is_forgotten(port, alice, jobs):
    job_id = jobs.submit()
    url = f"http://127.0.0.1:{port}/jobs/{job_id}/events"
    for _ in range(3):
        with httpx2.stream("GET", url, headers=alice) as answer:
            next(answer.iter_lines())

    # what was not forgotten would keep this server from ending: see ``serving``


# Waiting


def used(jobs: Jobs) -> bool:
    """Whether anybody has come in with a key."""
    with jobs.sessions() as session:
        return bool(session.scalar(select(func.count(ApiKey.last_used_at))))


def test_whoever_waits_hears_at_once_that_it_has_ended(port, alice, jobs):
    job_id = jobs.submit()
    url = f"http://127.0.0.1:{port}/jobs/{job_id}?wait=60"
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(httpx2.get, url, headers=alice, timeout=50)
        jobs.finish(job_id)

        assert answer.result().json()["status"] == "completed"


def test_what_has_ended_is_not_waited_for(client, alice, jobs):
    answer = client.get(f"/jobs/{jobs.failed()}?wait=60", headers=alice)

    assert answer.json()["status"] == "failed"


def test_whose_key_is_revoked_waits_for_nothing(port, alice, jobs):
    job_id = jobs.submit()
    url = f"http://127.0.0.1:{port}/jobs/{job_id}"
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(httpx2.get, f"{url}?wait=60", headers=alice, timeout=50)
        poll(lambda: used(jobs))
        with jobs.sessions.begin() as session:
            session.execute(update(ApiKey).values(revoked_at=func.now()))

        assert answer.result().status_code == 401


def test_whoever_waits_too_often_at_once_is_told_so(make_settings, alice, jobs):
    job_id = jobs.submit()
    with serving(make_settings(key_waits_at_once=1)) as port:
        job = f"http://127.0.0.1:{port}/jobs/{job_id}"
        with httpx2.stream("GET", f"{job}/events", headers=alice) as held:
            lines = held.iter_lines()  # whoever forgets it hangs up
            next(lines)
            asked = [f"{job}/events", f"{job}?wait=1"]
            answers = [httpx2.get(url, headers=alice) for url in asked]
            plain = httpx2.get(job, headers=alice)

    assert [answer.json()["code"] for answer in answers] == ["too_many_waits"] * 2
    assert all(answer.status_code == 429 and answer.headers["retry-after"] for answer in answers)
    assert plain.status_code == 200


@pytest.mark.parametrize("path", ["jobs", "transcribe"])
def test_a_wait_has_an_end(client, alice, jobs, path):
    answer = client.get(f"/{path}/{jobs.submit()}?wait=1", headers=alice)

    assert answer.json()["status"] == "pending"
    assert answer.headers["retry-after"] == "1"


@pytest.mark.parametrize("wait", ["61", "-1", "x", "1.5"])
def test_a_wait_is_no_longer_than_a_minute(client, alice, jobs, wait):
    assert client.get(f"/jobs/{jobs.submit()}?wait={wait}", headers=alice).status_code == 422


def test_a_server_that_stops_ends_the_wait(settings, alice, jobs):
    job_id = jobs.submit()
    with ThreadPoolExecutor() as pool, serving(settings, timeout_graceful_shutdown=60) as port:
        url = f"http://127.0.0.1:{port}/jobs/{job_id}?wait=60"
        answer = pool.submit(httpx2.get, url, headers=alice, timeout=100)
        threading.Event().wait(0.5)  # it may wait by then, and would be told at once if not

    assert answer.result().json()["status"] == "pending"


# Documentation


def test_every_event_is_told_of():
    told = set(re.findall(r"^\| `(\w+)` \|", PAPER, re.MULTILINE))

    assert {
        "progress",
        "segments",
        "completed",
        "failed",
        "cancelled",
        "deleted",
        "stopping",
    } <= told
