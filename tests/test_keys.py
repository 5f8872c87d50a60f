"""Keys: made, listed, changed, rotated and revoked."""

import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from sqlalchemy import Engine, func, text, update
from sqlalchemy.orm import Session, sessionmaker

import auth
import keys
from errors import ConflictError, InvalidRequest, LastAdminKey, NotAuthenticated, NotFound
from first_keys import FirstKeys
from keys import Grant
from models import ApiKey, Scope


@pytest.fixture
def sessions(emptied_engine: Engine) -> sessionmaker[Session]:
    return sessionmaker(emptied_engine, expire_on_commit=False)


@pytest.fixture
def session(sessions: sessionmaker[Session]) -> Iterator[Session]:
    with sessions.begin() as session:
        yield session


def test_two_keys_can_be_one_owners(session):
    _, first = keys.create(session, Grant(owner="alice"))
    _, second = keys.create(session, Grant(owner="alice"))

    assert first.owner_id == second.owner_id


def test_the_table_holds_no_key(emptied_engine, sessions):
    with sessions.begin() as session:
        key, _ = keys.create(session, Grant(owner="alice", note="a note"))
    with emptied_engine.connect() as connection:
        dump = str(connection.execute(text("SELECT * FROM api_keys")).all())

    assert key[len(auth.PREFIX) + auth.SHOWN_CHARS :] not in dump


def test_a_key_can_be_revoked_by_id(session):
    _, row = keys.create(session, Grant(owner="alice"))
    keys.revoke(session, keys.find_working(session, str(row.id)))
    session.refresh(row)

    assert row.revoked_at is not None


def test_revoking_needs_one_key_to_be_meant(session):
    keys.create(session, Grant(owner="alice"))
    keys.create(session, Grant(owner="alice"))

    with pytest.raises(InvalidRequest):
        keys.revoke(session, keys.find_working(session, auth.PREFIX))


@pytest.mark.parametrize("which", ["", "%", "stt_live_nothing", str(uuid.UUID(int=1))])
def test_revoking_what_is_not_there_is_refused(session, which):
    keys.create(session, Grant(owner="alice"))

    with pytest.raises(NotFound):
        keys.revoke(session, keys.find_working(session, which))


def test_keys_are_listed_by_their_owner(session):
    keys.create(session, Grant(owner="alice"))
    keys.create(session, Grant(owner="bob"))

    assert [key.owner.name for key in keys.everyone(session, owner="bob")] == ["bob"]


def test_owners_are_listed_with_their_working_keys(session):
    made = [keys.create(session, Grant(owner=owner))[1] for owner in ("bob", "alice", "alice")]
    keys.revoke(session, made[-1])

    assert [(o.name, o.working_keys) for o in keys.owners(session)] == [("alice", 1), ("bob", 1)]


def test_a_change_holds_at_the_next_call(session):
    secret, key = keys.create(session, Grant(owner="alice"))
    keys.change(session, key, {"scopes": [Scope.JOBS_READ], "may_use_high": False})
    caller = auth.authenticate(session, secret)

    assert caller.scopes == {Scope.JOBS_READ}
    assert not caller.may_use_high


def test_a_key_can_be_given_an_end(session):
    secret, key = keys.create(session, Grant(owner="alice"))
    keys.change(session, key, {"expires_at": func.now()})

    with pytest.raises(NotAuthenticated):
        auth.authenticate(session, secret)


# Rotation


def test_a_rotated_key_works_with_its_new_secret(session):
    _, key = keys.create(session, Grant(owner="alice"))

    assert auth.authenticate(session, keys.rotate(session, key)).key_id == key.id


def test_within_the_grace_the_secret_before_works_too(session):
    before, key = keys.create(session, Grant(owner="alice"))
    keys.rotate(session, key)

    assert auth.authenticate(session, before).key_id == key.id


@pytest.mark.security("authentication", "a rotated key after its grace")
def test_after_the_grace_the_secret_before_is_refused(session):
    before, key = keys.create(session, Grant(owner="alice"))
    keys.rotate(session, key, grace=timedelta(minutes=1))
    # now() is the transaction's: the grace ends in this very moment
    session.execute(update(ApiKey).values(previous_expires_at=func.now()))

    with pytest.raises(NotAuthenticated):
        auth.authenticate(session, before)


@pytest.mark.security("authentication", "a rotated key without grace")
def test_without_grace_the_secret_before_stops_at_once(session):
    before, key = keys.create(session, Grant(owner="alice"))
    keys.rotate(session, key, grace=timedelta())

    with pytest.raises(NotAuthenticated):
        auth.authenticate(session, before)


def test_a_second_rotation_ends_the_first_secret(session):
    first, key = keys.create(session, Grant(owner="alice"))
    second = keys.rotate(session, key)
    third = keys.rotate(session, key)

    assert auth.authenticate(session, second).key_id == auth.authenticate(session, third).key_id
    with pytest.raises(NotAuthenticated):
        auth.authenticate(session, first)


def test_all_else_of_a_rotated_key_stays(session):
    _, key = keys.create(session, Grant(owner="alice", scopes=[Scope.JOBS_READ], note="a note"))
    before = (key.id, key.owner_id, key.scopes, key.note, key.created_at)
    keys.rotate(session, key)

    assert (key.id, key.owner_id, key.scopes, key.note, key.created_at) == before


def test_whether_the_secret_before_is_still_used_is_seen(session):
    before, key = keys.create(session, Grant(owner="alice"))
    new = keys.rotate(session, key)
    auth.authenticate(session, new)
    session.refresh(key)
    unused = key.previous_used_at
    auth.authenticate(session, before)
    session.refresh(key)

    assert unused is None
    assert key.previous_used_at is not None


@pytest.mark.security("authentication", "both secrets of a revoked key")
def test_revoking_ends_both_secrets(session):
    before, key = keys.create(session, Grant(owner="alice"))
    new = keys.rotate(session, key)
    keys.revoke(session, key)

    for secret in (before, new):
        with pytest.raises(NotAuthenticated):
            auth.authenticate(session, secret)


def test_a_key_is_still_called_by_its_former_prefix(session):
    _, key = keys.create(session, Grant(owner="alice"))
    former = key.prefix
    keys.rotate(session, key)

    assert keys.find_working(session, former).id == key.id


def test_a_key_that_works_no_longer_is_not_rotated(session):
    _, key = keys.create(session, Grant(owner="alice"))
    keys.revoke(session, key)

    with pytest.raises(ConflictError):
        keys.rotate(session, key)


def test_keys_of_the_setting_are_not_rotated(sessions, session, tmp_path):
    FirstKeys(["an-operators-own-words"], tmp_path / "admin.key").ensure(sessions.begin)
    (key,) = keys.everyone(session)

    with pytest.raises(ConflictError):
        keys.rotate(session, key)


# The last key that can undo it

ADMIN = Grant(owner="root", scopes=tuple(Scope))
LESS = {
    "revoked": {"revoked_at": func.now()},
    "demoted": {"scopes": [Scope.JOBS_READ]},
    "given an end": {"expires_at": func.now() + timedelta(days=30)},
}


@pytest.mark.parametrize("less", LESS.values(), ids=LESS)
def test_the_last_admin_key_stays_unless_it_is_forced(session, less):
    _, key = keys.create(session, ADMIN)

    with pytest.raises(LastAdminKey):
        keys.change(session, key, less)
    keys.change(session, key, less, force=True)


@pytest.mark.parametrize("less", LESS.values(), ids=LESS)
def test_an_admin_key_beside_another_may_go(session, less):
    _, key = keys.create(session, ADMIN)
    keys.create(session, ADMIN)

    keys.change(session, key, less)


@pytest.mark.parametrize("end", ["revoked_at", "expires_at"])
def test_an_admin_key_that_works_no_longer_is_no_other_one(session, end):
    _, key = keys.create(session, ADMIN)
    _, other = keys.create(session, ADMIN)
    keys.change(session, other, {end: func.now()})

    with pytest.raises(LastAdminKey):
        keys.revoke(session, key)


def test_what_takes_nothing_from_the_last_admin_key_needs_no_force(session):
    _, key = keys.create(session, ADMIN)

    keys.change(session, key, {"note": "a note", "may_use_high": False})
    keys.rotate(session, key, grace=timedelta())


def test_other_keys_go_where_there_is_no_admin_key(session):
    _, key = keys.create(session, Grant(owner="alice"))

    keys.revoke(session, key)


def test_of_two_who_revoke_each_other_at_once_one_stays(sessions):
    with sessions.begin() as session:
        made = [keys.create(session, ADMIN)[1].id for _ in range(2)]

    def revoke(key_id: uuid.UUID) -> bool:
        try:
            with sessions.begin() as session:
                keys.revoke(session, keys.find(session, key_id))
        except LastAdminKey:
            return False
        return True

    with ThreadPoolExecutor(2) as executor:
        assert sorted(executor.map(revoke, made)) == [False, True]
