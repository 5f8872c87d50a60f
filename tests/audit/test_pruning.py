"""Deleting old events: only whole fronts, only what is old, and the chain stays whole."""

from datetime import timedelta

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import IntegrityError, ProgrammingError

from audit import chain, pruning
from audit.chain import Broken, Fault
from audit.events import CLI, record
from audit.pruning import SHORTEST
from models import AuditAction, AuditEvent

KEEP = timedelta(days=90)


@pytest.fixture
def old(sessions, seal):
    """Add events of so many days ago, sealed."""

    def add(*days):
        for number in days:
            with sessions.begin() as session:
                session.execute(
                    text(
                        "INSERT INTO audit_events (id, action, at) VALUES"
                        " (gen_random_uuid(), 'queue_paused', now() - :ago * interval '1 day')"
                    ),
                    {"ago": number},
                )
            seal()

    return add


@pytest.fixture
def prune(sessions, seal):
    def run(keep=KEEP):
        with sessions.begin() as session:
            pruned = pruning.prune(session, keep=keep)
        seal()
        return pruned

    return run


def positions(sessions):
    with sessions() as session:
        query = select(AuditEvent.position).order_by(AuditEvent.position)
        return list(session.scalars(query))


def test_what_is_older_goes_and_the_rest_stays(old, prune, sessions):
    old(200, 100, 91, 89, 1)

    assert prune() == 3
    assert positions(sessions) == [4, 5, 6]  # the sixth tells of it


def test_the_chain_is_whole_from_where_it_begins_then(old, prune, verify):
    old(200, 100, 1)
    prune()
    verdict = verify()

    assert (verdict.start.position, verdict.events, verdict.broken) == (2, 2, None)


def test_heads_that_were_noted_before_are_still_right(old, prune, verify, head):
    old(200, 100, 99, 1)
    noted = head()
    prune()

    assert verify(noted).broken is None


def test_pruning_again_goes_on(old, prune, verify):
    old(200, 100, 1)
    prune(timedelta(days=150))
    prune()

    assert (verify().start.position, verify().broken) == (2, None)


def test_nothing_is_pruned_where_nothing_is_old(old, prune, sessions):
    old(5, 1)

    assert prune() == 0
    assert positions(sessions) == [1, 2]


def test_an_old_one_behind_a_younger_one_stays(old, prune, sessions):
    old(200, 1, 200)

    assert prune() == 1
    assert positions(sessions) == [2, 3, 4]


def test_when_all_of_it_was_old_the_chain_goes_on(old, prune, verify, head, sessions):
    old(200, 100)
    noted = head()
    with sessions.begin() as session:
        assert pruning.prune(session, keep=KEEP) == 2
    assert head() == noted
    old(1)

    assert positions(sessions) == [3, 4]
    assert verify(noted).broken is None


def test_what_is_not_sealed_stays(sessions, prune, tamper):
    tamper(
        "INSERT INTO audit_events (id, action, at)"
        " VALUES (gen_random_uuid(), 'queue_paused', now() - interval '1 year')"
    )

    assert prune() == 0


def test_more_than_a_batch_is_pruned_in_parts(old, prune, verify, monkeypatch):
    monkeypatch.setattr(pruning, "BATCH", 2)
    old(200, 199, 198, 1)

    assert [prune(), prune(), prune()] == [2, 1, 0]
    assert verify().broken is None


@pytest.mark.security("audit", "deleting one's own traces as pruning does")
def test_the_database_lets_go_of_nothing_young_whatever_an_event_says(old, sessions, verify):
    old(200, 1)
    detail = f'{{"position": 2, "sha256": "{"0" * 64}"}}'
    statements = (
        "INSERT INTO audit_events (id, action, detail)"
        f" VALUES (gen_random_uuid(), 'audit_pruned', '{detail}');"
        "DELETE FROM audit_events WHERE position <= 2"
    )
    with (
        pytest.raises(ProgrammingError, match="audit events are only added"),
        sessions.begin() as session,
    ):
        session.connection().exec_driver_sql(statements)

    assert verify().events == 2


def test_what_the_database_lets_go_of_is_what_the_code_says(old, prune, sessions):
    old(SHORTEST.days + 1, SHORTEST.days - 1)

    assert prune(SHORTEST) == 1


@pytest.mark.security("audit", "a front taken away without a word")
def test_a_front_that_nothing_tells_of_is_missed_after_pruning_too(old, prune, tamper, verify):
    old(200, 100, 1, 1)
    prune()
    tamper("DELETE FROM audit_events WHERE position = 3")
    found = verify().broken

    assert found is not None
    assert (found.fault, found.position) == (Fault.MISSING, 3)


@pytest.mark.security("audit", "an event of pruning that never was")
def test_a_lie_about_pruning_confuses_nobody(old, prune, verify, sessions, seal):
    old(200, 100, 1)
    prune()
    with sessions.begin() as session:
        for position in (1, 2, 3, 10**17):
            detail = {"position": position, "sha256": "0" * 64}
            record(session, CLI, AuditAction.AUDIT_PRUNED, detail=detail)
    seal()

    assert (verify().start.position, verify().broken) == (2, None)


@pytest.mark.security("audit", "an event of pruning that cannot be read")
@pytest.mark.parametrize(
    "detail",
    [
        {},
        {"position": "x", "sha256": "0" * 64},
        {"position": 0, "sha256": "0" * 64},
        {"position": 5},
    ],
)
def test_what_does_not_say_what_was_pruned_is_refused(detail, sessions):
    with pytest.raises(IntegrityError, match="pruned_says_where"), sessions.begin() as session:
        record(session, CLI, AuditAction.AUDIT_PRUNED, detail=detail)


def test_pruning_is_an_event(old, prune, sessions):
    old(200, 1)
    prune()
    with sessions() as session:
        query = select(AuditEvent).where(AuditEvent.action == AuditAction.AUDIT_PRUNED)
        event = session.scalars(query).one()

    assert (event.actor, event.detail["position"], event.position) == ("maintenance", 1, 3)


@pytest.mark.security("audit", "a front that somebody deleted as old where nothing is")
def test_a_front_that_nobody_was_to_delete_is_a_fault(old, prune, sessions):
    old(200, 150, 1)
    prune()
    with sessions() as session:
        asked, unasked = (
            chain.verify(session, may_be_pruned=may_be_pruned) for may_be_pruned in (True, False)
        )

    assert asked.broken is None
    assert unasked.broken == Broken(fault=Fault.PRUNED, position=2)
