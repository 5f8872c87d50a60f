"""Submissions that are sent again: by their key, or because nobody knew of the first."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest
from sqlalchemy import event, text
from starlette.testclient import TestClient

from app import create_app
from models import Scope
from tests.api.conftest import connected, poll, serving, stored
from tests.api.test_uploading import HEAD, TAIL, length, request

KEY = {"Idempotency-Key": "one"}


def submit(client, key, *, idempotency: dict[str, str] = KEY, **more: Any):
    name, data = more.pop("name", "a.mp3"), more.pop("sound", b"sound")
    files = {"file": (name, data)}
    return client.post("/transcribe", headers={**key, **idempotency}, files=files, data=more)


# Keys


@pytest.mark.security("idempotency", "a submission that is sent again")
def test_the_same_again_is_the_same_job(client, alice, jobs, settings):
    first, second = submit(client, alice), submit(client, alice)

    assert (first.status_code, second.status_code) == (202, 202)
    assert second.json()["job_id"] == first.json()["job_id"]
    assert second.headers["location"] == first.headers["location"]
    assert (jobs.count(), len(stored(settings))) == (1, 1)


def test_only_what_is_sent_again_is_called_so(client, alice):
    first, second = submit(client, alice), submit(client, alice)

    assert "idempotency-replayed" not in first.headers
    assert second.headers["idempotency-replayed"] == "true"


def test_what_is_sent_again_tells_how_the_job_is_now(client, alice, jobs):
    job_id = submit(client, alice).json()["job_id"]
    client.post(f"/jobs/{job_id}/cancel", headers=alice)
    again = submit(client, alice)

    assert again.json()["status"] == "cancelled"
    assert "retry-after" not in again.headers


@pytest.mark.security("idempotency", "another submission under a used key")
@pytest.mark.parametrize(
    "more", [{"sound": b"noise"}, {"name": "b.mp3"}, {"language": "en"}, {"metadata": "{}"}]
)
def test_something_else_under_the_same_key_is_refused(client, alice, jobs, settings, more):
    submit(client, alice)
    answer = submit(client, alice, **more)

    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_mismatch")
    assert (jobs.count(), len(stored(settings))) == (1, 1)


def test_what_is_said_in_the_query_counts_as_in_the_form(client, alice):
    first = submit(client, alice, language="en")
    files = {"file": ("a.mp3", b"sound")}
    again = client.post("/transcribe?language=en", headers={**alice, **KEY}, files=files)

    assert again.json()["job_id"] == first.json()["job_id"]


def test_another_key_is_another_job(client, alice, jobs):
    submit(client, alice)
    submit(client, alice, idempotency={"Idempotency-Key": "two"})
    submit(client, alice, idempotency={})
    submit(client, alice, idempotency={})

    assert jobs.count() == 4


@pytest.mark.security("idempotency", "another owner's key")
def test_another_owners_key_is_another_job(client, alice, bob, jobs):
    first, second = submit(client, alice), submit(client, bob)

    assert first.json()["job_id"] != second.json()["job_id"]
    assert jobs.count() == 2


def test_the_keys_of_one_owner_are_one(client, make_key, jobs):
    submit(client, make_key("alice"))
    submit(client, make_key("alice"))

    assert jobs.count() == 1


@pytest.mark.security("idempotency", "a key that is none")
@pytest.mark.parametrize("key", ["", "a b", "x" * 256])
def test_what_is_no_key_is_refused_before_the_body(client, alice, settings, key):
    answer = submit(client, alice, idempotency={"Idempotency-Key": key})

    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert stored(settings) == []


def test_a_refused_submission_leaves_its_key_free(client, alice):
    refused = submit(client, alice, language="xx")
    mended = submit(client, alice, language="en")

    assert (refused.status_code, mended.status_code) == (422, 202)


def test_a_deleted_job_does_not_come_back(client, alice, jobs, settings):
    job_id = submit(client, alice).json()["job_id"]
    client.delete(f"/jobs/{job_id}", headers=alice)
    answer = submit(client, alice)

    assert (answer.status_code, answer.json()["code"]) == (410, "job_deleted")
    assert (jobs.count(), stored(settings)) == (0, [])


def test_a_key_is_forgotten_in_time(client, alice, sessions, jobs):
    submit(client, alice)
    with sessions.begin() as session:
        session.execute(text("UPDATE idempotency_keys SET created_at = now() - interval '25 h'"))
    submit(client, alice)

    assert jobs.count() == 2


def test_what_is_sent_again_wakes_no_worker(client, alice, jobs, redis_url):
    job_id = submit(client, alice).json()["job_id"]
    before = jobs.row(job_id).dispatch_count
    submit(client, alice)

    assert jobs.row(job_id).dispatch_count == before


def test_what_comes_while_the_first_still_comes_waits(port, alice, settings, jobs):
    key = b"Idempotency-Key: one"
    size = length(len(HEAD) + 5 + len(TAIL))
    with connected(port) as first:
        first.sendall(request(size, key, b"Connection: close", key=alice) + HEAD)
        assert poll(lambda: stored(settings))
        with connected(port) as second:
            second.sendall(request(size, key, key=alice) + HEAD + b"sound" + TAIL)
            refused = second.recv(65536)
        first.sendall(b"sound" + TAIL)
        taken = first.recv(65536)

    assert refused.startswith(b"HTTP/1.1 409")
    assert b"submission_under_way" in refused
    assert b"retry-after: 5" in refused
    assert taken.startswith(b"HTTP/1.1 202")
    assert jobs.count() == 1


def test_what_is_broken_off_leaves_its_key_free(port, alice, settings, jobs):
    with connected(port) as connection:
        connection.sendall(request(length(1000), b"Idempotency-Key: one", key=alice) + HEAD)
        assert poll(lambda: stored(settings))
    assert poll(lambda: stored(settings) == [])
    url = f"http://127.0.0.1:{port}/transcribe"
    files = {"file": ("a.mp3", b"sound")}
    answer = httpx2.post(url, headers={**alice, **KEY}, files=files, timeout=60)

    assert answer.status_code == 202
    assert jobs.count() == 1


@pytest.mark.security("idempotency", "fifty at once with one key")
def test_fifty_at_once_make_one_job(settings, alice, jobs):
    """Two servers: what one of them knows to be under way, the other finds in the database."""

    def post(port: int) -> httpx2.Response:
        url = f"http://127.0.0.1:{port}/transcribe"
        files = {"file": ("a.mp3", b"sound" * 10_000)}
        return httpx2.post(url, headers={**alice, **KEY}, files=files, timeout=120)

    with (
        serving(settings) as one,
        serving(settings) as two,
        ThreadPoolExecutor(50) as executor,
    ):
        answers = list(executor.map(post, [one, two] * 25))

    taken = [answer for answer in answers if answer.status_code == 202]
    assert {answer.status_code for answer in answers} <= {202, 409}
    assert {answer.json()["code"] for answer in answers if answer.status_code == 409} <= {
        "submission_under_way"
    }
    assert len({answer.json()["job_id"] for answer in taken}) == 1
    assert [a.headers.get("idempotency-replayed") for a in taken].count(None) == 1
    assert (jobs.count(), len(stored(settings))) == (1, 1)


def test_one_that_is_beaten_to_it_is_told_of_the_winner(settings, alice, jobs):
    """The other server's commit comes between the look for the key and the job of this one."""
    app = create_app(settings)
    with TestClient(create_app(settings)) as fast, TestClient(app) as slow:
        engine = app.state.services.engine
        winners: list[Any] = []

        def overtake(connection, cursor, statement, *_: Any) -> None:
            if "INSERT INTO transcription_jobs" in statement and not winners:
                winners.append(submit(fast, alice))

        event.listen(engine, "before_cursor_execute", overtake)
        answer = submit(slow, alice)

    assert answer.status_code == 202
    assert answer.headers["idempotency-replayed"] == "true"
    assert answer.json()["job_id"] == winners[0].json()["job_id"]
    assert (jobs.count(), len(stored(settings))) == (1, 1)


# Duplicates


@pytest.fixture
def finding(make_settings):
    settings = make_settings(duplicate_detection="finished")
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def finished(client, alice, jobs):
    """A job that was submitted as ``submit`` does, and is done."""
    return jobs.finish(submit(client, alice, idempotency={}).json()["job_id"])


def test_a_file_that_was_transcribed_gives_that_job(finding, alice, finished, jobs, settings):
    answer = submit(finding, alice, idempotency={}, name="b.mp3")

    assert answer.status_code == 200
    assert (answer.json()["job_id"], answer.json()["status"]) == (str(finished), "completed")
    assert answer.json()["transcription"]
    assert answer.headers["location"] == f"/jobs/{finished}"
    assert (jobs.count(), len(stored(settings))) == (1, 1)


def test_nothing_is_found_unless_it_is_asked_for(client, alice, finished, jobs):
    assert submit(client, alice, idempotency={}).status_code == 202
    assert jobs.count() == 2


@pytest.mark.security("idempotency", "another owner's file")
def test_nobody_is_given_another_owners_job(finding, bob, finished, jobs):
    assert submit(finding, bob, idempotency={}).status_code == 202
    assert jobs.count() == 2


@pytest.mark.parametrize("more", [{"sound": b"noise"}, {"language": "en"}, {"metadata": '{"a":1}'}])
def test_another_file_or_wish_is_a_new_job(finding, alice, finished, more):
    assert submit(finding, alice, idempotency={}, **more).status_code == 202


def test_a_file_that_is_not_finished_is_a_new_job(finding, alice, jobs):
    submit(finding, alice, idempotency={})

    assert submit(finding, alice, idempotency={}).status_code == 202


def test_a_key_stays_with_the_job_that_was_found(finding, alice, finished, jobs):
    first, again = submit(finding, alice), submit(finding, alice)

    assert (first.status_code, again.status_code) == (200, 202)
    assert first.json()["job_id"] == again.json()["job_id"] == str(finished)
    assert again.headers["idempotency-replayed"] == "true"
    assert jobs.count() == 1


# Who may only write


@pytest.mark.security("authorisation", "a key that may write and not read")
def test_whoever_may_only_write_is_not_told_what_was_said(finding, make_key, finished):
    writer = make_key("alice", scopes=[Scope.JOBS_WRITE])
    answers = [
        submit(finding, writer),
        submit(finding, writer),
        finding.patch(f"/jobs/{finished}", headers=writer, json={"metadata": {"a": 1}}),
    ]

    assert [answer.status_code for answer in answers] == [200, 202, 200]
    assert [answer.json()["transcription"] for answer in answers] == [None] * 3


# Commits


def test_a_job_whose_commit_was_not_answered_keeps_its_file(settings, alice, jobs):
    """The row may be there: the file of one that is not is deleted by maintenance."""
    app = create_app(settings)
    with TestClient(app, raise_server_exceptions=False) as client:
        engine = app.state.services.engine

        def lose_the_answer(connection) -> None:
            if jobs_are_being_added:
                connection.connection.dbapi_connection.commit()
                raise ConnectionResetError

        jobs_are_being_added = False
        event.listen(engine, "commit", lose_the_answer)

        def note(connection, cursor, statement, *_: Any) -> None:
            nonlocal jobs_are_being_added
            jobs_are_being_added = jobs_are_being_added or "INTO transcription_jobs" in statement

        event.listen(engine, "before_cursor_execute", note)
        lost = submit(client, alice)
        event.remove(engine, "commit", lose_the_answer)
        again = submit(client, alice)

    assert lost.status_code >= 500
    assert (again.status_code, again.headers["idempotency-replayed"]) == (202, "true")
    assert [path.name for path in stored(settings)] == [again.json()["job_id"]]
    assert jobs.count() == 1
