"""Who holds a key, and what they may do: its form, its hash, its end."""

import logging
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta

import pytest
from sqlalchemy import Engine, func, select, text, update
from sqlalchemy.orm import Session, sessionmaker

import auth
import keys
from auth import Principal
from errors import (
    NotAllowed,
    NotAuthenticated,
)
from keys import Grant
from models import ApiKey, Scope

A_DAY = timedelta(days=1)


@pytest.fixture
def sessions(emptied_engine: Engine) -> sessionmaker[Session]:
    return sessionmaker(emptied_engine, expire_on_commit=False)


@pytest.fixture
def session(sessions: sessionmaker[Session]) -> Iterator[Session]:
    with sessions.begin() as session:
        yield session


def now(session: Session) -> datetime:
    return session.scalars(select(func.now())).one()


def principal(*scopes: Scope) -> Principal:
    return Principal(
        owner_id=uuid.uuid4(),
        key_id=uuid.uuid4(),
        key_prefix="stt",
        key_sha256=b"\1" * 32,
        scopes=frozenset(scopes),
    )


def test_minted_keys_match_the_published_pattern():
    assert auth.KEY_PATTERN.fullmatch(auth.mint())


def test_minted_keys_differ():
    assert len({auth.mint() for _ in range(100)}) == 100


def test_a_minted_key_is_well_formed():
    assert auth.is_well_formed(auth.mint())


@pytest.mark.parametrize("place", range(len(auth.mint())))
def test_a_typo_anywhere_is_noticed_before_hashing(place):
    key = auth.mint()
    typo = key[:place] + ("x" if key[place] != "x" else "y") + key[place + 1 :]

    # without the prefix it could be an operator's own words
    assert not auth.is_well_formed(typo) or place < len(auth.PREFIX)


@pytest.mark.parametrize(
    "key", ["", "short", "k" * 257, "k" * 10**6, "clé-" * 8, "new\nline" * 4, "nul\0" * 8]
)
def test_impossible_keys_are_malformed(key):
    assert not auth.is_well_formed(key)


def test_a_key_names_its_owner(session):
    key, row = keys.create(session, Grant(owner="alice"))

    assert auth.authenticate(session, key).owner_id == row.owner_id


def test_a_key_carries_its_scopes(session):
    key, _ = keys.create(session, Grant(owner="alice", scopes=[Scope.JOBS_READ]))

    assert auth.authenticate(session, key).scopes == {Scope.JOBS_READ}


def test_a_key_says_whether_it_may_use_high(session):
    key, _ = keys.create(session, Grant(owner="alice", may_use_high=False))

    assert not auth.authenticate(session, key).may_use_high


def test_an_unknown_key_is_refused(session):
    with pytest.raises(NotAuthenticated):
        auth.authenticate(session, auth.mint())


def test_a_malformed_key_is_refused(session):
    with pytest.raises(NotAuthenticated):
        auth.authenticate(session, "é" * 40)


def test_a_revoked_key_is_refused(session):
    key, row = keys.create(session, Grant(owner="alice"))
    keys.revoke(session, keys.find_working(session, row.prefix))

    with pytest.raises(NotAuthenticated):
        auth.authenticate(session, key)


def test_a_key_is_refused_from_the_moment_it_expires(session):
    # now() is the transaction's: the key expires in this very moment
    key, _ = keys.create(session, Grant(owner="alice", expires_at=now(session)))

    with pytest.raises(NotAuthenticated):
        auth.authenticate(session, key)


def test_a_key_works_until_it_expires(session):
    key, _ = keys.create(session, Grant(owner="alice", expires_at=now(session) + A_DAY))

    assert auth.authenticate(session, key)


def refuse(session: Session, key: str) -> NotAuthenticated:
    with pytest.raises(NotAuthenticated) as caught:
        auth.authenticate(session, key)
    return caught.value


def bad_keys(session: Session) -> dict[str, str]:
    """A key of every kind that is refused, by the reason that the log gives."""
    expired, _ = keys.create(session, Grant(owner="alice", expires_at=now(session)))
    revoked, row = keys.create(session, Grant(owner="alice"))
    keys.revoke(session, row)
    rotated, row = keys.create(session, Grant(owner="alice"))
    keys.rotate(session, row, grace=timedelta())
    return {
        "malformed": "short",
        "unknown": auth.mint(),
        "expired": expired,
        "revoked": revoked,
        "rotated": rotated,
    }


@pytest.mark.security("authentication", "keys that are malformed, unknown, expired, revoked")
def test_every_refusal_reads_the_same(session):
    errors = [refuse(session, key) for key in bad_keys(session).values()]

    assert len({(error.message, str(error.data)) for error in errors}) == 1


def test_the_log_says_why_a_key_was_refused(session, caplog):
    caplog.set_level(logging.INFO)
    bad = bad_keys(session)
    for key in bad.values():
        refuse(session, key)

    assert [record.__dict__["reason"] for record in caplog.records] == list(bad)


def test_the_log_says_which_key_was_refused_and_never_the_key(session, caplog):
    caplog.set_level(logging.DEBUG)
    key, row = keys.create(session, Grant(owner="alice"))
    keys.revoke(session, row)
    refuse(session, key)

    assert caplog.records[-1].__dict__["key"] == row.prefix
    assert key not in str([record.__dict__ for record in caplog.records])


def test_the_first_use_is_noted(session):
    key, row = keys.create(session, Grant(owner="alice"))
    auth.authenticate(session, key)
    session.refresh(row)

    assert row.last_used_at is not None


def test_a_use_within_the_minute_is_not_written_again(session):
    key, row = keys.create(session, Grant(owner="alice"))
    just_now = select(text("now() - interval '50 seconds'")).scalar_subquery()
    session.execute(update(ApiKey).values(last_used_at=just_now))
    session.refresh(row)
    before = row.last_used_at
    auth.authenticate(session, key)
    session.refresh(row)

    assert row.last_used_at == before


def test_a_use_after_the_minute_is_written(session):
    key, row = keys.create(session, Grant(owner="alice"))
    earlier = select(text("now() - interval '70 seconds'")).scalar_subquery()
    session.execute(update(ApiKey).values(last_used_at=earlier))
    session.refresh(row)
    before = row.last_used_at
    auth.authenticate(session, key)
    session.refresh(row)

    assert before is not None
    assert row.last_used_at is not None
    assert row.last_used_at > before


def test_a_missing_scope_is_refused_by_name():
    with pytest.raises(NotAllowed, match="jobs:write"):
        principal(Scope.JOBS_READ).require(Scope.JOBS_WRITE)


def test_admin_reads_without_the_scope_for_it():
    principal(Scope.ADMIN).require(Scope.JOBS_READ)


def test_admin_writes_only_with_the_scope_for_it():
    with pytest.raises(NotAllowed):
        principal(Scope.ADMIN).require(Scope.JOBS_WRITE)


def test_admin_reaches_everybodys_jobs():
    assert principal(Scope.ADMIN).reach is None


def test_others_reach_their_own_jobs():
    caller = principal(Scope.JOBS_READ)

    assert caller.reach == caller.owner_id


def test_without_a_key_there_is_one_owner(session):
    assert auth.anonymous(session).owner_id == auth.anonymous(session).owner_id


def test_without_a_key_nobody_is_admin(session):
    assert not auth.anonymous(session).is_admin


def test_without_a_key_there_is_a_key_s_row_all_the_same(session):
    caller = auth.anonymous(session)

    assert session.get_one(ApiKey, caller.key_id).prefix == auth.ANONYMOUS


@pytest.mark.security("authentication", "the hash of the key that stands for none")
def test_nothing_that_is_sent_is_the_key_of_those_who_have_none(session):
    auth.anonymous(session)

    assert refuse(session, auth.ANONYMOUS + "-" * 8)
    assert refuse(session, auth.NO_SHA256.hex())


def test_without_a_key_nobody_is_admin_whatever_the_row_says(session):
    key = session.get_one(ApiKey, auth.anonymous(session).key_id)
    keys.change(session, key, {"scopes": list(Scope)})

    assert not auth.anonymous(session).is_admin


def test_what_may_be_done_without_a_key_can_be_narrowed(session):
    key = session.get_one(ApiKey, auth.anonymous(session).key_id)
    keys.change(session, key, {"scopes": [Scope.JOBS_READ]})

    assert auth.anonymous(session).scopes == {Scope.JOBS_READ}


def test_calls_without_a_key_can_be_revoked(session):
    keys.revoke(session, session.get_one(ApiKey, auth.anonymous(session).key_id))

    with pytest.raises(NotAuthenticated):
        auth.anonymous(session)


def test_first_calls_without_a_key_at_once_make_one_row(sessions):
    def call(_: int) -> uuid.UUID:
        with sessions.begin() as session:
            return auth.anonymous(session).key_id

    with ThreadPoolExecutor(4) as executor:
        assert len(set(executor.map(call, range(4)))) == 1
