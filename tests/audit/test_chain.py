"""The chain of audit events: how it is made, and that no way of spoiling it goes unseen."""

import hashlib
import threading

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import ProgrammingError

from audit import chain
from audit.chain import BEGINNING, NOTHING, Broken, Fault, Head
from audit.events import CLI, record
from errors import InvalidRequest
from models import AuditAction, AuditEvent


def broken(fault, position):
    """Where it is broken, whatever event that is."""
    return (fault, position)


def told(verdict):
    found = verdict.broken
    return None if found is None else (found.fault, found.position)


def rows(sessions):
    with sessions() as session:
        return session.scalars(select(AuditEvent).order_by(AuditEvent.position)).all()


# Making it


def test_nothing_is_a_chain_too(verify):
    verdict = verify()

    assert (verdict.events, verdict.head, verdict.waiting, verdict.broken) == (
        0,
        BEGINNING,
        0,
        None,
    )


def test_events_wait_for_their_seal(add, verify):
    add(3)
    verdict = verify()

    assert (verdict.events, verdict.waiting, verdict.broken) == (0, 3, None)


def test_sealing_chains_them_in_their_order(add, seal, sessions):
    add(5)

    assert seal() == 5
    found = rows(sessions)
    assert [event.position for event in found] == [1, 2, 3, 4, 5]
    assert [event.detail["number"] for event in found] == [0, 1, 2, 3, 4]


def test_a_seal_is_the_digest_of_the_one_before_and_of_the_event(add, seal, sessions):
    add(2)
    seal()
    first, second = rows(sessions)

    digest = hashlib.sha256(NOTHING + chain.canonical(first, 1)).digest()
    assert first.sha256 == digest
    assert second.sha256 == hashlib.sha256(digest + chain.canonical(second, 2)).digest()


def test_what_is_sealed_is_every_column_but_the_seal(add, seal, sessions):
    add()
    seal()
    (event,) = rows(sessions)
    sealed = chain.canonical(event, 1).decode()

    for column in AuditEvent.__table__.columns:
        value = getattr(event, column.name)
        assert (f'"{column.name}":' in sealed) == (value is not None and column.name != "sha256")


def test_sealing_goes_on_where_it_ended(add, seal, verify):
    add(2)
    seal()
    add(3)
    seal()

    assert (verify().events, told(verify())) == (5, None)


def test_more_than_one_batch_is_sealed(add, seal, verify, monkeypatch):
    monkeypatch.setattr(chain, "BATCH", 2)
    monkeypatch.setattr(chain, "PAGE", 2)
    add(5)

    assert seal() == 5
    assert (verify().events, told(verify())) == (5, None)


def test_of_two_at_once_one_seals(add, sessions):
    add(2)
    with sessions.begin() as first, sessions.begin() as second:
        assert (chain.seal(first), chain.seal(second)) == (2, 0)


def test_many_that_seal_and_write_at_once_make_one_chain(add, seal, verify):
    threads = [threading.Thread(target=add, args=(20,)) for _ in range(4)]
    threads += [threading.Thread(target=seal) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seal()

    assert (verify().events, verify().waiting, told(verify())) == (80, 0, None)


def test_a_late_commit_takes_its_place_at_the_end(add, seal, verify, sessions):
    with sessions.begin() as late:
        add_late(late)
        add(2)
        seal()
    seal()

    assert [event.detail["number"] for event in rows(sessions)] == [0, 1, 99]
    assert told(verify()) is None


def add_late(session):
    record(session, CLI, AuditAction.QUEUE_PAUSED, detail={"number": 99})


# Spoiling it, past the trigger


@pytest.fixture
def ten(add, seal):
    add(10)
    seal()


CHANGES = {
    "id": "gen_random_uuid()",
    "at": "at + interval '1 microsecond'",
    "action": "'queue_resumed'",
    "outcome": "'not_allowed'",
    "actor": "'somebody else'",
    "key_id": "gen_random_uuid()",
    "owner_id": "gen_random_uuid()",
    "address": "'192.0.2.1'",
    "request_id": "'r'",
    "route": "'GET /jobs'",
    "job_id": "gen_random_uuid()",
    "target_key_id": "gen_random_uuid()",
    "target_owner_id": "gen_random_uuid()",
    "count": "2",
    "detail": "detail || '{\"number\": 77}'",
    "sha256": "sha256('x')",
}


def test_every_column_is_tried():
    assert {*CHANGES} == {*AuditEvent.__table__.columns.keys()} - {"position"}


@pytest.mark.security("audit", "an event that was changed")
@pytest.mark.parametrize("column", CHANGES)
def test_a_change_of_any_column_is_found(column, ten, tamper, verify):
    tamper(f"UPDATE audit_events SET {column} = {CHANGES[column]} WHERE position = 4")

    assert told(verify()) == broken(Fault.CHANGED, 4)


@pytest.mark.security("audit", "an event that was taken out of the middle")
def test_an_event_that_is_gone_is_missed(ten, tamper, verify):
    tamper("DELETE FROM audit_events WHERE position = 4")

    assert told(verify()) == broken(Fault.MISSING, 4)


@pytest.mark.security("audit", "an event that was taken out, and the rest moved up")
def test_moving_the_rest_up_does_not_hide_it(ten, tamper, verify):
    tamper("DELETE FROM audit_events WHERE position = 4")
    tamper("UPDATE audit_events SET position = position - 1000 WHERE position > 4")
    tamper("UPDATE audit_events SET position = position + 999 WHERE position < 0")

    assert told(verify()) == broken(Fault.CHANGED, 4)


@pytest.mark.security("audit", "the beginning taken away")
def test_a_front_that_is_gone_is_missed(ten, tamper, verify):
    tamper("DELETE FROM audit_events WHERE position <= 3")

    assert told(verify()) == broken(Fault.MISSING, 1)


@pytest.mark.security("audit", "two events that changed places")
def test_another_order_is_found(ten, tamper, verify):
    tamper("UPDATE audit_events SET position = 100 WHERE position = 4")
    tamper("UPDATE audit_events SET position = 4 WHERE position = 5")
    tamper("UPDATE audit_events SET position = 5 WHERE position = 100")

    assert told(verify()) == broken(Fault.CHANGED, 4)


@pytest.mark.security("audit", "an event that was put in between")
def test_an_event_that_was_put_in_is_found(ten, tamper, verify):
    tamper("UPDATE audit_events SET position = position + 1000 WHERE position > 4")
    tamper("UPDATE audit_events SET position = position - 999 WHERE position > 1000")
    tamper(
        "INSERT INTO audit_events (id, action, position, sha256)"
        " VALUES (gen_random_uuid(), 'queue_paused', 5, sha256('forged'))"
    )

    assert told(verify()) == broken(Fault.CHANGED, 5)


@pytest.mark.security("audit", "the end cut off")
def test_an_end_that_was_cut_off_shows_beside_a_head_that_was_noted(ten, tamper, verify, head):
    noted = head()
    tamper("DELETE FROM audit_events WHERE position > 7")

    assert told(verify()) is None
    assert told(verify(noted)) == broken(Fault.CUT, 10)


@pytest.mark.security("audit", "the end cut off and grown again")
def test_an_end_that_grew_again_shows_too(ten, tamper, verify, head, add, seal):
    noted = head()
    tamper("DELETE FROM audit_events WHERE position > 7")
    add(8)
    seal()

    assert told(verify()) is None
    assert told(verify(noted)) == broken(Fault.CUT, 10)


@pytest.mark.security("audit", "every seal computed anew")
def test_a_chain_that_was_made_anew_shows_beside_a_head(ten, tamper, verify, head, seal):
    noted = head()
    tamper("UPDATE audit_events SET actor = 'nobody' WHERE position = 1")
    tamper("UPDATE audit_events SET position = NULL, sha256 = NULL")
    seal()

    assert told(verify()) is None
    assert told(verify(noted)) == broken(Fault.CUT, 10)


def test_heads_of_a_whole_chain_are_right_for_ever(add, seal, verify, head):
    noted = [head()]
    for _ in range(3):
        add(2)
        seal()
        noted.append(head())

    assert told(verify(*noted)) is None


@pytest.mark.security("audit", "an event held back from being sealed")
def test_an_event_that_nobody_seals_is_told(ten, tamper, verify):
    tamper(
        "INSERT INTO audit_events (id, action, at)"
        " VALUES (gen_random_uuid(), 'queue_paused', now() - interval '11 minutes')"
    )

    assert told(verify()) == broken(Fault.UNSEALED, 0)
    assert verify().waiting == 1


@pytest.mark.security("audit", "the triggers switched off")
@pytest.mark.parametrize("trigger", ["audit_events_guard", "audit_events_guard_all"])
def test_a_trigger_that_is_off_is_told(trigger, ten, verify, sessions):
    def switch(how):
        with sessions.begin() as session:
            session.execute(text(f"ALTER TABLE audit_events {how} TRIGGER {trigger}"))

    switch("DISABLE")
    off = told(verify())
    switch("ENABLE")

    assert (off, told(verify())) == (broken(Fault.UNGUARDED, 0), None)


def test_the_first_broken_event_is_named(ten, tamper, verify, sessions):
    event = rows(sessions)[3]
    tamper("UPDATE audit_events SET count = 7 WHERE position IN (4, 8)")

    assert verify().broken == Broken(fault=Fault.CHANGED, position=4, event_id=event.id)


# The trigger


@pytest.mark.security("audit", "changing and deleting as the service itself")
@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit_events SET actor = 'nobody' WHERE position = 4",
        "UPDATE audit_events SET position = 11 WHERE position = 4",
        "UPDATE audit_events SET sha256 = sha256('x') WHERE position = 4",
        "UPDATE audit_events SET position = NULL, sha256 = NULL WHERE position = 4",
        "UPDATE audit_events SET position = 11, sha256 = '', actor = 'x' WHERE position IS NULL",
        "UPDATE audit_events SET actor = 'nobody' WHERE position IS NULL",
        "DELETE FROM audit_events WHERE position = 4",
        "DELETE FROM audit_events WHERE position IS NULL",
        "TRUNCATE audit_events",
        "INSERT INTO audit_events TABLE audit_events ON CONFLICT (id) DO UPDATE SET count = 9",
    ],
)
def test_the_database_refuses_what_is_not_adding(statement, ten, add, verify, sessions):
    add()
    with (
        pytest.raises(ProgrammingError, match="audit events are only added"),
        sessions.begin() as session,
    ):
        session.execute(text(statement))

    assert (verify().events, verify().waiting, told(verify())) == (10, 1, None)


# Heads


def test_a_head_is_read_as_it_is_written():
    head = Head(12, hashlib.sha256(b"x").digest())

    assert Head.parse(f" {head}\n") == head


@pytest.mark.parametrize("said", ["", "12", "12:ab", "-1:" + "0" * 64, "x:" + "0" * 64])
def test_what_is_no_head_is_refused(said):
    with pytest.raises(InvalidRequest):
        Head.parse(said)
