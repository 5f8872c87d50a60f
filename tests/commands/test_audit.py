"""``cli.py audit``, as an operator types it; and what the other commands leave behind."""

import json
import subprocess
import sys
import uuid
from datetime import timedelta

import pytest
from sqlalchemy import text

import auth
import keys
from audit import chain, pruning
from audit.events import Actor, record
from keys import Grant
from models import AuditAction
from tests.recordings import PROJECT_DIR

PAUSED = {"detail": {"queues": ["high"]}}


@pytest.fixture
def add(sessions):
    def event(action=AuditAction.QUEUE_PAUSED, *, name="cli", **values):
        actor = {n: values.pop(n) for n in ("key_id", "owner_id", "address") if n in values}
        with sessions.begin() as session:
            record(session, Actor(name=name, **actor), action, **values)

    return event


@pytest.fixture
def seal(sessions):
    def all_of_them():
        with sessions.begin() as session:
            return chain.seal(session)

    return all_of_them


@pytest.fixture
def tamper(sessions):
    def run(statement):
        with sessions.begin() as session:
            session.execute(text("ALTER TABLE audit_events DISABLE TRIGGER USER"))
            session.execute(text(statement))
            session.execute(text("ALTER TABLE audit_events ENABLE TRIGGER USER"))

    return run


def listed(printed):
    return [line.split() for line in printed.splitlines()[1:]]


# Verifying


def test_a_whole_chain_is_verified(run, add, seal):
    for _ in range(3):
        add()
    seal()
    add()

    assert run("audit", "verify").splitlines()[0] == "3 events, 1 more wait to be sealed."


def test_nothing_is_whole_too(run):
    assert "head 0:" in run("audit", "verify")


@pytest.mark.security("audit", "a change, as the command tells it")
def test_a_broken_chain_is_told_with_the_event_and_ends_with_1(fail, add, seal, tamper):
    for _ in range(3):
        add()
    seal()
    tamper("UPDATE audit_events SET actor = 'nobody' WHERE position = 2")
    status, said = fail("audit", "verify")

    assert status == 1
    assert said.startswith("error: The chain is broken: the event at 2 (")


def test_the_exit_status_is_the_processs_own(run, add, seal, tamper, database_url, tmp_path):
    add()
    seal()
    tamper("DELETE FROM audit_events")
    done = subprocess.run(
        [sys.executable, "cli.py", "audit", "verify", "--head", "1:" + "0" * 64],
        cwd=PROJECT_DIR,
        env={"DATABASE_URL": database_url, "STATE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )

    assert (done.returncode, done.stdout.splitlines()[0]) == (
        1,
        "0 events, 0 more wait to be sealed.",
    )


def test_a_head_is_printed_and_taken(run, fail, add, seal, tamper):
    for _ in range(3):
        add()
    seal()
    head = run("audit", "head").strip()
    assert f"head {head}" in run("audit", "verify", "--head", head)
    tamper("DELETE FROM audit_events WHERE position = 3")
    status, said = fail("audit", "verify", "--head", head)

    assert (status, "at 3: its end was cut off" in said) == (1, True)


def test_a_head_that_is_none_is_wrong(fail):
    status, said = fail("audit", "verify", "--head", "x")

    assert (status, said) == (
        1,
        "error: A head is a number, a colon and 64 hexadecimal digits.\n",
    )


def test_programs_are_told_in_json(run, add, seal):
    add()
    seal()
    told = json.loads(run("audit", "verify", "--json"))

    assert told.pop("head").startswith("1:")
    assert told == {"events": 1, "waiting": 0, "begins_after": 0, "broken": None}


# Looking


def test_events_are_listed_the_latest_first(run, add):
    add(AuditAction.QUEUE_PAUSED, **PAUSED)
    add(AuditAction.QUEUE_RESUMED, **PAUSED)
    rows = listed(run("audit", "show"))

    assert [row[2] for row in rows] == ["queue_resumed", "queue_paused"]
    assert rows[0][4] == "cli"
    assert rows[0][-1] == "queues=high"


@pytest.fixture
def alice(sessions):
    """Alice's key."""
    with sessions.begin() as session:
        _, key = keys.create(session, Grant(owner="alice"))
        return key


@pytest.fixture
def some(add, alice, make_job, sessions):
    """Three events that differ in all that can be chosen."""
    with sessions.begin() as session:
        bob = auth.owner_id(session, "bob")
    job_id = make_job()
    add(AuditAction.JOB_SUBMITTED, name=alice.prefix, key_id=alice.id, owner_id=alice.owner_id)
    add(AuditAction.TRANSCRIPT_READ, name="x", owner_id=bob, address="192.0.2.1", job_id=job_id)
    with sessions.begin() as session:
        record(session, Actor(name="cli"), AuditAction.KEY_REVOKED, key_id=alice.id)
    return job_id


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (("--action", "transcript_read"), ["transcript_read"]),
        (("--owner", "bob"), ["transcript_read"]),
        (("--owner", "alice"), ["key_revoked", "transcript_read", "job_submitted"]),
        (("--key", "stt_live_"), ["job_submitted"]),
        (("--key", "cli"), ["key_revoked"]),
        (("--address", "192.0.2.1"), ["transcript_read"]),
        (("--since", "1h"), ["key_revoked", "transcript_read", "job_submitted"]),
        (("--until", "1h"), []),
        (("--limit", "1"), ["key_revoked"]),
    ],
)
def test_some_are_chosen(run, some, options, found):
    assert [row[2] for row in listed(run("audit", "show", *options))] == found


def test_those_of_a_job_and_of_a_key_are_chosen(run, some, alice):
    of_job = listed(run("audit", "show", "--job", str(some)))
    of_key = listed(run("audit", "show", "--key", str(alice.id)))

    assert [row[2] for row in of_job] == ["transcript_read"]
    assert [row[2] for row in of_key] == ["key_revoked", "job_submitted"]


def test_json_tells_all_of_an_event(run, some, seal):
    seal()
    event = json.loads(run("audit", "show", "--action", "transcript_read", "--json"))[0]

    assert (event["owner"], event["target_owner"], event["job_id"]) == ("bob", "alice", str(some))
    assert (event["position"], len(event["sha256"])) == (2, 64)


def test_refusals_are_listed(run, add):
    add()
    add(
        AuditAction.DENIED,
        name=None,
        address="192.0.2.66",
        outcome="not_authenticated",
        count=40,
        detail={"reason": "unknown"},
    )
    (row,) = listed(run("audit", "denied"))

    assert row[2:] == ["40", "not_authenticated", "unknown", "-", "192.0.2.66", "-", "-"]


# What the commands leave


@pytest.mark.parametrize(
    ("command", "action"),
    [
        (("keys", "create", "--owner", "dave"), "key_created"),
        (("keys", "change", "KEY", "--no-high"), "key_changed"),
        (("keys", "limit", "KEY", "--requests", "5"), "key_changed"),
        (("keys", "rotate", "KEY"), "key_rotated"),
        (("keys", "revoke", "KEY", "--force"), "key_revoked"),
        (("queues", "pause", "high"), "queue_paused"),
        (("queues", "resume", "all"), "queue_resumed"),
        (("jobs", "list"), "jobs_listed"),
        (("jobs", "show", "JOB"), "job_read"),
        (("jobs", "cancel", "JOB"), "job_cancelled"),
        (("errors", "list"), "jobs_listed"),
        (("errors", "show", "FAILED"), "error_read"),
        (("errors", "retry", "FAILED"), "error_retried"),
        (("errors", "retry", "--all"), "error_retried"),
        (("errors", "resolve", "FAILED"), "error_resolved"),
        (("errors", "resolve", "--all"), "error_resolved"),
        (("errors", "quarantine", "FAILED"), "error_quarantined"),
        (("errors", "release", "FAILED"), "error_released"),
    ],
)
def test_a_command_leaves_an_event(run, make_job, alice, command, action):
    ids = {"KEY": alice.prefix, "JOB": str(make_job()), "FAILED": str(make_job(failed=True))}
    run(*(ids.get(word, word) for word in command))
    (event,) = json.loads(run("audit", "show", "--json"))

    assert (event["action"], event["actor"], event["outcome"]) == (action, "cli", "done")
    for word, column in (("KEY", "target_key_id"), ("JOB", "job_id"), ("FAILED", "job_id")):
        if word in command:
            assert uuid.UUID(event[column])
            assert event["target_owner"] == "alice"


def test_what_a_command_was_refused_leaves_none(run, fail, make_job):
    fail("jobs", "cancel", str(uuid.uuid4()))
    fail("errors", "retry", str(make_job()))

    assert json.loads(run("audit", "show", "--json")) == []


def test_a_front_that_was_deleted_is_told_unless_it_was_meant(run, fail, seal, sessions):
    with sessions.begin() as session:
        for number, days in enumerate((200, 1)):  # events are sealed in the order of their ids
            session.execute(
                text(
                    "INSERT INTO audit_events (id, action, at) VALUES"
                    f" ('00000000-0000-7000-8000-00000000000{number}', 'queue_paused',"
                    f" now() - interval '{days} days')"
                )
            )
    seal()
    with sessions.begin() as session:
        assert pruning.prune(session, keep=timedelta(days=90)) == 1
    seal()
    status, said = fail("audit", "verify")

    assert (status, "--pruned" in said) == (1, True)
    assert "It begins after 1:" in run("audit", "verify", "--pruned")
