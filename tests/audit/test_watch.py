"""What a watch sees of a chain that is spoilt between two looks, and what a look costs."""

import pytest
from sqlalchemy import event, text

from audit import pruning, watch
from audit.chain import Fault
from audit.watch import AGAIN_SECONDS, Watch
from models import AuditEvent
from tests.fakes import FakeClock

#: Found at the next look, wherever the watch is with following.
AT_ONCE = {
    "the end cut off": ("DELETE FROM audit_events WHERE position > 7", Fault.CUT, 10),
    "all of it gone": ("DELETE FROM audit_events", Fault.CUT, 10),
    "the last one made anew": (
        "UPDATE audit_events SET sha256 = sha256('x') WHERE position = 10",
        Fault.CUT,
        10,
    ),
    "the beginning taken away": (
        "DELETE FROM audit_events WHERE position <= 3",
        Fault.MISSING,
        1,
    ),
}
#: Found when the watch comes by again.
LATER = {
    "changed": ("UPDATE audit_events SET actor = 'x' WHERE position = 4", Fault.CHANGED, 4),
    "taken out": ("DELETE FROM audit_events WHERE position = 4", Fault.MISSING, 4),
}


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def look(sessions, clock):
    """Look with one watch, each time in a transaction of its own."""
    watches: list[Watch] = []

    def once(*, may_be_pruned=False):
        if not watches:
            watches.append(Watch(may_be_pruned=may_be_pruned, clock=clock))
        with sessions.begin() as session:
            broken = watches[0].look(session)
        return None if broken is None else (broken.fault, broken.position)

    return once


@pytest.fixture
def ten(add, seal, look):
    add(10)
    seal()
    assert look() is None


def test_nothing_is_whole(look):
    assert look() is None


def test_what_is_added_is_followed_as_it_comes(ten, look, add, seal, tamper):
    add(3)
    seal()
    tamper("UPDATE audit_events SET actor = 'x' WHERE position = 12")

    assert look() == (Fault.CHANGED, 12)


@pytest.mark.security("audit", "events taken away, seen by maintenance within seconds")
@pytest.mark.parametrize("case", AT_ONCE)
def test_what_shows_without_following_is_found_at_once(case, ten, look, tamper):
    statement, fault, position = AT_ONCE[case]
    tamper(statement)

    assert look() == (fault, position)


@pytest.mark.parametrize("case", LATER)
def test_what_was_followed_is_followed_again(case, ten, look, tamper, clock):
    statement, fault, position = LATER[case]
    tamper(statement)
    before = look()
    clock.advance(AGAIN_SECONDS)

    assert (before, look()) == (None, (fault, position))


def test_an_end_that_grew_again_is_found(ten, look, tamper, add, seal):
    tamper("DELETE FROM audit_events WHERE position > 7")
    add(8)
    seal()

    assert look() == (Fault.CUT, 10)


@pytest.mark.parametrize("trigger", ["audit_events_guard", "audit_events_guard_all"])
def test_a_trigger_that_is_off_is_found(trigger, ten, look, sessions):
    with sessions.begin() as session:
        session.execute(text(f"ALTER TABLE audit_events DISABLE TRIGGER {trigger}"))
    found = look()
    with sessions.begin() as session:
        session.execute(text(f"ALTER TABLE audit_events ENABLE TRIGGER {trigger}"))

    assert found == (Fault.UNGUARDED, 0)


@pytest.mark.parametrize(("allowed", "found"), [(True, None), (False, (Fault.PRUNED, 10))])
def test_a_front_may_go_where_pruning_is_allowed(allowed, found, look, add, seal, sessions, tamper):
    add(10)
    seal()
    assert look(may_be_pruned=allowed) is None
    tamper("UPDATE audit_events SET at = at - interval '1 year'")
    with sessions.begin() as session:
        pruning.prune(session, keep=pruning.SHORTEST)

    assert look() == found


def test_a_look_has_an_end_however_long_the_chain_is(add, seal, look, sessions, monkeypatch):
    monkeypatch.setattr(watch, "EVENTS", 4)
    add(10)
    seal()
    read = []

    def loaded(*_):
        read.append(1)

    event.listen(AuditEvent, "load", loaded)
    try:
        counts = []
        for _ in range(4):
            look()
            counts.append(len(read))
            read.clear()
    finally:
        event.remove(AuditEvent, "load", loaded)

    assert counts == [4, 4, 2, 0]


def test_a_chain_that_takes_longer_than_an_hour_is_followed_to_its_end(
    add, seal, tamper, look, clock, monkeypatch
):
    monkeypatch.setattr(watch, "EVENTS", 4)
    add(10)
    seal()
    tamper("UPDATE audit_events SET actor = 'x' WHERE position = 9")
    found = []
    for _ in range(3):
        clock.advance(AGAIN_SECONDS)
        found.append(look())

    assert found == [None, None, (Fault.CHANGED, 9)]
