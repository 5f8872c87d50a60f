"""Refusals among the audit events: told, with their reason, and few rows however many come."""

import uuid
from collections import Counter

import pytest
from sqlalchemy import select, text
from starlette.testclient import TestClient

import keys
from api.denials import MAX_KINDS, MAX_UNKNOWN, OTHERS, WINDOW_SECONDS, Denial, Denials, Tally
from app import create_app
from audit.events import Actor
from errors import DatabaseUnavailable, NotAllowed, NotAuthenticated, NotFound
from models import ApiKey, AuditAction, AuditEvent, Scope
from tests.fakes import FakeClock, eventually

FLOOD = 10_000
MALLORY = Actor(name=None, address="192.0.2.66", route="GET /jobs")


@pytest.fixture
def denied(sessions):
    def rows():
        query = select(AuditEvent).where(AuditEvent.action == AuditAction.DENIED)
        with sessions() as session:
            return session.scalars(query.order_by(AuditEvent.id)).all()

    return rows


@pytest.fixture
def told(client, denied):
    """What is written as soon as the web process writes it."""

    def rows():
        client.app.state.services.trail.denials.write()
        return denied()

    return rows


def facts(event):
    return (event.outcome, event.detail.get("reason"), event.route)


# What is refused


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ({}, "missing"),
        ({"X-API-Key": "short"}, "malformed"),
        ({"X-API-Key": "unknown-but-long-enough"}, "unknown"),
        ({"X-API-Key": "one-of-two-keys-sent", "Authorization": "Bearer another"}, "several"),
        ({"Authorization": "Basic dXNlcjpwYXNz"}, "not a bearer"),
    ],
)
def test_a_caller_without_a_key_that_works_is_told_with_the_reason(client, told, headers, reason):
    client.get("/jobs", headers=headers)
    (event,) = told()

    assert facts(event) == ("not_authenticated", reason, "GET /jobs")
    assert (event.actor, event.key_id, event.owner_id) == (None, None, None)


def revoked(session, key):
    keys.revoke(session, key, force=True)


def expired(session, key):
    session.execute(text("UPDATE api_keys SET expires_at = now() WHERE id = :id"), {"id": key.id})


@pytest.mark.parametrize(("end", "reason"), [(revoked, "revoked"), (expired, "expired")])
def test_a_key_that_worked_once_is_named(client, told, alice, sessions, end, reason):
    with sessions.begin() as session:
        key = session.scalars(select(ApiKey).where(ApiKey.prefix.startswith("stt_"))).one()
        end(session, key)
    client.get("/jobs", headers=alice)
    (event,) = told()

    assert (event.detail["reason"], event.actor, event.key_id) == (reason, key.prefix, key.id)


def test_a_key_without_the_scope_is_told(client, told, make_key):
    reader = make_key("alice", scopes=[Scope.JOBS_READ])
    answer = client.delete(f"/jobs/{uuid.uuid4()}", headers=reader)
    (event,) = told()

    assert facts(event) == ("not_allowed", "needs jobs:delete", "DELETE /jobs/{job_id}")
    assert reader["X-API-Key"].startswith(event.actor)
    assert event.request_id == answer.headers["x-request-id"]


@pytest.mark.security("authorisation", "asking for somebody else's job")
def test_asking_for_somebody_elses_job_is_told(client, told, alice, bob, jobs):
    job_id = jobs.submit("alice")
    for path in (f"/jobs/{job_id}", f"/jobs/{job_id}/result"):
        assert client.get(path, headers=bob).status_code == 404
    found = told()

    assert {event.route for event in found} == {"GET /jobs/{job_id}", "GET /jobs/{job_id}/result"}
    assert {event.job_id for event in found} == {job_id}
    assert all(bob["X-API-Key"].startswith(event.actor) for event in found)
    assert all(event.outcome == "not_found" for event in found)
    assert all(event.target_owner_id != event.owner_id for event in found)


def test_asking_for_somebody_elses_deleted_job_is_told(client, told, alice, bob, jobs, sessions):
    job_id = jobs.submit("alice")
    client.delete(f"/jobs/{job_id}", headers=alice)
    assert client.get(f"/jobs/{job_id}", headers=bob).status_code == 404
    (event,) = told()

    assert (event.outcome, event.job_id) == ("not_found", job_id)
    assert event.target_owner_id not in {None, event.owner_id}


@pytest.mark.parametrize("path", ["/jobs/{}", "/jobs/{}x", "/nowhere/{}"])
def test_what_there_is_not_is_nobodys_and_no_refusal(client, told, alice, path):
    assert client.get(path.format(uuid.uuid4()), headers=alice).status_code == 404

    assert told() == []


def test_an_operator_who_finds_no_error_was_not_refused(client, told, admin, jobs):
    job_id = jobs.submit()

    assert client.get(f"/admin/errors/{job_id}", headers=admin).status_code == 404
    assert told() == []


def test_a_key_sent_in_clear_is_told(make_settings, denied):
    with TestClient(create_app(make_settings(force_https=True))) as client:
        client.get("/jobs", headers={"X-API-Key": "an-operators-own-words"})

    (event,) = denied()
    assert event.outcome == "https_required"


def test_asking_too_often_is_no_refusal_of_ones_own_key(make_settings, alice, denied):
    settings = make_settings(rate_limit_requests=1)
    with TestClient(create_app(settings)) as client:
        statuses = [client.get("/jobs", headers=alice).status_code for _ in range(3)]

    assert statuses == [200, 429, 429]
    assert denied() == []


def test_it_is_written_by_itself(client, denied):
    client.get("/jobs")

    eventually(lambda: len(denied()) == 1)


def test_what_is_left_is_written_at_the_end(settings, denied):
    with TestClient(create_app(settings)) as client:
        for _ in range(5):
            client.get("/jobs")

    assert sum(event.count for event in denied()) == 5


# Floods


@pytest.mark.security("audit", "a flood of bad keys, over HTTP")
def test_a_flood_of_bad_keys_is_a_few_rows(settings, denied):
    with TestClient(create_app(settings)) as client:
        for number in range(FLOOD // 10):
            client.get("/jobs", headers={"X-API-Key": f"unknown-but-long-enough-{number}"})
    found = denied()

    assert sum(event.count for event in found) == FLOOD // 10
    assert len(found) <= 10
    assert {event.outcome for event in found} == {"not_authenticated", "rate_limited"}


@pytest.mark.security("audit", "10,000 refusals of one address")
def test_refusals_that_are_alike_are_two_rows_a_minute(sessions, denied):
    denials = Denials(sessions.begin, clock=FakeClock())
    for number in range(FLOOD):
        denials.note(MALLORY, NotAuthenticated(reason="unknown"), "unknown", None)
        if not number % 100:
            denials.write()
    denials.write(everything=True)

    assert [event.count for event in denied()] == [1, FLOOD - 1]


@pytest.mark.security("audit", "10,000 refusals of 10,000 addresses")
def test_refusals_of_many_addresses_are_bounded_and_all_are_counted(sessions, denied):
    denials = Denials(sessions.begin, clock=FakeClock())
    for number in range(FLOOD):
        somebody = Actor(name=None, address=f"10.0.{number // 256}.{number % 256}")
        denials.note(somebody, NotAuthenticated(reason="unknown"), "unknown", None)
        if not number % 100:
            denials.write()
    denials.write(everything=True)
    found = denied()

    assert len(found) <= 2 * (MAX_KINDS + 1)
    assert sum(event.count for event in found) == FLOOD
    assert sum(event.count for event in found if event.address is None) > FLOOD - 2 * MAX_KINDS


@pytest.mark.security("audit", "10,000 ids that are nobody's")
def test_guessing_ids_leaves_no_row_of_each(sessions, denied, jobs, alice):
    mine = jobs.submit("alice")
    denials = Denials(sessions.begin, clock=FakeClock())
    bob = Actor(name="stt_live_bob", owner_id=uuid.uuid4(), route="GET /jobs/{job_id}")
    denials.note(bob, NotFound(), None, mine)
    for _ in range(FLOOD):
        denials.note(bob, NotFound(), None, uuid.uuid4())
    denials.write(everything=True)
    found = denied()

    assert [event.count for event in found if event.job_id == mine] == [1]
    (rest,) = [event for event in found if event.job_id is None]
    assert (rest.detail["reason"], rest.count) == (OTHERS, FLOOD + 1 - MAX_UNKNOWN)


# Counting


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def tally(clock):
    return Tally(clock=clock)


KIND = Denial(actor=MALLORY, outcome="not_authenticated")


def counts(tally):
    return [row.count for row in tally.due()]


def test_the_first_is_written_at_once_and_the_rest_when_the_minute_is_over(tally, clock):
    tally.note(KIND, "first")
    assert counts(tally) == [1]

    for _ in range(3):
        tally.note(KIND, "later")
    assert counts(tally) == []
    clock.advance(WINDOW_SECONDS)
    assert counts(tally) == [3]
    assert counts(tally) == []


def test_the_next_one_after_that_is_written_at_once_again(tally, clock):
    tally.note(KIND, None)
    tally.due()
    clock.advance(WINDOW_SECONDS)
    tally.due()
    tally.note(KIND, "again")

    assert [row.request_id for row in tally.due()] == ["again"]


def test_what_was_put_back_is_counted_with_what_came_meanwhile(tally, clock):
    tally.note(KIND, "first", count=2)
    rows = tally.due()
    tally.note(KIND, "later")
    tally.put_back(rows)
    clock.advance(WINDOW_SECONDS)

    assert counts(tally) == [3]


def test_while_postgresql_is_away_refusals_are_counted_and_written_later(sessions, denied, clock):
    away = True

    def transaction():
        if away:
            raise DatabaseUnavailable
        return sessions.begin()

    denials = Denials(transaction, clock=clock)
    for _ in range(3):
        denials.note(MALLORY, NotAllowed(), None, None)
        denials.write()
    assert denied() == []

    away = False
    clock.advance(WINDOW_SECONDS)
    denials.write()
    assert Counter(event.count for event in denied()) == {3: 1}
