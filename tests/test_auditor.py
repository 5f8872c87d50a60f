"""The loop that seals audit events."""

import logging
from datetime import timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.orm import sessionmaker

from audit import chain
from audit.chain import Fault
from audit.events import CLI, record
from audit.watch import AGAIN_SECONDS
from auditor import NOTE_SECONDS, PRUNE_SECONDS, Auditor
from models import AuditAction
from tests.fakes import FakeClock


@pytest.fixture
def sessions(emptied_engine):
    return sessionmaker(emptied_engine, expire_on_commit=False)


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def auditor(sessions, clock):
    return Auditor(sessions, keep=timedelta(days=90), clock=clock)


@pytest.fixture
def add(sessions):
    def events(count=1):
        for _ in range(count):
            with sessions.begin() as session:
                record(session, CLI, AuditAction.QUEUE_PAUSED)

    return events


@pytest.fixture
def old(sessions):
    def event():
        with sessions.begin() as session:
            session.execute(
                text(
                    "INSERT INTO audit_events (id, action, at)"
                    " VALUES (gen_random_uuid(), 'queue_paused', now() - interval '1 year')"
                )
            )

    return event


@pytest.fixture
def heads(caplog):
    caplog.set_level(logging.INFO)

    def noted():
        return [line.head for line in caplog.records if line.message == "audit events sealed"]

    return noted


@pytest.fixture
def tamper(sessions):
    """Run a statement past the trigger, as a superuser can."""

    def run(statement):
        with sessions.begin() as session:
            session.execute(text("ALTER TABLE audit_events DISABLE TRIGGER USER"))
            session.execute(text(statement))
            session.execute(text("ALTER TABLE audit_events ENABLE TRIGGER USER"))

    return run


def verdict(sessions):
    with sessions() as session:
        return chain.verify(session)


def test_a_round_seals_all_that_waits(auditor, add, sessions, monkeypatch):
    monkeypatch.setattr(chain, "BATCH", 2)
    add(5)
    auditor.run()

    assert (verdict(sessions).events, verdict(sessions).waiting) == (5, 0)


def test_the_log_gets_the_head(auditor, add, sessions, heads):
    add(3)
    auditor.run()

    assert heads() == [str(verdict(sessions).head)]


def test_the_log_gets_a_head_once_in_a_while_and_only_if_it_grew(auditor, add, heads, clock):
    add()
    for _ in range(3):
        auditor.run()
    add()
    auditor.run()
    assert len(heads()) == 1

    clock.advance(NOTE_SECONDS)
    for _ in range(2):
        auditor.run()
    assert [head.partition(":")[0] for head in heads()] == ["1", "2"]


def test_old_events_are_deleted_once_in_a_while(auditor, old, sessions, clock):
    auditor.run()
    old()
    auditor.run()
    assert verdict(sessions).start.position == 0

    clock.advance(PRUNE_SECONDS)
    auditor.run()
    assert (verdict(sessions).start.position, verdict(sessions).broken) == (1, None)


def test_for_ever_is_for_ever(sessions, old):
    old()
    Auditor(sessions, keep=None).run()

    assert (verdict(sessions).events, verdict(sessions).start.position) == (1, 0)


def test_two_at_once_are_safe(sessions, add):
    auditors = [Auditor(sessions, keep=None) for _ in range(2)]
    for _ in range(3):
        add(2)
        for auditor in auditors:
            auditor.run()

    assert (verdict(sessions).events, verdict(sessions).broken) == (6, None)


# Watching the chain


@pytest.fixture
def look_again(auditor, clock):
    """Let a round go through all of it again."""

    def run():
        clock.advance(AGAIN_SECONDS)
        auditor.run()

    return run


def test_a_whole_chain_is_not_broken(auditor, add, look_again):
    add(5)
    auditor.run()
    look_again()

    assert auditor.broken is None


def test_a_pruned_chain_is_not_broken(auditor, add, old, look_again, sessions):
    old()
    auditor.run()
    add(2)
    look_again()

    assert (auditor.broken, verdict(sessions).start.position) == (None, 1)


@pytest.mark.security("audit", "an event that a superuser changed, seen by maintenance")
def test_an_event_that_was_changed_is_found(auditor, add, tamper, look_again):
    add(5)
    auditor.run()
    tamper("UPDATE audit_events SET actor = 'nobody' WHERE position = 3")
    look_again()

    assert (auditor.broken.fault, auditor.broken.position) == (Fault.CHANGED, 3)


def test_what_was_found_stays_and_is_told_once(auditor, add, tamper, look_again, caplog):
    add(5)
    auditor.run()
    tamper("UPDATE audit_events SET count = 7 WHERE position = 3")
    look_again()
    tamper("UPDATE audit_events SET count = 1 WHERE position = 3")
    for _ in range(2):
        look_again()

    assert auditor.broken is not None
    assert caplog.messages == ["audit chain is broken"]
    assert (caplog.records[0].fault, caplog.records[0].position) == ("changed", 3)


def test_the_next_process_finds_the_same(auditor, add, tamper, sessions):
    add(5)
    auditor.run()
    tamper("DELETE FROM audit_events WHERE position = 2")
    later = Auditor(sessions, keep=None)
    later.run()

    assert str(later.broken) == "missing at 2"


def test_a_broken_chain_is_sealed_all_the_same(auditor, add, tamper, look_again, sessions):
    add(5)
    auditor.run()
    tamper("UPDATE audit_events SET count = 7 WHERE position = 3")
    look_again()
    add()
    auditor.run()

    assert verdict(sessions).waiting == 0


def test_a_chain_that_was_begun_anew_is_whole(auditor, add, tamper, sessions):
    add(5)
    auditor.run()
    tamper("UPDATE audit_events SET count = 7 WHERE position = 3")
    tamper("TRUNCATE audit_events")
    add(2)
    later = Auditor(sessions, keep=None)
    later.run()

    assert (later.broken, verdict(sessions).events) == (None, 2)
